"""A small retraining from a base run, examples and a version's weights to the next version."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from neurogate_core.hyperparameters import HYPERPARAMETERS
from neurogate_core.manifest import verify_version
from neurogate_core.repository import PublishedVersion
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_testing.toy_network import build_toy_model
from neurogate_trainer import phases
from neurogate_trainer.config import ConfigError, TrainConfig
from neurogate_trainer.data.examples import ExamplesError
from neurogate_trainer.model.network import backbone_of
from neurogate_trainer.model.weights import WeightsError, load_whole, version_weights
from neurogate_trainer.pipeline import run_retraining, run_training
from neurogate_trainer.progress import Reporter
from neurogate_trainer.training.retraining import checkpoint_of, tuned
from neurogate_trainer.training.run_folder import RunFolderError

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

RUN_ID = "0123456789abcdef0123456789abcdef"
QUIET = Reporter()
GATE_POLICY = "[gate]\nmin_accuracy = 0.9\n"


@pytest.fixture(scope="module", autouse=True)
def _toy_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "build_model", build_toy_model)
        yield


@dataclasses.dataclass(frozen=True)
class Home:
    path: Path
    first: PublishedVersion
    second: PublishedVersion

    def json(self, run: str, name: str) -> dict:
        return json.loads((self.path / run / name).read_text())


def offer(home: Path, name: str, entries: list[tuple[bytes, str]]) -> Path:
    """Examples in a folder like a content-addressed store, and the document that lists them."""
    store = home / "store"
    store.mkdir(exist_ok=True)
    listed = []
    for data, class_id in entries:
        sha256 = hashlib.sha256(data).hexdigest()
        (store / sha256).write_bytes(data)
        listed.append({"path": str(store / sha256), "class": class_id, "sha256": sha256})
    (home / name).write_text(json.dumps({"revision": 1, "examples": listed}))
    return home / name


def retrain(home: Path, run: str, examples: Path, **changes: object) -> PublishedVersion:
    options = {
        "examples": examples,
        "warm_start": home / "first",
        "changes": {"epochs": "1", "warmup_epochs": "0", "learning_rate": "1e-5"},
        "repository": home / "models",
        "model": "toy",
        "reporter": QUIET,
        "run_id": RUN_ID,
    }
    return run_retraining(home / "first", home / run, **(options | changes))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = tmp_path_factory.mktemp("retraining")
    write_folder(home / "data", {"a": 20, "b": 20})
    donor = build_toy_model(TrainConfig(image_size=32, head_units=8), 2)
    backbone_of(donor).save_weights(home / "initial.weights.h5")
    keras.backend.clear_session()
    config = TrainConfig(
        image_size=32,
        initial_weights=str(home / "initial.weights.h5"),
        unfrozen_layers=4,
        head_units=8,
        batch_size=8,
        warmup_epochs=1,
        epochs=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        # Most of what an evaluation costs, and nothing that differs in a retraining.
        patch.setattr(phases, "draw_figures", lambda *_, **__: None)
        first = run_training(
            home / "data",
            home / "first",
            repository=home / "models",
            model="toy",
            config=config,
            reporter=QUIET,
        )
        sealed = json.loads((home / "first" / "evaluation.json").read_text())["images"][0]
        entries = [(encoded(picture(5000 + n)), "ab"[n % 2]) for n in range(12)]
        entries.append(((home / "data" / sealed["path"]).read_bytes(), sealed["class"]))
        (home / "strict.toml").write_text(GATE_POLICY)
        examples = offer(home, "examples.json", entries)
        second = retrain(home, "second", examples, gate_policy=home / "strict.toml")
    return Home(home, first, second)


def test_the_next_version_says_where_it_comes_from(home):
    assert (home.first.version, home.second.version) == (1, 2)
    manifest = verify_version(home.second.path, model_name="toy")
    listed = json.loads((home.path / "examples.json").read_text())["examples"]
    digests = sorted(entry["sha256"] for entry in listed)
    lineage = manifest.lineage
    assert lineage.run_id == RUN_ID
    assert lineage.parent_version == 1
    assert lineage.examples_digest == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert lineage.gate_policy == GATE_POLICY
    assert lineage.base_weights == "version"
    checkpoint = checkpoint_of(home.path / "first").read_bytes()
    assert lineage.base_weights_digest == hashlib.sha256(checkpoint).hexdigest()
    assert (lineage.hyperparameters["epochs"], lineage.hyperparameters["head_units"]) == ("1", "8")
    first = home.first.manifest.lineage
    assert not first.HasField("parent_version")
    assert (first.examples_digest, first.gate_policy) == ("", "")
    assert lineage.splits.test == first.splits.test
    grown = lineage.splits.train + lineage.splits.validation - first.splits.train - first.splits.validation
    assert grown == 12


def test_the_sealed_test_split_is_the_same(home):
    assert home.json("second", "evaluation.json") == home.json("first", "evaluation.json")
    record = home.json("second", "examples.json")
    assert [entry["reason"].split(":")[0] for entry in record["left_out"]] == ["sealed"]
    assert sum(sum(counts.values()) for counts in record["joined"].values()) == 12
    assert not any(record["joined"]["test"].values())


def test_no_uploaded_image_travels_in_the_manifest(home):
    """Recorded images are read by whoever can call the model, which those who sent them never meant."""
    store = {path.name for path in (home.path / "store").iterdir()}
    goldens = {hashlib.sha256(golden.image).hexdigest() for golden in home.second.manifest.goldens}
    assert len(goldens) == 2
    assert not goldens & store


def test_the_run_folder_can_be_evaluated_and_started_from_again(home, monkeypatch):
    monkeypatch.setattr(phases, "draw_figures", lambda *_, **__: None)
    assert checkpoint_of(home.path / "second").is_file()
    again = run_training(
        home.path / "data",
        home.path / "second",
        repository=home.path / "models",
        model="toy",
        config=TrainConfig.from_json(home.json("second", "config.json")),
        reporter=QUIET,
    )
    assert again.version == 2
    examples = offer(home.path, "more.json", [(encoded(picture(9000 + n)), "ab"[n % 2]) for n in range(4)])
    third = retrain(home.path, "third", examples, warm_start=home.path / "second", run_id="third")
    assert third.manifest.lineage.parent_version == 2
    assert third.version == 3


@pytest.mark.slow
def test_a_retraining_may_start_from_initial_weights(home, monkeypatch):
    monkeypatch.setattr(phases, "draw_figures", lambda *_, **__: None)
    examples = home.path / "examples.json"
    scratch = retrain(home.path, "scratch", examples, warm_start=None, run_id="scratch")
    assert scratch.manifest.lineage.base_weights == "file"
    assert not scratch.manifest.lineage.HasField("parent_version")


def test_the_same_folder_takes_no_other_retraining(home):
    examples = offer(home.path, "other.json", [(encoded(picture(7000)), "a")])
    with pytest.raises(RunFolderError, match="holds another run than this retraining"):
        retrain(home.path, "second", examples)


def test_what_cannot_work_is_told_before_any_work(home, tmp_path):
    examples = home.path / "examples.json"
    with pytest.raises(RunFolderError, match="not the folder of a training run"):
        run_retraining(
            tmp_path,
            tmp_path / "run",
            examples=examples,
            warm_start=None,
            changes={},
            repository=tmp_path,
            model="toy",
            reporter=QUIET,
        )
    with pytest.raises(RunFolderError, match="has published no version of toy"):
        retrain(home.path, "never", examples, repository=tmp_path / "models")
    with pytest.raises(ConfigError, match="no hyper-parameter 'image_size'"):
        retrain(home.path, "never", examples, changes={"image_size": "64"})
    with pytest.raises(ExamplesError, match="cannot be read"):
        retrain(home.path, "never", tmp_path / "none.json")
    policy = tmp_path / "policy.toml"
    for content, message in (
        (b"[gate", "not TOML"),
        (b"\xff", "not TOML"),
        (b"#" * 4097, "has 4097 characters"),
    ):
        policy.write_bytes(content)
        with pytest.raises(ConfigError, match=f"is no gate policy: .*{message}"):
            retrain(home.path, "never", examples, gate_policy=policy)
    gone = tmp_path / "gone"
    shutil.copytree(home.path / "first", gone)
    checkpoint_of(gone).unlink()
    with pytest.raises(RunFolderError, match="has no weights to start from"):
        retrain(home.path, "never", examples, warm_start=gone)
    assert not (home.path / "never").exists()


def test_settings_are_read_from_text():
    config = TrainConfig()
    changed = tuned(config, {"epochs": "3", "learning_rate": "2e-4", "class_weights": "false"})
    assert changed == dataclasses.replace(config, epochs=3, learning_rate=2e-4, class_weights=False)
    assert tuned(config, {"dropout_logits": "0.5"}).dropout == (config.dropout[0], 0.5)
    assert tuned(config, {}) == config
    with pytest.raises(ConfigError, match="epochs is 'many', expected 1 to 100"):
        tuned(config, {"epochs": "many"})
    with pytest.raises(ConfigError, match="no hyper-parameter 'image_size'"):
        tuned(config, {"image_size": "64"})


def test_the_whole_range_of_every_hyperparameter_is_a_setting():
    for name, known in HYPERPARAMETERS.items():
        ends = ("false", "true") if known.kind is bool else (f"{known.low:g}", str(known.kind(known.high)))
        for text in ends:
            assert tuned(TrainConfig(), {name: text})


def test_a_version_is_started_from_with_its_head(home):
    network = build_toy_model(TrainConfig(image_size=32, head_units=8), 2)
    load_whole(network, version_weights(checkpoint_of(home.path / "first"), QUIET))
    expected = keras.models.load_model(checkpoint_of(home.path / "first"), compile=False).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), expected, strict=True))
    other = build_toy_model(TrainConfig(image_size=32, head_units=16), 2)
    with pytest.raises(WeightsError, match="does not hold weights of this network"):
        load_whole(other, version_weights(checkpoint_of(home.path / "first"), QUIET))
    with pytest.raises(WeightsError, match="cannot be started from any longer"):
        version_weights(home.path / "nowhere.keras", QUIET)
