"""Encoded images, each kept once under the SHA-256 of its bytes.

    <folder>/ab/cdef…    an image, by its digest's first two digits and the others
    <folder>/.incoming/  images in the making
    <folder>/.lock       shared while images and their rows come, exclusive while images go

An image is written aside, synced, and renamed into its place, so a crash leaves it whole or not at all.
Several gateways may share one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from neurogate.v1 import error_pb2
from neurogate_core.files import is_disk_full, sync_directory

from neurogate_gateway.errors import GatewayError, RecordsUnavailableError

_SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
_SYNC_THREADS: Final = 8
"""Syncs that run at once share the file system's commits, so eight take little longer than one."""


class ImageGoneError(LookupError):
    """The image is not, or no longer, in the store."""


class ImageStore:
    """The images below one folder.

    Args:
        folder: Made when it does not exist.
        max_bytes: Size of all images together from which on new ones are refused.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._used: int | None = None
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="image-store")
        for shard in _SHARDS:
            (folder / shard).mkdir(parents=True, exist_ok=True)
        sync_directory(folder)
        self._incoming = folder / ".incoming"
        # Whoever adds images holds the lock, so what lies aside now is of processes that have gone.
        with self._locked(fcntl.LOCK_EX):
            self._remove_left_aside()
            self._incoming.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Ends the threads; the store is not to be used afterwards."""
        self._threads.shutdown()

    def path(self, digest: str) -> Path:
        """Where an image is, or would be."""
        return self._folder / digest[:2] / digest[2:]

    def read(self, digest: str) -> bytes:
        """The bytes of an image.

        Raises:
            ImageGoneError: It is not there.
            RecordsUnavailableError: It cannot be read.
        """
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageGoneError(digest) from None
        except OSError as error:
            raise RecordsUnavailableError("an image of the records cannot be read now") from error

    @property
    def used_bytes(self) -> int:
        """Size of all images together, as far as this process knows."""
        if self._used is None:
            used = sum(_size(self._folder / shard) for shard in _SHARDS)
            with self._counting:
                self._used = used if self._used is None else self._used
        return self._used

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Keeps images from being removed between `put` and the commit of the rows that name them."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def put(self, images: Mapping[str, bytes]) -> dict[str, GatewayError]:
        """Makes images durable; inside of `adding`. Returns why some of them are not kept, by digest.

        Raises:
            RecordsUnavailableError: The folder cannot be written.
        """
        refused: dict[str, GatewayError] = {}
        wanted: list[str] = []
        size = self.used_bytes
        for digest, data in images.items():
            if self.path(digest).exists():
                continue
            if size + len(data) > self._max_bytes:
                refused[digest] = _full(f"the images have {size} bytes, the limit is {self._max_bytes}")
                refused[digest].metadata["max_store_bytes"] = str(self._max_bytes)
                continue
            size += len(data)
            wanted.append(digest)
        try:
            written = self._threads.map(lambda digest: self._write(images[digest]), wanted)
            kept = {digest: aside for digest, aside in zip(wanted, written, strict=True) if aside}
            for digest, aside in kept.items():
                aside.rename(self.path(digest))
            # Also of images that were there: another thread may have renamed them without having synced yet.
            folders = {self.path(digest).parent for digest in images.keys() - refused.keys()}
            list(self._threads.map(sync_directory, folders))
        except OSError as error:
            raise RecordsUnavailableError("the store of images cannot be written now") from error
        with self._counting:
            self._used = (self._used or 0) + sum(len(images[digest]) for digest in kept)
        full = _full("the disk of the images is full")
        return refused | {digest: full for digest in wanted if digest not in kept}

    def remove_unless(self, wanted: Callable[[str], Collection[str]]) -> int:
        """Removes images that nothing names any more, and counts the others anew; returns how many went.

        `wanted` gives the digests, among others, of all that are to stay and begin with two digits.
        """
        removed, used = 0, 0
        for shard in _SHARDS:
            with self._locked(fcntl.LOCK_EX):
                keep = wanted(shard)
                for path in (self._folder / shard).iterdir():
                    if shard + path.name not in keep:
                        path.unlink(missing_ok=True)
                        removed += 1
                used += _size(self._folder / shard)
        with self._counting:
            self._used = used
        return removed

    def remove(self, digest: str, wanted: Callable[[], bool]) -> None:
        """Removes one image, unless it is wanted after all additions under way.

        Raises:
            RecordsUnavailableError: It cannot be removed now; a later `remove_unless` does it.
        """
        path = self.path(digest)
        with self._locked(fcntl.LOCK_EX):
            if wanted():
                return
            try:
                size = path.stat().st_size
                path.unlink()
                sync_directory(path.parent)
            except FileNotFoundError:
                return
            except OSError as error:
                raise RecordsUnavailableError("an image cannot be removed now") from error
        with self._counting:
            self._used = None if self._used is None else self._used - size

    def _write(self, data: bytes) -> Path | None:
        """A synced file aside; None where the disk is full."""
        aside = self._incoming / secrets.token_hex(16)
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            aside.unlink(missing_ok=True)
            if is_disk_full(error):
                return None
            raise
        return aside

    def _remove_left_aside(self) -> None:
        # Older gateways have a folder each, `.incoming-<token>`, which they lock for as long as they run.
        for folder in self._folder.glob(".incoming*"):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # its gateway has just ended
                continue
            try:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        # A descriptor of its own for each, so that threads of one process exclude each other too.
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


def _full(complaint: str) -> GatewayError:
    return GatewayError(error_pb2.ERROR_REASON_EXAMPLE_STORE_FULL, complaint)


def _size(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
