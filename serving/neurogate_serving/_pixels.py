"""Decoded pixels of every mode, brought to 8-bit gray or colour.

Whatever needs intermediate images works in bands of rows: a header of a few bytes may promise tens of
millions of pixels, and each full copy of them is memory that many requests need at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# What a scanner or an exporter fills of a wider container: the narrowest that holds the largest value.
_BIT_DEPTHS = (8, 12, 16, 24, 31)
# The largest 32-bit float that fits a signed integer of 32 bits.
_LARGEST_FLOAT = float(np.nextafter(np.float32(2**31), np.float32(0)))
_BAND_PIXELS = 2**20


def flatten(image: Image.Image, *, inverted: bool = False) -> Image.Image:
    """An image of mode "L" or "RGB" that shows what `image` shows on a black ground.

    Args:
        image: A decoded image of any mode.
        inverted: Whether a 16-bit image counts down from black to white.

    Raises:
        ValueError: The mode has no colours.
    """
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _narrow(image, inverted=inverted)
    if mode in {"La", "RGBa"}:
        # Premultiplied alpha is the composition on black already.
        bands = image.split()[:-1]
        return bands[0] if len(bands) == 1 else Image.merge("RGB", bands)
    if image.has_transparency_data:
        return _on_black(image)
    if mode in {"L", "RGB"}:
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in pieces of full width, each with its first row."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_black(image: Image.Image) -> Image.Image:
    opaque, layered = ("L", "LA") if image.mode in {"1", "L", "LA"} else ("RGB", "RGBA")
    ground = Image.new(opaque, image.size)
    for top, band in _bands(image):
        layer = band.convert(layered)
        ground.paste(layer.convert(opaque), (0, top), layer.getchannel("A"))
    return ground


def _narrow(image: Image.Image, *, inverted: bool) -> Image.Image:
    """8-bit gray from samples of 16 or 32 bits.

    Scanners keep 12 bits in 16, so a fixed division by 256 would turn their images black. The samples are
    taken as 8, 12, 16, 24 or 31 bits wide, whichever is the first to hold the largest of them, and their
    highest 8 bits are kept. A 16-bit copy of an 8-bit image thus gives that image again.
    """
    largest = max(_samples(band, inverted=inverted).max().item() for _, band in _bands(image))
    # Floats from 0 to 1 are shares of white; others are whole numbers with a fraction too much.
    shares = isinstance(largest, float) and largest <= 1.0
    depth = 8 if shares else next(depth for depth in _BIT_DEPTHS if largest < 2**depth)
    narrow = np.empty((image.height, image.width), np.uint8)
    for top, band in _bands(image):
        samples = _samples(band, inverted=inverted)
        if samples.dtype.kind == "f":
            samples = (samples * 255 + 0.5 if shares else samples).astype(np.int32)
        narrow[top : top + band.height] = samples >> (depth - 8)
    return Image.fromarray(narrow)


def _samples(band: Image.Image, *, inverted: bool) -> npt.NDArray[Any]:
    """The samples of a band as numbers from 0 up; what is transparent, negative or not a number is 0."""
    values: npt.NDArray[Any] = np.array(band)
    if values.dtype.kind == "f":
        np.nan_to_num(values, copy=False, nan=0.0)
        np.clip(values, 0.0, _LARGEST_FLOAT, out=values)
        return values
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if inverted:
        np.subtract(0xFFFF, values, out=values)
    if isinstance(key := band.info.get("transparency"), int):
        values[values == key] = 0
    np.maximum(values, 0, out=values)
    return values
