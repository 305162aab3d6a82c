"""A run folder as a training run leaves it, made without training, for tests of figures and reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format, timestamp_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.transform import default_spec
from neurogate_trainer.evaluation.calibrate import reliability_bins
from neurogate_trainer.evaluation.metrics import compute_metrics, metrics_message
from neurogate_trainer.progress import Reporter
from neurogate_trainer.report.figures import draw_figures

from neurogate_testing.predictions import make_predictions

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def stripes(path: str) -> npt.NDArray[np.uint8]:
    """A small picture that differs from path to path, as the figures' loader gives it."""
    wave = np.sin(np.linspace(0, 3 + sum(path.encode()) % 40, 48))
    return np.repeat((127 * (1 + np.outer(wave, wave)))[..., None], 3, axis=2).astype(np.uint8)


def ramps(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Maps of four classes that differ, as the figures' explainer gives them."""
    return np.linspace(0, 1, len(images) * 64, dtype=np.float32).reshape(len(images), 4, 4, 4)


def make_run(folder: Path, *, count: int = 160) -> None:
    """Write every file that the report reads, figures included, into `folder`."""
    predictions = make_predictions(count=count)
    metrics = compute_metrics(predictions, bootstrap=100, abstain_below=0.8, target_risk=0.02)
    generator = np.random.default_rng(1)
    sources = {
        name: generator.gamma(shape, 1.0, 30).astype(np.float32) + 8
        for name, shape in (("digits", 20.0), ("noise", 30.0), ("rotated_heads", 6.0))
    }
    metrics["ood"] = {
        "method": "mahalanobis",
        "threshold": 15.0,
        "auroc": 0.97,
        "accepted": float((predictions.ood_score <= 15.0).mean()),
        "sources": {
            name: {"support": len(scores), "auroc": 0.96, "flagged": float((scores > 15.0).mean())}
            for name, scores in sources.items()
        },
    }
    bins = reliability_bins(predictions.probabilities, predictions.labels)
    calibration = {
        "temperature": 1.31,
        "ece_before": 0.081,
        "ece_after": 0.032,
        "abstain_below": 0.8,
        "target_risk": 0.02,
        "reliability_before": bins,
        "reliability_after": bins,
    }
    history = [
        {
            "epoch": epoch,
            "phase": "head" if epoch < 2 else "fine-tune",
            "loss": 1.6 * 0.8**epoch,
            "accuracy": 1 - 0.5 * 0.8**epoch,
            "val_loss": 1.7 * 0.84**epoch,
            "val_accuracy": 0.95 - 0.5 * 0.8**epoch,
            "val_macro_f1": 0.94 - 0.5 * 0.8**epoch - 0.02 * (epoch == 7),
            "learning_rate": 1e-3 if epoch < 2 else 1e-4 * 0.8**epoch,
            "seconds": 11.5,
        }
        for epoch in range(8)
    ]
    images = [
        {"path": path, "class": path.split("/")[1], "sha256": f"{number:064x}"}
        for number, path in enumerate(predictions.paths)
    ]
    records: dict[str, Any] = {
        "metrics": metrics,
        "calibration": calibration,
        "history": history,
        "ood": {
            "method": "mahalanobis",
            "threshold": 15.0,
            "auroc": 0.97,
            "candidates": {"mahalanobis": {"auroc": 0.97}, "energy": {"auroc": 0.91}},
        },
        "config": {"learning_rate": 1e-4, "dropout": [0.3, 0.2]},
        "environment": {"python": "3.11.2", "cpu_count": 2},
        "splits": {
            "seed": 0,
            "train": images,
            "validation": images[:40],
            "test": images,
            "dropped": [{**images[0], "reason": f"exact copy of {images[1]['path']}"}],
        },
        "audit": {
            "counts": {
                "exact_duplicate_sets": 1,
                "exact_duplicate_files": 2,
                "near_duplicate_pairs": 3,
                "class_conflicts": 0,
                "leaking_training_images": 0,
                "groups": 120,
                "largest_group": 4,
            }
        },
        "dataset_stats": {"name": "phantom"},
        "export": {"images": 256, "max_probability_difference": 2.1e-7, "same_top_1": True},
        "published": {"model": "brain_tumor", "version": 3, "manifest_digest": "ab" * 32},
        "manifest": json_format.MessageToDict(_manifest(metrics)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in records.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    draw_figures(
        folder,
        predictions,
        metrics,
        foreign=sources,
        load=stripes,
        explain=ramps,
        reporter=Reporter(),
    )


def _manifest(metrics: dict[str, Any]) -> manifest_pb2.ModelManifest:
    return manifest_pb2.ModelManifest(
        manifest_revision=1,
        model_name="brain_tumor",
        version=3,
        created_at=timestamp_pb2.Timestamp(seconds=1_790_000_000),
        model_digest="cd" * 32,
        files=[manifest_pb2.FileDigest(path="saved_model.pb", size_bytes=123_456, sha256="ef" * 32)],
        classes=[
            manifest_pb2.ModelClass(index=index, id=name, display_name=name.capitalize())
            for index, name in enumerate(metrics["classes"])
        ],
        transform=default_spec(),
        metrics=metrics_message(metrics, 0.97),
        lineage=manifest_pb2.Lineage(
            run_id="run-1",
            dataset="phantom",
            dataset_digest="12" * 32,
            splits=manifest_pb2.SplitCounts(train=1120, validation=240, test=metrics["support"]),
            source_commit="0123abc",
            base_weights="offline-imagenet",
            base_weights_digest="34" * 32,
            hyperparameters={"learning_rate": "0.0001", "epochs": "15"},
            packages={"keras": "3.15.0", "tensorflow": "2.21.0"},
        ),
        notice="Research only.",
    )
