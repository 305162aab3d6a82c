"""Files that a crash leaves with either the old content or the new, never a mixture; and locks on files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Makes every regular file below `root`, and every directory from the leaves up, durable."""
    for directory, _, files in os.walk(root, topdown=False):
        for name in files:
            descriptor = os.open(Path(directory, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(directory))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it replaces `path` durably when the block ends well.

    When the block raises, the temporary file is removed and `path` stays as it is. A missing folder is made.

    A new file has the permissions that its writer gave it, an existing one keeps its own.

    Raises:
        OSError: The file could not be written. The error names it, which that of a full disk does not by
            itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(written.fileno(), path.stat().st_mode & 0o777)
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` in one step, durably; only its owner may write a new file.

    Raises:
        OSError: As `replacing`.
    """
    with replacing(path) as temporary:
        # Opened with the mode, so that the umask takes its part away and never adds to it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def replace_json(path: Path, document: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Replaces `path` by a document as JSON, as `replace_file` does."""
    replace_file(path, (json.dumps(document, indent=1) + "\n").encode())


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive flock(2) on the file `path`, which is made when missing; its directory must exist.

    The lock ends with the process that holds it, so a killed one leaves nothing to clean up.

    Raises:
        BlockingIOError: Somebody else holds it, and `wait` is false.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: OSError) -> bool:
    """Whether an error means that the disk or the user's quota is exhausted."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
