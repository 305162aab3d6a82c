"""Prepares the networks that are measured, once: the export, the plain one, and what other runtimes read."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from neurogate_bench.machine import ROOT, relative
from neurogate_bench.processes import installed
from neurogate_bench.systems import Models

# Whatever may decide what is exported; a change makes the prepared networks stale.
_SOURCES = (
    "bench/neurogate_bench/make_models.py",
    "core/neurogate_core/preprocessing/transform.py",
    "trainer/neurogate_trainer/**/*.py",
)
_CONVERT = """
import sys, tensorflow as tf
converted = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1]).convert()
open(sys.argv[2], "wb").write(converted)
"""


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
            _prepare(partial, images, model, side)
            partial.rename(ready)
    return Models.read(ready)


def _prepare(folder: Path, images: list[Path], model: str, side: int) -> None:
    python = installed("python", environment="build/bench-venv")
    plain = str(folder / "plain" / "1")
    pictures = [str(path) for path in images]
    ours = [sys.executable, "-m", "neurogate_bench.make_models", str(folder), model, str(side), *pictures]
    _step("export", ours)
    onnx = ["-m", "tf2onnx.convert", "--opset", "17", "--saved-model", plain, "--output"]
    _step("ONNX", [python, *onnx, str(folder / "network.onnx")])
    _step("LiteRT", [python, "-c", _CONVERT, plain, str(folder / "network.tflite")])


def _step(name: str, command: list[str]) -> None:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT / "bench")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"preparing the networks failed at {name}:\n{done.stderr[-2000:]}")
