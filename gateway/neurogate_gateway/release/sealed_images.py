"""The sealed images by which versions are judged: a folder of class folders, or a list by the trainer.

A list (`evaluation.json`) names every image with its class and digest:

    {"revision": 1, "root": "<folder>", "digest": "<hex SHA-256 of the sorted digests joined by newlines>",
     "images": [{"path": "Testing/glioma/x.jpg", "class": "glioma", "sha256": "…"}]}

A relative root is relative to the list. So is `root_beside`, which goes first where there is such a folder:
both may have been moved, and something else be at the old place by now. Digests are held to the files when
these are read.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Final

from neurogate_core.names import images_digest

REVISION: Final = 1
_SUFFIXES: Final = frozenset(
    {".bmp", ".dcm", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
_LEFTOVERS: Final = frozenset({"__macosx", "$recycle.bin", "@eadir", "lost+found"})
"""Folders that operating systems leave behind, in lower case."""
_MAX_IMAGES: Final = 1_000_000


class ImagesError(Exception):
    """The images cannot be used; the whole text is for the log, `message` for callers, who see no paths."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(f"{path}: {message}")
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True)
class SealedImage:
    """One image, its true class and the hex SHA-256 of its bytes."""

    path: Path
    class_id: str
    sha256: str

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            ImagesError: They are not there, or others than they were.
        """
        content = _read(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ImagesError("an image is not the one that it was: its digest differs", self.path)
        return content


@dataclasses.dataclass(frozen=True)
class SealedImages:
    """All of them, at least one, and the digest that names the set.

    The digest is of the images alone, as the trainer makes it. What is measured also depends on `truth`:
    somebody may correct a class.
    """

    images: tuple[SealedImage, ...]
    digest: str

    @functools.cached_property
    def truth(self) -> str:
        """Names the images in their order, each with its class."""
        text = "\n".join(f"{image.sha256} {image.class_id}" for image in self.images)
        return hashlib.sha256(text.encode()).hexdigest()


Fingerprint = tuple[tuple[str, int, int], ...]
"""Path, time of the last change and size of every file that counts."""


def fingerprint(source: Path) -> Fingerprint:
    """Differs when a file of the folder or the list was changed; looks at names, times and sizes only.

    Raises:
        ImagesError: There is nothing to look at.
    """
    try:
        paths = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
        seen = [(os.fspath(path), path.stat()) for path in sorted(paths)]
    except OSError as error:
        raise ImagesError(f"a file cannot be read: {error.strerror}", source) from None
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in seen)


def load_images(source: Path) -> SealedImages:
    """The images of a folder or of a list. Reads all of a folder's files, so it may take a while.

    Raises:
        ImagesError: There are none, or the list is not what it should be.
    """
    # Methods of Path raise where a name is too long or must not be looked at; what is read then says so.
    found = _from_folder(source) if os.path.isdir(source) else _from_list(source)  # noqa: PTH112
    if not found.images:
        raise ImagesError("there are no images", source)
    return found


def _from_folder(root: Path) -> SealedImages:
    images = []
    try:
        folders = sorted(
            path
            for path in root.iterdir()
            if path.is_dir() and not path.name.startswith(".") and path.name.casefold() not in _LEFTOVERS
        )
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
                if path.suffix.lower() in _SUFFIXES and not hidden and path.is_file():
                    sha256 = hashlib.sha256(_read(path)).hexdigest()
                    images.append(SealedImage(path, folder.name, sha256))
    except OSError as error:
        raise ImagesError(f"the folder cannot be read: {error.strerror}", root) from None
    return SealedImages(tuple(images), images_digest(image.sha256 for image in images))


def _from_list(path: Path) -> SealedImages:
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ImagesError(f"the list is not JSON: {error}", path) from None
    if not isinstance(document, dict) or document.get("revision") != REVISION:
        raise ImagesError(f"not a list of evaluation images of revision {REVISION}", path)
    root, entries = document.get("root"), document.get("images")
    if not isinstance(root, str) or not isinstance(entries, list) or len(entries) > _MAX_IMAGES:
        raise ImagesError('the list has no "root", or no "images"', path)
    folder = _beside(path, document.get("root_beside")) or path.parent / root
    images = []
    for number, entry in enumerate(entries):
        values = entry if isinstance(entry, dict) else {}
        name, class_id, sha256 = (values.get(key) for key in ("path", "class", "sha256"))
        if not (isinstance(name, str) and isinstance(class_id, str) and isinstance(sha256, str)):
            raise ImagesError(f'image {number} lacks "path", "class" or "sha256"', path)
        images.append(SealedImage(folder / name, class_id, sha256))
    digest = images_digest(image.sha256 for image in images)
    if document.get("digest") != digest:
        raise ImagesError(f"the list was changed: its images have digest {digest[:12]}…", path)
    return SealedImages(tuple(images), digest)


def _beside(path: Path, name: object) -> Path | None:
    """The folder that a list names as relative to itself, where there is one."""
    if not isinstance(name, str) or not name:
        return None
    # By names alone, as the trainer has named it: the run's folder may be a link to somewhere else.
    folder = Path(os.path.normpath(path.absolute().parent / name))
    return folder if os.path.exists(folder) else None  # noqa: PTH110 - as above


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImagesError(f"a file cannot be read: {error.strerror}", path) from None
