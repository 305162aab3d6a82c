"""A slice as an MR DICOM file, for demos and tests where no patient's file can be had."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from neurogate_core.preprocessing.transform import decode, default_spec
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

_STEP = 16
"""Stored values per gray level, so that 12 bits are used as a scanner uses them."""


def dicom_of(image: bytes) -> bytes:
    """An image as MR Image Storage, whose window shows the same gray levels again.

    Args:
        image: Encoded, of any kind that a transform reads.

    Raises:
        TransformError: It is not.
    """
    spec = default_spec()
    # At its own size: a JPEG's draft would be for a smaller one.
    spec.jpeg_draft = False
    levels = np.asarray(decode(image, spec).image.convert("L"))
    stored = levels.astype("<u2") * _STEP
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for name, value in {
        "SOPClassUID": uid.MRImageStorage,
        "SOPInstanceUID": uid.generate_uid(),
        "StudyInstanceUID": uid.generate_uid(),
        "SeriesInstanceUID": uid.generate_uid(),
        "FrameOfReferenceUID": uid.generate_uid(),
        "PatientName": "Phantom^Synthetic",
        "PatientID": "PHANTOM",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": "1",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "",
        "Modality": "MR",
        "Manufacturer": "Neurogate",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "ImageType": ["DERIVED", "SECONDARY"],
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTime": 10,
        "EchoTrainLength": 1,
        "RepetitionTime": 500,
        "PatientPosition": "HFS",
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [240 / levels.shape[0], 240 / levels.shape[1]],
        "SliceThickness": 5,
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": levels.shape[0],
        "Columns": levels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 255 * _STEP // 2,
        "WindowWidth": 255 * _STEP,
        "VOILUTFunction": "LINEAR_EXACT",
    }.items():
        setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def write_dicom(image: Path, out: Path) -> None:
    """Writes an image file as a DICOM file.

    Raises:
        TransformError, OSError: It cannot be read, or written.
    """
    out.write_bytes(dicom_of(image.read_bytes()))
