"""What the figures were measured on: processor, versions, source state, how busy the machine already was."""

from __future__ import annotations

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


def describe(cores: list[int]) -> dict[str, Any]:
    """What a result says about where it was measured: the machine, with the instruction sets that decide a
    network's speed, the versions of all that takes part, and the commit."""
    model, flags = _processor()
    installed = {each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()}
    # Apart from what the benchmark itself writes.
    written = [f":!{path}" for path in ("bench/results", "docs/performance.md", "docs/images")]
    return {
        "machine": {
            "cpu_model": model,
            "cpu_flags": [flag for flag in _FLAGS_THAT_MATTER if flag in flags],
            "cores_used": len(cores),
            "cores_present": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "virtual": "hypervisor" in flags,
        },
        "versions": {
            "python": platform.python_version(),
            **{package: installed[package] for package in _PACKAGES if package in installed},
        },
        "source": {
            "commit": _git("rev-parse", "HEAD") or "unknown",
            "modified": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)),
        },
    }


def relative(text: str) -> str:
    """Takes this checkout's own path out of a command line, which says nothing to a reader elsewhere."""
    return text.replace(f"{ROOT}{os.sep}", "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


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
