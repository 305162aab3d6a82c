"""Sound manifests and model versions, small enough to make in every test."""

from __future__ import annotations

import hashlib
from pathlib import Path

from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import MANIFEST_REVISION, model_digest
from neurogate_core.preprocessing.transform import default_spec, pixels_digest, transform

from .images import sample

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def sound_manifest(*, model: str = "brain_tumor", version: int = 1) -> manifest_pb2.ModelManifest:
    """A complete manifest of a version with one file, `saved_model.pb` holding b"graph"."""
    manifest = manifest_pb2.ModelManifest(
        manifest_revision=MANIFEST_REVISION,
        model_name=model,
        version=version,
        transform=default_spec(32, 32),
        notice="For tests.",
    )
    manifest.created_at.FromSeconds(1_760_000_000)
    manifest.files.add(path="saved_model.pb", size_bytes=5, sha256=hashlib.sha256(b"graph").hexdigest())
    manifest.model_digest = model_digest(manifest.files)
    manifest.calibration.temperature = 1.25
    manifest.calibration.ece_before = 0.08
    manifest.calibration.ece_after = 0.02
    manifest.thresholds.abstain_below = 0.6
    manifest.thresholds.out_of_distribution_above = 12.5
    manifest.thresholds.ood_method = "mahalanobis"
    manifest.metrics.support = 40
    manifest.metrics.accuracy = 0.9
    manifest.metrics.accuracy_ci_low = 0.8
    manifest.metrics.accuracy_ci_high = 0.97
    manifest.lineage.run_id = "run-1"
    manifest.lineage.base_weights = "random"
    manifest.lineage.packages["tensorflow"] = "2.21.0"
    manifest.lineage.packages["keras"] = "3.15.0"
    image = sample("PNG", "L")
    digest = pixels_digest(transform(image, manifest.transform))
    for index, name in enumerate(CLASSES):
        manifest.classes.add(index=index, id=name, display_name=name.capitalize())
        manifest.metrics.per_class.add(
            class_id=name, support=10, precision=0.9, recall=0.9, f1=0.9, roc_auc=0.95
        )
        probabilities = [0.1] * len(CLASSES)
        probabilities[index] = 0.7
        manifest.goldens.add(name=f"{name}-0", image=image, pixels_sha256=digest, probabilities=probabilities)
    return manifest


def fill_version(folder: Path, *, graph: bytes = b"graph") -> None:
    """Writes the files of a version, all but the manifest."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(graph)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(range(256)) * 4)
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"warm")
