"""The network by itself on one thread: what the exported graph costs beside other runtimes of the same
weights."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from neurogate_bench.context import Context
from neurogate_bench.machine import ROOT
from neurogate_bench.processes import installed
from neurogate_bench.stats import median, ratios

EXPORT, PLAIN, ONNX, LITERT = "exported, TensorFlow", "plain, TensorFlow", "ONNX Runtime", "LiteRT (XNNPACK)"
_WHERE = {EXPORT: ".venv", PLAIN: ".venv", ONNX: "build/bench-venv", LITERT: "build/bench-venv"}


def network(context: Context, settings: Mapping[str, Any]) -> None:
    """CPU-milliseconds per image of each runtime, in turn, each in a process of its own."""
    models, record = context.models, context.record
    paths = {
        EXPORT: models.optimised / "1",
        PLAIN: models.plain / "1",
        ONNX: models.onnx,
        LITERT: models.tflite,
    }
    answers: dict[str, list[float]] = {}
    for run in range(settings["runs"]):
        for name, path in paths.items():
            command = [
                installed("python", environment=_WHERE[name]),
                str(ROOT / "bench" / "baselines" / "network_cpu.py"),
                f"--runtime={name}",
                f"--path={path}",
                f"--image={context.images[0]}",
                f"--side={models.side}",
                f"--seconds={settings['seconds']}",
            ]
            disturbance = context.disturbance()
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            )
            if done.returncode:
                raise RuntimeError(f"{name} failed:\n{done.stderr[-1500:]}")
            disturbance()
            measured = json.loads(done.stdout.splitlines()[-1])
            answers[name] = measured["probabilities"]
            record.add(name, "CPU", "ms/image", measured["cpu_ms"])
            record.add(name, "time", "ms/image", measured["wall_ms"])
        medians = ", ".join(f"{name} {record.median(name, 'CPU'):.1f}" for name in paths)
        context.step(run, settings["runs"], f"{medians} CPU-ms")
    worst = max(abs(a - b) for name in paths for a, b in zip(answers[name], answers[EXPORT], strict=True))
    record.details["largest difference of a probability"] = worst
    if worst > 5e-3:
        record.invalidate(f"the runtimes disagree by {worst:.3g}: they do not run the same network")
    for name, other, limit in (("plain", PLAIN, 0.5), ("ONNX Runtime", ONNX, 1.25), ("LiteRT", LITERT, 1.25)):
        title = f"CPU of the network alone, exported / {name}"
        values = ratios(record.runs(EXPORT, "CPU"), record.runs(other, "CPU"))
        for value in values:
            record.add(title, "ratio", "", value)
        if name != "plain":
            record.judge(title, "<=", limit, median(values))
