"""How unlike the training images an image is: scores that are computed inside the exported graph.

Candidates are fitted on the training split, compared on foreign images, and the better one is kept:

* "energy": minus the log of the summed exponentials of the logits (Liu et al. 2020). It needs no fit.
* "mahalanobis": squared distance of the pooled last features from the nearest class mean, in units of the
  spread within the classes (Lee et al. 2018).
* "mahalanobis-layout": the same distance from one common mean, of features from the middle of the network,
  pooled on a grid of 3 x 3 cells. They know texture and where in the picture it lies, which the last
  features have learnt to ignore: fine-tuned for four classes, those take digits and noise for heads.

Distances are those of a factor model: the covariance along the leading components of the training
features, and the mean remaining variance along all others, so a few hundred kilobytes describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from keras import ops
from neurogate_core.files import replacing

from neurogate_trainer.data.inputs import Examples
from neurogate_trainer.progress import Reporter

Floats = npt.NDArray[np.float32]

ENERGY: Final = "energy"
CANDIDATES: Final[dict[str, tuple[str, int]]] = {
    "mahalanobis": ("out_relu", 1),
    "mahalanobis-layout": ("block_5_add", 3),
}
"""Per distance, the layer whose output is used, and the number of cells a side that it is pooled on."""

_MAX_COMPONENTS: Final = 128
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class FeatureDistance:
    """A fitted distance.

    Attributes:
        method: Its name in `CANDIDATES`.
        scale: float32 [D], the features' standard deviations; features are divided by them first.
        means: float32 [M, D], the centres in scaled features; the nearest counts.
        components: float32 [D, R], orthonormal directions of large variance.
        gains: float32 [R], 1/variance along them, minus `residual`; 0 or less.
        residual: 1/variance along every other direction.
    """

    method: str
    scale: Floats
    means: Floats
    components: Floats
    gains: Floats
    residual: float

    def __call__(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """The mean squared distance per feature, [N], of features [N, D].

        Every factor that does not depend on the features is put into a constant, and all centres are taken
        at once: beside a small network the number of operations counts, not their size.
        """
        unit = np.sqrt(self.residual / self.scale.size)
        offset = ops.expand_dims(features * (unit / self.scale), 1) - self.means * unit
        # Along the components the spread is larger than elsewhere, so that the gains are 0 or less.
        weighted = self.components * np.sqrt(-self.gains / self.residual)
        features_each, components = weighted.shape
        along = ops.matmul(ops.reshape(offset, (-1, features_each)), weighted)
        along = ops.reshape(along, (-1, len(self.means), components))
        return ops.min(ops.sum(offset * offset, axis=2) - ops.sum(along * along, axis=2), axis=1)

    def save(self, path: Path) -> None:
        """Writes the distance as .npz."""
        values: dict[str, Any] = {entry.name: np.array(getattr(self, entry.name)) for entry in fields(self)}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **values)

    @classmethod
    def load(cls, path: Path) -> FeatureDistance:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("scale", "means", "components", "gains")}
            return cls(method=str(stored["method"]), residual=float(stored["residual"]), **arrays)


def taps(model: keras.Model, method: str) -> keras.KerasTensor:
    """The symbolic features [N, D] of a distance, from the output of one of the network's layers."""
    name, cells = CANDIDATES[method]
    return _pooled(ops.cast(model.get_layer(name).output, "float32"), cells)


def energy(logits: keras.KerasTensor) -> keras.KerasTensor:
    """The energy score [N] of logits [N, C]: large where no class finds support."""
    return -ops.logsumexp(logits, axis=1)


