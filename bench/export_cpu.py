"""How much processor time does the exported graph save?

One network, exported as the trainer does it and plainly by `keras.Model.export`, each on an embedded model
server with one thread per operation, all on one core. Requests of one image alternate between the two.

    python bench/export_cpu.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from neurogate_bench import machine, results, systems
from neurogate_bench.processes import processor_seconds
from neurogate_bench.stats import figure, ratios
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.evaluation.ood import fit_distance, taps
from neurogate_trainer.export.serving_graph import save_serving_graph
from neurogate_trainer.model.network import build_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from neurogate_testing.processes import free_port, running
from neurogate_testing.transcript_calls import open_channel
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SIDES = {"default": 224, "demo": 96}
CLASSES, WARM_UP = 4, 20
OOD = "mahalanobis-layout"


def export_both(folder: Path, side: int) -> str:
    """Writes `ours/1` and `plain/1`; returns the name of the plain one's input."""
    model = build_model(TrainConfig(image_size=side), CLASSES)
    random = np.random.default_rng(0)
    # As training leaves them: where they are zero, the runtime would drop the biases, and fusing with them.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    # A distance of the size that training fits; its numbers do not change what it costs.
    features = random.normal(size=(600, taps(model, OOD).shape[1])).astype(np.float32)
    distance = fit_distance(OOD, features, np.arange(600) % CLASSES)
    (folder / "ours" / "1").mkdir(parents=True)
    save_serving_graph(model, folder / "ours" / "1", temperature=1.3, distance=distance)
    _, name = export_plain(model, folder / "plain" / "1")
    return name


def export_plain(model: keras.Model, folder: Path) -> tuple[Any, str]:
    """Exports a network of logits by `keras.Model.export`; returns it loaded again, and its input's name."""
    plain = keras.Model(model.inputs, keras.layers.Softmax(name="probabilities")(model.output))
    plain.export(folder, verbose=False)
    loaded = tf.saved_model.load(str(folder))
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]
    return loaded, str(name)


def request(model: str, name: str, image: np.ndarray, outputs: Sequence[str]) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = model
    tensor = made.inputs[name]
    tensor.dtype = tf.as_dtype(image.dtype).as_datatype_enum
    for side in image.shape:
        tensor.tensor_shape.dim.add().size = side
    tensor.tensor_content = image.tobytes()
    made.output_filter.extend(outputs)
    return made


def measure(side: int, rounds: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of the server's processor time per image, by export and outputs, and by round."""
    image = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        plain_input = export_both(Path(name), side)
        keras.backend.clear_session()
        ports = {model: free_port() for model in ("ours", "plain")}

        def command(model: str) -> list[str]:
            return systems.model_server_command(
                f"--port={ports[model]}",
                f"--model_name={model}",
                f"--model_base_path={name}/{model}",
                "--tensorflow_intra_op_parallelism=1",
                "--tensorflow_inter_op_parallelism=1",
            )

        calls = {
            "plain": ("plain", request("plain", plain_input, image.astype(np.float32), [])),
            "exported, all outputs": ("ours", request("ours", "images", image, [])),
            "exported, what the gateway asks for": (
                "ours",
                request("ours", "images", image, ["probabilities", "ood_score"]),
            ),
            "exported, probabilities": ("ours", request("ours", "images", image, ["probabilities"])),
        }
        spent: dict[str, list[float]] = {series: [] for series in calls}
        with running(command("ours")) as ours, running(command("plain")) as plain:
            servers = {"ours": ours, "plain": plain}
            for server in servers.values():
                server.wait_for("Running gRPC ModelServer", seconds=240)
            with (
                open_channel(f"127.0.0.1:{ports['ours']}") as one,
                open_channel(f"127.0.0.1:{ports['plain']}") as two,
            ):
                stubs = {
                    "ours": prediction_service_pb2_grpc.PredictionServiceStub(one),
                    "plain": prediction_service_pb2_grpc.PredictionServiceStub(two),
                }

                def milliseconds(series: str, number: int) -> float:
                    model, sent = calls[series]
                    before = processor_seconds(servers[model].popen.pid)
                    for _ in range(number):
                        stubs[model].Predict(sent, timeout=60)
                    return (processor_seconds(servers[model].popen.pid) - before) / number * 1e3

                for series in calls:
                    milliseconds(series, WARM_UP)
                for _ in range(rounds):
                    for series, values in spent.items():
                        values.append(milliseconds(series, count))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    cores = machine.pin_to_cores(1)
    began, started_at, load = time.monotonic(), machine.now(), machine.load_average()
    spent = {name: measure(side, arguments.rounds, arguments.requests) for name, side in SIDES.items()}
    figures = [
        figure(
            f"{name}, {preset}, to plain", "processor time per image", "x", ratios(values, series["plain"])
        )
        for preset, series in spent.items()
        for name, values in series.items()
        if name != "plain"
    ]
    absolute = [
        figure(f"{name}, {preset}", "processor time per image", "ms", values)
        for preset, series in spent.items()
        for name, values in series.items()
    ]
    result = results.Result(
        schema=results.SCHEMA,
        scenario="export_cpu",
        title="The exported graph against a plain export",
        question="How much processor time per image does the exported graph take, against Model.export?",
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend=systems.backend_kind(),
        machine=machine.describe_machine(cores),
        versions=machine.describe_versions(),
        source=machine.describe_source(),
        load_average_at_start=load,
        settings={
            "rounds": arguments.rounds,
            "requests": arguments.requests,
            "image_sizes": SIDES,
            "batch": 1,
            "intra_op_parallelism": 1,
        },
        commands={"all": "python bench/export_cpu.py"},
        figures=[*figures, *absolute],
        checks={},
        targets=[results.target(entry["series"], "<=", 0.6, entry["median"], "x") for entry in figures],
        notes=[
            "The same MobileNetV2 with the same head. The plain export computes probabilities alone.",
            "The trainer's also computes logits, evidence maps and the out-of-distribution score.",
            "The server computes only what is asked for.",
            "Processor time of the server process, gRPC and tensor decoding included; one image per request.",
            "The plain export takes float32 pixels over the wire, the trainer's takes uint8.",
        ],
        void=[],
        details={},
    )
    print(results.save(result, arguments.results))
    for entry in figures:
        print(f"{entry['series']}: {entry['median']:.3f} ({entry['min']:.3f} to {entry['max']:.3f})")


if __name__ == "__main__":
    main()
