"""Measures whether explanations point at the lesion, and whether answers rest on what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_core.evaluation import interval, resampled_means
from neurogate_core.evidence import stretch

from neurogate_trainer.data.index import ImageRecord
from neurogate_trainer.data.masks import masked, read_mask
from neurogate_trainer.progress import Reporter

from . import pointing
from .localisation_summary import SCORES
from .metrics import Json
from .pointing import BASELINES, Lesion
from .predictions import Predictions
from .saved_model import Pixels, SavedModel, decode_batches

MOST_IMAGES: Final = 1000
_CHUNK: Final = 16
_CONTROL: Final = tuple(f"control/{name}" for name in SCORES)
_DELETION: Final = ("changed", "random_disc")

Floats = npt.NDArray[np.float32]
Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Localisation:
    """What was measured.

    Attributes:
        metrics: What `localisation_summary` describes.
        pointed: Whether the map points at the lesion, by place in the predictions, for those measured.
    """

    metrics: Json
    pointed: dict[int, bool]


def measure_localisation(
    model: SavedModel,
    predictions: Predictions,
    records: Sequence[ImageRecord],
    root: Path,
    spec: manifest_pb2.TransformSpec,
    *,
    seed: int,
    bootstrap: int,
    reporter: Reporter,
) -> Localisation:
    """Measures the maps of the right answers to the test split, a few images at a time.

    `records` are the images of the predictions, in the same order.

    Raises:
        EvaluationError: An image is gone or damaged.
        DatasetError: So is a mask.
    """
    right = np.flatnonzero(predictions.correct)
    if len(right) > MOST_IMAGES:
        right = right[np.linspace(0, len(right) - 1, MOST_IMAGES).astype(int)]
    lesions = np.array([_has_lesion(root, record) for record in records])
    control = _control_class(predictions, lesions)
    columns = {name: np.full(len(records), np.nan) for name in (*SCORES, *_CONTROL, *BASELINES, *_DELETION)}
    generator = np.random.default_rng(seed)
    reporter.phase("explanations", total=len(right), unit="images")
    paths = [root / records[position].path for position in right.tolist()]
    chunks = decode_batches(paths, spec, batch_size=_CHUNK)
    for start, pixels in zip(range(0, len(right), _CHUNK), chunks, strict=True):
        positions = right[start : start + _CHUNK]
        named = predictions.predicted[positions]
        maps = model(pixels, ("gradcam",))["gradcam"]
        heats = [_over(maps[i, :, :, answer], pixels) for i, answer in enumerate(named)]
        for i, position in enumerate(positions.tolist()):
            lesion = _lesion(root, records[position], spec) if lesions[position] else None
            if lesion is None:
                continue
            other = _over(maps[i, :, :, control], pixels) if control is not None else None
            for name, value in _pointed(heats[i], other, pixels[i], lesion).items():
                columns[name][position] = value
        places = {
            "changed": [pointing.strongest(heat) for heat in heats],
            "random_disc": [pointing.random_disc(each, generator) for each in pixels],
        }
        for name, chosen in places.items():
            hidden = np.stack([pointing.hidden(*pair) for pair in zip(pixels, chosen, strict=True)])
            answers = model(hidden, ("probabilities",))["probabilities"].argmax(axis=1)
            columns[name][positions] = answers != named
        reporter.advance(len(positions))
    pointed = np.flatnonzero(~np.isnan(columns["pointing"]))
    table = _Table(predictions, columns, seed, bootstrap)
    with_lesion = int(lesions.sum())
    metrics = {
        "lesions": _lesion_metrics(table, pointed, with_lesion, control) if with_lesion else None,
        "deletion": {
            **table.estimates(pointed if with_lesion else right, _DELETION),
            "per_class": table.by_class(right, _DELETION),
        },
    }
    return Localisation(
        metrics, {position: columns["pointing"][position] > 0 for position in pointed.tolist()}
    )


def _has_lesion(root: Path, record: ImageRecord) -> bool:
    return bool(masked(root, [record])) and bool(read_mask(root, record).any())


def _lesion(root: Path, record: ImageRecord, spec: manifest_pb2.TransformSpec) -> Lesion | None:
    return pointing.lesion_of(read_mask(root, record), spec.height, spec.width)


def _control_class(predictions: Predictions, lesions: npt.NDArray[np.bool_]) -> int | None:
    marked = set(predictions.labels[lesions].tolist())
    others = set(range(len(predictions.classes))) - marked
    return others.pop() if marked and len(others) == 1 else None


def _over(heat: Floats, pixels: Pixels) -> Floats:
    size = (pixels.shape[2], pixels.shape[1])
    return stretch(np.ascontiguousarray(heat), size, size)


def _pointed(heat: Floats, other: Floats | None, pixels: Pixels, lesion: Lesion) -> dict[str, float]:
    found = dict(zip(SCORES, pointing.scores(heat, lesion), strict=True))
    if other is not None:
        found |= zip(_CONTROL, pointing.scores(other, lesion), strict=True)
    return found | {name: float(lesion.near[place]) for name, place in pointing.baselines(pixels).items()}


def _lesion_metrics(
    table: _Table, pointed: npt.NDArray[np.int64], with_lesion: int, control: int | None
) -> Json:
    measured = table.estimates(pointed, (*SCORES, *BASELINES, *_CONTROL))
    return {
        "images": measured["images"],
        "of": with_lesion,
        **{name: measured[name] for name in SCORES},
        "baselines": {name: measured[name] for name in BASELINES},
        "control": {"class_id": table.predictions.classes[control]}
        | {name: measured[f"control/{name}"] for name in SCORES}
        if control is not None
        else None,
        "per_class": table.by_class(pointed, SCORES),
    }


@dataclass(frozen=True, slots=True)
class _Table:
    """Values by name and image, and how sure their means are."""

    predictions: Predictions
    columns: Mapping[str, Column]
    seed: int
    bootstrap: int

    def estimates(self, positions: npt.NDArray[np.int64], names: Sequence[str]) -> Json:
        """Number of images, and of each value mean and interval over them."""
        empty = {"value": None, "low": None, "high": None}
        if not len(positions):
            return {"images": 0} | {name: empty | {"note": "no image was measured"} for name in names}
        values = np.stack([self.columns[name][positions] for name in names], axis=1)
        labels = self.predictions.labels[positions]
        means = resampled_means(labels, values, resamples=self.bootstrap, seed=self.seed)
        result: dict[str, Any] = {"images": len(positions)}
        for name, column, resampled in zip(names, values.T, means.T, strict=True):
            if not np.isnan(column).any():
                low, high = interval(resampled) if self.bootstrap else (None, None)
                result[name] = {"value": float(column.mean()), "low": low, "high": high}
        return result

    def by_class(self, positions: npt.NDArray[np.int64], names: Sequence[str]) -> list[Json]:
        """The same for each class that has an image among them."""
        labels = self.predictions.labels[positions]
        return [
            {"class_id": name} | self.estimates(positions[labels == index], names)
            for index, name in enumerate(self.predictions.classes)
            if (labels == index).any()
        ]
