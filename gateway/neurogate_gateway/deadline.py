"""The moment by which an answer is due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from neurogate_gateway.errors import DeadlineTooShortError


class Deadline:
    """A moment by which an answer is due."""

    __slots__ = ("_at",)

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_call(cls, remaining: float | None, default: float) -> Deadline:
        """A call's own deadline; one that brings none (None) gets the default, in seconds."""
        return cls.after(default if remaining is None else remaining)

    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._at - time.monotonic()

    def capped(self, seconds: float) -> Deadline:
        """This moment, or so many seconds from now where that is sooner."""
        return Deadline(min(self._at, time.monotonic() + seconds))

    @contextlib.asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancels what runs inside when the moment comes.

        Raises:
            DeadlineTooShortError: In place of the cancelled work.
        """
        try:
            async with asyncio.timeout(self.remaining()):
                yield
        except TimeoutError:
            raise DeadlineTooShortError("the deadline passed before the answer was ready") from None
