"""Image containers, walked to the size and the orientation before a decoder sees them.

Decoders also parse metadata: EXIF, text, colour profiles, animation, further pages. None of that may change
the pixels but the EXIF orientation, and it is where decoders warn, loop and differ between versions. So
what pixels do not need is left out. The walks are bounded: a few megabytes can hold millions of empty blocks.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from ._jpeg import reduce_jpeg
from ._tiff import reduce_tiff
from .errors import ImageCorruptError, ImageFormatUnsupportedError

_SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    # First: a file may be TIFF and DICOM at once, and who reads it as TIFF passes over all that DICOM says.
    ("DICOM", 128, b"DICM"),
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("BMP", 0, b"BM"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("WEBP", 8, b"WEBP"),
)
_FOREIGN: tuple[tuple[str, int, bytes], ...] = (
    ("a NIfTI file", 344, b"n+1\0"),
    ("a PDF document", 0, b"%PDF"),
    ("a gzip archive", 0, b"\x1f\x8b"),
    ("a ZIP archive", 0, b"PK\x03\x04"),
    ("an icon (ICO)", 0, b"\0\0\1\0"),
    ("a JPEG 2000 image", 0, b"\0\0\0\x0cjP  "),
    ("a JPEG 2000 image", 0, b"\xff\x4f\xff\x51"),
    ("a JPEG XL image", 0, b"\0\0\0\x0cJXL "),
    ("a JPEG XL image", 0, b"\xff\x0a"),
    ("a Photoshop document", 0, b"8BPS"),
    ("a BigTIFF image", 0, b"II+\0"),
    ("a BigTIFF image", 0, b"MM\0+"),
    ("an AVIF or HEIF image", 4, b"ftyp"),
    ("an HDF5 file", 0, b"\x89HDF"),
)
_MAX_PIECES = 65_536
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_BMP_DEPTHS = frozenset({1, 4, 8, 16, 24, 32})


@dataclass(frozen=True, slots=True)
class Container:
    """An encoded image without what its pixels do not need.

    Attributes:
        format: "BMP", "GIF", "JPEG", "PNG", "TIFF" or "WEBP".
        data: What the decoder gets.
        size: Width and height in pixels as the header declares them, before the orientation is applied.
        orientation: EXIF orientation, 1 (upright) to 8.
        inverted: Whether the decoded samples count down from black to white.
        again: Where the end is missing, other bytes that give the same picture if all pixels are there.
    """

    format: str
    data: bytes
    size: tuple[int, int]
    orientation: int = 1
    inverted: bool = False
    again: bytes | None = None


def sniff(data: bytes) -> str | None:
    """The container's name by its first bytes, or None for anything else."""
    name = _look_up(_SIGNATURES, data)
    return None if name == "WEBP" and not data.startswith(b"RIFF") else name


def describe_foreign(data: bytes) -> str:
    """What bytes that are none of the known containers look like, for an error message."""
    if name := _look_up(_FOREIGN, data):
        return name
    # What they say stays with them: it may be a letter about a patient.
    head = data[:12]
    if head.lstrip()[:1] == b"<":
        return "markup"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "text"
    return f"unknown bytes (starts with {head[:4].hex(' ')})"


def _look_up(table: tuple[tuple[str, int, bytes], ...], data: bytes) -> str | None:
    return next((name for name, offset, magic in table if data.startswith(magic, offset)), None)


