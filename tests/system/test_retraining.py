"""From labelled images to a better version in service, over gRPC, with the real trainer in real processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from neurogate_client import Client, enum_name, labelled_images
from neurogate_core.manifest import verify_version
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.repository import ModelRepository
from neurogate_testing.data_folders import write_folder
from neurogate_testing.processes import script
from neurogate_testing.release_stack import labels_of, release_stack
from neurogate_testing.stack import MODEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Keras asks numpy 2 for copies in the way of numpy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

POLICY = """
[gate]
min_accuracy = 0.0
min_recall = 0.0
max_regression = 1.0
max_ece = 1.0
max_latency_p99_ms = 600000.0
"""

OWN_POLICY = "[gate]\nmax_latency_p99_ms = 500000\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A first version and the run behind it, a policy that lets all through, and new images."""
    import keras
    from neurogate_trainer.config import TrainConfig
    from neurogate_trainer.model.network import backbone_of, build_model

    home = tmp_path_factory.mktemp("retraining")
    write_folder(home / "data", {"glioma": 20, "notumor": 20})
    write_folder(home / "new", {"glioma": 4, "notumor": 4}, first_seed=5000)
    (home / "policy.toml").write_text(POLICY)
    backbone_of(build_model(TrainConfig(image_size=32), 2)).save_weights(home / "initial.weights.h5")
    keras.backend.clear_session()
    options = {
        "--repository": home / "models",
        "--run-dir": home / "first",
        "--weights": home / "initial.weights.h5",
        "--image-size": 32,
        "--batch-size": 8,
        "--epochs": 1,
        "--unfrozen-layers": 4,
    }
    command = [script("neurogate-trainer"), "train", str(home / "data")]
    done = subprocess.run(
        [*command, *(str(part) for option in options.items() for part in option)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sealed = json.loads((home / "first" / "evaluation.json").read_text())["images"][0]
    (home / "new" / sealed["class"] / "sealed.jpg").write_bytes((home / "data" / sealed["path"]).read_bytes())
    return home


def test_uploaded_images_become_the_next_stable_version(home: Path) -> None:
    settings = {
        "data_dir": str(home / "records"),
        "base_run": str(home / "first"),
        "policy": str(home / "policy.toml"),
        "min_examples_per_class": "2",
    }
    with release_stack(home / "models", **settings) as stack, Client(stack.targets[0]) as client:
        results = list(client.upload_examples(labelled_images(home / "new")))
        assert len(results) == 9
        assert not [result.error for result in results if result.error]
        queued = client.start_retraining(
            hyperparameters={"epochs": 1, "warmup_epochs": 0, "learning_rate": 1e-5},
            promote=True,
            gate_policy=OWN_POLICY,
        )
        assert (enum_name(queued, "state"), queued.spec.warm_start_version) == ("QUEUED", 1)
        events = list(client.watch_retraining(queued.retraining_id))
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        states = [
            enum_name(event.state_change, "state") for event in events if event.HasField("state_change")
        ]
        assert states == ["QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"], events[-1]
        phases = [event.phase.name for event in events if event.HasField("phase")]
        order = ["index", "weights", "inputs", "fine-tune", "export", "evaluate", "publish"]
        assert [name for name in phases if name in order] == order
        figures = [event.progress.metrics for event in events if event.HasField("progress")]
        assert any("val_macro_f1" in each for each in figures)
        lines = [event.log.text for event in events if event.HasField("log")]
        assert any(line.startswith("left out as sealed: 1 examples") for line in lines)
        assert lines[-1] == "published: published version 2"

        ended = client.get_retraining(queued.retraining_id)
        assert (ended.version, ended.error) == (2, "")
        assert ended.gate.accepted
        assert ended.gate.findings[-1].rule == "gate_policy.max_latency_p99_ms"
        assert labels_of(client) == {"stable": 2, "previous": 1}
        image = next((home / "data" / "glioma").iterdir()).read_bytes()
        assert client.classify(image).model.version == 2
        manifest = verify_version(ModelRepository(home / "models").path(MODEL, 2), model_name=MODEL)
        lineage = manifest.lineage
        assert (lineage.run_id, lineage.parent_version) == (queued.retraining_id, 1)
        assert lineage.gate_policy == ended.spec.gate_policy == OWN_POLICY
        digests = sorted(
            hashlib.sha256(deidentified(path.read_bytes())).hexdigest() for path in home.glob("new/*/*.jpg")
        )
        assert lineage.examples_digest == hashlib.sha256("\n".join(digests).encode()).hexdigest()
        assert lineage.examples_digest == ended.examples_digest

        # From the version that came out; ended while the trainer is at work.
        second = client.start_retraining(warm_start_version=2, hyperparameters={"epochs": 100})
        for event in client.watch_retraining(second.retraining_id):
            if event.phase.name == "index":
                client.cancel_retraining(second.retraining_id)
        after = client.get_retraining(second.retraining_id)
        assert (enum_name(after, "state"), after.version) == ("CANCELLED", 0)
    folder = home / "records" / "runs" / second.retraining_id
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["outcome"]) == ("end", "stopped")
    assert ModelRepository(home / "models").versions(MODEL) == [1, 2]
    assert not list((home / "models" / MODEL).glob(".staging-*"))
