"""UploadExamples over real sockets: an answer for every item, once it is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.errors import RecordsUnavailableError
from neurogate_gateway.store.examples import Kept
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import Harness, failure_of, running_gateway, serving_gateway
from neurogate_testing.images import encode, sample
from PIL import Image

Request = pb.UploadExamplesRequest


async def upload(gateway: Harness, requests: Iterable[Request]) -> list[pb.UploadExamplesResponse]:
    async def send() -> AsyncIterator[Request]:
        for request in requests:
            yield request

    return [response async for response in gateway.training.UploadExamples(send())]


async def failed_upload(gateway: Harness) -> str:
    # Nothing is written: a stream that ends while it is written to has a status of grpc.aio's client's own.
    call = gateway.training.UploadExamples()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    return failure_of(error.value).reason


def reason(response: pb.UploadExamplesResponse) -> str:
    return failure_of(response.error).reason if response.HasField("error") else ""


async def listed(gateway: Harness) -> dict[str, str]:
    response = await gateway.training.ListExamples(pb.ListExamplesRequest(page_size=500))
    return {example.example_id: example.class_id for example in response.examples}


async def test_images_are_kept_and_acknowledged_in_order(tmp_path: Path) -> None:
    async with serving_gateway(data_dir=str(tmp_path)) as (gateway, _):
        images = [sample_image(seed) for seed in range(100)]
        requests = [
            Request(key=f"k{n}", class_id="pituitary", data=image, group=f"g{n % 3}")
            for n, image in enumerate(images)
        ]
        responses = await upload(gateway, requests)
        assert [response.key for response in responses] == [f"k{n}" for n in range(100)]
        digests = [hashlib.sha256(deidentified(image)).hexdigest() for image in images]
        assert [response.example.example_id for response in responses] == digests
        assert not any(response.example.duplicate for response in responses)
        for digest, image in zip(digests, images, strict=True):
            assert (tmp_path / "images" / digest[:2] / digest[2:]).read_bytes() == deidentified(image)
        assert await listed(gateway) == dict.fromkeys(digests, "pituitary")
        again = await upload(gateway, requests[:10] + requests[:1])
        assert all(response.example.duplicate for response in again)
        assert len(await listed(gateway)) == 100


async def test_chunks_are_put_together_and_a_wrong_item_ends_nothing(tmp_path: Path) -> None:
    # With one thread the items are checked in their order, so the first claims the image that several have.
    settings = {"data_dir": str(tmp_path), "max_image_bytes": 100_000, "transform_threads": 1}
    async with serving_gateway(**settings) as (gateway, _):
        good, large = sample_image(1), b"x" * 60_000
        open_item = Request(class_id="glioma", data=b"a", more=True)
        in_chunks = [
            Request(key="a", class_id="glioma", data=good[:10], more=True),
            Request(key="a", data=b"", more=True),
            Request(key="a", data=good[10:500], more=True),
            Request(data=good[500:]),
        ]
        items: list[tuple[list[Request], str]] = [
            (in_chunks, ""),
            ([Request(class_id="notumor", data=good)], "EXAMPLE_CONFLICT"),
            ([Request(class_id="brain", data=good)], "CLASS_NOT_FOUND"),
            ([Request(class_id="glioma")], "IMAGE_EMPTY"),
            ([Request(class_id="glioma", data=large * 2)], "IMAGE_TOO_LARGE"),
            (
                [
                    Request(class_id="glioma", data=large, more=True),
                    Request(data=large, more=True),
                    Request(),
                ],
                "IMAGE_TOO_LARGE",
            ),
            ([Request(class_id="glioma", data=b"no image at all")], "IMAGE_FORMAT_UNSUPPORTED"),
            ([Request(class_id="glioma", data=sample("PNG")[:-100])], "IMAGE_CORRUPT"),
            ([Request(class_id="glioma", data=good, sha256="0" * 64)], "EXAMPLE_DIGEST_MISMATCH"),
            ([Request(class_id="glioma", data=good, sha256="short")], "EXAMPLE_DIGEST_MISMATCH"),
            ([Request(class_id="glioma", data=good, sha256=hashlib.sha256(good).hexdigest().upper())], ""),
            ([Request(class_id="glioma", data=good, group="a\nb")], "EXAMPLE_NAME_INVALID"),
            ([Request(class_id="glioma", data=good, group="g" * 129)], "EXAMPLE_NAME_INVALID"),
            ([Request(class_id="glioma", data=good, key="k" * 257)], "KEY_INVALID"),
            ([Request(data=good)], "UPLOAD_SEQUENCE_INVALID"),
            ([Request(data=b"a", more=True), Request(more=True), Request()], "UPLOAD_SEQUENCE_INVALID"),
            ([open_item, Request(key="y")], "UPLOAD_SEQUENCE_INVALID"),
            ([open_item], "UPLOAD_SEQUENCE_INVALID"),
            ([Request(class_id="glioma", data=sample_image(2))], ""),
            ([open_item], "UPLOAD_SEQUENCE_INVALID"),
        ]
        responses = await upload(gateway, [request for messages, _ in items for request in messages])
        assert [reason(response) for response in responses] == [expected for _, expected in items]
        kept = [hashlib.sha256(deidentified(image)).hexdigest() for image in (good, sample_image(2))]
        assert (responses[0].key, responses[0].example.example_id) == ("a", kept[0])
        assert await listed(gateway) == dict.fromkeys(kept, "glioma")


async def test_a_full_store_refuses_what_is_new_and_one_that_is_away_asks_for_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_gateway(data_dir=str(tmp_path), max_store_bytes=2**20) as (gateway, _):
        noise = np.random.default_rng(0).integers(0, 256, (700, 600, 3), np.uint8)
        fits, large = sample_image(1), encode(Image.fromarray(noise), "BMP")
        requests = [Request(class_id="glioma", data=data) for data in (fits, large, fits)]
        responses = await upload(gateway, requests)
        assert [reason(response) for response in responses] == ["", "EXAMPLE_STORE_FULL", ""]
        assert responses[1].error.code == code_pb2.RESOURCE_EXHAUSTED
        assert responses[2].example.duplicate
        assert gateway.gateway.training is not None
        away = mock.Mock(side_effect=RecordsUnavailableError("away"))
        with monkeypatch.context() as patch:
            patch.setattr(gateway.gateway.training.store.examples, "add", away)
            [response] = await upload(gateway, requests[:1])
        assert (response.error.code, reason(response)) == (code_pb2.UNAVAILABLE, "RECORDS_UNAVAILABLE")
        [response] = await upload(gateway, requests[:1])
        assert response.example.duplicate


async def test_without_a_version_nothing_can_be_checked(tmp_path: Path) -> None:
    async with FakeBackend() as backend, running_gateway(backend, data_dir=str(tmp_path)) as gateway:
        await gateway.until_connected(True)
        assert await failed_upload(gateway) == "MODEL_NOT_READY"


async def test_a_caller_that_does_not_read_is_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small flow-control windows, so that few answers fill what gRPC buffers between the two.
    options = [("grpc.http2.lookahead_bytes", 16384), ("grpc.http2.bdp_probe", 0)]
    async with contextlib.AsyncExitStack() as stack:
        gateway, _ = await stack.enter_async_context(serving_gateway(data_dir=str(tmp_path)))
        channel = grpc.aio.insecure_channel(gateway.gateway.address, options=options)
        await stack.enter_async_context(channel)
        assert gateway.gateway.training is not None
        server = gateway.gateway._uploads
        keep, begun = server._uploads.keep, 0

        async def counted(*arguments: Any) -> Kept:
            nonlocal begun
            begun += 1
            return await keep(*arguments)

        monkeypatch.setattr(server._uploads, "keep", counted)
        call = type(gateway.training)(channel).UploadExamples()

        async def send_for_ever() -> None:
            while True:
                # Answers of about 800 bytes: an error with a long key twice.
                await call.write(Request(key="k" * 256, class_id="glioma", data=b"not an image"))

        sending = asyncio.create_task(send_for_ever())
        await call.read()
        [upload] = server._open
        halted = -1
        # The upload has come to a halt when nothing moves while another call makes its whole way.
        while halted != begun:
            halted = begun
            for _ in range(20):
                await gateway.check()
        assert halted < 5000
        assert upload._window.held <= 64
        for _ in range(halted):
            await call.read()
        assert begun > halted
        sending.cancel()
        call.cancel()


async def test_an_upload_holds_a_place_for_bulk_calls_until_it_is_idle(tmp_path: Path) -> None:
    settings = {"data_dir": str(tmp_path), "default_timeout_seconds": 1.0, "max_bulk_calls": 1}
    async with serving_gateway(**settings) as (gateway, _):
        call = gateway.training.UploadExamples()
        await call.write(Request(class_id="glioma", data=sample_image()))
        assert (await call.read()).HasField("example")
        assert await failed_upload(gateway) == "OVERLOADED"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert failure_of(error.value).reason == "DEADLINE_TOO_SHORT"
        assert len(await upload(gateway, [Request(class_id="glioma", data=sample_image(3))])) == 1


async def test_a_stop_acknowledges_what_was_read_and_says_so(tmp_path: Path) -> None:
    async with serving_gateway(data_dir=str(tmp_path)) as (gateway, _):
        call = gateway.training.UploadExamples()
        await call.write(Request(class_id="glioma", data=sample_image()))
        assert (await call.read()).HasField("example")
        assert gateway.gateway.training is not None
        assert gateway.gateway._stop_reading()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert failure_of(error.value).reason == "SHUTTING_DOWN"
        assert await failed_upload(gateway) == "SHUTTING_DOWN"
