"""Sample images of every kind that the transform meets: sound, damaged, hostile, and not images at all.

All of them are made here from arithmetic, so tests need no files and can pin digests of what is stored
without loss.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

CONTAINERS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


def pattern(width: int = 61, height: int = 47) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An RGB picture without symmetry: slopes in two directions and a bright block in the upper left."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (3 * x + 5 * y) % 256], axis=-1
    )
    picture[: height // 3, : width // 4] = (250, 240, 16)
    return picture.astype(np.uint8)


def picture(mode: str = "RGB", width: int = 61, height: int = 47) -> Image.Image:
    """The pattern as a Pillow image of any mode that Pillow can write."""
    colors = pattern(width, height)
    image = Image.fromarray(colors)
    gray = np.asarray(image.convert("L"))
    if mode == "I;16":
        return Image.fromarray(gray.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(gray.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(gray.astype(np.float32) / 255)
    if mode in {"LA", "RGBA"}:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(255 - gray))
        return image
    if mode == "P":
        return image.quantize(64, dither=Image.Dither.NONE)
    if mode == "1":
        return image.convert("L").convert("1", dither=Image.Dither.NONE)
    return image.convert(mode)


def encode(image: Image.Image, container: str, **options: Any) -> bytes:
    """The image's file in a container, written with Pillow's options."""
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def sample(
    container: str = "JPEG", mode: str = "RGB", width: int = 61, height: int = 47, **options: Any
) -> bytes:
    """The pattern as a file."""
    return encode(picture(mode, width, height), container, **options)


def brain_slice(seed: int = 0, *, size: int = 256, container: str = "JPEG", **options: Any) -> bytes:
    """A gray image that resembles an MRI slice: a ring, tissue, and a blob whose place the seed decides."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.75, y / 0.9)
    values = np.where(radius < 1, 90.0, 0.0) + np.where(abs(radius - 0.95) < 0.05, 120.0, 0.0)
    left, top = random.uniform(-0.4, 0.4, 2)
    values += 110.0 * np.exp(-(((x - left) ** 2 + (y - top) ** 2) / 0.02)) * (radius < 0.9)
    values += random.normal(0, 4, values.shape) * (radius < 1)
    return encode(Image.fromarray(values.clip(0, 255).astype(np.uint8)), container, **options)


def oriented(
    orientation: int, container: str = "JPEG", width: int = 61, height: int = 47, **options: Any
) -> bytes:
    """The pattern, stored so that a viewer that follows the EXIF orientation shows it upright."""
    stored = picture("RGB", width, height)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    if undo is not None:
        stored = stored.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(stored, container, exif=exif, **options)


def png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG of exactly these chunks, with right checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts.append(struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)))
    return b"".join(parts)


def png_header(
    width: int, height: int, depth: int = 8, color: int = 0, interlace: int = 0
) -> tuple[bytes, bytes]:
    """The IHDR chunk of a PNG."""
    return b"IHDR", struct.pack(">LLBBBBB", width, height, depth, color, 0, 0, interlace)


