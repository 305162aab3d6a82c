"""What a version's answers on a set of images are worth: the formulas that the gateway and the trainer share.

A resample of the images is a row of weights, which say how often each was drawn. The measured values are
those of a row of ones, so the same formulas give the values and, from a thousand rows at once, the intervals.
Tests hold them to scikit-learn's with `sample_weight`. What is undefined is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2

ECE_BINS: Final = 15
RESAMPLES: Final = 1000
LEVEL: Final = 0.95
SCORES: Final = ("precision", "recall", "f1", "roc_auc", "pr_auc")
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
    labels, correct = measured.labels, measured.correct.astype(np.float64)
    ones = np.ones((1, len(labels)))
    found = {
        name: float(np.nan_to_num(values[0]))
        for name, values in classification_metrics(ones, labels, measured.probabilities).items()
    }
    low, high = resampled_mean(labels, correct, level=LEVEL, resamples=RESAMPLES, seed=0)
    return manifest_pb2.EvaluationMetrics(
        support=len(labels),
        accuracy=found["accuracy"],
        macro_f1=found["macro/f1"],
        macro_roc_auc=found["macro/roc_auc"],
        ece=found["ece"],
        accuracy_ci_low=low,
        accuracy_ci_high=high,
        per_class=[
            manifest_pb2.ClassMetrics(
                class_id=name,
                support=int((labels == index).sum()),
                **{score: found[f"{index}/{score}"] for score in ("precision", "recall", "f1", "roc_auc")},
            )
            for index, name in enumerate(measured.class_ids)
        ],
    )


def classification_metrics(
    weights: Floats, labels: Indices, probabilities: npt.NDArray[Any]
) -> dict[str, Floats]:
    """The metrics of every resample, each f64 [R].

    Args:
        weights: f64 [R, N], how often each image counts.
        labels: int64 [N], true classes.
        probabilities: [N, C].

    Returns:
        "accuracy", "cohen_kappa", "ece"; for each class "INDEX/SCORE" with the score one of `SCORES`, against
        the rest; and "macro/SCORE" and "weighted/SCORE", the means over the classes that have images. An
        undefined score counts as 0 in a mean.
    """
    classes = probabilities.shape[1]
    matrices = confusion(weights, labels, probabilities.argmax(axis=1), classes)
    scores = dict(zip(SCORES, precision_recall_f1(matrices), strict=False))
    areas = [ranking_areas(weights, probabilities[:, i], labels == i) for i in range(classes)]
    for position, score in enumerate(("roc_auc", "pr_auc")):
        scores[score] = np.stack([pair[position] for pair in areas], axis=1)
    result = {
        "accuracy": divide(np.trace(matrices, axis1=1, axis2=2), weights.sum(axis=1)),
        "cohen_kappa": cohen_kappa(matrices),
        "ece": calibration_error(weights, labels, probabilities),
    }
    support = np.bincount(labels, minlength=classes)
    present = support > 0
    for score, values in scores.items():
        result |= {f"{index}/{score}": values[:, index] for index in range(classes)}
        numbers = np.nan_to_num(values[:, present])
        result[f"macro/{score}"] = numbers.mean(axis=1)
        result[f"weighted/{score}"] = np.average(numbers, axis=1, weights=support[present])
    return result


def confusion(weights: Floats, labels: Indices, predicted: Indices, classes: int) -> Floats:
    """Weighted confusion matrices, f64 [R, C, C]: rows are the truth, columns the answers."""
    answers = np.eye(classes)[predicted]
    rows = [weights[:, labels == label] @ answers[labels == label] for label in range(classes)]
    return np.stack(rows, axis=1)


def precision_recall_f1(matrices: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, each f64 [R, C], from confusion matrices [R, C, C]."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    answered, truth = matrices.sum(axis=1), matrices.sum(axis=2)
    return divide(hits, answered), divide(hits, truth), divide(2 * hits, answered + truth)


def cohen_kappa(matrices: Floats) -> Floats:
    """Agreement beyond chance, f64 [R], from confusion matrices [R, C, C]."""
    total = matrices.sum(axis=(1, 2))
    agreement = divide(np.trace(matrices, axis1=1, axis2=2), total)
    chance = divide((matrices.sum(axis=1) * matrices.sum(axis=2)).sum(axis=1), total**2)
    # Rounding may leave "everything is one class" a hair away from exactly 1.
    certain = np.isclose(chance, 1.0, rtol=0, atol=1e-12)
    return divide(agreement - chance, np.where(certain, 0.0, 1.0 - chance))


def ranking_areas(
    weights: Floats, scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Area under the ROC curve, ties counted half, and average precision, each f64 [R].

    Args:
        weights: f64 [R, N].
        scores: [N], larger means more like the positive class.
        positive: bool [N].
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    hits_above, misses_above = np.cumsum(hits, axis=1), np.cumsum(misses, axis=1)
    all_hits, all_misses = hits_above[:, -1], misses_above[:, -1]
    roc = divide(((hits_above - hits / 2) * misses).sum(axis=1), all_hits * all_misses)
    precision = np.nan_to_num(divide(hits_above, hits_above + misses_above))
    return roc, divide((precision * hits).sum(axis=1), all_hits)


def calibration_error(weights: Floats, labels: Indices, probabilities: npt.NDArray[Any]) -> Floats:
    """Expected calibration error of the most probable class, f64 [R], 0 to 1 (Guo et al. 2017).

    Images are put into 15 bins of equal width by their highest probability; the distance |accuracy - mean
    confidence| of each bin counts by its share of images.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    by_bin = np.eye(ECE_BINS)[bin_index(confidence)] * gap[:, np.newaxis]
    return divide(np.abs(weights @ by_bin).sum(axis=1), weights.sum(axis=1))


