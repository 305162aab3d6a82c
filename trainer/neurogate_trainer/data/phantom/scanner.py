"""From a painted slice to a picture as a scanner and a workstation would give it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from .scene import Scene
from .texture import Floats

_SIDE = 256
"""Side of the picture before it is enlarged, in pixels."""

_CELLS = 6
_HALF = 0.5

_Mesh = list[tuple[tuple[int, int, int, int], tuple[float, ...]]]
"""Pillow's: a box of the picture, and the quadrilateral of the slice that fills it."""


def take_picture(
    scene: Scene, radius: float, size: int, core: Floats | None
) -> tuple[Image.Image, Image.Image | None]:
    """The slice in a random pose, pushed aside by a lesion of `radius` mm (0: none), and the lesion's mask.

    Args:
        scene: The painted slice.
        radius: Of the lesion, mm.
        size: Side of both pictures in pixels.
        core: float32 [h, w], the lesion's core in the slice, 0 to 1; None for none.

    Returns:
        The picture, gray, and the mask, black and white: what is at least half core where it comes to lie in
        the picture. None without a core.
    """
    mesh = _pose(scene, radius)
    picture = _acquire(scene, _posed(scene.image, mesh))
    rng = scene.rng
    crop = rng.uniform(0, 0.08, 4) * _SIDE * (rng.random() < 0.5)
    box = (float(crop[0]), float(crop[1]), float(_SIDE - crop[2]), float(_SIDE - crop[3]))

    def enlarged(image: Image.Image) -> Image.Image:
        return image.resize((size, size), Image.Resampling.BILINEAR, box=box)

    mask = None
    if core is not None:
        mask = Image.fromarray(np.asarray(enlarged(Image.fromarray(_posed(core, mesh)))) >= _HALF)
    return enlarged(Image.fromarray(picture)), mask


def _pose(scene: Scene, radius: float) -> _Mesh:
    """Scale, turn, shift, mirror and bend: where each cell of the picture comes from in the slice."""
    rng = scene.rng
    height, width = scene.image.shape
    scale, turn = rng.uniform(0.88, 1.12) * _SIDE / 236, np.deg2rad(rng.normal(0, 5))
    shift_x, shift_y = rng.uniform(-0.05, 0.05, 2) * _SIDE
    aspect = rng.uniform(0.93, 1.07)
    if scene.axis != 2:
        scale *= 1.22
        # The volume ends below the skull base; that edge stays outside the picture.
        shift_y = max(shift_y, _SIDE * 1.05 - _SIDE / 2 - height / 2 * scale * aspect)
    mirror = -1 if rng.random() < 0.5 and scene.axis != 0 else 1
    knots = np.linspace(0, _SIDE, _CELLS + 1)
    grid_x, grid_y = np.meshgrid(knots, knots)
    x = (grid_x - _SIDE / 2 - shift_x) / scale * mirror * aspect
    y = (grid_y - _SIDE / 2 - shift_y) / scale / aspect
    source_x = np.cos(turn) * x - np.sin(turn) * y + width / 2 + rng.normal(0, 1.6, x.shape)
    source_y = np.sin(turn) * x + np.cos(turn) * y + height / 2 + rng.normal(0, 1.6, y.shape)
    if radius > 12:
        away_x, away_y = source_x - scene.centre[0], source_y - scene.centre[1]
        distance = np.hypot(away_x, away_y) + 1e-3
        push = rng.uniform(0.1, 0.3) * radius * np.exp(-((distance / (2.2 * radius)) ** 2))
        push *= np.minimum(distance / radius, 1)
        source_x -= away_x / distance * push
        source_y -= away_y / distance * push
    edges = [round(float(knot)) for knot in knots]
    mesh: _Mesh = []
    for i in range(_CELLS):
        for j in range(_CELLS):
            corners = ((j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1))
            quad = tuple(
                float(v) for row, column in corners for v in (source_x[row, column], source_y[row, column])
            )
            mesh.append(((edges[i], edges[j], edges[i + 1], edges[j + 1]), quad))
    return mesh


def _posed(slice_: Floats, mesh: _Mesh) -> Floats:
    """What lies in the slice, where the mesh takes it: float32 [256, 256]."""
    posed = Image.fromarray(np.ascontiguousarray(slice_, np.float32)).transform(
        (_SIDE, _SIDE), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
    )
    return np.asarray(posed, np.float32)


def _acquire(scene: Scene, signal: Floats) -> npt.NDArray[np.uint8]:
    """Bias field, Rician noise, at times ghosting, then window and gamma: uint8."""
    rng, knob = scene.rng, scene.knob
    bias = np.float32(rng.uniform(0.05, knob(0.18, 0.40))) * scene.textures.draw(44.0, (_SIDE, _SIDE), rng)
    signal = signal * np.exp(bias)
    noise = rng.standard_normal((2, _SIDE, _SIDE), dtype=np.float32) * np.float32(
        rng.uniform(0.004, knob(0.022, 0.055))
    )
    signal = np.hypot(signal + noise[0], noise[1])
    if rng.random() < 0.15:
        strength, distance = np.float32(rng.uniform(0.02, 0.07)), int(rng.integers(20, 110))
        signal = signal + strength * np.roll(signal, distance, axis=int(rng.integers(2)))
    sample = np.sort(signal[::2, ::2], axis=None)
    white = float(sample[int(sample.size * 0.995)]) * rng.uniform(0.85, 1.25)
    gamma = np.float32(rng.uniform(0.75, 1.3))
    gray: npt.NDArray[np.uint8] = (np.clip(signal / np.float32(white), 0, 1) ** gamma * 255).astype(np.uint8)
    return gray
