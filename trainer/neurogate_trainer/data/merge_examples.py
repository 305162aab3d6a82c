"""New examples are merged into a data set that is split already; its test split stays sealed.

The splits of the data set stay as they are. Each example goes where the images are that it belongs to: near
duplicates and members of its group. What belongs to a test image is left out, with everything that belongs to
it in turn; so is what is known already, what contradicts a label, and what would tie a training image to a
validation image. Those that belong to nothing known are drawn into training and validation, in whole groups,
and on the same side by every retraining: what a version has learned from validates none that starts from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from neurogate_trainer.progress import Reporter

from .audit import MAX_LISTED_PAIRS, AuditReport, NearDuplicate
from .examples import Dropped, ExamplesError
from .index import DatasetIndex, ImageRecord
from .near_duplicates import find_near_duplicates
from .splits import Splits

COPY: Final = "exact copy"
NEAR: Final = "near copy"
_DRAWN: Final = ("train", "validation")


@dataclass(frozen=True, slots=True)
class MergedData:
    """A data set with examples, as a training run takes it.

    Attributes:
        index: All images; the examples' paths are absolute.
        audit: The data set's audit, with the examples' near duplicates and groups.
        splits: The same test split as before; the others have grown. `dropped` names every example that was
            left out, and why.
        added: The examples that are in a split.
        left_out: Those that are not, each with the reason.
    """

    index: DatasetIndex
    audit: AuditReport
    splits: Splits
    added: tuple[ImageRecord, ...]
    left_out: Dropped


def merge_examples(
    base: tuple[DatasetIndex, AuditReport, Splits],
    examples: Sequence[ImageRecord],
    unusable: Dropped = (),
    *,
    fractions: tuple[float, float, float],
    reporter: Reporter,
) -> MergedData:
    """Merges examples into a data set.

    `base` is index, audit and splits of the data set. `examples` are usable, with distinct contents, sorted
    by path; `unusable` are those that could not be read, for the record. The first two of `fractions` divide
    what is new.

    Raises:
        ExamplesError: There are examples, but none can be used.
    """
    index, audit, splits = base
    links, pairs = _find_links(index, examples, reporter)
    merge = _Merge(base, examples, links)
    merge.drop_known()
    merge.drop_sealed()
    merge.drop_contradictions()
    sides = merge.sides()
    refused = tuple((e, merge.reasons[e.path]) for e in examples if e.path in merge.reasons)
    left_out = (*unusable, *refused)
    _warn(left_out, reporter)
    added = tuple(e for e in examples if e.path not in merge.reasons)
    if left_out and not added:
        raise ExamplesError(
            f"none of the {len(examples) + len(unusable)} examples can be used; the first: {left_out[0][1]}"
        )
    new = [e for e in added if sides[e.path] == ""]
    drawn = _draw(new, merge.groups, validation=fractions[1] / sum(fractions[:2]))
    parts = [[e for e in added if (sides[e.path] or drawn[e.path]) == side] for side in _DRAWN]
    return MergedData(
        index=dataclasses.replace(index, records=_sorted((*index.records, *examples))),
        audit=dataclasses.replace(
            audit,
            near_duplicates=(*audit.near_duplicates, *pairs)[:MAX_LISTED_PAIRS],
            near_duplicate_count=audit.near_duplicate_count + len(pairs),
            groups=merge.groups,
        ),
        splits=dataclasses.replace(
            splits,
            train=_sorted((*splits.train, *parts[0])),
            validation=_sorted((*splits.validation, *parts[1])),
            # What could not be read is in no index, so splits.json cannot name it; examples.json does.
            dropped=(*splits.dropped, *refused),
        ),
        added=added,
        left_out=left_out,
    )


@dataclass(slots=True)
class _Links:
    """What shows an example's picture: positions in the data set and among the examples, and how."""

    base: dict[int, str] = field(default_factory=dict)
    examples: dict[int, str] = field(default_factory=dict)


def _find_links(
    index: DatasetIndex, examples: Sequence[ImageRecord], reporter: Reporter
) -> tuple[list[_Links], list[NearDuplicate]]:
    records = (*index.records, *examples)
    offset = len(index.records)
    links = [_Links() for _ in examples]
    contents: dict[str, list[int]] = defaultdict(list)
    for position, record in enumerate(index.records):
        contents[record.sha256].append(position)
    for one, example in zip(links, examples, strict=True):
        one.base |= dict.fromkeys(contents.get(example.sha256, ()), COPY)
    near = find_near_duplicates(index.root, records, since=offset, reporter=reporter)
    for left, right in zip(near.left.tolist(), near.right.tolist(), strict=True):
        one = links[right - offset]
        if left < offset:
            one.base.setdefault(left, NEAR)
        else:
            one.examples[left - offset] = NEAR
            links[left - offset].examples[right - offset] = NEAR
    pairs = [
        NearDuplicate(
            records[int(near.left[n])].path,
            records[int(near.right[n])].path,
            int(near.distance[n]),
            round(float(near.correlation[n]), 5),
            bool(near.mirrored[n]),
        )
        for n in near.most_similar(len(near.left))
    ]
    return links, pairs