def png_rows(rows: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The IDAT chunk of unfiltered rows."""
    return b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))


def tiff(
    tags: dict[int, tuple[int, Sequence[int]]], pixels: bytes, *, order: str = "<", following: int = 0
) -> bytes:
    """A TIFF of one page whose pixels start at byte 8.

    Args:
        tags: Type and values of each tag: 1 BYTE, 3 SHORT, 4 LONG.
        pixels: What lies between header and directory.
        order: "<" for little-endian, ">" for big-endian.
        following: Where the next page's directory is said to be.
    """
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = 8 + len(pixels) + len(pixels) % 2
    beyond = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{ {1: 'B', 3: 'H', 4: 'L'}[kind] }", *numbers)
        if len(content) > 4:
            field = struct.pack(f"{order}L", beyond + len(values))
            values += content + b"\0" * (len(content) % 2)
        else:
            field = content.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHL", tag, kind, len(numbers)) + field
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}L", following)
    return magic + struct.pack(f"{order}L", start) + pixels + b"\0" * (len(pixels) % 2) + directory + values


def tiff_tags(width: int, height: int, bits: int = 8, **changes: Any) -> dict[int, tuple[int, Sequence[int]]]:
    """Tags of an uncompressed gray TIFF in one strip; `changes` are by tag number, as in `t262=(3, [0])`."""
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [8]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [width * height * bits // 8]),
    }
    for name, value in changes.items():
        if value is None:
            tags.pop(int(name[1:]), None)
        else:
            tags[int(name[1:])] = value
    return tags


def animation(container: str, frames: int = 3) -> bytes:
    """Several frames, the first of which is the pattern."""
    first = picture("RGB")
    others = [Image.new("RGB", first.size, (0, 80 * number % 256, 200)) for number in range(1, frames)]
    return encode(first, container, save_all=True, append_images=others, duration=40)


@functools.cache
def sound() -> dict[str, bytes]:
    """One sound image of every kind, by name."""
    kinds: dict[str, bytes] = {}
    for mode in ("L", "RGB", "CMYK"):
        kinds[f"jpeg-{mode}"] = sample("JPEG", mode, quality=95)
    kinds["jpeg-progressive"] = sample("JPEG", progressive=True, quality=95)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        kinds[f"png-{mode}"] = sample("PNG", mode)
    kinds["png-palette-alpha"] = encode(picture("P"), "PNG", transparency=bytes(range(0, 256, 4)))
    kinds["png-gray-key"] = encode(picture("L"), "PNG", transparency=0)
    kinds["png-rgb-16"] = png(
        [png_header(4, 3, 16, 2), png_rows([bytes(range(n, n + 24)) for n in (0, 90, 200)]), (b"IEND", b"")]
    )
    kinds["png-animated"] = animation("PNG")
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        kinds[f"bmp-{mode}"] = sample("BMP", mode)
    for mode in ("L", "P"):
        kinds[f"gif-{mode}"] = sample("GIF", mode)
    kinds["gif-transparent"] = encode(picture("P"), "GIF", transparency=3)
    kinds["gif-animated"] = animation("GIF")
    kinds["webp-lossy"] = sample("WEBP", quality=90)
    kinds["webp-lossless"] = sample("WEBP", lossless=True)
    kinds["webp-alpha"] = sample("WEBP", "RGBA", lossless=True, exact=True)
    kinds["webp-animated"] = animation("WEBP")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"):
        kinds[f"tiff-{mode}"] = sample("TIFF", mode)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        kinds[f"tiff-{compression}"] = sample("TIFF", compression=compression)
    kinds["tiff-jpeg"] = sample("TIFF", compression="jpeg", quality=95)
    kinds["tiff-pages"] = animation("TIFF")
    gray = np.asarray(picture("L"))
    kinds["tiff-16-big-endian"] = tiff(tiff_tags(61, 47, 16), (gray.astype(">u2") * 257).tobytes(), order=">")
    kinds["tiff-12-in-16"] = tiff(tiff_tags(61, 47, 16), (gray.astype("<u2") * 16).tobytes())
    kinds["tiff-tiled"] = _tiled_tiff(gray)
    return kinds


def _tiled_tiff(gray: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    height, width = gray.shape
    across, down = -(-width // 16), -(-height // 16)
    padded = np.zeros((down * 16, across * 16), np.uint8)
    padded[:height, :width] = gray
    tiles = [
        padded[y : y + 16, x : x + 16].tobytes()
        for y in range(0, down * 16, 16)
        for x in range(0, across * 16, 16)
    ]
    tags = tiff_tags(width, height, t273=None, t278=None, t279=None)
    tags |= {322: (3, [16]), 323: (3, [16])}
    tags |= {324: (4, [8 + 256 * n for n in range(len(tiles))]), 325: (4, [256] * len(tiles))}
    return tiff(tags, b"".join(tiles))


@functools.cache
def bombs(width: int = 50_000, height: int = 50_000) -> dict[str, bytes]:
    """Files of a few bytes whose headers promise an enormous picture, by container."""
    gif = bytearray(sample("GIF", "L"))
    gif[6:10] = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
    gif_frame = bytearray(sample("GIF", "L"))
    where = gif_frame.index(b",", 13 + 3 * 2 ** ((gif_frame[10] & 7) + 1))
    gif_frame[where + 5 : where + 9] = struct.pack("<HH", min(width, 65_535), min(height, 65_535))
    bmp = bytearray(sample("BMP"))
    bmp[18:26] = struct.pack("<ll", width, height)
    jpeg = bytearray(sample("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", min(height, 65_535), min(width, 65_535))
    webp_size = (min(width, 2**24) - 1).to_bytes(3, "little") + (min(height, 2**24) - 1).to_bytes(3, "little")
    webp = (
        b"RIFF"
        + struct.pack("<L", 30)
        + b"WEBPVP8X"
        + struct.pack("<L", 10)
        + b"\0\0\0\0"
        + webp_size
        + b"VP8 \0\0\0\0"
    )
    return {
        "PNG": png([png_header(width, height), png_rows([b""]), (b"IEND", b"")]),
        "TIFF": tiff(tiff_tags(width, height, t279=(4, [16])), bytes(16)),
        "GIF": bytes(gif),
        "GIF-frame": bytes(gif_frame),
        "BMP": bytes(bmp),
        "JPEG": bytes(jpeg),
        "WEBP": webp,
    }


@functools.cache
def truncated(keep: float = 0.6) -> dict[str, bytes]:
    """An image of each container that ends too early, by container."""
    whole = {name: sample(name, "L" if name == "GIF" else "RGB", 200, 150) for name in CONTAINERS}
    return {name: data[: int(len(data) * keep)] for name, data in whole.items()}


NOT_IMAGES: dict[str, bytes] = {
    "text": b"The patient was seen on Monday.\n",
    "html": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "dicom": bytes(128) + b"DICM\x02\0\0\0UL\x04\0\xba\0\0\0",
    "nifti": struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(64),
    "zip": b"PK\x03\x04\x14\0\0\0\x08\0",
    "ico": b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0",
    "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "zeros": bytes(4096),
    "noise": bytes((37 * n * n + 11 * n) % 256 for n in range(1024)),
    "one byte": b"\xff",
}
"""Bytes that are not an image of an accepted container, by what they are."""
