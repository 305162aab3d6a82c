"""The machine and the software that a run uses: prepared for it, and described for whoever repeats it."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from neurogate_trainer.config import TrainConfig

_PACKAGES: Final = ("tensorflow", "keras", "numpy", "pillow", "scikit-learn", "scipy", "protobuf")
_GIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Compute:
    """How the network is computed.

    Attributes:
        policy: Keras' precision policy.
        jit: Whether to compile with XLA.
    """

    policy: str
    jit: bool


def prepare(config: TrainConfig) -> Compute:
    """Seeds every generator of random numbers and decides about precision and compilation.

    Half precision and XLA are for GPUs: on a CPU both make this network several times slower.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - third-party code may still use the global generator
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpu = bool(tf.config.list_physical_devices("GPU"))
    policy = "mixed_float16" if gpu and config.mixed_precision else "float32"
    keras.config.set_dtype_policy(policy)
    return Compute(policy, gpu and config.mixed_precision)


def packages() -> dict[str, str]:
    """Versions of the packages that decide a run's outcome, by name."""
    return {name: metadata.version(name) for name in _PACKAGES}


def describe(compute: Compute) -> dict[str, Any]:
    """What environment.json holds."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "precision": compute.policy,
        "xla": compute.jit,
        "source_commit": source_commit(),
        "command": sys.argv,
        "packages": packages(),
    }


def source_commit() -> str:
    """The commit of the code in use, "-dirty" behind it where files differ; "" outside a repository."""
    folder = Path(__file__).resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ""
    # A checkout of something else that merely contains this package says nothing about it.
    if not _git(folder, "ls-files", "--", Path(__file__).name):
        return ""
    return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
