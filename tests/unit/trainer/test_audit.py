from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from neurogate_testing.data_folders import encoded, write_folder
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.folder import import_folder
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.layout import DatasetError
from neurogate_trainer.data.near_duplicates import NearPairs
from neurogate_trainer.progress import Reporter
from neurogate_trainer.report.explore import choose_worst_pairs, worst_pairs
from PIL import Image, ImageEnhance

QUIET = Reporter()


def audit(root: Path):
    return audit_dataset(build_index(root, reporter=QUIET), reporter=QUIET)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve training and six test pictures of two classes, all different."""
    counts = {"Training/a": 6, "Training/b": 6, "Testing/a": 3, "Testing/b": 3}
    return write_folder(tmp_path / "set", counts)


def copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


def again(root: Path, source: str, target: str, change=lambda image: image, **settings) -> None:
    """The same picture in another file."""
    with Image.open(root / source) as image:
        (root / target).write_bytes(encoded(change(image), **{"kind": "JPEG", **settings}))


def test_a_clean_data_set_has_no_findings_and_a_group_for_every_image(root):
    report = audit(root)
    assert report.exact_duplicates == report.near_duplicates == ()
    assert report.class_conflicts == report.leakage == ()
    assert len(set(report.groups.values())) == 18


def test_exact_copies_share_a_group(root):
    copy(root, "Training/a/000.jpg", "Training/a/copy1.jpg")
    copy(root, "Training/a/000.jpg", "Training/a/copy2.jpg")
    report = audit(root)
    names = ("Training/a/000.jpg", "Training/a/copy1.jpg", "Training/a/copy2.jpg")
    assert report.exact_duplicates == (names,)
    assert len({report.groups[name] for name in names}) == 1
    assert report.near_duplicates == ()
    assert report.leakage == ()


@pytest.mark.parametrize(
    ("change", "settings", "mirrored"),
    [
        (lambda image: image, {"quality": 30}, False),
        (lambda image: image.resize((150, 170)), {}, False),
        (lambda image: image.convert("RGB"), {"kind": "PNG"}, False),
        (lambda image: ImageEnhance.Contrast(image).enhance(0.7), {}, False),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {}, True),
    ],
)
def test_near_copies_are_found(root, change, settings, mirrored):
    again(root, "Training/a/002.jpg", "Training/a/other.jpg", change, **settings)
    report = audit(root)
    assert [(p.left, p.right, p.mirrored) for p in report.near_duplicates] == [
        ("Training/a/002.jpg", "Training/a/other.jpg", mirrored)
    ]
    assert report.near_duplicates[0].correlation > 0.98
    assert report.groups["Training/a/002.jpg"] == report.groups["Training/a/other.jpg"]


def test_one_picture_under_two_classes_is_a_conflict(root):
    copy(root, "Training/a/000.jpg", "Training/b/x.jpg")
    again(root, "Training/a/001.jpg", "Training/b/y.jpg", quality=40)
    assert [(c.kind, c.paths, c.classes) for c in audit(root).class_conflicts] == [
        ("exact", ("Training/a/000.jpg", "Training/b/x.jpg"), ("a", "b")),
        ("near", ("Training/a/001.jpg", "Training/b/y.jpg"), ("a", "b")),
    ]


def test_leakage_names_the_training_image_once_with_its_closest_reason(root):
    copy(root, "Testing/a/000.jpg", "Training/a/exact.jpg")
    again(root, "Testing/a/000.jpg", "Training/a/near.jpg", quality=40)
    (root / "groups.csv").write_text(
        "path,group\nTesting/b/000.jpg,p1\nTraining/b/000.jpg,p1\nTesting/a/000.jpg,p2\nTraining/a/exact.jpg,p2\n"
    )
    assert [(leak.train, leak.test, leak.kind) for leak in audit(root).leakage] == [
        ("Training/a/exact.jpg", "Testing/a/000.jpg", "exact"),
        ("Training/a/near.jpg", "Testing/a/000.jpg", "near"),
        ("Training/b/000.jpg", "Testing/b/000.jpg", "group"),
    ]


def test_groups_join_what_is_given_and_what_is_found(root):
    (root / "groups.csv").write_text("path,group\nTraining/a/000.jpg,p1\nTraining/b/000.jpg,p1\n")
    again(root, "Training/b/000.jpg", "Training/b/near.jpg", quality=40)
    copy(root, "Training/b/near.jpg", "Training/b/near2.jpg")
    groups = audit(root).groups
    together = {"Training/a/000.jpg", "Training/b/000.jpg", "Training/b/near.jpg", "Training/b/near2.jpg"}
    assert len({groups[path] for path in together}) == 1
    assert sum(group == groups["Training/a/000.jpg"] for group in groups.values()) == 4


def test_hundreds_of_copies_of_one_picture_stay_linear(root):
    data = (root / "Training/a/000.jpg").read_bytes()
    for number in range(300):
        (root / "Training" / "a" / f"c{number}.jpg").write_bytes(data)
        (root / "Testing" / "a" / f"c{number}.jpg").write_bytes(data)
    report = audit(root)
    assert len(report.exact_duplicates) == 1
    assert len(report.leakage) == 301
    assert report.near_duplicate_count == 0


def test_images_without_structure_match_nothing(root):
    for number in range(3):
        flat = Image.new("L", (60, 60 + number), 10 * number)
        (root / "Training" / "a" / f"flat{number}.png").write_bytes(encoded(flat, "PNG"))
    assert audit(root).near_duplicate_count == 0


def test_the_report_is_the_same_every_time_and_readable_as_json(root, tmp_path):
    copy(root, "Testing/a/000.jpg", "Training/b/exact.jpg")
    again(root, "Training/a/001.jpg", "Training/a/near.jpg", quality=40)
    report = audit(root)
    assert report == audit(root)
    report.save(tmp_path / "run" / "audit.json")
    saved = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert saved["counts"] == {
        "exact_duplicate_sets": 1,
        "exact_duplicate_files": 2,
        "near_duplicate_pairs": 1,
        "class_conflicts": 1,
        "leaking_training_images": 1,
        "groups": 18,
        "largest_group": 2,
    }
    assert saved["near_duplicate_rule"] == {"max_hash_distance": 10, "min_correlation": 0.95}
    assert sorted(map(len, saved["groups"].values())) == [2, 2]


def test_the_most_similar_pairs_come_first():
    many = NearPairs(
        np.arange(3), np.arange(3) + 5, np.zeros(3, np.uint8), np.array([0.96, 0.99, 0.97], np.float32),
        np.zeros(3, np.bool_),
    )  # fmt: skip
    assert many.most_similar(2) == [1, 2]


def test_the_page_shows_the_worst_first(root, tmp_path):
    again(root, "Training/a/001.jpg", "Training/a/near.jpg", quality=40)
    copy(root, "Training/a/002.jpg", "Training/a/exact.jpg")
    copy(root, "Testing/a/000.jpg", "Training/a/leak.jpg")
    copy(root, "Training/a/000.jpg", "Training/b/conflict.jpg")
    index = build_index(root, reporter=QUIET)
    report = audit_dataset(index, reporter=QUIET)
    why = [reason for _, _, reason in choose_worst_pairs(index, report)]
    assert why[:2] == ["exact copy, two classes", "exact copy, training and test"]
    assert why[2].startswith("near copy, correlation 0.9")
    assert why[3:] == ["exact copy"]
    worst_pairs(index, report, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.width > 800


def test_import_writes_index_and_audit_and_names_what_is_wrong(root, tmp_path):
    copy(root, "Training/a/000.jpg", "Training/b/conflict.jpg")
    copy(root, "Training/a/002.jpg", "Training/a/exact.jpg")
    copy(root, "Testing/a/000.jpg", "Training/a/leak.jpg")
    again(root, "Training/a/001.jpg", "Training/a/near.jpg", quality=40)
    (root / "Training" / "a" / "x.txt").write_text("x")
    found = import_folder(root, tmp_path / "out", reporter=QUIET)
    text = "\n".join(found.problems)
    for words in (
        "1 pictures lie under more than one class", "1 given training images match given test images",
        "1 files are not usable", "3 files are exact copies", "1 pairs of images show the same picture",
        "Few images of", "groups.csv",
    ):  # fmt: skip
        assert words in text
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"index.sqlite", "audit.json"}


def test_import_of_nothing_makes_no_folder(tmp_path):
    with pytest.raises(DatasetError, match="is missing"):
        import_folder(tmp_path / "nowhere", tmp_path / "nowhere" / "out", reporter=QUIET)
    assert not (tmp_path / "nowhere").exists()


def test_sub_folders_are_asked_about(tmp_path):
    root = write_folder(tmp_path / "set", {"a/patient1": 5, "a/patient2": 5, "b/patient3": 5})
    found = import_folder(root, tmp_path / "out", reporter=QUIET)
    assert any("sub-folders of the class folders" in problem for problem in found.problems)
    lines = "".join(f"{r.path},{Path(r.path).parent.name}\n" for r in found.index.records)
    (root / "groups.csv").write_text(f"path,group\n{lines}")
    found = import_folder(root, tmp_path / "out", reporter=QUIET)
    assert not any("sub-folders" in problem for problem in found.problems)
    assert len(set(found.audit.groups.values())) == 3
