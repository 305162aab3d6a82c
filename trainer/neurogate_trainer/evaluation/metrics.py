"""How good a classifier's answers are: what `metrics.json` says about the sealed test split.

`compute_metrics` gives this JSON object. Every estimate E is
`{"value": float | null, "low": float | null, "high": float | null}`, where low and high are the ends of the
95 % bootstrap interval, with a `"note"` when a value is undefined (null) or needs an explanation:

    support       number of images
    classes       class ids, in the order of every list and matrix here
    accuracy      E, share of right answers
    cohen_kappa   E, agreement beyond chance
    ece           E, expected calibration error of the most probable class, 15 bins of equal width
    macro         {precision, recall, f1, roc_auc, pr_auc}: E, unweighted mean over the classes with images
    weighted      the same, weighted by the classes' number of images
    per_class     [{class_id, support, predicted, precision, recall, f1, roc_auc, pr_auc}], E from precision
                  on; roc_auc and pr_auc are one-vs-rest, pr_auc is the average precision
    confusion     int [C][C], rows are the truth, columns the answers
    reliability   [{low, high, count, confidence, accuracy}], the bins behind ece
    abstention    null, or {abstain_below, target_risk, answered, coverage: E, risk: E}: coverage is the share
                  of images whose highest probability reaches the threshold, risk the error rate among those
    bootstrap     {resamples, level, seed, method}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from neurogate.v1 import manifest_pb2
from neurogate_core.evaluation import (
    LEVEL,
    SCORES,
    Floats,
    classification_metrics,
    confusion,
    divide,
    interval,
    stratified_weights,
)

from .calibrate import reliability_bins
from .predictions import Predictions

Json = dict[str, Any]


def compute_metrics(
    predictions: Predictions,
    *,
    seed: int = 0,
    bootstrap: int = 1000,
    abstain_below: float | None = None,
    target_risk: float | None = None,
) -> Json:
    """Everything that `metrics.json` holds; the module's description gives the structure.

    `abstain_below` is the version's abstention threshold; None leaves `abstention` null. `target_risk` is
    what it aims at, for the record. With a `bootstrap` of 0 the intervals are null.

    The intervals are percentiles of a stratified bootstrap: images are drawn with replacement within each
    true class, so the classes keep their sizes. Images count as independent; where a split holds several
    images of one patient or volume, the true uncertainty is larger. Values that the split cannot tell (no
    image of a class, a class that was never answered) are null with a note. Resampling adds noise to each
    bin, so the interval of `ece` leans upward and may lie above the value.

    Raises:
        ValueError: No images, or a negative number of resamples.
    """
    if not len(predictions):
        raise ValueError("metrics need at least one image; the test split is empty")
    if bootstrap < 0:
        raise ValueError(f"the number of bootstrap resamples cannot be negative, got {bootstrap}")
    truth = np.bincount(predictions.labels, minlength=len(predictions.classes))
    answers = np.bincount(predictions.predicted, minlength=len(predictions.classes))
    ones = np.ones((1, len(predictions)))
    point = {key: float(found[0]) for key, found in _values(predictions, ones, abstain_below).items()}
    if np.count_nonzero(truth) == 1:
        point |= {"macro/roc_auc": np.nan, "weighted/roc_auc": np.nan}
    notes = _notes(predictions, point)
    matrix = confusion(ones, predictions.labels, predictions.predicted, len(truth))
    weights = stratified_weights(predictions.labels, resamples=bootstrap, seed=seed)
    chunks = [_values(predictions, rows, abstain_below) for rows in weights]

    def estimate(key: str) -> Json:
        result: Json = {"value": None, "low": None, "high": None}
        if not np.isnan(point[key]):
            result["value"] = point[key]
            resampled = np.concatenate([np.empty(0), *(chunk[key] for chunk in chunks)])
            if not np.isnan(resampled).all():
                result["low"], result["high"] = interval(resampled)
        return result | ({"note": notes[key]} if key in notes else {})

    result: Json = {
        "support": len(predictions),
        "classes": list(predictions.classes),
        **{key: estimate(key) for key in ("accuracy", "cohen_kappa", "ece")},
        **{mean: {score: estimate(f"{mean}/{score}") for score in SCORES} for mean in ("macro", "weighted")},
        "per_class": [
            {"class_id": name, "support": int(truth[index]), "predicted": int(answers[index])}
            | {score: estimate(f"{index}/{score}") for score in SCORES}
            for index, name in enumerate(predictions.classes)
        ],
        "confusion": matrix[0].astype(int).tolist(),
        "reliability": reliability_bins(predictions.probabilities, predictions.labels),
        "abstention": None,
        "bootstrap": {
            "resamples": bootstrap,
            "level": LEVEL,
            "seed": seed,
            "method": "percentile interval; images drawn with replacement within each true class",
        },
    }
    if abstain_below is not None:
        result["abstention"] = {
            "abstain_below": abstain_below,
            "target_risk": target_risk,
            "answered": int((predictions.confidence >= abstain_below).sum()),
            "coverage": estimate("coverage"),
            "risk": estimate("risk"),
        }
    return result


def _values(predictions: Predictions, weights: Floats, abstain_below: float | None) -> dict[str, Floats]:
    """`classification_metrics`, and "coverage" and "risk" at a threshold, of every row of weights."""
    result = classification_metrics(weights, predictions.labels, predictions.probabilities)
    if abstain_below is not None:
        answered = weights @ (predictions.confidence >= abstain_below)
        wrong = weights @ ((predictions.confidence >= abstain_below) & ~predictions.correct)
        result |= {"coverage": answered / weights.sum(axis=1), "risk": divide(wrong, answered)}
    return result


def _notes(predictions: Predictions, point: dict[str, float]) -> dict[str, str]:
    """Why values are undefined, or what else there is to say about them."""
    undefined = {key for key, value in point.items() if np.isnan(value)}
    reasons = {"cohen_kappa": "truth and answers are all of one class"}
    for index, name in enumerate(predictions.classes):
        absent, never = f"no test image is of class {name}", f"no test image was classified as {name}"
        all_of_it = f"all test images are of class {name}"
        reasons |= {
            f"{index}/precision": never,
            f"{index}/recall": absent,
            f"{index}/f1": f"{absent}, and {never}",
            f"{index}/roc_auc": all_of_it if (predictions.labels == index).all() else absent,
            f"{index}/pr_auc": absent,
        }
    reasons |= dict.fromkeys(("macro/roc_auc", "weighted/roc_auc"), "the test split holds a single class")
    reasons["risk"] = "no test image reaches the abstention threshold"
    notes = {key: reason for key, reason in reasons.items() if key in undefined}
    for score in SCORES:
        keys = [f"{index}/{score}" for index in range(len(predictions.classes))]
        if explained := "; ".join(notes[key] for key in keys if key in notes):
            for mean in ("macro", "weighted"):
                # A precision without answers counts as 0; a class without images is no part of the mean.
                notes.setdefault(f"{mean}/{score}", f"counted as 0 or left out: {explained}")
    if point.get("risk") == 0:
        answers = round(point["coverage"] * len(predictions))
        # Without an error every resample is without error too, so the bootstrap cannot tell the upper limit.
        limit = 1.0 - ((1.0 - LEVEL) / 2) ** (1.0 / answers)
        notes["risk"] = (
            f"no error among {answers} answers; the exact upper limit of the 95% interval is {limit:.1%}"
        )
    return notes


def metrics_message(metrics: Json, ood_auroc: float | None) -> manifest_pb2.EvaluationMetrics:
    """The manifest's summary of metrics.json.

    The message has no "undefined": such a value becomes 0, which `support` 0 of its class explains, and the
    report says why.
    """

    def number(estimate: Json, key: str = "value") -> float:
        return float(estimate[key] or 0.0)

    accuracy = metrics["accuracy"]
    return manifest_pb2.EvaluationMetrics(
        support=metrics["support"],
        accuracy=number(accuracy),
        accuracy_ci_low=number(accuracy, "low"),
        accuracy_ci_high=number(accuracy, "high"),
        macro_f1=number(metrics["macro"]["f1"]),
        macro_roc_auc=number(metrics["macro"]["roc_auc"]),
        ece=number(metrics["ece"]),
        ood_auroc=ood_auroc or 0.0,
        per_class=[
            manifest_pb2.ClassMetrics(
                class_id=row["class_id"],
                support=row["support"],
                precision=number(row["precision"]),
                recall=number(row["recall"]),
                f1=number(row["f1"]),
                roc_auc=number(row["roc_auc"]),
            )
            for row in metrics["per_class"]
        ],
    )


def read_record(path: Path) -> Json:
    """The JSON object in a run folder's file; empty when the file does not exist yet.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return content
    raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object")
