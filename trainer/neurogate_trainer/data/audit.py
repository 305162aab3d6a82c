"""What is wrong with a data set before anything is learnt from it: copies, contradictions, leakage."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurogate_core.files import replace_json

from neurogate_trainer.progress import Reporter

from .index import DatasetIndex, ImageRecord
from .near_duplicates import MAX_DISTANCE, MIN_CORRELATION, NearPairs, find_near_duplicates

MAX_LISTED_PAIRS = 10_000
"""At most this many near-duplicate pairs are listed, the most similar first; all of them form groups."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two different files that show the same picture.

    Attributes:
        left: Path of the one.
        right: Path of the other.
        distance: Hamming distance of the perceptual hashes, 0 to 64.
        correlation: Correlation of the gray thumbnails, up to 1.
        mirrored: Whether one is the other mirrored left to right.
    """

    left: str
    right: str
    distance: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class ClassConflict:
    """One picture in several class folders, so that at least one label is wrong.

    Attributes:
        paths: All copies of it, sorted.
        classes: Their classes, sorted.
        kind: "exact" for equal bytes, "near" for near duplicates.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A given training image that tells something about a given test image.

    Attributes:
        train: Path of the training image.
        test: Path of the test image.
        kind: "exact", "near", or "group" when they merely share a group.
    """

    train: str
    test: str
    kind: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The findings; every list is sorted and the same for the same index.

    Attributes:
        exact_duplicates: Paths of files with equal bytes, one tuple per content.
        near_duplicates: The most similar pairs, at most MAX_LISTED_PAIRS.
        near_duplicate_count: Number of all such pairs.
        class_conflicts: Pictures under more than one class.
        leakage: Given training images that are copies of given test images or share a group with them.
        groups: The group of every image: images that share one must not be separated by a split.
    """

    exact_duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[NearDuplicate, ...]
    near_duplicate_count: int
    class_conflicts: tuple[ClassConflict, ...]
    leakage: tuple[Leak, ...]
    groups: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The report as audit.json holds it; groups of one image are left out."""
        members: dict[str, list[str]] = defaultdict(list)
        for path, group in self.groups.items():
            members[group].append(path)
        return {
            "images": len(self.groups),
            "near_duplicate_rule": {"max_hash_distance": MAX_DISTANCE, "min_correlation": MIN_CORRELATION},
            "counts": {
                "exact_duplicate_sets": len(self.exact_duplicates),
                "exact_duplicate_files": sum(map(len, self.exact_duplicates)),
                "near_duplicate_pairs": self.near_duplicate_count,
                "class_conflicts": len(self.class_conflicts),
                "leaking_training_images": len(self.leakage),
                "groups": len(members),
                "largest_group": max(map(len, members.values()), default=0),
            },
            "exact_duplicates": [list(paths) for paths in self.exact_duplicates],
            "near_duplicates": [asdict(pair) for pair in self.near_duplicates],
            "class_conflicts": [asdict(conflict) for conflict in self.class_conflicts],
            "leakage": [asdict(leak) for leak in self.leakage],
            "groups": {group: paths for group, paths in sorted(members.items()) if len(paths) > 1},
        }

    def save(self, path: Path) -> None:
        """Writes audit.json, replacing an older one in one step."""
        replace_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path, index: DatasetIndex) -> AuditReport:
        """What `save` wrote for this index; an image that was in no group is in one of its own path."""
        document = json.loads(path.read_text(encoding="utf-8"))
        groups = {record.path: record.path for record in index.records}
        for group, members in document["groups"].items():
            groups |= dict.fromkeys(members, group)
        return cls(
            exact_duplicates=tuple(map(tuple, document["exact_duplicates"])),
            near_duplicates=tuple(NearDuplicate(**pair) for pair in document["near_duplicates"]),
            near_duplicate_count=document["counts"]["near_duplicate_pairs"],
            class_conflicts=tuple(
                ClassConflict(tuple(entry["paths"]), tuple(entry["classes"]), entry["kind"])
                for entry in document["class_conflicts"]
            ),
            leakage=tuple(Leak(**leak) for leak in document["leakage"]),
            groups=groups,
        )


def audit_dataset(index: DatasetIndex, *, reporter: Reporter) -> AuditReport:
    """Looks for copies, near copies, contradicting classes and leakage between given splits.

    Near duplicates are pairs whose perceptual hashes, as they are or with one image mirrored, differ in at
    most MAX_DISTANCE of 64 bits and whose thumbnails correlate by at least MIN_CORRELATION. Groups join exact
    copies, near duplicates, and what groups.csv says.
    """
    records = index.records
    copies = _copies(records)
    firsts = [members[0] for members in copies]
    near = find_near_duplicates(index.root, [records[i] for i in firsts], reporter=reporter)
    groups = _group(records, copies, firsts, near)
    return AuditReport(
        exact_duplicates=tuple(
            tuple(records[i].path for i in members) for members in copies if len(members) > 1
        ),
        near_duplicates=_listed(records, firsts, near),
        near_duplicate_count=len(near.left),
        class_conflicts=_conflicts(records, copies, near),
        leakage=_leakage(records, copies, near, groups),
        groups={record.path: group for record, group in zip(records, groups, strict=True)},
    )


def _copies(records: tuple[ImageRecord, ...]) -> list[list[int]]:
    """Positions of the records by content, in the order of each content's first record."""
    by_content: dict[str, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        by_content[record.sha256].append(position)
    return list(by_content.values())


def _group(
    records: tuple[ImageRecord, ...], copies: list[list[int]], firsts: list[int], near: NearPairs
) -> list[str]:
    """A group name per record: connected components, numbered in the order of their first record."""
    parent = list(range(len(records)))

    def root_of(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(a: int, b: int) -> None:
        low, high = sorted((root_of(a), root_of(b)))
        parent[high] = low

    for members in copies:
        for other in members[1:]:
            join(members[0], other)
    for left, right in zip(near.left.tolist(), near.right.tolist(), strict=True):
        join(firsts[left], firsts[right])
    known: dict[str, int] = {}
    for position, record in enumerate(records):
        if record.group:
            join(known.setdefault(record.group, position), position)
    numbers: dict[int, int] = {}
    return [f"g{numbers.setdefault(root_of(position), len(numbers)):06d}" for position in range(len(records))]


def _listed(
    records: tuple[ImageRecord, ...], firsts: list[int], near: NearPairs
) -> tuple[NearDuplicate, ...]:
    pairs = [
        NearDuplicate(
            records[firsts[int(near.left[n])]].path,
            records[firsts[int(near.right[n])]].path,
            int(near.distance[n]),
            round(float(near.correlation[n]), 5),
            bool(near.mirrored[n]),
        )
        for n in near.most_similar(MAX_LISTED_PAIRS)
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.correlation, pair.left, pair.right)))


