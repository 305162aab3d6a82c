"""Predictions that somebody waits for, and may have to be told that there will be no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from .tfs_messages import Outputs


class InFlightCall:
    """One prediction.

    Attributes:
        number: Of the version.
        since: `time.monotonic` of its beginning.
        ended: Resolved with the call that has ended, or with None when it was abandoned.
    """

    __slots__ = ("ended", "number", "since")

    def __init__(self, number: int) -> None:
        self.number = number
        self.since = time.monotonic()
        self.ended: asyncio.Future[asyncio.Task[Outputs] | None] = asyncio.get_running_loop().create_future()

    def answer(self, call: asyncio.Task[Outputs] | None) -> None:
        """The call has ended, or is abandoned; whoever still waits for it may go on."""
        if not self.ended.done():
            self.ended.set_result(call)


class InFlightCalls:
    """Iterates over those that are waited for."""

    def __init__(self) -> None:
        self._waiting: set[InFlightCall] = set()

    def __iter__(self) -> Iterator[InFlightCall]:
        # Of a copy, since they are abandoned on the way.
        return iter(tuple(self._waiting))

    def begin(self, number: int) -> InFlightCall:
        """A prediction begins."""
        attempt = InFlightCall(number)
        self._waiting.add(attempt)
        return attempt

    def end(self, attempt: InFlightCall) -> None:
        """Nobody waits for it any more, however that came."""
        self._waiting.discard(attempt)

    def abandon(self, attempt: InFlightCall) -> None:
        """Ends the waiting for one, whose caller may ask another server; the call itself goes on."""
        self._waiting.discard(attempt)
        attempt.answer(None)
