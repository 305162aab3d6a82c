"""Percentiles of one run, and the spread of a figure over several runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypedDict


class Figure(TypedDict):
    """One number of a scenario: the median of its runs, the extremes, and every run's own value."""

    series: str
    metric: str
    unit: str
    median: float
    min: float
    max: float
    runs: list[float]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest measured value that at least `percent` per cent of all do not exceed (nearest rank).

    NaN for no values: a run without a single answer has no latency.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    # The guard keeps 99 % of 1,000 at rank 990 where the product is 990.0000000000001.
    rank = math.ceil(len(ordered) * percent / 100 - 1e-9)
    return ordered[max(rank, 1) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value; NaN for no values."""
    return statistics.median(values) if values else math.nan


def figure(series: str, metric: str, unit: str, runs: Sequence[float]) -> Figure:
    """Sums several runs up. Runs without a value (NaN) are left out of the median but make it NaN if none
    remain."""
    known = [run for run in runs if not math.isnan(run)]
    return Figure(
        series=series,
        metric=metric,
        unit=unit,
        median=_rounded(median(known)),
        min=_rounded(min(known, default=math.nan)),
        max=_rounded(max(known, default=math.nan)),
        runs=[_rounded(run) for run in runs],
    )


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Run by run, so that a slow minute of the machine slows both sides of a ratio."""
    return [over / under if under else math.nan for over, under in zip(numerators, denominators, strict=True)]


def _rounded(value: float) -> float:
    """Six significant digits: more would claim a precision that no run has."""
    return value if math.isnan(value) or math.isinf(value) else float(f"{value:.6g}")
