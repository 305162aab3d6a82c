"""Whether a classifier knows how often it is right: confidence and accuracy, risk and coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import resampling
from .predictions import check_probabilities

ECE_BINS = 15

Labels = npt.NDArray[np.int64]


def bin_index(confidence: npt.NDArray[Any], bins: int) -> Labels:
    """int64 [N]: which of the equal-width bins (a, b] of (0, 1] each confidence falls into."""
    return np.clip(np.ceil(np.asarray(confidence, dtype=np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], *, bins: int = ECE_BINS
) -> float:
    """Mean distance between confidence and accuracy of the most probable class, 0 to 1.

    Guo et al. 2017: images are put into bins of equal width by their highest probability; the distance
    |accuracy - mean confidence| of each bin counts by its share of images.

    Args:
        probabilities: [N, C], rows summing to 1.
        labels: integers [N], true class indices.
        bins: Number of bins, at least 1.

    Raises:
        ValueError: No images, shapes that do not fit, or rows that are not distributions.
    """
    return float(
        sum(
            entry["count"] * abs(entry["accuracy"] - entry["confidence"])
            for entry in reliability_bins(probabilities, labels, bins=bins)
            if entry["count"]
        )
        / len(labels)
    )


def reliability_bins(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], *, bins: int = ECE_BINS
) -> list[dict[str, Any]]:
    """The bins of a reliability diagram, `[{low, high, count, confidence, accuracy}]`; null means if empty.

    Raises:
        ValueError: As `expected_calibration_error`.
    """
    if bins < 1:
        raise ValueError(f"a calibration error needs at least one bin, got {bins}")
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape}: expected [N, C] and [N]"
        )
    if not len(labels):
        raise ValueError("a calibration error needs at least one image")
    check_probabilities(probabilities)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    position = bin_index(confidence, bins)
    counts = np.bincount(position, minlength=bins).astype(np.float64)
    mean_confidence = resampling.divide(np.bincount(position, confidence, bins), counts)
    mean_accuracy = resampling.divide(np.bincount(position, correct, bins), counts)
    return [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "count": int(counts[index]),
            "confidence": _number(mean_confidence[index]),
            "accuracy": _number(mean_accuracy[index]),
        }
        for index in range(bins)
    ]


def risk_coverage_curve(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Thresholds (descending), coverage and risk, one entry per distinct highest probability.

    Entry i describes answering exactly when the highest probability is at least `thresholds[i]`.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    wrong = (probabilities.argmax(axis=1) != labels)[np.argsort(-confidence, kind="stable")]
    ordered = np.sort(confidence)[::-1]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    answered = last + 1.0
    return ordered[last], answered / ordered.size, np.cumsum(wrong)[last] / answered


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
