"""Steady callers against a gateway that answers as it is told."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from neurogate.v1 import classification_pb2, classification_pb2_grpc, model_pb2
from neurogate_bench import callers, images
from neurogate_bench.tally import Expectation, Tally

PB = classification_pb2


class Gateway(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers with class 1; streams change the version after `change_after` pictures."""

    def __init__(self, stop, change_after):
        self.stop, self.change_after, self.answers, self.streamed = stop, change_after, 0, 0

    def _answer(self, version):
        self.answers += 1
        if self.answers >= 40 and self.streamed >= 10:
            self.stop.touch()
        scores = [PB.ClassScore(index=1, probability=0.5)]
        classification = PB.Classification(scores=scores)
        return {"classification": classification, "model": model_pb2.ModelVersionRef(version=version)}

    async def Classify(self, request, context):  # noqa: N802 - the contract's name
        del request, context
        return PB.ClassifyResponse(**self._answer(1))

    async def StreamClassify(self, requests, context):  # noqa: N802
        del context
        count = 0
        async for request in requests:
            count += 1
            self.streamed += 1
            version = 1 if count <= self.change_after else 2
            yield PB.StreamClassifyResponse(key=request.key, **self._answer(version))


@contextlib.asynccontextmanager
async def serving(stop, *, change_after=100):
    server = grpc.aio.server()
    gateway = Gateway(stop, change_after)
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", gateway
    finally:
        await server.stop(None)


async def load(target, stop):
    job = {"seconds": 60, "target": target, "unary": 2, "streams": 1, "stream_seconds": 60, "rate": 2000}
    tally = Tally(Expectation.of({"expected": [[1, 0.5]]}))
    return await callers.run({**job, "stop_file": str(stop)}, [images.slice_like(0, side=32)], tally)


@pytest.mark.asyncio
async def test_callers_go_on_until_they_are_stopped_and_every_answer_counts(tmp_path):
    async with serving(tmp_path / "stop") as (target, gateway):
        tally = await load(target, tmp_path / "stop")
    assert tally.images == gateway.answers >= 40
    assert len(tally.taken) == len(tally.opened) == len(tally.answered_by) == tally.images
    assert set(tally.answered_by) == {1}
    assert not tally.wrong
    assert not tally.refusals
    # A stream's answers belong to the call that began with its first picture.
    assert len(set(tally.opened)) < tally.images


@pytest.mark.asyncio
async def test_a_stream_of_two_versions_is_wrong(tmp_path):
    async with serving(tmp_path / "stop", change_after=3) as (target, _):
        tally = await load(target, tmp_path / "stop")
    assert tally.wrong["stream of two versions"] >= 1
    assert tally.versions[2] >= 2
