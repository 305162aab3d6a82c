from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from neurogate_testing.data_folders import write_folder
from neurogate_trainer.cli import app
from neurogate_trainer.data import kaggle
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.kaggle import Fetched, FetchError
from neurogate_trainer.data.splits import Splits, split_dataset
from neurogate_trainer.progress import Reporter
from typer.testing import CliRunner


@pytest.fixture
def run():
    def call(*words: object):
        return CliRunner().invoke(app, ["data", *map(str, words)])

    return call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set", {"Training/a": 6, "Training/b": 6, "Testing/a": 2, "Testing/b": 2})


def test_phantom_prints_the_folder(run, tmp_path):
    out = tmp_path / "phantom"
    result = run("phantom", out, "--train-per-class", 2, "--test-per-class", 1, "--size", 64, "--workers", 1)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert "says nothing about patients" in result.stderr
    assert json.loads((out / "phantom.json").read_text())["difficulty"] == 0.3
    result = run("phantom", out, "--train-per-class", 3, "--test-per-class", 1, "--size", 64)
    assert result.exit_code == 1
    assert re.search("error: .* holds a phantom of other settings", result.stderr)


@pytest.mark.parametrize("words", [("--difficulty", "2"), ("--train-per-class", "0"), ("--seed", "-1")])
def test_phantom_refuses_impossible_settings(run, tmp_path, words):
    assert run("phantom", tmp_path / "x", *words).exit_code == 2
    assert not (tmp_path / "x").exists()


def test_import_says_what_was_found_and_what_is_next(run, root):
    result = run("import", root)
    assert result.exit_code == 0
    assert "16 images: a 8, b 8" in result.stdout
    assert "neurogate-trainer train" in result.stdout
    assert "WARNING: - Few images" in result.stderr
    assert {path.name for path in (root / ".neurogate").iterdir()} == {"index.sqlite", "audit.json"}


def test_index_audit_and_explore(run, root, tmp_path):
    out = tmp_path / "out"
    assert run("index", root, "--out", out).stdout == f"{out / 'index.sqlite'}\n"
    result = run("audit", root, "--out", out)
    assert "exact duplicate sets" in result.stdout
    assert run("explore", root, "--out", out).stdout == f"{out}\n"
    assert {path.name for path in out.iterdir()} == {
        "index.sqlite", "audit.json", "audit_worst_pairs.png", "dataset_stats.json", "figures",
    }  # fmt: skip


def test_split_draws_what_training_draws(run, root, tmp_path):
    (root / "Training/b/copy.jpg").write_bytes(min((root / "Training/b").iterdir()).read_bytes())
    result = run("split", root, "--out", tmp_path, "--seed", 3)
    index = build_index(root, reporter=Reporter())
    audit = audit_dataset(index, reporter=Reporter())
    drawn = Splits.load(tmp_path / "splits.json", index)
    assert drawn == split_dataset(index, audit, seed=3)
    count = len(drawn.train)
    assert re.search(rf"^train +{count}: a \d+, b \d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^left out +1: exact copy$", result.stdout, re.MULTILINE)


def test_split_keeps_the_given_test_folder(run, root, tmp_path):
    result = run("split", root, "--out", tmp_path, "--keep-given-test")
    assert re.search(r"^test +4: a 2, b 2$", result.stdout, re.MULTILINE)
    for name in ("a", "b"):
        shutil.rmtree(root / "Testing" / name)
    result = run("split", root, "--out", tmp_path, "--keep-given-test")
    assert (result.exit_code, "no given test split" in result.stderr) == (1, True)


@pytest.mark.parametrize("command", ["import", "index", "audit", "split", "explore"])
def test_a_wrong_folder_is_one_line_and_no_folder_is_made(run, tmp_path, command):
    result = run(command, tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere is missing; expected one of" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_asks_for_out(run, root):
    root.chmod(0o555)
    try:
        result = run("index", root)
    finally:
        root.chmod(0o755)
    assert "--out" in result.stderr


def test_fetch_prints_the_place(run, tmp_path, monkeypatch):
    asked = {}

    def fetch(**settings):
        asked.update(settings)
        return Fetched(tmp_path, 2, {("train", "glioma"): 12})

    monkeypatch.setattr(kaggle, "fetch_kaggle", fetch)
    result = run("fetch", "--dataset-version", 1)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}\n")
    assert "glioma" in result.stderr
    assert (asked["version"], asked["link"]) == (1, None)
    assert run("fetch", tmp_path / "link").stdout == f"{tmp_path / 'link'}\n"
    assert asked["version"] == kaggle.PINNED_VERSION


def test_fetch_explains_failure_in_one_line(run, monkeypatch):
    def fetch(**_):
        raise FetchError("Kaggle answered HTTP 429: wait")

    monkeypatch.setattr(kaggle, "fetch_kaggle", fetch)
    result = run("fetch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: Kaggle answered HTTP 429: wait" in result.stderr
