"""What the journal of predictions costs Classify, in CPU time and in throughput. Prints one JSON object.

Three gateways, each the real command in front of the tests' stand-in for TensorFlow Serving: two without a
journal, whose difference is the measurement's own error, and one with it. They answer short bursts in an
order that chance decides, so that what else the machine does meets all alike. CPU time is the kernel's
account of all threads of a gateway, the writing of rows after a burst included.

    python bench/journal_cost.py --blocks 20
    python bench/journal_cost.py --keep-images
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import random
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
from neurogate_core.preprocessing.transform import default_spec
from neurogate_gateway.store.store import Store
from neurogate_testing.gateway_command import Process, serving_command

CONCURRENCY = 8
"""Enough to keep a gateway busy without a queue."""
BURSTS = 12
"""Of a block; after each block everything that is written late has been written."""


class Contender:
    """One gateway, and what it took per image, block by block."""

    def __init__(self, pid: int, channel: grpc.aio.Channel) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        self._seconds = 0.0
        self._cpu_begun = 0.0
        self.cpu_us: list[float] = []
        self.wall_us: list[float] = []

    def _cpu(self) -> float:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e9

    def begin(self) -> None:
        self._cpu_begun, self._seconds = self._cpu(), 0.0

    def end(self, images: int) -> None:
        self.cpu_us.append((self._cpu() - self._cpu_begun) / images * 1e6)
        self.wall_us.append(self._seconds / images * 1e6)

    async def burst(self, images: list[bytes], count: int) -> None:
        numbers = iter(range(count))

        async def caller() -> None:
            for number in numbers:
                image = images[number % len(images)]
                await self._stub.Classify(classification_pb2.ClassifyRequest(image=image))

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
        self._seconds += time.perf_counter() - begun


async def measure(blocks: int, count: int, *, keep_images: bool) -> dict[str, Any]:
    images = [sample_image(seed, size=(512, 512), kind="JPEG") for seed in range(32)]
    with tempfile.TemporaryDirectory() as folder:
        journal = ["--data-dir", folder, *(["--prediction-image-days", "1"] if keep_images else [])]
        recording: Process | None = None
        async with contextlib.AsyncExitStack() as stack:
            backend = await stack.enter_async_context(FakeBackend())
            backend.add_version(1, build_manifest(1, spec=default_spec()))
            contenders = {}
            for name, arguments in (("without", []), ("control", []), ("with", journal)):
                process, _ = await stack.enter_async_context(serving_command(backend, *arguments))
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(process.address))
                contenders[name] = Contender(process.process.pid, channel)
                recording = process
            order = list(contenders.values())
            for contender in order * 2:
                await contender.burst(images, count)
            await asyncio.sleep(2)
            for _ in range(blocks):
                for contender in order:
                    contender.begin()
                for _ in range(BURSTS):
                    random.shuffle(order)
                    for contender in order:
                        await contender.burst(images, count)
                await asyncio.sleep(1.5)
                for contender in order:
                    contender.end(BURSTS * count)
            assert recording is not None
            recording.process.terminate()
            await recording.end()
        records = Store(Path(folder), "", max_store_bytes=2**40)
        with records.database.read() as connection:
            written = connection.exec_driver_sql("SELECT count(*) FROM predictions").scalar_one()
        records.close()
    without, control, having = contenders["without"], contenders["control"], contenders["with"]
    return {
        "machine": {
            "cores": len(psutil.Process().cpu_affinity() or []),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
            "load_average": psutil.getloadavg()[0],
        },
        "images_per_gateway": (blocks * BURSTS + 2) * count,
        "image_bytes": round(statistics.mean(map(len, images))),
        "keeps_images": keep_images,
        "predictions_written": written,
        "cpu_us_per_image": {name: round(statistics.mean(c.cpu_us)) for name, c in contenders.items()},
        "images_per_second": {
            name: round(1e6 / statistics.mean(c.wall_us), 1) for name, c in contenders.items()
        },
        "journal_cpu_percent": compare(without.cpu_us, control.cpu_us, having.cpu_us),
        "journal_time_percent": compare(without.wall_us, control.wall_us, having.wall_us),
    }


def compare(without: list[float], control: list[float], having: list[float]) -> dict[str, float]:
    """What the third takes more than the mean of the first two, and the first two differ, in percent."""
    base = [(a + b) / 2 for a, b in zip(without, control, strict=True)]
    more = [(c / b - 1) * 100 for b, c in zip(base, having, strict=True)]
    noise = [(a / b - 1) * 100 for a, b in zip(without, control, strict=True)]
    return {
        "mean": round(statistics.mean(more), 2),
        "median": round(statistics.median(more), 2),
        "standard_error": round(statistics.stdev(more) / len(more) ** 0.5, 2),
        "control_mean": round(statistics.mean(noise), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--images", type=int, default=60, help="per burst")
    parser.add_argument("--keep-images", action="store_true", help="keep the images of predictions too")
    given = parser.parse_args()
    print(
        json.dumps(asyncio.run(measure(given.blocks, given.images, keep_images=given.keep_images)), indent=2)
    )


if __name__ == "__main__":
    main()
