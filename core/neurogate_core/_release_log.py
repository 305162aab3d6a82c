"""The audit record: a file of JSON lines that only grows.

The document of the release is what counts, and it carries its own last change. So a line that a crash kept
out of this file, or cut short, is written again from there before the next change.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ._release_format import Change, FormatError, decode_change, encode_change
from .files import sync_directory

_TAIL_BYTES: Final = 1 << 16


def complete(path: Path, change: Change) -> None:
    """Makes sure that the record ends with a change, which is its last or the one after.

    Raises:
        FormatError: The record is damaged, or lacks more than that.
        OSError: It cannot be written.
    """
    exists = path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with os.fdopen(os.dup(descriptor), "r+b") as file:
            end, last = _last_line(file.seek(0, os.SEEK_END), descriptor)
            sequence = decode_change(last).sequence if last else 0
            if sequence == change.sequence:
                return
            if sequence != change.sequence - 1:
                raise FormatError(f"it ends with change {sequence}, the release is at {change.sequence}")
            file.truncate(end)
            file.seek(end)
            file.write(encode_change(change).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not exists:
        sync_directory(path.parent)


def last_sequence(path: Path) -> int:
    """Sequence of the last whole line; 0 when there is none.

    Raises:
        FormatError: That line is damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        _, last = _last_line(os.fstat(descriptor).st_size, descriptor)
    finally:
        os.close(descriptor)
    return decode_change(last).sequence if last else 0


def page(path: Path, *, below: int, size: int) -> list[Change]:
    """Up to `size` changes with a sequence below a limit, newest first.

    Raises:
        FormatError: One of them is damaged.
    """
    newest: deque[bytes] = deque(maxlen=size)
    for line in whole_lines(path):
        # Every line begins with its number, so the others need not be parsed.
        if _sequence(line) >= below:
            break
        newest.append(line)
    return [decode_change(line) for line in reversed(newest)]


def find(path: Path, request_id: str) -> Change | None:
    """The change that a request_id belongs to, if any."""
    mark = f'"request_id":"{_escaped(request_id)}"'.encode()
    for line in whole_lines(path):
        if mark in line:
            change = decode_change(line)
            if change.request_id == request_id:
                return change
    return None


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its end, without a last one that was cut short; none without a file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
    except FileNotFoundError:
        return


def _sequence(line: bytes) -> int:
    text = line[len(b'{"sequence":') : 40].partition(b",")[0]
    if not line.startswith(b'{"sequence":') or not text.isdigit():
        raise FormatError("a line does not begin with its sequence")
    return int(text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _last_line(size: int, descriptor: int) -> tuple[int, bytes]:
    """Where the last whole line ends, and that line; empty when there is none."""
    start, tail = size, b""
    while start:
        start = max(0, start - _TAIL_BYTES)
        tail = os.pread(descriptor, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        begin = whole.rfind(b"\n", 0, len(whole) - 1) + 1 if whole else 0
        if whole and (begin or not start):
            return start + len(whole), whole[begin:]
    return 0, b""
