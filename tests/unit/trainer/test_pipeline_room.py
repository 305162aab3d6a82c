"""Disks without room: before a run, and in the middle of one."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest
import tensorflow as tf
from neurogate_testing.data_folders import write_folder
from neurogate_trainer import pipeline
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.phases import PipelineError
from neurogate_trainer.progress import Reporter


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def train(tmp_path):
    return pipeline.run_training(
        write_folder(tmp_path / "data", {"a": 5, "b": 5}),
        tmp_path / "run",
        repository=tmp_path / "models",
        model="m",
        config=TrainConfig(image_size=32),
        reporter=Reporter(),
    )


def test_a_repository_without_room_for_a_version_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 2_000_000))
    monkeypatch.setattr(pipeline, "_run", None)
    with pytest.raises(PipelineError, match=r"models has 2 MB left, expected at least 67 MB for a version"):
        train(tmp_path)
    assert [path.name for path in (tmp_path / "models" / "m").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("/x/saved_model.pb; No space left on device", PipelineError),
        ("OOM", tf.errors.ResourceExhaustedError),
    ],
)
def test_a_disk_that_is_full_for_tensorflow_is_one_line(tmp_path, monkeypatch, message, kind):
    def run(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(pipeline, "_run", run)
    with pytest.raises(kind, match=message):
        train(tmp_path)
