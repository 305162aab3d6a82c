"""Where images come from: bytes, files, folders, folders of class folders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import ImageEmptyError, ImageTooLargeError, ImageUnreadableError

Encoded = bytes | bytearray | memoryview | str | os.PathLike[str]
"""An encoded image: its bytes, or the path of the file that holds them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a DICOM file of several, wherever an image may stand.

    Attributes:
        image: the file.
        number: of the frame, from 1.
    """

    image: Encoded = dataclasses.field(repr=False)
    number: int


Image = Encoded | Frame
"""An encoded image, or a frame of one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image to upload.

    Attributes:
        image: encoded bytes, or the path of a file.
        class_id: class of the image, e.g. "glioma".
        key: anything; comes back with the result.
        group: a pseudonym of the patient or source whose images no split tears apart; up to 128 characters.
    """

    image: Image = dataclasses.field(repr=False)
    class_id: str
    key: Any = None
    group: str = ""


DEFAULT_MAX_IMAGE_BYTES = 16 * 1024 * 1024
"""Largest encoded image; the gateway's own default."""

SUFFIXES = frozenset(
    {
        ".bmp", ".dcm", ".dib", ".dicom", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pjpeg", ".png", ".tif",
        ".tiff", ".webp",
    }
)  # fmt: skip
"""File name endings that `folder_images` takes for images, in any case."""

_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IGNORED = frozenset(
    {
        "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "@eadir",
        "lost+found", "system volume information",
    }
)  # fmt: skip
"""What operating systems leave in folders, in lower case."""

LeftOut = Callable[[Path, str], object]
"""Takes each file or folder that is left out, and why."""


def framed(image: Image, frame: int = 0) -> tuple[Encoded, int]:
    """An encoded image, and the number of the frame that is meant; 0 where none is named.

    Args:
        image: a `Frame`'s own number comes first.
        frame: number of any other image.
    """
    return (image.image, image.number) if isinstance(image, Frame) else (image, frame)


def load_image(image: Image, limit: int) -> bytes:
    """The encoded bytes of an image, at most `limit` of them.

    Raises:
        ImageUnreadableError: the file cannot be read.
        ImageEmptyError: no bytes.
        ImageTooLargeError: more than `limit` bytes; no more than that is read.
        TypeError: neither bytes nor a path.
    """
    image, _ = framed(image)
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


def folder_images(
    folder: str | os.PathLike[str], *, left_out: LeftOut | None = None
) -> Iterator[tuple[Path, Path]]:
    """All images of a folder and its sub-folders as (key, image) pairs for `stream_classify`.

    Keys are paths relative to the folder. The order is that of the names and the same on every machine. An
    image is known by its suffix, or where it has none, by its first bytes. Links to files and folders are
    followed, no folder is read twice, and no more than one folder's names are held. What is hidden or left
    behind by an operating system does not count; any other file is left out and given to `left_out`.

    Raises:
        NotADirectoryError, FileNotFoundError, PermissionError: from the first step on, where a folder cannot
            be read.
    """
    root = Path(folder)
    for path in _walk(root, left_out or (lambda _, __: None), set()):
        yield path.relative_to(root), path


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


def _walk(folder: Path, left_out: LeftOut, seen: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    key = (status.st_dev, status.st_ino)
    if key in seen:
        left_out(folder, "a link to a folder that is read elsewhere")
        return
    seen.add(key)
    for path in sorted(folder.iterdir(), key=lambda each: each.name):
        if path.name.startswith(".") or path.name.casefold() in _IGNORED:
            continue
        # Path.is_dir raises where a path must not be looked at; as a file it is left out.
        if os.path.isdir(path):  # noqa: PTH112
            yield from _walk(path, left_out, seen)
        elif why := _no_image(path):
            left_out(path, why)
        else:
            yield path


def _no_image(path: Path) -> str:
    """Why a file is not taken for an image; empty where it is."""
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        return "no file, or a link to none"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return ""
    # DICOM files are often named by numbers with dots between them.
    if suffix and not suffix[1:].isdigit():
        return f"no image by its suffix {suffix}"
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    known = (
        start.startswith(_STARTS) or start[128:] == b"DICM" or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")
    )
    return "" if known else "no image by its first bytes"
