"""Steps of a call done in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import grpc

from . import _channel
from ._status import from_rpc_error
from ._steps import Ask, Blocking, Emit, Next, Open, Pause, Steps, Stubs, Watch, Work
from .errors import CallCancelledError, NeurogateError

T = TypeVar("T")


class BlockingClient(Blocking):
    """Does what the descriptions say, one step after the other."""

    _stubs: Stubs

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = self._do(step)
                except NeurogateError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _do(self, step: Ask | Work | Pause) -> Any:  # noqa: ANN401 - what a step gives, its description knows
        if isinstance(step, Work):
            return step.function()
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        limit = _channel.deadline(step.timeout, self._timeout)
        return self._guarded(lambda: step.method(self._stubs)(step.request, timeout=limit))

    def _watch(self, watch: Watch[T]) -> Generator[T, None, None]:
        call: Any = None
        try:
            step = next(watch)
            while True:
                result = None
                try:
                    if isinstance(step, Emit):
                        yield step.item
                    elif isinstance(step, Pause):
                        time.sleep(step.seconds)
                    elif isinstance(step, Next):
                        result = self._guarded(lambda: next(call, None))  # noqa: B023 - called at once
                    else:
                        call = self._open(step)
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

    def _open(self, step: Open) -> Any:  # noqa: ANN401 - gRPC has no public type for it
        return self._guarded(lambda: step.method(self._stubs)(step.request, timeout=step.timeout))

    def _guarded(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
