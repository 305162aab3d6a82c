"""Files as people have them, each made here from one slice, with the picture that the slice itself gives."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from neurogate_core.preprocessing.errors import ImageCorruptError, ImageFormatUnsupportedError
from neurogate_core.preprocessing.transform import default_spec, transform, upright_size
from neurogate_testing import images
from PIL import Image

SLICE = np.asarray(Image.open(io.BytesIO(images.brain_slice(7, container="PNG"))))
SPEC = default_spec(96, 96)
JPEG = images.encode(Image.fromarray(SLICE), "JPEG", quality=90)
PROGRESSIVE = images.encode(Image.fromarray(SLICE), "JPEG", quality=90, progressive=True)
COLOR = images.encode(images.picture("RGB", 96, 96), "JPEG", quality=90)
COLOR_PROGRESSIVE = images.encode(images.picture("RGB", 96, 96), "JPEG", quality=90, progressive=True)
JPEGS = {"gray": JPEG, "progressive": PROGRESSIVE, "color": COLOR, "color progressive": COLOR_PROGRESSIVE}


def shown(data: bytes) -> np.ndarray:
    return transform(data, SPEC).astype(int)


def tiff(samples: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def near(data: bytes) -> bool:
    eight = shown(images.encode(Image.fromarray(SLICE), "PNG"))
    return bool(np.abs(shown(data) - eight).mean() < 12)


@pytest.mark.parametrize("largest", [255, 256, 300, 4095, 4096, 5000, 16_383, 65_535])
def test_raw_values_in_16_bits(largest: int) -> None:
    raw = np.rint(SLICE / SLICE.max() * largest).astype(np.uint16)
    assert near(images.encode(Image.fromarray(raw), "PNG"))
    for order in "<>":
        for compression in (None, "lzw", "zlib"):
            assert near(tiff(raw, byteorder=order, compression=compression))
            assert near(
                tiff(np.dstack([raw] * 3), byteorder=order, compression=compression, photometric="rgb")
            )


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_palette_of_bytes_where_16_bits_belong_is_no_black_picture(order: str) -> None:
    gray = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    narrow, wide = (tiff(SLICE, photometric="palette", colormap=gray * n, byteorder=order) for n in (1, 257))
    assert (shown(narrow) == shown(images.encode(Image.fromarray(SLICE), "PNG"))).all()
    assert (shown(narrow) == shown(wide)).all()


@pytest.mark.parametrize("header", [56, 108, 124])
def test_alpha_that_windows_leaves_at_0_is_opaque(header: int) -> None:
    pixels = np.dstack([SLICE, SLICE, SLICE, 0 * SLICE])[::-1].tobytes()
    info = struct.pack("<LllHHLL16x4L", header, 256, 256, 1, 32, 3, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = info.ljust(header, b"\0")
    data = b"BM" + struct.pack("<LLL", 14 + header + len(pixels), 0, 14 + header) + info + pixels
    assert (shown(data) == shown(images.encode(Image.fromarray(SLICE), "PNG"))).all()


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize(
    "behind",
    [b"\xff\xda" * 100_000, JPEG * 40, PROGRESSIVE * 4, bytes(range(256)) * 9000, b"\xff\xd8\xff", b"\0"],
    ids=["scans", "baseline", "progressive", "bytes", "beginning", "zero"],
)
def test_what_lies_behind_the_end_of_a_jpeg_is_not_the_picture(name: str, behind: bytes) -> None:
    assert (shown(JPEGS[name] + behind) == shown(JPEGS[name])).all()


@pytest.mark.parametrize("name", JPEGS)
def test_scans_in_segments_are_not_scans(name: str) -> None:
    data = JPEGS[name]
    app = b"\xff\xe1" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    comment = b"\xff\xfe" + struct.pack(">H", 202) + b"\xff\xda" * 100
    last = data.rindex(b"\xff\xda")
    assert (shown(data[:2] + app + data[2:last] + comment + data[last:]) == shown(data)).all()


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0" * 500, JPEG, b"\xff\xfe\0\x04ab"])
def test_a_jpeg_without_its_end_marker_is_read_if_all_pixels_are_there(name: str, end: bytes) -> None:
    data = JPEGS[name].removesuffix(b"\xff\xd9")
    assert (shown(data + end) == shown(JPEGS[name])).all()


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_a_jpeg_without_its_last_pixels_is_corrupt(name: str, share: float) -> None:
    with pytest.raises(ImageCorruptError):
        shown(JPEGS[name][: int(len(JPEGS[name]) * share)])


def test_a_progressive_jpeg_cut_between_two_scans_is_corrupt() -> None:
    data = COLOR_PROGRESSIVE
    places = [n for n in range(len(data)) if data.startswith(b"\xff\xda", n)]
    for place in places[1:]:
        with pytest.raises(ImageCorruptError):
            shown(data[:place])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_orientation_of_any_integer_type_is_followed(order: str, kind: int, orientation: int) -> None:
    value = struct.pack(order + {1: "B", 3: "H", 4: "L"}[kind], orientation).ljust(4, b"\0")
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", 8, 1)
    exif += struct.pack(f"{order}HHL", 0x0112, kind, 1) + value + bytes(4)
    turned = Image.fromarray(
        np.ascontiguousarray(np.rot90(SLICE[:, :200], {1: 0, 3: 2, 6: 1, 8: 3}[orientation]))
    )
    right = shown(images.encode(Image.fromarray(SLICE[:, :200]), "PNG"))
    for container, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})):
        data = images.encode(turned, container, exif=b"Exif\0\0" + exif, **options)
        assert np.abs(shown(data) - right).mean() <= (2 if container == "JPEG" else 0)
        assert upright_size(data) == (200, 256)


def test_kinds_that_are_not_read_have_their_names() -> None:
    png = images.encode(Image.fromarray(SLICE), "PNG")
    body = b"CgBI" + bytes([0x50, 0, 0x20, 2])
    apple = png[:8] + struct.pack(">L", 4) + body + struct.pack(">L", zlib.crc32(body)) + png[8:]
    jpeg_ls = b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\0\0" + bytes(
        40
    )
    info = struct.pack("<LllHHLL16x3L", 40, 16, 16, 1, 32, 3, 0, 0x3FF00000, 0xFFC00, 0x3FF)
    fields = b"BM" + struct.pack("<LLL", 14 + len(info) + 1024, 0, 14 + len(info)) + info + bytes(1024)
    two = JPEG.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0e\x08").replace(
        b"\x01\x01\x11\0", b"\2\1\x11\0\2\x11\0", 1
    )
    for data, name in (
        (apple, "CgBI"),
        (jpeg_ls, "JPEG-LS"),
        (fields, "bitfields layout"),
        (two, "2 components"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1), "SOF9"),
        (b"BM" + bytes(12) + struct.pack("<L", 16) + bytes(60), "header of 16 bytes"),
        (b"BM" + bytes(12) + struct.pack("<LllHHL", 40, 9, 9, 1, 2, 0) + bytes(40), "2 bits"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
    ):
        with pytest.raises(ImageFormatUnsupportedError, match=name):
            shown(data)
