"""Predictions that wait for one model server, and may have to be ended before their own deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator


class Attempts:
    """Iterates over timeout, version and `time.monotonic` of the beginning of each that waits now."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Timeout, tuple[int, float]] = {}
        self._ended = asyncio.Event()

    def __iter__(self) -> Iterator[tuple[asyncio.Timeout, int, float]]:
        # Of a copy, since they are abandoned on the way.
        return iter([(attempt, number, since) for attempt, (number, since) in self._waiting.items()])

    def begin(self, number: int) -> asyncio.Timeout:
        """A prediction begins: what it has to be awaited in, without a pause before."""
        attempt = asyncio.timeout(None)
        self._waiting[attempt] = (number, time.monotonic())
        return attempt

    def end(self, attempt: asyncio.Timeout) -> None:
        """It does not wait any more, however that came."""
        self._waiting.pop(attempt, None)
        self._ended.set()

    def abandon(self, attempt: asyncio.Timeout) -> None:
        """Ends one as if its time were over; its caller may ask another server."""
        del self._waiting[attempt]
        attempt.reschedule(asyncio.get_running_loop().time())

    async def none_left(self) -> None:
        """Waits until none waits."""
        while self._waiting:
            self._ended.clear()
            await self._ended.wait()
