"""The network by itself on one thread: what the exported graph costs beside other runtimes of the same
weights."""

from __future__ import annotations

import json

from neurogate_bench.context import BUILD, Context, Settings
from neurogate_bench.machine import ROOT
from neurogate_bench.processes import run_python

EXPORT, PLAIN, ONNX, LITERT = "exported, TensorFlow", "plain, TensorFlow", "ONNX Runtime", "LiteRT (XNNPACK)"
_OTHERS = "build/bench-venv"
_TO_LITERT = """
import sys, tensorflow as tf
converted = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1]).convert()
open(sys.argv[2], "wb").write(converted)
"""


def network(context: Context, settings: Settings) -> None:
    """CPU-milliseconds per image of each runtime, in turn, each in a process of its own."""
    models, record = context.models, context.record
    plain, onnx, tflite = str(models.plain / "1"), str(BUILD / "network.onnx"), str(BUILD / "network.tflite")
    convert = ["-m", "tf2onnx.convert", "--opset", "17", "--saved-model", plain, "--output", onnx]
    run_python(*convert, environment=_OTHERS)
    run_python("-c", _TO_LITERT, plain, tflite, environment=_OTHERS)
    runtimes = {
        EXPORT: (str(models.optimised / "1"), ".venv"),
        PLAIN: (plain, ".venv"),
        ONNX: (onnx, _OTHERS),
        LITERT: (tflite, _OTHERS),
    }
    answers: dict[str, list[float]] = {}
    for run in range(settings["runs"]):
        for name, (path, environment) in runtimes.items():
            disturbance = context.disturbance()
            printed = run_python(
                str(ROOT / "bench" / "baselines" / "network_cpu.py"),
                f"--runtime={name}",
                f"--path={path}",
                f"--image={context.images[0]}",
                f"--side={models.side}",
                f"--seconds={settings['seconds']}",
                environment=environment,
            )
            disturbance()
            measured = json.loads(printed.splitlines()[-1])
            answers[name] = measured["probabilities"]
            record.add(name, "CPU", "ms/image", measured["cpu_ms"])
            record.add(name, "time", "ms/image", measured["wall_ms"])
        costs = ", ".join(f"{name} {record.runs(name, 'CPU')[-1]:.1f}" for name in runtimes)
        context.step(run, settings["runs"], f"{costs} CPU-ms")
    worst = max(abs(a - b) for name in runtimes for a, b in zip(answers[name], answers[EXPORT], strict=True))
    record.details["largest difference of a probability"] = worst
    if worst > 5e-3:
        record.invalidate(f"the runtimes disagree by {worst:.3g}: they do not run the same network")
    for name, other, limit in (
        ("plain", PLAIN, None),
        ("ONNX Runtime", ONNX, 1.25),
        ("LiteRT", LITERT, 1.25),
    ):
        title = f"CPU of the network alone, exported / {name}"
        record.ratio(title, "CPU", EXPORT, other)
        if limit:
            record.judge_figure(title, "<=", limit, record.figure(title, "ratio"))
