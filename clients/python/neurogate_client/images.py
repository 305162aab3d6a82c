"""Where images come from: bytes, files, folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from neurogate_client.errors import ImageEmptyError, ImageTooLargeError, ImageUnreadableError

Image = bytes | bytearray | memoryview | str | os.PathLike[str]
"""An encoded image: its bytes, or the path of the file that holds them."""

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""File name endings that `folder_images` takes for images, in any case."""


def load_image(image: Image, limit: int) -> bytes:
    """The encoded bytes of an image, at most `limit` of them.

    Raises:
        ImageUnreadableError: the file cannot be read.
        ImageEmptyError: no bytes.
        ImageTooLargeError: more than `limit` bytes; no more than that is read.
        TypeError: neither bytes nor a path.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        data, size, name = image, memoryview(image).nbytes, "the image"
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        name = str(path)
        data, size = _read(path, limit)
    else:
        raise TypeError(f"an image is bytes or a path, not {type(image).__name__}")
    if size == 0:
        raise ImageEmptyError(f"{name} has no bytes", reason="IMAGE_EMPTY")
    if size > limit:
        raise ImageTooLargeError(
            f"{name} has {size:,} bytes; the client's limit is {limit:,} (max_image_bytes, as the gateway's)",
            reason="IMAGE_TOO_LARGE",
            metadata={"size_bytes": str(size), "max_image_bytes": str(limit)},
        )
    return bytes(data)


def _read(path: Path, limit: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            # Only a regular file knows its size beforehand; a pipe has to be read to be measured.
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                return b"", size
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageUnreadableError(f"cannot read {path}: {text}", reason="IMAGE_UNREADABLE") from error
    return data, len(data)


def folder_images(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """All images of a folder and its sub-folders as (key, image) pairs for `stream_classify`.

    Keys are paths relative to the folder. The order is that of the names and the same on every machine.
    Hidden files and folders are left out, links to folders are not followed, and no more than one folder's
    names are held.

    Raises:
        NotADirectoryError, FileNotFoundError, PermissionError: from the first step on, where a folder cannot
            be read.
    """
    root = Path(folder)
    for path in _walk(root):
        yield path.relative_to(root), path


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself is no reason to give up the folder it lies in.
    try:
        return entry.is_file()
    except OSError:
        return False


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        listed = sorted((each.name, each.is_dir(follow_symlinks=False), _is_file(each)) for each in entries)
    for name, is_folder, is_file in listed:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(folder / name)
        elif is_file and Path(name).suffix.lower() in SUFFIXES:
            yield folder / name
