"""Which folders of a data set are classes and given splits, what is in neither, and what names tell."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurogate_core.names import CLASS_ID_RULE, is_class_id

from neurogate_trainer.errors import TrainerError

if TYPE_CHECKING:
    from .index import ImageRecord

EXPECTED = """expected one of
  ROOT/<class>/*.jpg                 one folder per class
  ROOT/Training/<class>/*.jpg        and ROOT/Testing/<class>/*.jpg, the same classes in both"""

_PICTURES: Final = {
    ".bmp", ".dcm", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
}  # fmt: skip
_ARCHIVES: Final = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"}
_TABLES: Final = {".csv", ".json", ".tsv", ".xls", ".xlsx"}
_NO_CLASSES: Final = {
    "annotation", "annotations", "image", "images", "imgs", "label", "labels", "mask", "masks",
    "segmentation", "segmentations", "pred", "predict", "prediction", "predictions", "unlabeled",
    "unlabelled",
}  # fmt: skip
"""Folders of data sets for detection or segmentation, and of images without a class."""


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


class DatasetError(TrainerError, ValueError):
    """A folder is not a data set that can be used; the message shows what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file in a class folder: its path relative to the root, its class and its given split."""

    path: str
    class_id: str
    given_split: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not used, by its path relative to the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder holds: the files of its classes, sorted by path, and what lies elsewhere."""

    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    left_out: tuple[LeftOut, ...]


def find_images(root: Path) -> Layout:
    """Every file below the class folders of `root`; only names are looked at.

    What is hidden, or left behind by an operating system, does not count. Links to folders are followed, and
    no folder is read twice.

    Raises:
        DatasetError: The folder is missing, empty, of no known layout, or a class folder has a name that no
            class can have.
    """
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "is missing"
        if root.suffix.casefold() in _ARCHIVES and root.exists():
            found = "is an archive: unpack it, and give the folder"
        raise DatasetError(f"{root} {found}; {EXPECTED}")
    return _Finder(root).find()


def dataset_name(root: Path) -> str:
    """A name for people: what the phantom and kagglehub's cache are called, else the folder's own name."""
    if (root / "phantom.json").is_file():
        return f"phantom {root.name}"
    # kagglehub keeps a data set in datasets/OWNER/NAME/versions/N, where the folder's name says nothing.
    parts = root.parts
    if len(parts) > 5 and parts[-5] == "datasets" and parts[-2] == "versions":
        return f"{parts[-4]}/{parts[-3]} version {parts[-1]}"
    return root.name


def named_beside(path: Path, folder: Path) -> str:
    """What a path is called from a folder that lies beside it, e.g. "../data"; empty where it lies elsewhere.

    By that it is found again when both were moved with the folder that they lie in.
    """
    folder, path = folder.absolute(), path.expanduser().absolute()
    return f"../{path.name}" if path.parent == folder.parent and path.name else ""


def found_beside(path: Path, name: str, folder: Path) -> Path:
    """What `named_beside` has called so where that is there, else the path.

    In this order: both may have been moved, and something else be at the old place by now.
    """
    moved = folder.absolute().parent / Path(name).name
    # Path.exists raises where a name is too long or must not be looked at.
    return moved if name and os.path.exists(moved) else path  # noqa: PTH110


class _Finder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: list[ImageFile] = []
        self._left_out: list[LeftOut] = []
        self._seen: set[tuple[int, int]] = set()

    def find(self) -> Layout:
        folders = self._folders(self._root)
        split_folders = [folder for folder in folders if given_split_of(folder.name)]
        if split_folders:
            others = [folder for folder in folders if folder not in split_folders]
            strays = [
                folder.name
                for folder in others
                if not self._is_copy(folder, split_folders) and any(self._below(folder))
            ]
            if strays:
                raise DatasetError(
                    f"{self._root} holds split folders ({listed(each.name for each in split_folders)}) and "
                    f"others beside them ({listed(strays)}); {EXPECTED}"
                )
            places = [(folder, self._classes_of_split(folder)) for folder in split_folders]
        else:
            places = [(self._root, folders)]
        classes: set[str] = set()
        for parent, class_folders in places:
            split = given_split_of(parent.name) if split_folders else ""
            own = [folder for folder in class_folders if not self._is_copy(folder, class_folders)]
            classes.update(folder.name for folder in own)
            for folder in own:
                self._files += [ImageFile(path, folder.name, split) for path in self._below(folder)]
        self._check(sorted(classes), folders, bool(split_folders))
        self._files.sort(key=lambda file: file.path)
        return Layout(tuple(sorted(classes)), tuple(self._files), tuple(self._left_out))

    def _classes_of_split(self, split_folder: Path) -> list[Path]:
        folders = self._folders(split_folder)
        if inner := [folder for folder in folders if given_split_of(folder.name)]:
            raise DatasetError(
                f"{inner[0]} is a split folder inside of a split folder, as if the data set had been "
                f"unpacked one folder too deep; move its class folders up; {EXPECTED}"
            )
        return folders

    def _folders(self, parent: Path) -> list[Path]:
        """The folders in a folder of folders; images that lie beside them have no class."""
        folders = []
        for path in self._entries(parent):
            if _is_folder(path):
                folders.append(path)
            elif path.suffix.casefold() in _PICTURES:
                self._leave_out(path, "it lies in no class folder")
        return folders

    def _is_copy(self, folder: Path, siblings: Sequence[Path]) -> bool:
        """Whether a folder holds nothing but copies of the folders beside it; its files are left out then.

        Raises:
            DatasetError: It holds folders that are named as those beside it, and other files in them.
        """
        names = {path.name for path in siblings if path != folder}
        inner = sorted(path.name for path in self._inside(folder))
        if len(inner) < 2 or not names.issuperset(inner):
            return False
        copies = list(self._below(folder))
        for path in copies:
            copy = self._root / path
            original = folder.parent / copy.relative_to(folder)
            if not original.is_file() or original.stat().st_size != copy.stat().st_size:
                raise DatasetError(
                    f"{folder} holds folders that are named as those beside it ({listed(inner)}), but other "
                    f"files ({shown(path)}): it looks like a second data set; move it away"
                )
        reason = f"{folder.name}/ is a copy of the folders beside it ({listed(inner)})"
        self._left_out += [LeftOut(path, reason) for path in copies]
        return True

    def _below(self, folder: Path) -> Iterator[str]:
        """Paths of all files below a folder."""
        for path in self._entries(folder):
            if _is_folder(path):
                yield from self._below(path)
            else:
                yield path.relative_to(self._root).as_posix()

    def _entries(self, folder: Path) -> list[Path]:
        try:
            status = folder.stat()
            key = (status.st_dev, status.st_ino)
            if key in self._seen:
                self._leave_out(folder, "a link to a folder that is read elsewhere")
                return []
            self._seen.add(key)
            with os.scandir(folder) as entries:
                return [
                    folder / name for name in sorted(each.name for each in entries) if not is_ignored(name)
                ]
        except OSError as error:
            raise DatasetError(f"{folder} cannot be read: {error.strerror}") from error

    def _leave_out(self, path: Path, reason: str) -> None:
        self._left_out.append(LeftOut(path.relative_to(self._root).as_posix(), reason))

    def _check(self, classes: list[str], folders: list[Path], has_splits: bool) -> None:
        if not self._files:
            found = f"{len(folders)} folders ({listed(f.name for f in folders)})" if folders else "no folders"
            raise DatasetError(
                f"{self._root} holds no images in class folders: found {found} and {self._loose()}; "
                f"{EXPECTED}"
            )
        if len(classes) == 1:
            inner, hint = self._root / classes[0], ""
            if not has_splits:
                while len(inside := self._inside(inner)) == 1:
                    inner = inside[0]
                if any(given_split_of(path.name) for path in inside):
                    hint = f" Did you mean {inner}?"
                elif len(inside) > 1:
                    hint = f" If its sub-folders are the classes, give {inner} instead."
                elif not (loose := self._loose()).startswith("0"):
                    hint = f" Beside it are {loose}."
            raise DatasetError(
                f"{self._root} holds one class only ({classes[0]}), expected two or more.{hint}"
            )
        if odd := [name for name in classes if name.casefold() in _NO_CLASSES]:
            raise DatasetError(
                f"{self._root} has folders that are no classes ({listed(odd)}): it looks like a data set for "
                f"detection or segmentation, or has images without a class; {EXPECTED}"
            )
        if odd := [name for name in classes if not is_class_id(name)]:
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", odd[0].strip()).lstrip("_.-")[:64].rstrip("_")
            beside = ", which is there too: is it one class?" if plain in classes else ""
            advice = f"; {odd[0]!r} could be {plain!r}{beside}" if plain else ""
            raise DatasetError(
                f"{self._root} has class folders with names that no class can have "
                f"({listed(repr(name) for name in odd)}): a class is named by {CLASS_ID_RULE}; "
                f"rename them{advice}"
            )
        counts = Counter(file.class_id for file in self._files)
        if linked := [entry for entry in self._left_out if entry.path in classes]:
            raise DatasetError(
                f"{self._root} has a class folder that is {linked[0].reason}: {linked[0].path}"
            )
        if empty := [name for name in classes if not counts[name]]:
            raise DatasetError(
                f"{self._root} has class folders without any file ({listed(empty)}); fill or remove them"
            )

    @staticmethod
    def _inside(folder: Path) -> list[Path]:
        return [path for path in folder.iterdir() if _is_folder(path) and not is_ignored(path.name)]

    def _loose(self) -> str:
        """What lies in the root beside the folders, and what could be done about it."""
        names = [path.name for path in self._root.iterdir() if path.is_file() and not is_ignored(path.name)]
        kinds = Counter(Path(name).suffix.casefold() or "no suffix" for name in sorted(names))
        shown = f"{len(names)} files"
        if kinds:
            shown += f" ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common(4))})"
        for name in sorted(names):
            if Path(name).suffix.casefold() in _ARCHIVES:
                return f"{shown}: unpack {name}, and give its folder"
            if Path(name).suffix.casefold() in _TABLES:
                return f"{shown}: if {name} says the classes, sort the images into a folder for each class"
        return shown


def _is_folder(path: Path) -> bool:
    # Path.is_dir raises where a path must not be looked at; as a file it is listed with the reason.
    return os.path.isdir(path)  # noqa: PTH112


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


def turned_round(files: Iterable[ImageFile | ImageRecord]) -> str:
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
