"""One phantom image: where, in which plane, with what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .anatomy import paint_normal_findings
from .head import ORIGIN, SELLA, SHAPE, VOLUME_NAME, Head
from .lesions import draw_outline, paint_glioma, paint_meningioma, paint_pituitary
from .scanner import take_picture
from .scene import CONTRASTS, PLANES, Knob, Scene, open_scene, project
from .texture import Textures

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

_PAINTERS = {"glioma": paint_glioma, "meningioma": paint_meningioma, "pituitary": paint_pituitary}
_LOW_LEVEL_MM = -8.0
_VISIBLE_CHANGE = 0.1
_VISIBLE_MM2 = 60


@dataclass(frozen=True, slots=True)
class Description:
    """What an image shows: one row of the manifest."""

    class_id: str
    kind: str
    volume: str
    plane: str
    contrast: str
    x_mm: int
    y_mm: int
    z_mm: int
    radius_mm: float


def render(
    head: Head, textures: Textures, class_id: str, rng: np.random.Generator, *, difficulty: float, size: int
) -> tuple[Image.Image, Image.Image | None, Description]:
    """Draws one image of a class, and the mask of its lesion; everything random in them comes from `rng`.

    Args:
        head: The template head.
        textures: The bank of noise fields.
        class_id: One of CLASSES.
        rng: The image's own generator.
        difficulty: 0 (large, bright lesions) to 1 (small, faint ones among many confounders).
        size: Side of the square gray image in pixels.

    Returns:
        The image, the mask of the lesion's core (black and white, of the image's size; None without a lesion)
        and what the image shows.
    """
    knob = Knob(difficulty)
    while True:
        site, radius, scene, miss = _compose(head, textures, class_id, rng, knob)
        if class_id not in _PAINTERS:
            kind, core = "", None
            break
        healthy = scene.image.copy()
        in_plane = float(np.sqrt(max(radius**2 - miss**2, (0.45 * radius) ** 2)))
        kind, core = _PAINTERS[class_id](scene, draw_outline(scene, in_plane))
        # At the brain's edge a slice may miss what it should show (1 in 400); its label would be wrong.
        if np.count_nonzero(np.abs(scene.image - healthy) > _VISIBLE_CHANGE) >= _VISIBLE_MM2:
            break
    image, mask = take_picture(scene, radius, size, core)
    x, y, z = (round(v) for v in site)
    return (
        image,
        mask,
        Description(
            class_id, kind, VOLUME_NAME, PLANES[scene.axis], scene.contrast, x, y, z, round(radius, 1)
        ),
    )


def _compose(
    head: Head, textures: Textures, class_id: str, rng: np.random.Generator, knob: Knob
) -> tuple[tuple[float, float, float], float, Scene, float]:
    """A healthy slice near a site: site (MNI mm), radius of the lesion to come, scene, and the miss (mm)."""
    place_like = class_id if class_id in _PAINTERS else str(rng.choice(tuple(_PAINTERS), p=(0.3, 0.3, 0.4)))
    site = _draw_site(head, place_like, rng, low=bool(rng.random() < knob(0.20, 0.45)))
    axis = int(rng.choice(3, p=(0.25, 0.25, 0.5)))
    radius = _draw_radius(class_id, rng, knob)
    # The plane misses the centre by some of the radius, so lesions are cut at every height.
    miss = float(rng.uniform(-1, 1)) * knob(0.25, 0.5) * (radius or 8)
    index = int(np.clip(round(site[axis] - ORIGIN[axis] + miss), 2, SHAPE[axis] - 3))
    contrast, centre = _draw_contrast(rng, knob), project(axis, site)
    scene = open_scene(head, textures, rng, knob, axis=axis, index=index, contrast=contrast, centre=centre)
    paint_normal_findings(scene)
    return site, radius, scene, miss


def _draw_radius(class_id: str, rng: np.random.Generator, knob: Knob) -> float:
    if class_id == "glioma":
        return float(rng.uniform(knob(17, 9), 30))
    if class_id == "meningioma":
        return float(rng.uniform(knob(15, 8), 26))
    if class_id == "pituitary":
        return float(rng.uniform(knob(10.5, 5.5), 18))
    return 0.0


def _draw_contrast(rng: np.random.Generator, knob: Knob) -> str:
    bounds = (0.60, knob(0.95, 0.75), knob(1.0, 0.92), 1.0)
    chosen = rng.random()
    return next(name for name, bound in zip(CONTRASTS, bounds, strict=True) if chosen < bound)


def _draw_site(
    head: Head, place_like: str, rng: np.random.Generator, *, low: bool
) -> tuple[float, float, float]:
    """A point in MNI mm; `low` asks for the level of the skull base, where pituitary tumours always are."""
    if place_like == "pituitary":
        x, y, z = (float(v) for v in np.array(SELLA) + rng.normal(0, (1.5, 2.0, 1.5)))
        return x, y, z
    sites: npt.NDArray[np.int16] = head.glioma_sites if place_like == "glioma" else head.meningioma_sites
    if low:
        sites = sites[sites[:, 2] < _LOW_LEVEL_MM - ORIGIN[2]]
    x, y, z = (float(v) for v in sites[rng.integers(len(sites))] + np.array(ORIGIN))
    return x, y, z
