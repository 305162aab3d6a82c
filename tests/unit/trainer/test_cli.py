import ast
import builtins
import dataclasses
import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from neurogate_core.repository import RepositoryError
from neurogate_testing.data_folders import write_folder
from neurogate_testing.runs import make_run
from neurogate_trainer import cli, pipeline
from neurogate_trainer.config import PRESETS, Augmentation
from neurogate_trainer.data import kaggle
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.kaggle import Fetched, FetchError
from neurogate_trainer.data.splits import Splits, split_dataset
from neurogate_trainer.evaluation.calibrate import calibrate as calibration
from neurogate_trainer.phases import PipelineError
from neurogate_trainer.progress import Reporter
from neurogate_trainer.report import explain
from typer.testing import CliRunner


@pytest.fixture
def called(monkeypatch):
    """What `run_training` was called with; it publishes nothing."""
    calls = []

    class Published:
        path = "/models/brain_tumor/3"
        version = 3

    def fake(data, run_dir, **rest):
        calls.append({"data": data, "run_dir": run_dir, **rest})
        rest["reporter"].phase("index")
        return Published()

    monkeypatch.setattr(pipeline, "run_training", fake)
    return calls


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def train(tmp_path: Path, *options: object):
    return run("train", tmp_path, "--repository", tmp_path, "--run-dir", tmp_path / "run", *options)


def data(*words: object):
    return run("data", *words)


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"neurogate-trainer {metadata.version('neurogate')}\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize(
    "command",
    [
        (),
        *([name] for name in ("train", "retrain", "export", "evaluate", "calibrate", "explain", "report")),
        *(["data", *rest] for rest in ((), ("fetch",), ("index",), ("audit",), ("split",), ("explore",))),
    ],
)
def test_every_command_explains_itself(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in plain(result.output)


def test_train_takes_the_preset_and_the_changes(called, tmp_path):
    changes = ["--epochs", 3, "--keep-given-test", "--weights", "offline", "--seed", 7]
    result = train(tmp_path, "--preset", "demo", *changes)
    assert result.exit_code == 0
    assert result.stdout == "/models/brain_tumor/3\n"
    (call,) = called
    assert call["model"] == "brain_tumor"
    assert call["config"] == dataclasses.replace(
        PRESETS["demo"], epochs=3, keep_given_test=True, initial_weights="offline", seed=7
    )


def test_a_run_is_repeated_from_its_settings(called, tmp_path):
    ran = dataclasses.replace(PRESETS["demo"], dropout=(0.4, 0.1), fractions=(0.6, 0.2, 0.2), patience=3)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(ran.to_json()))
    assert train(tmp_path, "--config", settings).exit_code == 0
    train(tmp_path, "--config", settings, "--epochs", 2)
    settings.write_text('{"augmentation": {"mirror": false}}')
    train(tmp_path, "--config", settings, "--preset", "demo")
    first, changed, partial = (call["config"] for call in called)
    assert first == ran
    assert changed == dataclasses.replace(ran, epochs=2)
    assert partial == dataclasses.replace(PRESETS["demo"], augmentation=Augmentation(mirror=False))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[1]", "holds no JSON object of settings"),
        ('{"epoch": 3}', "unknown settings: epoch"),
        ('{"epochs": "three"}', "epochs is 'three', expected a whole number"),
        ('{"epochs": 2.5}', "epochs is 2.5, expected a whole number"),
        ('{"epochs": true}', "epochs is True, expected a whole number"),
        ('{"class_weights": 1}', "class_weights is 1, expected true or false"),
        ('{"dropout": 0.3}', "dropout is 0.3, expected a list of numbers"),
        ('{"fractions": ["a", 1, 2]}', "expected a list of numbers"),
        ('{"augmentation": 3}', "augmentation is 3, expected an object"),
        ('{"augmentation": {"zoom": "x"}}', "zoom is 'x', expected a number"),
        ('{"target_risk": 2}', "target_risk is 2, expected 0 to 1"),
        ('{"seed": null}', "seed is None, expected a whole number"),
    ],
)
def test_a_wrong_file_of_settings_is_one_line(called, tmp_path, text, words):
    settings = tmp_path / "config.json"
    settings.write_text(text)
    result = train(tmp_path, "--config", settings)
    assert result.exit_code == 1
    assert words in result.stderr
    assert called == []


