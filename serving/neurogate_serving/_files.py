"""Writing files so that a crash leaves either the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


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


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `content` in one step, durably.

    Args:
        path: The file; its directory must exist.
        content: All of the new content.
        mode: Permission bits of a new file, less the umask's; an existing file keeps its own.

    Raises:
        OSError: The file could not be written; the old content is still there and nothing is left behind.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                permissions = path.stat().st_mode & 0o777
            except FileNotFoundError:
                permissions = mode & ~_umask()
            os.fchmod(file.fileno(), permissions)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(path.parent)


def _umask() -> int:
    # os.umask can only be read by setting it, for the whole process; the kernel also prints it here.
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
