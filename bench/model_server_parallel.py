"""Do two clients of the embedded model server use two cores?

Runs the server with one thread per operation, and one, then two clients that call a model which computes for
some milliseconds. Were the interpreter held during inference, two clients would get no more done than one.

    python bench/model_server_parallel.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from neurogate_bench import machine, results, systems
from neurogate_bench.stats import figure, ratios

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from neurogate_testing.processes import free_port, running
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


def measure(rounds: int, seconds: float) -> dict[int, list[float]]:
    """Requests per second of one client and of two, by round."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(busy := Busy(), f"{folder}/busy/1", signatures={"serving_default": busy.work})
        port = free_port()
        command = systems.model_server_command(
            f"--port={port}",
            "--model_name=busy",
            f"--model_base_path={folder}/busy",
            "--tensorflow_intra_op_parallelism=1",
        )
        with running(command) as server:
            server.wait_for("Running gRPC ModelServer", seconds=120)
            address = f"127.0.0.1:{port}"
            requests_per_second(address, 2, 1)
            for _ in range(rounds):
                for clients, values in rates.items():
                    values.append(requests_per_second(address, clients, seconds))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    cores = machine.pin_to_cores(2)
    began, started_at, load = time.monotonic(), machine.now(), machine.load_average()
    rates = measure(arguments.rounds, arguments.seconds)
    ratio = figure("two clients to one", "throughput", "x", ratios(rates[2], rates[1]))
    result = results.Result(
        schema=results.SCHEMA,
        scenario="model_server_parallel",
        title="Two clients of the embedded model server",
        question="Do two clients of the embedded model server use two cores?",
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend=systems.backend_kind(),
        machine=machine.describe_machine(cores),
        versions=machine.describe_versions(),
        source=machine.describe_source(),
        load_average_at_start=load,
        settings={"rounds": arguments.rounds, "seconds": arguments.seconds, "intra_op_parallelism": 1},
        commands={"all": "python bench/model_server_parallel.py"},
        figures=[ratio, *(figure(f"{n} client(s)", "throughput", "1/s", rates[n]) for n in rates)],
        checks={},
        # Only two free cores can be twice as fast as one.
        targets=[results.target("two clients to one", ">=", 1.6, ratio["median"], "x", absolute=True)],
        notes=[
            "The model multiplies matrices on one thread. The clients run on the same cores as the server.",
            "Rounds with one client and with two alternate.",
        ],
        void=[],
        details={},
    )
    print(results.save(result, arguments.results))
    print(
        f"two clients did {ratio['median']:.2f} times what one did ({ratio['min']:.2f} to {ratio['max']:.2f})"
    )


if __name__ == "__main__":
    main()
