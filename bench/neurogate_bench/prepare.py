"""Prepares the networks that are measured, once: the project's export and the plain one."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from importlib import metadata
from pathlib import Path

from neurogate_bench.machine import ROOT, relative
from neurogate_bench.processes import run_python
from neurogate_bench.systems import Models

# Whatever may decide what is exported; a change makes the prepared networks stale.
_SOURCES = (
    "bench/neurogate_bench/make_models.py",
    "core/neurogate_core/preprocessing/transform.py",
    "trainer/neurogate_trainer/**/*.py",
)


def fingerprint(model: str, side: int) -> str:
    """Changes with everything that decides what is prepared."""
    digest = hashlib.sha256(f"{model} {side} {metadata.version('tensorflow')}".encode())
    for pattern in _SOURCES:
        for source in sorted(ROOT.glob(pattern)):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def ensure(folder: Path, images: list[Path], model: str, side: int) -> Models:
    """The prepared networks, made now unless they are there and of today's sources.

    Each state of the sources has a folder of its own, and one process prepares it: a soak in the background
    keeps the networks that it has begun with.

    Raises:
        RuntimeError: a step failed; the message ends with its last words.
    """
    ready = folder / fingerprint(model, side)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            print(f"preparing networks in {relative(str(ready))}: about a minute, once", file=sys.stderr)
            partial = folder / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            arguments = [str(partial), model, str(side), *map(str, images)]
            run_python("-m", "neurogate_bench.make_models", *arguments)
            partial.rename(ready)
    return Models(ready, model, side)
