"""Do two clients of the embedded model server use two cores?

Runs the server with one thread per operation, and one, then two clients that call a model which computes for
some milliseconds. Were the interpreter held during inference, two clients would get no more done than one.
Figures are medians of several rounds, taken in turns so that a change of the machine's mood meets both.

    python bench/model_server_parallel.py --output bench/results/model_server_parallel.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from neurogate_testing.processes import free_port, running, script
from neurogate_testing.transcript_calls import open_channel
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

LOOPS = 400


class Busy(tf.Module):
    """Multiplies a 128x128 matrix over and over: arithmetic, on one thread."""

    @tf.function(input_signature=[tf.TensorSpec([None, 128], tf.float32, "x")])
    def work(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        matrix = tf.random.stateless_uniform([128, 128], [1, 2]) / 128.0
        step = lambda turn, value: (turn + 1, tf.tanh(tf.matmul(value, matrix)))  # noqa: E731
        _, result = tf.while_loop(lambda turn, _: turn < LOOPS, step, (tf.constant(0), x))
        return {"y": result}


def requests_per_second(address: str, clients: int, seconds: float) -> float:
    counts = [0] * clients
    stop = threading.Event()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "busy"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((64, 128), np.float32)))

    def client(number: int) -> None:
        with open_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.is_set():
                stub.Predict(request, timeout=60)
                counts[number] += 1

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(busy := Busy(), f"{folder}/busy/1", signatures={"serving_default": busy.work})
        port = free_port()
        command = [
            script("neurogate-model-server"),
            f"--port={port}",
            "--model_name=busy",
            f"--model_base_path={folder}/busy",
            "--tensorflow_intra_op_parallelism=1",
        ]
        rates: dict[int, list[float]] = {1: [], 2: []}
        loads: list[float] = []
        with running(command) as server:
            server.wait_for("Running gRPC ModelServer", seconds=120)
            address = f"127.0.0.1:{port}"
            requests_per_second(address, 2, 1)
            for _ in range(arguments.rounds):
                for clients, values in rates.items():
                    loads.append(os.getloadavg()[0])
                    values.append(requests_per_second(address, clients, arguments.seconds))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    result = {
        "what": "requests per second of two clients, as a multiple of one client's",
        "ratio": {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "rounds": ratios,
        },
        "requests_per_second": {str(clients): values for clients, values in rates.items()},
        "milliseconds_per_request_alone": 1000 / statistics.median(rates[1]),
        "machine": {
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "platform": platform.platform(),
            "load_average_before_each_run": loads,
        },
        "versions": {name: version(name) for name in ("tensorflow", "grpcio", "neurogate")},
        "command": "python bench/model_server_parallel.py "
        f"--rounds {arguments.rounds} --seconds {arguments.seconds:g}",
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
