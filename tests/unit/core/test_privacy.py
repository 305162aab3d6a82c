"""What may be kept of an image: its picture, and nothing that names a person."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import default_spec, transform, upright_size
from neurogate_testing import identifying, images
from PIL import Image

SPECS = [default_spec(61, 47), default_spec(16, 24), default_spec(224, 224)]
SPECS[1].color_mode = manifest_pb2.COLOR_MODE_GRAY
SPECS[2].jpeg_draft = False

KINDS = {
    **images.sound(),
    **identifying.files(),
    **{
        f"{container}-orientation-{orientation}": images.oriented(orientation, container, 600, 400)
        for container in ("JPEG", "PNG", "TIFF", "WEBP")
        for orientation in range(1, 9)
    },
    "jpeg-large": images.brain_slice(1, size=700),
    "jpeg-large-progressive": images.brain_slice(1, size=700, progressive=True),
    "jpeg-cmyk-large": images.sample("JPEG", "CMYK", 700, 500),
    "jpeg-restarts": images.sample("JPEG", "RGB", 300, 200, restart_marker_rows=1),
    "png-16-raw": images.encode(Image.fromarray(np.arange(61 * 47, dtype=np.uint16).reshape(47, 61)), "PNG"),
    "png-no-alpha": images.encode(Image.new("RGBA", (30, 20), (90, 20, 10, 0)), "PNG"),
}
KINDS["jpeg-rgb-adobe"] = images.encode(images.picture("RGB", 200, 100), "JPEG", keep_rgb=True)
KINDS["jpeg-without-end"] = images.sample("JPEG", quality=95)[:-2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_transform_sees_the_same_picture(kind: str) -> None:
    data = KINDS[kind]
    kept = deidentified(data)
    for spec in SPECS:
        assert np.array_equal(transform(kept, spec), transform(data, spec))
    # The header of a DICOM file is not read in this process.
    assert kind == "dicom" or upright_size(kept) == upright_size(data)
    assert deidentified(kept) == kept
    assert kept[:3] == (b"\xff\xd8\xff" if data[:2] == b"\xff\xd8" else b"\x89PN")


@pytest.mark.parametrize("kind", identifying.files())
def test_nothing_that_names_a_person_is_kept(kind: str) -> None:
    data = identifying.files()[kind]
    assert {trace.partition(" as ")[0] for trace in identifying.traces(data)} >= set(identifying.WORDS)
    assert identifying.traces(deidentified(data)) == []


def test_a_jpeg_keeps_its_compressed_picture_and_three_small_segments() -> None:
    plain = images.sample("JPEG", "CMYK", quality=95)
    kept = deidentified(identifying.jpeg(plain))
    assert kept[kept.index(b"\xff\xdb") :] == plain[plain.index(b"\xff\xdb") :]
    with Image.open(io.BytesIO(kept)) as image:
        assert dict(image.getexif()) == {0x0112: 6}
        assert sum(len(body) for _, body in image.applist) < 70


@pytest.mark.parametrize("kind", [kind for kind in identifying.files() if "jpeg" not in kind])
def test_other_kinds_become_a_png_of_three_kinds_of_chunks(kind: str) -> None:
    kept = deidentified(identifying.files()[kind])
    kinds, position = [], 8
    while position < len(kept):
        length, kind = struct.unpack_from(">L4s", kept, position)
        kinds.append(kind)
        position += 12 + length
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == (b"IHDR", {b"IDAT"}, b"IEND")


def test_two_files_of_one_jpeg_picture_are_kept_as_one() -> None:
    plain = images.brain_slice(5)
    assert deidentified(identifying.jpeg(plain, orientation=1)) == deidentified(plain)
