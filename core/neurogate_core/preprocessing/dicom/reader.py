"""One DICOM file to one 8-bit picture. Imported by the decoder's child process alone.

Names of attributes and of their values are those of DICOM PS3.3; docs/dicom.md has what is read and refused.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import get_decoder

from neurogate_core.preprocessing._pixels import apply_window, bands, robust_window
from neurogate_core.preprocessing.errors import (
    BurnedInAnnotationError,
    DecoderLimitExceededError,
    FrameOutOfRangeError,
    FrameRequiredError,
    ImageCorruptError,
    ImageFormatUnsupportedError,
    ImageTooManyPixelsError,
    NotMagneticResonanceError,
    TransformError,
)

_SOP_CLASSES: Final = {
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,  # refused for its colours
    uid.LegacyConvertedEnhancedMRImageStorage,
}
_NATIVE: Final = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
}
# Named, since pydicom would otherwise take whichever is installed: one of them aborts its process, another
# panics past `except Exception`, a third is under the GPL.
_PLUGINS: Final = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}
_MAX_TABLE_LEVELS: Final = 2**16
_MAX_FRAMES: Final = 2**20
_MAX_INFLATED_BYTES: Final = 2**26

_Map = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
_Window = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.uint8]]


def read(
    data: bytes | bytearray, frame: int, *, max_pixels: int, max_side: int, allow_burned_in: bool
) -> tuple[npt.NDArray[np.uint8], dict[str, str]]:
    """A frame as a person at a viewing station sees it first, and what may be said of it.

    Args:
        data: The file.
        frame: Number of the frame, from 1; 0 for the only one.
        max_pixels: Most pixels of a frame.
        max_side: Longest side of a frame.
        allow_burned_in: Whether an image may say that a person's data are drawn into it.

    Returns:
        uint8 [rows, columns], 0 black; and the attributes that identify nobody, by keyword.

    Raises:
        TransformError: The file is refused.
        MemoryError: The child's limit was met.
    """
    dataset = _parse(data)
    _check_kind(dataset, allow_burned_in=allow_burned_in)
    rows, columns, frames = _size(dataset)
    if rows * columns > max_pixels or max(rows, columns) > max_side:
        raise ImageTooManyPixelsError(
            f"the image has {columns} x {rows} = {columns * rows} pixels, expected at most {max_pixels} "
            f"and {max_side} a side"
        )
    if frame == 0 and frames > 1:
        raise FrameRequiredError(f"the file has {frames} frames: name one, 1 to {frames}")
    if frame > frames:
        raise FrameOutOfRangeError(f"frame {frame} is asked for, the file has {frames}")
    index = max(frame, 1) - 1
    stored = _stored(dataset, index, rows, columns)
    groups = list(_groups(dataset, index))
    padding = _padding(dataset, stored)
    levels = _levels(dataset, groups, stored, padding)
    if _is_inverted(dataset):
        levels = 255 - levels
    if padding is not None:
        levels[padding] = 0
    return levels, _allowed(dataset, groups, frame if frames > 1 else 0)


def _parse(data: bytes | bytearray) -> pydicom.Dataset:
    try:
        syntax = _transfer_syntax(data)
        if syntax in _NATIVE or syntax in _PLUGINS:
            return (
                _inflate(data)
                if syntax == uid.DeflatedExplicitVRLittleEndian
                else pydicom.dcmread(io.BytesIO(data))
            )
    except (MemoryError, TransformError):
        raise
    except Exception as error:
        raise ImageCorruptError(f"the DICOM file cannot be read: {type(error).__name__}") from error
    if not syntax:
        raise ImageCorruptError("the DICOM file names no transfer syntax")
    raise ImageFormatUnsupportedError(
        f"DICOM transfer syntax {_name(syntax)} is not read, expected an uncompressed one, RLE, "
        "JPEG baseline, JPEG-LS or JPEG 2000"
    )


def _meta(file: io.BytesIO) -> pydicom.Dataset:
    """The group of elements before the data set, which is always Explicit VR Little Endian."""
    read_preamble(file, force=False)
    return read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group != 2)


def _transfer_syntax(data: bytes | bytearray) -> str:
    return str(_meta(io.BytesIO(data)).get("TransferSyntaxUID", ""))


def _inflate(data: bytes | bytearray) -> pydicom.Dataset:
    """As `pydicom.dcmread`, but for a limit of what a deflated data set becomes."""
    file = io.BytesIO(data)
    meta = _meta(file)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(file.read(), _MAX_INFLATED_BYTES)
    if stream.unconsumed_tail:
        raise DecoderLimitExceededError(
            f"the DICOM file inflates to more than the {_MAX_INFLATED_BYTES} bytes that are read"
        )
    if not stream.eof:
        raise ImageCorruptError("the deflated DICOM file is truncated")
    dataset = read_dataset(io.BytesIO(inflated), False, True)
    dataset.file_meta = pydicom.dataset.FileMetaDataset(meta)
    return dataset


def _check_kind(dataset: pydicom.Dataset, *, allow_burned_in: bool) -> None:
    kind = str(dataset.get("SOPClassUID", ""))
    if kind not in _SOP_CLASSES:
        raise NotMagneticResonanceError(
            f"the DICOM object is {_name(kind)}, expected MR, Enhanced MR or Legacy Converted Enhanced MR "
            "Image Storage"
        )
    modality = str(dataset.get("Modality", ""))
    if modality != "MR":
        raise NotMagneticResonanceError(f"the DICOM object's modality is {_code(modality)}, expected MR")
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES" and not allow_burned_in:
        raise BurnedInAnnotationError(
            "the image says that a person's data are drawn into its pixels (BurnedInAnnotation is YES)"
        )
    if dataset.get("PixelData") is None:
        raise ImageFormatUnsupportedError("the DICOM object has no PixelData")
    if "PresentationLUTSequence" in dataset:
        raise ImageFormatUnsupportedError("a presentation LUT that is a table is not read")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    samples = _whole(dataset, "SamplesPerPixel", 1)
    if photometric not in {"MONOCHROME1", "MONOCHROME2"} or samples != 1:
        raise ImageFormatUnsupportedError(
            f"photometric interpretation {_code(photometric)} with {samples} samples is not read, expected "
            "MONOCHROME1 or MONOCHROME2 with one"
        )
    allocated, stored = _whole(dataset, "BitsAllocated", 0), _whole(dataset, "BitsStored", 0)
    if allocated not in {8, 16, 32}:
        raise ImageFormatUnsupportedError(f"{allocated} bits allocated are not read, expected 8, 16 or 32")
    high = _whole(dataset, "HighBit", stored - 1)
    if not 1 <= stored <= allocated or high != stored - 1:
        raise ImageFormatUnsupportedError(
            f"{stored} bits stored with high bit {high} in {allocated} allocated are not read, expected the "
            "lowest bits"
        )
    if (sign := _whole(dataset, "PixelRepresentation", 0)) not in {0, 1}:
        raise ImageCorruptError("PixelRepresentation is neither 0 nor 1")
    # pydicom asks for both.
    dataset.SamplesPerPixel, dataset.PixelRepresentation = samples, sign


def _size(dataset: pydicom.Dataset) -> tuple[int, int, int]:
    rows, columns = _whole(dataset, "Rows", 0), _whole(dataset, "Columns", 0)
    if not rows or not columns:
        raise ImageCorruptError(f"the header says {columns} x {rows} pixels")
    frames = _whole(dataset, "NumberOfFrames", 1)
    if not 1 <= frames <= _MAX_FRAMES:
        raise ImageCorruptError(f"the header says {frames} frames, expected 1 to {_MAX_FRAMES}")
    return rows, columns, frames


def _whole(dataset: pydicom.Dataset, name: str, default: int) -> int:
    value = dataset.get(name)
    if value is None or value == "":
        return default
    # Whatever else stands there is not repeated: it may be anybody's text.
    if not isinstance(value, int):
        raise ImageCorruptError(f"{name} is not a whole number")
    return int(value)


def _stored(dataset: pydicom.Dataset, index: int, rows: int, columns: int) -> npt.NDArray[Any]:
    """Stored values of a frame, [rows, columns], of an integer type as the header says."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _NATIVE:
        # pydicom asks for the bytes of every frame; those before a cut are whole.
        dataset.NumberOfFrames = index + 1
    try:
        values, _ = get_decoder(syntax).as_array(
            dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, ""), raw=True, validate=True
        )
    except Exception as error:
        # pydicom puts what a decoder raised into an error of its own.
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, MemoryError):
            reason = reason.__cause__ or reason.__context__
        if reason is not None:
            raise MemoryError from error
        raise ImageCorruptError(
            f"the frame of {columns} x {rows} pixels cannot be decoded ({_name(syntax)}): "
            f"{type(error).__name__}"
        ) from error
    if values.shape != (rows, columns):
        raise ImageCorruptError(f"the frame does not decode to the {columns} x {rows} pixels of the header")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    unused = 8 * values.dtype.itemsize - dataset.BitsStored
    # Bits above those stored once held overlays, and are no part of the value.
    stored: npt.NDArray[Any] = (values << unused) >> unused if unused > 0 else values
    return stored


