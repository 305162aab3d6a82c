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
    """A SavedModel's own signature, as the model server calls it; the export is fed uint8, the plain one
    float32."""
    import tensorflow as tf  # noqa: PLC0415 - each runtime is installed in its own environment

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(path)
    function = loaded.signatures["serving_default"]
    name = next(iter(function.structured_input_signature[1]))
    images = tf.constant(pixels if exported else pixels.astype(np.float32))
    if exported:
        # The server fetches only what is asked for, so that nothing else must be computed here.
        function = function_of(loaded, function, ["probabilities", "ood_score"])
        return lambda: function(images)[0].numpy()[0]
    return lambda: next(iter(function(**{name: images}).values())).numpy()[0]


def function_of(loaded: object, function: object, outputs: list[str]) -> Callable[..., list[object]]:
    """The signature with some of its outputs only, pruned as a session's fetch prunes it."""
    feeds = [function.inputs[0]]
    fetches = [function.structured_outputs[name] for name in outputs]
    pruned = function.prune(feeds, [function.graph.get_tensor_by_name(fetch.name) for fetch in fetches])
    pruned.keep = loaded  # variables live as long as the object that owns them
    return pruned


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
    """Command line."""
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
