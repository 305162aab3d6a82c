from __future__ import annotations

import json
from pathlib import Path

import pytest
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.index import build_index
from neurogate_trainer.progress import Reporter
from neurogate_trainer.report.explore import explore
from PIL import Image

QUIET = Reporter()


def look(root: Path, out: Path) -> dict:
    index = build_index(root, reporter=QUIET)
    return explore(index, audit_dataset(index, reporter=QUIET), out, reporter=QUIET)


def test_statistics_and_figures(tmp_path):
    root = write_folder(tmp_path / "set", {"Training/a": 8, "Training/b_x_1": 5, "Testing/a": 2})
    (root / "Training" / "a" / "wide.png").write_bytes(encoded(picture(99, (200, 50)).convert("RGB"), "PNG"))
    (root / "Training" / "a" / "notes.txt").write_text("x")
    stats = look(root, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset_stats.json").read_text()) == stats
    assert stats["images"] == 16
    assert stats["classes"]["a"]["given_splits"] == {"test": 2, "train": 9}
    assert stats["classes"]["b_x_1"]["images"] == 5
    assert stats["imbalance"] == 2.2
    assert stats["sizes"] == [
        {"width": 96, "height": 80, "images": 15},
        {"width": 200, "height": 50, "images": 1},
    ]
    assert stats["modes"] == {"L": 15, "RGB": 1}
    assert [entry["path"] for entry in stats["unreadable"]] == ["Training/a/notes.txt"]
    spread = stats["classes"]["a"]["brightness"]
    assert spread["min"] <= spread["quartiles"][0] <= spread["mean"] <= spread["max"]
    figures = {path.stem: path for path in (tmp_path / "out" / "figures").iterdir()}
    assert set(figures) == {
        "dataset_classes", "dataset_brightness", "dataset_resolution", "duplicates", "samples_a",
        "samples_b_x_1",
    }  # fmt: skip
    for path in figures.values():
        with Image.open(path) as image:
            image.load()
            assert image.width >= 600


def test_the_same_data_give_the_same_figures(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    look(root, tmp_path / "one")
    look(root, tmp_path / "two")
    for path in (tmp_path / "one" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "figures" / path.name).read_bytes()


def test_a_vanished_image_is_an_error_that_names_it(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    index = build_index(root, reporter=QUIET)
    report = audit_dataset(index, reporter=QUIET)
    (root / "a" / "000.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000\.jpg"):
        explore(index, report, tmp_path / "out", reporter=QUIET)
