"""Which versions a model repository has on disk, and whether one is whole.

For whoever starts a model server on this machine: it ends at once when one of its first versions cannot be
loaded, as one that is still being copied.
"""

from __future__ import annotations

import contextlib
import re
import stat
from pathlib import Path

from google.protobuf.message import DecodeError
from neurogate.v1 import manifest_pb2

_MANIFEST = "assets/neurogate_manifest.binpb"
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


def published_versions(repository: Path, model: str) -> list[int]:
    """Version numbers in a model repository, ascending."""
    with contextlib.suppress(OSError):
        return sorted(
            int(each.name) for each in (repository / model).iterdir() if _NUMBER.fullmatch(each.name)
        )
    return []


def flaw(folder: Path, model: str, version: int) -> str:
    """What keeps a version from being whole; empty when each file of its manifest is there in its size."""
    path = folder / _MANIFEST
    try:
        # To read a pipe or a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            return f"{_MANIFEST} is no file"
        manifest = manifest_pb2.ModelManifest.FromString(path.read_bytes())
    except OSError as error:
        return f"{_MANIFEST}: {error.strerror}"
    except DecodeError:
        return f"{_MANIFEST} is no manifest"
    if (manifest.model_name, manifest.version) != (model, version):
        return f"its manifest is of {manifest.model_name!r} version {manifest.version}"
    if not manifest.files:
        return f"{_MANIFEST} names no files"
    return next(filter(None, (_flaw_of(folder, file) for file in manifest.files)), "")


def _flaw_of(folder: Path, file: manifest_pb2.FileDigest) -> str:
    try:
        status = (folder / file.path).stat()
    except (OSError, ValueError) as error:
        return f"{file.path}: {error.strerror if isinstance(error, OSError) else error}"
    if not stat.S_ISREG(status.st_mode):
        return f"{file.path} is no file"
    if status.st_size != file.size_bytes:
        return f"{file.path} has {status.st_size} bytes, expected {file.size_bytes}"
    return ""
