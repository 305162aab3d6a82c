"""One network in one process on one thread: CPU and wall time per image, and the answer, as one JSON line."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

Run = Callable[[], np.ndarray]


def tensorflow_run(path: str, pixels: np.ndarray, *, exported: bool) -> Run:
    """A SavedModel in a session, as a model server runs it: only what the gateway asks for is computed."""
    import tensorflow as tf  # noqa: PLC0415 - each runtime is installed in its own environment

    options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = loaded.signature_def["serving_default"]
    wanted = ["probabilities", "ood_score"] if exported else list(signature.outputs)
    feed = next(iter(signature.inputs.values())).name
    fetches = [signature.outputs[name].name for name in wanted]
    call = session.make_callable(fetches, feed_list=[feed])
    images = pixels if exported else pixels.astype(np.float32)
    return lambda: call(images)[0][0]


def onnx_run(path: str, pixels: np.ndarray) -> Run:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: pixels.astype(np.float32)}
    return lambda: session.run(None, feed)[0][0]


def litert_run(path: str, pixels: np.ndarray) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels.astype(np.float32))
    output = interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.invoke()
        return interpreter.get_tensor(output)[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    size = (arguments.side, arguments.side)
    picture = Image.open(arguments.image).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)[np.newaxis]
    if arguments.runtime.startswith("ONNX"):
        run = onnx_run(arguments.path, pixels)
    elif arguments.runtime.startswith("LiteRT"):
        run = litert_run(arguments.path, pixels)
    else:
        run = tensorflow_run(arguments.path, pixels, exported=arguments.runtime.startswith("exported"))
    for _ in range(10):
        probabilities = run()
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < arguments.seconds:
        run()
        count += 1
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    outcome = {
        "cpu_ms": 1000 * cpu / count,
        "wall_ms": 1000 * wall / count,
        "probabilities": probabilities.tolist(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
