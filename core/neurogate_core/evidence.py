"""Where the cells of an evidence map lie in its picture."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

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
