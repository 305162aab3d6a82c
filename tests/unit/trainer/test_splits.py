from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate_testing.data_folders import index_of, record
from neurogate_trainer.data.audit import AuditReport, ClassConflict, Leak
from neurogate_trainer.data.layout import DatasetError
from neurogate_trainer.data.splits import LeakageError, Splits, assert_disjoint, split_dataset


def report(index, *, groups=None, conflicts=(), leakage=()):
    """An audit in which every image is its own group unless said otherwise."""
    every = {r.path: f"own {r.path}" for r in index.records} | (groups or {})
    return AuditReport((), (), 0, tuple(conflicts), tuple(leakage), every)


def many(counts, *, split="", start=0):
    folder = {"train": "Training/", "test": "Testing/"}.get(split, "")
    return [
        record(f"{folder}{class_id}/{n:04d}.jpg", given_split=split)
        for class_id, count in counts.items()
        for n in range(start, start + count)
    ]


def count(records):
    return dict(Counter(r.class_id for r in records))


def test_shares_are_exact_for_single_images():
    index = index_of(*many({"a": 200, "b": 100, "c": 40}))
    splits = split_dataset(index, report(index))
    assert count(splits.train) == {"a": 140, "b": 70, "c": 28}
    assert count(splits.validation) == count(splits.test) == {"a": 30, "b": 15, "c": 6}
    assert splits.dropped == ()


def test_the_seed_decides():
    index = index_of(*many({"a": 50, "b": 50}))
    audit = report(index)
    first = split_dataset(index, audit, seed=3)
    assert split_dataset(index, audit, seed=3) == first
    assert split_dataset(index, audit, seed=4).test != first.test
    assert [r.path for r in first.train] == sorted(r.path for r in first.train)


