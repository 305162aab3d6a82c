"""Image containers, reduced to the parts that decide pixels before a decoder sees them.

Decoders also parse metadata: EXIF, text, colour profiles, animation, further pages. None of that may
change the pixels here except the EXIF orientation, and it is where decoders warn, loop and differ from
version to version. So each container is walked once in its own terms: the declared size and the
orientation are read, and what the pixels do not need is left out. The walks are bounded, because a file
of a few megabytes can hold millions of empty blocks.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

from ._image_errors import ImageCorruptError, ImageFormatUnsupportedError
from ._tiff import reduce_tiff

_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("BMP", b"BM"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
)
_FOREIGN: tuple[tuple[str, int, bytes], ...] = (
    ("a DICOM file", 128, b"DICM"),
    ("a NIfTI file", 344, b"n+1\0"),
    ("a PDF document", 0, b"%PDF"),
    ("a gzip archive", 0, b"\x1f\x8b"),
    ("a ZIP archive", 0, b"PK\x03\x04"),
    ("an icon (ICO)", 0, b"\0\0\1\0"),
    ("a JPEG 2000 image", 0, b"\0\0\0\x0cjP  "),
    ("a JPEG 2000 image", 0, b"\xff\x4f\xff\x51"),
    ("a Photoshop document", 0, b"8BPS"),
    ("a BigTIFF image", 0, b"II+\0"),
    ("a BigTIFF image", 0, b"MM\0+"),
    ("an AVIF or HEIF image", 4, b"ftyp"),
    ("an HDF5 file", 0, b"\x89HDF"),
)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PARAMETERLESS = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_MAX_JPEG_SEGMENTS = 4_096
_MAX_JPEG_SCANS = 32
_MAX_PNG_CHUNKS = 65_536
_MAX_GIF_BLOCKS = 10_000


@dataclass(frozen=True, slots=True)
class Container:
    """An encoded image without what its pixels do not need.

    Attributes:
        format: "BMP", "GIF", "JPEG", "PNG", "TIFF" or "WEBP".
        data: What the decoder gets.
        size: Width and height in pixels as the header declares them, before the orientation is applied.
        orientation: EXIF orientation, 1 (upright) to 8.
        inverted: Whether the decoded 16-bit samples count down from black to white.
    """

    format: str
    data: bytes
    size: tuple[int, int]
    orientation: int = 1
    inverted: bool = False


def sniff(data: bytes) -> str | None:
    """The container's name by its first bytes, or None for anything else."""
    for name, signature in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def describe_foreign(data: bytes) -> str:
    """What bytes that are none of the known containers look like, for an error message."""
    for name, offset, signature in _FOREIGN:
        if data[offset : offset + len(signature)] == signature:
            return name
    head = data[:12]
    if head.lstrip()[:1] == b"<":
        return f"markup (starts with {head.decode('latin-1')!r})"
    more = "…" if len(data) > len(head) else ""
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"text (starts with {head.decode('ascii')!r}{more})"
    return f"unknown bytes (starts with {head.hex(' ')}{more})"


def reduce_container(name: str, data: bytes) -> Container:
    """Walks the container `name` (as `sniff` gave it) once.

    Raises:
        ImageCorruptError: The structure is damaged or ends before the size.
        ImageFormatUnsupportedError: A kind of the container that is not accepted.
    """
    try:
        if name == "TIFF":
            reduced, size, orientation, inverted = reduce_tiff(data)
            return Container("TIFF", reduced, size, orientation, inverted)
        return {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "GIF": _gif, "WEBP": _webp}[name](data)
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
        for index in range(count):
            tag, kind, length, value = struct.unpack_from(f"{order}HHLH", exif, start + 2 + 12 * index)
            if tag == 0x0112:
                return value if kind == 3 and length == 1 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _jpeg(data: bytes) -> Container:
    kept = [data[:2]]
    size = (0, 0)
    orientation = 1
    position = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        position = data.find(b"\xff", position)
        if position < 0:
            raise ImageCorruptError(f"JPEG image is truncated in its header ({len(data)} bytes)")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _JPEG_PARAMETERLESS:
            position += 2
            continue
        if marker == 0xD9:
            raise ImageCorruptError("JPEG image ends before its first scan")
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if marker in _JPEG_FRAMES:
            size = max(size, _jpeg_frame_size(data, position), key=math.prod)
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[position + 4 : end])
        # APP0 (JFIF) and APP14 (Adobe) tell the decoder the colour space; other APPs and comments do not.
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in {0xE0, 0xEE}:
            kept.append(data[position:end])
        position = end
    else:
        raise ImageFormatUnsupportedError(f"JPEG image has more than {_MAX_JPEG_SEGMENTS} header segments")
    # Each scan of a progressive image costs a pass over all its pixels, however few bytes it has.
    scans = data.count(b"\xff\xda", position)
    if scans > _MAX_JPEG_SCANS:
        raise ImageFormatUnsupportedError(
            f"JPEG image has {scans} scans; at most {_MAX_JPEG_SCANS} are accepted"
        )
    kept.append(data[position:])
    return Container("JPEG", b"".join(kept), size, orientation)


