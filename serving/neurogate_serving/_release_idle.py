"""Requests that asked for what was so already: they are no changes, but a repeat gets the first answer too.

A file of JSON lines that only grows, beside the audit record. A line that a crash cut short is passed over,
since its caller has had no answer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from ._files import sync_directory


class Asked(NamedTuple):
    """One request: its request_id, the digest of what it asked for, and the release's revision then."""

    request_id: str
    content: str
    revision: int


def remember(path: Path, asked: Asked) -> None:
    """Adds a request.

    Raises:
        OSError: It cannot be written.
    """
    exists = path.exists()
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        # After a line that a crash cut short.
        begin = b"\n" if file.read(1) not in {b"", b"\n"} else b""
        file.write(begin + json.dumps(asked).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if not exists:
        sync_directory(path.parent)


def find(path: Path, request_id: str) -> Asked | None:
    """The request of this request_id, if any."""
    mark = json.dumps(request_id)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        if line.startswith(f"[{mark}, ") and line.endswith("]"):
            return Asked(*json.loads(line))
    return None
