"""Small DICOM files of every transfer syntax that is read, and damaged ones made of them."""

from __future__ import annotations

import functools
import io
import random
import struct
import warnings
from typing import Any, Final

import numpy as np
import pydicom
from pydicom import uid

from .dicom_files import LOSSLESS, dicom_file, gradient, items

# What decides how much is read, and how it is read.
_NUMBERS: Final[dict[str, tuple[Any, ...]]] = {
    "Rows": (0, 1, 63, 65, 7000, 65_535),
    "Columns": (0, 1, 63, 65, 7000, 65_535),
    "BitsAllocated": (0, 1, 8, 12, 32, 64, 65_535),
    "BitsStored": (0, 1, 8, 17, 65_535),
    "HighBit": (0, 7, 16, 65_535),
    "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 2, 3, 65_535),
    "PlanarConfiguration": (0, 1, 2),
    "NumberOfFrames": (0, 2, 1_000_000, 2_147_483_647),
    "WindowCenter": (0, -1e300, 1e300, [40, 400]),
    "WindowWidth": (0, -1, 1, 1e-300, 1e300),
    "RescaleSlope": (0, -1, 1e300, 1e-300),
    "RescaleIntercept": (1e300, -1e300),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "NONE"),
}


@functools.cache
def sound_files() -> dict[str, bytes]:
    """A file of every transfer syntax that is read, and of every way to look at stored values, by name."""
    # Some noise, so that there is something to compress.
    stored = gradient() ^ np.random.default_rng(1).integers(0, 16, gradient().shape, np.uint16)
    files = {syntax.name: dicom_file(stored, syntax=syntax, bits_stored=12) for syntax in LOSSLESS}
    files["jpeg"] = dicom_file(gradient(most=255, kind=np.uint8), syntax=uid.JPEGBaseline8Bit)
    table = {"LUTDescriptor": [4096, 0, 16], "LUTData": np.arange(0, 2**16, 16, np.uint16).tobytes()}
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    looks: dict[str, dict[str, Any]] = {
        "window": window,
        "sigmoid": {**window, "VOILUTFunction": "SIGMOID", "PhotometricInterpretation": "MONOCHROME1"},
        "voi table": {"VOILUTSequence": items(table)},
        "modality table": {"ModalityLUTSequence": items({**table, "ModalityLUTType": "US"})},
        "padding": {"PixelPaddingValue": 0, "RescaleSlope": 2, "RescaleIntercept": -100},
    }
    files |= {name: dicom_file(stored, **elements) for name, elements in looks.items()}
    # What becomes far more than it is.
    dark = np.zeros((1500, 1000), np.uint16)
    dark[:, 500:] = 1
    files["deflated"] = dicom_file(dark, syntax=uid.DeflatedExplicitVRLittleEndian)
    groups = items(
        *({"FrameVOILUTSequence": items({**window, "WindowWidth": width})} for width in (500, 2000))
    )
    files["frames"] = dicom_file(
        np.stack([stored, stored[::-1]]),
        sop_class=uid.EnhancedMRImageStorage,
        PerFrameFunctionalGroupsSequence=groups,
    )
    return files


def mutated(rng: random.Random) -> bytes:
    """A damaged file: other numbers in its header, or other bytes anywhere, or both."""
    data = sound_files()[rng.choice(sorted(sound_files()))]
    luck = rng.random()
    if luck < 0.1:
        side = rng.choice((500, 2000, 7000))
        data = _with(_promising(data, side), {"Rows": side, "Columns": side})
    elif luck < 0.5:
        names = rng.sample(sorted(_NUMBERS), rng.randint(1, 3))
        data = _with(data, {name: rng.choice(_NUMBERS[name]) for name in names})
    if rng.random() < 0.8:
        data = _other_bytes(rng, data)
    return data


def _promising(data: bytes, side: int) -> bytes:
    """The file with another size in the header of its compressed image, and nothing more behind it."""
    changed = bytearray(data)
    # JPEG and JPEG-LS: frame header; JPEG 2000: SIZ, whose only tile is as large as the image.
    for marker in (b"\xff\xc0\x00\x0b\x08", b"\xff\xf7\x00\x0b"):
        place = data.find(marker)
        if place > 0:
            changed[place + 5 : place + 9] = struct.pack(">HH", side, side)
    place = data.find(b"\xff\x4f\xff\x51")
    if place > 0:
        changed[place + 8 : place + 16] = changed[place + 24 : place + 32] = struct.pack(">LL", side, side)
    return bytes(changed)


def _with(data: bytes, elements: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # That they are no values for these elements is the point.
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data))
        for name, value in elements.items():
            setattr(dataset, name, value)
        pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def _other_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        # The header, the beginning of a compressed image, or anywhere; the preamble says nothing.
        begin = rng.choice((132, 132, max(132, len(changed) - 3000)))
        place = rng.randrange(begin, len(changed)) if begin < len(changed) else len(changed)
        luck = rng.random()
        if luck < 0.6:
            changed[place : place + 1] = rng.choice(
                (b"\0", b"\xff", b"\x7f", rng.randbytes(1), rng.randbytes(4))
            )
        elif luck < 0.75:
            del changed[place : place + rng.randint(1, 40)]
        elif luck < 0.9:
            changed[place:place] = rng.randbytes(rng.randint(1, 20))
        elif luck < 0.95:
            changed[place:place] = changed[place : place + 200]
        else:
            del changed[place:]
    return bytes(changed)
