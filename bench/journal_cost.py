"""What the journal of predictions costs Classify: two gateways, with it and without, in turns. Prints JSON.

Both are the real command in front of the tests' stand-in for TensorFlow Serving. In every round each of them
answers the same burst of calls, and the one that begins changes from round to round, so that what else the
machine does meets both alike. Only the ratios of pairs mean something.

    python bench/journal_cost.py --rounds 20 --images 500
    python bench/journal_cost.py --keep-images
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from gateway_startup import FakeBackend, build_manifest, sample_image
from neurogate.v1 import classification_pb2, classification_pb2_grpc
from neurogate_gateway.records.opened import Records
from neurogate_serving.transform import default_spec
from neurogate_testing.gateway_command import serving_command

CONCURRENCY = 8
"""Enough to keep the gateway busy without a queue."""


class Contender:
    """One gateway, and what its bursts took."""

    def __init__(self, pid: int, channel: grpc.aio.Channel) -> None:
        self._process = psutil.Process(pid)
        self._stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def burst(self, images: list[bytes], count: int) -> None:
        numbers = iter(range(count))

        async def caller() -> None:
            for number in numbers:
                await self._stub.Classify(
                    classification_pb2.ClassifyRequest(image=images[number % len(images)])
                )

        cpu, begun = self._cpu(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
        self.seconds.append(time.perf_counter() - begun)
        # Rows of the last batch are written after the last answer, and belong to the burst.
        await asyncio.sleep(0.5)
        self.cpu_seconds.append(self._cpu() - cpu)


async def measure(rounds: int, count: int, *, keep_images: bool) -> dict[str, Any]:
    images = [sample_image(seed, size=(512, 512), kind="JPEG") for seed in range(32)]
    with tempfile.TemporaryDirectory() as folder:
        journal = ["--data-dir", folder, *(["--prediction-image-days", "1"] if keep_images else [])]
        async with FakeBackend() as backend:
            backend.add_version(1, build_manifest(1, spec=default_spec()))
            async with (
                serving_command(backend) as (plain, _),
                serving_command(backend, *journal) as (recording, _),
                grpc.aio.insecure_channel(plain.address) as plain_channel,
                grpc.aio.insecure_channel(recording.address) as recording_channel,
            ):
                without = Contender(plain.process.pid, plain_channel)
                having = Contender(recording.process.pid, recording_channel)
                for round_ in range(rounds + 1):
                    for contender in (without, having) if round_ % 2 else (having, without):
                        await contender.burst(images, count)
                recording.process.terminate()
                await recording.end()
        dropped = [line for line in recording.lines if line["event"] == "journal_dropped"]
        records = Records(Path(folder), "", max_store_bytes=2**40)
        with records.database.read() as connection:
            written = connection.exec_driver_sql("SELECT count(*) FROM predictions").scalar_one()
        records.close()
    # The first round warms both up.
    speed = [a / b for a, b in zip(without.seconds[1:], having.seconds[1:], strict=True)]
    cpu = [b / a for a, b in zip(without.cpu_seconds[1:], having.cpu_seconds[1:], strict=True)]
    return {
        "machine": {
            "cores": len(psutil.Process().cpu_affinity() or []),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
            "load_average": psutil.getloadavg()[0],
        },
        "images": count * (rounds + 1),
        "image_bytes": round(statistics.mean(map(len, images))),
        "keeps_images": keep_images,
        "predictions_written": written,
        "predictions_dropped": sum(line["predictions"] for line in dropped),
        "images_per_second": {
            "without": round(count / statistics.median(without.seconds[1:]), 1),
            "with": round(count / statistics.median(having.seconds[1:]), 1),
        },
        "throughput_with_to_without": quartiles(speed),
        "cpu_ms_per_image": {
            "without": round(statistics.median(without.cpu_seconds[1:]) / count * 1000, 3),
            "with": round(statistics.median(having.cpu_seconds[1:]) / count * 1000, 3),
        },
        "cpu_with_to_without": quartiles(cpu),
    }


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"lower_quartile": round(low, 4), "median": round(median, 4), "upper_quartile": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=500, help="per burst")
    parser.add_argument("--keep-images", action="store_true", help="keep the images of predictions too")
    given = parser.parse_args()
    print(
        json.dumps(asyncio.run(measure(given.rounds, given.images, keep_images=given.keep_images)), indent=2)
    )


if __name__ == "__main__":
    main()