def _groups(dataset: pydicom.Dataset, index: int) -> Iterator[pydicom.Dataset]:
    """Where a frame's attributes may stand, the most specific first."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if index < len(per_frame):
        yield per_frame[index]
    yield from (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]


def _macro(dataset: pydicom.Dataset, groups: list[pydicom.Dataset], name: str) -> pydicom.Dataset:
    """A functional group's item; the data set itself where no frame has one."""
    for group in groups:
        items = group.get(name)
        if items:
            return items[0]
    return dataset


def _padding(dataset: pydicom.Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    # Of the pixels' own type: writers leave out the sign here, too.
    ends = np.array([first, last if isinstance(last, int) else first], np.int64).astype(stored.dtype)
    found = (stored >= ends.min()) & (stored <= ends.max())
    return found if found.any() else None


def _levels(
    dataset: pydicom.Dataset,
    groups: list[pydicom.Dataset],
    stored: npt.NDArray[Any],
    padding: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.uint8]:
    modality, ranked = _modality_lut(_macro(dataset, groups, "PixelValueTransformationSequence"), dataset)
    window = _voi_lut(_macro(dataset, groups, "FrameVOILUTSequence"), dataset)
    if window is None:
        values = ranked(stored)
        if values is stored and stored.dtype == np.uint8 and dataset.BitsStored == 8:
            return stored.copy()
        return apply_window(values, *robust_window(values, None if padding is None else ~padding))
    low, high = int(stored.min()), int(stored.max())
    levels = np.empty(stored.shape, np.uint8)
    if high - low < min(_MAX_TABLE_LEVELS, stored.size):
        # Each level once instead of each pixel.
        table = window(modality(np.arange(low, high + 1)))
        for rows in bands(stored):
            table.take(stored[rows].astype(np.int64) - low, out=levels[rows])
    else:
        for rows in bands(stored):
            levels[rows] = window(modality(stored[rows]))
    return levels


def _modality_lut(item: pydicom.Dataset, dataset: pydicom.Dataset) -> tuple[_Map, _Map]:
    """PS3.3 C.11.1: stored values to the scanner's own units.

    Returns:
        That map, and one to integers that have the same picture by their own window.
    """
    tables = item.get("ModalityLUTSequence")
    if tables:
        first, table, _ = _table(tables[0], dataset)
        whole = table.astype(np.uint16)
        return (
            lambda stored: table[_places(stored, first, len(table))],
            lambda stored: whole[_places(stored, first, len(table))],
        )
    slope = _number(item.get("RescaleSlope"), 1.0, "RescaleSlope")
    intercept = _number(item.get("RescaleIntercept"), 0.0, "RescaleIntercept")
    if slope == 0:
        raise ImageCorruptError("RescaleSlope is 0")
    return lambda stored: stored * slope + intercept, lambda stored: stored if slope > 0 else ~stored


def _voi_lut(item: pydicom.Dataset, dataset: pydicom.Dataset) -> _Window | None:
    """PS3.3 C.11.2: values of interest to 0..255; None where the file names none that can be used."""
    tables = item.get("VOILUTSequence")
    if tables:
        first, table, bits = _table(tables[0], dataset)
        shades = np.floor(table * (255.0 / (2**bits - 1)) + 0.5).clip(0, 255).astype(np.uint8)
        return lambda values: shades[_places(values, first, len(shades))]
    center, width = _first(item.get("WindowCenter")), _first(item.get("WindowWidth"))
    if center is None or width is None:
        return None
    function = str(item.get("VOILUTFunction") or "LINEAR").strip().upper()
    return _window(function, _number(center, 0.0, "WindowCenter"), _number(width, 0.0, "WindowWidth"))


def _window(function: str, c: float, w: float) -> _Window | None:
    """A VOI LUT function of a centre and a width."""
    match function:
        case "SIGMOID" if w > 0:
            return lambda values: _round(255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - c) / w, -700, 700))))
        case "LINEAR_EXACT" if w > 0:
            return lambda values: _round(((values - c) / w + 0.5) * 255.0)
        case "LINEAR" if w > 1:
            return lambda values: _round(((values - (c - 0.5)) / (w - 1.0) + 0.5) * 255.0)
        case "LINEAR" if w == 1:
            return lambda values: np.where(values <= c - 0.5, 0, 255).astype(np.uint8)
        case "LINEAR" | "LINEAR_EXACT" | "SIGMOID":
            # Narrower than DICOM allows, as writers leave it that know of no window.
            return None
    raise ImageFormatUnsupportedError(
        f"VOI LUT function {_code(function)} is not read, expected LINEAR, LINEAR_EXACT or SIGMOID"
    )


