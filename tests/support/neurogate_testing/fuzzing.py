"""What the fuzzing targets have in common: how long they run, from which seed, and where inputs go."""

from __future__ import annotations

import os
from pathlib import Path

SECONDS_VARIABLE = "NEUROGATE_FUZZ_SECONDS"
SEED_VARIABLE = "NEUROGATE_FUZZ_SEED"


def fuzz_seconds() -> float:
    """How long each of the three targets runs; by default a minute for all of them together."""
    return float(os.environ.get(SECONDS_VARIABLE, "20"))


def fuzz_seed() -> int:
    """Where the random numbers begin: the same for every run that does not ask for others."""
    return int(os.environ.get(SEED_VARIABLE, "1"))


def repeat(test: str) -> str:
    """The command that makes the same inputs again."""
    return (
        f"{SECONDS_VARIABLE}={fuzz_seconds():g} {SEED_VARIABLE}={fuzz_seed()} "
        f".venv/bin/python -m pytest -s tests/slow/{test}"
    )


def keep(folder: Path, name: str, data: bytes) -> Path:
    """Writes an input that failed into the test's folder, and returns its path."""
    path = folder / name
    path.write_bytes(data)
    return path
