"""The pictures that are sent: drawn here, the same bytes every time, about as large as a real slice."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 512
_MAX_COMMENT = 65_533


def slice_like(seed: int, *, side: int = SIDE, quality: int = 85) -> bytes:
    """A gray JPEG of a bright ellipse with smooth tissue-like texture, a spot, and scanner noise (about 40
    kB)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1.0 : 1.0 : side * 1j, -1.0 : 1.0 : side * 1j]
    inside = (x / 0.72) ** 2 + (y / 0.88) ** 2 < 1
    coarse = random.normal(size=(24, 24)).astype(np.float32)
    texture = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    centre = random.uniform(-0.4, 0.4, size=2)
    radius = random.uniform(0.08, 0.3)
    spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * radius**2))
    pixels = np.where(inside, 95 + 22 * texture + random.uniform(40, 110) * spot, 6)
    pixels = pixels + random.normal(scale=6, size=pixels.shape) * np.where(inside, 1.0, 0.4)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def padded_jpeg(image: bytes, size: int) -> bytes:
    """The same picture in `size` bytes, by comment segments that every decoder skips.

    Decoding costs the same whatever the size, so what grows with it is the price of moving bytes.
    """
    missing = size - len(image)
    segments = []
    while missing:
        body = min(missing - 4, _MAX_COMMENT)
        # A rest of 1 to 3 bytes would have no room for a segment's own header.
        if 0 < missing - 4 - body < 4:
            body -= 4
        segments.append(b"\xff\xfe" + struct.pack(">H", body + 2) + b"\x20" * body)
        missing -= body + 4
    return image[:2] + b"".join(segments) + image[2:]


def write_images(folder: Path, count: int) -> list[Path]:
    """Writes `count` different pictures, or finds them there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"slice_{number:02d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(slice_like(number))
    return paths
