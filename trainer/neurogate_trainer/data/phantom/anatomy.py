"""Normal findings that look a little like lesions; every class has them, so brightness tells nothing."""

from __future__ import annotations

import numpy as np

from .head import SELLA
from .scene import Scene, project


def paint_normal_findings(scene: Scene) -> None:
    """Vessels, small foci, the normal gland and its carotids, and enhancing dura."""
    _vessels(scene)
    if scene.rng.random() < 0.5:
        _foci(scene)
    if scene.millimetres_to_sella() < 6:
        _sella(scene)
    if not scene.levels.bright_fluid and scene.rng.random() < 0.5:
        strength = scene.rng.uniform(0, scene.knob(0.14, 0.30))
        sheet = np.exp(-(((scene.depth + 1.5) / 1.6) ** 2))
        scene.image += sheet * strength * (0.6 + 0.4 * scene.texture(10.0))


def _patch(scene: Scene, reach: int) -> tuple[tuple[slice, slice], int, int]:
    """A random place in the slice and the window around it."""
    height, width = scene.image.shape
    column, row = int(scene.rng.integers(8, width - 8)), int(scene.rng.integers(8, height - 8))
    window = (slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1))
    return window, column, row


def _vessels(scene: Scene) -> None:
    """Short, slightly bent, mostly bright strokes near the surface of the brain."""
    rng = scene.rng
    for _ in range(rng.poisson(scene.knob(3, 8))):
        window, column, row = _patch(scene, 12)
        if not -2 < scene.depth[row, column] < 25:
            continue
        angle, length, width = rng.uniform(0, np.pi), rng.exponential(1.6), rng.uniform(0.6, 1.3)
        bend, strength = rng.normal(0, 0.05), rng.uniform(0.08, scene.knob(0.30, 0.55))
        right, below = scene.offsets((column, row))
        right, below = right[:, window[1]], below[window[0]]
        bent = below + np.float32(bend) * right**2
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = np.clip(right * cosine + bent * sine, -length, length)
        squared = (right - along * cosine) ** 2 + (bent - along * sine) ** 2
        sign = 1 if rng.random() < 0.8 else -1
        scene.image[window] += np.exp(-squared / np.float32(2 * width**2)) * np.float32(sign * strength)


def _foci(scene: Scene) -> None:
    """One to three small spots deep in the brain: choroid plexus, white-matter foci."""
    rng = scene.rng
    for _ in range(int(rng.integers(1, 4))):
        window, column, row = _patch(scene, 11)
        if scene.depth[row, column] < 6:
            continue
        radius, squash, strength = rng.uniform(1.5, 3.5), rng.uniform(0.7, 1.4), rng.uniform(-0.22, 0.30)
        right, below = scene.offsets((column, row))
        squared = right[:, window[1]] ** 2 + (below[window[0]] * np.float32(squash)) ** 2
        spot = np.exp(-squared / np.float32(2 * radius**2))
        scene.image[window] += spot * np.float32(strength * scene.knob(0.6, 1.2))


def _sella(scene: Scene) -> None:
    """The normal gland, and the carotid arteries to its left and right."""
    rng = scene.rng
    column, row = project(scene.axis, SELLA)
    right, below = scene.offsets((column, row))
    gland = np.exp(-(((right / 4.2) ** 2 + (below / 3.2) ** 2) ** 1.5))
    scene.image += gland * np.float32(rng.uniform(0.03, scene.knob(0.15, 0.35)))
    if scene.axis != 0:
        for side in (-13, 13):
            artery = np.exp(-((right - side) ** 2 + (below - 1) ** 2) / 9)
            scene.image += artery * np.float32(rng.uniform(-1, 1) * scene.knob(0.16, 0.42))
