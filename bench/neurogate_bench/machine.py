"""What the figures were measured on: processor, versions, source state, how busy the machine already was."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
_FLAGS_THAT_MATTER = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_PACKAGES = (
    "neurogate",
    "grpcio",
    "protobuf",
    "numpy",
    "pillow",
    "tensorflow",
    "keras",
    "tensorflow-serving-api",
)


def pin_to_cores(count: int) -> list[int]:
    """Restricts this process, and all that it starts, to `count` cores and returns them."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise SystemExit(f"the scenarios want {count} cores and this process may use {len(allowed)}")
    chosen = allowed[:count]
    os.sched_setaffinity(0, chosen)
    return chosen


def describe_machine(cores: list[int]) -> dict[str, Any]:
    """Processor, memory and system, with the instruction sets that decide a network's speed."""
    model, flags = _processor()
    return {
        "cpu_model": model,
        "cpu_flags": [flag for flag in _FLAGS_THAT_MATTER if flag in flags],
        "cores_used": len(cores),
        "cores_present": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "virtual": "hypervisor" in flags,
    }


def describe_versions() -> dict[str, str]:
    """The versions of Python and of the packages that take part."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_source() -> dict[str, Any]:
    """The commit that was measured, and whether the tracked files differed from it, apart from what the
    benchmark itself writes."""
    commit = _git("rev-parse", "HEAD")
    written = [f":!{path}" for path in ("bench/results", "docs/performance.md", "docs/images")]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return {"commit": commit or "unknown", "modified": bool(changes)}


def now() -> str:
    """UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def load_average() -> float:
    """Runnable processes over the last minute: above about 0.2 per core somebody else is at work."""
    return round(os.getloadavg()[0], 2)


def relative(text: str) -> str:
    """Takes this checkout's own path out of a command line, which says nothing to a reader elsewhere."""
    return text.replace(f"{ROOT}{os.sep}", "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.processor() or "unknown", set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                flags = set(value.split())
    return model, flags
