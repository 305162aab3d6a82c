"""Which folders of a model are whole versions, and what is wrong with the others.

A model server takes every name that reads as a number for a version: half a copy, a stray folder with a time
for a name, a plain file. Whoever decides what is served asks here first, so that only whole ones are tried.
"""

from __future__ import annotations

import dataclasses
import errno
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .manifest import MANIFEST_FILE, ManifestError, manifest_digest, parse_manifest
from .names import is_model_name
from .repository import RepositoryError, served_names

# Says something about one version; any other failure says that nothing can be known now.
_OF_ONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG}


@dataclasses.dataclass(frozen=True, slots=True)
class Surveyed:
    """What lies in a model's directory.

    Attributes:
        whole: Digest of the manifest by version, of those of which each file is there in the size that the
            manifest says; no other content was read.
        refused: Why what a model server would take for a version is none, for people, by number.
    """

    whole: Mapping[int, str] = dataclasses.field(default_factory=dict)
    refused: Mapping[int, str] = dataclasses.field(default_factory=dict)


class Survey:
    """Looks at one model's directory again and again; for one thread at a time."""

    def __init__(self, root: Path, model: str) -> None:
        """Looks at nothing yet.

        Raises:
            RepositoryError: The name is not valid.
        """
        if not is_model_name(model):
            raise RepositoryError(f"model name {model!r} is not valid")
        self._folder = root.absolute() / model
        self._model = model
        self._whole: dict[int, tuple[tuple[int, ...], str]] = {}
        """Signs and digest of the manifest of versions that were found whole: they never change."""

    def look(self) -> Surveyed:
        """What is there now; nothing where there is no directory.

        Raises:
            OSError: It cannot be told.
        """
        try:
            names = served_names(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            names = {}
        refused: dict[int, str] = {}
        for number, name in names.items():
            if number >= 1 and (flaw := self._flaw(number, name)):
                refused[number] = flaw
        self._whole = {number: known for number, known in self._whole.items() if number in names}
        whole = {number: digest for number, (_, digest) in self._whole.items() if number not in refused}
        return Surveyed(whole, refused)

    def _flaw(self, number: int, name: str) -> str:
        if name != str(number):
            return misnamed(number, name)
        folder = self._folder / name
        try:
            signs = _signs(folder / MANIFEST_FILE)
            if self._whole.get(number, (None,))[0] != signs:
                self._whole.pop(number, None)
                self._whole[number] = (signs, self._check(folder, number))
        except ManifestError as error:
            return str(error)
        except OSError as error:
            if error.errno not in _OF_ONE:
                raise
            return _unreadable(folder, error)
        return ""

    def _check(self, folder: Path, number: int) -> str:
        """Holds a version to its manifest by names and sizes; returns the manifest's digest.

        Raises:
            ManifestError: It is not valid, of another version, or names a file that is not there.
            OSError: Something cannot be looked at.
        """
        data = (folder / MANIFEST_FILE).read_bytes()
        manifest = parse_manifest(data)
        if (manifest.model_name, manifest.version) != (self._model, number):
            raise ManifestError(
                f"the manifest is of {manifest.model_name} version {manifest.version}: "
                "the folder was copied or renamed"
            )
        for file in manifest.files:
            try:
                size = (folder / file.path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                raise ManifestError(f"{file.path} is missing") from None
            if size != file.size_bytes:
                raise ManifestError(f"{file.path} has {size} bytes, its manifest says {file.size_bytes}")
        return manifest_digest(data)


def misnamed(number: int, name: str) -> str:
    """What is said of a folder that a model server takes for a version though its name is another."""
    return f"its folder is called {name!r}, expected '{number}'"


def _unreadable(folder: Path, error: OSError) -> str:
    if not folder.exists() and folder.is_symlink():
        return "its folder is a link that leads nowhere"
    if folder.is_file():
        return "it is a file, expected a folder"
    if isinstance(error, FileNotFoundError):
        return f"it has no manifest ({MANIFEST_FILE}): not a version, or not copied to its end"
    return f"its files cannot be read: {error.strerror}"


def _signs(path: Path) -> tuple[int, ...]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ManifestError(f"{MANIFEST_FILE} is no file")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
