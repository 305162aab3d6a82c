"""A run and its data set that are moved together, or one without the other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.layout import found_beside
from neurogate_trainer.evaluation.evaluation_set import write_evaluation_set
from neurogate_trainer.training.retraining import Retraining
from neurogate_trainer.training.run_folder import RunFolder, RunFolderError, read_settings

CONFIG = TrainConfig()


def begun(run_dir: Path, data: Path) -> None:
    """A run with something to lose."""
    data.mkdir(parents=True, exist_ok=True)
    with RunFolder.open(run_dir, CONFIG, data) as folder:
        folder.finish("index")


def test_both_are_moved(tmp_path):
    begun(tmp_path / "demo" / "run", tmp_path / "demo" / "data")
    (tmp_path / "demo").rename(tmp_path / "moved")
    run_dir, data = tmp_path / "moved" / "run", tmp_path / "moved" / "data"
    assert read_settings(run_dir).data == data
    with RunFolder.open(run_dir, CONFIG, data) as folder:
        assert folder.finished("index")


def test_the_run_alone_is_moved_or_copied(tmp_path):
    begun(tmp_path / "demo" / "run", tmp_path / "demo" / "data")
    shutil.copytree(tmp_path / "demo" / "run", tmp_path / "copy" / "run")
    assert read_settings(tmp_path / "copy" / "run").data == tmp_path / "demo" / "data"
    (tmp_path / "copy" / "other").mkdir()
    with (
        pytest.raises(RunFolderError, match=r"holds a run on .*demo/data, not on .*copy/other"),
        RunFolder.open(tmp_path / "copy" / "run", CONFIG, tmp_path / "copy" / "other"),
    ):
        pass


def test_what_lies_beside_goes_before_what_is_at_the_old_place(tmp_path):
    begun(tmp_path / "demo" / "run", tmp_path / "demo" / "data")
    shutil.copytree(tmp_path / "demo", tmp_path / "copy")
    assert read_settings(tmp_path / "copy" / "run").data == tmp_path / "copy" / "data"
    with RunFolder.open(tmp_path / "copy" / "run", CONFIG, tmp_path / "copy" / "data") as folder:
        assert folder.finished("index")


def test_a_folder_may_be_called_by_another_name(tmp_path):
    begun(tmp_path / "demo" / "run", tmp_path / "demo" / "data")
    odd = tmp_path / "demo" / "data" / ".." / "run"
    with RunFolder.open(odd, CONFIG, tmp_path / "demo" / "data") as folder:
        assert folder.finished("index")


def test_a_name_that_cannot_be_looked_at_is_not_beside(tmp_path):
    assert found_beside(tmp_path, "../" + "x" * 300, tmp_path / "run") == tmp_path


def test_data_that_lie_elsewhere_stay_there(tmp_path):
    begun(tmp_path / "runs" / "run", tmp_path / "sets" / "data")
    (tmp_path / "runs" / "data").mkdir()
    shutil.rmtree(tmp_path / "sets")
    assert read_settings(tmp_path / "runs" / "run").data == tmp_path / "sets" / "data"


def test_a_run_of_an_earlier_release(tmp_path):
    begun(tmp_path / "run", tmp_path / "data")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    del state["data_beside"]
    (tmp_path / "run" / "state.json").write_text(json.dumps(state))
    with RunFolder.open(tmp_path / "run", CONFIG, tmp_path / "data") as folder:
        assert folder.finished("index")


def test_a_retraining_of_an_earlier_release_goes_on(tmp_path):
    now = Retraining(base_run="b", examples="e", examples_digest="d")
    earlier = now.to_json()
    del earlier["gate_policy"]
    (tmp_path / "data").mkdir()
    with RunFolder.open(tmp_path / "run", CONFIG, tmp_path / "data", retraining=earlier) as folder:
        folder.finish("index")
    with RunFolder.open(tmp_path / "run", CONFIG, tmp_path / "data", retraining=now.to_json()) as folder:
        assert folder.finished("index")
        assert Retraining(**folder.retraining) == now
    other = dataclasses.replace(now, gate_policy="[gate]\nmin_accuracy = 1")
    with (
        pytest.raises(RunFolderError, match="holds another run than this retraining"),
        RunFolder.open(tmp_path / "run", CONFIG, tmp_path / "data", retraining=other.to_json()),
    ):
        pass


@pytest.mark.parametrize(("data", "beside"), [("demo/data", "../data"), ("data", ""), ("demo/x/data", "")])
def test_the_sealed_images_are_named_in_both_ways(tmp_path, data, beside):
    write_evaluation_set(tmp_path / "demo" / "run", tmp_path / data, [])
    content = json.loads((tmp_path / "demo" / "run" / "evaluation.json").read_text())
    assert (content["root"], content["root_beside"]) == (str(tmp_path / data), beside)
