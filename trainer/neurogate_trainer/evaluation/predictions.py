"""What a model said about a list of images, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from neurogate_core.files import replacing

from neurogate_trainer.errors import TrainerError

FloatArray = npt.NDArray[np.float32]


class PredictionsError(TrainerError, ValueError):
    """Arrays that do not belong together."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """A model's answers to N images of C classes, with the truth beside them.

    Attributes:
        classes: Class ids; column i of the arrays below belongs to `classes[i]`.
        paths: Path of each image, relative to the data set's root.
        labels: int64 [N], true class indices.
        probabilities: float32 [N, C], calibrated, each row summing to 1.
        logits: float32 [N, C].
        ood_score: float32 [N], larger means less like the training data.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: FloatArray
    logits: FloatArray
    ood_score: FloatArray

    def __post_init__(self) -> None:
        count, width = len(self.paths), len(self.classes)
        if width < 2 or len(set(self.classes)) != width:
            raise PredictionsError(
                f"predictions need at least two different classes, got {list(self.classes)}"
            )
        expected: dict[str, tuple[int, ...]] = {
            "labels": (count,),
            "probabilities": (count, width),
            "logits": (count, width),
            "ood_score": (count,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise PredictionsError(
                    f"{name} has shape {found}; {count} images of {width} classes need {shape}"
                )
        if count:
            if not bool(((self.labels >= 0) & (self.labels < width)).all()):
                raise PredictionsError(f"labels must lie between 0 and {width - 1}")
            check_probabilities(self.probabilities)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """int64 [N]: index of the most probable class."""
        indices: npt.NDArray[np.int64] = np.argmax(self.probabilities, axis=1).astype(np.int64)
        return indices

    @property
    def confidence(self) -> FloatArray:
        """float32 [N]: probability of the most probable class."""
        highest: FloatArray = self.probabilities.max(axis=1)
        return highest

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Bool [N]: whether the most probable class is the true one."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    def __len__(self) -> int:
        return len(self.paths)

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickled objects; replaces an older file in one step."""
        arrays: dict[str, Any] = {
            "classes": np.array(self.classes, dtype=np.str_),
            "paths": np.array(self.paths, dtype=np.str_),
            "labels": self.labels,
            "probabilities": self.probabilities,
            "logits": self.logits,
            "ood_score": self.ood_score,
        }
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def check_probabilities(probabilities: npt.NDArray[Any]) -> None:
    """Raise `PredictionsError` unless each row is finite, at least 0 and sums to 1 within 1e-3."""
    if not bool(np.isfinite(probabilities).all()):
        raise PredictionsError("probabilities must be finite numbers")
    if bool((probabilities < -1e-6).any()) or bool((np.abs(probabilities.sum(axis=1) - 1.0) > 1e-3).any()):
        raise PredictionsError("each row of probabilities must be at least 0 and sum to 1; are these logits?")
