"""Where the gateway's CPU time goes for one image, stage by stage and as a whole. Prints one JSON object.

CPU time and not wall time: it does not grow when the machine has other work. The whole is the real command in
front of the tests' stand-in for TensorFlow Serving; the stages are its functions, called here.

    python bench/gateway_budget.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
from gateway_startup import FakeBackend, Gateway, build_manifest, sample_image
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import classification_pb2, classification_pb2_grpc
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_gateway.backends.tfs_messages import Outputs, predict_images_request, read_outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.inference.predictions import ResolvedVersion, StageTimings, classification


def cpu_us(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of one call in microseconds, over ten rounds."""
    rounds = []
    for _ in range(10):
        begun = time.process_time()
        for _ in range(repeats):
            work()
        rounds.append((time.process_time() - begun) / repeats * 1e6)
    return round(statistics.median(rounds), 1)


def stages(image: bytes) -> dict[str, float]:
    spec = default_spec()
    pixels = transform(image, spec)
    message = classification_pb2.ClassifyRequest(image=image).SerializeToString()
    answer = tfs_pb2.PredictResponse()
    answer.model_spec.version.value = 1
    for name, shape in (("probabilities", (1, 4)), ("ood_score", (1,))):
        tensor = answer.outputs[name]
        tensor.dtype = tfs_pb2.DATA_TYPE_FLOAT
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend([0.25] * int(np.prod(shape)))
    encoded = answer.SerializeToString()
    choice = ResolvedVersion(ServedVersion("m", 1, build_manifest(1), "0" * 64), "stable", 0)
    outputs = Outputs(np.full(4, 0.25, np.float32), 0.1)
    seconds = StageTimings(0.001, 0.001, 0.001)
    return {
        "parse request": cpu_us(lambda: classification_pb2.ClassifyRequest.FromString(message), 2000),
        "transform": cpu_us(lambda: transform(image, spec), 50),
        "serialize tensor": cpu_us(lambda: predict_images_request("m", 1, pixels, gradcam=False), 1000),
        "read outputs": cpu_us(
            lambda: read_outputs(encoded, 1, classes=4, gradcam=False),
            2000,
        ),
        "shape answer": cpu_us(lambda: classification(choice, outputs, seconds).SerializeToString(), 2000),
    }


async def whole(image: bytes, count: int) -> dict[str, float]:
    async with FakeBackend() as backend:
        backend.add_version(1, build_manifest(1, spec=default_spec()))
        gateway = await Gateway.start(backend)
        process = psutil.Process(gateway.process.pid)

        def cpu() -> float:
            times = process.cpu_times()
            return float(times.user + times.system)

        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub = classification_pb2_grpc.ClassificationServiceStub(channel)
            request = classification_pb2.ClassifyRequest(image=image)
            for _ in range(50):
                await stub.Classify(request)
            before = cpu()
            for _ in range(count):
                await stub.Classify(request)
            unary = cpu() - before

            async def send() -> AsyncIterator[classification_pb2.StreamClassifyRequest]:
                for _ in range(count):
                    yield classification_pb2.StreamClassifyRequest(image=image)

            before = cpu()
            answers = [response async for response in stub.StreamClassify(send())]
            stream = cpu() - before
            assert len(answers) == count
        await gateway.stop()
    return {"Classify": round(unary / count * 1e6), "StreamClassify": round(stream / count * 1e6)}


def measure(count: int) -> dict[str, Any]:
    image = sample_image(1, size=(512, 512), kind="JPEG")
    return {
        "grpcio": grpc.__version__,
        "image": {"format": "JPEG", "size": [512, 512], "bytes": len(image)},
        "stage_cpu_us": stages(image),
        "whole_cpu_us_per_image": asyncio.run(whole(image, count)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    print(json.dumps(measure(parser.parse_args().images), indent=2))


if __name__ == "__main__":
    main()
