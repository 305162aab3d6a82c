"""The trainer as a process that is killed, on a data set of a few pictures."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from neurogate_core.manifest import verify_version
from neurogate_core.repository import ModelRepository
from neurogate_testing.data_folders import write_folder
from neurogate_testing.processes import running, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Keras asks numpy 2 for copies in the way of numpy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A data set, and initial weights in a file, so that no network is asked."""
    import keras
    from neurogate_trainer.config import TrainConfig
    from neurogate_trainer.model.network import backbone_of, build_model

    home = tmp_path_factory.mktemp("resume")
    counts = {
        f"{split}/{name}": count for split, count in (("Training", 20), ("Testing", 5)) for name in "ab"
    }
    write_folder(home / "data", counts)
    donor = build_model(TrainConfig(image_size=32), 2)
    backbone_of(donor).save_weights(home / "initial.weights.h5")
    keras.backend.clear_session()
    return home


def epochs_in(path: Path) -> list[int]:
    return [entry["epoch"] for entry in json.loads(path.read_text())]


def command(home: Path, name: str) -> list[str]:
    options = {
        "--repository": home / f"models-{name}",
        "--run-dir": home / name,
        "--weights": home / "initial.weights.h5",
        "--image-size": 32,
        "--batch-size": 8,
        "--epochs": 3,
        "--unfrozen-layers": 10,
    }
    flat = [str(part) for option in options.items() for part in option]
    return [
        script("neurogate-trainer"),
        "train",
        str(home / "data"),
        "--deterministic",
        "--keep-given-test",
        *flat,
    ]


def finish(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def record(home: Path, run: str, name: str) -> dict:
    return json.loads((home / run / name).read_text())


@pytest.fixture(scope="module")
def whole(home) -> Path:
    """A run that nothing interrupts."""
    finish(command(home, "whole"))
    return home / "whole"


def test_a_run_killed_in_an_epoch_goes_on_there_and_ends_as_if_never_killed(home, whole):
    run, repository = home / "killed", ModelRepository(home / "models-killed")
    with running(command(home, "killed")) as process:
        # The result of the second epoch of fine-tuning, the fourth in all: the next step is of the fifth.
        process.wait_for(r"fine-tune .* epoch 4, .*val macro f1", seconds=600)
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert repository.versions("brain_tumor") == []
    assert epochs_in(run / "history.json") == [1, 2, 3, 4]
    before = (run / "events.jsonl").read_text().splitlines()

    finish(command(home, "killed"))
    assert epochs_in(run / "history.json") == [1, 2, 3, 4, 5]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    after = events[len(before) :]
    phases = [event["phase"] for event in after if event["event"] == "phase"]
    later = ["calibrate", "ood", "export", "evaluate", "explanations", "figures", "publish"]
    assert phases == ["inputs", "fine-tune", *later]
    assert {event["epoch"] for event in after if event["event"] == "progress" and event["epoch"]} == {5}
    assert repository.versions("brain_tumor") == [1]
    verify_version(repository.path("brain_tumor", 1), model_name="brain_tumor")
    name = "export.json"
    assert record(home, "killed", name)["weights_sha256"] == record(home, "whole", name)["weights_sha256"]


def test_two_deterministic_runs_give_the_same_version(home, whole):
    finish(command(home, "again"))
    digests = [record(home, run, "published.json")["model_digest"] for run in ("whole", "again")]
    assert digests[0] == digests[1]


def test_a_kill_during_publication_leaves_no_half_version(home, whole):
    """Killed when the graph is exported and its evaluation begins; the next start publishes it."""
    repository = ModelRepository(home / "elsewhere")
    arguments = [script("neurogate-trainer"), "export", str(whole), "--repository", str(home / "elsewhere")]
    with running(arguments) as process:
        process.wait_for("evaluate", seconds=600)
        process.stop(signal.SIGKILL)
    folder = home / "elsewhere" / "brain_tumor"
    assert repository.versions("brain_tumor") == []
    assert any(path.name.startswith(".staging-") for path in folder.iterdir())
    finish(arguments)
    assert repository.versions("brain_tumor") == [1]
    verify_version(repository.path("brain_tumor", 1), model_name="brain_tumor")
    assert not any(path.name.startswith(".staging-") for path in folder.iterdir())
