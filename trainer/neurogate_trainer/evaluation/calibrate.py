"""What turns scores into trustworthy probabilities: a temperature, and a limit below which to abstain."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from .reliability import expected_calibration_error, reliability_bins, risk_coverage_curve

Floats = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

_TEMPERATURES: Final = (0.05, 20.0)
_PRIOR_SPREAD: Final = 0.25
"""Standard deviation of the logarithm of the temperature before any image is seen."""
_CURVE_POINTS: Final = 200


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
