"""Calls that have threads of their own, bridged into an event loop.

Not grpc.aio's own streams: when a write meets the end of the call, which is how every refusal of a running
stream arrives, grpc.aio puts "Internal error from Core" in place of the gateway's status and its reason. See
https://github.com/grpc/grpc/issues/36066. Once the oldest grpcio that is allowed has it mended, this can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, Generic, TypeVar

from ._bridge import Deliver, Running

K = TypeVar("K")
T = TypeVar("T")

_END: Any = object()


async def consume(
    items: Iterable[K] | AsyncIterable[K], start: Callable[[Iterable[K], Deliver], Running[T]]
) -> AsyncGenerator[T, None]:
    """The results of a call as an asynchronous generator; the first step starts it.

    Args:
        items: what the call sends; `start` gets it as a plain iterable, whichever it is.
        start: starts the call.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Any] = asyncio.Queue()

    def deliver(event: object) -> None:
        # A loop that has been closed meanwhile has no consumer either.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    source = _Source(items, loop) if isinstance(items, AsyncIterable) else None
    call = start(items if source is None else source, deliver)  # type: ignore[arg-type]
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
