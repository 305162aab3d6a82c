"""JPEG, from its first byte to its own end, without what its pixels do not need.

Metadata is where decoders warn, loop and differ, and what lies behind the end marker is not the picture. Each
scan costs a pass over all pixels, however few bytes it has, so the scans are counted before any is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from .errors import ImageCorruptError, ImageFormatUnsupportedError

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_START, _END, _SCAN, _JFIF, _EXIF, _ADOBE, _JPEG_LS = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xF7
_FRAMES = frozenset({*range(0xC0, 0xD0), _JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset({0x01, _START, _END})
# Comments and APPs, of which what decides the colour space is written anew; tables of arithmetic coding and a
# late height, which decoders pass over.
_LEFT_OUT = frozenset({0x01, _START, _END, 0xCC, 0xDC, 0xFE, *range(0xE0, 0xF0)})
# A decoder that finds the end within a scan fills the picture up without a word. Behind a whole scan these
# bytes change nothing; in a cut one they become other pixels than the end does.
_FILLING = bytes.fromhex("a35c96e1") * 16
_MAX_SEGMENTS = 4_096
_MAX_SCANS = 32


def reduce_jpeg(data: bytes) -> tuple[bytes, tuple[int, int], bytes, bytes | None]:
    """Walks the segments once.

    Returns:
        What the decoder gets, which ends with an end marker; width and height; the first EXIF block. For a
        file without an end marker also other bytes, which give the same picture only if all pixels are there.

    Raises:
        ImageCorruptError: There is no scan, or the file ends before all of them are there.
        ImageFormatUnsupportedError: A kind of JPEG that is not read.
        struct.error: A segment ends beyond the file.
    """
    kept = [data[:2]]
    frame: tuple[int, ...] = ()  # height, width, components
    exif = b""
    scans, ended = 0, False
    whole: dict[int, int] = {}  # by component, a bit for each coefficient that is there at full precision
    for marker, start, end in _segments(data):
        ended = marker == _END
        if ended or (marker == _START and scans):
            break
        if marker == _SCAN:
            scans += 1
            _add_scan(whole, data[start + 4 : end])
            if scans > _MAX_SCANS:
                raise ImageFormatUnsupportedError(f"JPEG image has more than {_MAX_SCANS} scans")
        elif marker in _FRAMES:
            if frame:
                raise ImageCorruptError("JPEG image has two frame headers")
            frame = _frame(marker, data[start + 4 : end])
        elif marker == _EXIF and not exif and data.startswith(b"Exif\0\0", start + 4):
            exif = data[start + 10 : end]
        elif marker in {_JFIF, _ADOBE}:
            kept.append(_color_space(marker, data[start + 4 : end]))
        if marker not in _LEFT_OUT:
            kept.append(data[start:end])
    if not scans or not frame:
        raise ImageCorruptError(f"JPEG image is truncated in its header ({len(data)} bytes)")
    body = b"".join(kept)
    if ended:
        return body + b"\xff\xd9", (frame[1], frame[0]), exif, None
    if len(whole) < frame[2] or any(bits != 2**64 - 1 for bits in whole.values()):
        raise ImageCorruptError(f"JPEG image is truncated: scans are missing ({len(data)} bytes)")
    body = body.removesuffix(b"\xff")
    return body + b"\xff\xd9", (frame[1], frame[0]), exif, body + _FILLING + b"\xff\xd9"


def _color_space(marker: int, segment: bytes) -> bytes:
    """APP0 or APP14 without what no pixel depends on; nothing where decoders pass over it."""
    if marker == _JFIF and segment.startswith(b"JFIF\0") and len(segment) >= 14:
        return b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"  # no density, no thumbnail
    if marker == _ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
        return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + segment[11:12]  # the colour transform
    return b""


def with_orientation(reduced: bytes, orientation: int) -> bytes:
    """A reduced file, with an EXIF block of the orientation alone where that is not upright."""
    if orientation == 1:
        return reduced
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHLLL", 1, 0x0112, 3, 1, orientation, 0)
    return reduced[:2] + struct.pack(">BBH", 0xFF, _EXIF, 2 + len(block)) + block + reduced[2:]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, beginning and end of each segment up to the end marker; a scan ends with its data."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        start, position = found.span()
        marker = data[start + 1]
        if marker not in _NO_LENGTH:
            position += struct.unpack_from(">H", data, position)[0]
        if marker == _SCAN:
            behind = _MARKER.search(data, position)
            position = behind.start() if behind else len(data)
        yield marker, start, position
        if marker == _END:
            return
    raise ImageFormatUnsupportedError(f"JPEG image has more than {_MAX_SEGMENTS} segments")


def _frame(marker: int, segment: bytes) -> tuple[int, ...]:
    depth, height, width, components = struct.unpack_from(">BHHB", segment)
    process = "SOF55 (JPEG-LS)" if marker == _JPEG_LS else f"SOF{marker - 0xC0}"
    if marker > 0xC2 or depth != 8 or components not in {1, 3, 4}:
        raise ImageFormatUnsupportedError(
            f"JPEG image has {components} components of {depth} bits in process {process}, expected 1, 3 "
            "or 4 of 8 bits in SOF0, SOF1 or SOF2 (baseline or progressive, Huffman coded)"
        )
    if not height:
        raise ImageFormatUnsupportedError("JPEG image has its height behind its first scan (DNL)")
    return height, width, components


def _add_scan(whole: dict[int, int], segment: bytes) -> None:
    count = segment[0]
    first, last, precision = struct.unpack_from("BBB", segment, 1 + 2 * count)
    here = (2 << last) - (1 << first) if first <= last < 64 and not precision & 15 else 0
    for component in segment[1 : 1 + 2 * count : 2]:
        whole[component] = whole.get(component, 0) | here
