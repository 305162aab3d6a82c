"""What the names of folders tell: splits, leftovers of operating systems, and what is probably meant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Protocol

_SPLITS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "valset": "train",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "holdout": "test",
}
_IGNORED: Final = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "@eadir", "lost+found",
    "system volume information",
}  # fmt: skip
"""What operating systems leave in folders, in lower case; whatever is hidden does not count either."""
_SHOWN: Final = 8


class Placed(Protocol):
    """An image in its class folder."""

    @property
    def path(self) -> str:
        """Relative to the root of the data set."""

    @property
    def class_id(self) -> str:
        """Its class."""

    @property
    def given_split(self) -> str:
        """Its given split, or nothing."""


def given_split_of(folder_name: str) -> str:
    """The split that a folder name spells ("train", "test"), or "" when it spells none.

    A given validation folder counts as training data: Neurogate draws its own validation split.
    """
    word = re.sub(r"[^a-z]", "", folder_name.casefold())
    return _SPLITS.get(word) or _SPLITS.get(word.removesuffix("data").removesuffix("images"), "")


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system."""
    return name.startswith(".") or name.casefold() in _IGNORED


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in nothing but spelling, e.g. ("no_tumor", "notumor"), each such set sorted."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        word = re.sub(r"[\W_]", "", name.casefold()).replace("tumour", "tumor")
        spellings[word.removesuffix("s").removesuffix("tumor") or word].append(name)
    return [tuple(same) for same in spellings.values() if len(same) > 1]


def turned_round(files: Iterable[Placed]) -> str:
    """A sentence where the folders inside of the class folders look like the classes, else ""."""
    inner: dict[str, set[str]] = defaultdict(set)
    for file in files:
        parts = file.path.split("/")[1 + bool(file.given_split) :]
        inner[file.class_id].add(parts[0] if len(parts) > 1 else "")
    names = set().union(*inner.values())
    shared = set.intersection(*inner.values()) if inner else set()
    if "" in names or len(names) < 2 or not (len(names) < len(inner) or shared == names):
        return ""
    return (
        f"The class folders ({listed(sorted(inner))}) hold folders of the same names "
        f"({listed(sorted(names))}). If those are the classes, and the others e.g. patients, turn them "
        "round: ROOT/<class>/<patient>/*.jpg"
    )


def shown(name: str) -> str:
    """A path or name for one line of a message: control characters as escapes."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def listed(names: Iterable[str]) -> str:
    """Names for a message; of many only the first."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
