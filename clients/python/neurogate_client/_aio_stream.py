"""StreamClassify for asyncio: the threads' stream, bridged into an event loop.

Not grpc.aio's own streams: when a write meets the end of the call, which is how every refusal of a running
stream arrives, grpc.aio puts "Internal error from Core" in place of the gateway's status and its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent import futures
from typing import Any, Generic, TypeVar

from neurogate_client._requests import StreamSettings
from neurogate_client._stream import Event, Start, StreamCall
from neurogate_client.images import Image
from neurogate_client.results import Result

K = TypeVar("K")

_END: Any = object()


async def stream(
    images: Iterable[tuple[K, Image]] | AsyncIterable[tuple[K, Image]], start: Start, settings: StreamSettings
) -> AsyncGenerator[Result[K], None]:
    """One StreamClassify call as an asynchronous generator of results; the first step starts it."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event[K]] = asyncio.Queue()

    def deliver(event: Event[K]) -> None:
        # A loop that has been closed meanwhile has no consumer either.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    source = _Source(images, loop) if isinstance(images, AsyncIterable) else None
    call = StreamCall(source or images, start, settings, deliver)  # type: ignore[arg-type]
    try:
        while True:
            patience = call.patience()
            try:
                async with asyncio.timeout(None if math.isinf(patience) else max(patience, 0)):
                    event = await events.get()
            except TimeoutError:
                call.check_patience()
                continue
            if (result := call.take(event)) is None:
                return
            yield result
    finally:
        call.close()
        if source is not None:
            source.cancel()


class _Source(Iterator[K], Generic[K]):
    """An asynchronous iterable, for the thread that pulls images: each step runs in the event loop."""

    def __init__(self, images: AsyncIterable[K], loop: asyncio.AbstractEventLoop) -> None:
        self._images = aiter(images)
        self._loop = loop
        self._cancelled = False
        self._step: futures.Future[K] | None = None

    def __next__(self) -> K:
        step = asyncio.run_coroutine_threadsafe(_step(self._images), self._loop)
        self._step = step
        if self._cancelled:
            step.cancel()
        try:
            item = step.result()
        except futures.CancelledError:
            # What the source raised came through a future, which has a CancelledError of its own.
            raise asyncio.CancelledError from None
        if item is _END:
            raise StopIteration
        return item

    def cancel(self) -> None:
        """Lets go of a thread that waits for the next item."""
        self._cancelled = True
        if self._step is not None:
            self._step.cancel()


async def _step(images: AsyncIterator[K]) -> K:
    try:
        return await anext(images)
    except StopAsyncIteration:
        return _END  # type: ignore[no-any-return]
