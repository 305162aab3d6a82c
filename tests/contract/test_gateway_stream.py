"""StreamClassify: order, windows, one version, per-image statuses, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import numpy as np
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.inference.pipeline import PredictionEvent
from neurogate_gateway.rpc import server
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.gateway_harness import (
    Failure,
    Harness,
    failure_of,
    serving_gateway,
    stream_of,
)

Request = pb.StreamClassifyRequest


def config(**fields: object) -> Request:
    return Request(config=pb.StreamClassifyConfig(**fields))  # type: ignore[arg-type]


async def broken(call: Any) -> tuple[list[str], Failure]:
    """The keys answered before a stream failed, and how it failed."""
    keys = []
    while True:
        try:
            response = await call.read()
        except grpc.aio.AioRpcError as error:
            return keys, failure_of(error)
        assert response is not grpc.aio.EOF, keys
        keys.append(response.key)


async def send(call: Any, *requests: Request) -> None:
    for request in requests:
        await call.write(request)


async def test_every_image_is_answered_once_in_order() -> None:
    async with serving_gateway() as (gateway, _):
        images = [sample_image(seed) for seed in range(10)]
        answers = await stream_of(gateway, (Request(key=str(i), image=images[i % 10]) for i in range(300)))
        assert [answer.key for answer in answers] == [str(i) for i in range(300)]
        assert {answer.model.version for answer in answers} == {1}
        assert all(len(answer.classification.scores) == 4 for answer in answers)


async def test_a_stream_that_is_in_use_outlives_its_connections_age(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half an hour is 300 ms here, so that connections end in front of the test.
    aged = [
        (name, value // 6000 if "max_connection_age" in name else value) for name, value in server._OPTIONS
    ]
    monkeypatch.setattr(server, "_OPTIONS", aged)
    async with serving_gateway() as (gateway, _):
        callers: list[str] = []

        class Callers:
            def observe(self, outcome: PredictionEvent) -> None:
                callers.append(outcome.caller)

        gateway.gateway.pipeline.observers += (Callers(),)
        stream = gateway.classification.StreamClassify()
        await send(stream, config(), Request(key="first", image=sample_image()))
        assert (await stream.read()).key == "first"
        number, others = 0, set[str]()
        # Calls beside the stream show by their port that connections age; the stream stays on its own.
        while len(others - {callers[0]}) < 4:
            request = pb.ClassifyRequest(image=sample_image())
            await gateway.classification.Classify(request, wait_for_ready=True)
            others.add(callers[-1])
            number += 1
            await send(stream, Request(key=str(number), image=sample_image(number % 3)))
            assert (await stream.read()).key == str(number)
            assert callers[-1] == callers[0]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_an_empty_stream_has_no_answers() -> None:
    async with serving_gateway() as (gateway, backend):
        assert await stream_of(gateway, []) == []
        assert await stream_of(gateway, [config(top_k=1)]) == []
        assert backend.predicts == []


async def test_config_alone_and_config_with_an_image() -> None:
    async with serving_gateway() as (gateway, _):
        alone = await stream_of(gateway, [config(top_k=1), Request(key="a", image=sample_image())])
        assert [(answer.key, len(answer.classification.scores)) for answer in alone] == [("a", 1)]
        first = config(top_k=2)
        first.key, first.image = "f", sample_image()
        together = await stream_of(gateway, [first, Request(key="a", image=sample_image())])
        assert [(answer.key, len(answer.classification.scores)) for answer in together] == [
            ("f", 2),
            ("a", 2),
        ]


async def test_a_second_config_ends_the_stream_after_what_came_before() -> None:
    async with serving_gateway() as (gateway, _):
        call = gateway.classification.StreamClassify()
        await send(call, Request(key="a", image=sample_image()), config(top_k=1))
        keys, failed = await broken(call)
        assert keys == ["a"]
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_CONFIG_NOT_FIRST")


async def test_a_bad_image_is_an_answer() -> None:
    async with serving_gateway(max_image_bytes=4096) as (gateway, _):
        good = sample_image(size=(16, 16))
        requests = [
            Request(key="good", image=good),
            Request(key="empty"),
            Request(key="text", image=b"hello"),
            Request(key="large", image=bytes(5000)),
            Request(key="cut", image=good[: len(good) // 2]),
            Request(key="k" * 257, image=good),
            Request(key="k" * 256, image=good),
            Request(key="", image=good),
        ]
        answers = await stream_of(gateway, requests)
        told = [failure_of(a.error).reason if a.HasField("error") else "" for a in answers]
        wanted = ["", "IMAGE_EMPTY", "IMAGE_FORMAT_UNSUPPORTED", "IMAGE_TOO_LARGE", "IMAGE_CORRUPT"]
        assert told == [*wanted, "KEY_INVALID", "", ""]
        assert [answer.key for answer in answers] == [
            *(r.key for r in requests[:5]),
            "k" * 256,
            "k" * 256,
            "",
        ]
        assert {answer.model.version for answer in answers} == {1}


async def test_answers_overtake_only_when_that_is_allowed() -> None:
    for allowed in (True, False):
        async with serving_gateway() as (gateway, backend):
            backend.versions[1].gate.clear()
            call = gateway.classification.StreamClassify()
            first = config(allow_out_of_order=allowed)
            first.key, first.image = "slow", sample_image()
            await call.write(first)
            await backend.until(lambda: backend.running == 1)
            # This one needs no backend, so it is ready long before the first.
            await call.write(Request(key="quick", image=b"not an image"))
            if allowed:
                assert (await call.read()).key == "quick"
            backend.versions[1].gate.set()
            await call.done_writing()
            for key in ["slow"] if allowed else ["slow", "quick"]:
                assert (await call.read()).key == key
            assert await call.read() is grpc.aio.EOF


async def test_a_caller_that_does_not_read_is_not_read() -> None:
    # Small flow-control windows, so that few answers fill what gRPC buffers between the two.
    options = [("grpc.http2.lookahead_bytes", 16384), ("grpc.http2.bdp_probe", 0)]
    async with contextlib.AsyncExitStack() as stack:
        gateway, _ = await stack.enter_async_context(serving_gateway(stream_window=8))
        address = gateway.gateway.address
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call = type(gateway.classification)(channel).StreamClassify()
            # Answers of about 800 bytes: an error with a long key twice.
            request = Request(key="k" * 256, image=b"not an image")

            async def send_for_ever() -> None:
                while True:
                    await call.write(request)

            sending = asyncio.create_task(send_for_ever())
            begun = -1
            await call.read()
            [stream] = gateway.gateway._streams._open
            # The stream has come to a halt when nothing moves while another call makes its whole way.
            while begun != stream._begun:
                begun = stream._begun
                for _ in range(20):
                    await gateway.check()
            halted = begun
            assert halted < 5000
            assert stream._window._held_images <= 8
            for _ in range(halted):
                await call.read()
            assert stream._begun > halted
            sending.cancel()
            call.cancel()


async def test_large_images_are_bounded_by_bytes() -> None:
    async with serving_gateway(max_image_bytes=200_000, stream_window=16) as (gateway, backend):
        backend.most_running = 0
        backend.versions[1].gate.clear()
        # Trailing bytes after the image end are allowed and make it large: 7 of them exceed the byte budget.
        large = sample_image().ljust(200_000, b"\0")
        requests = [Request(key=str(index), image=large) for index in range(12)]
        answering = asyncio.create_task(stream_of(gateway, requests))
        budget = gateway.settings.max_message_bytes // 200_000
        assert budget < 12
        await backend.until(lambda: backend.running == budget)
        for _ in range(20):
            await gateway.check()
        assert backend.running == budget
        backend.versions[1].gate.set()
        assert len(await answering) == 12
        assert backend.most_running == budget


async def test_nothing_of_a_stream_is_left_once_it_is_cancelled() -> None:
    async with serving_gateway(stream_window=4) as (gateway, backend):
        backend.versions[1].gate.clear()
        call = gateway.classification.StreamClassify()
        for index in range(4):
            await call.write(Request(key=str(index), image=sample_image()))
        await backend.until(lambda: backend.running == 4)
        call.cancel()
        while gateway.gateway._admission.bulk_calls.count:
            await gateway.check()
        assert gateway.gateway._admission.in_flight == 0
        backend.versions[1].gate.set()
        [slots] = gateway.gateway.pool.slots.values()
        await slots.idle()
        assert (len(backend.predicts), backend.cancelled, slots.waiting) == (4, 0, 0)


@pytest.mark.parametrize(
    ("selector", "code", "reason"),
    [
        (model_pb2.ModelSelector(), grpc.StatusCode.UNAVAILABLE, "MODEL_VERSION_RETIRED"),
        (model_pb2.ModelSelector(version=1), grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND"),
    ],
)
async def test_a_stream_keeps_its_version_and_ends_when_that_is_unloaded(
    selector: model_pb2.ModelSelector, code: grpc.StatusCode, reason: str
) -> None:
    async with serving_gateway() as (gateway, backend):
        call = gateway.classification.StreamClassify()
        await send(call, config(model=selector), Request(key="a", image=sample_image()))
        assert (await call.read()).model.version == 1
        backend.add_version(2)
        await gateway.until_ready(2)
        # A newer version does not touch the stream.
        await call.write(Request(key="b", image=sample_image()))
        assert (await call.read()).model.version == 1
        response = await gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
        assert response.model.version == 2
        backend.unload(1)
        await call.write(Request(key="c", image=sample_image()))
        keys, failed = await broken(call)
        assert keys == []
        assert (failed.code, failed.reason) == (code, reason)


async def test_backend_trouble_is_a_status_of_the_image() -> None:
    async with serving_gateway() as (gateway, backend):
        call = gateway.classification.StreamClassify()
        backend.versions[1].refusal = (grpc.StatusCode.UNAVAILABLE, "queue full")
        await call.write(Request(key="a", image=sample_image()))
        failed = failure_of((await call.read()).error)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
        backend.versions[1].refusal = None
        await call.write(Request(key="b", image=sample_image()))
        assert (await call.read()).HasField("classification")
        await call.done_writing()


async def test_undecodable_bytes_in_a_stream() -> None:
    async with serving_gateway() as (gateway, _):
        decode = pb.StreamClassifyResponse.FromString
        method = "/neurogate.v1.ClassificationService/StreamClassify"
        call = gateway.channel.stream_stream(method, response_deserializer=decode)()
        await call.write(Request(key="a", image=sample_image()).SerializeToString())
        await call.write(b"\xff\xff\xff")
        keys, failed = await broken(call)
        assert keys == ["a"]
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")


OTHER_CLASSES = (("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"))


def certain(outputs: dict[str, Any]) -> dict[str, Any]:
    return {**outputs, "probabilities": np.array([[0, 0, 0, 1]], np.float32)}


async def loaded_anew(gateway: Harness, backend: FakeBackend, **changes: Any) -> None:
    backend.unload(1)
    await gateway.until_state(1, model_pb2.MODEL_VERSION_STATE_RETIRED)
    backend.add_version(1, **changes)


async def restarted(gateway: Harness, backend: FakeBackend, **changes: Any) -> None:
    await backend.stop()
    await gateway.until_connected(False)
    backend.add_version(1, **changes)
    await backend.start()


@pytest.mark.parametrize("swap", [loaded_anew, restarted])
@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"manifest": build_manifest(1, classes=OTHER_CLASSES)}, model_pb2.MODEL_VERSION_STATE_READY),
        ({"change": certain}, model_pb2.MODEL_VERSION_STATE_REJECTED),
    ],
    ids=["another model", "broken"],
)
async def test_a_stream_does_not_go_on_with_something_else_of_the_same_number(
    swap: Any, changes: Any, state: Any
) -> None:
    async with serving_gateway() as (gateway, backend):
        call = gateway.classification.StreamClassify()
        await send(call, Request(key="1", image=sample_image()))
        assert (await call.read()).key == "1"
        await swap(gateway, backend, **changes)
        await gateway.until_state(1, state)
        await call.write(Request(key="2", image=sample_image()))
        keys, failed = await broken(call)
        assert (keys, failed.reason) == ([], "MODEL_VERSION_RETIRED")


async def test_an_image_in_flight_is_not_answered_by_something_else() -> None:
    async with serving_gateway() as (gateway, backend):
        call = gateway.classification.StreamClassify()
        backend.versions[1].gate.clear()
        await send(call, Request(key="1", image=sample_image()))
        await backend.until(lambda: backend.running == 1)
        old = backend.versions[1]
        # The call goes on at the old server while the gateway has learned that the number is another's now.
        backend.add_version(1, build_manifest(1, classes=OTHER_CLASSES))
        gateway.gateway.pool.endpoint(backend.address).lose("as if the connection had ended")
        await gateway.until_ready(1)
        old.gate.set()
        keys, failed = await broken(call)
        assert (keys, failed.reason) == ([], "MODEL_VERSION_RETIRED")


async def test_a_stream_pauses_while_the_model_server_is_away() -> None:
    async with serving_gateway() as (gateway, backend):
        call = gateway.classification.StreamClassify()
        await send(call, Request(key="0", image=sample_image()))
        assert (await call.read()).key == "0"
        await backend.stop()
        await gateway.until_connected(False)
        await send(call, *(Request(key=str(number), image=sample_image()) for number in range(1, 4)))
        await backend.start()
        for number in range(1, 4):
            answer = await call.read()
            assert (answer.key, answer.HasField("classification")) == (str(number), True)
        call.cancel()


async def test_a_stream_ends_when_the_model_server_stays_away() -> None:
    async with serving_gateway(swap_wait_seconds=0) as (gateway, backend):
        call = gateway.classification.StreamClassify()
        await send(call, Request(key="0", image=sample_image()))
        assert (await call.read()).key == "0"
        await backend.stop()
        await gateway.until_connected(False)
        await call.write(Request(key="1", image=sample_image()))
        keys, failed = await broken(call)
        assert (keys, failed.reason) == ([], "BACKEND_UNAVAILABLE")


@pytest.mark.parametrize("before", [[], [config()], [Request(key="a", image=sample_image())]])
async def test_a_stream_that_does_nothing_gives_its_place_back(before: list[Request]) -> None:
    async with serving_gateway(default_timeout_seconds=1.0, max_bulk_calls=1) as (gateway, _):
        call = gateway.classification.StreamClassify()
        await send(call, *before)
        _, failed = await broken(call)
        assert (failed.code, failed.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
        assert len(await stream_of(gateway, [Request(image=sample_image())])) == 1
