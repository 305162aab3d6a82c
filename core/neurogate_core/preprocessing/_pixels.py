"""Decoded pixels of every kind, brought to 8-bit gray or colour.

Whatever needs wider numbers works in bands of rows: a header of a few bytes may promise tens of millions of
pixels, and each full copy of them is memory that many requests need at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_BAND_PIXELS = 2**18
# Revision 1: what a scanner fills of a wider container is the narrowest that holds the largest value.
_BIT_DEPTHS = (8, 12, 16, 24, 31, 32)
_LARGEST_FLOAT = np.float32(2**31 - 128)

Samples = npt.NDArray[Any]


def flatten(image: Image.Image) -> Image.Image:
    """An image of mode "L" or "RGB" that shows what an 8-bit image of any mode shows on a black ground.

    Raises:
        ValueError: The mode has no colours.
    """
    if image.has_transparency_data:
        return _on_black(image)
    if image.mode in {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def gray_samples(image: Image.Image, *, unsigned: bool, inverted: bool) -> Samples:
    """The numbers [h, w] of an image of mode "I", "F" or "I;16" in the machine's byte order.

    Args:
        image: A decoded image.
        unsigned: Whether 32-bit integers have no sign.
        inverted: Whether they count down from black to white.
    """
    samples = np.asarray(image)
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if unsigned:
        samples = samples.view(np.uint32)
    return ~samples if inverted else samples


def robust_window(samples: Samples, shown: npt.NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """The levels of black and of white that an image's own samples ask for.

    Black is the darkest sample after a hundredth of all is left out, white the brightest of those above black
    after a two-hundredth of these is left out; both parts are rounded up. What is not finite does not count.

    Args:
        samples: Integers of up to 32 bits, or floating-point numbers, of any shape.
        shown: Which of them count; of the same shape, or of that of their first axes.

    Returns:
        Black and white, equal when no sample lies above black.
    """
    values = samples.reshape(-1) if shown is None else samples[shown].reshape(-1)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    if values.dtype.kind != "f":
        if values.dtype.itemsize <= 2:
            return _counted_window(values)
        if shown is None:
            values = values.copy()
    rank = min(-(-values.size // 100), values.size - 1)
    values.partition(rank)
    black = values[rank]
    above = int(np.count_nonzero(values > black))
    if not above:
        return float(black), float(black)
    values = values[rank + 1 :]
    rank = values.size - 1 - min(-(-above // 200), above - 1)
    values.partition(rank)
    return float(black), float(values[rank])


def _counted_window(values: Samples) -> tuple[float, float]:
    """The same of integers of up to 16 bits, by how many there are of each: a sixth of the time."""
    low, high = int(values.min()), int(values.max())
    counts = np.zeros(high - low + 1, np.int64)
    for start in range(0, values.size, _BAND_PIXELS):
        band = values[start : start + _BAND_PIXELS].astype(np.int64) - low
        counts += np.bincount(band, minlength=len(counts))
    up_to = counts.cumsum()
    black = int(np.searchsorted(up_to, min(-(-values.size // 100), values.size - 1), side="right"))
    above = values.size - int(up_to[black])
    if not above:
        return float(low + black), float(low + black)
    rank = values.size - 1 - min(-(-above // 200), above - 1)
    return float(low + black), float(low + int(np.searchsorted(up_to, rank, side="right")))


def apply_window(samples: Samples, black: float, white: float) -> npt.NDArray[np.uint8]:
    """Samples as uint8: `black` and below, and what is not a number, are 0, `white` and above are 255.

    Between them round(255 * (sample - black) / (white - black)), halves upwards, in float64: alike on every
    machine, and exact for integers of up to 32 bits.
    """
    narrow = np.zeros(samples.shape, np.uint8)
    if white > black:
        for rows in bands(samples):
            levels = samples[rows].astype(np.float64)
            np.fmin(np.fmax(levels, black, out=levels), white, out=levels)
            levels -= black
            levels *= 255.0
            levels /= white - black
            levels += 0.5
            narrow[rows] = levels
    return narrow


def picture(
    samples: Samples,
    alpha: npt.NDArray[np.uint8] | None = None,
    *,
    revision: int,
    shown: npt.NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Decoded samples as an image of mode "L" or "RGB"; what is not 8-bit unsigned goes through a window.

    Args:
        samples: Numbers [h, w], or [h, w, c] for colours and for gray with alpha; black is the smallest.
        alpha: uint8 [h, w].
        revision: Of the transform.
        shown: bool [h, w]; pixels that are not shown are black and have no part in the window.
    """
    if alpha is not None and alpha.any():
        shown = alpha != 0
    if samples.dtype == np.uint8:
        narrow = samples
    elif revision == 1:
        narrow = _highest_bits(samples if shown is None else np.where(shown.T, samples.T, 0).T)
    else:
        narrow = apply_window(samples, *robust_window(samples, shown))
    if shown is not None and alpha is None:
        narrow[~shown] = 0
    gray = narrow.ndim == 2 or narrow.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(narrow.reshape(narrow.shape[:2]) if gray else narrow))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return flatten(image)


def _highest_bits(samples: Samples) -> npt.NDArray[np.uint8]:
    """Revision 1: the highest 8 of as many bits as hold the largest gray; colours always have 16."""
    fractions = samples.dtype.kind == "f"

    def band(rows: slice) -> Samples:
        if fractions:
            return np.nan_to_num(samples[rows].astype(np.float32), nan=0.0).clip(0, _LARGEST_FLOAT)
        return np.maximum(samples[rows], 0)

    largest = max(band(rows).max().item() for rows in bands(samples))
    # Floats from 0 to 1 are shares of white; others are whole numbers with a fraction too much.
    shares = fractions and largest <= 1
    depth = 16 if samples.ndim == 3 else next(depth for depth in _BIT_DEPTHS if largest < 2**depth)
    result = np.empty(samples.shape, np.uint8)
    for rows in bands(samples):
        whole = band(rows) * 255 + 0.5 if shares else band(rows)
        result[rows] = whole.astype(np.int64) >> (0 if shares else depth - 8)
    return result


def bands(samples: Samples) -> Iterator[slice]:
    """Rows of samples, some at a time, so that wider numbers of them take little memory."""
    rows = max(1, _BAND_PIXELS // max(1, samples[:1].size))
    return (slice(top, top + rows) for top in range(0, len(samples), rows))


def _on_black(image: Image.Image) -> Image.Image:
    """The image over black; alpha that is 0 everywhere says nothing, as old BMP writers leave it."""
    opaque, layered = ("L", "LA") if image.mode in {"1", "L", "LA"} else ("RGB", "RGBA")
    ground = Image.new(opaque, image.size)
    visible = False
    rows = max(1, 4 * _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        layer = image.crop((0, top, image.width, min(top + rows, image.height))).convert(layered)
        alpha = layer.getchannel("A")
        visible = visible or alpha.getbbox() is not None
        ground.paste(layer.convert(opaque), (0, top), alpha)
    return ground if visible else image.convert(layered).convert(opaque)
