"""Evaluation on the sealed test split, through the exported SavedModel and never the Keras object.

What is measured is what will be served: the same files, the same signature, and images decoded by the one
transform with the version's own specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_core.files import replace_json

from neurogate_trainer.data.index import DatasetIndex, ImageRecord
from neurogate_trainer.data.splits import Splits
from neurogate_trainer.progress import Reporter

from .localisation import measure_localisation
from .metrics import Json, compute_metrics, read_record
from .ood import auroc
from .predictions import Predictions, PredictionsError
from .saved_model import EvaluationError, Pixels, SavedModel, decode_batches

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate_run` found.

    Attributes:
        metrics: The content of metrics.json (see `neurogate_trainer.evaluation.metrics`).
        predictions: Answers on the test split.
        foreign: `ood_score` of the foreign images, float32 [M], by kind.
        pointed: Whether the map points at the lesion, by place in the predictions, for those measured.
        maps: Evidence maps, float32 [N, h, w, C], of images uint8 [N, H, W, 3].
    """

    metrics: Json
    predictions: Predictions
    foreign: Mapping[str, Scores]
    pointed: Mapping[int, bool]
    maps: Callable[[Pixels], Scores]

    @property
    def ood_auroc(self) -> float | None:
        """AUROC of `ood_score` between test split and foreign images, mean over their kinds; None without."""
        value: float | None = (self.metrics["ood"] or {}).get("auroc")
        return value


def predict_saved_model(
    version_dir: Path,
    records: Sequence[ImageRecord],
    root: Path,
    spec: manifest_pb2.TransformSpec,
    *,
    classes: Sequence[str],
    batch_size: int = 32,
    reporter: Reporter | None = None,
) -> Predictions:
    """The exported graph's answers to the given images.

    The result has the order of the records; `classes` are the class ids in the order of the graph's outputs.

    Raises:
        EvaluationError: The version cannot be called, a file is gone, damaged or of an unknown class, or the
            answers are not probabilities.
        ValueError: No records.
    """
    if not records:
        raise ValueError("there is no image to evaluate; the split is empty")
    positions = {name: index for index, name in enumerate(classes)}
    unknown = sorted({record.class_id for record in records} - positions.keys())
    if unknown:
        raise EvaluationError(f"images of the classes {unknown}, but the model knows {list(classes)} only")
    model = SavedModel(version_dir)
    reporter = reporter or Reporter()
    reporter.phase("evaluate", total=len(records), unit="images")
    batches: list[Json] = []
    paths = [root / record.path for record in records]
    for pixels in decode_batches(paths, spec, batch_size=batch_size):
        batches.append(model(pixels))
        reporter.advance(len(pixels))

    def column(name: str) -> npt.NDArray[np.float32]:
        return np.concatenate([batch[name] for batch in batches])

    try:
        return Predictions(
            classes=tuple(classes),
            paths=tuple(record.path for record in records),
            labels=np.array([positions[record.class_id] for record in records], dtype=np.int64),
            probabilities=column("probabilities"),
            logits=column("logits"),
            ood_score=column("ood_score"),
        )
    except PredictionsError as error:
        raise EvaluationError(f"the answers of {version_dir} do not make sense: {error}") from error


def ood_scores(model: SavedModel, images: Pixels, *, batch_size: int = 32) -> Scores:
    """The exported graph's `ood_score`, float32 [N], of decoded images, uint8 [N, height, width, 3]."""
    starts = range(0, len(images), batch_size)
    parts = [model(images[start : start + batch_size], ("ood_score",))["ood_score"] for start in starts]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def evaluate_run(
    run_dir: Path,
    version_dir: Path,
    splits: Splits,
    index: DatasetIndex,
    *,
    spec: manifest_pb2.TransformSpec,
    foreign: Mapping[str, Pixels] | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    batch_size: int = 32,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measures a version on the test split; writes metrics.json and predictions.npz into the run folder.

    `foreign` are decoded images that are no brain MRI slices, uint8 [N, height, width, 3] by kind, at least
    one of each. `bootstrap` is the number of resamples.

    The abstention threshold comes from the run folder's calibration.json, the out-of-distribution threshold
    from its ood.json; what is missing there is left out of the metrics. To the metrics that
    `neurogate_trainer.evaluation.metrics` describes comes "ood": null, or {method, threshold, auroc (mean
    over the sources), accepted (share of the test split), sources: {name: {support, auroc, flagged}}}. And
    "localisation", as `neurogate_trainer.evaluation.localisation_summary` describes it.

    Raises:
        EvaluationError: As `predict_saved_model`.
        DatasetError: A mask is damaged.
        ValueError: The test split is empty.
    """
    reporter = reporter or Reporter()
    predictions = predict_saved_model(
        version_dir,
        splits.test,
        index.root,
        spec,
        classes=index.classes,
        batch_size=batch_size,
        reporter=reporter,
    )
    calibration = read_record(run_dir / "calibration.json")
    metrics = compute_metrics(
        predictions,
        seed=seed,
        bootstrap=bootstrap,
        abstain_below=calibration.get("abstain_below"),
        target_risk=calibration.get("target_risk"),
    )
    model = SavedModel(version_dir)
    sources: dict[str, Scores] = {
        name: ood_scores(model, images, batch_size=batch_size) for name, images in (foreign or {}).items()
    }
    metrics["ood"] = _ood_metrics(predictions.ood_score, sources, read_record(run_dir / "ood.json"))
    localisation = measure_localisation(
        model,
        predictions,
        splits.test,
        index.root,
        spec,
        seed=seed,
        bootstrap=bootstrap,
        reporter=reporter,
    )
    metrics["localisation"] = localisation.metrics
    predictions.save(run_dir / "predictions.npz")
    replace_json(run_dir / "metrics.json", metrics)
    return Evaluation(
        metrics,
        predictions,
        foreign=sources,
        pointed=localisation.pointed,
        maps=lambda images: model(images, ("gradcam",))["gradcam"],
    )


def _ood_metrics(inside: Scores, sources: Mapping[str, Scores], ood: Mapping[str, Any]) -> Json | None:
    threshold = ood.get("threshold")
    if threshold is None and not sources:
        return None
    found = {
        name: {
            "support": len(scores),
            "auroc": auroc(inside, scores),
            "flagged": None if threshold is None else float((scores > threshold).mean()),
        }
        for name, scores in sources.items()
    }
    return {
        "method": ood.get("method", ""),
        "threshold": threshold,
        "auroc": float(np.mean([entry["auroc"] for entry in found.values()])) if found else None,
        "accepted": None if threshold is None else float((inside <= threshold).mean()),
        "sources": found,
    }