def test_the_default_is_the_brief(called, tmp_path):
    train(tmp_path)
    assert called[0]["config"] == PRESETS["default"]


def test_progress_goes_to_standard_error_and_events_to_the_file(called, tmp_path):
    events = tmp_path / "events.jsonl"
    result = train(tmp_path, "--events", events)
    assert "index" in result.stderr
    first, last = map(json.loads, events.read_text().splitlines())
    assert first["phase"] == "index"
    assert (last["event"], last["outcome"], last["version"]) == ("end", "published", 3)


def test_retrain_hands_everything_on(monkeypatch, tmp_path):
    calls = []

    def fake(*arguments, **options):
        calls.append((arguments, options))
        raise PipelineError("enough seen")

    monkeypatch.setattr(pipeline, "run_retraining", fake)
    events = tmp_path / "events.jsonl"
    options = ["--examples", "new.json", "--repository", "models", "--run-dir", "run", "--events", events]
    more = ["--warm-start", "first", "--run-id", "abc", "--set", "epochs=3", "--set", "learning_rate=1e-4"]
    more += ["--gate-policy", "strict.toml"]
    result = run("retrain", "base", *options, *more)
    assert (result.exit_code, "error: enough seen" in result.stderr) == (1, True)
    ((arguments, given),) = calls
    assert arguments == (Path("base"), Path("run"))
    assert given.pop("reporter")
    assert given == {
        "examples": Path("new.json"),
        "warm_start": Path("first"),
        "changes": {"epochs": "3", "learning_rate": "1e-4"},
        "repository": Path("models"),
        "model": "brain_tumor",
        "gate_policy": Path("strict.toml"),
        "run_id": "abc",
    }
    (end,) = map(json.loads, events.read_text().splitlines())
    assert (end["event"], end["outcome"], end["reason"]) == ("end", "failed", "enough seen")
    assert "--set epochs: expected NAME=VALUE" in run("retrain", "base", *options, "--set", "epochs").stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "fast"], "there is no preset 'fast'; there are default, demo"),
        (["--image-size", "100"], "image_size is 100, expected a multiple of 32"),
        (["--learning-rate", "-1"], "learning_rate is -1"),
        (["--epochs", "-2"], "epochs is -2"),
    ],
)
def test_wrong_settings_are_one_line_and_no_traceback(called, tmp_path, options, words):
    result = train(tmp_path, *options)
    assert result.exit_code == 1
    assert f"error: {words}" in result.stderr
    assert "Traceback" not in result.output
    assert called == []