@given(seed=st.integers(0, 10_000), groups=st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_groups_never_straddle_and_every_class_reaches_every_split(seed, groups):
    rng = np.random.default_rng(seed)
    index = index_of(*many({"a": 60, "b": 45}))
    # Squaring makes a few groups large.
    numbers = (groups * rng.random(len(index.records)) ** 2).astype(int)
    named = {r.path: f"{r.class_id}{n}" for r, n in zip(index.records, numbers, strict=True)}
    audit = report(index, groups=named)
    groups_of = {c: {g for path, g in named.items() if path.startswith(c)} for c in ("a", "b")}
    if min(map(len, groups_of.values())) < 3:
        with pytest.raises(DatasetError, match="more groups"):
            split_dataset(index, audit, seed=seed)
        return
    splits = split_dataset(index, audit, seed=seed)
    assert_disjoint(splits, audit)
    everything = [*splits.train, *splits.validation, *splits.test]
    assert sorted(r.path for r in everything) == [r.path for r in index.records]
    largest = max(Counter(named.values()).values())
    for part, share in ((splits.train, 0.7), (splits.validation, 0.15), (splits.test, 0.15)):
        assert abs(len(part) - share * 105) <= 2 * largest


def test_groups_of_several_classes_stay_whole():
    index = index_of(*many({"a": 60, "b": 60}))
    patients = {r.path: f"patient {int(r.path[2:6]) // 5}" for r in index.records}
    audit = report(index, groups=patients)
    splits = split_dataset(index, audit)
    assert_disjoint(splits, audit)
    assert all(set(count(part)) == {"a", "b"} for part in splits.parts().values())


def test_the_given_test_folder_is_kept_on_request():
    index = index_of(*many({"a": 40, "b": 40}, split="train"), *many({"a": 7, "b": 9}, split="test"))
    audit = report(index)
    kept = split_dataset(index, audit, keep_given_test=True)
    assert count(kept.test) == {"a": 7, "b": 9}
    assert count(kept.validation) == {"a": 7, "b": 7}
    assert count(kept.train) == {"a": 33, "b": 33}
    pooled = split_dataset(index, audit)
    assert {r.given_split for r in pooled.test} == {"train", "test"}


def test_there_must_be_a_given_test_folder_to_keep():
    index = index_of(*many({"a": 40, "b": 40}))
    with pytest.raises(DatasetError, match="no given test split to keep; expected a folder Testing"):
        split_dataset(index, report(index), keep_given_test=True)


def test_leaking_training_images_are_dropped():
    index = index_of(*many({"a": 40, "b": 40}, split="train"), *many({"a": 9, "b": 9}, split="test"))
    groups = {"Training/a/0000.jpg": "shared", "Testing/a/0000.jpg": "shared"}
    leak = Leak("Training/a/0000.jpg", "Testing/a/0000.jpg", "near")
    audit = report(index, groups=groups, leakage=[leak])
    splits = split_dataset(index, audit, keep_given_test=True)
    assert [(r.path, why) for r, why in splits.dropped] == [
        ("Training/a/0000.jpg", "leakage: near match of the test image Testing/a/0000.jpg")
    ]
    assert_disjoint(splits, audit)
    leaky = dataclasses.replace(splits, train=(*splits.train, splits.dropped[0][0]))
    with pytest.raises(LeakageError, match=r"overlap in 1 places, e.g. .*share a group"):
        assert_disjoint(leaky, audit)
    # Without the given split, both simply go to one side.
    assert_disjoint(split_dataset(index, audit), audit)


def test_contradicting_classes_are_left_out():
    index = index_of(*many({"a": 40, "b": 40}))
    conflict = ClassConflict(("a/0000.jpg", "b/0000.jpg"), ("a", "b"), "exact")
    splits = split_dataset(index, report(index, conflicts=[conflict]))
    assert [(r.path, why) for r, why in splits.dropped] == [
        ("a/0000.jpg", "class conflict: the same picture is a and b"),
        ("b/0000.jpg", "class conflict: the same picture is a and b"),
    ]


def test_of_exact_copies_one_stays_the_given_test_image_first():
    copies = [
        record("Training/a/copy1.jpg", sha256="s", given_split="train"),
        record("Training/a/copy2.jpg", sha256="s", given_split="train"),
        record("Testing/a/zcopy.jpg", sha256="s", given_split="test"),
    ]
    index = index_of(*many({"a": 30, "b": 30}, split="train"), *many({"a": 5, "b": 5}, split="test"), *copies)
    audit = report(index, groups={r.path: "s" for r in copies})
    pooled = split_dataset(index, audit)
    assert [why for _, why in pooled.dropped] == ["exact copy of Testing/a/zcopy.jpg"] * 2
    kept = split_dataset(index, audit, keep_given_test=True)
    assert "Testing/a/zcopy.jpg" in {r.path for r in kept.test}
    assert len(kept.dropped) == 2
    leaky = dataclasses.replace(kept, train=(*kept.train, kept.dropped[0][0]))
    with pytest.raises(LeakageError, match="share a content"):
        assert_disjoint(leaky, report(index))


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_fractions(fractions):
    index = index_of(*many({"a": 10, "b": 10}))
    with pytest.raises(ValueError, match="add up to 1"):
        split_dataset(index, report(index), fractions=fractions)


def test_a_class_that_cannot_be_in_every_split_is_named():
    index = index_of(*many({"a": 40, "b": 6}))
    groups = {r.path: "one patient" for r in index.records if r.class_id == "b"}
    with pytest.raises(DatasetError, match=r"has no image of b \(train: a .*more groups"):
        split_dataset(index, report(index, groups=groups))


def test_five_images_reach_every_split():
    index = index_of(*many({"a": 5, "b": 5}))
    splits = split_dataset(index, report(index))
    assert all(count(part) and set(count(part)) == {"a", "b"} for part in splits.parts().values())


def test_saved_and_loaded_they_are_the_same(tmp_path):
    index = index_of(*many({"a": 20, "b": 20}))
    conflict = ClassConflict(("a/0000.jpg", "b/0000.jpg"), ("a", "b"), "exact")
    splits = split_dataset(index, report(index, conflicts=[conflict]), seed=11)
    path = tmp_path / "run" / "splits.json"
    splits.save(path)
    assert Splits.load(path, index) == splits
    assert [p.name for p in path.parent.iterdir()] == ["splits.json"]


def test_a_changed_data_set_is_noticed(tmp_path):
    index = index_of(*many({"a": 20, "b": 20}))
    path = tmp_path / "splits.json"
    split_dataset(index, report(index)).save(path)
    without = index_of(*(r for r in index.records if r.path != "a/0003.jpg"))
    with pytest.raises(DatasetError, match=r"a/0003\.jpg is gone"):
        Splits.load(path, without)
    changed = index_of(
        *(r for r in index.records if r.path != "a/0003.jpg"), record("a/0003.jpg", sha256="new")
    )
    with pytest.raises(DatasetError, match=r"a/0003\.jpg has changed"):
        Splits.load(path, changed)


def test_an_edited_or_foreign_file_is_refused(tmp_path):
    index = index_of(*many({"a": 20, "b": 20}))
    path = tmp_path / "splits.json"
    split_dataset(index, report(index)).save(path)
    document = json.loads(path.read_text())
    document["test"].append(document["train"].pop())
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="was edited: the digest of train, test"):
        Splits.load(path, index)
    for text in ("{}", "[]", "nonsense", json.dumps({**document, "revision": 9})):
        path.write_text(text)
        with pytest.raises(DatasetError):
            Splits.load(path, index)
    with pytest.raises(DatasetError, match="cannot be read"):
        Splits.load(tmp_path / "missing.json", index)
