"""Labelled images beside a data set, as a retraining is given them: one JSON document that lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import Reporter

from .index import ImageRecord, index_images
from .layout import ImageFile

EXAMPLES_REVISION: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Dropped = tuple[tuple[ImageRecord, str], ...]


class ExamplesError(TrainerError, ValueError):
    """The examples cannot be learnt from; the message says why."""


@dataclass(frozen=True, slots=True)
class OfferedExample:
    """One labelled image.

    Attributes:
        path: Absolute path of the file.
        class_id: Its class.
        sha256: Hex digest of the file's bytes.
        group: What it shares with others, e.g. a patient; "" where nothing is known.
    """

    path: str
    class_id: str
    sha256: str
    group: str


def read_examples(document: Path, classes: Sequence[str]) -> tuple[OfferedExample, ...]:
    """The examples that a document lists.

    It is JSON: {"revision": 1, "examples": [{"path", "class", "sha256", "group"}, …]}. Paths are absolute or
    relative to the document's folder; "group" may be left out.

    Raises:
        ExamplesError: No such document, or an example of a class that the data set does not have.
    """
    try:
        content = json.loads(document.read_text(encoding="utf-8"))
        if content["revision"] != EXAMPLES_REVISION:
            raise ExamplesError(
                f"{document} has revision {content['revision']}, expected {EXAMPLES_REVISION}"
            )
        folder = document.absolute().parent
        examples = tuple(_example(entry, folder) for entry in content["examples"])
    except OSError as error:
        raise ExamplesError(f"{document} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ExamplesError):
            raise
        raise ExamplesError(f"{document} lists no examples ({type(error).__name__}: {error})") from error
    if unknown := sorted({example.class_id for example in examples} - set(classes)):
        raise ExamplesError(
            f"{document} has examples of {', '.join(unknown)}, but the data set has the classes "
            f"{', '.join(classes)}"
        )
    return examples


def _example(entry: dict[str, Any], folder: Path) -> OfferedExample:
    values = entry["path"], entry["class"], entry["sha256"], entry.get("group", "")
    if not all(isinstance(value, str) for value in values):
        raise ExamplesError(f"{entry} has values that are no text")
    path, class_id, sha256, group = values
    if not _DIGEST.fullmatch(sha256):
        raise ExamplesError(f"{path} has the digest {sha256!r}, expected 64 hexadecimal digits")
    return OfferedExample(str(folder / path), class_id, sha256, group)


def index_examples(
    offered: Sequence[OfferedExample], *, reporter: Reporter
) -> tuple[tuple[ImageRecord, ...], Dropped]:
    """Reads every example once.

    Returns:
        The usable ones, sorted by path, and the others with the reason: a file that is gone, damaged or not
        the one whose digest was given, a repetition, or one picture under several classes.
    """
    by_content: dict[str, list[OfferedExample]] = {}
    for example in sorted(offered, key=lambda example: example.path):
        by_content.setdefault(example.sha256, []).append(example)
    classes = {sha256: sorted({e.class_id for e in same}) for sha256, same in by_content.items()}
    dropped = [
        (_unread(e), f"label conflict: given as {' and as '.join(classes[sha256])}")
        for sha256, same in by_content.items()
        for e in same
        if len(classes[sha256]) > 1
    ] + [
        (_unread(e), "given more than once")
        for sha256, same in by_content.items()
        for e in same[1:]
        if len(classes[sha256]) == 1
    ]
    single = {same[0].path: same[0] for sha256, same in by_content.items() if len(classes[sha256]) == 1}
    files = [ImageFile(example.path, example.class_id, "") for example in single.values()]
    groups = {example.path: example.group for example in single.values()}
    found, unreadable = index_images(Path("/"), files, groups, reporter=reporter)
    dropped += [(_unread(single[entry.path]), f"unreadable: {entry.reason}") for entry in unreadable]
    usable = []
    for record in found:
        if record.sha256 == single[record.path].sha256:
            usable.append(record)
        else:
            dropped.append((record, "unreadable: its bytes do not have the digest that was given"))
    return tuple(usable), tuple(dropped)


def count_by_class(records: Iterable[ImageRecord], classes: Sequence[str]) -> dict[str, int]:
    """Number of images of every class, in class order."""
    counted = Counter(record.class_id for record in records)
    return {class_id: counted[class_id] for class_id in classes}


def _unread(example: OfferedExample) -> ImageRecord:
    return ImageRecord(example.path, example.class_id, example.sha256, 0, 0, 0, "", 0.0, "", example.group)
