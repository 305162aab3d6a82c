"""A 64-bit perceptual hash, by which images that look alike are found without comparing all pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

SIDE = 32
"""Side of the gray thumbnail that is hashed, in pixels."""

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]


def _lowest_frequencies() -> list[tuple[int, int]]:
    frequencies = [(v, u) for v in range(SIDE) for u in range(SIDE) if (v, u) != (0, 0)]
    return sorted(frequencies, key=lambda vu: (vu[0] + vu[1], vu[0]))[:64]


_FREQUENCIES = _lowest_frequencies()
_ROWS = np.array([v for v, _ in _FREQUENCIES])
_COLUMNS = np.array([u for _, u in _FREQUENCIES])
_BITS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
# Mirroring left to right changes the sign of every odd horizontal frequency and of nothing else.
_MIRROR_MASK = np.bitwise_or.reduce(_BITS[_COLUMNS % 2 == 1])
# Coefficients of a thumbnail in gray levels reach thousands; below this they are rounding noise.
_SILENCE = 0.01


def to_gray(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Luma (ITU-R 601-2) float32 [H, W], 0 to 255, of uint8 [H, W, 3]."""
    gray: Floats = pixels.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
    return gray


def block_means(gray: Floats, side: int) -> Floats:
    """The means over equal blocks, [side, side]; both sides of `gray` must be multiples of `side`."""
    height, width = gray.shape
    if height % side or width % side:
        raise ValueError(f"{height} x {width} pixels cannot be cut into {side} x {side} equal blocks")
    blocks = gray.reshape(side, height // side, side, width // side)
    means: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def perceptual_hash(gray: Floats) -> int:
    """The signs of the 64 lowest frequencies (cosine transform, without the constant) of a gray image.

    Recompression, resizing, brightness and contrast leave nearly all bits as they are; bit 0 is the lowest
    frequency. An image without structure has hash 0.
    """
    coefficients = dctn(block_means(gray, SIDE).astype(np.float64), type=2, norm="ortho")
    positive = coefficients[_ROWS, _COLUMNS] > _SILENCE
    return int(np.bitwise_or.reduce(_BITS[positive], initial=np.uint64(0)))


def mirrored(hashes: Hashes) -> Hashes:
    """The hashes that the images would have when mirrored left to right."""
    flipped: Hashes = hashes ^ _MIRROR_MASK
    return flipped


def distances(left: Hashes, right: Hashes) -> npt.NDArray[np.uint8]:
    """Hamming distances, 0 to 64, of every hash in `left` [N] to every one in `right` [M]: uint8 [N, M]."""
    counts: npt.NDArray[np.uint8] = np.bitwise_count(left[:, np.newaxis] ^ right[np.newaxis, :])
    return counts
