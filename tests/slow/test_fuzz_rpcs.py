"""Mutated requests and streams to every RPC: each is answered, none as a defect, and nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from neurogate.v1 import classification_pb2
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing import dicom_mutations, images
from neurogate_testing.fake_backend import CLASSES, fake_outputs, sample_image
from neurogate_testing.fuzzing import fuzz_seconds, fuzz_seed, keep, repeat
from neurogate_testing.gateway_harness import Harness, serving_gateway
from neurogate_testing.releases import released_gateway
from neurogate_testing.request_mutations import Vocabulary
from neurogate_testing.rpc_fuzzer import RpcFuzzer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(fuzz_seconds() + 240)]

MOST_BYTES_MORE = 64 * 2**20
IMAGE = sample_image(3)


def vocabulary() -> Vocabulary:
    sound = images.sound()
    encoded = [IMAGE, *sound.values(), *images.truncated().values(), *images.bombs().values(), b"", b"?"]
    encoded += dicom_mutations.sound_files().values()
    return Vocabulary(
        {
            "image": encoded,
            "data": encoded,
            "class_id": [name for name, _ in CLASSES],
            "class_ids": [name for name, _ in CLASSES],
            "version": [1, 2],
            "base_version": [1],
            "name": ["brain_tumor"],
            "label": ["stable", "candidate"],
            "key": ["head_epochs", "batch_size", "learning_rate"],
            "value": ["1", "8", "0.001"],
            "launcher": ["local", "ray"],
            "request_id": ["", *map(str, range(60))],
            "page_size": [0, 1, 50],
            "top_k": [0, 1, 4],
            "frame": [0, 1, 2],
            "seconds": [0, 1_700_000_000],
            "nanos": [0, 500_000_000],
        }
    )


@contextlib.asynccontextmanager
async def gateway_with_everything(tmp_path: Path) -> AsyncIterator[Harness]:
    """Two versions, a release with a gate, records, and retrainings that nobody runs."""
    for number in range(4):
        path = tmp_path / "sealed" / CLASSES[number][0] / "image.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(sample_image(number))
    changes = {
        "data_dir": str(tmp_path / "data"),
        "evaluation_data": str(tmp_path / "sealed"),
        "prediction_image_days": 1.0,
        "min_examples_per_class": 0,
        "max_queued_retrainings": 1000,
        "max_image_bytes": 2**20,
    }
    async with released_gateway(tmp_path / "models", 2, **changes) as at:
        assert at.gateway.gateway.training is not None
        retrainings = at.gateway.gateway.training.retrainings
        retrainings._launchers = ("local", "ray")
        retrainings._base_versions = lambda: [1, 2]
        yield at.gateway


async def check_serving(gateway: Harness) -> None:
    answer = await gateway.classification.Classify(classification_pb2.ClassifyRequest(image=IMAGE))
    pixels = transform(IMAGE, default_spec(32, 32))[np.newaxis]
    right = fake_outputs(pixels, answer.model.version)["probabilities"][0]
    assert answer.classification.scores[0].class_id == CLASSES[int(right.argmax())][0]
    assert answer.classification.scores[0].probability == pytest.approx(float(right.max()), abs=1e-6)


async def fuzz(gateway: Harness, tmp_path: Path, seconds: float) -> None:
    process = psutil.Process()
    await check_serving(gateway)
    tasks = len(asyncio.all_tasks())
    fuzzer = RpcFuzzer(gateway.gateway.address, vocabulary(), fuzz_seed())
    begun = time.monotonic()
    # Threads, caches and buffers come with the first calls.
    await asyncio.to_thread(fuzzer.run, begun + seconds / 3)
    gc.collect()
    threads, files, resident = threading.active_count(), process.num_fds(), process.memory_info().rss
    await asyncio.to_thread(fuzzer.run, begun + seconds)
    print(f"\n{fuzzer.report()}\nagain: {repeat('test_fuzz_rpcs.py')}")
    for finding in fuzzer.findings:
        for place, message in enumerate(finding.messages):
            print("kept:", keep(tmp_path, f"{finding.number}-{finding.method}-{place}.bin", message))
    assert not fuzzer.findings
    assert len(fuzzer.counts) == len(fuzzer.methods)
    await gateway.gateway._interceptor.idle()
    await check_serving(gateway)
    # Calls that were cancelled end by and by; polls come and go.
    while len(asyncio.all_tasks()) > tasks + 2:
        await check_serving(gateway)
    gc.collect()
    more = process.memory_info().rss - resident
    print(f"memory {more / 2**20:+.1f} MiB, threads {threads} -> {threading.active_count()}, ", end="")
    print(f"files {files} -> {process.num_fds()}, tasks {tasks} -> {len(asyncio.all_tasks())}")
    assert more < MOST_BYTES_MORE
    assert threading.active_count() <= threads + 16
    assert process.num_fds() <= files + 8


async def test_every_rpc(tmp_path: Path) -> None:
    async with gateway_with_everything(tmp_path) as gateway:
        await fuzz(gateway, tmp_path, 0.75 * fuzz_seconds())


async def test_every_rpc_of_a_gateway_without_records_and_repository(tmp_path: Path) -> None:
    async with serving_gateway(max_image_bytes=2**20) as (gateway, _):
        await fuzz(gateway, tmp_path, 0.25 * fuzz_seconds())