def reduce_container(name: str, data: bytes) -> Container:
    """Walks the container `name` (as `sniff` gave it) once.

    Raises:
        ImageCorruptError: The structure is damaged or ends before the size.
        ImageFormatUnsupportedError: A kind of the container that is not accepted.
    """
    try:
        if name == "TIFF":
            return Container(name, *reduce_tiff(data))
        if name == "JPEG":
            reduced, size, exif, again = reduce_jpeg(data)
            return Container(name, reduced, size, exif_orientation(exif), again=again)
        return {"PNG": _png, "BMP": _bmp, "GIF": _gif, "WEBP": _webp}[name](data)
    except (struct.error, IndexError) as error:
        raise ImageCorruptError(f"{name} image is truncated in its header ({len(data)} bytes)") from error


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block, 1 when there is none or it is not 1 to 8."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHL", exif, place)
            if tag == 0x0112:
                code = {1: "B", 3: "H", 4: "L"}.get(kind)  # SHORT by the standard; others are written, too
                (value,) = struct.unpack_from(f"{order}{code}", exif, place + 8) if code else (1,)
                return value if length == 1 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png(data: bytes) -> Container:
    length, kind, width, height, depth, color = struct.unpack_from(">L4sLLBB", data, 8)
    if kind == b"CgBI":
        raise ImageFormatUnsupportedError("PNG image is in Apple's variant for its own devices (CgBI)")
    if kind != b"IHDR" or length != 13:
        raise ImageCorruptError(
            f"PNG image starts with chunk {kind!r} of {length} bytes, expected IHDR of 13"
        )
    kept = [data[:33]]
    orientation = 1
    position = 33
    seen_data = False
    for _ in range(_MAX_PIECES):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">L4s", data, position)
        end = position + 12 + length
        seen_data = seen_data or kind == b"IDAT"
        if kind in {b"IDAT", b"IEND"} or (kind == b"PLTE" and not seen_data):
            kept.append(data[position:end])
        elif kind == b"tRNS" and not seen_data:
            kept.append(_png_transparency(data[position:end], depth, color))
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : end - 4])
        if kind == b"IEND":
            break
        position = end
    else:
        raise ImageFormatUnsupportedError(f"PNG image has more than {_MAX_PIECES} chunks")
    return Container("PNG", b"".join(kept), (width, height), orientation)


def _png_transparency(chunk: bytes, depth: int, color: int) -> bytes:
    """The tRNS chunk in the values that the decoder compares it with: gray of fewer bits becomes 8."""
    if color == 0 and depth < 8 and len(chunk) == 14:
        (value,) = struct.unpack_from(">H", chunk, 8)
        body = b"tRNS" + struct.pack(">H", min(value * 255 // (2**depth - 1), 0xFFFF))
        return struct.pack(">L", 2) + body + struct.pack(">L", zlib.crc32(body))
    return chunk


def _bmp(data: bytes) -> Container:
    (header,) = struct.unpack_from("<L", data, 14)
    if header not in _BMP_HEADERS:
        raise ImageFormatUnsupportedError(f"BMP image has a header of {header} bytes, which no decoder knows")
    compression = 0
    if header == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, depth, compression = struct.unpack_from("<llHHL", data, 18)
        height = abs(height)
    # Run lengths are decoded in Python, byte by byte: seconds of work from a few kilobytes.
    if compression not in {0, 3} or depth not in _BMP_DEPTHS:
        raise ImageFormatUnsupportedError(
            f"BMP image has {depth} bits in compression {compression}, expected 1, 4, 8, 16, 24 or 32 "
            "in 0 (none) or 3 (bit fields), not 1 or 2 (run-length encoded)"
        )
    struct.unpack_from(f"{header}x", data, 14)
    return Container("BMP", data, (width, height))


def _gif(data: bytes) -> Container:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    head = data[:position]
    control = b""
    start = 0  # of the extension whose blocks are walked
    for _ in range(_MAX_PIECES):
        introducer = data[position]
        if start:
            position += 1 + introducer
            if not introducer:
                control = data[start:position] if data[start + 1] == 0xF9 else control
                start = 0
        elif introducer == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
            size = (max(width, left + frame_width), max(height, top + frame_height))
            return Container("GIF", head + control + data[position:], size)
        elif introducer == 0x21:
            start = position
            position += 2
        else:
            found = "no frame" if introducer == 0x3B else f"a block of unknown kind 0x{introducer:02x}"
            raise ImageCorruptError(f"GIF image has {found}")
    raise ImageFormatUnsupportedError(f"GIF image has more than {_MAX_PIECES} blocks before its first frame")


def _webp(data: bytes) -> Container:
    kind = data[12:16]
    orientation = 1
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        size = (low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1)
        position = 30
        for _ in range(_MAX_PIECES):
            if position + 8 > len(data):
                break
            piece, length = struct.unpack_from("<4sL", data, position)
            if piece == b"EXIF":
                orientation = exif_orientation(data[position + 8 : position + 8 + length])
                break
            position += 8 + length + length % 2
        else:
            raise ImageFormatUnsupportedError(f"WEBP image has more than {_MAX_PIECES} chunks")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", data, 21)
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    else:
        raise ImageCorruptError(f"WEBP image starts with chunk {kind!r}, expected VP8, VP8L or VP8X")
    return Container("WEBP", data, size, orientation)
