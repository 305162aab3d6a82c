"""One small run from images to a published version, and everything that may happen on the way."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from google.protobuf import json_format
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import read_manifest, verify_version, write_manifest
from neurogate_core.preprocessing.transform import TransformError
from neurogate_core.repository import ModelRepository, PublishedVersion, RepositoryError
from neurogate_testing.data_folders import write_folder
from neurogate_testing.recorder import Recorder
from neurogate_testing.toy_network import build_toy_model
from neurogate_trainer import phases, pipeline
from neurogate_trainer.config import ConfigError, TrainConfig
from neurogate_trainer.data.audit import AuditReport, audit_dataset
from neurogate_trainer.data.index import DatasetIndex
from neurogate_trainer.data.layout import DatasetError
from neurogate_trainer.data.splits import LeakageError, Splits
from neurogate_trainer.evaluation.saved_model import EvaluationError
from neurogate_trainer.export.publishing import already_published
from neurogate_trainer.export.version import ExportError
from neurogate_trainer.model.network import backbone_of
from neurogate_trainer.phases import PipelineError
from neurogate_trainer.pipeline import (
    calibrate_published,
    evaluate_published,
    published_version,
    run_training,
)
from neurogate_trainer.report.explain import explain_image
from neurogate_trainer.training.run_folder import RunFolder, RunFolderError
from PIL import Image

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.fixture(scope="module", autouse=True)
def _toy_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "build_model", build_toy_model)
        yield


@dataclasses.dataclass(frozen=True)
class Finished:
    data: Path
    run_dir: Path
    repository: Path
    config: TrainConfig
    published: PublishedVersion


def start(case: Finished, *, reporter: Recorder | None = None, **changes: object) -> PublishedVersion:
    case = dataclasses.replace(case, **changes)
    return run_training(
        case.data,
        case.run_dir,
        repository=case.repository,
        model="toy",
        config=case.config,
        reporter=reporter or Recorder(),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    home = tmp_path_factory.mktemp("pipeline")
    counts = {
        f"{split}/{name}": count for split, count in (("Training", 16), ("Testing", 5)) for name in "abc"
    }
    data = write_folder(home / "data", counts)
    donor = build_toy_model(TrainConfig(image_size=32), 3)
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
        keep_given_test=True,
    )
    case = Finished(data, home / "run", home / "models", config, None)
    return dataclasses.replace(case, published=start(case))


def test_a_version_is_published_and_verifies(finished):
    published = finished.published
    assert (published.model, published.version) == ("toy", 1)
    manifest = verify_version(published.path, model_name="toy")
    assert [entry.id for entry in manifest.classes] == ["a", "b", "c"]
    assert (manifest.transform.width, manifest.transform.height) == (32, 32)
    assert manifest.metrics.support == 15
    assert "Not a medical device" in manifest.notice
    calibration, ood = (
        json.loads((finished.run_dir / name).read_text()) for name in ("calibration.json", "ood.json")
    )
    for message in (manifest.calibration, manifest.thresholds):
        known = calibration | {"out_of_distribution_above": ood["threshold"], "ood_method": ood["method"]}
        for field, value in message.ListFields():
            assert value == known[field.name]
    assert manifest.calibration.temperature > 0
    assert manifest.thresholds.ood_method
    assert len(manifest.goldens) == 3
    lineage = manifest.lineage
    assert lineage.base_weights == "file"
    assert len(lineage.base_weights_digest) == len(lineage.dataset_digest) == 64
    assert (lineage.splits.test, lineage.splits.train + lineage.splits.validation) == (15, 48)
    assert lineage.hyperparameters["unfrozen_layers"] == "4"
    assert lineage.hyperparameters["augmentation.rotation"] == "10.0"
    assert "tensorflow" in lineage.packages


def test_the_run_folder_holds_what_a_run_leaves(finished):
    names = {path.name for path in finished.run_dir.iterdir()}
    assert {
        "config.json",
        "environment.json",
        "events.jsonl",
        "log.txt",
        "index.sqlite",
        "splits.json",
        "evaluation.json",
        "audit.json",
        "dataset_stats.json",
        "history.json",
        "calibration.json",
        "ood.json",
        "export.json",
        "metrics.json",
        "predictions.npz",
        "manifest.json",
        "published.json",
        "figures",
        "checkpoint",
        "tensorboard",
        "report.html",
    } <= names
    assert "cache" not in names
    drawn = {path.stem for path in (finished.run_dir / "figures").iterdir()}
    assert {"confusion_matrix", "reliability", "risk_coverage", "ood_scores", "training_history"} <= drawn
    assert {f"gradcam_{name}" for name in "abc"} <= drawn
    manifest = json_format.ParseDict(
        json.loads((finished.run_dir / "manifest.json").read_text()), manifest_pb2.ModelManifest()
    )
    assert not any(golden.image for golden in manifest.goldens)
    assert manifest.model_digest == finished.published.manifest.model_digest
    noted = json.loads((finished.run_dir / "published.json").read_text())
    assert (noted["version"], noted["path"]) == (1, str(finished.published.path))
    config = TrainConfig.from_json(json.loads((finished.run_dir / "config.json").read_text()))
    assert config == finished.config
    events = [json.loads(line) for line in (finished.run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    named = [event["phase"] for event in events if event["event"] == "phase"]
    assert named[0] == "index"
    for before, after in (
        ("split", "inputs"),
        ("warm-up", "fine-tune"),
        ("ood", "export"),
        ("export", "publish"),
    ):
        assert named.index(before) < named.index(after)


def test_the_sealed_test_split_lies_beside_it(finished):
    path = finished.run_dir / "evaluation.json"
    content = json.loads(path.read_text())
    assert (content["revision"], content["root"]) == (1, str(finished.data))
    sealed = json.loads((finished.run_dir / "splits.json").read_text())["test"]
    assert content["images"] == sealed
    digests = [
        hashlib.sha256((finished.data / entry["path"]).read_bytes()).hexdigest()
        for entry in content["images"]
    ]
    assert digests == [entry["sha256"] for entry in sealed]
    assert content["digest"] == hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def test_a_finished_run_publishes_nothing_twice(finished):
    reporter = Recorder()
    (finished.run_dir / "published.json").unlink()
    again = start(finished, reporter=reporter)
    assert again.version == 1
    assert ModelRepository(finished.repository).versions("toy") == [1]
    assert any("has published version 1 before" in text for text in reporter.messages)
    assert (finished.run_dir / "published.json").is_file()
    assert "fine-tune" not in reporter.phases


@pytest.fixture
def no_figures(monkeypatch):
    """The fixture's run has drawn them; drawing is most of what an evaluation costs."""
    monkeypatch.setattr(phases, "draw_figures", lambda *_, **__: None)


