"""What a run publishes and what it keeps of the publication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import ManifestError, manifest_digest, read_manifest, serialize_manifest
from neurogate_core.names import images_digest
from neurogate_core.repository import ModelRepository, PublishedVersion

from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.index import DatasetIndex
from neurogate_trainer.data.splits import Splits
from neurogate_trainer.model.weights import InitialWeights
from neurogate_trainer.training import environment
from neurogate_trainer.training.retraining import Retraining
from neurogate_trainer.training.run_folder import RunFolder

from .version import model_classes

NOTICE: Final = (
    "For research and teaching only. Not a medical device: it must not be used for diagnosis, treatment or "
    "any other decision about a patient. It knows single MRI slices of the classes named here, nothing else."
)
PHANTOM_NOTICE: Final = (
    " Trained and tested on computer-made images with synthetic lesions: its figures say nothing about real "
    "images."
)


def draft_manifest(
    run_id: str,
    *,
    config: TrainConfig,
    spec: manifest_pb2.TransformSpec,
    index: DatasetIndex,
    splits: Splits,
    weights: InitialWeights,
    calibration: Mapping[str, Any],
    ood: Mapping[str, Any],
    retraining: Retraining | None = None,
) -> manifest_pb2.ModelManifest:
    """The manifest's part that is known before the export: what the model is and where it comes from.

    `calibration` and `ood` are what calibration.json and ood.json hold.
    """
    digests = [record.sha256 for records in splits.parts().values() for record in records]
    phantom = "phantom" in index.name.lower()
    return manifest_pb2.ModelManifest(
        classes=model_classes(index.classes),
        transform=spec,
        calibration=manifest_pb2.Calibration(
            **{name: calibration[name] for name in ("temperature", "ece_before", "ece_after")}
        ),
        thresholds=manifest_pb2.DecisionThresholds(
            abstain_below=calibration["abstain_below"],
            target_risk=calibration["target_risk"],
            out_of_distribution_above=ood["threshold"],
            ood_method=ood["method"],
        ),
        lineage=manifest_pb2.Lineage(
            run_id=run_id,
            dataset=index.name,
            dataset_digest=images_digest(digests),
            splits=manifest_pb2.SplitCounts(
                **{name: len(records) for name, records in splits.parts().items()}
            ),
            source_commit=environment.source_commit(),
            base_weights=weights.source,
            base_weights_digest=weights.digest,
            hyperparameters=config.flat(),
            packages=environment.packages(),
            parent_version=retraining.parent_version if retraining is not None else None,
            examples_digest=retraining.examples_digest if retraining is not None else "",
            gate_policy=retraining.gate_policy if retraining is not None else "",
        ),
        notice=NOTICE + (PHANTOM_NOTICE if phantom else ""),
    )


def already_published(run_id: str, versions: ModelRepository, model: str) -> PublishedVersion | None:
    """The version that a run has published, though it may have been killed before it could note that."""
    for version in reversed(versions.versions(model)):
        path = versions.path(model, version)
        try:
            manifest = read_manifest(path)
        except (ManifestError, OSError):
            continue
        # A copy that somebody has made by hand has another number than its manifest.
        own = (manifest.model_name, manifest.version) == (model, version)
        if own and manifest.lineage.run_id == run_id:
            return PublishedVersion(model, version, path, manifest)
    return None


def record_published(folder: RunFolder, published: PublishedVersion) -> None:
    """Writes manifest.json (without the recorded images) and published.json."""
    public = manifest_pb2.ModelManifest()
    public.CopyFrom(published.manifest)
    for golden in public.goldens:
        golden.ClearField("image")
    folder.write("manifest.json", json_format.MessageToDict(public, preserving_proto_field_name=True))
    digest = manifest_digest(serialize_manifest(published.manifest))
    folder.write(
        "published.json",
        {
            "model": published.model,
            "version": published.version,
            "path": str(published.path),
            "manifest_digest": digest,
            "model_digest": published.manifest.model_digest,
        },
    )
