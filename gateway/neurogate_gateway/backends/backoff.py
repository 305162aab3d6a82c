"""When the next call may go to a model server that has refused one.

After a refusal there is a short pause, which doubles while nothing but refusals come back. Where a server
seems to have a single thread for this gateway, there is one after answers too: whoever always sent the next
call with the answer would never let others have that thread, who find it free only by chance.
"""

from __future__ import annotations

import math
import random
from typing import Final

_FIRST_SECONDS: Final = 0.002
_LONGEST_SECONDS: Final = 0.05
_LATE_SECONDS: Final = 0.005
"""For which the thread of a call may still be taken after its answer has come."""
_RECENT_SECONDS: Final = 2.0
"""For which a refusal or an answer says something about the present."""
_YIELD: Final = 0.5
_YIELD_CROWDED: Final = 2.0
"""Of the time that a call takes: for how long the only thread is left to others; and if they surely wait."""


class Backoff:
    """Moments are those of the event loop's clock."""

    def __init__(self) -> None:
        self._until = -math.inf
        self._seconds = 0.0
        self._turn_seconds = _LONGEST_SECONDS
        self._answered_at = self._alone_at = self._crowded_at = -math.inf

    def left(self, now: float) -> float:
        """Seconds until the next call may be sent; none are left where it is 0 or negative."""
        return self._until - now

    def answered(self, now: float, seconds: float | None, *, single: bool) -> None:
        """A call was answered.

        Args:
            now: The moment.
            seconds: What it took; None where that says nothing about predictions.
            single: Whether the limit is one call.
        """
        self._answered_at, self._seconds = now, 0.0
        if seconds is None:
            return
        self._turn_seconds = min(max(seconds, 2 * _FIRST_SECONDS), _LONGEST_SECONDS)
        if single and now - self._alone_at < _RECENT_SECONDS:
            crowded = now - self._crowded_at < _RECENT_SECONDS
            self._pause(now, (_YIELD_CROWDED if crowded else _YIELD) * self._turn_seconds)

    def refused(self, now: float, sent_at: float, others: int, *, again: bool) -> int:
        """A call was refused.

        Args:
            now: The moment.
            sent_at: When it was sent.
            others: How many other calls are in flight.
            again: Whether it is one more of a burst that was sent before its first refusal.

        Returns:
            How many others held a thread: the one that was answered last may not have given its back.
        """
        late = sent_at - self._answered_at < _LATE_SECONDS
        if not others and (self._seconds or not late):
            self._crowded_at = now
        others += late
        if others <= 1:
            self._alone_at = now
        if not again:
            # To try less often than a call takes would be to miss one's turn.
            longest = self._turn_seconds if now - self._answered_at < _RECENT_SECONDS else _LONGEST_SECONDS
            self._seconds = min(max(2 * self._seconds, _FIRST_SECONDS), longest)
            self._pause(now, self._seconds)
        return others

    def _pause(self, now: float, seconds: float) -> None:
        # Of different lengths, so that several gateways do not come back at the same moment.
        self._until = now + seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
