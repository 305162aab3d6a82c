"""What a version's answers on the evaluation images are worth, by the trainer's definitions.

The gateway does not import the trainer, so the formulas are here again; a test holds both to the same
numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2

ECE_BINS: Final = 15
RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_CHUNK_ELEMENTS: Final = 4_000_000
_BLOCK_ELEMENTS: Final = 20_000

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """A version's answers on the evaluation images.

    Attributes:
        version: Its number.
        digest: Hex SHA-256 of its manifest.
        images_digest: Hex SHA-256 over the sorted digests of the images.
        class_ids: In class order.
        labels: int64 [N], true class by image; N is at least 1.
        probabilities: f32 [N, C].
        latency_ms: f64 [N], milliseconds from encoded image to answer.
        pointing: Share of right answers whose explanation points at the lesion, as the version's manifest has
            it: the gateway has no masks. None where it does not.
    """

    version: int
    digest: str
    images_digest: str
    class_ids: tuple[str, ...]
    labels: Indices
    probabilities: npt.NDArray[np.float32]
    latency_ms: Floats
    pointing: float | None = None

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class is the true one, bool [N]."""
        right: npt.NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return right

    @property
    def latency_p99_ms(self) -> float:
        """99th percentile of the latency."""
        return float(np.quantile(self.latency_ms, 0.99))


def evaluation_metrics(measured: Measured) -> manifest_pb2.EvaluationMetrics:
    """The answers as the contract's message. What the images cannot tell is 0, as in a manifest."""
    classes = len(measured.class_ids)
    predicted = measured.probabilities.argmax(axis=1)
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (measured.labels, predicted), 1)
    hits, support, answered = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = _ratio(hits, answered), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + answered)
    areas = np.array(
        [roc_auc(measured.probabilities[:, index], measured.labels == index) for index in range(classes)]
    )
    present = support > 0
    low, high = accuracy_interval(measured.labels, measured.correct)
    return manifest_pb2.EvaluationMetrics(
        support=len(measured.labels),
        accuracy=float(measured.correct.mean()),
        macro_f1=float(f1[present].mean()),
        macro_roc_auc=float(areas[present].mean()) if not np.isnan(areas[present]).any() else 0.0,
        ece=expected_calibration_error(measured.probabilities, measured.labels),
        accuracy_ci_low=low,
        accuracy_ci_high=high,
        per_class=[
            manifest_pb2.ClassMetrics(
                class_id=name,
                support=int(support[index]),
                precision=precision[index],
                recall=recall[index],
                f1=f1[index],
                roc_auc=float(np.nan_to_num(areas[index])),
            )
            for index, name in enumerate(measured.class_ids)
        ],
    )


def expected_calibration_error(probabilities: npt.NDArray[Any], labels: Indices) -> float:
    """Mean distance between confidence and accuracy of the most probable class, 15 bins of equal width."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    position = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(position, correct.astype(np.float64) - confidence, ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def roc_auc(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half; NaN where one of the two sides has no image."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy_interval(labels: Indices, correct: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Ends of the accuracy's 95 % bootstrap interval; images are drawn within each class."""
    return resampled_mean(labels, correct.astype(np.float64), level=LEVEL, resamples=RESAMPLES, seed=0)


def resampled_mean(
    labels: Indices, values: Floats, *, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Ends of the percentile interval of a mean over images, by a bootstrap stratified by true class.

    Args:
        labels: int64 [N].
        values: f64 [N]. Differences between two versions make the bootstrap a paired one.
        level: Share of the resamples inside.
        resamples: How many.
        seed: Equal seeds, equal intervals.
    """
    means = _resampled_sums(labels, values, resamples, seed) / len(labels)
    tail = (1.0 - level) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def _resampled_sums(labels: Indices, values: Floats, resamples: int, seed: int) -> Floats:
    """Sums over as many draws from each class as it has images, f64 [resamples].

    The order of the draws is the trainer's, so that both have the same intervals. They are made a few at a
    time: callers' images are waiting for the interpreter meanwhile, and nobody needs all draws at once.
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros(resamples)
    rows = max(1, _CHUNK_ELEMENTS // labels.size)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, resamples, rows):
        end = min(start + rows, resamples)
        for positions in members:
            share = np.full(positions.size, 1.0 / positions.size)
            few = max(1, _BLOCK_ELEMENTS // positions.size)
            for begin in range(start, end, few):
                block = slice(begin, min(begin + few, end))
                draws = generator.multinomial(positions.size, share, size=block.stop - begin)
                sums[block] += draws @ values[positions]
    return sums


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients, 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
