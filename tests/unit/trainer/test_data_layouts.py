"""Folders as downloads, unpackers and people leave them."""

from __future__ import annotations

import os
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.folder import doubtful_classes, find_problems, import_folder
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.layout import DatasetError, alike, find_images
from neurogate_trainer.progress import LogReporter, Reporter
from PIL import Image

QUIET = Reporter()


def refusal(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        find_images(root)
    return str(caught.value)


def test_what_operating_systems_leave_behind_does_not_count(tmp_path):
    root = write_folder(
        tmp_path,
        {
            "Training/a": 5, "Training/b": 5, "Testing/a": 2, "__MACOSX/Training/a": 1, "$RECYCLE.BIN": 1,
            "Training/@eaDir/a": 1, "Training/a/.ipynb_checkpoints": 2, ".neurogate/masks": 1,
        },
    )  # fmt: skip
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._000.jpg"):
        (root / "Training" / "a" / name).write_bytes(b"x")
        (root / name).write_bytes(b"x")
    found = find_images(root)
    assert (found.classes, len(found.files), found.left_out) == (("a", "b"), 12, ())


def test_splits_unpacked_one_folder_too_deep_say_so(tmp_path):
    write_folder(
        tmp_path,
        {"Training/Training/a": 5, "Training/Training/b": 5, "Testing/Testing/a": 1, "Testing/Testing/b": 1},
    )
    assert "Testing/Testing is a split folder inside of a split folder" in refusal(tmp_path)


@pytest.mark.parametrize("deeper", [False, True])
def test_a_copy_of_the_data_set_inside_of_itself_is_left_out_and_counted(tmp_path, capsys, deeper):
    names = ["Training", "Testing"] if deeper else ["yes", "no"]
    inside = (
        {f"{name}/{each}": 5 for name in names for each in ("yes", "no")}
        if deeper
        else dict.fromkeys(names, 5)
    )
    root = write_folder(tmp_path / "set", inside)
    for name in names:
        shutil.copytree(root / name, root / "brain_tumor_dataset" / name)
    count = sum(inside.values())
    with LogReporter() as reporter:
        index = build_index(root, reporter=reporter)
    assert (index.classes, len(index.records), len(index.unreadable)) == (("no", "yes"), count, count)
    assert f"left out {count}, e.g. brain_tumor_dataset/" in capsys.readouterr().err
    next((root / "brain_tumor_dataset").rglob("*.jpg")).write_bytes(b"another")
    assert "it looks like a second data set" in refusal(root)


def test_import_does_not_say_that_training_is_next_where_it_would_refuse(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 5})
    shutil.copytree(root / "a", root / "b")
    found = import_folder(root, tmp_path / "out", reporter=QUIET)
    assert "no image of a, b" in found.refusal
    fine = write_folder(tmp_path / "fine", {"a": 6, "b": 6})
    assert import_folder(fine, tmp_path / "out", reporter=QUIET).refusal == ""


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (("notumor", "no_tumor", "glioma"), ("no_tumor", "notumor")),
        (("Glioma", "glioma"), ("Glioma", "glioma")),
        (("no_tumour", "no-tumor"), ("no-tumor", "no_tumour")),
        (("glioma_tumor", "glioma"), ("glioma", "glioma_tumor")),
        (("glioma", "gliomas"), ("glioma", "gliomas")),
    ],
)
def test_spellings_of_one_class(names, together):
    assert alike(names) == [together]


def test_classes_that_differ_are_not_spellings_of_one():
    assert alike(["glioma", "meningioma", "notumor", "pituitary", "yes", "tumor", "grade1", "grade2"]) == []


def test_two_spellings_are_told_with_both_names(tmp_path):
    root = write_folder(tmp_path, {"Training/glioma": 5, "Training/notumor": 5, "Testing/no_tumor": 5})
    (doubt,) = doubtful_classes(build_index(root, reporter=QUIET))
    assert "'no_tumor' and 'notumor'" in doubt


