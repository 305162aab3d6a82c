"""Bootstrap resamples of a test split, and classification metrics of all of them at once.

A resample is a row of weights (how often each image was drawn), so a thousand of them are a handful of matrix
products instead of a thousand passes. The formulas are those of scikit-learn with `sample_weight`, which the
tests hold them to. Undefined values are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_CHUNK_ELEMENTS = 4_000_000


def stratified_weights(labels: npt.NDArray[np.int64], *, resamples: int, seed: int) -> Iterator[Array]:
    """Yield weights [rows, N] until `resamples` rows were given; within each class as many draws as images.

    Memory stays bounded: a chunk holds at most about 32 MB.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_ELEMENTS // max(1, labels.size))
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        weights = np.zeros((size, labels.size))
        for positions in members:
            share = np.full(positions.size, 1.0 / positions.size)
            weights[:, positions] = generator.multinomial(positions.size, share, size=size)
        yield weights


def confusion(
    weights: Array, labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> Array:
    """Weighted confusion matrices [rows, C, C]; first class axis is the truth, second the answer."""
    cells = np.eye(classes * classes)[labels * classes + predicted]
    flat: Array = weights @ cells
    return flat.reshape(-1, classes, classes)


def divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Array:
    """Quotient with NaN where the denominator is 0."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def precision_recall_f1(matrices: Array) -> tuple[Array, Array, Array]:
    """Per-class precision, recall and F1, each [rows, C], from confusion matrices [rows, C, C]."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    answered, truth = matrices.sum(axis=1), matrices.sum(axis=2)
    return divide(hits, answered), divide(hits, truth), divide(2 * hits, answered + truth)


def cohen_kappa(matrices: Array) -> Array:
    """Cohen's kappa [rows] from confusion matrices [rows, C, C]."""
    total = matrices.sum(axis=(1, 2))
    agreement = divide(np.trace(matrices, axis1=1, axis2=2), total)
    chance = divide((matrices.sum(axis=1) * matrices.sum(axis=2)).sum(axis=1), total**2)
    # Rounding may leave "everything is one class" a hair away from exactly 1.
    return divide(
        agreement - chance, np.where(np.isclose(chance, 1.0, rtol=0, atol=1e-12), 0.0, 1.0 - chance)
    )


def ranking_areas(
    weights: Array, scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Area under the ROC curve, and average precision (the step-wise area under the PR curve), each [rows].

    Args:
        weights: [rows, N].
        scores: [N], larger means more like the positive class; ties count half in the ROC area.
        positive: bool [N].
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    hits_above = np.cumsum(hits, axis=1)
    misses_above = np.cumsum(misses, axis=1)
    all_hits, all_misses = hits_above[:, -1], misses_above[:, -1]
    roc = divide(((hits_above - hits / 2) * misses).sum(axis=1), all_hits * all_misses)
    precision = np.nan_to_num(divide(hits_above, hits_above + misses_above))
    return roc, divide((precision * hits).sum(axis=1), all_hits)


def calibration_error(
    weights: Array,
    bin_of: npt.NDArray[np.int64],
    confidence: Array,
    correct: npt.NDArray[np.bool_],
    bins: int,
) -> Array:
    """Expected calibration error [rows]: mean over images of |accuracy - confidence| of their bin."""
    gap = np.eye(bins)[bin_of] * (correct.astype(np.float64) - confidence)[:, None]
    return divide(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


@dataclass(slots=True)
class Spread:
    """Values of all resamples by name, gathered chunk by chunk."""

    chunks: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Array]) -> None:
        """Take the values of one chunk, each [rows]."""
        for key, array in values.items():
            self.chunks.setdefault(key, []).append(array)

    def interval(self, key: str, level: float) -> tuple[float | None, float | None]:
        """Ends of the central interval that holds `level` of the resamples in which the value is defined."""
        values = np.concatenate(self.chunks[key]) if key in self.chunks else np.empty(0)
        values = values[~np.isnan(values)]
        if not values.size:
            return None, None
        tail = (1.0 - level) / 2
        low, high = np.quantile(values, [tail, 1.0 - tail])
        return float(low), float(high)
