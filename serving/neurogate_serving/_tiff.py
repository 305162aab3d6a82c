"""TIFF, reduced to one directory that holds only what the pixels of its first page need.

A TIFF is a graph of directories with free-form tags, so its readers warn about, follow and allocate by
whatever a file says. Here the first directory is read, the tags that decide pixels are checked and
written into a new directory at the end of the file, and everything else is left unreachable.
"""

from __future__ import annotations

import math
import struct

from ._image_errors import ImageCorruptError, ImageFormatUnsupportedError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _COLOR_MAP = 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES = 338, 339, 347
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532

_SINGLE = frozenset(
    {
        *(_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP),
        *(_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT),
    }
)
_SEVERAL = frozenset(
    {
        *(_BITS, _STRIP_OFFSETS, _STRIP_COUNTS, _COLOR_MAP, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA_SAMPLES),
        *(_SAMPLE_FORMAT, _YCBCR_SUBSAMPLING),
    }
)
_RATIONALS = frozenset({_YCBCR_COEFFICIENTS, _REFERENCE_BLACK_WHITE})
# None, LZW, JPEG, deflate (two numbers), PackBits. Not CCITT: libtiff goes on after an error in it and writes
# a line to stderr for every row, so a small file would fill a server's log.
_COMPRESSIONS = frozenset({1, 5, 7, 8, 32946, 32773})
_DEPTHS = frozenset({1, 2, 4, 8, 12, 16, 32})
_MAX_SAMPLES = 6
# Tiles may stick out of the image, and a decoder allocates whole ones.
_MAX_PROTRUDING_TILE = 1024


def reduce_tiff(data: bytes) -> tuple[bytes, tuple[int, int], int, bool]:
    """The first page alone.

    Returns:
        The file, its width and height, its orientation (1 to 8), and whether its 16-bit samples have to be
        inverted after they are decoded.

    Raises:
        ImageCorruptError: A tag is missing or out of range.
        ImageFormatUnsupportedError: A kind of TIFF that is not accepted.
    """
    order = "<" if data[:2] == b"II" else ">"
    integers, raw = _read_directory(data, order)
    width, height = (
        _one(integers, tag, name) for tag, name in ((_WIDTH, "ImageWidth"), (_HEIGHT, "ImageLength"))
    )
    if width < 1 or height < 1:
        raise ImageCorruptError(f"TIFF image is {width} x {height} pixels")
    inverted = _check_kind(integers, order)
    _check_layout(integers, width, height)
    orientation = integers.pop(_ORIENTATION, [1])[0]
    return (
        _rewrite(data, order, integers, raw),
        (width, height),
        orientation if 1 <= orientation <= 8 else 1,
        inverted,
    )


def _check_kind(integers: dict[int, list[int]], order: str) -> bool:
    """Refuses kinds of samples that are not read; says whether the decoded ones have to be inverted."""
    compression = integers.get(_COMPRESSION, [1])[0]
    if compression not in _COMPRESSIONS:
        raise ImageFormatUnsupportedError(
            f"TIFF image has compression {compression}, expected 1 (none), 5 (LZW), 7 (JPEG), 8 (deflate) "
            "or 32773 (PackBits)"
        )
    photometric = integers.setdefault(_PHOTOMETRIC, [0])[0]
    bits = integers.get(_BITS, [1])[0]
    unsigned = integers.get(_SAMPLE_FORMAT, [1])[0] == 1
    if bits not in _DEPTHS:
        raise ImageFormatUnsupportedError(
            f"TIFF image has {bits} bits per sample, expected 1, 2, 4, 8, 12, 16 or 32"
        )
    if order == ">" and compression != 1 and not unsigned:
        # libtiff hands these over in the machine's byte order, and Pillow then swaps them all the same.
        raise ImageFormatUnsupportedError(
            "TIFF image has big-endian, compressed, signed or floating-point samples, expected little-endian"
        )
    if photometric == 6 and compression != 7:
        # Pillow before 13 reads these as truncated images.
        raise ImageFormatUnsupportedError(
            "TIFF image has YCbCr samples without JPEG compression, expected RGB samples or compression 7"
        )
    if photometric == 3 and len(integers.get(_COLOR_MAP, ())) != 3 * 2**bits:
        raise ImageCorruptError(
            f"TIFF palette image of {bits} bits has no colour map of {3 * 2**bits} values"
        )
    if photometric != 0 or bits < 16:
        return False
    if bits > 16 or not unsigned:
        raise ImageFormatUnsupportedError(
            f"TIFF image has signed, floating-point or {bits}-bit samples that count down to white, "
            "expected up to 16 bits, unsigned"
        )
    # No decoder inverts 16 bits, and some only read them as what they are not: counting up.
    integers[_PHOTOMETRIC] = [1]
    return True


