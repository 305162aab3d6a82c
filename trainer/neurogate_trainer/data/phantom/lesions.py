"""The three synthetic tumours. Each paints itself into a scene and returns the name of its kind and its core.

The core is the tumour without oedema, cleft or dural tail: float32 [h, w], 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scene import Scene
from .texture import Floats, smoothstep


@dataclass(frozen=True, slots=True)
class Outline:
    """An irregular ellipse around the lesion's centre.

    Attributes:
        radius: Its mean radius in the slice, mm.
        fine: float32 [h, w], smooth noise of 2.5 mm.
        middle: The same of 5 mm.
        coarse: The same of 10 mm.
        stretch: Ratio of the long axis to the mean one.
        angle: Direction of the long axis, radians.
    """

    radius: float
    fine: Floats
    middle: Floats
    coarse: Floats
    stretch: float
    angle: float

    def reach(
        self, scene: Scene, *, shift: tuple[float, float] = (0.0, 0.0), stretch: float | None = None
    ) -> Floats:
        """Distance from the (shifted) centre in radii: 1 on the ellipse."""
        factor = np.float32(self.stretch if stretch is None else stretch)
        right, below = scene.offsets((scene.centre[0] + shift[0], scene.centre[1] + shift[1]))
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along, across = right * cosine + below * sine, below * cosine - right * sine
        distance: Floats = np.sqrt((along * factor) ** 2 + (across / factor) ** 2)
        return distance / np.float32(self.radius)

    def mask(self, inwards: Floats, softness: float) -> Floats:
        """Where a distance in radii is positive, with an edge of about `softness` mm."""
        return smoothstep(inwards * np.float32(self.radius / softness))


def draw_outline(scene: Scene, radius: float) -> Outline:
    """A random shape of the given radius."""
    stretch, angle = float(scene.rng.uniform(0.72, 1.3)), float(scene.rng.uniform(0, np.pi))
    coarse, middle, fine = scene.texture(10.0), scene.texture(5.0), scene.texture(2.5)
    return Outline(radius, fine, middle, coarse, stretch, angle)


def paint_glioma(scene: Scene, outline: Outline) -> tuple[str, Floats]:
    """A ragged mass in white matter with oedema: ring-enhancing, non-enhancing or patchy."""
    rng, levels, knob = scene.rng, scene.levels, scene.knob
    reach = outline.reach(scene) + 0.22 * outline.coarse + 0.10 * outline.middle
    core = outline.mask(1 - reach, 1.6) * scene.inside
    _oedema(
        scene,
        outline,
        reach,
        extent=rng.uniform(1.35, 1.9),
        strength=rng.uniform(0.5, 0.95),
        follows_white=True,
    )
    kind = rng.random()
    if kind < 0.62:
        necrosis = outline.mask(1 - rng.uniform(0.22, 0.40) - reach + 0.06 * outline.fine, 1.1) * scene.inside
        rim = np.clip(core - necrosis, 0, 1) * np.clip(0.85 + 0.30 * outline.middle, 0.25, 1.2)
        if levels.bright_fluid:
            rim_level, necrosis_level = (
                levels.brain * rng.uniform(1.0, 1.3),
                levels.brain * rng.uniform(0.8, 1.5),
            )
        else:
            rim_level = levels.brain * rng.uniform(knob(1.5, 1.15), 1.9)
            necrosis_level = levels.fluid * rng.uniform(0.8, 1.5)
        scene.blend(necrosis, np.float32(necrosis_level) + 0.04 * outline.fine)
        scene.blend(rim, float(rim_level))
        return "ring", core
    if kind < 0.80:
        if levels.bright_fluid:
            level = levels.brain * rng.uniform(1.2, 1.5)
        else:
            level = levels.white * rng.uniform(0.35, knob(0.52, 0.78))
        scene.blend(core * np.float32(rng.uniform(0.75, 1)), np.float32(level) * (1 + 0.07 * outline.middle))
        return "non-enhancing", core
    dark, bright = levels.brain * rng.uniform(0.55, 0.8), levels.brain * rng.uniform(1.25, 1.6)
    pattern = np.clip(0.5 + 0.55 * outline.middle + 0.25 * outline.fine, 0, 1)
    scene.blend(core, np.float32(dark) + pattern * np.float32(bright - dark))
    return "patchy", core


def paint_meningioma(scene: Scene, outline: Outline) -> tuple[str, Floats]:
    """A smooth, homogeneous mass on the dura with a fluid cleft towards the brain and often a dural tail."""
    rng, levels, knob = scene.rng, scene.levels, scene.knob
    shift = _inwards(scene, outline.radius * rng.uniform(0.35, 0.75))
    reach = outline.reach(scene, shift=shift, stretch=outline.stretch**0.6)
    reach = reach + 0.07 * outline.coarse + 0.02 * outline.middle
    within_dura = smoothstep((scene.depth + 2.5) * 1.6)
    core = outline.mask(1 - reach, 0.8) * within_dura
    cleft = np.clip(outline.mask(1.13 - reach, 0.9) - core, 0, 1) * within_dura * scene.inside
    if rng.random() < 0.4:
        _oedema(scene, outline, reach, extent=rng.uniform(1.3, 1.7), strength=0.7, follows_white=False)
    scene.blend(cleft * np.float32(rng.uniform(0.2, 0.7)), levels.fluid)
    lowest = knob(1.3, 1.0) if levels.bright_fluid else knob(1.5, 1.1)
    level = float(levels.brain * rng.uniform(lowest, 1.5 if levels.bright_fluid else 1.9))
    signal, kind = np.float32(level) * (1 + 0.03 * outline.fine), rng.random()
    name = "homogeneous"
    if kind < 0.18:
        name = "necrotic"
        signal = signal * (1 - 0.55 * smoothstep((0.45 - reach + 0.15 * outline.middle) * 12))
    elif kind < 0.30:
        name = "calcified"
        signal = signal * (1 - 0.45 * smoothstep((outline.fine - 1.1) * 6))
    scene.blend(core, signal)
    if rng.random() < 0.7:
        tail = np.exp(-(((scene.depth + 0.8) / 1.3) ** 2)) * smoothstep((1.75 - reach) * 6) * (1 - core)
        scene.blend(0.8 * tail, level)
    return name, core


def paint_pituitary(scene: Scene, outline: Outline) -> tuple[str, Floats]:
    """A round mass at the sella, often growing upwards: solid, cystic, or darker than brain."""
    rng, levels, knob = scene.rng, scene.levels, scene.knob
    reach = outline.reach(scene)
    rise, upper = rng.uniform(0, 0.9), rng.uniform(0.5, 0.85)
    if scene.axis != 2:
        right, below = scene.offsets((scene.centre[0], scene.centre[1] - (rise + 0.35) * outline.radius))
        reach = np.minimum(reach, np.hypot(right, below) / np.float32(outline.radius * upper))
    reach = reach + 0.06 * outline.coarse + 0.02 * outline.middle
    core = outline.mask(1 - reach, 0.8)
    lowest = knob(1.25, 0.95) if levels.bright_fluid else knob(1.4, 1.0)
    level = levels.brain * rng.uniform(lowest, 1.4 if levels.bright_fluid else 1.8)
    signal, kind = np.float32(level) * (1 + 0.04 * outline.fine), rng.random()
    name = "solid"
    if kind < 0.25:
        name = "cystic"
        hollow = smoothstep((np.float32(rng.uniform(0.45, 0.7)) - reach) * 14)
        signal = signal * (1 - np.float32(rng.uniform(0.35, 0.6)) * hollow)
    elif kind < knob(0.27, 0.45):
        name = "dark"
        signal = signal * np.float32(rng.uniform(0.6, 0.8))
    cleft = np.clip(outline.mask(1.16 - reach, 0.9) - core, 0, 1)
    scene.blend(cleft * np.float32(rng.uniform(0.2, 0.7)), levels.fluid * 0.8)
    scene.blend(core, signal)
    return name, core


def _oedema(
    scene: Scene, outline: Outline, reach: Floats, *, extent: float, strength: float, follows_white: bool
) -> None:
    """Swelling around a mass; it spreads along white matter."""
    mask = outline.mask(np.float32(extent) - reach, 3.0) * scene.inside
    if follows_white:
        mask = mask * (0.35 + 0.65 * scene.white)
    if scene.levels.bright_fluid:
        level = scene.levels.brain * scene.rng.uniform(1.25, 1.55)
    else:
        level = scene.levels.white * scene.rng.uniform(0.55, 0.78)
    scene.blend(mask * np.float32(strength), float(level))


def _inwards(scene: Scene, length: float) -> tuple[float, float]:
    """A step of `length` mm from the centre into the brain; none where depth has no direction."""
    column, row = int(scene.centre[0]), int(scene.centre[1])
    around = scene.depth[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7]
    down, right = (float(g.mean()) for g in np.gradient(around))
    norm = float(np.hypot(down, right))
    return (length * right / norm, length * down / norm) if norm > 0.15 else (0.0, 0.0)
