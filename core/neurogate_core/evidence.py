"""Evidence maps: where their cells lie in the picture, and how far they may be relied on."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from PIL import Image

LIMITS: Final = (
    "The map points, it does not outline; in part it shows what is conspicuous, whatever the class."
)

_LAST_STRIDE: Final = 32

Floats = npt.NDArray[np.float32]


def stretch(values: Floats, model_size: tuple[int, int], size: tuple[int, int]) -> Floats:
    """A map over the whole picture, every cell where it belongs, bilinearly between.

    The cells divide the picture evenly. In versions that were exported before the maps had a grid of their
    own, they are the units of the network's last feature map; unit i looks at pixel 32 i + 31 of the model's
    input, half a cell further down and right than its share of the picture.

    Args:
        values: float32 [h, w].
        model_size: Width and height of the model's input in pixels.
        size: Width and height of the picture.

    Returns:
        float32 [height, width], within the range of the values.
    """
    rows, columns = values.shape
    box = None
    if (columns * _LAST_STRIDE, rows * _LAST_STRIDE) == model_size:
        values = np.pad(values, ((1, 0), (1, 0)), "edge")
        # Pixel 31 has its centre 31.5 pixels from the edge; unit 0, behind the new cell, has it at 1.5 cells.
        start = 1.5 - 31.5 / _LAST_STRIDE
        box = (start, start, start + columns, start + rows)
    wide = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR, box)
    return np.asarray(wide).clip(values.min(), values.max())


def map_caution(measured: manifest_pb2.Localisation) -> str:
    """Why the maps of a version are not to be relied on; empty where nothing that was measured says so."""
    if not (measured.HasField("pointing") and measured.HasField("brightest_spot")):
        return ""
    found, beaten_by = measured.pointing.value, measured.brightest_spot.value
    # Written so that NaN is no recommendation.
    if found >= beaten_by:
        return ""
    return (
        "the maps of this version are not to be relied on: they point at the lesion in "
        f"{found:.1%} of its right answers to test images, the brightest spot of the image in {beaten_by:.1%}"
    )
