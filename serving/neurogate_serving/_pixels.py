"""Decoded pixels of every mode, brought to 8-bit gray or colour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

# What a scanner or an exporter fills of a wider container: the narrowest that holds the largest value.
_BIT_DEPTHS = (8, 12, 16, 24, 31)


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
        gray = mode in {"1", "L", "LA"}
        layered = image.convert("LA" if gray else "RGBA")
        colors = layered.convert("L" if gray else "RGB")
        return Image.composite(colors, Image.new(colors.mode, colors.size), layered.getchannel("A"))
    if mode in {"L", "RGB"}:
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _narrow(image: Image.Image, *, inverted: bool) -> Image.Image:
    """8-bit gray from samples of 16 or 32 bits.

    Scanners keep 12 bits in 16, so a fixed division by 256 would turn their images black. The samples are
    taken as 8, 12, 16, 24 or 31 bits wide, whichever is the first to hold the largest of them, and their
    highest 8 bits are kept. A 16-bit copy of an 8-bit image thus gives that image again.
    """
    samples: npt.NDArray[np.int64]
    values = np.asarray(image)
    if values.dtype.kind == "f":
        samples = _whole_numbers(values.astype(np.float64))
    else:
        samples = values.astype(np.int64)
        if inverted:
            samples = 0xFFFF - samples
        np.maximum(samples, 0, out=samples)
        if isinstance(key := image.info.get("transparency"), int):
            samples[samples == key] = 0
    largest = int(samples.max(initial=0))
    depth = next(depth for depth in _BIT_DEPTHS if largest < 2**depth)
    return Image.fromarray((samples >> (depth - 8)).astype(np.uint8))


def _whole_numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Floating-point samples as whole ones: 0 to 1 becomes 0 to 255, anything wider loses its fraction."""
    values = np.nan_to_num(values, nan=0.0, posinf=2.0**31 - 1, neginf=0.0)
    np.clip(values, 0.0, 2.0**31 - 1, out=values)
    if values.max(initial=0.0) <= 1.0:
        values = np.floor(values * 255.0 + 0.5)
    return values.astype(np.int64)
