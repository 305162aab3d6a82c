"""What callers notice of a retraining on the same machine: latency and failures beside it, and without it.

    neurogate demo --dir DIR
    python bench/retrain_beside.py DIR/models DIR/run

On a copy of the repository, with the real commands: the capacity is measured with callers that wait for their
answers; then single images come at a quarter of that rate, at fixed times whether or not the ones before were
answered, first without a retraining, then in the middle of one, then without again. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
from neurogate.v1 import classification_pb2, classification_pb2_grpc
from neurogate_bench import systems
from neurogate_bench.machine import describe_machine, load_average, pin_to_cores
from neurogate_bench.processes import Server, free_port
from neurogate_bench.stats import percentile
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client
from neurogate_client.results_training import Progressed
from neurogate_core.model_config import default_config, write_config

MODEL = "brain_tumor"
CALLERS = 4
LONGEST_SECONDS = 30.0


@contextmanager
def service(models: Path, base_run: Path, folder: Path) -> Iterator[str]:
    """Model server and gateway; yields the gateway's address."""
    config = models / "models.config"
    write_config(config, default_config(MODEL, models / MODEL))
    backend, target = free_port(), f"127.0.0.1:{free_port()}"
    bin_folder = Path(sys.executable).parent
    server = systems.model_server_command(
        f"--port={backend}",
        f"--model_config_file={config}",
        *MODEL_SERVER_FLAGS,
    )
    gateway = [
        str(bin_folder / "neurogate-gateway"),
        f"--listen={target}",
        f"--backend-address=127.0.0.1:{backend}",
        f"--repository={models}",
        f"--data-dir={folder / 'records'}",
        f"--base-run={base_run}",
        "--min-examples-per-class=0",
    ]
    with Server("model-server", server), Server("gateway", gateway):
        with Client(target) as client:
            client.wait_until_ready(300)
        yield target


async def closed_loop(target: str, images: list[bytes], seconds: float) -> float:
    """Images per second that callers who wait for each answer get."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        end = time.monotonic() + seconds
        counts = [0] * CALLERS

        async def call(number: int) -> None:
            for image in itertools.cycle(images):
                if time.monotonic() > end:
                    return
                await stub.Classify(classification_pb2.ClassifyRequest(image=image), timeout=LONGEST_SECONDS)
                counts[number] += 1

        await asyncio.gather(*(call(number) for number in range(CALLERS)))
        return sum(counts) / seconds


async def open_loop(target: str, images: list[bytes], rate: float, seconds: float) -> dict[str, float]:
    """Latencies from the moment at which an image was due, in milliseconds."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        latencies: list[float] = []
        failures: list[str] = []

        async def call(image: bytes, due: float) -> None:
            try:
                await stub.Classify(classification_pb2.ClassifyRequest(image=image), timeout=LONGEST_SECONDS)
                latencies.append((time.monotonic() - due) * 1000)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")

        begun = time.monotonic()
        tasks = []
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(call(images[number % len(images)], due)))
        await asyncio.gather(*tasks)
        return {
            "images": len(tasks),
            "failed": len(failures),
            "p50_ms": round(percentile(latencies, 50), 2),
            "p99_ms": round(percentile(latencies, 99), 2),
            "load_average": load_average(),
        }


def until_learning(client: Client, run_id: str) -> None:
    """Returns in the middle of the second epoch of fine-tuning."""
    for event in client.watch_retraining(run_id):
        if isinstance(event, Progressed) and event.phase == "fine-tune" and event.epoch >= 2:
            return
    raise SystemExit(f"the retraining ended: {client.get_retraining(run_id).error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("base_run", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    options = parser.parse_args()
    cores = pin_to_cores(2)
    sealed = json.loads((options.base_run / "evaluation.json").read_text())
    published = json.loads((options.base_run / "published.json").read_text())
    images = [(Path(sealed["root"]) / entry["path"]).read_bytes() for entry in sealed["images"][:64]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(options.repository / MODEL, folder / "models" / MODEL)
        with (
            service(folder / "models", options.base_run.absolute(), folder) as target,
            Client(target) as client,
        ):
            asyncio.run(closed_loop(target, images, 5))
            capacity = asyncio.run(closed_loop(target, images, options.seconds / 2))
            rate = capacity / 4
            before = asyncio.run(open_loop(target, images, rate, options.seconds))
            run = client.start_retraining(
                warm_start_version=published["version"], hyperparameters={"epochs": 100, "patience": 100}
            )
            until_learning(client, run.retraining_id)
            beside = asyncio.run(open_loop(target, images, rate, options.seconds))
            still = client.get_retraining(run.retraining_id).state
            client.cancel_retraining(run.retraining_id)
            for _ in client.watch_retraining(run.retraining_id):
                pass
            after = asyncio.run(open_loop(target, images, rate, options.seconds))
    idle = min(before["p99_ms"], after["p99_ms"])
    result = {
        "machine": describe_machine(cores),
        "capacity_per_s": round(capacity, 1),
        "rate_per_s": round(rate, 1),
        "without": before,
        "beside_a_retraining": beside,
        "without_again": after,
        "retraining_was": still.value,
        "p99_ratio": round(beside["p99_ms"] / idle, 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
