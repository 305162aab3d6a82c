"""How many calls run at once: what is more is refused, as TensorFlow Serving refuses it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import grpc

from .errors import ServingError


class ThreadLimit:
    """Counts the calls that hold a thread of the server; thread-safe.

    Args:
        threads: The limit. One of them listens, so that one call fewer runs at once. Negative: no limit.
    """

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._free: float = math.inf if threads < 0 else threads - 1

    @contextlib.contextmanager
    def hold(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Holds a thread for a call that runs in the block.

        It is free again when the block has ended *and* the call is over for its caller. So a cancelled call
        goes on running and keeps its thread, and an answered one gives it back a moment after the answer.

        Raises:
            ServingError: RESOURCE_EXHAUSTED: all are taken.
        """
        with self._lock:
            if self._free < 1:
                raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            self._free -= 1
        awaited = 2

        def end() -> None:
            nonlocal awaited
            with self._lock:
                awaited -= 1
                if not awaited:
                    self._free += 1

        if not context.add_callback(end):
            # Over for its caller before it began.
            end()
        try:
            yield
        finally:
            end()
