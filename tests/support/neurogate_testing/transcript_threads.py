"""Recorded calls that run beside the steps of a scenario: one, many at once, or one again and again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from neurogate_testing.transcript_calls import Caller, brief

Json = Any

_JOIN_SECONDS = 130


class Burst:
    """Equal calls at the same moment, or each `gap` seconds after the last.

    Args:
        callers: One for each connection; the calls go round them.
        step: The call.
        count: How many.
        gap: In seconds; 0: all at once.
    """

    def __init__(self, callers: Sequence[Caller], step: Json, count: int, gap: float = 0.0) -> None:
        self._outcomes: list[tuple[Json, float] | None] = [None] * count
        self._callers = callers
        self._step = step
        self._start = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(count)]
        if gap:
            self._start.set()
        for thread in self._threads:
            thread.start()
            time.sleep(gap)
        self._start.set()

    def _run(self, number: int) -> None:
        self._start.wait()
        begun = time.monotonic()
        outcome = self._callers[number % len(self._callers)].call(self._step)
        self._outcomes[number] = outcome, time.monotonic() - begun

    def is_alive(self) -> bool:
        """Whether a call has not been answered."""
        return any(thread.is_alive() for thread in self._threads)

    def result(self) -> Json:
        """The outcome of a single call."""
        self.join()
        found = self._outcomes[0]
        return {"code": "NO ANSWER", "message": ""} if found is None else found[0]

    def join(self) -> None:
        """Waits for all answers."""
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def counts(self, name: Callable[[Json], str], unanswered: str) -> dict[str, int]:
        """How many outcomes there are of each name."""
        return dict(Counter(name(found[0]) if found else unanswered for found in self._outcomes))

    def slowest(self, code: str) -> float:
        """Seconds that the slowest outcome of this code took; 0 if there is none."""
        return max(
            (taken for each in self._outcomes if each and each[0]["code"] == code for taken in each[1:]),
            default=0.0,
        )


class Trace:
    """Polls a call and keeps the changes of its brief form."""

    def __init__(self, caller: Caller, step: Json, interval: float) -> None:
        self._seen: list[str] = []
        self._caller = caller
        self._step = step
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            line = brief(self._step, self._caller.call(self._step))
            if self._seen[-1:] != [line]:
                self._seen.append(line)
            self._stopping.wait(self._interval)
        self._caller.close()

    def stop(self) -> list[str]:
        """What was seen."""
        self._stopping.set()
        self._thread.join()
        return self._seen
