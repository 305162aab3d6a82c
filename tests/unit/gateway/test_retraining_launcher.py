"""What a retraining leaves: versions to start from, by the runs that their manifests name, and a log."""

from __future__ import annotations

from pathlib import Path

import pytest
from neurogate_core.manifest import MANIFEST_FILE
from neurogate_core.repository import ModelRepository
from neurogate_gateway.retraining.launcher import CHECKPOINT, TrainerJobs, log_tail
from neurogate_testing.launching import MODEL, Home
from neurogate_testing.manifests import fill_version, sound_manifest


def publish(home: Home, run_id: str) -> int:
    repository, manifest = ModelRepository(home.repository), sound_manifest(model=MODEL)
    manifest.lineage.run_id = run_id
    with repository.staging(MODEL, "staged") as staged:
        fill_version(staged)
        return repository.publish(MODEL, staged, manifest).version


def keep_weights(run_dir: Path) -> Path:
    path = run_dir / CHECKPOINT
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def found(home: Home) -> TrainerJobs:
    return home.jobs()


def test_the_base_runs_version_and_those_of_retrainings_can_be_started_from(home, found):
    assert found.versions() == []
    assert [publish(home, run_id) for run_id in ("base", "0" * 32, "elsewhere")] == [1, 2, 3]
    assert found.versions() == []
    keep_weights(home.base_run)
    retraining = home.runs_dir / ("0" * 32) / "run"
    weights = keep_weights(retraining)
    assert found.versions() == [1, 2]
    assert (found.run_dir(1), found.run_dir(2), found.run_dir(3)) == (home.base_run, retraining, None)
    weights.unlink()
    assert found.versions() == [1]


def test_the_version_that_a_run_published_is_found_by_its_manifest(home, found):
    assert found.published_by("0" * 32) == 0
    publish(home, "base")
    number = publish(home, "0" * 32)
    assert found.published_by("0" * 32) == number
    assert found.published_by("1" * 32) == 0


def test_what_cannot_be_read_is_passed_over(home, found):
    keep_weights(home.base_run)
    first, second = publish(home, "base"), publish(home, "base")
    (home.repository / MODEL / str(second) / MANIFEST_FILE).write_bytes(b"\xff")
    assert found.versions() == [first]
    (home.base_run / "state.json").write_text("[]")
    assert found.versions() == []
    assert found.run_dir(99) is None


def test_the_trainer_keeps_its_weights_where_they_are_looked_for():
    from neurogate_trainer.training.retraining import checkpoint_of

    assert checkpoint_of(Path("run")) == Path("run") / CHECKPOINT


def test_a_log_is_text_that_every_database_holds(tmp_path: Path) -> None:
    (tmp_path / "trainer.log").write_bytes(b"a\0b\xff\n")
    assert log_tail(tmp_path) == "a\ufffdb\ufffd"
