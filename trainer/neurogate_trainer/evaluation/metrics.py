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

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from . import resampling
from .predictions import Predictions
from .reliability import ECE_BINS, bin_index, expected_calibration_error, reliability_bins

CONFIDENCE_LEVEL = 0.95
SCORES = ("precision", "recall", "f1", "roc_auc", "pr_auc")

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

    The intervals are percentiles of a stratified bootstrap: images are drawn with replacement within each
    true class, so the classes keep their sizes. Images count as independent; where a split holds several
    images of one patient or volume, the true uncertainty is larger. Values that the split cannot tell (no
    image of a class, a class that was never answered) are null with a note. Resampling adds noise to each
    bin, so the interval of `ece` leans upward and may lie above the value.

    Args:
        predictions: Answers on the test split; at least one image.
        seed: Of the bootstrap.
        bootstrap: Number of resamples; 0 leaves the intervals null.
        abstain_below: The version's abstention threshold, 0 to 1; None leaves `abstention` null.
        target_risk: The risk that the threshold aims at, for the record.

    Raises:
        ValueError: No images, or a negative number of resamples.
    """
    if not len(predictions):
        raise ValueError("metrics need at least one image; the test split is empty")
    if bootstrap < 0:
        raise ValueError(f"the number of bootstrap resamples cannot be negative, got {bootstrap}")
    point = _point_values(predictions, abstain_below)
    spread = resampling.Spread()
    for weights in resampling.stratified_weights(predictions.labels, resamples=bootstrap, seed=seed):
        spread.add(_resampled_values(predictions, weights, abstain_below))

    def estimate(key: str) -> Json:
        value, note = point[key]
        low, high = spread.interval(key, CONFIDENCE_LEVEL) if value is not None else (None, None)
        return {"value": value, "low": low, "high": high} | ({"note": note} if note else {})

    truth = np.bincount(predictions.labels, minlength=len(predictions.classes))
    answers = np.bincount(predictions.predicted, minlength=len(predictions.classes))
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
        "confusion": _confusion(predictions).tolist(),
        "reliability": reliability_bins(predictions.probabilities, predictions.labels),
        "abstention": None,
        "bootstrap": {
            "resamples": bootstrap,
            "level": CONFIDENCE_LEVEL,
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


def _confusion(predictions: Predictions) -> npt.NDArray[np.int64]:
    indices = range(len(predictions.classes))
    matrix: npt.NDArray[np.int64] = confusion_matrix(
        predictions.labels, predictions.predicted, labels=list(indices)
    )
    return matrix


_Value = tuple[float | None, str]


def _class_values(predictions: Predictions, index: int, f1: float) -> dict[str, _Value]:
    name = predictions.classes[index]
    positive = predictions.labels == index
    support, answered = int(positive.sum()), int((predictions.predicted == index).sum())
    hits = int((positive & (predictions.predicted == index)).sum())
    absent, never = f"no test image is of class {name}", f"no test image was classified as {name}"
    values: dict[str, _Value] = {
        "precision": (hits / answered, "") if answered else (None, never),
        "recall": (hits / support, "") if support else (None, absent),
        "f1": (f1, "") if support or answered else (None, f"{absent}, and {never}"),
        "roc_auc": (None, absent),
        "pr_auc": (None, absent),
    }
    if support == len(predictions):
        values["roc_auc"] = (None, f"all test images are of class {name}")
    elif support:
        values["roc_auc"] = (float(roc_auc_score(positive, predictions.probabilities[:, index])), "")
    if support:
        values["pr_auc"] = (float(average_precision_score(positive, predictions.probabilities[:, index])), "")
    return values


def _mean_value(
    values: Sequence[_Value], support: npt.NDArray[np.int64], weights: npt.NDArray[Any]
) -> _Value:
    """Mean over the classes with images; a precision without answers counts as 0, and the note says so."""
    present = np.flatnonzero(support).tolist()
    notes = [note for value, note in values if value is None]
    if any(values[index][0] is None and "all test images" in values[index][1] for index in present):
        return None, "the test split holds a single class"
    numbers = np.array([values[index][0] or 0.0 for index in present])
    explained = "; ".join(notes)
    return float(
        np.average(numbers, weights=weights[present])
    ), explained and f"counted as 0 or left out: {explained}"


def _point_values(predictions: Predictions, abstain_below: float | None) -> dict[str, _Value]:
    labels, predicted = predictions.labels, predictions.predicted
    indices = list(range(len(predictions.classes)))
    _, _, f1, support = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0.0)
    result: dict[str, _Value] = {
        "accuracy": (float(predictions.correct.mean()), ""),
        "ece": (expected_calibration_error(predictions.probabilities, labels), ""),
        "cohen_kappa": (None, "truth and answers are all of one class"),
    }
    if len(np.union1d(labels, predicted)) > 1:
        result["cohen_kappa"] = (float(cohen_kappa_score(labels, predicted, labels=indices)), "")
    by_class = [_class_values(predictions, index, float(f1[index])) for index in indices]
    for index, values in enumerate(by_class):
        result |= {f"{index}/{score}": value for score, value in values.items()}
    for score in SCORES:
        column = [values[score] for values in by_class]
        result[f"macro/{score}"] = _mean_value(column, support, np.ones(len(indices)))
        result[f"weighted/{score}"] = _mean_value(column, support, support)
    if abstain_below is not None:
        answered = predictions.confidence >= abstain_below
        result["coverage"] = (float(answered.mean()), "")
        result["risk"] = (None, "no test image reaches the abstention threshold")
        if answered.any():
            wrong = int((~predictions.correct[answered]).sum())
            result["risk"] = (
                wrong / int(answered.sum()),
                "" if wrong else _no_error_note(int(answered.sum())),
            )
    return result


def _no_error_note(answers: int) -> str:
    """What a bootstrap cannot tell, since without an error every resample is without error too."""
    limit = 1.0 - ((1.0 - CONFIDENCE_LEVEL) / 2) ** (1.0 / answers)
    return f"no error among {answers} answers; the exact upper limit of the 95% interval is {limit:.1%}"


def _resampled_values(
    predictions: Predictions, weights: resampling.Array, abstain_below: float | None
) -> dict[str, resampling.Array]:
    classes = len(predictions.classes)
    matrices = resampling.confusion(weights, predictions.labels, predictions.predicted, classes)
    scores = dict(zip(SCORES, resampling.precision_recall_f1(matrices), strict=False))
    areas = [
        resampling.ranking_areas(weights, predictions.probabilities[:, index], predictions.labels == index)
        for index in range(classes)
    ]
    scores["roc_auc"] = np.stack([roc for roc, _ in areas], axis=1)
    scores["pr_auc"] = np.stack([pr for _, pr in areas], axis=1)
    result = {
        "accuracy": resampling.divide(np.trace(matrices, axis1=1, axis2=2), weights.sum(axis=1)),
        "cohen_kappa": resampling.cohen_kappa(matrices),
        "ece": resampling.calibration_error(
            weights,
            bin_index(predictions.confidence, ECE_BINS),
            predictions.confidence.astype(np.float64),
            predictions.correct,
            ECE_BINS,
        ),
    }
    support = np.bincount(predictions.labels, minlength=classes)
    present = support > 0
    for score, values in scores.items():
        result |= {f"{index}/{score}": values[:, index] for index in range(classes)}
        numbers = np.nan_to_num(values[:, present])
        result[f"macro/{score}"] = numbers.mean(axis=1)
        result[f"weighted/{score}"] = np.average(numbers, axis=1, weights=support[present])
    if abstain_below is not None:
        answered = (predictions.confidence >= abstain_below).astype(np.float64)
        result["coverage"] = weights @ answered / weights.sum(axis=1)
        result["risk"] = resampling.divide(weights @ (answered * ~predictions.correct), weights @ answered)
    return result