def bin_index(confidence: npt.NDArray[Any]) -> Indices:
    """int64 [N]: which of 15 bins (a, b] of equal width in (0, 1] each confidence falls into."""
    position = np.ceil(np.asarray(confidence, np.float64) * ECE_BINS).astype(np.int64) - 1
    return np.clip(position, 0, ECE_BINS - 1)


def divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """Quotients, NaN where the denominator is 0."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the central interval that holds `level` of the resamples in which the value is defined."""
    tail = (1.0 - level) / 2
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1.0 - tail])
    return float(low), float(high)


def resampled_mean(
    labels: Indices, values: Floats, *, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Ends of the percentile interval of a mean over images, by a bootstrap stratified by true class.

    Args:
        labels: int64 [N].
        values: f64 [N]. Differences between two versions make the bootstrap a paired one.
        level: Share of the resamples inside.
        resamples: How many, at least 1.
        seed: Equal seeds, equal intervals.
    """
    return interval(resampled_means(labels, values, resamples=resamples, seed=seed), level)


def resampled_means(labels: Indices, values: Floats, *, resamples: int, seed: int) -> Floats:
    """Means of values [N] or [N, K] over every resample, f64 [resamples] or [resamples, K]."""
    sums = np.zeros((resamples, *values.shape[1:]))
    for start, end, generator in _chunks(labels, resamples, seed):
        for block, members, counts in _draws(labels, start, end, generator):
            sums[block] += counts @ values[members]
    return sums / len(labels)


def stratified_weights(labels: Indices, *, resamples: int, seed: int) -> Iterator[Floats]:
    """Weights [R, N] until there were `resamples` rows: from each class as many draws as it has images.

    Memory stays bounded: a chunk holds at most about 32 MB.
    """
    for start, end, generator in _chunks(labels, resamples, seed):
        weights = np.zeros((end - start, labels.size))
        for block, members, counts in _draws(labels, start, end, generator):
            weights[block.start - start : block.stop - start, members] = counts
        yield weights


def _chunks(labels: Indices, resamples: int, seed: int) -> Iterator[tuple[int, int, np.random.Generator]]:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_ELEMENTS // labels.size)
    for start in range(0, resamples, rows):
        yield start, min(start + rows, resamples), generator


def _draws(
    labels: Indices, start: int, end: int, generator: np.random.Generator
) -> Iterator[tuple[slice, Indices, Indices]]:
    """Resamples `start` to `end`, class by class: which of them, which images, how often each was drawn.

    A few at a time: callers' images wait for the interpreter meanwhile.
    """
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        share = np.full(members.size, 1.0 / members.size)
        few = max(1, _BLOCK_ELEMENTS // members.size)
        for begin in range(start, end, few):
            block = slice(begin, min(begin + few, end))
            yield block, members, generator.multinomial(members.size, share, size=block.stop - begin)
