"""Writing files so that a crash leaves either the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import os
import secrets
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # Opened with the mode, not created private and widened: so the umask takes its part away.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
