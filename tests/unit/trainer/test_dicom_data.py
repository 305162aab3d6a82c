"""Data sets of DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing.dicom_files import dicom_file, gradient
from neurogate_trainer.data.index import DatasetIndex, build_index
from neurogate_trainer.data.masks import MASKS_FOLDER
from neurogate_trainer.progress import Reporter
from PIL import Image

SECRET = "ZZSECRET"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for class_id in ("glioma", "pituitary"):
        folder = tmp_path / class_id
        folder.mkdir()
        for number in range(6):
            stored = rng.integers(0, 4000, (32, 48)).astype(np.uint16)
            # As scanners name them: by a suffix, by nothing, by numbers with dots.
            name = ("slice.dcm", "IM00", "1.2.840.7")[number % 3]
            (folder / f"{number}{name}").write_bytes(dicom_file(stored, PatientName=SECRET))
    volume = np.stack([gradient()] * 4)
    (tmp_path / "glioma" / "volume.dcm").write_bytes(dicom_file(volume, PatientName=SECRET))
    return tmp_path


def test_files_are_indexed_and_volumes_are_refused_with_their_frames(data: Path, tmp_path: Path) -> None:
    index = build_index(data, reporter=Reporter())
    assert index.counts() == {"glioma": 6, "pituitary": 6}
    assert {(record.width, record.height, record.mode) for record in index.records} == {(48, 32, "L")}
    [volume] = index.unreadable
    assert volume.path == "glioma/volume.dcm"
    assert volume.reason.startswith("FRAME_REQUIRED: the file has 4 frames")
    index.save(tmp_path / "index.sqlite")
    assert SECRET.encode() not in (tmp_path / "index.sqlite").read_bytes()
    assert DatasetIndex.load(tmp_path / "index.sqlite", data) == index


def test_masks_of_files_are_held_to_their_size(data: Path) -> None:
    mask = data / MASKS_FOLDER / "glioma" / "0slice.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (48, 32)).save(mask)
    build_index(data, reporter=Reporter())


def test_what_is_recorded_of_a_file_is_its_picture(data: Path) -> None:
    from neurogate_trainer.export.version import _encoded

    path = data / "glioma" / "0slice.dcm"
    spec = default_spec()
    pixels = transform(path.read_bytes(), spec)
    recorded = _encoded(path, pixels)
    assert recorded.startswith(b"\x89PNG")
    assert SECRET.encode() not in recorded
    np.testing.assert_array_equal(transform(recorded, spec), pixels)
