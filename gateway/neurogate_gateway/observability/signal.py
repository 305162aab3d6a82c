"""Calls functions when something has happened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, ParamSpec

from .logging import log

_P = ParamSpec("_P")


class Signal(Generic[_P]):
    """Callbacks in the order in which they were added."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[_P, None]] = []

    def add(self, callback: Callable[_P, None]) -> Callable[[], None]:
        """Adds a callback; returns a function that removes it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def emit(self, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Calls all, which may come and go meanwhile; one that fails does not stop the others."""
        for callback in tuple(self._callbacks):
            try:
                callback(*args, **kwargs)
            except Exception as defect:  # noqa: BLE001 - the caller is in the middle of something
                log(logging.ERROR, "callback_failed", error=defect)


async def repeat(
    work: Callable[[], Awaitable[float | None]], *signals: Signal[...], due: asyncio.Event | None = None
) -> None:
    """Does some work now and after every signal, until cancelled.

    Args:
        work: Returns the seconds after which it is done again without a signal; None for never.
        signals: Each of them makes the work due.
        due: Set by others to make the work due.
    """
    wake = due or asyncio.Event()

    def on_signal(*_: object, **__: object) -> None:
        wake.set()

    forget = [signal.add(on_signal) for signal in signals]
    try:
        while True:
            wake.clear()
            pause = await work()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()
    finally:
        for stop in forget:
            stop()
