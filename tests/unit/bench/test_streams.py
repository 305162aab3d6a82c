"""Streams and steady callers against a gateway that answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import pytest
from neurogate.v1 import classification_pb2, classification_pb2_grpc, model_pb2
from neurogate_bench import images, streams
from neurogate_bench.load import Booking

PB = classification_pb2
EXPECTED = {"expected": [[1, 0.5]]}


class Gateway(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers with class 1; streams change the version after `change_after` pictures, and answer each picture
    `times`."""

    def __init__(self, stop, change_after, times):
        self.stop, self.change_after, self.times, self.answers, self.streamed = (
            stop,
            change_after,
            times,
            0,
            0,
        )

    def _answer(self, version):
        self.answers += 1
        if self.answers >= 40 and self.streamed >= 10:
            self.stop.touch()
        classification = PB.Classification(scores=[PB.ClassScore(index=1, probability=0.5)])
        return {"classification": classification, "model": model_pb2.ModelVersionRef(version=version)}

    async def Classify(self, request, context):  # noqa: N802 - the contract's name
        del request, context
        return PB.ClassifyResponse(**self._answer(1))

    async def StreamClassify(self, requests, context):  # noqa: N802
        del context
        count = 0
        async for request in requests:
            if not request.key:
                continue
            count += 1
            self.streamed += 1
            for _ in range(self.times):
                version = 1 if count <= self.change_after else 2
                yield PB.StreamClassifyResponse(key=request.key, **self._answer(version))


@contextlib.asynccontextmanager
async def serving(stop, *, change_after=100, times=1):
    server = grpc.aio.server()
    gateway = Gateway(stop, change_after, times)
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", gateway
    finally:
        await server.stop(None)


async def call(target, stop):
    job = {"seconds": 60, "target": target, "unary": 2, "streams": 1, "stream_seconds": 60, "rate": 2000}
    booking = Booking(EXPECTED)
    await streams.run_callers({**job, "stop_file": str(stop)}, [images.slice_like(0, side=32)], booking)
    return booking.load


async def stream(target):
    # No more pictures than the window holds, so that answers that do not come hold nothing up.
    job = {"target": target, "count": 8, "concurrency": 1, "window": 8, "start_at": time.monotonic()}
    booking = Booking(EXPECTED)
    await streams.run_streams(job, [images.slice_like(0, side=32)], booking)
    return booking.load


async def test_callers_go_on_until_they_are_stopped_and_every_answer_counts(tmp_path):
    async with serving(tmp_path / "stop") as (target, gateway):
        load = await call(target, tmp_path / "stop")
    assert load.images == gateway.answers >= 40
    assert len(load.latencies_ms) == len(load.opened) == len(load.answered_by) == load.images
    assert set(load.answered_by) == {1}
    assert not load.wrong
    assert not load.refusals
    # A stream's answers belong to the call that began with its first picture.
    assert len(set(load.opened)) < load.images


async def test_a_stream_of_two_versions_is_wrong(tmp_path):
    async with serving(tmp_path / "stop", change_after=3) as (target, _):
        load = await call(target, tmp_path / "stop")
    assert load.wrong["stream of two versions"] >= 1
    assert load.answered_by.count(2) >= 2


@pytest.mark.parametrize(
    ("times", "wrong"), [(1, {}), (2, {"answered twice": 8}), (0, {"never answered": 8})]
)
async def test_every_picture_of_a_stream_must_be_answered_once(tmp_path, times, wrong):
    async with serving(tmp_path / "stop", times=times) as (target, gateway):
        load = await asyncio.wait_for(stream(target), 30)
    assert gateway.streamed == 8
    assert load.images == (8 if times else 0)
    assert load.wrong == wrong
