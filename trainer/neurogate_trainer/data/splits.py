"""Training, validation and test images: stratified by class, never separating what belongs together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from neurogate_core.files import replace_json

from neurogate_trainer.errors import TrainerError

from .audit import AuditReport
from .index import DatasetIndex, ImageRecord
from .layout import DatasetError

SPLITS_REVISION = 1
NAMES = ("train", "validation", "test")

Records = tuple[ImageRecord, ...]


class LeakageError(TrainerError, ValueError):
    """Images of one group, or with one content, lie in more than one split."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The three splits, each sorted by path, and the images that are in none.

    Attributes:
        train: What the weights are fitted to.
        validation: What decides early stopping, calibration and thresholds.
        test: What only the final figures are measured on.
        dropped: Images left out, each with the reason.
        seed: The seed that drew the splits.
    """

    train: Records
    validation: Records
    test: Records
    dropped: tuple[tuple[ImageRecord, str], ...]
    seed: int

    def parts(self) -> dict[str, Records]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def save(self, path: Path) -> None:
        """Writes splits.json, replacing an older one in one step."""
        document = {
            "revision": SPLITS_REVISION,
            "seed": self.seed,
            "digests": {name: _digest(records) for name, records in self.parts().items()},
            **{
                name: [{"path": r.path, "class": r.class_id, "sha256": r.sha256} for r in records]
                for name, records in self.parts().items()
            },
            "dropped": [
                {"path": r.path, "class": r.class_id, "sha256": r.sha256, "reason": reason}
                for r, reason in self.dropped
            ],
        }
        replace_json(path, document)

    @classmethod
    def load(cls, path: Path, index: DatasetIndex) -> Splits:
        """Reads saved splits of the data set that `index` describes.

        Raises:
            DatasetError: The file is missing or damaged, or the data set has changed since.
        """
        known = {record.path: record for record in index.records}

        def find(entry: dict[str, str]) -> ImageRecord:
            record = known.get(entry["path"])
            if record is None or (record.sha256, record.class_id) != (entry["sha256"], entry["class"]):
                state = "is gone" if record is None else "has changed"
                raise DatasetError(
                    f"{entry['path']} {state} since {path} was written; split the data set anew"
                )
            return record

        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if document["revision"] != SPLITS_REVISION:
                raise DatasetError(f"{path} has revision {document['revision']}, expected {SPLITS_REVISION}")
            train, validation, test = (tuple(map(find, document[name])) for name in NAMES)
            dropped = tuple((find(entry), str(entry["reason"])) for entry in document["dropped"])
            splits = cls(train, validation, test, dropped, int(document["seed"]))
            changed = [
                n for n, records in splits.parts().items() if document["digests"][n] != _digest(records)
            ]
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path} holds no splits ({type(error).__name__}: {error})") from error
        if changed:
            raise DatasetError(
                f"{path} was edited: the digest of {', '.join(changed)} does not fit its images"
            )
        return splits


def split_dataset(
    index: DatasetIndex,
    audit: AuditReport,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    keep_given_test: bool = False,
) -> Splits:
    """Draws the splits; the same index, audit and settings give the same splits.

    Pictures under more than one class are left out, and of exact copies one is kept. Whole groups of the
    audit go to one split each, so that every class comes as near to the fractions as the groups allow.

    Args:
        index: The data set.
        audit: Its audit, which knows the groups.
        seed: Any number from 0 on.
        fractions: Shares of training, validation and test; each above 0, together 1.
        keep_given_test: The given test images are the test split, and the rest is divided in the proportion
            of the first two fractions. Training images that share a group with a test image are left out.

    Raises:
        DatasetError: No given test split to keep, or a class that cannot be in every split.
        ValueError: Impossible fractions.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"the fractions are {fractions}, expected three numbers above 0 that add up to 1")
    given_test = {r.path for r in index.records if keep_given_test and r.given_split == "test"}
    if keep_given_test and not given_test:
        raise DatasetError(
            f"{index.root} has no given test split to keep; expected a folder Testing/<class>/"
        )
    dropped = _contradicted(audit)
    if given_test:
        for leak in audit.leakage:
            dropped.setdefault(leak.train, f"leakage: {leak.kind} match of the test image {leak.test}")
    for path, original in _spare_copies(index.records, dropped, given_test):
        dropped[path] = f"exact copy of {original}"
    kept = [record for record in index.records if record.path not in dropped]
    test = [record for record in kept if record.path in given_test]
    pool = [record for record in kept if record.path not in given_test]
    shares = fractions[:2] if keep_given_test else fractions
    parts = _draw_groups(pool, audit.groups, index.classes, [share / sum(shares) for share in shares], seed)
    if keep_given_test:
        parts.append(test)
    _check_classes(index, parts)
    train, validation, test_part = (tuple(part) for part in parts)
    left_out = tuple((record, dropped[record.path]) for record in index.records if record.path in dropped)
    return Splits(train, validation, test_part, left_out, seed)


