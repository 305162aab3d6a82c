"""Bidirectional streaming: a window of items between reading and writing.

A reader takes messages off the stream, a task per item works, a writer sends answers. An item enters the
window when it is read and leaves it when its answer has been sent, which gRPC's flow control delays until the
caller reads. So a caller that does not read is not read either, and memory is bounded by the window, in
items and in bytes, however long the stream is.
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

from neurogate.v1 import error_pb2

from neurogate_gateway.errors import DeadlineTooShortError, GatewayError

from .interceptor import Context


class Item(Protocol):
    """What is worked on and answered by itself."""

    @property
    def data(self) -> bytes:
        """What counts as its size."""


RequestT = TypeVar("RequestT")
ItemT = TypeVar("ItemT", bound=Item)
ResponseT = TypeVar("ResponseT")


class BidirectionalCall(abc.ABC, Generic[RequestT, ItemT, ResponseT]):
    """One call, from its first item to its last answer.

    Args:
        window: Bounds what is read and not yet answered.
        ordered: Whether answers come in the order of the items.
        idle: Seconds without a message and without an answer due, after which the call is ended.
    """

    def __init__(self, window: Window, *, ordered: bool, idle: float) -> None:
        self._window = window
        self._ordered = ordered
        self._idle = idle
        self._used = time.monotonic()
        # Tasks, and their items' sizes, in the order in which the answers are to be sent; None after the last
        # message was read.
        self._due: asyncio.Queue[tuple[asyncio.Task[ResponseT | None], int] | None] = asyncio.Queue()
        self._begun = 0
        self._reader: asyncio.Task[None] | None = None
        self._error: GatewayError | None = None

    @abc.abstractmethod
    def _take(self, message: RequestT) -> list[ItemT]:
        """The items that are whole with this message.

        Raises:
            GatewayError: The call ends with it, once everything that was read is answered.
        """

    def _rest(self) -> list[ItemT]:
        """The items that end with the stream itself."""
        return []

    @abc.abstractmethod
    async def _answer(self, item: ItemT) -> ResponseT | None:
        """The answer to one item; None where the call cannot give one."""

    def end(self, error: GatewayError) -> None:
        """Stops reading; the call ends with the error once every item in the window is answered.

        Items of the last message that still waited for the window get no answer.
        """
        self._error = self._error or error
        if self._reader is not None:
            self._reader.cancel()

    async def run(self, requests: AsyncIterator[RequestT], context: Context, first: list[ItemT]) -> None:
        """Serves the call to its end.

        Args:
            requests: The messages that have not been read yet.
            context: Where the answers go.
            first: Items of messages that were read before; the list is emptied.

        Raises:
            GatewayError: Why the call ends before its caller ended it.
        """
        async with asyncio.TaskGroup() as tasks:
            self._reader = tasks.create_task(self._read(requests, first, tasks))
            # Not in the reader itself, which may be cancelled before its first step.
            self._reader.add_done_callback(lambda _: self._due.put_nowait(None))
            watching = tasks.create_task(self._watch_idleness())
            try:
                await self._write(context)
            finally:
                watching.cancel()
        if self._error is not None:
            raise self._error

    async def _watch_idleness(self) -> None:
        """Ends a call that does nothing: it is one of the few batches and streams that may be open."""
        left = self._idle
        while left > 0:
            await asyncio.sleep(left)
            left = self._idle if self._window.held else self._used + self._idle - time.monotonic()
        self.end(idle_error(self._idle))

    async def _read(
        self, requests: AsyncIterator[RequestT], items: list[ItemT], tasks: asyncio.TaskGroup
    ) -> None:
        ended = False
        try:
            while True:
                while items:
                    item = items.pop(0)
                    size = len(item.data)
                    await self._window.enter(size)
                    self._begin(tasks.create_task(self._answer(item)), size)
                    # Its task holds it for as long as it is needed.
                    del item
                if ended:
                    return
                await self._window.opening()
                message = await anext(requests, None)
                self._used = time.monotonic()
                ended = message is None
                items = self._rest() if message is None else self._take(message)
                # Not kept while the next one is awaited.
                del message
        except GatewayError as error:
            self._error = self._error or error

    def _begin(self, task: asyncio.Task[ResponseT | None], size: int) -> None:
        self._begun += 1
        if self._ordered:
            self._due.put_nowait((task, size))
        else:
            task.add_done_callback(lambda done: self._due.put_nowait((done, size)))

    async def _write(self, context: Context) -> None:
        answered = 0
        total = None
        while total is None or answered < total:
            due = await self._due.get()
            if due is None:
                total = self._begun
                continue
            task, size = due
            response = await task
            if response is not None:
                await context.write(response)
            self._window.leave(size)
            self._used = time.monotonic()
            answered += 1


class BidirectionalServer(Generic[RequestT, ItemT, ResponseT]):
    """Runs the calls of one method, and can ask all of them to come to an end."""

    def __init__(self) -> None:
        self._open: set[BidirectionalCall[RequestT, ItemT, ResponseT]] = set()
        self._stopping = False

    async def _run(
        self,
        call: BidirectionalCall[RequestT, ItemT, ResponseT],
        requests: AsyncIterator[RequestT],
        context: Context,
        first: list[ItemT],
    ) -> None:
        """As the call's `run`, unless the gateway is going away."""
        if self._stopping:
            raise _shutting_down()
        self._open.add(call)
        try:
            await call.run(requests, context, first)
        finally:
            self._open.discard(call)

    def stop_reading(self) -> bool:
        """Makes every call answer what it works on and then end, because the gateway is going away.

        Returns:
            Whether there was any.
        """
        self._stopping = True
        for call in self._open:
            call.end(_shutting_down())
        return bool(self._open)


def idle_error(seconds: float) -> DeadlineTooShortError:
    """Why a call ends that has done nothing for so long."""
    return DeadlineTooShortError(
        f"no message came for {seconds:g} s while no answer was due; send the rest in a new call"
    )


def _shutting_down() -> GatewayError:
    return GatewayError(
        error_pb2.ERROR_REASON_SHUTTING_DOWN,
        "the gateway is shutting down; send what has no answer to another one",
    )


class Window:
    """Bounds what is read but not answered; one image may always enter, however large."""

    def __init__(self, images: int, size: int) -> None:
        self._images = images
        self._bytes = size
        self._held_images = 0
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def held(self) -> int:
        """Images that were read and have no answer yet."""
        return self._held_images

    async def opening(self) -> None:
        """Waits until one more image may be read."""
        while self._held_images >= self._images:
            self._room.clear()
            await self._room.wait()

    async def enter(self, size: int) -> None:
        """Waits until an image of this size may be worked on, and lets it in."""
        while self._held_images and self._held_bytes + size > self._bytes:
            self._room.clear()
            await self._room.wait()
        self._held_images += 1
        self._held_bytes += size

    def leave(self, size: int) -> None:
        """Takes note that an image's answer has been sent."""
        self._held_images -= 1
        self._held_bytes -= size
        self._room.set()