def fit_distance(method: str, features: Floats, labels: npt.NDArray[np.int64]) -> FeatureDistance:
    """Fits a distance to the training split.

    Args:
        method: A name in `CANDIDATES`.
        features: float32 [N, D], of images without augmentation.
        labels: int64 [N].
    """
    values = features.astype(np.float64)
    scale = values.std(axis=0)
    # A feature that never varies in training is left in its own unit: any other value is then far away.
    scale = np.where(scale > 1e-6, scale, 1.0)
    values /= scale
    by_class = method == "mahalanobis"
    groups = [labels == label for label in np.unique(labels)] if by_class else [np.ones(len(labels), bool)]
    means = np.stack([values[group].mean(axis=0) for group in groups])
    centred = values.copy()
    for mean, group in zip(means, groups, strict=True):
        centred[group] -= mean
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / max(1, len(values) - len(groups))
    kept = min(_MAX_COMPONENTS, max(1, len(variance) // 4))
    left = max(float(variance[kept:].sum()) / max(1, values.shape[1] - kept), 1e-3)
    residual = 1.0 / left
    gains = 1.0 / np.maximum(variance[:kept], left) - residual
    return FeatureDistance(
        method=method,
        scale=scale.astype(np.float32),
        means=means.astype(np.float32),
        components=directions[:kept].T.astype(np.float32),
        gains=gains.astype(np.float32),
        residual=residual,
    )


def acceptance_threshold(scores: Floats, acceptance: float) -> float:
    """The score that this share of known images does not exceed."""
    return float(np.quantile(scores.astype(np.float64), acceptance, method="higher"))


def compare(
    inside: Mapping[str, Floats], outside: Mapping[str, Mapping[str, Floats]]
) -> tuple[str, dict[str, Any]]:
    """Chooses among candidates by their AUROC between known and foreign images.

    Args:
        inside: Scores of known images, by candidate.
        outside: Scores of foreign images, by candidate and source.

    Returns:
        The best candidate, and `{name: {auroc, per_source: {source: auroc}}}`. `auroc` is the mean over the
        sources, so that a source with many images does not drown the others.
    """
    table: dict[str, Any] = {}
    for name, known in inside.items():
        per_source = {source: auroc(known, scores) for source, scores in outside[name].items()}
        table[name] = {"auroc": float(np.mean(list(per_source.values()))), "per_source": per_source}
    return max(table, key=lambda name: float(table[name]["auroc"])), table


def auroc(inside: Floats, outside: Floats) -> float:
    """Chance that a foreign image scores above a known one, ties half."""
    order = np.sort(inside)
    below = np.searchsorted(order, outside, side="left")
    upto = np.searchsorted(order, outside, side="right")
    return float((below + upto).mean() / 2 / len(inside))


def _pooled(output: keras.KerasTensor, cells: int) -> keras.KerasTensor:
    """Means over cells x cells parts, [N, cells * cells * channels]; they overlap where sides are odd."""
    if cells == 1:
        return ops.mean(output, axis=(1, 2))
    height, width, channels = output.shape[1:]
    # One product with a constant in place of a slice and a mean for each cell.
    shares = np.zeros((cells, cells, height, width), np.float32)
    for row in range(cells):
        for column in range(cells):
            top, bottom = row * height // cells, -(-(row + 1) * height // cells)
            left, right = column * width // cells, -(-(column + 1) * width // cells)
            shares[row, column, top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
    means = ops.matmul(
        shares.reshape(cells * cells, height * width), ops.reshape(output, (-1, height * width, channels))
    )
    return ops.reshape(means, (-1, cells * cells * channels))


def fit_ood(
    model: keras.Model,
    training: Examples,
    validation: Examples,
    foreign: Mapping[str, npt.NDArray[np.uint8]],
    *,
    acceptance: float,
    reporter: Reporter,
) -> tuple[dict[str, Any], FeatureDistance | None]:
    """Fits the candidates, chooses one, and sets its threshold.

    `validation` chooses the score, together with `foreign` (uint8 [n, H, W, 3] by source), and sets the
    threshold, which accepts the share `acceptance` of it.

    Returns:
        What ood.json holds, and the chosen distance, None for the energy score.
    """
    names = list(CANDIDATES)
    network = keras.Model(model.inputs, [*(taps(model, name) for name in names), model.output])
    known = len(training) + len(validation)
    reporter.phase("ood", total=known + sum(map(len, foreign.values())), unit="images")

    def features(images: npt.NDArray[np.uint8]) -> list[Floats]:
        parts: list[list[Floats]] = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            parts.append([np.asarray(value) for value in network.predict_on_batch(batch.astype(np.float32))])
            reporter.advance(len(batch))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    fitted = dict(zip(names, features(training.pixels), strict=False))
    distances = {name: fit_distance(name, fitted[name], training.labels) for name in names}

    def scores(images: npt.NDArray[np.uint8]) -> dict[str, Floats]:
        *tapped, logits = features(images)
        found = {name: np.asarray(distances[name](value)) for name, value in zip(names, tapped, strict=True)}
        return {ENERGY: np.asarray(energy(logits)), **found}

    inside = scores(validation.pixels)
    by_source = {source: scores(images) for source, images in foreign.items()}
    outside = {name: {source: found[name] for source, found in by_source.items()} for name in inside}
    method, table = compare(inside, outside)
    threshold = acceptance_threshold(inside[method], acceptance)
    record = {
        "method": method,
        "threshold": threshold,
        "auroc": table[method]["auroc"],
        "candidates": table,
        "id_acceptance": float((inside[method] <= threshold).mean()),
    }
    return record, distances.get(method)
