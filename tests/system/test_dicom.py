"""A DICOM file through real servers."""

from __future__ import annotations

import io
from pathlib import Path

from neurogate_client import Client
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.stack import Stack
from neurogate_trainer.data.phantom.dicom import dicom_of
from PIL import Image


def test_a_dicom_file_is_answered_as_the_png_that_it_was_made_of(stack: Stack, tmp_path: Path) -> None:
    with Client(stack.target) as client:
        for seed in range(4):
            levels = Image.open(io.BytesIO(sample_image(seed))).convert("L")
            levels.save(tmp_path / "slice.png")
            data = dicom_of((tmp_path / "slice.png").read_bytes())
            # As on a scanner's disk: by a number, without a suffix.
            (tmp_path / "IM0001").write_bytes(data)
            spec = default_spec()
            assert (transform(data, spec) == transform((tmp_path / "slice.png").read_bytes(), spec)).all()
            answers = [client.classify(tmp_path / name) for name in ("slice.png", "IM0001")]
            assert answers[0].scores == answers[1].scores
            assert answers[0].verdict == answers[1].verdict
            explained = [client.explain(tmp_path / name) for name in ("slice.png", "IM0001")]
            assert explained[0].overlay_png == explained[1].overlay_png
