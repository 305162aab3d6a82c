"""Masks: where in an image the lesion lies, for data sets that know it.

The mask of ROOT/Training/glioma/7.jpg is ROOT/.neurogate/masks/Training/glioma/7.png. The folder is hidden,
so nothing in it is ever taken for a class, a split or an image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from neurogate_core.preprocessing.dicom import is_dicom
from PIL import Image

from neurogate_trainer.progress import Reporter

from .layout import DatasetError

if TYPE_CHECKING:
    from .index import ImageRecord

MASKS_FOLDER: Final = ".neurogate/masks"
_LARGEST_FILE: Final = 64 * 2**20
_EXIF_ORIENTATION: Final = 0x0112
_ON_ITS_SIDE: Final = frozenset({5, 6, 7, 8})

Mask = npt.NDArray[np.bool_]


def mask_path(image_path: str) -> str:
    """Where the mask of an image would be; both paths are relative to the data set's root."""
    return f"{MASKS_FOLDER}/{PurePosixPath(image_path).with_suffix('.png')}"


def masked(root: Path, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Those of the images that have a mask, in their order."""
    # An example that lies outside the data set has an absolute path, and no mask.
    return [
        record
        for record in records
        if not Path(record.path).is_absolute() and (root / mask_path(record.path)).is_file()
    ]


def read_mask(root: Path, record: ImageRecord) -> Mask:
    """The mask of an image that has one: bool [height, width] of the upright image, true in the lesion.

    Every pixel other than 0 counts, so that a mask may be black and white or hold the numbers of regions.

    Raises:
        DatasetError: The file is broken, no PNG, or of another size than its image; the message names it.
    """
    path = root / mask_path(record.path)
    expected = _upright_size(root / record.path, record)
    try:
        size, length, pixels = _decoded(path, expected)
    except Exception as error:
        # Decoders raise whatever their input makes them.
        raise DatasetError(f"the mask {path} cannot be read ({error}); draw it again or remove it") from error
    if pixels is None:
        raise DatasetError(
            f"the mask {path} has {size[0]} x {size[1]} pixels in {length:,} bytes, its image {record.path} "
            f"has {expected[0]} x {expected[1]}; draw it again or remove it"
        )
    return np.asarray(np.atleast_3d(pixels != 0).any(axis=2))


def _decoded(
    path: Path, expected: tuple[int, int]
) -> tuple[tuple[int, int], int, npt.NDArray[np.generic] | None]:
    """Size in pixels, size in bytes, and the pixels; None for the last where a size is not as it should be.

    Nothing is decoded before the size is known to be that of an image that was accepted.
    """
    length = path.stat().st_size
    with Image.open(path, formats=["PNG"]) as image:
        if image.size != expected or length > _LARGEST_FILE:
            return image.size, length, None
        # The checksums, which tell of a file that was cut behind its last row.
        image.verify()
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.asarray(image)
        # An opaque black says no more than a clear one.
        return image.size, length, pixels[..., :-1] if image.mode in {"LA", "RGBA"} else pixels


def check_masks(root: Path, records: Sequence[ImageRecord], *, reporter: Reporter) -> int:
    """Reads every mask of a data set once, so that a bad one is known before hours of training.

    Returns:
        How many there are.

    Raises:
        DatasetError: As `read_mask`; or one mask would belong to two images.
    """
    if not (root / MASKS_FOLDER).is_dir():
        return 0
    found = masked(root, records)
    owners: dict[str, str] = {}
    for record in found:
        other = owners.setdefault(mask_path(record.path), record.path)
        if other != record.path:
            raise DatasetError(
                f"the mask {mask_path(record.path)} would belong to {other} and to {record.path}; rename one"
            )
    reporter.phase("masks", total=len(found), unit="masks")
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda record: read_mask(root, record), found):
            reporter.advance()
    _warn_of_strays(root, owners, reporter)
    return len(found)


def _warn_of_strays(root: Path, owners: Mapping[str, str], reporter: Reporter) -> None:
    """A mask under a wrong name would only be missed much later, where nothing is measured."""
    strays = [
        path
        for folder, _, names in os.walk(root / MASKS_FOLDER)
        for name in names
        if not name.startswith(".")
        and (path := (Path(folder) / name).relative_to(root).as_posix()) not in owners
    ]
    if strays:
        reporter.message(
            f"{len(strays)} masks belong to no usable image, e.g. {min(strays)}", level="warning"
        )


def _upright_size(path: Path, record: ImageRecord) -> tuple[int, int]:
    """Width and height as a viewer shows the image, and as the transform makes it."""
    if record.width == record.height:
        return record.width, record.height
    try:
        with path.open("rb") as file:
            if is_dicom(file.read(132)):
                return record.width, record.height
        with Image.open(path) as image:
            if image.format == "TIFF":
                exif = image.getexif()
            else:
                # Not getexif(), which may decode the whole image to find the entry behind its pixels.
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
            turned = exif.get(_EXIF_ORIENTATION) in _ON_ITS_SIDE
    except OSError as error:
        raise DatasetError(f"{path} was readable when the data set was indexed, but now: {error}") from error
    return (record.height, record.width) if turned else (record.width, record.height)
