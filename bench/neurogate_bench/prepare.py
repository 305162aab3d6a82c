"""Prepares the networks that are measured, once: the export, the plain one, and what other runtimes read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from neurogate_bench.machine import ROOT, relative
from neurogate_bench.processes import installed
from neurogate_bench.systems import Models

# Whatever decides what is exported; a change makes the prepared networks stale.
_SOURCES = (
    "bench/neurogate_bench/make_models.py",
    "serving/neurogate_serving/transform.py",
    "trainer/neurogate_trainer/fold.py",
    "trainer/neurogate_trainer/model.py",
    "trainer/neurogate_trainer/ood.py",
    "trainer/neurogate_trainer/serving_graph.py",
    "trainer/neurogate_trainer/warmup.py",
)
_CONVERT = """
import sys, tensorflow as tf
converted = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1]).convert()
open(sys.argv[2], "wb").write(converted)
"""


def fingerprint(model: str, side: int) -> str:
    """Changes with everything that decides what is prepared."""
    digest = hashlib.sha256(f"{model} {side} {metadata.version('tensorflow')}".encode())
    for source in _SOURCES:
        digest.update((ROOT / source).read_bytes())
    return digest.hexdigest()


def ensure(folder: Path, images: list[Path], model: str, side: int) -> Models:
    """The prepared networks, made now unless they are there and of today's sources.

    Raises:
        RuntimeError: a step failed; the message ends with its last words.
    """
    current = fingerprint(model, side)
    stored = folder / "models.json"
    if stored.exists() and json.loads(stored.read_text()).get("fingerprint") == current:
        return Models.read(folder)
    print(f"preparing networks in {relative(str(folder))}: about a minute, once", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = installed("python", environment="build/bench-venv")
    plain = str(folder / "plain" / "1")
    pictures = [str(path) for path in images]
    ours = [sys.executable, "-m", "neurogate_bench.make_models", str(folder), model, str(side), *pictures]
    _step("export", ours)
    onnx = ["-m", "tf2onnx.convert", "--opset", "17", "--saved-model", plain, "--output"]
    _step("ONNX", [python, *onnx, str(folder / "network.onnx")])
    _step("LiteRT", [python, "-c", _CONVERT, plain, str(folder / "network.tflite")])
    description = json.loads((folder / "exported.json").read_text())
    stored.write_text(json.dumps({**description, "fingerprint": current}, indent=1))
    return Models.read(folder)


def _step(name: str, command: list[str]) -> None:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT / "bench")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"preparing the networks failed at {name}:\n{done.stderr[-2000:]}")
