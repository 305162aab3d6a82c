"""Model versions on disk: staged aside, published by one rename, never changed and never numbered twice.

A repository is a directory of models, a model a directory of versions named by their numbers, which is
what TensorFlow Serving watches. Everything else in a model's directory starts with a dot, so the server
does not see it:

    <root>/<model>/1/ 2/ …         published versions
    <root>/<model>/.staging-<run>/ a version in the making, locked by the process that makes it
    <root>/<model>/.lock           held while a name in this directory appears, moves or goes
    <root>/<model>/.highest        the highest number ever given, in decimal

Locks are flock(2) on open files, so they end with their process, however it ends. A network file system
must support them (NFS from version 4 on does).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from neurogate.v1 import manifest_pb2

from .files import locked, replace_file, sync_directory, sync_tree
from .manifest import MANIFEST_FILE, ManifestError, manifest_digest, parse_manifest, write_manifest
from .names import MODEL_NAME_RULE, is_model_name, version_number

_STAGING = ".staging-"
_LOCK = ".lock"
_HIGHEST = ".highest"
_MAX_VERSION = 2**63 - 1
_CANONICAL = re.compile(r"[1-9][0-9]{0,18}")
# Errors that say something about one version; after any other nothing can be known now.
_OF_ONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG}


class RepositoryError(Exception):
    """A model, version or folder is not what the repository needs; the message names it."""


class VersionNotFoundError(RepositoryError, LookupError):
    """There is no such version."""


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """One version that is in its final place.

    Attributes:
        model: The model's name.
        version: The version's number.
        path: Its directory.
        manifest: Its manifest as stored.
    """

    model: str
    version: int
    path: Path
    manifest: manifest_pb2.ModelManifest


class ModelRepository:
    """The model versions below one directory, for any number of processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def versions(self, model: str) -> list[int]:
        """Numbers of a model's versions, ascending; empty for a model that does not exist.

        TensorFlow Serving also takes names such as "007", "+8" and plain files for versions. The repository
        never makes them, so it does not list them; but it gives no new version such a number either. A link
        to a folder is listed, one that leads nowhere is not.
        """
        folder = model_folder(self.root, model)
        try:
            with os.scandir(folder) as entries:
                numbers = [
                    int(entry.name)
                    for entry in entries
                    if _CANONICAL.fullmatch(entry.name) and entry.is_dir()
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(number for number in numbers if number <= _MAX_VERSION)

    def path(self, model: str, version: int) -> Path:
        """The directory of a version.

        Raises:
            VersionNotFoundError: There is none; the message lists those that exist.
        """
        path = model_folder(self.root, model) / str(version)
        if version not in (existing := self.versions(model)):
            listed = ", ".join(map(str, existing)) or "none"
            raise VersionNotFoundError(
                f"model {model!r} has no version {version} in {self.root} (it has: {listed})"
            )
        return path

    @contextlib.contextmanager
    def staging(self, model: str, run_id: str) -> Iterator[Path]:
        """An empty folder for a new version; what is not published by the end of the block is removed.

        Args:
            model: The model's name; its directory is made when it does not exist.
            run_id: Tells concurrent stagings apart; a name as models have.

        Raises:
            RepositoryError: A name is not valid, the model's path is not a directory, or a live process is
                staging under the same run id.
            OSError: The folder cannot be made.
        """
        folder = model_folder(self.root, model)
        if not is_model_name(run_id):
            raise RepositoryError(f"run id {run_id!r} is not valid, expected {MODEL_NAME_RULE}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RepositoryError(f"{folder} is not a directory, so no model can be kept there") from None
        staged = folder / f"{_STAGING}{run_id}"
        with locked(folder / _LOCK):
            _sweep(folder)
            try:
                staged.mkdir()
            except FileExistsError:
                raise RepositoryError(
                    f"{staged} is in use by another process; give this run another id"
                ) from None
            owner = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield staged
        finally:
            try:
                with locked(folder / _LOCK):
                    if _is_open_as(staged, owner):
                        shutil.rmtree(staged)
            finally:
                os.close(owner)

    def publish(self, model: str, staged: Path, manifest: manifest_pb2.ModelManifest) -> PublishedVersion:
        """Makes a staged version the model's newest, for good and at once.

        Args:
            model: The model's name.
            staged: A folder that `staging` gave for this model, holding a complete SavedModel.
            manifest: What to store with it; `model_name`, `version`, `created_at` and what `write_manifest`
                fills in are set in a copy.

        Raises:
            ManifestError: The manifest does not make sense.
            RepositoryError: `staged` is not a staging folder of this model, or is empty.
            OSError: Something could not be written. No version has appeared then, its number may stay unused,
                unless the rename itself could not be made durable.
        """
        folder = model_folder(self.root, model)
        self._check_staged(folder, staged)
        sync_tree(staged)
        with locked(folder / _LOCK):
            _sweep(folder)
            version = _next_version(folder)
            stamped = manifest_pb2.ModelManifest()
            stamped.CopyFrom(manifest)
            stamped.model_name = model
            stamped.version = version
            stamped.created_at.GetCurrentTime()
            stamped = write_manifest(staged, stamped)
            # The number is spent before it is used: a crash in between skips it, which harms nobody.
            replace_file(folder / _HIGHEST, f"{version}\n".encode())
            target = folder / str(version)
            staged.rename(target)
            sync_directory(folder)
            sync_directory(self.root)
        return PublishedVersion(model, version, target, stamped)

    def withdraw(self, model: str, version: int) -> int:
        """Takes a version out of the repository, for good and at once; its number is never given again.

        The files are removed by the next `sweep` or `publish`.

        Returns:
            The version.

        Raises:
            VersionNotFoundError: There is none.
            OSError: It could not be moved; it is still there.
        """
        folder = model_folder(self.root, model)
        path = self.path(model, version)
        with locked(folder / _LOCK):
            # Versions that were copied here by hand have left no trace of their number.
            highest = _next_version(folder) - 1
            replace_file(folder / _HIGHEST, f"{highest}\n".encode())
            if path.is_symlink():
                # What it leads to is somebody else's.
                path.unlink()
            else:
                path.rename(folder / f"{_STAGING}withdrawn-{version}")
            sync_directory(folder)
        return version

    def sweep(self, model: str) -> list[str]:
        """Removes what crashed publishers of a model left behind, and never a live one's folder.

        Returns:
            Names of the removed entries.
        """
        folder = model_folder(self.root, model)
        if not folder.is_dir():
            return []
        with locked(folder / _LOCK):
            return _sweep(folder)

    def _check_staged(self, folder: Path, staged: Path) -> None:
        staged = staged.absolute()
        if staged.parent != folder or not staged.name.startswith(_STAGING):
            raise RepositoryError(f"{staged} is not a staging folder of {folder}")
        if not staged.is_dir() or staged.is_symlink():
            raise RepositoryError(f"{staged} does not exist, or is not a directory")
        if staged.stat().st_dev != folder.stat().st_dev:
            raise RepositoryError(
                f"{staged} is on another file system than {folder}, so it cannot move there at once"
            )
        if not any(staged.iterdir()):
            raise RepositoryError(f"{staged} is empty, expected a SavedModel")


def served_names(folder: Path) -> dict[int, str]:
    """What a model server takes for versions in a model's directory: the name of each number that it reads.

    Of several names for a number it takes the one that sorts last.

    Raises:
        OSError: The directory cannot be read.
    """
    numbered = ((version_number(name), name) for name in sorted(os.listdir(folder)))  # noqa: PTH208
    return {number: name for number, name in numbered if number is not None}


def model_folder(root: Path, model: str) -> Path:
    """Where everything of a model lies.

    Raises:
        RepositoryError: The name is not valid.
    """
    if not is_model_name(model):
        raise RepositoryError(f"model name {model!r} is not valid, expected {MODEL_NAME_RULE}")
    return root.absolute() / model


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the directory behind `descriptor`, rather than nothing or a successor."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sweep(folder: Path) -> list[str]:
    """Removes unlocked staging folders and temporary files; the caller holds the folder's lock."""
    removed = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if name.startswith(_STAGING):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                    continue  # somebody's file or link: not made here
                raise
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(path)
            finally:
                os.close(descriptor)
        elif name.startswith(f".{_HIGHEST}.") and name.endswith(".tmp"):
            path.unlink()
        else:
            continue
        removed.append(name)
    return removed


def _next_version(folder: Path) -> int:
    """The number after the highest that was ever given, or that a server would see there."""
    try:
        recorded = (folder / _HIGHEST).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        recorded = "0"
    except UnicodeDecodeError:
        recorded = ""
    if not re.fullmatch(r"[0-9]{1,19}", recorded):
        raise RepositoryError(
            f"{folder / _HIGHEST} is damaged, expected the highest version number ever published, in decimal"
        )
    highest = max([int(recorded), *served_names(folder)])
    if highest >= _MAX_VERSION:
        raise RepositoryError(f"{folder} has a version {highest}, and no number is left above it")
    return highest + 1


class Surveyed(NamedTuple):
    """What lies in a model's directory.

    Attributes:
        whole: Digest of the manifest by version, of those of which each file is there in the size that the
            manifest says; no other content was read.
        refused: Why what a model server would take for a version is none, for people, by number.
    """

    whole: Mapping[int, str]
    refused: Mapping[int, str]


class Survey:
    """Which folders of a model are whole versions, and what is wrong with the others.

    A model server takes every name that reads as a number for a version: half a copy, a stray folder with a
    time for a name, a plain file. Whoever decides what is served asks here first, so that only whole ones are
    tried. For one thread at a time.
    """

    def __init__(self, root: Path, model: str) -> None:
        """Raises `RepositoryError` where the name is not valid; reads nothing yet."""
        self._folder = model_folder(root, model)
        self._model = model
        self._whole: dict[int, tuple[tuple[int, ...], str]] = {}
        """Fingerprint and digest of the manifests of versions that were found whole."""

    def look(self) -> Surveyed:
        """What lies there now; nothing where there is no directory.

        Raises:
            OSError: The directory, or something in it, cannot be read for a reason that may pass.
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
            seen = _fingerprint(folder / MANIFEST_FILE)
            if self._whole.get(number, (None,))[0] != seen:
                self._whole.pop(number, None)
                self._whole[number] = (seen, self._check(folder, number))
        except ManifestError as error:
            return str(error)
        except OSError as error:
            if error.errno not in _OF_ONE:
                raise
            return _unreadable(folder, error)
        return ""

    def _check(self, folder: Path, number: int) -> str:
        """Compares names and sizes of a version's files with its manifest; returns the manifest's digest.

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
    """The complaint about a folder that a model server takes for a version under another name."""
    return f"its folder is called {name!r}, expected '{number}'"


def _unreadable(folder: Path, error: OSError) -> str:
    if not folder.exists() and folder.is_symlink():
        return "its folder is a link that leads nowhere"
    if folder.is_file():
        return "it is a file, expected a folder"
    if isinstance(error, FileNotFoundError):
        return f"it has no manifest ({MANIFEST_FILE}): not a version, or not copied to its end"
    return f"its files cannot be read: {error.strerror}"


def _fingerprint(path: Path) -> tuple[int, ...]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ManifestError(f"{MANIFEST_FILE} is no file")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
