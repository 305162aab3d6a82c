"""Callers who classify without pause and without retries, and what became of every call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc, model_pb2, model_pb2_grpc

from .gateway_harness import Failure, failure_of
from .images import brain_slice

KINDS = 4
_LOOK_SECONDS = 0.02

Scores = tuple[float, ...]


class Callers:
    """Several callers of one gateway, each with one image after another."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._classification = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._images = [brain_slice(kind) for kind in range(KINDS)]
        self.answers: list[tuple[int, int, str, Scores]] = []
        """Image, version, digest and scores of every answer."""
        self.failures: list[Failure] = []

    async def classify(self, kind: int) -> bool:
        """One call; whether it was answered."""
        try:
            response = await self._classification.Classify(
                pb.ClassifyRequest(image=self._images[kind]), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            self.failures.append(failure_of(error))
            return False
        self._answered(kind, response)
        return True

    async def stream(self, kind: int, stop: asyncio.Event) -> None:
        """One stream of the same image again and again, until told to stop or until it breaks."""
        call = self._classification.StreamClassify()
        try:
            while not stop.is_set():
                await call.write(pb.StreamClassifyRequest(image=self._images[kind]))
                response = await call.read()
                if response is grpc.aio.EOF:
                    # Waits for the status and raises it.
                    await call.write(pb.StreamClassifyRequest())
                elif response.HasField("error"):
                    self.failures.append(failure_of(response.error))
                else:
                    self._answered(kind, response)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            self.failures.append(failure_of(error))

    def _answered(self, kind: int, response: pb.ClassifyResponse | pb.StreamClassifyResponse) -> None:
        scores = sorted(response.classification.scores, key=lambda score: score.index)
        self.answers.append(
            (
                kind,
                response.model.version,
                response.model.manifest_digest,
                tuple(round(score.probability, 4) for score in scores),
            )
        )

    async def version(self, number: int) -> model_pb2.ModelVersion:
        """A version as the gateway shows it."""
        request = model_pb2.GetModelVersionRequest(version=number)
        response: model_pb2.GetModelVersionResponse = await self._models.GetModelVersion(request)
        return response.version

    async def until_there(self, address: str, number: int, *states: int) -> str:
        """Waits until a version has one of some states on one model server, and returns the reason."""
        found: model_pb2.ModelVersion | None = None
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    found = await self.version(number)
                    for there in found.backends:
                        if there.address == address and there.state in states:
                            return there.state_reason
                await asyncio.sleep(_LOOK_SECONDS)
        raise AssertionError(found)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the callers have come so far."""
        async with asyncio.timeout(120):
            while not condition():  # noqa: ASYNC110 - what it looks at changes elsewhere
                await asyncio.sleep(_LOOK_SECONDS)

    async def until_answered(self, more: int) -> None:
        """Waits for further answers."""
        seen = len(self.answers)
        await self.until(lambda: len(self.answers) >= seen + more)

    def models(self) -> set[tuple[int, int, str, Scores]]:
        """Distinct answers; as many as there are kinds of images when one model gave all of them."""
        return set(self.answers)

    async def close(self) -> None:
        await self._channel.close()


@contextlib.asynccontextmanager
async def steady_callers(target: str, count: int = 6, streams: int = 2) -> AsyncIterator[Callers]:
    """Callers at work for as long as the block lasts; after a failure each waits as long as it was told.

    Args:
        target: The gateway's address.
        count: Callers with one call after another.
        streams: Callers with a stream each, which they open anew when it breaks.
    """
    callers = Callers(target)
    stop = asyncio.Event()

    async def call(number: int) -> None:
        while not stop.is_set():
            if not await callers.classify(number % KINDS):
                told = callers.failures[-1].details.get("RetryInfo")
                # The pace of a caller who does as it is told, and of one who was not told anything.
                await asyncio.sleep(told.retry_delay.ToTimedelta().total_seconds() if told else 0.1)

    async def stream(number: int) -> None:
        while not stop.is_set():
            await callers.stream(number % KINDS, stop)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(call(number))
            for number in range(streams):
                group.create_task(stream(number))
            try:
                yield callers
            finally:
                stop.set()
    finally:
        await callers.close()