@pytest.mark.parametrize(
    "error", [PipelineError("no folder"), RepositoryError("bad name"), OSError(28, "No space left")]
)
def test_known_failures_are_one_line(monkeypatch, tmp_path, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run_training", fail)
    result = train(tmp_path)
    assert result.exit_code == 1
    assert f"error: {error}" in result.stderr


@pytest.mark.parametrize(
    "defect",
    [
        ValueError("a defect"),
        type("LookupFailed", (Exception,), {"__module__": "neurogate_trainer.pipeline"})("a defect"),
    ],
)
def test_a_defect_keeps_its_traceback(monkeypatch, tmp_path, defect):
    def fail(*_: object, **__: object) -> None:
        raise defect

    monkeypatch.setattr(pipeline, "run_training", fail)
    assert train(tmp_path).exception is defect


def test_every_error_of_the_trainer_is_known_as_one_for_users():
    package = Path(cli.__file__).parent
    strangers = [
        f"{path.name}: {node.name}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name != "TrainerError"
        if not any(isinstance(base, ast.Name) and base.id.endswith("Error") for base in node.bases[:1])
        or node.bases[0].id in vars(builtins)
    ]
    assert strangers == []


@pytest.mark.parametrize(("signalled", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_signal_says_that_it_can_go_on(monkeypatch, tmp_path, signalled, status):
    def interrupt(*_: object, **__: object) -> None:
        raise signalled

    monkeypatch.setattr(pipeline, "run_training", interrupt)
    events = tmp_path / "events.jsonl"
    result = train(tmp_path, "--events", events)
    assert result.exit_code == status
    assert "goes on from here" in result.stderr
    (end,) = map(json.loads, events.read_text().splitlines())
    assert (end["event"], end["outcome"]) == ("end", "stopped")


def test_an_events_file_that_is_something_else_is_refused(called, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    result = train(tmp_path, "--events", notes)
    assert result.exit_code == 1
    assert "not a file of events" in result.stderr
    assert notes.read_text() == "my notes\n"


def test_report_is_written_and_its_path_printed(tmp_path):
    make_run(tmp_path, count=40)
    result = run("report", tmp_path)
    assert result.stdout == f"{tmp_path / 'report.html'}\n"
    assert run("report", tmp_path / "none").exit_code == 1


def test_calibrate_prints_what_it_finds(monkeypatch, tmp_path):
    asked = {}

    def fake(run_dir, *, target_risk, reporter):
        asked.update(run_dir=run_dir, target_risk=target_risk)
        logits = np.array([[4.0, 0.0], [0.0, 4.0], [3.0, 0.0], [1.0, 0.5]])
        return calibration(logits, np.array([0, 1, 0, 1]), target_risk=target_risk)

    monkeypatch.setattr(pipeline, "calibrate_published", fake)
    result = run("calibrate", tmp_path, "--target-risk", "0.1")
    assert asked == {"run_dir": tmp_path, "target_risk": 0.1}
    assert "from 4 validation images" in result.stdout
    assert "for a target risk of 10.00%" in result.stdout
    assert "75.0% of the validation images" in result.stdout
    assert "0.00% of the answers are wrong" in result.stdout


def test_explain_prints_the_probabilities(monkeypatch, tmp_path):
    class Explained:
        classes = ("glioma", "notumor")
        probabilities = (0.875, 0.125)

    calls = []

    def fake(*arguments):
        *asked, figure = arguments
        calls.append(asked)
        figure.write_bytes(b"picture")
        return Explained()

    monkeypatch.setattr(explain, "explain_image", fake)
    monkeypatch.setattr(pipeline, "published_version", lambda run_dir: run_dir / "version")
    (tmp_path / "link.png").symlink_to("why.png")
    result = run("explain", tmp_path, "head.png", "-o", tmp_path / "link.png")
    assert calls == [[tmp_path / "version", Path("head.png")]]
    assert (tmp_path / "why.png").read_bytes() == b"picture"
    assert (tmp_path / "link.png").is_symlink()
    assert re.search(r"glioma +87\.50%\nnotumor +12\.50%\nwritten: .*link\.png", result.stdout)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("evaluate", []),
        ("calibrate", []),
        ("explain", ["head.png"]),
        ("export", ["--repository", "models"]),
    ],
)
def test_a_folder_without_a_run_is_named(tmp_path, command, options):
    result = run(command, tmp_path, *options)
    assert result.exit_code == 1
    assert "not the folder of a training run" in result.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set", {"Training/a": 6, "Training/b": 6, "Testing/a": 2, "Testing/b": 2})


def test_data_phantom_prints_the_folder(tmp_path):
    out = tmp_path / "phantom"
    result = data("phantom", out, "--train-per-class", 2, "--test-per-class", 1, "--size", 64, "--workers", 1)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert "says nothing about patients" in result.stderr
    assert json.loads((out / "phantom.json").read_text())["difficulty"] == 0.3
    result = data("phantom", out, "--train-per-class", 3, "--test-per-class", 1, "--size", 64)
    assert result.exit_code == 1
    assert re.search("error: .* holds a phantom of other settings", result.stderr)


@pytest.mark.parametrize("words", [("--difficulty", "2"), ("--train-per-class", "0"), ("--seed", "-1")])
def test_data_phantom_refuses_impossible_settings(tmp_path, words):
    assert data("phantom", tmp_path / "x", *words).exit_code == 2
    assert not (tmp_path / "x").exists()


def test_data_import_says_what_was_found_and_what_is_next(root):
    result = data("import", root)
    assert result.exit_code == 0
    assert "16 images: a 8, b 8" in result.stdout
    assert "neurogate-trainer train" in result.stdout
    assert "WARNING: - Few images" in result.stderr
    assert {path.name for path in (root / ".neurogate").iterdir()} == {"index.sqlite", "audit.json"}


def test_data_index_audit_and_explore(root, tmp_path):
    out = tmp_path / "out"
    assert data("index", root, "--out", out).stdout == f"{out / 'index.sqlite'}\n"
    result = data("audit", root, "--out", out)
    assert "exact duplicate sets" in result.stdout
    assert data("explore", root, "--out", out).stdout == f"{out}\n"
    assert {path.name for path in out.iterdir()} == {
        "index.sqlite", "audit.json", "audit_worst_pairs.png", "dataset_stats.json", "figures",
    }  # fmt: skip


def test_data_split_draws_what_training_draws(root, tmp_path):
    (root / "Training/b/copy.jpg").write_bytes(min((root / "Training/b").iterdir()).read_bytes())
    result = data("split", root, "--out", tmp_path, "--seed", 3)
    index = build_index(root, reporter=Reporter())
    audit = audit_dataset(index, reporter=Reporter())
    drawn = Splits.load(tmp_path / "splits.json", index)
    assert drawn == split_dataset(index, audit, seed=3)
    count = len(drawn.train)
    assert re.search(rf"^train +{count}: a \d+, b \d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^left out +1: exact copy$", result.stdout, re.MULTILINE)


def test_data_split_keeps_the_given_test_folder(root, tmp_path):
    result = data("split", root, "--out", tmp_path, "--keep-given-test")
    assert re.search(r"^test +4: a 2, b 2$", result.stdout, re.MULTILINE)
    for name in ("a", "b"):
        shutil.rmtree(root / "Testing" / name)
    result = data("split", root, "--out", tmp_path, "--keep-given-test")
    assert (result.exit_code, "no given test split" in result.stderr) == (1, True)


@pytest.mark.parametrize("command", ["import", "index", "audit", "split", "explore"])
def test_data_a_wrong_folder_is_one_line_and_no_folder_is_made(tmp_path, command):
    result = data(command, tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere is missing; expected one of" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_a_folder_that_cannot_be_written_asks_for_out(root):
    root.chmod(0o555)
    try:
        result = data("index", root)
    finally:
        root.chmod(0o755)
    assert "--out" in result.stderr


def test_data_fetch_prints_the_place(tmp_path, monkeypatch):
    asked = {}

    def fetch(**settings):
        asked.update(settings)
        return Fetched(tmp_path, 2, {("train", "glioma"): 12})

    monkeypatch.setattr(kaggle, "fetch_kaggle", fetch)
    result = data("fetch", "--dataset-version", 1)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}\n")
    assert "glioma" in result.stderr
    assert (asked["version"], asked["link"]) == (1, None)
    assert data("fetch", tmp_path / "link").stdout == f"{tmp_path / 'link'}\n"
    assert asked["version"] == kaggle.PINNED_VERSION


def test_data_fetch_explains_failure_in_one_line(monkeypatch):
    def fetch(**_):
        raise FetchError("Kaggle answered HTTP 429: wait")

    monkeypatch.setattr(kaggle, "fetch_kaggle", fetch)
    result = data("fetch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: Kaggle answered HTTP 429: wait" in result.stderr
