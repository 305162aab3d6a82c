"""Labelled images from a folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from neurogate_client.images import SUFFIXES, folder_images
from neurogate_client.results_training import LabelledImage

_LONGEST_NAME = 256


def labelled_images(folder: str | os.PathLike[str]) -> Iterator[LabelledImage]:
    """All images of a folder for `upload_examples`; the folders in it are their classes.

    `scans/glioma/a/7.jpg` becomes class "glioma", with the key and name "glioma/a/7.jpg" where `scans` is the
    folder. Order, hidden files and links are as in `folder_images`.

    Raises:
        ValueError: an image lies in the folder itself, so that it has no class.
        NotADirectoryError, FileNotFoundError, PermissionError: from the first step on, where a folder cannot
            be read.
    """
    root = Path(folder)
    for path in sorted(root.iterdir()):
        name = path.name
        if name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            for relative, image in folder_images(path):
                key = Path(name) / relative
                yield LabelledImage(image=image, class_id=name, key=key, name=_printable(key))
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            raise ValueError(f"{path} lies in no class folder, e.g. {root / 'glioma' / name}")


def _printable(key: Path) -> str:
    # A name is for people; one that the gateway would refuse must not cost the image.
    text = "".join(each if each.isprintable() else "?" for each in key.as_posix())
    return text[-_LONGEST_NAME:]
