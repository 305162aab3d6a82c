"""TIFF, reduced to one directory that holds only what the pixels of its first page need.

A TIFF is a graph of directories with free-form tags, so its readers warn about, follow and allocate by
whatever a file says, and Pillow takes some kinds of samples for others. Here the first directory is read, its
kind and layout are checked, and the tags that decide pixels become a new directory at the end of the file.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from ._jpeg import reduce_jpeg
from .errors import ImageCorruptError, ImageFormatUnsupportedError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _COLOR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 317, 320, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _YCBCR_SUBSAMPLING = 338, 339, 347, 530
_SEVERAL = {_BITS, _STRIP_OFFSETS, _STRIP_COUNTS, _COLOR_MAP, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA_SAMPLES}
_SEVERAL |= {_SAMPLE_FORMAT, _JPEG_TABLES, _YCBCR_SUBSAMPLING}
_SINGLE = {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP}
_SINGLE |= {_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT}
_STRIPS = {_STRIP_OFFSETS, _STRIP_COUNTS, _ROWS_PER_STRIP}
_TILES = {_TILE_OFFSETS, _TILE_COUNTS, _TILE_WIDTH, _TILE_HEIGHT}
_TYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1"}
# None, LZW, JPEG, deflate (two numbers), PackBits. Not CCITT: libtiff goes on after an error in it and writes
# a line to stderr for every row, so a small file would fill a server's log.
_JPEG = 7
_COMPRESSIONS = {1, 5, _JPEG, 8, 32946, 32773}
_MAX_SAMPLES = 6
# Tiles may stick out of the image, and a decoder allocates whole ones.
_MAX_PROTRUDING_TILE = 1024

_Tags = dict[int, npt.NDArray[Any]]


def reduce_tiff(data: bytes) -> tuple[bytes, tuple[int, int], int, bool]:
    """The first page alone.

    Returns:
        The file, its width and height, its orientation (1 to 8), and whether its samples have to be inverted
        after they are decoded.

    Raises:
        ImageCorruptError: A tag is missing or out of range.
        ImageFormatUnsupportedError: A kind of TIFF that is not read.
        struct.error: The directory ends beyond the file.
    """
    order = "<" if data[:2] == b"II" else ">"
    entries, tags = _read_directory(data, order)
    width, height = (_one(tags, tag, None) for tag in (_WIDTH, _HEIGHT))
    if width < 1 or height < 1:
        raise ImageCorruptError(f"TIFF image is {width} x {height} pixels")
    inverted = _check_kind(tags, order)
    layout = _layout(tags, width, height)
    for tag, count in layout.items():
        values = tags[tag][:count].tobytes()
        entries[tag] = (
            entries[tag][:4]
            + struct.pack(f"{order}L", count)
            + (values.ljust(4, b"\0") if len(values) <= 4 else entries[tag][8:])
        )
    orientation = _one(tags, _ORIENTATION, 1)
    for tag in {_ORIENTATION} | (_STRIPS if _TILE_OFFSETS in tags else _TILES):
        entries.pop(tag, None)
    if _one(tags, _COMPRESSION, 1) == _JPEG:
        if len(layout) != 2:
            raise ImageCorruptError("TIFF image in JPEG compression does not say how long its parts are")
        offsets, counts = (tags[tag] for tag in layout)
        for place, count in zip(offsets, counts, strict=False):
            reduce_jpeg(data[int(place) : int(place) + int(count)])
    if inverted:  # no decoder inverts these, and some only read them as what they are not: counting up
        entries[_PHOTOMETRIC] = struct.pack(f"{order}HHLHH", _PHOTOMETRIC, 3, 1, 1, 0)
    if _one(tags, _EXTRA_SAMPLES, 0) == 1:  # colours with associated alpha are composed on black already
        entries[_EXTRA_SAMPLES] = struct.pack(f"{order}HHLHH", _EXTRA_SAMPLES, 3, 1, 0, 0)
    end = len(data) + len(data) % 2
    colors = b""
    if _COLOR_MAP in tags and tags[_COLOR_MAP].max() < 256:  # some writers store bytes where 16 bits belong
        colors = (tags[_COLOR_MAP] * 257).astype(f"{order}u2").tobytes()
        entries[_COLOR_MAP] = struct.pack(f"{order}HHLL", _COLOR_MAP, 3, len(colors) // 2, end)
    directory = [struct.pack(f"{order}H", len(entries)), *(entries[tag] for tag in sorted(entries)), bytes(4)]
    start = struct.pack(f"{order}L", end + len(colors))
    whole = b"".join([data[:4], start, data[8:], bytes(len(data) % 2), colors, *directory])
    return whole, (width, height), orientation if 1 <= orientation <= 8 else 1, inverted


def _read_directory(data: bytes, order: str) -> tuple[dict[int, bytes], _Tags]:
    """The known tags of the first directory, as entries of 12 bytes and as numbers."""
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries: dict[int, bytes] = {}
    tags: _Tags = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, where = struct.unpack_from(f"{order}HHLL", data, place)
        if tag in tags or tag not in _SINGLE | _SEVERAL:
            continue
        if kind not in _TYPES or not length:
            raise ImageCorruptError(f"TIFF tag {tag} has {length} values of type {kind}")
        dtype = np.dtype(f"{order}{_TYPES[kind]}")
        if length * dtype.itemsize <= 4:
            where = place + 8
        length = 1 if tag in _SINGLE else length
        if where + length * dtype.itemsize > len(data):
            raise ImageCorruptError(f"TIFF image is truncated: the values of tag {tag} end beyond the file")
        tags[tag] = np.frombuffer(data, dtype, length, where)
        entries[tag] = data[place : place + 12]
        if tag in _SINGLE:
            value = tags[tag].tobytes().ljust(4, b"\0")
            entries[tag] = struct.pack(f"{order}HHL", tag, kind, 1) + value
    return entries, tags


def _one(tags: _Tags, tag: int, default: int | None) -> int:
    if tag in tags:
        return int(tags[tag][0])
    if default is None:
        raise ImageCorruptError(f"TIFF image has no tag {tag} in its first page")
    return default


def _check_kind(tags: _Tags, order: str) -> bool:
    """Refuses kinds that Pillow does not read right; says whether the samples have to be inverted."""
    compression, photometric = _one(tags, _COMPRESSION, 1), _one(tags, _PHOTOMETRIC, 0)
    bits, samples = _one(tags, _BITS, 1), _one(tags, _SAMPLES, 1)
    unsigned = _one(tags, _SAMPLE_FORMAT, 1) == 1
    separate = _one(tags, _PLANAR, 1) != 1 and samples > 1
    down = photometric == 0 and (bits > 8 or not unsigned)
    for wrong, found, expected in (
        (compression not in _COMPRESSIONS, f"compression {compression}", "1 (none), 5, 7, 8 or 32773"),
        (samples > _MAX_SAMPLES, f"{samples} samples per pixel", f"at most {_MAX_SAMPLES}"),
        (bits > 32, f"{bits} bits per sample", "at most 32"),
        (bits <= 8 and not unsigned, "signed samples of 8 bits", "unsigned ones"),
        (
            order == ">" and compression != 1 and not unsigned,
            "big-endian, compressed, signed or floating-point samples",
            "little-endian ones",
        ),
        (separate and (bits, samples, photometric) != (8, 3, 2), "separate planes", "pixels"),
        (
            photometric == 6 and compression != _JPEG,
            "YCbCr samples without JPEG compression",
            "compression 7",
        ),
        (down and (bits != 16 or not unsigned), "such samples that count down to white", "at most 16 bits"),
    ):
        if wrong:
            raise ImageFormatUnsupportedError(f"TIFF image has {found}, expected {expected}")
    if photometric == 3 and len(tags.get(_COLOR_MAP, ())) != 3 * 2**bits:
        raise ImageCorruptError(
            f"TIFF palette image of {bits} bits has no colour map of {3 * 2**bits} values"
        )
    return down


def _layout(tags: _Tags, width: int, height: int) -> dict[int, int]:
    """How many values of the tags of strips or tiles the image needs."""
    samples = _one(tags, _SAMPLES, 1)
    planes = samples if _one(tags, _PLANAR, 1) == 2 else 1
    if _TILE_OFFSETS in tags:
        tile = (_one(tags, _TILE_WIDTH, None), _one(tags, _TILE_HEIGHT, None))
        for side, length in zip((width, height), tile, strict=True):
            if length < 16 or length % 16 or length > max(side + 15, _MAX_PROTRUDING_TILE):
                raise ImageCorruptError(
                    f"TIFF image of {width} x {height} has tiles of {tile[0]} x {tile[1]}"
                )
        expected = math.ceil(width / tile[0]) * math.ceil(height / tile[1]) * planes
        places, counts = _TILE_OFFSETS, _TILE_COUNTS
    else:
        rows = min(_one(tags, _ROWS_PER_STRIP, height), height)
        if rows < 1:
            raise ImageCorruptError("TIFF image has strips of 0 rows")
        expected = math.ceil(height / rows) * planes
        places, counts = _STRIP_OFFSETS, _STRIP_COUNTS
    _one(tags, places, None)
    for tag in (places, counts):
        if tag in tags and len(tags[tag]) < expected:
            raise ImageCorruptError(f"TIFF tag {tag} has {len(tags[tag])} values, expected {expected}")
    return dict.fromkeys((tag for tag in (places, counts) if tag in tags), expected)
