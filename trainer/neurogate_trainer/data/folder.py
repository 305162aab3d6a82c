"""Any folder of class folders as a data set: looked at once, with everything that is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from neurogate_trainer.progress import Reporter

from .audit import AuditReport, audit_dataset
from .groups import GROUPS_FILE
from .index import DatasetIndex, ImageRecord, build_index
from .layout import alike, find_images, given_split_of, listed, shown, turned_round
from .splits import assert_disjoint, split_dataset

FEW_IMAGES = 50
"""Classes with fewer images than this are pointed out."""

IMBALANCE = 5.0
"""So are data sets whose largest class is this many times as large as the smallest."""

BRIGHTNESS_RATIO = 2.0
"""So are classes that are this many times as bright as the others, or as dark."""


@dataclass(frozen=True, slots=True)
class Import:
    """What `import_folder` found.

    Attributes:
        index: The index, saved as index.sqlite.
        audit: The audit, saved as audit.json.
        problems: One sentence per thing that its owner should know, most serious first.
        refusal: Why training would refuse the data set; empty where it would not.
    """

    index: DatasetIndex
    audit: AuditReport
    problems: tuple[str, ...]
    refusal: str


def import_folder(folder: Path, out: Path, *, reporter: Reporter) -> Import:
    """Indexes and audits a folder; writes index.sqlite and audit.json into `out` and leaves the images alone.

    Raises:
        DatasetError: The folder is no data set; the message shows what was found and what was expected.
        OSError: `out` cannot be written.
    """
    # Before the long work, so that a wrong folder, or one that cannot be written, is known at once.
    find_images(folder)
    out.mkdir(parents=True, exist_ok=True)
    index = build_index(folder, reporter=reporter)
    audit = audit_dataset(index, reporter=reporter)
    index.save(out / "index.sqlite")
    audit.save(out / "audit.json")
    problems = tuple(find_problems(index, audit))
    return Import(index, audit, problems, _refusal(index, audit))


def _refusal(index: DatasetIndex, audit: AuditReport) -> str:
    try:
        assert_disjoint(split_dataset(index, audit), audit)
    except ValueError as error:
        return str(error)
    return ""


def find_problems(index: DatasetIndex, audit: AuditReport) -> list[str]:
    """What is wrong or doubtful, in sentences, most serious first."""
    problems = doubtful_classes(index)
    if audit.class_conflicts:
        problems.append(
            f"{len(audit.class_conflicts)} pictures lie under more than one class, e.g. "
            f"{' = '.join(map(shown, audit.class_conflicts[0].paths[:2]))}; training leaves them out."
        )
    if audit.leakage:
        leak = audit.leakage[0]
        problems.append(
            f"{len(audit.leakage)} given training images match given test images, e.g. {shown(leak.train)} = "
            f"{shown(leak.test)}; training keeps them apart."
        )
    if index.unreadable:
        example = index.unreadable[0]
        problems.append(
            f"{len(index.unreadable)} files are not usable, e.g. {shown(example.path)}: {example.reason}."
        )
    spare = sum(len(paths) - 1 for paths in audit.exact_duplicates)
    if spare:
        problems.append(f"{spare} files are exact copies of others; training uses one of each.")
    if audit.near_duplicate_count:
        problems.append(
            f"{audit.near_duplicate_count} pairs of images show the same picture in different files; they "
            "stay in one split."
        )
    counts = index.counts()
    few = [f"{class_id} ({count})" for class_id, count in counts.items() if count < FEW_IMAGES]
    if few:
        problems.append(f"Few images of {', '.join(few)}: figures for them will be rough.")
    if max(counts.values()) >= IMBALANCE * min(counts.values()):
        problems.append(
            f"The largest class has {max(counts.values())} images, the smallest {min(counts.values())}; "
            "training weighs the classes."
        )
    problems += _doubts(index)
    return problems


def doubtful_classes(index: DatasetIndex) -> list[str]:
    """What a model may learn that nobody meant: spelling, layout, depth or brightness instead of classes."""
    doubts = [
        f"{' and '.join(map(repr, names))} are classes of their own; if they are one class, give their "
        "folders one name."
        for names in alike(index.classes)
    ]
    if sentence := turned_round(index.records):
        doubts.append(f"{sentence}.")
    inside = {
        f"{record.class_id}/{part}"
        for record in index.records
        for part in record.path.split("/")[1 + bool(record.given_split) : -1]
        if given_split_of(part)
    }
    if inside:
        doubts.append(
            f"Folders inside of class folders are named as splits ({listed(sorted(inside))}); they are not "
            "used as such. Turn them round: ROOT/Training/<class>/ and ROOT/Testing/<class>/."
        )
    by_class: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in index.records:
        by_class[record.class_id].append(record)
    deep = {
        class_id: sum(record.mode.startswith(("I", "F")) for record in records) / len(records)
        for class_id, records in by_class.items()
    }
    if max(deep.values()) - min(deep.values()) > 0.5:
        shown = ", ".join(f"{class_id} {share:.0%}" for class_id, share in deep.items())
        doubts.append(
            f"Images deeper than 8 bits are not in all classes alike ({shown}): a model may learn the depth."
        )
    bright = {class_id: median(r.brightness for r in records) for class_id, records in by_class.items()}
    for class_id, value in bright.items():
        others = median(other for name, other in bright.items() if name != class_id)
        if max(value, others) > BRIGHTNESS_RATIO * min(value, others):
            doubts.append(
                f"Images of {class_id} have a median brightness of {value:.0f}, the other classes "
                f"{others:.0f} (of 255): a model may learn the brightness."
            )
    return doubts


def _doubts(index: DatasetIndex) -> list[str]:
    doubts = []
    nested = Counter(record.path.count("/") - (1 if record.given_split else 0) for record in index.records)
    grouped = any(record.group for record in index.records)
    if not grouped and any(depth > 1 for depth in nested):
        doubts.append(
            f"Images lie in sub-folders of the class folders. If these are patients, say so in {GROUPS_FILE} "
            "(columns path, group); otherwise one patient may be in several splits."
        )
    elif not grouped:
        doubts.append(
            f"Nothing says which images are of one patient. If you know it, write {GROUPS_FILE} (columns "
            "path, group)."
        )
    splits = {record.given_split for record in index.records}
    if splits in ({"train"}, {"test"}):
        doubts.append(
            f"There is a given {'training' if splits == {'train'} else 'test'} folder but no other."
        )
    return doubts
