"""Labelled images from a folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .images import LeftOut, folder_images
from .results_training import LabelledImage


def labelled_images(
    folder: str | os.PathLike[str], *, left_out: LeftOut | None = None
) -> Iterator[LabelledImage]:
    """All images of a folder for `upload_examples`; the folders in it are their classes.

    `scans/glioma/a/7.jpg` becomes class "glioma", with the key "glioma/a/7.jpg" where `scans` is the
    folder. Order, links and what is left out are as in `folder_images`.

    Raises:
        ValueError: an image lies in the folder itself, so that it has no class.
        NotADirectoryError, FileNotFoundError, PermissionError: from the first step on, where a folder cannot
            be read.
    """
    for key, image in folder_images(folder, left_out=left_out):
        if len(key.parts) == 1:
            raise ValueError(f"{image} lies in no class folder, e.g. {image.with_name('glioma') / key}")
        yield LabelledImage(image=image, class_id=key.parts[0], key=key)
