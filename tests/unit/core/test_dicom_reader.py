"""What of a DICOM file becomes which gray level. For windows pydicom's own functions are a second opinion."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from neurogate_core.preprocessing._pixels import apply_window, robust_window
from neurogate_core.preprocessing.dicom import decode_dicom
from neurogate_core.preprocessing.errors import (
    DecoderLimitExceededError,
    FrameOutOfRangeError,
    FrameRequiredError,
    ImageCorruptError,
    ImageFormatUnsupportedError,
    ImageTooManyPixelsError,
    NotMagneticResonanceError,
)
from neurogate_core.preprocessing.transform import TransformError, default_spec, transform
from neurogate_testing.dicom_files import LOSSLESS, dicom_file, gradient, items
from PIL import Image
from pydicom import Dataset, uid
from pydicom.pixels import apply_modality_lut, apply_voi_lut

WINDOW = {"WindowCenter": 2000, "WindowWidth": 4000}


def levels(data: bytes, frame: int = 0, **limits: Any) -> npt.NDArray[np.int64]:
    limits = {"max_pixels": 10_000_000, "max_side": 60_000} | limits
    return decode_dicom(data, frame, **limits)[0].astype(np.int64)


def lookup(descriptor: list[int], table: list[int], kind: str = "US") -> Any:
    made = items({"LUTDescriptor": descriptor, "LUTData": np.array(table, "<u2").tobytes()})
    for item in made:
        item["LUTDescriptor"].VR = kind
        item["LUTData"].VR = "OW"
    return made


def by_pydicom(stored: npt.NDArray[Any], **elements: Any) -> npt.NDArray[np.float64]:
    """0..255 by pydicom, which maps a window to the range of the stored bits."""
    dataset = Dataset()
    bits = 8 * stored.dtype.itemsize
    signed = stored.dtype.kind == "i"
    known = {
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsStored": bits,
        "PixelRepresentation": int(signed),
    }
    for name, value in (known | elements).items():
        setattr(dataset, name, value)
    units = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    shown = apply_voi_lut(units, dataset)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if "RescaleSlope" in elements:
        low, high = (end * elements["RescaleSlope"] + elements["RescaleIntercept"] for end in (low, high))
    return (shown - low) / (high - low) * 255.0


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: uid.UID(syntax).name)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_every_lossless_syntax_gives_the_same_picture(syntax: uid.UID, frames: int, kind: type) -> None:
    most = 200 if kind is np.uint8 else 4000
    stored = np.stack([np.roll(gradient(most=most, kind=kind), shift, 0) for shift in range(frames)])
    window = {"WindowCenter": most / 2, "WindowWidth": most}
    data = dicom_file(stored if frames > 1 else stored[0], syntax=syntax, **window)
    for frame in range(1, frames + 1):
        expected = np.floor(
            ((stored[frame - 1] - (most / 2 - 0.5)) / (most - 1) + 0.5).clip(0, 1) * 255 + 0.5
        )
        np.testing.assert_array_equal(levels(data, frame), expected)


def test_8_bits_in_words_of_a_big_endian_file() -> None:
    stored = gradient(most=200, kind=np.uint8)
    head, tag, body = dicom_file(stored, syntax=uid.ExplicitVRBigEndian).partition(b"\x7f\xe0\0\x10OB\0\0")
    words = np.frombuffer(body[4:], np.uint16).byteswap().tobytes()
    data = head + tag.replace(b"OB", b"OW") + body[:4] + words
    np.testing.assert_array_equal(levels(data), stored)


def test_jpeg_baseline_is_what_pillow_decodes() -> None:
    stored = gradient(most=255, kind=np.uint8)
    data = dicom_file(stored, syntax=uid.JPEGBaseline8Bit)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG", quality=95)
    np.testing.assert_array_equal(levels(data), np.asarray(Image.open(file)))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(
    "stored", [gradient(), gradient(kind=np.int16) - 2000, gradient(kind=np.int32) * 50 - 9], ids=str
)
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 0.5, "RescaleIntercept": -300.0}])
@pytest.mark.parametrize(
    ("center", "width"), [(700, 900), (0.5, 2), (-400, 1), (1e5, 3e5), ([40, 9], [80, 7])]
)
def test_windows_agree_with_pydicom(
    function: str | None, stored: Any, rescale: dict[str, float], center: Any, width: Any
) -> None:
    window = {"WindowCenter": center, "WindowWidth": width} | rescale
    if function is not None:
        window["VOILUTFunction"] = function
    found = levels(dicom_file(stored, **window))
    assert np.abs(found - by_pydicom(stored, **window)).max() <= 0.501


def test_a_window_is_not_the_images_own_extremes() -> None:
    """A darker image under the same window stays darker."""
    assert levels(dicom_file(gradient(most=1000), **WINDOW)).max() == 64


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_a_window_too_narrow_for_its_function_is_none(width: float) -> None:
    stored = gradient()
    expected = apply_window(stored, *robust_window(stored))
    np.testing.assert_array_equal(levels(dicom_file(stored, WindowCenter=7, WindowWidth=width)), expected)


@pytest.mark.parametrize("slope", [2.5, -2.5])
def test_without_a_window_the_images_own_counts(slope: float) -> None:
    stored = gradient()
    stored[0, 0] = 60_000
    units = (stored * slope + 7).astype(np.float64)
    expected = apply_window(units, *robust_window(units)).astype(int)
    found = levels(dicom_file(stored, RescaleSlope=slope, RescaleIntercept=7))
    assert np.abs(found - expected).max() <= 1  # units are rounded, stored values are not


def test_8_bits_without_a_window_stay_as_they_are() -> None:
    stored = gradient(most=140, kind=np.uint8)
    np.testing.assert_array_equal(levels(dicom_file(stored)), stored)


def test_a_voi_table() -> None:
    stored = gradient(most=300)
    table = [0, 1000, 4095, 200]
    lut = lookup([4, 100, 12], table)
    found = levels(dicom_file(stored, VOILUTSequence=lut, **WINDOW))
    shades = np.floor(np.array(table) * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(found, shades[np.clip(stored.astype(int) - 100, 0, 3)])


def test_a_modality_table_whose_first_value_has_a_sign() -> None:
    stored = np.arange(-20, 28, dtype=np.int16).reshape(6, 8)
    table = np.arange(16) * 100
    lut = lookup([16, -5, 16], table.tolist(), kind="SS")
    found = levels(dicom_file(stored, ModalityLUTSequence=lut, WindowCenter=750, WindowWidth=1500))
    units = table[np.clip(stored + 5, 0, 15)]
    np.testing.assert_array_equal(found, np.floor(((units - 749.5) / 1499 + 0.5).clip(0, 1) * 255 + 0.5))


@pytest.mark.parametrize(
    ("descriptor", "data"), [([4, 0, 12], [1, 2, 3]), ([3, 0, 24], [1, 2, 3]), ([3, 0], [1, 2, 3])]
)
def test_tables_that_are_not_as_they_say(descriptor: list[int], data: list[int]) -> None:
    lut = lookup(descriptor, data)
    with pytest.raises(ImageCorruptError, match="look-up table"):
        levels(dicom_file(gradient(), VOILUTSequence=lut))


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ],
)
def test_what_counts_down_from_white_is_inverted(elements: dict[str, str]) -> None:
    stored = gradient()
    upright = levels(dicom_file(stored, **WINDOW))
    np.testing.assert_array_equal(levels(dicom_file(stored, **WINDOW, **elements)), 255 - upright)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("padding", "limit"), [(-2000, None), (63536, None), (-2000, -1500), (-1500, -2000)], ids=str
)
def test_padding_is_black_and_no_part_of_the_window(
    photometric: str, padding: int, limit: int | None
) -> None:
    inside = gradient(most=1000, kind=np.int16)
    stored = inside.copy()
    stored[:, :10] = -2000
    elements: dict[str, Any] = {"PixelPaddingValue": padding, "PhotometricInterpretation": photometric}
    if limit is not None:
        elements["PixelPaddingRangeLimit"] = limit
    # Files exist whose padding is of the wrong sign: 63536 has the bits of -2000.
    data = dicom_file(stored, **(elements | {"PixelPaddingValue": min(padding, 0)}))
    if padding > 0:
        tag = struct.pack("<HH", 0x28, 0x120)
        data = data.replace(tag + b"SS\2\0\0\0", tag + b"US" + struct.pack("<HH", 2, padding))
    found = levels(data)
    assert not found[:, :10].any()
    shown = apply_window(inside[:, 10:], *robust_window(inside[:, 10:])).astype(int)
    np.testing.assert_array_equal(found[:, 10:], 255 - shown if photometric == "MONOCHROME1" else shown)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_bits_above_those_stored_are_no_part_of_the_value(syntax: uid.UID) -> None:
    stored = gradient(most=4095)
    dirty = stored | np.uint16(0x5000)
    clean = levels(dicom_file(stored, bits_stored=12, **WINDOW))
    np.testing.assert_array_equal(levels(dicom_file(dirty, syntax=syntax, bits_stored=12, **WINDOW)), clean)


def test_the_sign_is_the_highest_bit_stored() -> None:
    stored = gradient(most=4095, kind=np.int16) - np.int16(2048)
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    bare = (stored & 0x0FFF).astype(np.int16)
    expected = levels(dicom_file(stored, **window))
    np.testing.assert_array_equal(levels(dicom_file(bare, bits_stored=12, **window)), expected)


def enhanced(frames: int, **elements: Any) -> bytes:
    stored = np.stack([gradient(most=1000 * (frame + 1)) for frame in range(frames)])
    return dicom_file(stored, sop_class=uid.EnhancedMRImageStorage, **elements)


def test_frames_of_enhanced_mr_have_windows_of_their_own() -> None:
    per_frame = items(
        {"FrameVOILUTSequence": items({"WindowCenter": 500, "WindowWidth": 1000})},
        {
            "FrameVOILUTSequence": items({"WindowCenter": 4000, "WindowWidth": 8000}),
            "PixelMeasuresSequence": items({"PixelSpacing": [0.5, 0.5], "SliceThickness": 3}),
        },
    )
    shared = items({"PixelValueTransformationSequence": items({"RescaleSlope": 2, "RescaleIntercept": 0})})
    data = enhanced(
        2,
        PerFrameFunctionalGroupsSequence=per_frame,
        SharedFunctionalGroupsSequence=shared,
        Manufacturer="GE",
    )
    assert [levels(data, frame).max() for frame in (1, 2)] == [255, 128]
    assert decode_dicom(data, 2, max_pixels=10_000, max_side=100)[1] == {
        "Modality": "MR",
        "Manufacturer": "GE",
        "PixelSpacing": "0.5\\0.5",
        "SliceThickness": "3",
        "FrameNumber": "2",
        "PhotometricInterpretation": "MONOCHROME2",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
    }


def test_frames() -> None:
    data = enhanced(3)
    with pytest.raises(FrameRequiredError, match="3 frames: name one, 1 to 3"):
        levels(data)
    with pytest.raises(FrameOutOfRangeError, match="frame 4 is asked for, the file has 3"):
        levels(data, 4)
    single = dicom_file(gradient())
    np.testing.assert_array_equal(levels(single, 0), levels(single, 1))
    with pytest.raises(FrameOutOfRangeError):
        levels(single, 2)


@pytest.mark.parametrize(
    ("kind", "elements"),
    [
        (uid.CTImageStorage, {"Modality": "CT"}),
        (uid.SecondaryCaptureImageStorage, {}),
        (uid.BasicTextSRStorage, {"Modality": "SR"}),
        (uid.MRImageStorage, {"Modality": "CT"}),
        (uid.MRSpectroscopyStorage, {}),
        (uid.UID("1.2.3.999"), {}),
    ],
)
def test_what_is_no_mr_image_is_refused(kind: uid.UID, elements: dict[str, str]) -> None:
    with pytest.raises(NotMagneticResonanceError) as refusal:
        levels(dicom_file(gradient(), sop_class=kind, **elements))
    assert "1.2.3.999" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PhotometricInterpretation": "RGB"}, "interpretation RGB"),
        ({"PhotometricInterpretation": "DOE-JANE"}, "not a code string"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"HighBit": 15, "BitsStored": 12}, "high bit 15"),
        ({"without": ("PixelData",)}, "no PixelData"),
        ({"VOILUTFunction": "DOE JANE", **WINDOW}, "VOI LUT function DOE JANE"),
        ({"PresentationLUTSequence": items({"LUTDescriptor": [1, 0, 8]})}, "presentation LUT"),
    ],
)
def test_kinds_that_are_not_read(elements: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageFormatUnsupportedError, match=message):
        levels(dicom_file(gradient(), **elements))


@pytest.mark.parametrize(
    "syntax",
    [
        uid.JPEGLosslessSV1,
        uid.JPEGExtended12Bit,
        uid.HTJ2KLossless,
        uid.MPEG2MPML,
    ],
)
def test_syntaxes_that_are_not_read_are_named(syntax: uid.UID) -> None:
    with pytest.raises(ImageFormatUnsupportedError) as refusal:
        levels(dicom_file(gradient(most=255, kind=np.uint8), syntax=syntax))
    assert syntax.name in str(refusal.value)


def test_a_syntax_of_somebodys_own_is_not_repeated() -> None:
    data = dicom_file(gradient()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    with pytest.raises(ImageFormatUnsupportedError, match="transfer syntax an unknown one is not read"):
        levels(data)


def test_frames_before_a_cut_are_read() -> None:
    data = dicom_file(np.stack([gradient(), gradient()[::-1], gradient()]))
    np.testing.assert_array_equal(levels(data[:-100], 2), levels(data, 2))
    with pytest.raises(ImageCorruptError, match="48 x 32 pixels cannot be decoded"):
        levels(data[:-100], 3)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: uid.UID(syntax).name)
def test_what_is_cut_off_is_refused(syntax: uid.UID) -> None:
    rng = np.random.default_rng(1)
    data = dicom_file(rng.integers(0, 4000, (32, 48)).astype(np.uint16), syntax=syntax)
    refused = 0
    for length in range(132, len(data) - 200, 97):
        with pytest.raises((ImageCorruptError, NotMagneticResonanceError, ImageFormatUnsupportedError)):
            levels(data[:length])
        refused += 1
    assert refused


def test_a_deflated_bomb_is_a_refusal() -> None:
    good = dicom_file(gradient(), syntax=uid.DeflatedExplicitVRLittleEndian)
    # The group before the data set says how long it is.
    length = struct.unpack_from("<I", good, 140)[0]
    head = good[: 144 + length]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    with pytest.raises(DecoderLimitExceededError, match="inflates to more than"):
        levels(head + bomb)


def test_sizes_are_checked_before_pixels() -> None:
    with pytest.raises(ImageTooManyPixelsError, match="65535 x 65535"):
        levels(dicom_file(gradient(), Rows=65535, Columns=65535))
    with pytest.raises(ImageTooManyPixelsError):
        levels(dicom_file(gradient(1, 200)), max_side=100)
    with pytest.raises(ImageCorruptError, match="48 x 0 pixels"):
        levels(dicom_file(gradient(), Rows=0))
    with pytest.raises(ImageCorruptError, match="3000 x 3000 pixels cannot be decoded"):
        levels(dicom_file(gradient(), Rows=3000, Columns=3000))
    with pytest.raises(ImageCorruptError, match="frames, expected 1"):
        levels(dicom_file(gradient(), NumberOfFrames=2**30), 1)


SECRET = "ZZSECRET^NAME"


@pytest.mark.parametrize("damage", range(40))
def test_no_refusal_repeats_what_the_file_says_of_a_person(damage: int) -> None:
    identity = dict.fromkeys(
        ("PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName", "StudyID"), SECRET
    )
    data = bytearray(dicom_file(gradient(8, 8), Manufacturer=SECRET, **identity))
    rng = np.random.default_rng(damage)
    for place in rng.integers(160, len(data), 12):
        data[place] = rng.integers(256)
    told = ""
    try:
        told = str(decode_dicom(bytes(data), 0, max_pixels=10_000, max_side=100)[1])
    except TransformError as error:
        told = str(error)
    assert told
    assert "SECRET" not in told


def test_a_transform_that_does_not_list_dicom_refuses_it_by_name() -> None:
    spec = default_spec()
    spec.formats[:] = ["JPEG", "PNG"]
    with pytest.raises(ImageFormatUnsupportedError, match="found DICOM, expected JPEG or PNG"):
        transform(dicom_file(gradient()), spec)


def test_what_is_tiff_and_dicom_at_once_is_dicom() -> None:
    data = b"II*\0" + dicom_file(gradient(), sop_class=uid.CTImageStorage)[4:]
    with pytest.raises(NotMagneticResonanceError):
        transform(data, default_spec())
