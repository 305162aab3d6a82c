"""Which folders of a data set are classes and which are given splits."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

EXPECTED = """expected one of
  ROOT/<class>/*.jpg                 one folder per class
  ROOT/Training/<class>/*.jpg        and ROOT/Testing/<class>/*.jpg, the same classes in both"""

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


class DatasetError(ValueError):
    """A folder is not a data set that can be used; the message shows what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file in a class folder: its path relative to the root, its class and its given split."""

    path: str
    class_id: str
    given_split: str


def given_split_of(folder_name: str) -> str:
    """The split that a folder name spells ("train", "test"), or "" when it spells none.

    A given validation folder counts as training data: Neurogate draws its own validation split.
    """
    word = re.sub(r"[^a-z]", "", folder_name.casefold())
    return _SPLITS.get(word) or _SPLITS.get(word.removesuffix("data").removesuffix("images"), "")


def find_images(root: Path) -> list[ImageFile]:
    """Every file below the class folders of `root`, sorted by path; hidden files and folders do not count.

    Raises:
        DatasetError: The folder is missing, empty, or of no known layout.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is {'not a folder' if root.exists() else 'missing'}; {EXPECTED}")
    folders = _subfolders(root)
    splits = {folder: given_split_of(folder.name) for folder in folders}
    split_folders = [folder for folder in folders if splits[folder]]
    files: list[ImageFile] = []
    if split_folders:
        strays = [folder.name for folder in folders if not splits[folder] and _has_files(folder)]
        if strays:
            raise DatasetError(
                f"{root} holds split folders ({_names(split_folders)}) and others beside them "
                f"({', '.join(strays)}); {EXPECTED}"
            )
        for folder in split_folders:
            for class_folder in _subfolders(folder):
                files += _files_of(root, class_folder, splits[folder])
    else:
        for folder in folders:
            files += _files_of(root, folder, "")
    _check(root, files, folders, split_folders)
    return sorted(files, key=lambda file: file.path)


def dataset_name(root: Path) -> str:
    """A name for people: what the phantom and kagglehub's cache are called, else the folder's own name."""
    if (root / "phantom.json").is_file():
        return f"phantom {root.name}"
    # kagglehub keeps a data set in datasets/OWNER/NAME/versions/N, where the folder's name says nothing.
    parts = root.parts
    if len(parts) > 5 and parts[-5] == "datasets" and parts[-2] == "versions":
        return f"{parts[-4]}/{parts[-3]} version {parts[-1]}"
    return root.name


def _check(root: Path, files: list[ImageFile], folders: list[Path], split_folders: list[Path]) -> None:
    if not files:
        loose = sum(1 for entry in root.iterdir() if entry.is_file() and not entry.name.startswith("."))
        found = f"{len(folders)} folders ({_names(folders)})" if folders else "no folders"
        raise DatasetError(
            f"{root} holds no images in class folders: found {found} and {loose} files; {EXPECTED}"
        )
    classes = sorted({file.class_id for file in files})
    odd = [name for name in classes if not name.isprintable()]
    if odd:
        raise DatasetError(f"{root} has a class folder with an unprintable name, {odd[0]!r}; rename it")
    inner = root / classes[0]
    if len(classes) == 1:
        hint = ""
        if not split_folders and any(given_split_of(folder.name) for folder in _subfolders(inner)):
            hint = f" Did you mean {inner}?"
        elif not split_folders and len(_subfolders(inner)) > 1:
            hint = f" If its sub-folders are the classes, give {inner} instead."
        raise DatasetError(f"{root} holds one class only ({classes[0]}), expected two or more.{hint}")
    if split_folders:
        spellings: dict[str, str] = {}
        for name in classes:
            other = spellings.setdefault(name.casefold(), name)
            if other != name:
                raise DatasetError(f"{root} spells one class in two ways, {other!r} and {name!r}; rename one")


def _files_of(root: Path, class_folder: Path, given_split: str) -> list[ImageFile]:
    files = []
    for folder, subfolders, names in os.walk(class_folder, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        base = Path(folder)
        files += [
            ImageFile((base / name).relative_to(root).as_posix(), class_folder.name, given_split)
            for name in names
            if not name.startswith(".")
        ]
    return files


def _refuse(error: OSError) -> None:
    # Left to itself, os.walk passes over folders that it cannot read.
    raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from error


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _has_files(folder: Path) -> bool:
    return any(names for _, _, names in os.walk(folder))


def _names(folders: list[Path]) -> str:
    shown = ", ".join(folder.name for folder in folders[:8])
    return shown + (f" and {len(folders) - 8} more" if len(folders) > 8 else "")
