"""Requests that asked for what was so already: they are no changes, but a repeat gets the first answer too.

A file of JSON lines beside the audit record, which keeps the newest. A line that a crash cut short is passed
over, since its caller has had no answer.
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from ._release_log import whole_lines
from .files import replace_file, sync_directory

KEPT: Final = 1000
"""Requests that are kept at least; with more than twice as many, the older ones go."""


class Asked(NamedTuple):
    """One request: its request_id, the digest of what it asked for, the release's revision and etag then."""

    request_id: str
    content: str
    revision: int
    etag: str


def remember(path: Path, asked: Asked) -> None:
    """Adds a request; nobody else may do so meanwhile.

    Raises:
        OSError: It cannot be written.
    """
    added = json.dumps(asked).encode() + b"\n"
    count, newest = 0, deque[bytes](maxlen=KEPT - 1)
    for line in whole_lines(path):
        count += 1
        newest.append(line)
    if count >= 2 * KEPT:
        replace_file(path, b"".join((*newest, added)))
        return
    exists = path.exists()
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        # After a line that a crash cut short.
        begin = b"\n" if file.read(1) not in {b"", b"\n"} else b""
        file.write(begin + added)
        file.flush()
        os.fsync(file.fileno())
    if not exists:
        sync_directory(path.parent)


def find(path: Path, request_id: str) -> Asked | None:
    """The newest request of this request_id, if any; older ones are of a history that was moved away."""
    mark = f"[{json.dumps(request_id)}, ".encode()
    found = None
    for line in whole_lines(path):
        if line.startswith(mark):
            found = _decoded(line) or found
    return found


def _decoded(line: bytes) -> Asked | None:
    try:
        return Asked(*json.loads(line))
    except (ValueError, TypeError):
        return None
