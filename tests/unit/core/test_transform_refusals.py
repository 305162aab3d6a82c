"""What the transform refuses, and how it says so."""

from __future__ import annotations

import struct
import warnings

import pytest
from neurogate.v1 import error_pb2, manifest_pb2
from neurogate_core.preprocessing import transform as module
from neurogate_core.preprocessing.errors import (
    ImageCorruptError,
    ImageEmptyError,
    ImageFormatUnsupportedError,
    ImageTooManyPixelsError,
)
from neurogate_core.preprocessing.transform import (
    MAX_SIDE,
    TransformError,
    check_spec,
    default_spec,
    transform,
)
from neurogate_testing import images

SPEC = default_spec(32, 24)


def refusal(data: bytes, spec: manifest_pb2.TransformSpec = SPEC) -> TransformError:
    with pytest.raises(TransformError) as caught:
        transform(data, spec)
    assert error_pb2.ErrorReason.Value(f"ERROR_REASON_{caught.value.reason}")
    return caught.value


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to decode fails the test."""

    def decode(*args: object) -> None:
        pytest.fail("a decoder was started")

    for name in module._DECODERS:
        monkeypatch.setitem(module._DECODERS, name, decode)


def test_no_bytes() -> None:
    error = refusal(b"")
    assert isinstance(error, ImageEmptyError)
    assert str(error) == "the image is empty (0 bytes), expected BMP, DICOM, GIF, JPEG, PNG, TIFF or WEBP"


@pytest.mark.parametrize("data", ["text", None, bytearray(b"x"), memoryview(b"x"), 7])
def test_what_is_not_bytes_is_the_callers_mistake(data: object) -> None:
    with pytest.raises(TypeError, match=f"must be bytes, not {type(data).__name__}"):
        transform(data, SPEC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("text", "text, expected"),
        ("html", "markup, expected"),
        ("svg", "markup"),
        ("pdf", "a PDF document"),
        ("nifti", "a NIfTI file"),
        ("zip", "a ZIP archive"),
        ("ico", "an icon (ICO)"),
        ("jpeg2000", "a JPEG 2000 image"),
        ("avif", "an AVIF or HEIF image"),
        ("zeros", "unknown bytes (starts with 00 00"),
        ("one byte", "unknown bytes (starts with ff)"),
    ],
)
@pytest.mark.usefixtures("no_decoder")
def test_what_is_not_an_image_is_named(name: str, found: str) -> None:
    error = refusal(images.NOT_IMAGES[name])
    assert isinstance(error, ImageFormatUnsupportedError)
    assert f"found {found}" in str(error)
    assert str(error).endswith("expected BMP, DICOM, GIF, JPEG, PNG, TIFF or WEBP")


@pytest.mark.parametrize("container", images.CONTAINERS)
@pytest.mark.usefixtures("no_decoder")
def test_a_container_that_the_specification_leaves_out_is_never_decoded(container: str) -> None:
    spec = default_spec(32, 24)
    del spec.formats[:]
    spec.formats.extend(sorted({"PNG", "BMP"} - {container} or {"GIF"}))
    error = refusal(images.sample(container, "L"), spec)
    assert isinstance(error, ImageFormatUnsupportedError)
    assert f"found {container}, expected {' or '.join(spec.formats)}" in str(error)


@pytest.mark.parametrize("name", images.bombs())
@pytest.mark.usefixtures("no_decoder")
def test_bombs_are_refused_from_their_header(name: str) -> None:
    error = refusal(images.bombs()[name])
    assert isinstance(error, ImageTooManyPixelsError)
    assert "50000 x 50000 = 2500000000 pixels, expected at most 50000000" in str(error)


@pytest.mark.parametrize("name", images.bombs())
@pytest.mark.parametrize("size", [(11_000, 10_000), (16_000, 12_000)])
def test_sizes_at_which_pillow_warns_or_refuses_are_refused_without_a_warning(
    name: str, size: tuple[int, int]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert isinstance(refusal(images.bombs(*size)[name]), ImageTooManyPixelsError)
    assert not caught


@pytest.mark.parametrize("container", ["PNG", "BMP", "TIFF"])
@pytest.mark.usefixtures("no_decoder")
def test_a_side_beyond_the_longest_is_refused(container: str) -> None:
    for size in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        error = refusal(images.bombs(*size)[container])
        assert isinstance(error, ImageTooManyPixelsError)
        assert "expected at most 65535 a side" in str(error)


def test_the_pixel_limit_is_the_specifications_and_inclusive() -> None:
    spec = default_spec(8, 8)
    spec.max_pixels = 61 * 47
    for container in images.CONTAINERS:
        assert transform(images.sample(container, "L"), spec).shape == (8, 8, 3)
    spec.max_pixels -= 1
    for container in images.CONTAINERS:
        assert isinstance(refusal(images.sample(container, "L"), spec), ImageTooManyPixelsError)


def test_a_second_larger_header_is_seen() -> None:
    """Readers take the last frame header of a JPEG, or the first; a sound one has one."""
    data = images.sample("JPEG")
    frame = data.index(b"\xff\xc0")
    length = struct.unpack_from(">H", data, frame + 2)[0]
    segment = bytearray(data[frame : frame + 2 + length])
    segment[5:9] = struct.pack(">HH", 60_000, 60_000)
    for twice in (
        data[:frame] + segment + data[frame:],
        data[: frame + 2 + length] + segment + data[frame + 2 + length :],
    ):
        assert isinstance(refusal(bytes(twice)), ImageTooManyPixelsError | ImageCorruptError)


@pytest.mark.parametrize("container", images.CONTAINERS)
@pytest.mark.parametrize("keep", [0.1, 0.3, 0.6, 0.9])
def test_truncated_images_are_corrupt(container: str, keep: float) -> None:
    error = refusal(images.truncated(keep)[container])
    assert isinstance(error, ImageCorruptError)
    assert container in str(error)


def jpeg_with(segment: bytes) -> bytes:
    data = images.sample("JPEG")
    return data[:2] + segment + data[2:]


def scans(count: int) -> bytes:
    data = images.sample("JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


REFUSED_KINDS = {
    "JPEG of 12 bits": (
        lambda: images.sample("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "12 bits in process SOF0",
    ),
    "lossless JPEG": (lambda: images.sample("JPEG").replace(b"\xff\xc0", b"\xff\xc3"), "SOF3"),
    "JPEG of many scans": (lambda: scans(40), "more than 32 scans"),
    "JPEG of many segments": (lambda: jpeg_with(b"\xff\xfe\0\x02" * 5000), "4096 segments"),
    "PNG of many chunks": (
        lambda: images.png([images.png_header(2, 2), *[(b"tEXt", b"")] * 70_000]),
        "65536 chunks",
    ),
    "GIF of many extensions": (
        lambda: images.sample("GIF", "L")[:13] + b"!\xfe\0" * 70_000 + b";",
        "65536 blocks",
    ),
    "GIF of a long extension": (
        lambda: b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01x" * 70_000 + b"\0;",
        "65536 blocks",
    ),
    "run-length encoded BMP": (
        lambda: b"BM" + bytes(12) + struct.pack("<LllHHL", 40, 9, 9, 1, 8, 1) + bytes(40),
        "run-length encoded",
    ),
    "TIFF in fax coding": (lambda: images.sample("TIFF", "1", compression="group4"), "compression 4"),
    "TIFF of 64 bits": (lambda: images.tiff(images.tiff_tags(2, 2, 64), bytes(32)), "64 bits per sample"),
    "TIFF of many samples": (
        lambda: images.tiff(images.tiff_tags(2, 2, t277=(3, [500])), bytes(4)),
        "500 samples per pixel",
    ),
    "BigTIFF": (lambda: b"II+\0\x08\0\0\0" + bytes(8), "a BigTIFF image"),
    "TIFF of floats that count down": (
        lambda: images.tiff(images.tiff_tags(1, 1, 32, t262=(3, [0]), t339=(3, [3])), bytes(4)),
        "count down to white",
    ),
    "TIFF of YCbCr without JPEG": (
        lambda: images.sample("TIFF", "YCbCr"),
        "YCbCr samples without JPEG compression",
    ),
    "TIFF of big-endian compressed floats": (
        lambda: images.tiff(images.tiff_tags(1, 1, 32, t259=(3, [8]), t339=(3, [3])), bytes(4), order=">"),
        "big-endian, compressed, signed or floating-point",
    ),
}


@pytest.mark.parametrize("name", REFUSED_KINDS)
@pytest.mark.usefixtures("no_decoder")
def test_kinds_that_are_not_accepted_are_named(name: str) -> None:
    make, message = REFUSED_KINDS[name]
    error = refusal(make())
    assert isinstance(error, ImageFormatUnsupportedError)
    assert message in str(error)


def test_a_tiff_whose_samples_no_decoder_knows_is_unsupported() -> None:
    error = refusal(images.tiff(images.tiff_tags(2, 2, 8, t262=(3, [9])), bytes(4)))
    assert isinstance(error, ImageFormatUnsupportedError)
    assert "TIFF image of a kind that is not read" in str(error)


DAMAGED_TIFFS = {
    "no width": ({"t256": None}, "no tag 256"),
    "no strips": ({"t273": None}, "no tag 273"),
    "zero rows": ({"t257": (4, [0])}, "9 x 0 pixels"),
    "strips of no rows": ({"t278": (4, [0])}, "strips of 0 rows"),
    "too few strips": ({"t278": (4, [1])}, "tag 273 has 1 values, expected 7"),
    "odd tiles": ({"t322": (3, [17]), "t323": (3, [16]), "t324": (4, [8])}, "tiles of 17 x 16"),
    "enormous tiles": ({"t322": (4, [65_520]), "t323": (4, [65_520]), "t324": (4, [8])}, "tiles of 65520"),
    "too few tiles": (
        {"t257": (4, [40]), "t322": (3, [16]), "t323": (3, [16]), "t324": (4, [8])},
        "expected 3",
    ),
    "no colour map": ({"t262": (3, [3])}, "no colour map of 768 values"),
    "JPEG without byte counts": ({"t259": (3, [7]), "t279": None}, "does not say how long its parts are"),
}


@pytest.mark.parametrize("name", DAMAGED_TIFFS)
@pytest.mark.usefixtures("no_decoder")
def test_damaged_tiffs_are_refused_before_decoding(name: str) -> None:
    changes, message = DAMAGED_TIFFS[name]
    error = refusal(images.tiff(images.tiff_tags(9, 7, **changes), bytes(63)))
    assert isinstance(error, ImageCorruptError)
    assert message in str(error)


def test_a_png_without_its_header_chunk_is_corrupt() -> None:
    error = refusal(images.png([(b"gAMA", bytes(4)), images.png_header(2, 2)]))
    assert "starts with chunk b'gAMA' of 4 bytes, expected IHDR of 13" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": 0}, "transform.revision is 0, this code implements 1 and 2"),
        ({"revision": 3}, "transform.revision is 3"),
        ({"width": 0}, "transform.width is 0, expected 1 to 4096"),
        ({"height": 4097}, "transform.height is 4097"),
        ({"color_mode": 0}, "transform.color_mode is 0, expected COLOR_MODE_RGB or COLOR_MODE_GRAY"),
        ({"color_mode": 7}, "transform.color_mode is 7"),
        ({"resampling": 0}, "transform.resampling is 0, expected one of RESAMPLING_BILINEAR"),
        ({"max_pixels": 0}, "transform.max_pixels is 0"),
        ({"max_pixels": 89_000_001}, "transform.max_pixels is 89000001, expected 1 to 89000000"),
        ({"formats": []}, r"transform.formats is \[\]"),
        ({"formats": ["PNG", "JPEG"]}, "sorted selection"),
        ({"formats": ["PNG", "PNG"]}, "sorted selection"),
        ({"formats": ["ICO"]}, "sorted selection"),
    ],
)
def test_a_specification_that_cannot_be_followed_is_refused(change: dict[str, object], message: str) -> None:
    spec = default_spec()
    for name in change:
        spec.ClearField(name)
    spec.MergeFrom(manifest_pb2.TransformSpec(**change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        check_spec(spec)
    with pytest.raises(ValueError, match=message):
        transform(images.sample(), spec)


def test_a_machine_without_memory_is_not_blamed_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*args: object) -> None:
        raise MemoryError

    monkeypatch.setitem(module._DECODERS, "PNG", decode)
    with pytest.raises(MemoryError):
        transform(images.sample("PNG"), SPEC)