def _jpeg_frame_size(data: bytes, position: int) -> tuple[int, int]:
    depth, height, width = struct.unpack_from(">BHH", data, position + 4)
    process = data[position + 1] - 0xC0
    if process > 2 or depth != 8:
        raise ImageFormatUnsupportedError(
            f"JPEG image has {depth} bits in process SOF{process}, expected 8 bits in SOF0, SOF1 or SOF2 "
            "(baseline or progressive, Huffman coded)"
        )
    return width, height


def _png(data: bytes) -> Container:
    length, kind, width, height, depth, color = struct.unpack_from(">L4sLLBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageCorruptError(
            f"PNG image starts with chunk {kind!r} of {length} bytes, expected IHDR of 13"
        )
    kept = [data[:33]]
    orientation = 1
    position = 33
    seen_data = False
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">L4s", data, position)
        end = position + 12 + length
        if kind == b"IDAT":
            seen_data = True
            kept.append(data[position:end])
        elif kind == b"PLTE" and not seen_data:
            kept.append(data[position:end])
        elif kind == b"tRNS" and not seen_data:
            kept.append(_png_transparency(data[position:end], depth, color))
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : end - 4])
        elif kind == b"IEND":
            kept.append(data[position:end])
            break
        position = end
    else:
        raise ImageFormatUnsupportedError(f"PNG image has more than {_MAX_PNG_CHUNKS} chunks")
    return Container("PNG", b"".join(kept), (width, height), orientation)


def _png_transparency(chunk: bytes, depth: int, color: int) -> bytes:
    """The tRNS chunk in the values that the decoder compares it with: gray of fewer bits becomes 8."""
    if color == 2 and depth == 16:
        return b""  # the decoder reduces the pixels to 8 bits, so a 16-bit key can no longer be found
    if color == 0 and depth < 8 and len(chunk) == 14:
        (value,) = struct.unpack_from(">H", chunk, 8)
        body = b"tRNS" + struct.pack(">H", min(value * 255 // (2**depth - 1), 0xFFFF))
        return struct.pack(">L", 2) + body + struct.pack(">L", zlib.crc32(body))
    return chunk


def _bmp(data: bytes) -> Container:
    (header,) = struct.unpack_from("<L", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height, _, _, compression = struct.unpack_from("<llHHL", data, 18)
        if compression in {1, 2}:
            # Its decoder is interpreted, byte by byte: seconds of work from a few kilobytes.
            raise ImageFormatUnsupportedError("BMP image is run-length encoded; uncompressed BMP is accepted")
    return Container("BMP", data, (abs(width), abs(height)))


def _gif(data: bytes) -> Container:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    head = data[:position]
    control = b""
    for _ in range(_MAX_GIF_BLOCKS):
        introducer = data[position]
        if introducer == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
            size = (max(width, left + frame_width), max(height, top + frame_height))
            return Container("GIF", head + control + data[position:], size)
        if introducer == 0x3B:
            raise ImageCorruptError("GIF image has no frame")
        if introducer != 0x21:
            raise ImageCorruptError(f"GIF image has a block of unknown kind 0x{introducer:02x}")
        start = position
        position += 2
        for _ in range(_MAX_GIF_BLOCKS):
            if not (length := data[position]):
                break
            position += 1 + length
        else:
            raise ImageFormatUnsupportedError(
                f"GIF image has an extension of more than {_MAX_GIF_BLOCKS} blocks"
            )
        position += 1
        if data[start + 1] == 0xF9:
            control = data[start:position]
    raise ImageFormatUnsupportedError(
        f"GIF image has more than {_MAX_GIF_BLOCKS} extensions before its first frame"
    )


def _webp(data: bytes) -> Container:
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        size = (low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", data, 21)
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    else:
        raise ImageCorruptError(f"WEBP image starts with chunk {kind!r}, expected VP8, VP8L or VP8X")
    return Container("WEBP", data, size)