@pytest.mark.parametrize(
    "name",
    ["-glioma", "no tumor, (really)", "T1+", "bénigne", "опухоль", "back\\slash", "x" * 65, "a\n", "glioma "],
)  # fmt: skip
def test_a_name_that_no_class_can_have_is_refused_before_anything_is_read(tmp_path, name):
    root = write_folder(tmp_path, {"glioma": 5, name: 5})
    told = refusal(root)
    assert repr(name) in told
    assert "up to 64 letters (A-Z, a-z), digits" in told


def test_a_blank_at_the_end_names_the_class_that_was_meant(tmp_path):
    told = refusal(write_folder(tmp_path, {"Training/glioma": 5, "Training/no": 5, "Testing/glioma ": 5}))
    assert "'glioma ' could be 'glioma', which is there too" in told


def test_names_that_look_the_same_are_both_refused(tmp_path):
    twins = [unicodedata.normalize(form, "bénigne") for form in ("NFC", "NFD")]
    write_folder(tmp_path, dict.fromkeys(twins, 5))
    assert all(repr(name) in refusal(tmp_path) for name in twins)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (
            {"train/images": 5, "train/labels": 5},
            r"no classes \(images, labels\): it looks like a data set for det",
        ),
        ({"images": 5, "masks": 5}, "for detection or segmentation"),
        ({"yes": 5, "no": 5, "pred": 5}, r"no classes \(pred\)"),
        ({"a": 5, "b": 5, "c": 0}, r"without any file \(c\)"),
    ],
)
def test_folders_that_are_no_classes_are_named(tmp_path, counts, words):
    with pytest.raises(DatasetError, match=words):
        find_images(write_folder(tmp_path, counts))


def test_a_table_of_labels_or_an_archive_is_pointed_at(tmp_path):
    write_folder(tmp_path / "one", {"images": 5})
    (tmp_path / "one" / "labels.csv").write_text("file,label\n")
    assert "if labels.csv says the classes" in refusal(tmp_path / "one")
    write_folder(tmp_path, {"flat": 5})
    (tmp_path / "flat" / "labels.csv").write_text("file,label\n")
    assert "6 files (5 .jpg, 1 .csv): if labels.csv says" in refusal(tmp_path / "flat")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "set.zip", "w"):
        pass
    assert "unpack set.zip" in refusal(tmp_path / "zipped")
    assert "is an archive: unpack it" in refusal(tmp_path / "zipped" / "set.zip")


def test_too_few_files_are_told_before_any_is_read(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 1})
    with pytest.raises(DatasetError, match="too few readable images of b: found a: 5, b: 1"):
        build_index(root, reporter=NotCalled())


class NotCalled(Reporter):
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        raise AssertionError


def test_classes_inside_of_patients_are_noticed(tmp_path):
    few = write_folder(tmp_path / "few", {f"p{n}/{c}": 1 for n in range(30) for c in ("glioma", "notumor")})
    with pytest.raises(
        DatasetError, match=r"p0, p1, .* and 22 more\) hold folders of the same names \(glioma, not"
    ):
        build_index(few, reporter=QUIET)
    many = write_folder(tmp_path / "many", {"p1/glioma": 5, "p2/notumor": 5, "p3/glioma": 5})
    assert "turn them round" in doubtful_classes(build_index(many, reporter=QUIET))[0]
    right = write_folder(tmp_path / "right", {"a/p1": 5, "a/p2": 5, "b/p3": 5})
    assert doubtful_classes(build_index(right, reporter=QUIET)) == []


def test_splits_inside_of_classes_are_noticed(tmp_path):
    root = write_folder(tmp_path, {"a/train": 5, "a/test": 5, "b/train": 5})
    assert any(
        "a/test, a/train, b/train" in each for each in doubtful_classes(build_index(root, reporter=QUIET))
    )


