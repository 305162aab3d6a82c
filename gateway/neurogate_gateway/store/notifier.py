"""Tells those who wait in this process that a retraining has changed; other processes' changes need polls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class RunNotifier:
    """Wakes waiters on any event loop, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[Waiter, asyncio.AbstractEventLoop] = {}

    def notify(self, run_id: str) -> None:
        """Wakes whoever waits for this retraining, or for any."""
        with self._lock:
            waiters = [
                (waiter, loop) for waiter, loop in self._waiters.items() if waiter.run_id in {"", run_id}
            ]
        for waiter, loop in waiters:
            # The loop may end at any moment, and with it the waiter.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(waiter.wake)

    @contextlib.contextmanager
    def waiter(self, run_id: str = "") -> Iterator[Waiter]:
        """Somebody who waits on the running loop; changes from now on are not missed.

        Args:
            run_id: Which retraining; empty for all.
        """
        waiter = Waiter(run_id)
        with self._lock:
            self._waiters[waiter] = asyncio.get_running_loop()
        try:
            yield waiter
        finally:
            with self._lock:
                del self._waiters[waiter]


class Waiter:
    """Made by `RunNotifier.waiter`."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Ends the present wait, or the next one at once."""
        self._changed.set()

    async def wait(self, seconds: float) -> bool:
        """Waits for a change since the wait before.

        Args:
            seconds: After which it is time for a look at the database anyway.

        Returns:
            Whether there was one.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True
