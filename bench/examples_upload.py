"""An upload of thousands of examples on one stream whose connection is cut: speed, memory, and what is kept.

The gateway is the real command with SQLite, the caller the project's own client behind a proxy that breaks
the connection. Prints one JSON object, and fails unless every image is kept once.

    python bench/examples_upload.py --images 10000 --cuts 5
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
from gateway_startup import FakeBackend, build_manifest, sample_image
from neurogate_client import Client, LabelledImage
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import default_spec
from neurogate_gateway.store.store import Store
from neurogate_testing.cutting_proxy import CuttingProxy, cutting_proxy
from neurogate_testing.gateway_command import serving_command


def upload(proxy: CuttingProxy, images: list[bytes], cuts: int, pid: int) -> dict[str, Any]:
    gateway = psutil.Process(pid)
    resident = [gateway.memory_info().rss / 2**20]
    every = max(1, len(images) // (cuts + 1))
    kept = repeated = done = 0
    begun = time.perf_counter()

    def source() -> Iterator[LabelledImage]:
        for number, image in enumerate(images):
            yield LabelledImage(image=image, class_id="glioma", key=number)

    with Client(proxy.address) as client:
        for result in client.upload_examples(source(), window=64):
            assert not result.error, result.error
            kept += 1
            repeated += result.duplicate
            done += 1
            if done % every == 0 and done // every <= cuts:
                proxy.cut()
            if done % max(1, len(images) // 10) == 0:
                resident.append(gateway.memory_info().rss / 2**20)
    seconds = time.perf_counter() - begun
    return {
        "acknowledged": kept,
        "sent_again": repeated,
        "images_per_second": round(len(images) / seconds, 1),
        "rss_mib": [round(value, 1) for value in resident],
    }


async def measure(count: int, cuts: int) -> dict[str, Any]:
    images = [sample_image(seed, size=(256, 256), kind="JPEG") for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        async with FakeBackend() as backend:
            backend.add_version(1, build_manifest(1, spec=default_spec()))
            async with serving_command(backend, "--data-dir", folder) as (process, _):
                with cutting_proxy(process.address) as proxy:
                    outcome = await asyncio.to_thread(upload, proxy, images, cuts, process.process.pid)
        records = Store(Path(folder), "", max_store_bytes=2**40)
        with records.database.read() as connection:
            rows = connection.exec_driver_sql("SELECT example_id FROM examples").scalars().all()
        assert sorted(rows) == sorted(hashlib.sha256(deidentified(image)).hexdigest() for image in images)
        for identifier in rows:
            assert hashlib.sha256(records.images.read(identifier)).hexdigest() == identifier
        records.close()
    return {
        "machine": {
            "cores": len(psutil.Process().cpu_affinity() or []),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
            "load_average": psutil.getloadavg()[0],
        },
        "images": count,
        "mean_image_bytes": round(statistics.mean(map(len, images))),
        "cuts": cuts,
        **outcome,
        "kept_once_each": len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.images, given.cuts)), indent=2))


if __name__ == "__main__":
    main()
