"""The model repository among processes: together, killed at every step, and alive while others sweep."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from neurogate_core.manifest import verify_version
from neurogate_core.repository import ModelRepository
from neurogate_testing.killing import reports, start
from neurogate_testing.manifests import fill_version, sound_manifest

MODEL = "brain_tumor"

PREAMBLE = """
import json, os, sys
from pathlib import Path
from neurogate_core.repository import ModelRepository
from neurogate_testing.manifests import fill_version, sound_manifest
repository = ModelRepository(Path(sys.argv[1]))
"""

PUBLISH_MANY = (
    PREAMBLE
    + """
numbers = []
for turn in range(int(sys.argv[3])):
    with repository.staging("brain_tumor", f"run-{sys.argv[2]}-{turn}") as staged:
        fill_version(staged, graph=os.urandom(1000))
        numbers.append(repository.publish("brain_tumor", staged, sound_manifest()).version)
print(json.dumps(numbers))
"""
)

KILLED_AT_EVERY_STEP = (
    PREAMBLE
    + """
from neurogate_testing.killing import at_every_step

def publish(_):
    with repository.staging("brain_tumor", "run") as staged:
        fill_version(staged)
        repository.publish("brain_tumor", staged, sound_manifest())

at_every_step(publish)
"""
)

STAGE_AND_WAIT = (
    PREAMBLE
    + """
with repository.staging("brain_tumor", "alive") as staged:
    fill_version(staged)
    print("staged", flush=True)
    sys.stdin.readline()
    print(repository.publish("brain_tumor", staged, sound_manifest()).version, flush=True)
"""
)


def publish_here(repository: ModelRepository) -> int:
    with repository.staging(MODEL, "parent") as staged:
        fill_version(staged)
        return repository.publish(MODEL, staged, sound_manifest()).version


def staging_folders(repository: ModelRepository) -> list[str]:
    return sorted(path.name for path in (repository.root / MODEL).glob(".staging-*"))


def test_publishers_in_many_processes_never_collide(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    publishers = [start(PUBLISH_MANY, tmp_path, number, 8) for number in range(4)]
    # Whatever is visible at any moment is whole.
    while any(publisher.poll() is None for publisher in publishers):
        for version in repository.versions(MODEL)[-3:]:
            verify_version(repository.path(MODEL, version), model_name=MODEL)
    numbers = []
    for publisher in publishers:
        output, _ = publisher.communicate()
        assert publisher.returncode == 0
        own = json.loads(output)
        assert own == sorted(own)
        numbers += own
    assert sorted(numbers) == repository.versions(MODEL) == list(range(1, 33))
    assert staging_folders(repository) == []


def test_a_publisher_killed_at_any_step_leaves_no_half_version(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    publish_here(repository)
    outcomes = set()
    highest = 1
    for report in reports(start(KILLED_AT_EVERY_STEP, tmp_path)):
        known = repository.versions(MODEL)
        for version in known[-2:]:
            verify_version(repository.path(MODEL, version), model_name=MODEL)
        left = staging_folders(repository)
        outcomes.add((bool(left), known[-1] > highest))
        assert all(
            name.startswith(".")
            for name in {path.name for path in (tmp_path / MODEL).iterdir()} - set(map(str, known))
        )
        assert repository.sweep(MODEL) == [] or report["killed"]
        assert staging_folders(repository) == []
        assert not list((tmp_path / MODEL).glob("*.tmp"))
        following = publish_here(repository)
        assert following > max(highest, known[-1])
        highest = following
    # The kills met every phase: before the folder existed, with it staged, and after the rename.
    assert {(False, False), (True, False), (False, True)} <= outcomes


def test_a_live_staging_folder_is_never_swept_and_a_dead_one_is(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    for ending in ("publish", "kill"):
        process = start(STAGE_AND_WAIT, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        assert repository.sweep(MODEL) == []
        publish_here(repository)
        assert staging_folders(repository) == [".staging-alive"]
        if ending == "publish":
            output, _ = process.communicate("\n")
            assert int(output) == 2
        else:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert staging_folders(repository) == [".staging-alive"]
            assert repository.sweep(MODEL) == [".staging-alive"]
        assert staging_folders(repository) == []
    assert repository.versions(MODEL) == [1, 2, 3]


def test_an_interrupted_publisher_cleans_up(tmp_path: Path) -> None:
    process = start(STAGE_AND_WAIT, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert staging_folders(ModelRepository(tmp_path)) == []


pytestmark = pytest.mark.timeout(120)
