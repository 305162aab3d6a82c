from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_trainer.data import index as index_module
from neurogate_trainer.data.index import DatasetIndex, build_index
from neurogate_trainer.data.layout import DatasetError, given_split_of
from neurogate_trainer.progress import LogReporter, Reporter

QUIET = Reporter()


def build(root: Path, **settings) -> DatasetIndex:
    return build_index(root, reporter=QUIET, **settings)


def test_class_folders(tmp_path):
    index = build(write_folder(tmp_path / "set", {"b": 5, "a": 6}))
    assert index.classes == ("a", "b")
    assert index.counts() == {"a": 6, "b": 5}
    assert index.name == "set"
    assert [r.path for r in index.records] == sorted(r.path for r in index.records)
    first = index.records[0]
    assert (first.path, first.width, first.height, first.mode) == ("a/000.jpg", 96, 80, "L")
    assert (first.given_split, first.group) == ("", "")
    assert 60 < first.brightness < 200
    assert 0 < first.phash < 2**64


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("train", "test"), ("Train_Set", "test-data"), ("TRAIN", "Holdout")],
)
def test_given_splits_in_the_usual_spellings(tmp_path, train, test):
    root = write_folder(tmp_path, {f"{train}/a": 5, f"{train}/b": 5, f"{test}/a": 2, f"{test}/b": 3})
    index = build(root)
    assert sum(r.given_split == "train" for r in index.records) == 10
    assert sum(r.given_split == "test" for r in index.records) == 5


def test_a_given_validation_folder_is_training_data():
    assert [given_split_of(name) for name in ("val", "Validation", "valid")] == ["train"] * 3
    assert given_split_of("glioma") == ""


def test_what_the_transform_refuses_is_listed_with_the_reason_and_left_out(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "a" / "notes.txt").write_text("hello")
    (root / "a" / "cut.png").write_bytes(encoded(picture(99), "PNG")[:200])
    (root / "b" / "dangling.jpg").symlink_to(root / "nothing")
    os.mkfifo(root / "b" / "pipe.jpg")
    (root / "b" / ".DS_Store").write_bytes(b"hidden files are none of our business")
    index = build(root)
    assert len(index.records) == 10
    reasons = {u.path: u.reason for u in index.unreadable}
    assert set(reasons) == {"a/empty.jpg", "a/notes.txt", "a/cut.png", "b/dangling.jpg", "b/pipe.jpg"}
    assert reasons["a/empty.jpg"].startswith("IMAGE_EMPTY")
    assert reasons["a/notes.txt"].startswith("IMAGE_FORMAT_UNSUPPORTED")
    assert reasons["a/cut.png"].startswith("IMAGE_CORRUPT")
    assert reasons["b/pipe.jpg"] == "not a regular file"


def test_a_file_name_that_is_no_text_is_listed(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / os.fsdecode(b"gr\xfc\xdfe.jpg")).write_bytes(encoded(picture(99)))
    index = build(root)
    assert [(u.path, u.reason) for u in index.unreadable] == [
        (r"a/gr\udcfc\udcdfe.jpg", "the file name is not UTF-8")
    ]
    index.save(tmp_path / "i")
    assert DatasetIndex.load(tmp_path / "i", index.root) == index


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {"a/inner": 5, "b": 5})
    original = os.scandir

    def scan(path):
        if str(path).endswith("inner"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DatasetError, match="inner cannot be read: Permission denied"):
        build(root)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "MAX_FILE_BYTES", 4000)
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "huge.jpg").write_bytes(b"\0" * 4001)
    assert [u.reason for u in build(root).unreadable] == ["4001 bytes, expected at most 4000"]


def test_every_worker_count_gives_the_same_index(tmp_path):
    root = write_folder(tmp_path, {"a": 7, "b": 8})
    assert build(root, workers=1) == build(root, workers=4)


def test_the_digest_depends_on_content_class_split_and_group_only(tmp_path):
    root = write_folder(tmp_path / "one", {"a": 5, "b": 5})
    digest = build(root).digest()
    shutil.copytree(root, tmp_path / "two")
    assert build(tmp_path / "two", name="other").digest() == digest
    (tmp_path / "two" / "groups.csv").write_text("path,group\na/000.jpg,p1\n")
    assert build(tmp_path / "two").digest() != digest
    (root / "a" / "000.jpg").write_bytes(encoded(picture(77)))
    assert build(root).digest() != digest


