"""DICOM files made for a test, by pydicom and the encoders of the same packages."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

NATIVE: Final = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
LOSSLESS: Final = (*NATIVE, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
_ENCODERS: Final = {
    uid.RLELossless: "pydicom",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
}

Stored = npt.NDArray[Any]


def dicom_file(
    stored: Stored,
    *,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    sop_class: uid.UID = uid.MRImageStorage,
    bits_stored: int = 0,
    without: tuple[str, ...] = (),
    **elements: Any,
) -> bytes:
    """A DICOM file of values [rows, columns] or [frames, rows, columns], whose type says bits and sign.

    Args:
        stored: The values.
        syntax: Transfer syntax.
        sop_class: SOP class.
        bits_stored: Fewer than the type has; 0 for all of them.
        without: Keywords of elements to leave out.
        elements: More elements, or other values, by keyword.
    """
    bits = 8 * stored.dtype.itemsize
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "MR",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits_stored or bits,
        "HighBit": (bits_stored or bits) - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    }
    if stored.ndim == 3:
        values["NumberOfFrames"] = len(stored)
    for name, value in (values | elements).items():
        setattr(dataset, name, value)
    order = stored.dtype.newbyteorder(">" if syntax == uid.ExplicitVRBigEndian else "<")
    if syntax in _ENCODERS:
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.compress(syntax, encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    elif syntax in NATIVE:
        dataset.PixelData = stored.astype(order).tobytes() + b"\0" * (stored.nbytes % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    elif "PixelData" not in elements:
        frames = stored.reshape(-1, *stored.shape[-2:])
        dataset.PixelData = encapsulate([_jpeg(frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    for name in without:
        delattr(dataset, name)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def items(*contents: Mapping[str, Any]) -> Sequence:
    """A sequence of items with these elements."""
    made = []
    for content in contents:
        item = Dataset()
        for name, value in content.items():
            setattr(item, name, value)
        made.append(item)
    return Sequence(made)


def gradient(rows: int = 32, columns: int = 48, *, most: int = 4000, kind: type = np.uint16) -> Stored:
    """Stored values from 0 to `most`, each of many once."""
    return np.linspace(0, most, rows * columns).reshape(rows, columns).astype(kind)


def _jpeg(frame: Stored) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return file.getvalue()
