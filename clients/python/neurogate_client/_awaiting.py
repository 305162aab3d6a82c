"""Steps of a call done in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import grpc.aio

from . import _channel
from ._status import from_rpc_error
from ._steps import Ask, Awaiting, Emit, Next, Pause, Steps, Stubs, Watch, Work
from .errors import CallCancelledError, NeurogateError

T = TypeVar("T")


class AwaitingClient(Awaiting):
    """Does what the descriptions say; whatever may block, in a thread."""

    _closed: bool

    def _open(self) -> Stubs:
        """The services on the connection of the running event loop."""
        raise NotImplementedError

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = await self._do(step)
                except NeurogateError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _do(self, step: Ask | Work | Pause) -> Any:  # noqa: ANN401 - what a step gives, its description knows
        if isinstance(step, Work):
            return await asyncio.to_thread(step.function)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        limit = _channel.deadline(step.timeout, self._timeout)
        self._check_open()
        return await self._guarded(step.method(self._open())(step.request, timeout=limit))

    async def _watch(self, watch: Watch[T]) -> AsyncGenerator[T, None]:
        call: Any = None
        try:
            step = next(watch)
            while True:
                result = None
                try:
                    if isinstance(step, Emit):
                        yield step.item
                    elif isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, Next):
                        response = await self._guarded(call.read())
                        result = None if response is grpc.aio.EOF else response
                    else:
                        self._check_open()
                        call = step.method(self._open())(step.request, timeout=step.timeout)
                except NeurogateError as error:
                    step = watch.throw(error)
                else:
                    step = watch.send(result)
        except StopIteration:
            return
        finally:
            watch.close()
            if call is not None:
                call.cancel()

    async def _guarded(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.target) from error
        except asyncio.CancelledError:
            # grpc.aio says so, too, when the channel is closed under a call; a real cancellation has to go
            # on.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallCancelledError("the client was closed during the call") from None

    def _check_open(self) -> None:
        if self._closed:
            raise CallCancelledError("the client is closed")
