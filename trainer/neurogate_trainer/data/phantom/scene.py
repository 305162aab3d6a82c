"""One slice of the head while it is being painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .head import ORIGIN, SELLA, SHAPE, Head
from .texture import Floats, Textures

PLANES = ("sagittal", "coronal", "axial")
"""Names of the planes; the index is the axis of the head that the plane cuts."""

_Voxel = TypeVar("_Voxel", bound=np.generic)

CONTRASTS = ("t1c", "t1", "flair", "t2")
# Signal of cerebrospinal fluid, gray matter, white matter and fat. "t1c": T1 after a contrast agent.
_LEVELS = {
    "t1c": (0.12, 0.40, 0.48, 0.80),
    "t1": (0.12, 0.45, 0.68, 0.92),
    "flair": (0.10, 0.58, 0.48, 0.70),
    "t2": (0.90, 0.58, 0.40, 0.62),
}
# Where these tissues lie in the head's T1 signal, 0 to 1; between them the signal is interpolated.
_TISSUE_SIGNAL = (0.20, 0.50, 0.72, 0.92)


@dataclass(frozen=True, slots=True)
class Knob:
    """The difficulty, 0 to 1; called with the value for the easiest and for the hardest images."""

    difficulty: float

    def __call__(self, easy: float, hard: float) -> float:
        """The value in between."""
        return easy + (hard - easy) * self.difficulty


@dataclass(frozen=True, slots=True)
class Levels:
    """Signal of tissues in this image's contrast; about 0 (air) to 1 (fat on T1)."""

    fluid: float
    gray: float
    white: float
    fat: float
    bright_fluid: bool

    @property
    def brain(self) -> float:
        """The brighter of gray and white matter."""
        return max(self.gray, self.white)


@dataclass(slots=True)
class Scene:
    """A slice at 1 mm a pixel; row 0 is the top (or front) of the head, columns run along the other axis.

    Attributes:
        image: float32 [h, w], the signal; painting changes it.
        depth: float32 [h, w], distance to the brain's hull in mm, positive inside.
        white: float32 [h, w], share of white matter, 0 to 1.
        inside: float32 [h, w], soft mask of the hull's inside.
        axis: The axis that the slice cuts (index into PLANES).
        centre: Column and row of the lesion's centre, or of where it would be.
    """

    image: Floats
    depth: Floats
    white: Floats
    inside: Floats
    axis: int
    index: int
    centre: tuple[float, float]
    contrast: str
    levels: Levels
    textures: Textures
    rng: np.random.Generator
    knob: Knob

    def texture(self, scale: float) -> Floats:
        """A smooth random field of unit variance over the slice."""
        height, width = self.image.shape
        return self.textures.draw(scale, (height, width), self.rng)

    def offsets(self, centre: tuple[float, float]) -> tuple[Floats, Floats]:
        """Distance to the right of and below a point for every pixel: float32 [1, w] and [h, 1]."""
        height, width = self.image.shape
        right = np.arange(width, dtype=np.float32)[np.newaxis, :] - np.float32(centre[0])
        below = np.arange(height, dtype=np.float32)[:, np.newaxis] - np.float32(centre[1])
        return right, below

    def blend(self, mask: Floats, level: Floats | float) -> None:
        """Moves the signal towards `level` where the mask (0 to 1) says so."""
        self.image += mask * (level - self.image)

    def millimetres_to_sella(self) -> float:
        """Distance of the slice's plane from the pituitary gland."""
        return abs(SELLA[self.axis] - ORIGIN[self.axis] - self.index)


def project(axis: int, point: tuple[float, float, float]) -> tuple[float, float]:
    """Column and row, in a slice that cuts `axis`, of a point in MNI mm."""
    across, up = (a for a in range(3) if a != axis)
    return point[across] - ORIGIN[across], SHAPE[up] - 1 - (point[up] - ORIGIN[up])


def cut(volume: npt.NDArray[_Voxel], axis: int, index: int) -> npt.NDArray[_Voxel]:
    """The slice of a volume, row 0 at the top or front."""
    plane: npt.NDArray[_Voxel] = np.take(volume, index, axis=axis).T[::-1]
    return plane


def draw_levels(contrast: str, rng: np.random.Generator) -> Levels:
    """The contrast's tissue signals, as one scanner would give them."""
    fluid, gray, white, fat = (float(v) for v in np.array(_LEVELS[contrast]) * rng.normal(1, 0.08, 4))
    return Levels(fluid, gray, white, fat, bright_fluid=contrast in {"flair", "t2"})


def apply_contrast(signal: npt.NDArray[np.uint8], levels: Levels) -> Floats:
    """The T1 signal of the head, uint8, in another contrast: float32."""
    knots = (0.0, 0.06, *_TISSUE_SIGNAL, 1.0)
    values = (0.0, 0.03, levels.fluid, levels.gray, levels.white, levels.fat, levels.fat)
    table = np.interp(np.arange(256) / 255, knots, values).astype(np.float32)
    return table[signal]


def open_scene(
    head: Head,
    textures: Textures,
    rng: np.random.Generator,
    knob: Knob,
    *,
    axis: int,
    index: int,
    contrast: str,
    centre: tuple[float, float],
) -> Scene:
    """The slice of the healthy head in the given contrast."""
    levels = draw_levels(contrast, rng)
    depth = cut(head.depth, axis, index).astype(np.float32) / np.float32(2)
    return Scene(
        image=apply_contrast(cut(head.t1, axis, index), levels),
        depth=depth,
        white=cut(head.white, axis, index).astype(np.float32) / np.float32(255),
        inside=(depth > 0).astype(np.float32),
        axis=axis,
        index=index,
        centre=centre,
        contrast=contrast,
        levels=levels,
        textures=textures,
        rng=rng,
        knob=knob,
    )
