"""Who waits for a run of a model, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of one run.

    Attributes:
        deadline: When they stop waiting, on the monotonic clock; None for never.
        is_waiting: Tells whether they still wait: they may cancel, or be gone.
    """

    deadline: float | None = None
    is_waiting: Callable[[], bool] = _always

    def seconds_left(self) -> float | None:
        """Time until the deadline, at least 0; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


PATIENT = Caller()
