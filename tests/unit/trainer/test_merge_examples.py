"""New examples beside a data set: where each goes, which stay out and why, and the sealed test split."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_trainer.data.audit import audit_dataset
from neurogate_trainer.data.examples import ExamplesError, index_examples, read_examples
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.merge_examples import MergedData, merge_examples
from neurogate_trainer.data.splits import Splits, assert_disjoint, split_dataset
from neurogate_trainer.progress import Reporter
from PIL import Image, ImageEnhance

QUIET = Reporter()
FRACTIONS = (0.7, 0.15, 0.15)


@dataclass
class Base:
    """A data set of two classes, split; `store` takes examples."""

    root: Path
    store: Path
    index: object
    audit: object
    splits: Splits
    offered: list[dict[str, str]]

    def offer(self, data: bytes, class_id: str, *, group: str = "", name: str = "") -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.store / (name or sha256)
        path.write_bytes(data)
        self.offered.append({"path": str(path), "class": class_id, "sha256": sha256, "group": group})
        return str(path)

    def data(self, split: str, class_id: str, number: int = 0) -> bytes:
        return (self.root / self.record(split, class_id, number).path).read_bytes()

    def record(self, split: str, class_id: str, number: int = 0):
        return [r for r in self.splits.parts()[split] if r.class_id == class_id][number]

    def merge(self) -> MergedData:
        document = self.store / "examples.json"
        document.write_text(json.dumps({"revision": 1, "examples": self.offered}))
        usable, unusable = index_examples(read_examples(document, self.index.classes), reporter=QUIET)
        merged = merge_examples(
            (self.index, self.audit, self.splits),
            usable,
            unusable,
            fractions=FRACTIONS,
            reporter=QUIET,
        )
        # Whatever is offered: the sealed split is the same, and nothing is on both sides of a border.
        assert merged.splits.test == self.splits.test
        assert set(self.splits.train) <= set(merged.splits.train)
        assert set(self.splits.validation) <= set(merged.splits.validation)
        assert_disjoint(merged.splits, merged.audit)
        assert {r.path for r in merged.added} | {r.path for r, _ in merged.left_out} == {
            entry["path"] for entry in self.offered
        }
        return merged


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("base") / "data", {"a": 20, "b": 20})
    rows = "".join(f"a/{n:03d}.jpg,patient {n // 2}\n" for n in range(20))
    (root / "groups.csv").write_text(f"path,group\n{rows}")
    index = build_index(root, reporter=QUIET)
    audit = audit_dataset(index, reporter=QUIET)
    return root, index, audit, split_dataset(index, audit, seed=1)


@pytest.fixture
def base(template, tmp_path) -> Base:
    root, *rest = template
    store = tmp_path / "store"
    store.mkdir()
    return Base(root, store, *rest, offered=[])


def brighter(data: bytes, folder: Path) -> bytes:
    (folder / "source").write_bytes(data)
    with Image.open(folder / "source") as image:
        return encoded(ImageEnhance.Brightness(image).enhance(1.1), quality=70)


def fresh(seed: int) -> bytes:
    return encoded(picture(10_000 + seed))


def reasons(merged: MergedData) -> dict[str, str]:
    return {record.path: reason for record, reason in merged.left_out}


def test_new_pictures_are_spread_over_training_and_validation(base):
    for number in range(200):
        base.offer(fresh(number), "ab"[number % 2])
    merged = base.merge()
    assert merged.left_out == ()
    grown = {n: len(r) - len(base.splits.parts()[n]) for n, r in merged.splits.parts().items()}
    # 15 of 85 belong to validation; what lands there follows from the images' digests.
    assert grown["validation"] == pytest.approx(200 * 15 / 85, abs=15)
    assert (grown["train"], grown["test"]) == (200 - grown["validation"], 0)


def test_a_new_picture_is_on_the_same_side_in_every_retraining(base):
    first = {base.offer(fresh(n), "ab"[n % 2], group=f"patient {n // 4}" * (n < 20)) for n in range(40)}
    before = base.merge().splits
    for number in range(40, 70):
        base.offer(fresh(number), "ab"[number % 2], group="patient 1" if number < 45 else "")
    after = base.merge().splits
    for part in ("train", "validation"):
        chosen = [{r.path for r in splits.parts()[part]} & first for splits in (before, after)]
        assert chosen[0] == chosen[1] != set()


def test_what_shows_a_test_image_stays_out_with_all_that_belongs_to_it(base, tmp_path):
    sealed = base.record("test", "b")
    copy = base.offer(base.data("test", "b"), "b")
    near = base.offer(brighter(base.data("test", "b"), tmp_path), "b", group="scan 9")
    # Linked to the test image through the group of the near copy alone.
    other = base.offer(fresh(1), "b", group="scan 9")
    patient = base.record("test", "a")
    same_patient = base.offer(fresh(2), "a", group=patient.group)
    good = base.offer(fresh(3), "a")
    merged = base.merge()
    assert [r.path for r in merged.added] == [good]
    assert reasons(merged) == {
        copy: f"sealed: exact copy of {sealed.path}",
        near: f"sealed: near copy of {sealed.path}",
        other: f"sealed: same group as {near}, which is sealed itself",
        same_patient: f"sealed: same group as the test image {sealed_image_of(base, patient.group)}",
    }


def sealed_image_of(base: Base, group: str) -> str:
    return [r.path for r in base.splits.test if r.group == group][-1]


def test_a_wrong_class_for_a_known_picture_is_a_conflict_and_the_data_set_keeps_its_label(base, tmp_path):
    known = base.record("train", "a")
    exact = base.offer(base.data("train", "a"), "b")
    near = base.offer(brighter(base.data("train", "b"), tmp_path), "a")
    one = base.offer(fresh(1), "a")
    rival = base.offer(brighter(fresh(1), tmp_path), "b")
    base.offer(fresh(2), "a")
    found = reasons(base.merge())
    assert found[exact] == f"label conflict: exact copy of {known.path}, a a"
    assert found[near].startswith("label conflict: near copy of b/")
    assert found[one] == f"label conflict: near copy of {rival}, given as b"
    assert found[rival] == f"label conflict: near copy of {one}, given as a"


def test_a_known_picture_under_its_own_class_brings_nothing(base):
    known = base.record("validation", "b")
    copy = base.offer(base.data("validation", "b"), "b")
    base.offer(fresh(1), "b")
    assert reasons(base.merge()) == {copy: f"known: exact copy of {known.path}"}


def test_near_copies_and_members_of_a_group_go_where_the_known_image_is(base, tmp_path):
    validation = base.offer(brighter(base.data("validation", "b"), tmp_path), "b")
    train = base.offer(brighter(base.data("train", "b"), tmp_path), "b", group="new patient")
    follower = base.offer(fresh(1), "b", group="new patient")
    of_patient = base.offer(fresh(2), "a", group=base.record("validation", "a").group)
    merged = base.merge()
    assert merged.left_out == ()
    side = {r.path: name for name, records in merged.splits.parts().items() for r in records}
    assert (side[validation], side[of_patient]) == ("validation", "validation")
    assert (side[train], side[follower]) == ("train", "train")
    groups = merged.audit.groups
    assert groups[train] == groups[follower] == groups[base.record("train", "b").path]


def test_what_would_tie_training_to_validation_stays_out_alone(base, tmp_path):
    first = base.offer(brighter(base.data("train", "b"), tmp_path), "b", group="mixed", name="1")
    second = base.offer(brighter(base.data("validation", "b"), tmp_path), "b", group="mixed", name="2")
    third = base.offer(fresh(1), "b", group="mixed", name="3")
    merged = base.merge()
    assert reasons(merged) == {second: "between the splits: belongs to training and to validation images"}
    assert {r.path for r in merged.added} == {first, third}


def test_a_group_of_thousands_is_one_group(base):
    for number in range(3):
        base.offer(fresh(number), "a", group="series")
    merged = base.merge()
    assert len({merged.audit.groups[r.path] for r in merged.added}) == 1


def test_files_that_are_gone_damaged_or_others_stay_out(base):
    gone = base.offer(fresh(1), "a")
    Path(gone).unlink()
    cut = base.offer(fresh(2)[:500], "a")
    changed = base.offer(fresh(3), "b")
    Path(changed).write_bytes(fresh(4))
    twice = base.offer(fresh(5), "a")
    base.offered.append({**base.offered[-1], "path": str(base.store / "copy")})
    both = base.offer(fresh(6), "a")
    base.offered.append({**base.offered[-1], "class": "b"})
    merged = base.merge()
    found = reasons(merged)
    assert [r.path for r in merged.added] == [min(twice, str(base.store / "copy"))]
    assert found[gone].startswith("unreadable: ")
    assert found[cut].startswith("unreadable: ")
    assert found[changed] == "unreadable: its bytes do not have the digest that was given"
    assert found[max(twice, str(base.store / "copy"))] == "given more than once"
    assert found[both] == "label conflict: given as a and as b"


def test_nothing_usable_is_an_error_that_says_why(base):
    base.offer(base.data("test", "a"), "a")
    with pytest.raises(ExamplesError, match="none of the 1 examples can be used; the first: sealed: exact"):
        base.merge()


def test_a_picture_that_the_data_set_contradicts_itself_about_stays_out(base, tmp_path):
    from neurogate_trainer.data.audit import ClassConflict

    known = base.record("train", "b")
    base.audit = replace(base.audit, class_conflicts=(ClassConflict((known.path,), ("a", "b"), "near"),))
    copy = base.offer(base.data("train", "b"), "b")
    base.offer(fresh(1), "b")
    assert reasons(base.merge()) == {
        copy: f"label conflict: exact copy of {known.path}, which has other labels too"
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "lists no examples"),
        ("[]", "lists no examples"),
        ('{"revision": 2, "examples": []}', "revision 2, expected 1"),
        ('{"revision": 1, "examples": [{"path": "x", "class": "a"}]}', "KeyError: 'sha256'"),
        (
            '{"revision": 1, "examples": [{"path": 1, "class": "a", "sha256": "0"}]}',
            "values that are no text",
        ),
        (
            '{"revision": 1, "examples": [{"path": "x", "class": "a", "sha256": "0"}]}',
            "64 hexadecimal digits",
        ),
        (
            '{"revision": 1, "examples": [{"path": "x", "class": "z", "sha256": "%s"}]}' % ("0" * 64),
            "examples of z, but the data set has the classes a, b",
        ),
    ],
)
def test_a_document_that_cannot_be_used_is_refused(tmp_path, content, words):
    document = tmp_path / "examples.json"
    document.write_text(content)
    with pytest.raises(ExamplesError, match=words):
        read_examples(document, ("a", "b"))
    with pytest.raises(ExamplesError, match="cannot be read"):
        read_examples(tmp_path / "nowhere.json", ("a", "b"))


def test_without_examples_the_data_set_stays_as_it_is(base):
    merged = base.merge()
    assert merged.splits == base.splits
    assert merged.index == base.index


def test_paths_may_be_relative_to_the_document(tmp_path):
    document = tmp_path / "examples.json"
    entry = {"path": "ab/cd.jpg", "class": "a", "sha256": "0" * 64}
    document.write_text(json.dumps({"revision": 1, "examples": [entry]}))
    (example,) = read_examples(document, ("a",))
    assert (example.path, example.group) == (str(tmp_path / "ab" / "cd.jpg"), "")