def test_images_beside_the_class_folders_are_counted(tmp_path):
    root = write_folder(tmp_path, {"Training/a": 5, "Training/b": 5})
    for place in (root, root / "Training"):
        (place / "stray.png").write_bytes(b"x")
        (place / "notes.txt").write_text("x")
    assert [each.path for each in find_images(root).left_out] == ["stray.png", "Training/stray.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    store = write_folder(tmp_path / "store", {"glioma": 5, "more": 2})
    root = write_folder(tmp_path / "set", {"notumor": 5})
    (root / "glioma").symlink_to(store / "glioma")
    (root / "notumor" / "more").symlink_to(store / "more")
    (root / "notumor" / "loop").symlink_to(root)
    (root / "notumor" / "itself").symlink_to("itself")
    found = find_images(root)
    assert found.classes == ("glioma", "notumor")
    assert [file.path for file in found.files if "more" in file.path] == [
        "notumor/more/000.jpg",
        "notumor/more/001.jpg",
    ]
    assert [each.path for each in found.left_out] == ["notumor/loop"]
    (root / "again").symlink_to(root / "glioma")
    assert "a class folder that is a link to a folder that is read elsewhere: " in refusal(root)


def test_suffixes_do_not_matter(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    for number, suffix in enumerate((".JPG", ".jfif", ".jpe", ".png", "")):
        (root / "a" / f"{number:03d}.jpg").rename(root / "a" / f"{number:03d}{suffix}")
    assert len(build_index(root, reporter=QUIET).records) == 10


def test_thousands_of_unreadable_files_are_counted_and_not_told_one_by_one(tmp_path, capsys):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    for number in range(1000):
        (root / "a" / f"{number}.txt").write_text("0 .5 .5 .1 .1")
    with LogReporter() as reporter:
        index = build_index(root, reporter=reporter)
    assert len(index.unreadable) == 1000
    told = capsys.readouterr().err
    assert told.count("WARNING") == 21
    assert "left out 980 more files" in told


def test_a_class_of_another_depth_or_brightness_is_told(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5, "c": 5})
    assert doubtful_classes(build_index(root, reporter=QUIET)) == []
    for number in range(5):
        deep = np.asarray(picture(number)).astype(np.uint16) * 5
        Image.fromarray(deep).save(root / "a" / f"{number:03d}.jpg", "PNG")
        dark = np.asarray(picture(100 + number)) // 5
        (root / "b" / f"{number:03d}.jpg").write_bytes(encoded(Image.fromarray(dark)))
    doubts = doubtful_classes(build_index(root, reporter=QUIET))
    assert any("deeper than 8 bits" in each and "a 100%, b 0%, c 0%" in each for each in doubts)
    assert any("Images of b have a median brightness of" in each for each in doubts)


def test_groups_are_found_however_letters_with_marks_are_written(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "000.jpg").rename(root / "a" / unicodedata.normalize("NFD", "é.jpg"))
    (root / "a" / "001.jpg").rename(root / "a" / "back\\slash.jpg")
    (root / "groups.csv").write_text("path,group\na/é.jpg,p1\na/back\\slash.jpg,p2\n", encoding="utf-8")
    assert {record.group for record in build_index(root, reporter=QUIET).records} == {"", "p1", "p2"}


def test_a_file_that_must_not_be_read_is_listed(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {"a": 6, "b": 5})
    original = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "003.jpg" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    index = build_index(root, reporter=QUIET)
    assert [(each.path, each.reason) for each in index.unreadable] == [("a/003.jpg", "Permission denied")]
    audit_dataset(index, reporter=QUIET)


def test_a_name_cannot_break_or_drive_the_terminal(tmp_path, capsys):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "x\n\x1b[2J.jpg").write_text("no image")
    with LogReporter() as reporter:
        index = build_index(root, reporter=reporter)
    told = [*find_problems(index, audit_dataset(index, reporter=QUIET)), capsys.readouterr().err]
    assert all(r"a/x\n\x1b[2J.jpg" in each for each in (told[0], told[-1]))
    assert not any("\x1b" in each for each in told)


def test_classes_deep_inside_are_pointed_at(tmp_path):
    root = write_folder(tmp_path, {"x/y/z/a": 5, "x/y/z/b": 5})
    assert f"give {root / 'x' / 'y' / 'z'} instead" in refusal(root)
    loop = write_folder(tmp_path / "loop", {"x": 5})
    (loop / "x" / "x").symlink_to(loop)
    assert "one class only (x)" in refusal(loop)
