"""Smooth random fields, drawn from a small bank instead of being filtered anew for every image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SCALES = (2.5, 5.0, 10.0, 44.0)
"""Standard deviations of the fields' Gaussian kernels, in pixels."""

_FIELDS = 12
_SIDE = 256


@dataclass(frozen=True, slots=True)
class Textures:
    """Periodic fields of unit variance: float32 [12, 256, 256] per scale."""

    fields: dict[float, Floats]

    def draw(self, scale: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
        """A random window of `shape` (at most 256 a side) of a random field, randomly mirrored."""
        field = self.fields[scale][rng.integers(_FIELDS)]
        top, left = (int(v) for v in rng.integers(_SIDE, size=2))
        rows, columns = np.arange(top, top + shape[0]) % _SIDE, np.arange(left, left + shape[1]) % _SIDE
        mirror = int(rng.integers(4))
        if mirror & 1:
            rows = rows[::-1]
        if mirror & 2:
            columns = columns[::-1]
        window: Floats = field[np.ix_(rows, columns)]
        return window


def make_textures() -> Textures:
    """The bank, the same in every process."""
    rng = np.random.default_rng(7)
    frequency = np.fft.fftfreq(_SIDE)[:, np.newaxis] ** 2 + np.fft.rfftfreq(_SIDE)[np.newaxis, :] ** 2
    fields: dict[float, Floats] = {}
    for scale in SCALES:
        spectrum = np.fft.rfft2(rng.standard_normal((_FIELDS, _SIDE, _SIDE)))
        smooth = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * scale) ** 2 * frequency), s=(_SIDE, _SIDE))
        fields[scale] = (smooth / smooth.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    return Textures(fields)


def smoothstep(signed: Floats) -> Floats:
    """A soft threshold: 0 far below zero, 0.5 at zero, 1 far above (the logistic function)."""
    return np.float32(1) / (np.float32(1) + np.exp(-np.clip(signed, np.float32(-20), np.float32(20))))
