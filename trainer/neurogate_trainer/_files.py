"""Small file operations that leave either the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one rename; the folder is made when missing.

    Raises:
        OSError: The disk is full or the folder cannot be written; the old file is then still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's own modes: the result should have the permissions of any other file the user writes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        # Only opening names the file: a full disk is told by what writes, which does not.
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def named_beside(path: Path, folder: Path) -> str:
    """What a path is called from a folder that lies beside it, e.g. "../data"; empty where it lies elsewhere.

    By that it is found again when both were moved with the folder that they lie in.
    """
    folder, path = folder.absolute(), path.expanduser().absolute()
    return f"../{path.name}" if path.parent == folder.parent and path.name else ""


def found_beside(path: Path, name: str, folder: Path) -> Path:
    """What `named_beside` has called so where that is there, else the path.

    In this order: both may have been moved, and something else be at the old place by now.
    """
    moved = folder.absolute().parent / Path(name).name
    # Path.exists raises where a name is too long or must not be looked at.
    return moved if name and os.path.exists(moved) else path  # noqa: PTH110


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made when missing), waiting for whoever has it.

    The lock ends with the process that holds it, so a killed one leaves nothing to clean up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_disk_full(error: OSError) -> bool:
    """Whether an error means that the disk or the user's quota is exhausted."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
