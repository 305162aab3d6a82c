"""How soon the gateway takes calls, and how much memory it holds idle and through a long stream.

The gateway runs as the real command, against the tests' stand-in for TensorFlow Serving in this process, so
that the figures are the gateway's own. Prints one JSON object.

    python bench/gateway_startup.py --starts 7 --images 5000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from neurogate.v1 import classification_pb2, classification_pb2_grpc
from neurogate_core.preprocessing.transform import default_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.processes import script

SERVING = "version_ready"


class Gateway:
    """One gateway process and the times at which it logged its events."""

    def __init__(self, process: asyncio.subprocess.Process, begun: float) -> None:
        self.process = process
        self._begun = begun
        self.milliseconds: dict[str, float] = {}
        self.cpu_ms = 0.0
        self.address = ""

    @classmethod
    async def start(cls, backend: FakeBackend) -> Gateway:
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            script("neurogate-gateway"),
            *("--listen", "127.0.0.1:0", "--backend-address", backend.address),
            stderr=asyncio.subprocess.PIPE,
        )
        gateway = cls(process, begun)
        assert process.stderr is not None
        while SERVING not in gateway.milliseconds:
            event = json.loads(await process.stderr.readline())
            gateway.milliseconds[event["event"]] = (time.perf_counter() - begun) * 1000
            gateway.address = event.get("address", gateway.address)
        times = psutil.Process(process.pid).cpu_times()
        gateway.cpu_ms = (times.user + times.system) * 1000
        return gateway

    def resident_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    async def stop(self) -> None:
        self.process.terminate()
        await self.process.communicate()


async def startup(backend: FakeBackend, starts: int) -> dict[str, Any]:
    listening, ready, idle, cpu = [], [], [], []
    for _ in range(starts):
        gateway = await Gateway.start(backend)
        listening.append(gateway.milliseconds["listening"])
        ready.append(gateway.milliseconds[SERVING])
        idle.append(gateway.resident_mib())
        cpu.append(gateway.cpu_ms)
        await gateway.stop()
    return {
        "starts": starts,
        "listening_ms": summary(listening),
        "first_version_ready_ms": summary(ready),
        # Unlike the times above, this one does not grow when the machine has other work.
        "cpu_until_ready_ms": summary(cpu),
        "idle_rss_mib": summary(idle),
    }


async def streaming(backend: FakeBackend, count: int) -> dict[str, Any]:
    images = [sample_image(seed, size=(512, 512), kind="JPEG") for seed in range(32)]
    gateway = await Gateway.start(backend)
    resident = [gateway.resident_mib()]
    seen: set[str] = set()

    async def send() -> AsyncIterator[classification_pb2.StreamClassifyRequest]:
        for index in range(count):
            yield classification_pb2.StreamClassifyRequest(key=str(index), image=images[index % len(images)])

    begun = time.perf_counter()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        async for response in stub.StreamClassify(send()):
            assert response.HasField("classification")
            assert response.key not in seen
            seen.add(response.key)
            if len(seen) % max(1, count // 10) == 0:
                resident.append(gateway.resident_mib())
    seconds = time.perf_counter() - begun
    await gateway.stop()
    assert len(seen) == count
    return {
        "images": count,
        "mean_image_bytes": round(statistics.mean(map(len, images))),
        "images_per_second": round(count / seconds, 1),
        "rss_mib_at_tenths": [round(value, 1) for value in resident],
        "rss_mib_max": round(max(resident), 1),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


async def measure(starts: int, images: int) -> dict[str, Any]:
    async with FakeBackend() as backend:
        backend.add_version(1, build_manifest(1, spec=default_spec()))
        return {
            "machine": {
                "cores": len(psutil.Process().cpu_affinity() or []),
                "python": platform.python_version(),
                "grpcio": grpc.__version__,
                "load_average": psutil.getloadavg()[0],
            },
            "startup": await startup(backend, starts),
            "stream": await streaming(backend, images),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.starts, arguments.images)), indent=2))


if __name__ == "__main__":
    main()
