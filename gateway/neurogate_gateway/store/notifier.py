"""Wakes those in this process who wait for changes of retrainings; changes by other processes need polls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator


class RunNotifier:
    """Wakes waiters on any event loop, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Ends the present wait of every waiter, or its next one at once."""
        with self._lock:
            waiters = list(self._waiters.items())
        for changed, loop in waiters:
            # The loop may end at any moment, and with it the waiter.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

    @contextlib.contextmanager
    def waiter(self) -> Iterator[Callable[[float], Awaitable[None]]]:
        """A function that waits for a change since its last call, for so many seconds at most."""
        changed = asyncio.Event()

        async def wait(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()
                changed.clear()

        with self._lock:
            self._waiters[changed] = asyncio.get_running_loop()
        try:
            yield wait
        finally:
            with self._lock:
                del self._waiters[changed]
