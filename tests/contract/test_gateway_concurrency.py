"""A model server that refuses what it has no thread for: no call is lost, and no caller sees a refusal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.backends import endpoint
from neurogate_gateway.observability.metrics import PrometheusMetrics
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import Harness, failure, running_gateway, stream_of

READY = model_pb2.MODEL_VERSION_STATE_READY
REQUEST = pb.ClassifyRequest(image=sample_image())


@contextlib.asynccontextmanager
async def threads(number: int, **settings: object) -> AsyncIterator[tuple[Harness, FakeBackend]]:
    """A gateway before a server with so many threads, from its first call on; version 1 is READY."""
    async with FakeBackend() as backend:
        backend.threads = number
        backend.add_version(1)
        async with running_gateway(backend, **settings) as gateway:
            await gateway.until_ready(1)
            yield gateway, backend


def stream(count: int) -> list[pb.StreamClassifyRequest]:
    return [pb.StreamClassifyRequest(key=str(index), image=sample_image()) for index in range(count)]


async def singles(gateway: Harness, count: int) -> None:
    calls = [gateway.classification.Classify(REQUEST, timeout=60) for _ in range(count)]
    for call in calls:
        assert (await call).model.version == 1


@pytest.mark.parametrize("number", [2, 4, 8])
async def test_all_at_once_and_streams_beside_them(number: int) -> None:
    async with threads(number) as (gateway, backend):
        # One after another, each straight after the answer to the one before, twice over.
        answers = await asyncio.gather(
            singles(gateway, 30), stream_of(gateway, stream(60)), stream_of(gateway, stream(60))
        )
        for answered in answers[1:]:
            assert [item.key for item in answered] == [str(index) for index in range(60)]
            assert all(item.HasField("classification") for item in answered)
        assert backend.most_running <= number - 1


async def test_a_server_that_goes_on_refusing_ends_calls_in_time_and_says_when_to_return() -> None:
    async with threads(2, default_timeout_seconds=0.4) as (gateway, backend):
        backend.busy += 1
        failed = await failure(gateway.classification.Classify(REQUEST))
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        [item] = await stream_of(gateway, stream(1))
        assert item.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert backend.refused["Predict"] > 2
        backend.busy -= 1
        await singles(gateway, 1)


async def test_a_call_that_waits_behind_the_gateways_own_is_late_and_not_refused() -> None:
    async with threads(2, default_timeout_seconds=0.4) as (gateway, backend):
        backend.versions[1].gate.clear()
        late = [gateway.classification.Classify(REQUEST) for _ in range(3)]
        for call in late:
            failed = await failure(call)
            assert (failed.code, failed.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
        backend.versions[1].gate.set()


async def test_polls_that_are_refused_lose_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_POLL_SECONDS", 0.1)
    async with threads(4, poll_interval_seconds=0.05) as (gateway, backend):
        pool = gateway.gateway.pool
        [only] = pool._endpoints.values()
        backend.busy += 3
        looks = 0

        def looked() -> None:
            nonlocal looks
            looks += 1
            assert pool.connected
            assert not only.misses
            assert pool.ready(1) is not None

        pool.looked.add(looked)
        before = backend.refused["GetModelStatus"]
        await backend.until(lambda: backend.refused["GetModelStatus"] > before + 10)
        while looks < 3:
            await gateway.check()
        backend.busy -= 3
        backend.add_version(2)
        await gateway.until_ready(2)


async def test_a_proof_on_a_busy_server_comes_to_its_end() -> None:
    async with threads(2) as (gateway, backend):
        calls = [gateway.classification.Classify(REQUEST, timeout=60) for _ in range(60)]
        proven = len(backend.predicts)
        await backend.until(lambda: len(backend.predicts) > proven)
        backend.add_version(2)
        await gateway.until_ready(2)
        assert {(await call).model.version for call in calls} <= {1, 2}


async def test_answers_that_are_too_large_to_send_are_no_overload() -> None:
    async with threads(8) as (gateway, backend):
        for text in (
            "Sent message larger than max (5243019 vs. 1048576)",
            "received initial metadata size exceeds limit",
        ):
            backend.versions[1].refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            before = len(backend.predicts)
            failed = await failure(gateway.classification.Classify(REQUEST))
            assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID")
            assert failed.metadata["backend_code"] == "RESOURCE_EXHAUSTED"
            assert len(backend.predicts) == before + 1
        # Whatever else a server may have run out of may be there again later.
        backend.versions[1].refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OOM when allocating tensor")
        failed = await failure(gateway.classification.Classify(REQUEST))
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


@contextlib.asynccontextmanager
async def two_of_two_threads() -> AsyncIterator[tuple[Harness, FakeBackend, FakeBackend]]:
    """A gateway before two servers that take one call each, both of which are held."""
    async with FakeBackend() as first, FakeBackend() as second:
        for backend in (first, second):
            backend.threads = 2
            backend.add_version(1)
        async with running_gateway(first, second) as gateway:
            for backend in (first, second):
                await gateway.until_there(backend, 1, READY)
                backend.predicts.clear()
            yield gateway, first, second


async def test_what_waits_for_a_server_that_dies_is_answered_once_by_the_other() -> None:
    async with two_of_two_threads() as (gateway, first, second):
        for backend in (first, second):
            backend.versions[1].gate.clear()
        calls = [asyncio.create_task(singles(gateway, 1)) for _ in range(16)]
        await first.until(lambda: first.running == 1)
        await second.until(lambda: second.running == 1)
        while any(slots.waiting < 14 for slots in gateway.gateway.pool.slots.values()):
            await gateway.check()
        await first.stop()
        second.versions[1].gate.set()
        for call in calls:
            await call
        # All but the one that was on its way at the other: that one was sent again.
        assert len(second.predicts) == 16


async def test_a_server_with_room_is_taken_before_one_whose_turn_it_is() -> None:
    async with two_of_two_threads() as (gateway, first, second):
        first.versions[1].gate.clear()
        held = asyncio.create_task(singles(gateway, 2))
        await first.until(lambda: first.running == 1)
        before = len(second.predicts)
        for _ in range(8):
            await singles(gateway, 1)
        assert len(second.predicts) >= before + 8
        first.versions[1].gate.set()
        await held


async def test_what_waits_is_not_sent_any_more_once_its_caller_has_gone() -> None:
    async with threads(2, backend_max_in_flight=1) as (gateway, backend):
        backend.predicts.clear()
        backend.versions[1].gate.clear()
        [slots] = gateway.gateway.pool.slots.values()
        calls = [gateway.classification.Classify(REQUEST) for _ in range(4)]
        while slots.waiting < 3:
            await gateway.check()
        for call in calls:
            call.cancel()
        while slots.waiting:
            await gateway.check()
        backend.versions[1].gate.set()
        await slots.idle()
        assert (backend.predicts, backend.cancelled) == ([1], 0)
        await singles(gateway, 4)


async def test_metrics_tell_the_limit_what_is_in_flight_what_waits_and_refusals() -> None:
    async with threads(4, metrics_address="127.0.0.1:0", backend_max_in_flight=2) as (gateway, backend):
        backend.versions[1].gate.clear()
        calls = [gateway.classification.Classify(REQUEST, timeout=60) for _ in range(5)]
        [slots] = gateway.gateway.pool.slots.values()
        while slots.waiting < 3:
            await gateway.check()
        backend.busy += 3
        before = backend.refused["GetModelStatus"]
        await backend.until(lambda: backend.refused["GetModelStatus"] > before)
        metrics = gateway.gateway.metrics
        assert isinstance(metrics, PrometheusMetrics)
        name, labels = "neurogate_backend_calls", {"backend": backend.address}
        value = metrics._registry.get_sample_value
        assert value(f"{name}_limit", labels) == 2
        assert value(f"{name}_in_flight", labels) >= 2
        assert value(f"{name}_waiting", labels) >= 3
        while not value(f"{name}_refused_total", labels):
            await gateway.check()
        backend.busy -= 3
        backend.versions[1].gate.set()
        for call in calls:
            await call
