"""Predictions that somebody waits for, and may have to be told that there will be no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from .wire import Outputs

Attempt = asyncio.Future["asyncio.Task[Outputs] | None"]
"""Resolved with the call that has ended, or with None when it was abandoned."""


class Attempts:
    """Iterates over attempt, version and `time.monotonic` of the beginning of each that is waited for."""

    def __init__(self) -> None:
        self._waiting: dict[Attempt, tuple[int, float]] = {}

    def __iter__(self) -> Iterator[tuple[Attempt, int, float]]:
        # Of a copy, since they are abandoned on the way.
        return iter([(attempt, number, since) for attempt, (number, since) in self._waiting.items()])

    def begin(self, number: int) -> Attempt:
        """A prediction begins: what is to be awaited in its place."""
        attempt: Attempt = asyncio.get_running_loop().create_future()
        self._waiting[attempt] = (number, time.monotonic())
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Nobody waits for it any more, however that came."""
        self._waiting.pop(attempt, None)

    def answer(self, attempt: Attempt, call: asyncio.Task[Outputs]) -> None:
        """The call has ended; whoever still waits for it may go on."""
        if not attempt.done():
            attempt.set_result(call)

    def abandon(self, attempt: Attempt) -> None:
        """Ends the waiting for one, whose caller may ask another server; the call itself goes on."""
        del self._waiting[attempt]
        if not attempt.done():
            attempt.set_result(None)
