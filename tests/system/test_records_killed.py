"""kill -9 of real processes that write records: what was acknowledged is there, once, and nothing is half."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from neurogate.v1 import training_pb2 as pb
from neurogate.v1 import training_pb2_grpc
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.store.store import Store
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_command import serving_command

_IMAGES = 300
_KILLS = 5


@contextlib.asynccontextmanager
async def training(backend: FakeBackend, folder: Path, url: str) -> AsyncIterator[tuple[Any, Any]]:
    """The command with records, its process, and a stub of TrainingService."""
    arguments = ["--data-dir", str(folder), "--records-url", url]
    async with (
        serving_command(backend, *arguments) as (command, _),
        grpc.aio.insecure_channel(command.address) as channel,
    ):
        yield command.process, training_pb2_grpc.TrainingServiceStub(channel)


async def upload(stub: Any, missing: dict[str, bytes], acknowledged: dict[str, bool], kill: Any) -> None:
    """Sends what has no answer yet; `kill` is called with every answer."""

    async def send() -> AsyncIterator[pb.UploadExamplesRequest]:
        for key, image in missing.items():
            yield pb.UploadExamplesRequest(key=key, class_id="glioma", data=image)

    async for response in stub.UploadExamples(send()):
        assert response.HasField("example"), response.error
        acknowledged[response.key] = response.example.duplicate
        kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_uploads_lose_and_double_nothing(tmp_path: Path, records_url: str) -> None:
    chance = random.Random(7)
    images = {f"image {number}": sample_image(number) for number in range(_IMAGES)}
    acknowledged: dict[str, bool] = {}
    async with FakeBackend() as backend:
        for attempt in range(_KILLS + 1):
            async with training(backend, tmp_path, records_url) as (process, stub):
                until = len(acknowledged) + chance.randint(1, _IMAGES // _KILLS - 10)

                def kill(process: Any = process, until: int = until, last: bool = attempt == _KILLS) -> None:
                    if not last and len(acknowledged) == until:
                        process.send_signal(signal.SIGKILL)

                listed = await stub.ListExamples(pb.ListExamplesRequest(page_size=500))
                there = {example.example_id for example in listed.examples}
                for key in acknowledged:
                    assert hashlib.sha256(deidentified(images[key])).hexdigest() in there
                missing = {key: image for key, image in images.items() if key not in acknowledged}
                cut = pytest.raises(grpc.aio.AioRpcError) if attempt < _KILLS else contextlib.nullcontext()
                with cut:
                    await upload(stub, missing, acknowledged, kill)
                if attempt < _KILLS:
                    assert await process.wait() == -signal.SIGKILL
    assert len(acknowledged) == _IMAGES
    store = Store(tmp_path, records_url, max_store_bytes=10**9)
    kept = store.examples.page(pb.ExampleFilter(), below=None, limit=1000)
    assert {example.example_id for example in kept} == {
        hashlib.sha256(deidentified(image)).hexdigest() for image in images.values()
    }
    assert len(kept) == _IMAGES
    for example in kept:
        assert hashlib.sha256(store.images.read(example.example_id)).hexdigest() == example.example_id
    store.close()
    assert not list((tmp_path / "images").glob(".incoming/*"))


@pytest.mark.timeout(120)
async def test_the_end_of_a_gateway_writes_its_journal(tmp_path: Path) -> None:
    from neurogate.v1 import classification_pb2

    async with FakeBackend() as backend:
        arguments = ["--data-dir", str(tmp_path), "--prediction-image-days", "1"]
        async with serving_command(backend, *arguments) as (command, stub):
            request = classification_pb2.ClassifyRequest(image=sample_image(1))
            answers = [await stub.Classify(request) for _ in range(20)]
            command.process.terminate()
            assert await command.end() == 0
    store = Store(tmp_path, "", max_store_bytes=10**9)
    for answer in answers:
        found = store.predictions.find(answer.classification.prediction_id)
        assert found is not None
        assert found.image_kept
    store.close()


async def test_records_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"something else" * 100)
    async with FakeBackend() as backend:
        with pytest.raises(AssertionError, match="records_unusable"):
            async with serving_command(backend, "--data-dir", str(tmp_path)):
                pass
