"""Does the exported graph answer as a plain export does?

The network of a training run on its whole sealed test split: through the version that the run has published,
and through a plain `keras.Model.export` of the checkpoint that this version was made of.

    python bench/export_accuracy.py demo/run
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import neurogate_trainer.training.augment  # noqa: F401 - the checkpoint's layers
import numpy as np
import tensorflow as tf
from export_cpu import export_plain
from neurogate_bench import machine, results
from neurogate_bench.stats import figure
from neurogate_core.manifest import read_manifest
from neurogate_gateway.release.sealed_images import load_images
from neurogate_trainer.evaluation.evaluation_set import EVALUATION_FILE
from neurogate_trainer.evaluation.saved_model import SavedModel, decode_batches
from neurogate_trainer.published import published_version
from neurogate_trainer.training.train import BEST_FILE
from scipy.special import softmax

BATCH = 32


def plain_probabilities(checkpoint: Path, batches: list[np.ndarray]) -> np.ndarray:
    """What a plain export of a checkpoint answers, float32 [N, C]."""
    model = keras.models.load_model(checkpoint, compile=False)
    with tempfile.TemporaryDirectory() as folder:
        loaded, name = export_plain(model, Path(folder))
        serve = loaded.signatures["serving_default"]
        parts = [serve(**{name: tf.constant(pixels.astype(np.float32))}) for pixels in batches]
        return np.concatenate([next(iter(part.values())).numpy() for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder that has published a version")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    began, started_at, load = time.monotonic(), machine.now(), machine.load_average()
    version = published_version(arguments.run)
    manifest = read_manifest(version)
    images = load_images(arguments.run / EVALUATION_FILE).images
    paths = [image.path for image in images]
    batches = list(decode_batches(paths, manifest.transform, batch_size=BATCH))
    served = SavedModel(version)
    logits = np.concatenate([served(pixels)["logits"] for pixels in batches])
    # The version's own probabilities are calibrated; the plain export knows nothing of the temperature.
    ours = softmax(logits.astype(np.float64), axis=1)
    plain = plain_probabilities(arguments.run / "checkpoint" / BEST_FILE, batches)
    difference = float(np.abs(ours - plain).max())
    same = int((ours.argmax(axis=1) == plain.argmax(axis=1)).sum())
    positions = {entry.id: entry.index for entry in manifest.classes}
    truth = np.array([positions[image.class_id] for image in images])
    right = {
        name: float((answers.argmax(axis=1) == truth).mean())
        for name, answers in (("exported", ours), ("plain", plain))
    }
    result = results.Result(
        schema=results.SCHEMA,
        scenario="export_accuracy",
        title="The exported graph's answers",
        question="Does the exported graph answer as a plain export of the same network does, image by image?",
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend="none",
        machine=machine.describe_machine(sorted(os.sched_getaffinity(0))),
        versions=machine.describe_versions(),
        source=machine.describe_source(),
        load_average_at_start=load,
        settings={
            "images": len(images),
            "image_size": int(batches[0].shape[1]),
            "data": manifest.lineage.dataset,
        },
        commands={"all": "python bench/export_accuracy.py demo/run"},
        figures=[
            figure("same class", "answers", "images", [same]),
            figure("largest difference", "probability", "", [difference]),
            *(figure(f"{name}, right", "accuracy", "", [value]) for name, value in right.items()),
        ],
        checks={},
        targets=[
            results.target("same class on the whole test split", ">=", len(images), same, "images"),
            results.target("largest difference of a probability", "<=", 1e-3, difference),
        ],
        notes=["Through TensorFlow in this process: the answers do not depend on the server."],
        void=[],
        details={},
    )
    print(results.save(result, arguments.results))
    print(f"{same} of {len(images)} images: same class; largest difference of a probability {difference:.2g}")


if __name__ == "__main__":
    main()