def _round(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.floor(levels.clip(0.0, 255.0) + 0.5).astype(np.uint8)


def _table(item: pydicom.Dataset, dataset: pydicom.Dataset) -> tuple[int, npt.NDArray[np.float64], int]:
    """First value mapped, the table, and the bits of an entry of a look-up table's item."""
    try:
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        # 0 entries stand for 65,536, which 16 bits cannot hold. The count has no sign, the first value may.
        count = count % 2**16 or 2**16
        data = item.LUTData
        if isinstance(data, bytes):
            order = ">" if dataset.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian else "<"
            narrow = bits <= 8 and len(data) == count + count % 2
            data = np.frombuffer(data, np.uint8)[:count] if narrow else np.frombuffer(data, f"{order}u2")
        table = np.atleast_1d(np.asarray(data, np.float64)) % 2**16
    except MemoryError:
        raise
    except Exception as error:
        raise ImageCorruptError(f"a look-up table cannot be read: {type(error).__name__}") from error
    if table.ndim != 1 or len(table) != count or not 8 <= bits <= 16:
        raise ImageCorruptError("a look-up table is not as long as its descriptor says")
    return first, table, bits


def _places(values: npt.NDArray[Any], first: int, count: int) -> npt.NDArray[np.int64]:
    return np.rint(np.clip(values - float(first), 0, count - 1)).astype(np.int64)


def _is_inverted(dataset: pydicom.Dataset) -> bool:
    # One and the same thing said twice: an inverse shape belongs to MONOCHROME1 (PS3.3 C.11.6).
    inverse = str(dataset.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    return dataset.PhotometricInterpretation == "MONOCHROME1" or inverse


def _allowed(dataset: pydicom.Dataset, groups: list[pydicom.Dataset], frame: int) -> dict[str, str]:
    """What is kept of the header. Numbers and codes in the form that DICOM gives them, nothing else."""
    measures = _macro(dataset, groups, "PixelMeasuresSequence")
    spacing = measures.get("PixelSpacing")
    found: dict[str, object] = {
        "Modality": _code(dataset.Modality),
        "Manufacturer": _manufacturer(str(dataset.get("Manufacturer", ""))),
        "MagneticFieldStrength": _decimal(dataset.get("MagneticFieldStrength")),
        "PixelSpacing": "\\".join(map(_decimal, spacing)) if spacing and len(spacing) == 2 else "",
        "SliceThickness": _decimal(measures.get("SliceThickness")),
        "FrameNumber": frame or "",
        "PhotometricInterpretation": _code(dataset.PhotometricInterpretation),
        "TransferSyntaxUID": str(dataset.file_meta.TransferSyntaxUID),
    }
    return {name: str(value) for name, value in found.items() if value != ""}


_MANUFACTURERS: Final = ("SIEMENS", "PHILIPS", "GE", "TOSHIBA", "CANON", "HITACHI", "FUJIFILM", "BRUKER",
                         "UNITED IMAGING", "ESAOTE", "HYPERFINE", "NEUSOFT", "MINDRAY")  # fmt: skip


def _manufacturer(text: str) -> str:
    """The maker's name when it is one that is known: the attribute is free text, and people write into it."""
    words = text.upper().replace("_", " ").split()
    return next((name for name in _MANUFACTURERS if name.split() == words[: len(name.split())]), "")


def _code(value: object) -> str:
    """A code string as it may be shown: what is no code (PS3.5 6.2, CS) may be anybody's text."""
    text = str(value).strip()
    sound = len(text) <= 16 and all(letter.isupper() or letter.isdigit() or letter in "_ " for letter in text)
    return text if text and text.isascii() and sound else "not a code string"


def _decimal(value: object) -> str:
    try:
        return f"{float(value):g}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


def _number(value: object, default: float, name: str) -> float:
    value = _first(value)
    try:
        number = default if value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ImageCorruptError(f"{name} is not a number")
    return number


def _first(value: object) -> object:
    """The first of several values: of several windows the first is the one to begin with."""
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return value[0] if value else None
    return None if value == "" else value


def _name(identifier: object) -> str:
    """What DICOM calls a UID; one that it does not know is not repeated: it may be a site's own."""
    known = uid.UID(str(identifier or ""))
    return known.name if known and known.name != known else "an unknown one"


pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