def _read_directory(
    data: bytes, order: str
) -> tuple[dict[int, list[int]], dict[int, tuple[int, int, bytes]]]:
    """The known tags of the first directory: as integers, and as (type, count, bytes) for the others."""
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    integers: dict[int, list[int]] = {}
    raw: dict[int, tuple[int, int, bytes]] = {}
    for index in range(count):
        tag, kind, length = struct.unpack_from(f"{order}HHL", data, start + 2 + 12 * index)
        if tag in integers or tag in raw:
            continue
        if tag in _SINGLE or tag in _SEVERAL:
            code, size = {1: ("B", 1), 3: ("H", 2), 4: ("L", 4)}.get(kind, ("", 0))
        elif tag in _RATIONALS:
            code, size = ("raw", 8) if kind == 5 else ("", 0)
        elif tag == _JPEG_TABLES:
            code, size = ("raw", 1) if kind in {1, 7} else ("", 0)
        else:
            continue
        if not code or not length:
            raise ImageCorruptError(f"TIFF tag {tag} has {length} values of type {kind}")
        where = start + 2 + 12 * index + 8
        if length * size > 4:
            (where,) = struct.unpack_from(f"{order}L", data, where)
        if tag in _SINGLE:
            length = 1
        content = data[where : where + length * size]
        if len(content) != length * size:
            raise ImageCorruptError(f"TIFF image is truncated: the values of tag {tag} end beyond the file")
        if code == "raw":
            raw[tag] = (kind, length, content)
        else:
            integers[tag] = list(struct.unpack(f"{order}{length}{code}", content))
    return integers, raw


def _one(integers: dict[int, list[int]], tag: int, name: str) -> int:
    if tag not in integers:
        raise ImageCorruptError(f"TIFF image has no {name} (tag {tag}) in its first page")
    return integers[tag][0]


def _check_layout(integers: dict[int, list[int]], width: int, height: int) -> None:
    """Exactly the strips or tiles that the image needs, of sizes that fit it."""
    samples = integers.get(_SAMPLES, [1])[0]
    if not 1 <= samples <= _MAX_SAMPLES:
        raise ImageFormatUnsupportedError(
            f"TIFF image has {samples} samples per pixel, at most {_MAX_SAMPLES} are read"
        )
    planes = samples if integers.get(_PLANAR) == [2] else 1
    if _TILE_OFFSETS in integers:
        tile_width = _one(integers, _TILE_WIDTH, "TileWidth")
        tile_height = _one(integers, _TILE_HEIGHT, "TileLength")
        for side, tile in ((width, tile_width), (height, tile_height)):
            if tile < 16 or tile % 16 or tile > max(side + 15, _MAX_PROTRUDING_TILE):
                raise ImageCorruptError(
                    f"TIFF image of {width} x {height} has tiles of {tile_width} x {tile_height}"
                )
        expected = math.ceil(width / tile_width) * math.ceil(height / tile_height) * planes
        places, counts = _TILE_OFFSETS, _TILE_COUNTS
        integers.pop(_STRIP_OFFSETS, None)
        integers.pop(_STRIP_COUNTS, None)
    else:
        _one(integers, _STRIP_OFFSETS, "StripOffsets")
        rows = min(integers.get(_ROWS_PER_STRIP, [height])[0], height)
        if rows < 1:
            raise ImageCorruptError("TIFF image has strips of 0 rows")
        integers[_ROWS_PER_STRIP] = [rows]
        expected = math.ceil(height / rows) * planes
        places, counts = _STRIP_OFFSETS, _STRIP_COUNTS
        for tag in (_TILE_WIDTH, _TILE_HEIGHT, _TILE_COUNTS):
            integers.pop(tag, None)
    for tag in (places, counts):
        if tag in integers:
            found = len(integers[tag])
            if found < expected:
                raise ImageCorruptError(f"TIFF tag {tag} has {found} values, expected {expected}")
            integers[tag] = integers[tag][:expected]


def _rewrite(
    data: bytes, order: str, integers: dict[int, list[int]], raw: dict[int, tuple[int, int, bytes]]
) -> bytes:
    """The file with a new first and only directory at its end."""
    entries = dict(raw)
    for tag, values in integers.items():
        kind, code = (3, "H") if max(values) <= 0xFFFF else (4, "L")
        entries[tag] = (kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))
    padding = b"\0" * (len(data) % 2)
    start = len(data) + len(padding)
    beyond = start + 2 + 12 * len(entries) + 4
    if beyond > 2**31:
        raise ImageFormatUnsupportedError(f"TIFF image of {len(data)} bytes is too large")
    directory = [struct.pack(f"{order}H", len(entries))]
    values_behind = b""
    for tag, (kind, count, content) in sorted(entries.items()):
        if len(content) <= 4:
            field = content.ljust(4, b"\0")
        else:
            field = struct.pack(f"{order}L", beyond + len(values_behind))
            values_behind += content + b"\0" * (len(content) % 2)
        directory.append(struct.pack(f"{order}HHL", tag, kind, count) + field)
    directory.append(b"\0\0\0\0")
    head = data[:4] + struct.pack(f"{order}L", start)
    return b"".join([head, data[8:], padding, *directory, values_behind])
