"""What makes probabilities trustworthy: how often they are right, a temperature, a limit to abstain below."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from neurogate_core.evaluation import ECE_BINS, bin_index, calibration_error
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from .predictions import check_probabilities

Floats = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

_TEMPERATURES: Final = (0.05, 20.0)
_PRIOR_SPREAD: Final = 0.25
"""Standard deviation of the logarithm of the temperature before any image is seen."""
_CURVE_POINTS: Final = 200


def expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """`neurogate_core.evaluation.calibration_error` of these answers.

    Raises:
        ValueError: No images, shapes that do not fit, or rows that are not distributions.
    """
    _check(probabilities, labels)
    return float(calibration_error(np.ones((1, len(labels))), labels, probabilities)[0])


def reliability_bins(probabilities: Floats, labels: Labels) -> list[dict[str, Any]]:
    """The bins of a reliability diagram, `[{low, high, count, confidence, accuracy}]`; null means if empty.

    Raises:
        ValueError: As `expected_calibration_error`.
    """
    _check(probabilities, labels)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    position = bin_index(confidence)
    counts = np.bincount(position, minlength=ECE_BINS)
    sums = {"confidence": np.bincount(position, confidence, ECE_BINS)}
    sums["accuracy"] = np.bincount(position, correct, ECE_BINS)
    return [
        {"low": index / ECE_BINS, "high": (index + 1) / ECE_BINS, "count": int(counts[index])}
        | {name: float(sums[name][index] / counts[index]) if counts[index] else None for name in sums}
        for index in range(ECE_BINS)
    ]


def _check(probabilities: Floats, labels: Labels) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape}: expected [N, C] and [N]"
        )
    if not len(labels):
        raise ValueError("a calibration error needs at least one image")
    check_probabilities(probabilities)


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


def probabilities(logits: Floats, temperature: float) -> npt.NDArray[np.float32]:
    """softmax(logits / temperature), float32 [N, C]."""
    scaled = softmax(logits.astype(np.float64) / temperature, axis=1)
    return np.asarray(scaled, np.float32)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The most probable temperature from 0.05 to 20, given these answers (after Guo et al. 2017).

    A few hundred images leave the temperature of least negative log-likelihood uncertain by a tenth and more,
    so it is weighed against a prior: log-normal around 1. With many images the prior no longer counts.

    Args:
        logits: [N, C] of images that the weights were not fitted to.
        labels: int64 [N].
    """
    values = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        unlikely = float((logsumexp(scaled, axis=1) - scaled[rows, labels]).sum())
        return unlikely + (log_temperature / _PRIOR_SPREAD) ** 2 / 2

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def abstention_threshold(
    probabilities: Floats, labels: Labels, *, target_risk: float
) -> tuple[float, float, float]:
    """The lowest limit at which the answered images are wrong in at most the target share.

    Where even the most confident answers are wrong too often, the limit of the least risk is taken, of these
    the one that answers most.

    Args:
        probabilities: [N, C], calibrated.
        labels: int64 [N].
        target_risk: 0 to 1.

    Returns:
        The limit, and coverage and risk on the given images when answering from that probability on.
    """
    thresholds, coverage, risk = risk_coverage_curve(probabilities, labels)
    within = np.flatnonzero(risk <= target_risk)
    # Coverage grows along the curve, so the last fitting entry answers most.
    at = int(within[-1]) if within.size else int(np.flatnonzero(risk == risk.min())[-1])
    if at == len(thresholds) - 1:
        # Everything may be answered: no reason to abstain from an image a little less certain than these.
        return 0.0, 1.0, float(risk[at])
    # Halfway to the next lower confidence, which would have been one answer too many.
    limit = float((thresholds[at] + thresholds[at + 1]) / 2)
    return limit, float(coverage[at]), float(risk[at])


def calibrate(logits: Floats, labels: Labels, *, target_risk: float) -> dict[str, Any]:
    """What calibration.json holds, from the validation split's logits [N, C] and labels [N]."""
    temperature = fit_temperature(logits, labels)
    before, after = probabilities(logits, 1.0), probabilities(logits, temperature)
    abstain_below, coverage, risk = abstention_threshold(after, labels, target_risk=target_risk)
    thresholds, coverages, risks = risk_coverage_curve(after, labels)
    shown = np.unique(np.linspace(0, len(thresholds) - 1, _CURVE_POINTS).astype(int))
    return {
        "temperature": temperature,
        "ece_before": expected_calibration_error(before, labels),
        "ece_after": expected_calibration_error(after, labels),
        "abstain_below": abstain_below,
        "target_risk": target_risk,
        "coverage": coverage,
        "risk": risk,
        "images": len(labels),
        "curve": [
            {"threshold": float(thresholds[i]), "coverage": float(coverages[i]), "risk": float(risks[i])}
            for i in shown
        ],
        "reliability_before": reliability_bins(before, labels),
        "reliability_after": reliability_bins(after, labels),
    }