def _conflicts(
    records: tuple[ImageRecord, ...], copies: list[list[int]], near: NearPairs
) -> tuple[ClassConflict, ...]:
    conflicts: list[ClassConflict] = []

    def note(members: Iterable[int], kind: str) -> None:
        paths, classes = set(), set()
        for position in members:
            paths.add(records[position].path)
            classes.add(records[position].class_id)
        if len(classes) > 1:
            conflicts.append(ClassConflict(tuple(sorted(paths)), tuple(sorted(classes)), kind))

    for members in copies:
        note(members, "exact")
    for left, right in zip(near.left.tolist(), near.right.tolist(), strict=True):
        note([*copies[left], *copies[right]], "near")
    return tuple(sorted(conflicts, key=lambda conflict: (conflict.kind, conflict.paths)))


def _leakage(
    records: tuple[ImageRecord, ...], copies: list[list[int]], near: NearPairs, groups: list[str]
) -> tuple[Leak, ...]:
    """One entry per leaking training image, naming its closest reason."""

    def first_test(members: Iterable[int]) -> int | None:
        return next((i for i in members if records[i].given_split == "test"), None)

    leaks: dict[int, tuple[int, str]] = {}

    def note(members: Iterable[int], test: int | None, kind: str) -> None:
        for position in members:
            if test is not None and records[position].given_split == "train":
                leaks.setdefault(position, (test, kind))

    for members in copies:
        note(members, first_test(members), "exact")
    for left, right in zip(near.left.tolist(), near.right.tolist(), strict=True):
        note(copies[left], first_test(copies[right]), "near")
        note(copies[right], first_test(copies[left]), "near")
    members_of: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members_of[group].append(position)
    for members in members_of.values():
        note(members, first_test(members), "group")
    return tuple(Leak(records[i].path, records[test].path, kind) for i, (test, kind) in sorted(leaks.items()))