def assert_disjoint(splits: Splits, audit: AuditReport) -> None:
    """Makes sure that no group of the audit, and no content, is in more than one split.

    Raises:
        LeakageError: It is; the message counts the cases and names one.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    clashes: list[str] = []
    for name, records in splits.parts().items():
        for record in records:
            group = audit.groups.get(record.path, record.path)
            for key in (("group", group), ("content", record.sha256)):
                other_split, other_path = seen.setdefault(key, (name, record.path))
                if other_split != name:
                    clashes.append(
                        f"{other_path} ({other_split}) and {record.path} ({name}) share a {key[0]}"
                    )
    if clashes:
        raise LeakageError(f"the splits overlap in {len(clashes)} places, e.g. {clashes[0]}")


def _digest(records: Iterable[ImageRecord]) -> str:
    lines = "".join(f"{record.class_id} {record.sha256} {record.path}\n" for record in records)
    return hashlib.sha256(lines.encode()).hexdigest()


def _contradicted(audit: AuditReport) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for conflict in audit.class_conflicts:
        for path in conflict.paths:
            reasons.setdefault(path, f"class conflict: the same picture is {' and '.join(conflict.classes)}")
    return reasons


def _spare_copies(
    records: Sequence[ImageRecord], dropped: dict[str, str], given_test: set[str]
) -> list[tuple[str, str]]:
    """Exact copies to leave out, each with the one that stays; a given test image stays before others."""
    first: dict[str, str] = {}
    spare = []
    for record in sorted(records, key=lambda record: (record.path not in given_test, record.path)):
        if record.path in dropped:
            continue
        original = first.setdefault(record.sha256, record.path)
        if original != record.path:
            spare.append((record.path, original))
    return spare


def _draw_groups(
    pool: Sequence[ImageRecord],
    groups: dict[str, str],
    classes: Sequence[str],
    shares: Sequence[float],
    seed: int,
) -> list[list[ImageRecord]]:
    """Whole groups to parts: the largest first, each to where it brings the counts nearest to the targets."""
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in pool:
        members[groups[record.path]].append(record)
    column = {class_id: n for n, class_id in enumerate(classes)}
    names = sorted(members, key=lambda name: members[name][0].path)
    counts: npt.NDArray[np.float64] = np.zeros((len(names), len(classes)))
    for row, name in enumerate(names):
        for record in members[name]:
            counts[row, column[record.class_id]] += 1
    targets = np.outer(shares, counts.sum(axis=0))
    filled = np.zeros_like(targets)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    part_of = np.zeros(len(names), np.int64)
    weights = 1 / np.maximum(targets, 1e-9)
    for row in order:
        group = counts[row]
        growth = ((2 * group * (filled - targets) + group**2) * weights)[:, group > 0].sum(axis=1)
        chosen = int(np.argmin(growth))
        filled[chosen] += group
        part_of[row] = chosen
    _give_every_part_every_class(counts, part_of, len(shares))
    parts: list[list[ImageRecord]] = [[] for _ in shares]
    for row, name in enumerate(names):
        parts[part_of[row]] += members[name]
    return [sorted(part, key=lambda record: record.path) for part in parts]


def _give_every_part_every_class(
    counts: npt.NDArray[np.float64], part_of: npt.NDArray[np.int64], parts: int
) -> None:
    """Moves small groups into parts that lack a class, where no other part loses one by it.

    `counts` is [groups, classes]; `part_of`, int64 [groups], is changed in place.
    """
    by_size = np.argsort(counts.sum(axis=1), kind="stable")
    for part in range(parts):
        for column in range(counts.shape[1]):
            if counts[part_of == part, column].any():
                continue
            for row in by_size[counts[by_size, column] > 0]:
                left = (counts[part_of == part_of[row]] > 0).sum(axis=0) - (counts[row] > 0)
                if left[counts[row] > 0].all():
                    part_of[row] = part
                    break


def _check_classes(index: DatasetIndex, parts: Sequence[Sequence[ImageRecord]]) -> None:
    for name, part in zip(NAMES, parts, strict=True):
        counts = Counter(record.class_id for record in part)
        missing = [class_id for class_id in index.classes if not counts[class_id]]
        if missing:
            table = "; ".join(
                f"{other}: "
                + ", ".join(f"{c} {Counter(r.class_id for r in records)[c]}" for c in index.classes)
                for other, records in zip(NAMES, parts, strict=True)
            )
            raise DatasetError(
                f"the {name} split has no image of {', '.join(missing)} ({table}); it needs more images, "
                "or more groups: all images of one group go to one split"
            )
