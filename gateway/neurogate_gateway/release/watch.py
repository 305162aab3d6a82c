"""Streams of what happens to versions and release: the present state first, then every change.

All watchers read one bounded log of events, each at its own pace. A watcher that falls behind the log gets
the present state again instead of what it missed; nothing is kept for a single watcher. A resume token names
a place in the log of one gateway process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from neurogate.v1 import error_pb2, model_pb2

from neurogate_gateway.errors import GatewayError

Event = model_pb2.WatchModelVersionsResponse

_REMEMBERED: Final = 512
_TOKEN: Final = re.compile(r"([0-9a-f]{16}):([0-9]{1,18})")


class WatchHub:
    """Remembers the last events and hands them out."""

    def __init__(self, present: Callable[[], list[Event]], *, remembered: int = _REMEMBERED) -> None:
        """Remembers nothing yet.

        Args:
            present: The present state, at least one event.
            remembered: How many events are kept.
        """
        self._present = present
        self._boot = secrets.token_hex(8)
        self._events: deque[Event] = deque(maxlen=remembered)
        self._sequence = 0
        """Number of the newest event."""
        self._changed = asyncio.Event()
        self._closed = False

    def publish(self, event: Event) -> None:
        """Tells all watchers of a change."""
        self._sequence += 1
        event.resume_token = self._token(self._sequence)
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """Ends all streams, once they have sent what they know."""
        self._closed = True
        self._wake()

    async def watch(self, resume_token: str) -> AsyncIterator[Event]:
        """The present state and every later event; with a token, the events since it.

        Raises:
            GatewayError (RESUME_TOKEN_INVALID): The token was not issued by this service.
        """
        place = self._place(resume_token) if resume_token else None
        while True:
            changed = self._changed
            if place is None or place < self._sequence - len(self._events):
                place = self._sequence
                present = self._present()
                for number, event in enumerate(present, start=1):
                    event.snapshot = True
                    # A watcher that is cut within the present state has to begin with it again.
                    event.resume_token = self._token(place) if number == len(present) else ""
                    yield event
            elif place < self._sequence:
                place += 1
                yield self._events[place - self._sequence - 1]
            elif self._closed:
                return
            else:
                await changed.wait()

    def _place(self, token: str) -> int | None:
        """The event that a token names; None when this process cannot know it."""
        try:
            text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            text = ""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise GatewayError(
                error_pb2.ERROR_REASON_RESUME_TOKEN_INVALID,
                "resume_token was not issued by this service",
                field="resume_token",
            )
        place = int(match[2])
        return place if match[1] == self._boot and place <= self._sequence else None

    def _token(self, place: int) -> str:
        return base64.urlsafe_b64encode(f"{self._boot}:{place}".encode()).decode()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