@pytest.fixture
def copied(finished, tmp_path) -> Finished:
    """The finished run in a folder of its own, to be published to another repository."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return dataclasses.replace(finished, run_dir=tmp_path / "run", repository=tmp_path / "models")


def test_another_repository_gets_the_model_without_training(copied, finished, no_figures):
    reporter = Recorder()
    again = start(copied, reporter=reporter)
    assert reporter.phases == ["inputs", "export", "evaluate", "explanations", "publish"]
    assert again.version == 1
    ours, theirs = again.manifest.goldens, finished.published.manifest.goldens
    assert [golden.image for golden in ours] == [golden.image for golden in theirs]
    record = json.loads((copied.run_dir / "export.json").read_text())
    assert (
        record["weights_sha256"]
        == json.loads((finished.run_dir / "export.json").read_text())["weights_sha256"]
    )


def test_a_failed_parity_check_publishes_nothing(copied, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ExportError("the exported graph is not the trained network")

    monkeypatch.setattr("neurogate_trainer.export.version.check_parity", refuse)
    with pytest.raises(ExportError):
        start(copied)
    assert ModelRepository(copied.repository).versions("toy") == []
    assert [path.name for path in (copied.repository / "toy").iterdir()] == [".lock"]


def test_a_leaking_model_is_never_exported(copied, monkeypatch):
    """Splits that overlap stop the run before anything is staged, whatever happened before."""
    load = Splits.load

    def overlapping(path: Path, index: DatasetIndex) -> Splits:
        splits = load(path, index)
        return dataclasses.replace(splits, test=(*splits.test, splits.train[0]))

    monkeypatch.setattr(Splits, "load", overlapping)
    with pytest.raises(LeakageError):
        start(copied)
    assert [path.name for path in (copied.repository / "toy").iterdir()] == [".lock"]


def test_evaluation_can_be_repeated(finished, no_figures):
    before = json.loads((finished.run_dir / "metrics.json").read_text())
    for name in ("metrics.json", "evaluation.json"):
        (finished.run_dir / name).unlink()
    report = evaluate_published(finished.run_dir, reporter=Recorder())
    assert report == finished.run_dir / "report.html"
    assert json.loads((finished.run_dir / "metrics.json").read_text()) == before
    # A run of a release that did not write it gets it here.
    assert (finished.run_dir / "evaluation.json").is_file()


def test_calibration_can_be_repeated_and_asked_for_another_risk(finished):
    path = finished.run_dir / "calibration.json"
    before = path.read_bytes()
    first = json.loads(before)
    again = calibrate_published(finished.run_dir, reporter=Recorder())
    # The graph's logits and the network's differ in their last digits.
    assert again["temperature"] == pytest.approx(first["temperature"], rel=1e-3)
    assert again["abstain_below"] == pytest.approx(first["abstain_below"], abs=1e-3)
    assert (again["images"], again["target_risk"]) == (first["images"], 0.02)
    lenient = calibrate_published(finished.run_dir, target_risk=1.0, reporter=Recorder())
    assert (lenient["abstain_below"], lenient["coverage"]) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="target_risk is 2"):
        calibrate_published(finished.run_dir, target_risk=2, reporter=Recorder())
    assert path.read_bytes() == before


def test_an_image_is_explained_as_the_version_answers(finished, tmp_path):
    version = published_version(finished.run_dir)
    assert version == finished.published.path
    golden = finished.published.manifest.goldens[0]
    (tmp_path / "image.png").write_bytes(golden.image)
    explained = explain_image(version, tmp_path / "image.png", tmp_path / "out" / "why.png")
    assert explained.classes == ("a", "b", "c")
    assert explained.probabilities == pytest.approx(list(golden.probabilities), abs=1e-6)
    assert (explained.gradcam.shape, explained.pixels.shape) == ((32, 32, 3), (32, 32, 3))
    with Image.open(tmp_path / "out" / "why.png") as figure:
        assert figure.format == "PNG"
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(TransformError):
        explain_image(version, tmp_path / "notes.txt", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_copy_made_by_hand_is_not_the_run_s_publication(copied):
    shutil.copytree(copied.published.path.parents[1], copied.repository)
    version = copied.repository / "toy" / "1"
    shutil.copytree(version, version.with_name("2"))
    versions = ModelRepository(copied.repository)
    found = already_published(copied.published.manifest.lineage.run_id, versions, "toy")
    assert (found.version, found.path) == (1, version)
    shutil.rmtree(version)
    assert already_published(copied.published.manifest.lineage.run_id, versions, "toy") is None


def test_a_publication_whose_place_another_has_taken(copied):
    noted = copied.run_dir / "published.json"
    record = json.loads(noted.read_text())
    other = copied.repository / "toy" / "9"
    shutil.copytree(copied.published.path, other)
    manifest = read_manifest(other)
    manifest.lineage.run_id = "somebody-else"
    write_manifest(other, manifest)
    noted.write_text(json.dumps({**record, "path": str(other)}))
    with pytest.raises(PipelineError, match="is of run somebody-else and not of"):
        published_version(copied.run_dir)


@pytest.mark.parametrize("ask", [evaluate_published, calibrate_published])
def test_looking_back_needs_a_publication(copied, ask):
    (copied.run_dir / "published.json").unlink()
    with pytest.raises(PipelineError, match="published nothing yet"):
        ask(copied.run_dir, reporter=Recorder())
    with pytest.raises(RunFolderError, match="not the folder of a training run"):
        ask(copied.data, reporter=Recorder())


def test_the_audit_survives_its_file(finished):
    index = DatasetIndex.load(finished.run_dir / "index.sqlite", finished.data)
    expected = audit_dataset(index, reporter=Recorder())
    found = AuditReport.load(finished.run_dir / "audit.json", index)
    assert dataclasses.replace(found, groups={}) == dataclasses.replace(expected, groups={})

    def together(groups: dict[str, str]) -> set[frozenset[str]]:
        return {frozenset(p for p in groups if groups[p] == group) for group in groups.values()}

    assert together(found.groups) == together(expected.groups)


def test_other_settings_or_data_do_not_go_on_in_the_folder(finished, tmp_path):
    with pytest.raises(RunFolderError, match=r"epochs 1 -> 9"):
        start(finished, config=dataclasses.replace(finished.config, epochs=9))
    other = write_folder(tmp_path / "other", {"a": 1})
    with pytest.raises(RunFolderError, match="holds a run on"):
        start(finished, data=other)


def test_a_folder_of_something_else_is_left_alone(finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match=r"not empty .*thesis\.tex"):
        start(finished, run_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}


def test_two_processes_do_not_share_a_run_folder(finished):
    with (
        RunFolder.open(finished.run_dir, finished.config, finished.data),
        pytest.raises(RunFolderError, match="another process is training"),
    ):
        start(finished)


def test_mistakes_are_found_before_any_work(finished, tmp_path):
    fresh = {"run_dir": tmp_path / "run", "repository": tmp_path / "models"}
    with pytest.raises(PipelineError, match="there is no folder"):
        start(finished, data=tmp_path / "nowhere", **fresh)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RepositoryError, match="model name"):
        run_training(
            finished.data,
            tmp_path / "run",
            repository=tmp_path,
            model="../evil",
            config=finished.config,
            reporter=Recorder(),
        )
    with pytest.raises(EvaluationError, match=r"has \[ and \\ in it, which TensorFlow takes for a pattern"):
        start(finished, run_dir=tmp_path / "run", repository=tmp_path / "mo[12]d\\els")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="is not a directory"):
        start(finished, run_dir=tmp_path / "other", repository=tmp_path / "file")
    single = write_folder(tmp_path / "single", {"only": 6})
    with pytest.raises(DatasetError):
        start(finished, data=single, **fresh)
    # The mistake costs nothing: the same folder takes the right data set.
    spaced = write_folder(tmp_path / "spaced", {"no tumour": 6, "glioma": 6})
    with pytest.raises(DatasetError, match="'no tumour' could be 'no_tumour'"):
        start(finished, data=spaced, **fresh)


def test_a_crash_between_phases_repeats_only_the_unfinished(fresh, monkeypatch):
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phases, "explore", crash)
    with pytest.raises(KeyboardInterrupt):
        start(fresh)
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "examples_phase", crash)
    reporter = Recorder()
    with pytest.raises(KeyboardInterrupt):
        start(fresh, reporter=reporter)
    assert reporter.phases == ["explore", "weights"]


@pytest.fixture
def fresh(finished, tmp_path) -> Finished:
    """The same run, from its beginning."""
    return dataclasses.replace(finished, run_dir=tmp_path / "run", repository=tmp_path / "models")


def test_a_repository_without_room_for_a_version_is_told_before_the_work(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    monkeypatch.setattr(pipeline, "_run", None)
    with pytest.raises(PipelineError, match=r"models has 2 MB left, expected at least 67 MB for a version"):
        start(fresh)
    assert [path.name for path in (fresh.repository / "toy").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("/x/saved_model.pb; No space left on device", PipelineError),
        ("OOM", tf.errors.ResourceExhaustedError),
    ],
)
def test_a_disk_that_is_full_for_tensorflow_is_one_line(fresh, monkeypatch, message, kind):
    def run(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(pipeline, "_run", run)
    with pytest.raises(kind, match=message):
        start(fresh)
