"""The reporter that functions ask for, and what its implementations share; import it from `progress`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

_UNTYPICAL_REPORTS: Final = 2
_TELLING_REPORTS: Final = 3


class Reporter(Protocol):
    """What a function needs in order to say how far it is."""

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Begins a phase of `total` units (None: unknown), e.g. 1200 "images"."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Reports `n` more units done, and the figures that hold now.

        The name `epoch` is reserved for the number of the epoch, from 1. With `n` = 0 the figures are a
        result, such as those of a finished epoch, and every reporter shows them.
        """

    def message(self, text: str, *, level: str = "info") -> None:
        """Says something once; level is "info", "warning" or "error"."""


class ClosingReporter(ABC):
    """A reporter that holds a terminal or a file, as a context manager."""

    @abstractmethod
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Begins a phase; see `Reporter.phase`."""

    @abstractmethod
    def advance(self, n: int = 1, **metrics: float) -> None:
        """Reports progress; see `Reporter.advance`."""

    @abstractmethod
    def message(self, text: str, *, level: str = "info") -> None:
        """Says something once; see `Reporter.message`."""

    def close(self) -> None:  # noqa: B027 - most reporters hold nothing
        """Ends the last phase and lets go of the terminal or the file; harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NullReporter(ClosingReporter):
    """Says nothing."""

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Nothing."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Nothing."""

    def message(self, text: str, *, level: str = "info") -> None:
        """Nothing."""


class TeeReporter(ClosingReporter):
    """Tells several reporters, in order; closing it closes those that can be closed."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Tells all."""
        for reporter in self._reporters:
            reporter.phase(name, total=total, unit=unit)

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Tells all."""
        for reporter in self._reporters:
            reporter.advance(n, **metrics)

    def message(self, text: str, *, level: str = "info") -> None:
        """Tells all."""
        for reporter in self._reporters:
            reporter.message(text, level=level)

    def close(self) -> None:
        """Closes all that can be closed."""
        for reporter in self._reporters:
            if isinstance(reporter, ClosingReporter):
                reporter.close()


class Pace:
    """How long a phase still takes, by the pace of its steps so far.

    The first two reports do not count: they pay for what is compiled and opened, or stand for the steps that
    an earlier start has made.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._reports = 0
        self._step = 0
        self._since = (0.0, 0)

    def advance(self, n: int, now: float) -> None:
        """Takes note of `n` more steps at a time in seconds."""
        self._step += n
        self._reports += n > 0
        if n > 0 and self._reports <= _UNTYPICAL_REPORTS:
            self._since = (now, self._step)

    def remaining(self, now: float) -> float | None:
        """Seconds; None while too little is known, and at the end."""
        since, step = self._since
        if self._total is None or not 0 < self._step < self._total:
            return None
        if self._reports < _UNTYPICAL_REPORTS + _TELLING_REPORTS:
            return None
        return (now - since) / (self._step - step) * (self._total - self._step)


class ThrottledReporter(ClosingReporter):
    """What line-wise reporters share: counting, and a line now and then instead of one per image."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._clock = clock
        self._name = ""
        self._unit = ""
        self._total: int | None = None
        self._step = 0
        self._pace = Pace(None)
        self._told_at = -math.inf
        self._pending: dict[str, float] | None = None

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Begins a phase; progress that was held back is told first."""
        self._flush()
        self._name, self._total, self._unit, self._step = name, total, unit, 0
        self._pace, self._told_at = Pace(total), self._clock()
        self._tell_phase()

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Counts, and tells when the interval has passed, the phase is complete or figures are a result."""
        self._step += n
        self._pace.advance(n, self._clock())
        self._pending = {**(self._pending or {}), **metrics}
        due = self._clock() - self._told_at >= self._interval
        if due or (n == 0 and metrics) or self._step == self._total:
            self._flush()

    def close(self) -> None:
        """Tells what was held back."""
        self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            metrics, self._pending = self._pending, None
            self._told_at = self._clock()
            self._tell_progress(metrics)

    @abstractmethod
    def _tell_phase(self) -> None: ...

    @abstractmethod
    def _tell_progress(self, metrics: dict[str, float]) -> None: ...


def format_metrics(metrics: dict[str, float]) -> str:
    """Figures for one line, e.g. "epoch 3, loss 0.412"."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