class _Merge:
    """The steps of a merge; `reasons` grows with them, `groups` is complete after `sides`."""

    def __init__(
        self,
        base: tuple[DatasetIndex, AuditReport, Splits],
        examples: Sequence[ImageRecord],
        links: list[_Links],
    ) -> None:
        index, audit, splits = base
        self._base = index.records
        self._examples = examples
        self._links = links
        self._group_of = audit.groups
        self._contradicted = {path for conflict in audit.class_conflicts for path in conflict.paths}
        self._side_of_group = {
            audit.groups[r.path]: name for name, records in splits.parts().items() for r in records
        }
        self._test_of_group = {audit.groups[r.path]: r.path for r in splits.test}
        # The audit has put all images of a given group into one of its own.
        self._known_groups = {r.group: audit.groups[r.path] for r in index.records if r.group}
        self._members: dict[str, list[int]] = defaultdict(list)
        for position, example in enumerate(examples):
            if example.group:
                self._members[example.group].append(position)
        self.reasons: dict[str, str] = {}
        self.groups: dict[str, str] = dict(audit.groups)

    def _left(self) -> Iterator[tuple[int, ImageRecord, _Links]]:
        for position, example in enumerate(self._examples):
            if example.path not in self.reasons:
                yield position, example, self._links[position]

    def drop_known(self) -> None:
        """Exact copies of what the data set has; those of test images are for the next step to tell."""
        for _, example, links in self._left():
            for other, word in links.base.items():
                record = self._base[other]
                sealed = self._group_of[record.path] in self._test_of_group
                contradicted = record.class_id != example.class_id or record.path in self._contradicted
                if word == COPY and not sealed and not contradicted:
                    self.reasons.setdefault(example.path, f"known: {COPY} of {record.path}")

    def drop_sealed(self) -> None:
        """What belongs to a test image, directly or through other examples."""
        reached = [position for position, example, links in self._left() if self._seal(example, links)]
        spread: set[str] = set()
        while reached:
            position = reached.pop()
            sealed = self._examples[position]
            around = dict(self._links[position].examples)
            if sealed.group and sealed.group not in spread:
                spread.add(sealed.group)
                around |= dict.fromkeys(self._members[sealed.group], "same group as")
            for other, word in around.items():
                example = self._examples[other]
                if example.path not in self.reasons:
                    self.reasons[example.path] = f"sealed: {word} {sealed.path}, which is sealed itself"
                    reached.append(other)

    def _seal(self, example: ImageRecord, links: _Links) -> bool:
        test = self._test_of_group.get(self._known_groups.get(example.group, ""))
        if test is not None:
            self.reasons[example.path] = f"sealed: same group as the test image {test}"
        for other, word in links.base.items():
            path = self._base[other].path
            test = self._test_of_group.get(self._group_of[path])
            if test is not None:
                through = "" if path == test else f", which belongs to the test image {test}"
                self.reasons.setdefault(example.path, f"sealed: {word} of {path}{through}")
        return example.path in self.reasons

    def drop_contradictions(self) -> None:
        """Pictures that have another class in the data set, whose label stays, or among the examples."""
        found: dict[str, str] = {}
        for _, example, links in self._left():
            for other, word in links.base.items():
                record = self._base[other]
                if record.class_id != example.class_id:
                    found.setdefault(example.path, f"{word} of {record.path}, a {record.class_id}")
                elif record.path in self._contradicted:
                    found.setdefault(example.path, f"{word} of {record.path}, which has other labels too")
            for other, word in links.examples.items():
                rival = self._examples[other]
                if rival.class_id != example.class_id:
                    found.setdefault(example.path, f"{word} of {rival.path}, given as {rival.class_id}")
        self.reasons |= {path: f"label conflict: {words}" for path, words in found.items()}

    def sides(self) -> dict[str, str]:
        """Where every example that is left belongs: "train", "validation", or "" where it may be drawn.

        One that belongs to both is left out; the next may then still merge.
        """
        parent: dict[str, str] = {}
        side = dict(self._side_of_group)

        def root_of(name: str) -> str:
            while (above := parent.get(name, name)) != name:
                name = above
            return name

        own: dict[int, str] = {}
        for position, example, links in self._left():
            roots = {root_of(self._group_of[self._base[other].path]) for other in links.base}
            roots |= {root_of(own[other]) for other in links.examples if other in own}
            if example.group:
                roots.add(root_of(self._known_groups.get(example.group, f"group {example.group}")))
            if len({side[root] for root in roots if root in side}) > 1:
                self.reasons[example.path] = (
                    "between the splits: belongs to training and to validation images"
                )
                continue
            own[position] = min(roots, default=f"example {example.sha256}")
            for root in roots:
                parent[root] = own[position]
                if root in side:
                    side[own[position]] = side[root]
        self.groups = {path: root_of(group) for path, group in self._group_of.items()}
        found = {}
        for position, example in enumerate(self._examples):
            self.groups[example.path] = root_of(own.get(position, f"left out {example.sha256}"))
            found[example.path] = side.get(self.groups[example.path], "")
        return found


def _draw(new: Sequence[ImageRecord], groups: dict[str, str], *, validation: float) -> dict[str, str]:
    """A side for every image, by what its group is and not by what else there is."""
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in new:
        members[groups[record.path]].append(record)
    sides: dict[str, str] = {}
    for records in members.values():
        # A given group, as a patient's, keeps its name when images join it.
        name = min((r.group for r in records if r.group), default=min(r.sha256 for r in records))
        drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
        sides |= dict.fromkeys((r.path for r in records), _DRAWN[drawn < validation])
    return sides


def _warn(left_out: Dropped, reporter: Reporter) -> None:
    """One line a kind of reason; there may be thousands of examples."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for record, reason in left_out:
        kinds[reason.partition(":")[0]].append(f"{record.path} ({record.class_id}){reason.partition(':')[2]}")
    for kind, entries in kinds.items():
        reporter.message(f"left out as {kind}: {len(entries)} examples, e.g. {entries[0]}", level="warning")


def _sorted(records: Sequence[ImageRecord]) -> tuple[ImageRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.path))
