"""Reads the few kinds of NIfTI-1 volume that the phantom needs, and refuses all others."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurogate_trainer.errors import TrainerError

_HEADER_BYTES = 348
_MAX_BYTES = 1 << 29
_TYPES = {2: "u1", 4: "i2", 16: "f4", 512: "u2"}


class NiftiError(TrainerError, ValueError):
    """The file is no NIfTI-1 volume of a supported kind."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels [X, Y, Z] and the world position of their centres: mm = origin + spacing * index, per axis."""

    voxels: npt.NDArray[Any]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


def read_nifti(path: Path) -> Volume:
    """The volume in a single-file `.nii.gz` (little-endian, unscaled, axes along the world's).

    Raises:
        NiftiError: The file is damaged or of a kind that is not supported; the message says which.
    """
    try:
        with gzip.open(path) as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NiftiError(f"{path.name} is not a complete gzip file: {error}") from error
    if len(raw) > _MAX_BYTES:
        raise NiftiError(f"{path.name} unpacks to more than {_MAX_BYTES} bytes")
    if len(raw) < _HEADER_BYTES or struct.unpack_from("<i", raw)[0] != _HEADER_BYTES:
        raise NiftiError(f"{path.name} has no little-endian NIfTI-1 header")
    if raw[344:348] != b"n+1\0":
        raise NiftiError(f"{path.name} has magic {raw[344:348]!r}, expected b'n+1\\x00'")
    dimensions = struct.unpack_from("<8h", raw, 40)
    shape = dimensions[1:4]
    if not 3 <= dimensions[0] <= 7 or min(shape) < 1 or any(n > 1 for n in dimensions[4 : dimensions[0] + 1]):
        raise NiftiError(f"{path.name} has dimensions {dimensions}, expected one 3-D volume")
    (code,) = struct.unpack_from("<h", raw, 70)
    if code not in _TYPES:
        raise NiftiError(f"{path.name} has data type {code}, expected one of {sorted(_TYPES)}")
    slope, intercept = struct.unpack_from("<2f", raw, 112)
    if slope not in {0.0, 1.0} or intercept != 0.0:
        raise NiftiError(f"{path.name} scales its voxels ({slope}, {intercept}), which is not supported")
    (offset,) = struct.unpack_from("<f", raw, 108)
    kind = np.dtype(_TYPES[code]).newbyteorder("<")
    start, count = int(offset), math.prod(shape)
    if start < _HEADER_BYTES or len(raw) < start + count * kind.itemsize:
        raise NiftiError(
            f"{path.name} holds {len(raw)} bytes, its header announces {start + count * kind.itemsize}"
        )
    spacing, origin = _affine(path.name, raw)
    return Volume(np.frombuffer(raw, kind, count, start).reshape(shape, order="F"), spacing, origin)


def _affine(name: str, raw: bytes) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    (sform_code,) = struct.unpack_from("<h", raw, 254)
    rows = np.array(struct.unpack_from("<12f", raw, 280)).reshape(3, 4)
    spacing = np.diag(rows[:, :3])
    if sform_code < 1 or np.any(rows[:, :3] != np.diag(spacing)) or np.any(spacing == 0):
        raise NiftiError(f"{name} has no affine transform along the world's axes")
    first, second = spacing.tolist(), rows[:, 3].tolist()
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])
