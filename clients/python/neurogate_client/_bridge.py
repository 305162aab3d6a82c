"""Between a call that has threads of its own and the caller who takes its results one by one."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Deliver = Callable[[Any], None]
"""Takes an event of a call, from any of its threads, for `Running.take`."""

# A signal that comes just before a wait does not end it: Ctrl-C would go unnoticed until the wait is over.
_SLICE_SECONDS = 0.5


class Running(Protocol[R_co]):
    """A call that delivers events from its threads."""

    def take(self, event: Any) -> R_co | None:  # noqa: ANN401 - results, failures, the end
        """The result for the caller; None at the end. Failures are raised."""

    def patience(self) -> float:
        """Seconds that the consumer may wait for the next event before it calls `check_patience`."""

    def check_patience(self) -> None:
        """Raises where the other side has been silent for too long."""

    def close(self) -> None:
        """Ends the call, if it still runs."""


def consume(start: Callable[[Deliver], Running[T]]) -> Generator[T, None, None]:
    """The results of a call as a generator; the first step starts it."""
    # The threads of a call keep it alive; only a generator in front notices that the caller has dropped it.
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call = start(events.put)
    try:
        while True:
            patience = call.patience()
            try:
                event = events.get(block=patience > 0, timeout=min(max(patience, 0), _SLICE_SECONDS))
            except queue.Empty:
                call.check_patience()
                continue
            if (result := call.take(event)) is None:
                return
            yield result
    finally:
        call.close()
