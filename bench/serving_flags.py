"""Why each of the model server's flags has its value. Prints one JSON object.

One network, exported as the trainer does it, on embedded model servers that differ in one flag each, and once
exported plainly on a server with no flags at all. Short bursts of one caller and of four alternate between
them. The flags are TensorFlow Serving's; the embedded server hands them to the same TensorFlow sessions.

    python bench/serving_flags.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import psutil
from export_cpu import export_both, request
from neurogate_bench import machine, systems
from neurogate_testing.processes import RunningProcess, free_port, running
from neurogate_testing.transcript_calls import open_channel
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

ONE_THREAD: Final = "--tensorflow_intra_op_parallelism=1"
CALLERS: Final = 4
WARM_UP: Final = 20
CONTENDERS: Final[dict[str, tuple[str, list[str]]]] = {
    "plain export, default flags": ("plain", []),
    "plain export, as served": ("plain", [ONE_THREAD]),
    "default flags": ("ours", []),
    "as served": ("ours", [ONE_THREAD]),
    "inter_op 1 too": ("ours", [ONE_THREAD, "--tensorflow_inter_op_parallelism=1"]),
    "no inter_op threads": ("ours", ["--tensorflow_session_config_file={folder}/session.config"]),
    "packed answers": ("ours", [ONE_THREAD, "--enable_serialization_as_tensor_content"]),
}
"""By name: which export, and the flags. "as served" is what `serving/` sets; the others differ from it."""

_SESSION_CONFIG: Final = "intra_op_parallelism_threads: 1\ninter_op_parallelism_threads: -1\n"

Call = Callable[[], object]


def cpu_seconds(server: RunningProcess) -> float:
    times = psutil.Process(server.popen.pid).cpu_times()
    return float(times.user + times.system)


def burst(call: Call, server: RunningProcess, pool: ThreadPoolExecutor, count: int) -> dict[str, float]:
    """What one caller and four at once get from a server."""
    durations = []
    before = cpu_seconds(server)
    for _ in range(count):
        begun = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begun)
    alone = cpu_seconds(server) - before
    before, begun = cpu_seconds(server), time.perf_counter()
    for done in [pool.submit(call) for _ in range(count)]:
        done.result()
    return {
        "p50, one caller": statistics.median(durations) * 1e3,
        "CPU, one caller": alone / count * 1e3,
        "CPU, four callers": (cpu_seconds(server) - before) / count * 1e3,
        "images/s, four callers": count / (time.perf_counter() - begun),
    }


def measure(side: int, rounds: int, count: int) -> dict[str, dict[str, list[float]]]:
    """By figure and contender, a value for each round."""
    image = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plain_input = export_both(Path(folder), side)
        keras.backend.clear_session()
        Path(folder, "session.config").write_text(_SESSION_CONFIG)
        requests: dict[str, predict_pb2.PredictRequest] = {
            "ours": request("ours", "images", image, ["probabilities", "ood_score"]),
            "plain": request("plain", plain_input, image.astype(np.float32), []),
        }
        pool = stack.enter_context(ThreadPoolExecutor(CALLERS))
        calls: dict[str, tuple[Call, RunningProcess]] = {}
        for name, (model, flags) in CONTENDERS.items():
            port = free_port()
            command = systems.model_server_command(
                f"--port={port}",
                f"--model_name={model}",
                f"--model_base_path={folder}/{model}",
                *(flag.format(folder=folder) for flag in flags),
            )
            server = stack.enter_context(running(command))
            server.wait_for("Running gRPC ModelServer", seconds=240)
            channel = stack.enter_context(open_channel(f"127.0.0.1:{port}"))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

            def call(
                stub: prediction_service_pb2_grpc.PredictionServiceStub = stub, model: str = model
            ) -> object:
                return stub.Predict(requests[model], timeout=60)

            for _ in range(WARM_UP):
                call()
            calls[name] = (call, server)
        for _ in range(rounds):
            for name, (call, server) in calls.items():
                for figure, value in burst(call, server, pool, count).items():
                    found.setdefault(figure, {}).setdefault(name, []).append(round(value, 3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="per burst")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    machine.pin_to_cores(arguments.cores)
    json.dump(measure(arguments.side, arguments.rounds, arguments.requests), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
