"""Where a map of evidence points, where the lesion is, and where one would point without a model.

Pictures, masks and maps are all of the model's input size here, H x W; "the side" is the longer one of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

GROWN_BY: Final = 0.05
"""How far beside the lesion the map's maximum may lie and still count as pointing at it, in sides."""

HIDDEN_SHARE: Final = 0.05
"""Share of the picture that the deletion test hides."""

SPOT: Final = 0.03
"""Blur before the brightest spot is sought, in sides, so that no single vessel or noisy pixel wins."""

_HIDING_BLUR: Final = 0.05
_HIDING_EDGE: Final = 0.01
_HEAD_BLUR: Final = 0.02
_HEAD_LEVEL: Final = 0.12

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Point = tuple[int, int]
"""Row and column."""

BASELINES: Final = ("centre", "head_centre", "brightest_spot")


@dataclass(frozen=True, slots=True)
class Lesion:
    """Where the lesion of one picture is.

    Attributes:
        core: bool [H, W], at least one pixel.
        near: The same, grown by 5 % of the side.
    """

    core: Mask
    near: Mask


def lesion_of(mask: Mask, height: int, width: int) -> Lesion | None:
    """A lesion in the model's input, from a mask of any size; None for an empty mask."""
    if not mask.any():
        return None
    small = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    share = np.asarray(small)
    # A lesion that fills half of no pixel is where it fills most.
    core = share >= min(0.5, float(share.max()))
    near = ndimage.distance_transform_edt(~core) <= GROWN_BY * max(height, width)
    return Lesion(core, np.asarray(near))


def peak(heat: Floats) -> Point | None:
    """Where a map is strongest; None for a map without evidence."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return (int(row), int(column)) if heat[row, column] > 0 else None


def scores(heat: Floats, lesion: Lesion) -> tuple[float, float, float]:
    """Whether the maximum is at the lesion, whether it is within it, and the share of the map within it."""
    found = peak(heat)
    if found is None:
        return 0.0, 0.0, 0.0
    return float(lesion.near[found]), float(lesion.core[found]), float(heat[lesion.core].sum() / heat.sum())


def baselines(pixels: Pixels) -> dict[str, Point]:
    """Where one would point without a model: the picture's centre, the head's, and the brightest spot."""
    height, width = pixels.shape[:2]
    gray = pixels.mean(axis=2, dtype=np.float32)
    rows, columns = np.nonzero(_head(gray))
    spot = _blurred(gray, SPOT)
    brightest = np.unravel_index(int(spot.argmax()), spot.shape)
    return {
        "centre": (height // 2, width // 2),
        "head_centre": (round(float(rows.mean())), round(float(columns.mean()))),
        "brightest_spot": (int(brightest[0]), int(brightest[1])),
    }


def strongest(heat: Floats) -> Mask:
    """The 5 % of the picture where a map is strongest, bool [H, W]."""
    count = max(1, round(HIDDEN_SHARE * heat.size))
    chosen = np.zeros(heat.size, bool)
    chosen[np.argpartition(heat.ravel(), -count)[-count:]] = True
    return chosen.reshape(heat.shape)


def random_disc(pixels: Pixels, rng: np.random.Generator) -> Mask:
    """A disc of 5 % of the picture around a random place of the head, bool [H, W]."""
    height, width = pixels.shape[:2]
    places = np.argwhere(_head(pixels.mean(axis=2, dtype=np.float32)))
    row, column = places[rng.integers(len(places))]
    down, right = np.ogrid[:height, :width]
    distance = (down - row) ** 2 + (right - column) ** 2
    return strongest(-distance.astype(np.float32))


def hidden(pixels: Pixels, where: Mask) -> Pixels:
    """A picture in which some places are blurred away, with a soft edge.

    Only what surrounds them goes into the blur: a bright lesion that is merely smeared is still a lesion.
    """
    planes, kept = pixels.transpose(2, 0, 1).astype(np.float32), (~where).astype(np.float32)
    mixed = planes + _blurred(1 - kept, _HIDING_EDGE) * (_around(planes, kept) - planes)
    return np.rint(mixed).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _head(gray: Floats) -> Mask:
    """The head before the dark background, bool [H, W]; the whole picture where there is no telling."""
    smooth = _blurred(gray, _HEAD_BLUR)
    head = np.asarray(smooth > _HEAD_LEVEL * smooth.max())
    return head if head.any() else np.ones(gray.shape, bool)


def _blurred(plane: Floats, share: float) -> Floats:
    """A plane [H, W] behind a Gaussian of a share of the side."""
    return np.asarray(ndimage.gaussian_filter(plane, share * max(plane.shape), mode="nearest", truncate=3))


def _around(planes: Floats, kept: Floats) -> Floats:
    """Planes [n, H, W], at every place the mean of what is kept around it."""
    # Three boxes are nearly a Gaussian, and quick however wide they are.
    width = 2 * round(_HIDING_BLUR * max(kept.shape)) + 1
    stacked = np.concatenate([planes * kept, kept[np.newaxis]])
    for _ in range(3):
        stacked = ndimage.uniform_filter(stacked, (1, width, width), mode="nearest")
    result: Floats = stacked[:-1] / np.maximum(stacked[-1], 1e-6)
    return result