def test_saved_and_loaded_it_is_the_same(tmp_path):
    root = write_folder(tmp_path / "set", {"Training/a": 5, "Training/b": 5, "Testing/a": 2})
    (root / "Training" / "a" / "x.txt").write_text("x")
    index = build(root)
    path = tmp_path / "out" / "index.sqlite"
    index.save(path)
    index.save(path)
    assert DatasetIndex.load(path, index.root) == index
    assert [entry.name for entry in path.parent.iterdir()] == ["index.sqlite"]


def test_a_failed_save_leaves_the_old_index(tmp_path, monkeypatch):
    index = build(write_folder(tmp_path / "set", {"a": 5, "b": 5}))
    path = tmp_path / "index.sqlite"
    index.save(path)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(index_module.sqlite3, "connect", full)
        with pytest.raises(DatasetError, match="cannot be written: database or disk is full"):
            index.save(path)
    assert DatasetIndex.load(path, index.root) == index
    assert {entry.name for entry in tmp_path.iterdir()} == {"set", "index.sqlite"}


@pytest.mark.parametrize("content", [b"", b"no database at all" * 50])
def test_loading_something_else_says_so(tmp_path, content):
    path = tmp_path / "index.sqlite"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not an index"):
        DatasetIndex.load(path, tmp_path)
    with pytest.raises(DatasetError, match="no index at"):
        DatasetIndex.load(tmp_path / "missing", tmp_path)


def test_another_schema_is_refused(tmp_path):
    index = build(write_folder(tmp_path / "set", {"a": 5, "b": 5}))
    index.save(tmp_path / "i")
    with sqlite3.connect(tmp_path / "i") as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    database.close()
    with pytest.raises(DatasetError, match="'99', expected '1'"):
        DatasetIndex.load(tmp_path / "i", tmp_path)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "found no folders and 0 files"),
        ({"a": 5}, r"one class only \(a\)"),
        ({"a": 5, "b": 2}, "too few readable images of b: found a: 5, b: 2"),
        ({"Training/a": 5, "Training/b": 5, "other/x": 1}, "others beside them"),
        ({"wrapped/Training/a": 5, "wrapped/Testing/b": 5}, "Did you mean .*wrapped"),
        ({"wrapped/a": 5, "wrapped/b": 5}, "give .*wrapped instead"),
    ],
)
def test_layouts_that_are_none_are_shown(tmp_path, counts, words):
    with pytest.raises(DatasetError, match=words):
        build(write_folder(tmp_path, counts))


def test_loose_images_and_missing_roots_are_shown(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(picture(1)))
    with pytest.raises(DatasetError, match=r"no folders and 1 files \(1 \.jpg\); expected one of"):
        build(tmp_path)
    with pytest.raises(DatasetError, match="is missing"):
        build(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is not a folder"):
        build(tmp_path / "x.jpg")


def test_groups_come_from_groups_csv(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "groups.csv").write_text(
        "\ufeffpath,group,note\na/000.jpg,p1,x\nb\\001.jpg,p1,\na/001.jpg,,\n", encoding="utf-8"
    )
    assert {r.path: r.group for r in build(root).records if r.group} == {"a/000.jpg": "p1", "b/001.jpg": "p1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,patient\n", "columns image, patient, expected path,group"),
        ("", "columns none"),
        ("path,group\na/missing.jpg,p1\n", "line 2: there is no image 'a/missing.jpg'"),
        ("path,group\na/000.jpg,p1\na/000.jpg,p2\n", "line 3: 'a/000.jpg' is in two groups"),
    ],
)
def test_a_bad_groups_csv_is_refused(tmp_path, text, words):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "groups.csv").write_text(text)
    with pytest.raises(DatasetError, match=words):
        build(root)


def test_progress_counts_every_file_and_names_the_unreadable(tmp_path, capsys):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "x.txt").write_text("x")
    with LogReporter() as reporter:
        build_index(root, reporter=reporter)
    told = capsys.readouterr().err
    assert "index 11/11 images" in told
    assert "WARNING: left out a/x.txt" in told


def test_names_of_known_places(tmp_path):
    kaggle = tmp_path / "datasets" / "owner" / "brain" / "versions" / "3"
    assert build(write_folder(kaggle, {"a": 5, "b": 5})).name == "owner/brain version 3"
    phantom = write_folder(tmp_path / "demo", {"a": 5, "b": 5})
    (phantom / "phantom.json").write_text("{}")
    assert build(phantom).name == "phantom demo"
