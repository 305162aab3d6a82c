"""StreamClassify for asyncio: the same bounded window as for threads, with tasks."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

import grpc
from neurogate.v1 import classification_pb2 as pb

from neurogate_client._ledger import Ledger
from neurogate_client._requests import StreamSettings
from neurogate_client._status import from_rpc_error
from neurogate_client._stream import pair
from neurogate_client.errors import CallCancelledError, DeadlineExceededError, NeurogateError, UnexpectedError
from neurogate_client.images import Image, load_image
from neurogate_client.results import Result

K = TypeVar("K")

StreamCall = grpc.aio.StreamStreamCall[pb.StreamClassifyRequest, pb.StreamClassifyResponse]

_Event = Result[K] | grpc.RpcError | NeurogateError | None


async def stream(
    images: Iterable[tuple[K, Image]] | AsyncIterable[tuple[K, Image]],
    *,
    start: Callable[[], StreamCall],
    settings: StreamSettings,
) -> AsyncGenerator[Result[K], None]:
    """One StreamClassify call as an asynchronous generator of results; see `_stream.stream`."""
    call = _Stream[K](start(), settings)
    sender = asyncio.create_task(call.send(_each(images)), name="neurogate-stream-send")
    receiver = asyncio.create_task(call.receive(), name="neurogate-stream-receive")
    try:
        while (result := await call.next_result()) is not None:
            yield result
    finally:
        call.cancel()
        sender.cancel()
        receiver.cancel()
        await asyncio.gather(sender, receiver, return_exceptions=True)


async def _each(images: Iterable[K] | AsyncIterable[K]) -> AsyncIterator[K]:
    if isinstance(images, AsyncIterable):
        async for item in images:
            yield item
    else:
        for item in images:
            yield item


async def load(image: Image, limit: int) -> bytes:
    """`load_image` that leaves the event loop free while a disk is slow."""
    if isinstance(image, (str, os.PathLike)):
        return await asyncio.to_thread(load_image, image, limit)
    return load_image(image, limit)


class _Stream(Generic[K]):
    def __init__(self, call: StreamCall, settings: StreamSettings) -> None:
        self._call = call
        self._settings = settings
        self._ledger = Ledger[K](settings.config)
        self._events: asyncio.Queue[_Event[K]] = asyncio.Queue()
        self._window = asyncio.Semaphore(settings.window)
        self._source_error: Exception | None = None

    def cancel(self) -> None:
        self._call.cancel()

    async def send(self, images: AsyncIterator[tuple[K, Image]]) -> None:
        try:
            await self._call.write(pb.StreamClassifyRequest(config=self._settings.config))
            await self._send_images(images)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The call has ended; the receiver knows how.
            return

    async def _send_images(self, images: AsyncIterator[tuple[K, Image]]) -> None:
        while True:
            await self._window.acquire()
            try:
                key, image = pair(await anext(images))
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - raised in the caller's loop
                self._source_error = error
                return
            try:
                data = await load(image, self._settings.max_image_bytes)
            except NeurogateError as error:
                for result in self._ledger.refuse(key, error):
                    self._events.put_nowait(result)
            except TypeError as error:
                self._source_error = error
                return
            else:
                await self._call.write(pb.StreamClassifyRequest(key=self._ledger.send(key), image=data))

    async def receive(self) -> None:
        try:
            async for response in self._call:
                for result in self._ledger.answer(response):
                    self._events.put_nowait(result)
        except (grpc.RpcError, NeurogateError) as error:
            self._events.put_nowait(error)
        except asyncio.CancelledError:
            # So grpc.aio says that the channel was closed under the call.
            self._events.put_nowait(CallCancelledError("the client was closed during the stream"))
            raise
        else:
            self._events.put_nowait(None)

    async def next_result(self) -> Result[K] | None:
        event = await self._next_event()
        if isinstance(event, Result):
            self._window.release()
            return event
        if isinstance(event, NeurogateError):
            raise event
        if event is not None:
            raise from_rpc_error(event, self._settings.target) from event
        if self._source_error is not None:
            raise self._source_error
        if unanswered := self._ledger.waiting():
            raise UnexpectedError(f"the gateway ended the stream with {unanswered} images unanswered")
        return None

    async def _next_event(self) -> _Event[K]:
        while True:
            left = self._settings.idle_timeout - self._ledger.idle_seconds()
            try:
                async with asyncio.timeout(None if math.isinf(left) else max(left, 0)):
                    return await self._events.get()
            except TimeoutError:
                if self._ledger.idle_seconds() >= self._settings.idle_timeout:
                    raise DeadlineExceededError(
                        f"no answer from {self._settings.target} for {self._settings.idle_timeout:g} s, "
                        f"with {self._ledger.waiting()} images waiting"
                    ) from None
