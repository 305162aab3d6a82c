"""What the transform makes of sound images."""

from __future__ import annotations

import base64
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pytest
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing import _pixels
from neurogate_core.preprocessing.transform import (
    FORMATS,
    TRANSFORM_REVISION,
    check_spec,
    default_spec,
    pixels_digest,
    transform,
)
from neurogate_testing import images
from PIL import Image

SAME_SIZE = default_spec(61, 47)
GRAY = np.asarray(images.picture("L")).astype(int)
PINNED_PILLOW = "13.0.0"


def gray_of(pixels: np.ndarray) -> np.ndarray:
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].astype(int)


@pytest.mark.parametrize("name", images.sound())
def test_every_kind_gives_read_only_pixels_of_the_asked_shape(name: str) -> None:
    pixels = transform(images.sound()[name], default_spec(32, 24))
    assert pixels.shape == (24, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable


@pytest.mark.parametrize(
    ("largest", "depth"), [(200, 8), (255, 8), (256, 12), (4095, 12), (4096, 16), (65_535, 16)]
)
def test_the_depth_in_revision_1_is_the_first_that_holds_the_largest(largest: int, depth: int) -> None:
    samples = np.array([[0, largest // 2, largest]], dtype="<u2")
    data = images.tiff(images.tiff_tags(3, 1, 16), samples.tobytes())
    assert gray_of(transform(data, first_revision(3, 1))).tolist() == [
        [int(v) >> (depth - 8) for v in samples[0]]
    ]


def first_revision(width: int, height: int) -> manifest_pb2.TransformSpec:
    spec = default_spec(width, height)
    spec.revision = 1
    return spec


def test_revision_1_drops_the_sign_of_32_bit_samples_and_the_fraction_of_floats_outside_0_to_1() -> None:
    spec = first_revision(4, 1)
    signed = Image.fromarray(np.array([[-5, 0, 70_000, 2**24 - 1]], dtype=np.int32))
    assert gray_of(transform(images.encode(signed, "TIFF"), spec)).tolist() == [[0, 0, 70_000 >> 16, 255]]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    assert gray_of(transform(images.encode(unit, "TIFF"), spec)).tolist() == [[0, 128, 255, 0]]
    wide = Image.fromarray(np.array([[-np.inf, 1.9, 100.2, 4095.9]], dtype=np.float32))
    assert gray_of(transform(images.encode(wide, "TIFF"), spec)).tolist() == [[0, 0, 6, 255]]
    endless = Image.fromarray(np.array([[0.0, 1.0, 2.0**31, np.inf]], dtype=np.float32))
    assert gray_of(transform(images.encode(endless, "TIFF"), spec)).tolist() == [[0, 0, 255, 255]]


def test_16_bits_that_count_down_to_white_are_turned_round_in_revision_1() -> None:
    samples = np.array([[65_535, 32_768, 0]], dtype="<u2")
    data = images.tiff(images.tiff_tags(3, 1, 16, t262=(3, [0])), samples.tobytes())
    assert gray_of(transform(data, first_revision(3, 1))).tolist() == [[0, 127, 255]]


RECORDED = json.loads((Path(__file__).parents[2] / "data" / "transform_revision_1.json").read_text())
DEEP = {name for name in RECORDED if "16" in name or name in {"png-I;16", "tiff-I", "tiff-F"}}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_pixels_are_those_that_the_last_release_of_revision_1_gave(name: str) -> None:
    """Digests that were recorded with the code of revision 1, before revision 2 was written."""
    if PIL.__version__ != PINNED_PILLOW and name.split("-", maxsplit=1)[0] in {"jpeg", "webp"}:
        pytest.skip(f"recorded with Pillow {PINNED_PILLOW}")
    for size, digest in zip(((61, 47), (32, 24)), RECORDED[name], strict=True):
        spec = default_spec(*size)
        present = pixels_digest(transform(images.sound()[name], spec))
        spec.revision = 1
        assert pixels_digest(transform(images.sound()[name], spec)) == digest
        assert (present == digest) is (name not in DEEP)


def test_palettes_give_their_colours() -> None:
    image = images.picture("P")
    expected = np.asarray(image.convert("RGB"))
    for container in ("PNG", "BMP", "GIF", "TIFF"):
        assert (transform(images.encode(image, container), SAME_SIZE) == expected).all()


def on_black(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colors.astype(int) * alpha[:, :, np.newaxis].astype(int) / 255


def test_transparent_palette_entries_are_black() -> None:
    image = images.picture("P")
    indices = np.asarray(image)
    colors = np.asarray(image.convert("RGB"))
    single = np.where((indices == 3)[:, :, np.newaxis], 0, colors)
    for container in ("PNG", "GIF"):
        assert (transform(images.encode(image, container, transparency=3), SAME_SIZE) == single).all()
    graded = bytes(range(0, 256, 4))
    alpha = np.array(list(graded))[indices]
    pixels = transform(images.encode(image, "PNG", transparency=graded), SAME_SIZE)
    assert np.abs(pixels - on_black(colors, alpha)).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_gray_of_a_png_is_black_at_every_depth(depth: int) -> None:
    white, half = 2**depth - 1, 2 ** (depth - 1) - 1
    rows = [[white, half, white], [half, white, white]]
    if depth == 16:
        stored = [struct.pack(">3H", *row) for row in rows]
    else:
        bits = ["".join(f"{level:0{depth}b}" for level in row) for row in rows]
        stored = [int(row.ljust(24, "0"), 2).to_bytes(3)[: -(-3 * depth // 8)] for row in bits]
    chunks = [
        images.png_header(3, 2, depth, 0),
        (b"tRNS", struct.pack(">H", white)),
        images.png_rows(stored),
        (b"IEND", b""),
    ]
    gray = 0 if depth in {1, 16} else half * 255 // white  # one gray that is left has no window
    assert gray_of(transform(images.png(chunks), default_spec(3, 2))).tolist() == [[0, gray, 0], [gray, 0, 0]]
    del chunks[1]
    plain = gray_of(transform(images.png(chunks), default_spec(3, 2))).tolist()
    assert plain == [[255, gray, 255], [gray, 255, 255]]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_black(depth: int) -> None:
    key = (9, 8, 7) if depth == 8 else (0x0900, 0x0800, 0x0700)
    other = (9, 8, 6) if depth == 8 else (0x0900, 0x0800, 0x0701)
    code = ">6B" if depth == 8 else ">6H"
    chunks = [
        images.png_header(2, 1, depth, 2),
        (b"tRNS", struct.pack(">3H", *key)),
        images.png_rows([struct.pack(code, *key, *other)]),
        (b"IEND", b""),
    ]
    assert transform(images.png(chunks), first_revision(2, 1)).tolist() == [
        [[0, 0, 0], [9, 8, 6 if depth == 8 else 7]]
    ]


def test_a_palette_that_is_transparent_everywhere_is_opaque() -> None:
    image = images.picture("P")
    data = images.encode(image, "PNG", transparency=bytes(64))
    assert (transform(data, SAME_SIZE) == np.asarray(image.convert("RGB"))).all()


def test_lab_and_jpegs_ycbcr_come_near_the_colours_they_store() -> None:
    smooth = Image.linear_gradient("L").resize((61, 47)).convert("RGB")
    stored_in_jpeg = images.encode(smooth, "TIFF", compression="jpeg", quality=95)
    for data in (images.encode(smooth.convert("LAB"), "TIFF"), stored_in_jpeg):
        pixels = transform(data, SAME_SIZE)
        assert np.abs(pixels.astype(int) - np.asarray(smooth).astype(int)).max() <= 4


def test_only_the_first_frame_or_page_counts() -> None:
    first = images.picture("P")
    others = [Image.new("P", first.size, 1), Image.new("P", first.size, 2)]
    animated = images.encode(first, "GIF", save_all=True, append_images=others)
    alone = transform(images.encode(first, "GIF"), SAME_SIZE)
    assert (transform(animated, SAME_SIZE) == alone).all()
    assert (transform(animated, SAME_SIZE, 1) == alone).all()
    for container, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        first = images.picture("RGB")
        animated = images.encode(
            first, container, save_all=True, append_images=[Image.new("RGB", first.size, "red")], **options
        )
        assert (transform(animated, SAME_SIZE) == images.pattern()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("container", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 6),
    ],
)
def test_the_exif_orientation_is_applied(
    container: str, options: dict[str, object], tolerance: int, orientation: int
) -> None:
    pixels = transform(images.oriented(orientation, container, **options), SAME_SIZE)
    assert np.abs(pixels.astype(int) - images.pattern()).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    assert (transform(images.oriented(orientation, "PNG"), SAME_SIZE) == images.pattern()).all()


def test_damaged_metadata_neither_warns_nor_matters() -> None:
    sound = images.sample("JPEG")
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x07\0\xff\xff\xff\xff\x01\0\0\0" * 4
    segment = b"\xff\xe1" + struct.pack(">H", len(broken_exif) + 2) + broken_exif
    other_page = b"\xff\xe2" + struct.pack(">H", 8) + b"MPF\0II"
    assert (
        transform(sound[:2] + segment + other_page + sound[2:], SAME_SIZE) == transform(sound, SAME_SIZE)
    ).all()
    gray = np.asarray(images.picture("L"))
    tags = images.tiff_tags(
        61, 47, t256=(4, [61, 9]), t270=(4, [10**9]), t282=(3, [1, 2, 3]), t34665=(4, [10**9])
    )
    assert (gray_of(transform(images.tiff(tags, gray.tobytes(), following=10**9), SAME_SIZE)) == GRAY).all()
    png = images.sample("PNG")
    chunks = images.png(
        [(b"acTL", b"\0\0"), (b"iCCP", b"x\0\x07"), (b"tEXt", b"\xff" * 90), (b"eXIf", b"MM")]
    )[8:]
    assert (transform(png[:33] + chunks + png[33:], SAME_SIZE) == images.pattern()).all()


def test_gray_mode_is_the_luma_of_the_colours() -> None:
    spec = default_spec(61, 47)
    spec.color_mode = manifest_pb2.COLOR_MODE_GRAY
    pixels = transform(images.sample("PNG"), spec)
    assert (gray_of(pixels) == GRAY).all()


def test_gray_pictures_resize_alike_as_gray_and_as_colour() -> None:
    gray = images.picture("L", 200, 150)
    spec = default_spec(64, 64)
    assert (
        transform(images.encode(gray, "PNG"), spec)
        == transform(images.encode(gray.convert("RGB"), "PNG"), spec)
    ).all()


def test_the_aspect_is_not_kept() -> None:
    wide = np.zeros((10, 100, 3), np.uint8)
    wide[:, 50:] = 255
    pixels = transform(images.encode(Image.fromarray(wide), "PNG"), default_spec(20, 20))
    assert (pixels[:, :9] == 0).all()
    assert (pixels[:, 11:] == 255).all()


def jpeg_pair(target: tuple[int, int], *, orientation: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A JPEG of 800 x 400 as stored, transformed with and without draft scaling."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = images.encode(images.picture("RGB", 800, 400), "JPEG", quality=90, exif=exif)
    spec = default_spec(*target)
    drafted = transform(data, spec)
    spec.jpeg_draft = False
    return drafted, transform(data, spec)


@pytest.mark.parametrize(
    ("target", "orientation", "scaled"),
    [
        ((100, 50), 1, True),
        ((400, 200), 1, True),
        ((401, 200), 1, False),
        ((400, 201), 1, False),
        ((50, 400), 6, True),
        ((400, 50), 6, False),
    ],
)
def test_a_jpeg_is_drafted_only_while_it_stays_as_large_as_the_target(
    target: tuple[int, int], orientation: int, scaled: bool
) -> None:
    drafted, full = jpeg_pair(target, orientation=orientation)
    assert bool((drafted != full).any()) is scaled
    assert np.abs(drafted.astype(int) - full).mean() < 8


PINNED = {
    ("RGB", "BILINEAR"): "3826b08751ccdca37205d0edc0d1bdcc86bbc50a228f601fb983ac8e10332c28",
    ("RGB", "BICUBIC"): "5cca980d1b1fcd69580210eee88e358d8e7280b05919cbadbbedf8d9a944949b",
    ("RGB", "BOX"): "ba1af2658016bd7e8ec0a83460f3331d85f89a33a18bcde2905e5c9005181749",
    ("RGB", "LANCZOS"): "892fd61a8bb96adba58fd68a049d46af3ca7b0c9f367d3df71bf87bb5d2851b2",
    ("GRAY", "BILINEAR"): "0041b7bfa83da077536607f012fd96360fb5d6d33149c92a2aba406234d895d3",
    ("GRAY", "BICUBIC"): "93f41c18bbbbcb7a145b8d31c0c876e56faec9f358830dc3eb3dbcd66b473756",
    ("GRAY", "BOX"): "978c9ffa07177634c20966738dd98a9f927aba27455378a68a1de537d5821cf6",
    ("GRAY", "LANCZOS"): "b1a6232170a910e019485c6fc67ad5bbec467236e1250db24ff582b026c5aa3c",
}


@pytest.mark.parametrize(("color", "filter_name"), PINNED)
@pytest.mark.parametrize("container", ["PNG", "TIFF", "BMP"])
def test_pixels_are_the_same_to_the_bit_on_every_machine(
    color: str, filter_name: str, container: str
) -> None:
    spec = default_spec(64, 48)
    spec.color_mode = manifest_pb2.ColorMode.Value(f"COLOR_MODE_{color}")
    spec.resampling = manifest_pb2.Resampling.Value(f"RESAMPLING_{filter_name}")
    pixels = transform(images.sample(container, "RGB", 301, 203), spec)
    assert pixels_digest(pixels) == PINNED[color, filter_name]


# JPEG leaves the last bit of its arithmetic to the decoder, so this digest belongs to one decoder: the
# libjpeg-turbo of the Pillow that requirements/ pins. A new pin that changes it is a new TRANSFORM_REVISION.
JPEG_DIGEST = "adc82e3fc6f7c1cad7deacf43b1f27e748d3acda1879a3e7cfaefccf192a7192"
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7"
    "Pj4+JS5ESUM8SDc9Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7"
    "Ozs7Ozs7Ozv/wAARCAAkADADASIAAhEBAxEB/8QAGgAAAwADAQAAAAAAAAAAAAAAAAQFAQYHAv/EACoQAAEEAQIEBAcAAAAAAAAA"
    "AAABAwRhAhFRBRITIQYHFDFBQ0VShMLi/8QAGAEAAwEBAAAAAAAAAAAAAAAABAUGBwP/xAAhEQACAgEEAgMAAAAAAAAAAAAABAEC"
    "AwURIlEhQWGxwf/aAAwDAQACEQMRAD8A6Oc682mesvCO3t1v0G8fMrPL6Np+T/BI8R8cXxKsXWH6f0/P8zn5ubSk2I7SdKcwOUy5"
    "KbVjf3HUx2d4dwzHCxpzUKh1qFRTahUONQqL2ozXbJrUKhxqFRTahUONQqO9R+u2a+1CodahUUmoVDrUKgGpii7ZMahUOtQqKbUK"
    "hxqFQRUfrtk1qFQ43DRE1VNEQeVvBnsqa5bIY6Wbq9+2P2oLHtaXT3rHK/Ufs+vspFM82JrTWGw401hsABlTHl5kdaaw2PT2St5p"
    "hh2RU11+IAAaxkvjSvak7T8FGn5tANNYbDjTWGwAZvUrV5k//9k="
)


@pytest.mark.skipif(PIL.__version__ != PINNED_PILLOW, reason=f"pinned with Pillow {PINNED_PILLOW}")
def test_jpeg_pixels_are_those_of_the_pinned_decoder() -> None:
    assert pixels_digest(transform(JPEG, default_spec(16, 12))) == JPEG_DIGEST


def test_threads_get_the_same_pixels() -> None:
    sound = images.sound()
    alone = {name: pixels_digest(transform(data, default_spec(40, 40))) for name, data in sound.items()}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = pool.map(
                lambda data: pixels_digest(transform(data, default_spec(40, 40))), sound.values()
            )
            assert dict(zip(sound, together, strict=True)) == alone


def test_the_default_specification_is_valid_and_says_everything() -> None:
    spec = default_spec(224, 200)
    check_spec(spec)
    assert (spec.revision, spec.width, spec.height) == (TRANSFORM_REVISION, 224, 200)
    assert spec.color_mode == manifest_pb2.COLOR_MODE_RGB
    assert spec.resampling == manifest_pb2.RESAMPLING_BILINEAR
    assert spec.jpeg_draft
    assert spec.max_pixels == 50_000_000
    assert tuple(spec.formats) == FORMATS


def test_the_digest_is_over_the_bytes_in_row_order() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert pixels_digest(pixels) == pixels_digest(np.asfortranarray(pixels))
    assert pixels_digest(pixels) != pixels_digest(pixels[::-1])


def test_what_follows_the_image_does_not_matter() -> None:
    for container in ("PNG", "GIF", "BMP", "TIFF"):
        data = images.sample(container, "L")
        assert (transform(data + b"\0" * 100, SAME_SIZE) == transform(data, SAME_SIZE)).all()


@pytest.mark.parametrize("pixels_per_band", [1, 61, 500])
def test_bands_leave_no_seams(monkeypatch: pytest.MonkeyPatch, pixels_per_band: int) -> None:
    sound = images.sound()
    whole = {name: pixels_digest(transform(data, SAME_SIZE)) for name, data in sound.items()}
    monkeypatch.setattr(_pixels, "_BAND_PIXELS", pixels_per_band)
    assert {name: pixels_digest(transform(data, SAME_SIZE)) for name, data in sound.items()} == whole
