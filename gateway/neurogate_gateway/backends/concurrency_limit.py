"""How many calls one model server may have from this gateway at a time, found from what it refuses.

TensorFlow Serving takes a fixed number of calls at a time and refuses the next at once, without a queue.
Nothing tells that number, and other clients use part of it. So the limit halves when a call is refused and
rises again while calls wait, by the curve that TCP takes (CUBIC, RFC 9438): fast to just below where it was
refused, slowly past that, then faster and faster. By a constant step it would take too long to come back once
another client has gone; by a constant factor it would be refused all the time.

A refusal comes within milliseconds however long a prediction takes, so the curve goes by time and not by
answers. Past the level it is the same for every gateway that shares the server, while a fall costs those more
who have more, and so their shares become even.
"""

from __future__ import annotations

from typing import Final

START: Final = 3
"""What a server on one core takes by its default of four threads, one of which listens."""
_SHARE: Final = 0.8
"""Of what was in flight at a refusal: where the curve is level, with large limits."""
_STEEPNESS: Final = 4.0
_PLATEAU_SECONDS: Final = 0.5
"""Until the limit is back at the level; half as much again, and it is tried one higher."""


class ConcurrencyLimit:
    """The limit now is `value`; it is at least 1."""

    def __init__(self, *, most: int = 65, fixed: int = 0) -> None:
        """Begins low.

        Args:
            most: It never rises above that.
            fixed: What it always is; 0 for one that is found.
        """
        self._most = most
        self._fixed = fixed
        self._level = float(min(START, most))
        self._low = self._level
        self._waited = _PLATEAU_SECONDS
        self.value = fixed or int(self._level)

    def fall(self, others: int) -> None:
        """A call was refused while so many others were in flight from here."""
        self._level = _below(others)
        self._low = max(1.0, others / 2)
        self._waited = 0.0
        self._set()

    def correct(self, others: int) -> None:
        """Another call of the burst that made the limit fall was refused: there was room for fewer still."""
        self._level = min(self._level, _below(others))
        self._low = min(self._low, max(1.0, others / 2))
        self._set()

    def waited(self, seconds: float) -> None:
        """Calls have waited for so long, and none was refused."""
        self._waited += seconds
        self._set()

    def _set(self) -> None:
        if self._fixed:
            return
        past = self._waited / _PLATEAU_SECONDS - 1
        steepness = self._level - self._low if past < 0 else _STEEPNESS
        self.value = min(max(1, round(self._level + steepness * past**3)), self._most)


def _below(others: int) -> float:
    return max(1.0, min(others - 1, others * _SHARE))
