"""Images that say in every place of their format whose they are, so that a test can look for what was kept.

To look for the words in another kind of file, add an entry to `files`.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, PngImagePlugin, TiffImagePlugin

from neurogate_testing import images
from neurogate_testing.dicom_files import dicom_file, items

NAME = "Quillfeather^Oswaldine"
NUMBER = "MRN-7741-9920X"
DAY = "19370229"
WORDS = (NAME, "Quillfeather", "Oswaldine", NUMBER, DAY)
_ALL = f"{NAME} {NUMBER} {DAY}"


def traces(data: bytes) -> list[str]:
    """The words that bytes hold, in any of the encodings in which formats have text."""
    lower = data.lower()
    return [
        f"{word} as {encoding}"
        for word in WORDS
        for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        if word.encode(encoding).lower() in lower
    ]


def traces_below(folder: Path) -> list[str]:
    """The words in the contents and names of all files of a folder."""
    return [
        f"{path}: {trace}"
        for path in sorted(folder.rglob("*"))
        for trace in traces(str(path.relative_to(folder)).encode())
        + (traces(path.read_bytes()) if path.is_file() else [])
    ]


def files(seed: int = 0) -> dict[str, bytes]:
    """One sound image of every kind with the words in all its places, by kind."""
    return {
        "jpeg": jpeg(images.brain_slice(seed)),
        "jpeg-progressive": jpeg(images.brain_slice(seed + 1, progressive=True)),
        "png": _png(seed + 2),
        "tiff": _tiff(seed + 3),
        "webp": _webp(seed + 4),
        "gif": _gif(seed + 5),
        "bmp": images.brain_slice(seed + 6, container="BMP") + _ALL.encode(),
        "dicom": _dicom(seed + 7),
    }


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = _ALL  # ImageDescription
    exif[0x013B] = NAME  # Artist
    exif[0x8298] = NUMBER  # Copyright
    exif[0x0132] = DAY  # DateTime
    exif[0x9C9D] = NAME.encode("utf-16-le")  # XPAuthor
    exif[0x9C9C] = NUMBER.encode("utf-16-le")  # XPComment
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + _ALL.encode("utf-16-le")  # UserComment
    return exif.tobytes()


def _xmp() -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator>{NAME}</dc:creator>'
        f"<dc:title>{NUMBER} {DAY}</dc:title></x:xmpmeta>"
    ).encode()


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(plain: bytes, orientation: int = 6) -> bytes:
    """A JPEG with the words between its headers, between its segments and behind its end."""
    said = _ALL.encode()
    iptc = b"".join(
        b"\x1c\x02" + bytes([field]) + struct.pack(">H", len(said)) + said for field in (80, 105, 120)
    )
    resource = (
        b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">L", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    )
    thumbnail = images.encode(Image.new("L", (8, 8)), "JPEG", comment=said)
    segments = [
        _segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\2\2" + said[:12]),
        _segment(0xE0, b"JFXX\0\x10" + thumbnail),
        _segment(0xE1, _exif(orientation)),
        _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _xmp()),
        _segment(0xE2, b"ICC_PROFILE\0\1\1" + said),
        _segment(0xED, resource),
        *(_segment(marker, b"Vendor\0" + said) for marker in (*range(0xE3, 0xED), 0xEE, 0xEF)),
        _segment(0xFE, said),
        _segment(0xFE, _ALL.encode("utf-16-le")),
    ]
    # The words also stand between segments, behind the end, and in what looks like a second image there.
    return (
        plain[:2]
        + b"".join(segments)
        + said
        + plain[20 if b"JFIF" in plain[:11] else 2 :]
        + said
        + plain[:200]
        + said
    )


def _png(seed: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", NAME)
    info.add_text("Comment", _ALL, zip=True)
    info.add_itxt("Description", _ALL, "en", "Beschreibung")
    info.add_itxt("XML:com.adobe.xmp", _xmp().decode(), zip=True)
    info.add(b"prVt", _ALL.encode())
    written = images.brain_slice(
        seed, container="PNG", pnginfo=info, exif=_exif(3), icc_profile=_ALL.encode()
    )
    return written + _ALL.encode()


def _tiff(seed: int) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (270, 269, 271, 272, 285, 305, 306, 315, 316, 33432, 65000):
        tags[tag] = _ALL
    tags[700] = _xmp()
    tags[34377] = _ALL.encode()
    return images.brain_slice(seed, container="TIFF", tiffinfo=tags, compression="tiff_lzw")


def _webp(seed: int) -> bytes:
    return images.brain_slice(
        seed, container="WEBP", lossless=True, exif=_exif(8), xmp=_xmp(), icc_profile=_ALL.encode()
    )


def _gif(seed: int) -> bytes:
    picture = Image.open(io.BytesIO(images.brain_slice(seed, container="PNG")))
    return images.encode(picture, "GIF", comment=_ALL.encode())


def _dicom(seed: int) -> bytes:
    levels = np.asarray(Image.open(io.BytesIO(images.brain_slice(seed, container="PNG"))))
    names = ("PatientName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName")
    numbers = ("PatientID", "AccessionNumber", "StudyID", "DeviceSerialNumber", "StationName")
    days = ("PatientBirthDate", "StudyDate", "SeriesDate", "ContentDate")
    texts = ("InstitutionName", "StudyDescription", "SeriesDescription", "ImageComments", "PatientComments")
    elements = (
        dict.fromkeys(names, NAME)
        | dict.fromkeys(numbers, NUMBER)
        | dict.fromkeys(days, DAY)
        | dict.fromkeys((*texts, "InstitutionAddress", "ProtocolName", "AdditionalPatientHistory"), _ALL)
    )
    nested = items({"PatientID": NUMBER, "ReferencedStudySequence": items({"StudyDescription": _ALL})})
    file = dicom_file(
        levels.astype(np.uint16) * 9,
        OtherPatientIDsSequence=nested,
        RequestAttributesSequence=items({"ScheduledProcedureStepDescription": _ALL}),
        **elements,
    )
    dataset = pydicom.dcmread(io.BytesIO(file))
    dataset.private_block(0x0029, "ACME", create=True).add_new(1, "LT", _ALL)
    dataset.private_block(0x0031, NUMBER, create=True).add_new(1, "UN", _ALL.encode("utf-16-le"))
    dataset.file_meta.SourceApplicationEntityTitle = NUMBER
    dataset.preamble = _ALL.encode().ljust(128, b"\0")
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset)
    return written.getvalue()
