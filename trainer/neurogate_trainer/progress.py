"""How work reports what it is doing: to people by bars or log lines, to programs by JSON lines.

Work is a sequence of phases. A phase begins when it is named and ends when the next one does, or when the
reporter is closed. Within a phase, `advance` counts what is done and may carry figures such as the loss.
Reporters are used from one thread at a time.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from .errors import TrainerError

_UNTYPICAL_REPORTS: Final = 2
_NEEDED_REPORTS: Final = 3
_STYLES = {"info": "", "warning": "bold yellow", "error": "bold red"}


class EventFileError(TrainerError, ValueError):
    """A file to which events should be appended holds something else."""


class Reporter:
    """Where work says how far it is; this one says nothing. Use it as a context manager."""

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Begins a phase of `total` units (None: unknown), e.g. 1200 "images"."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Reports `n` more units done, and the figures that hold now.

        The name `epoch` is reserved for the number of the epoch, from 1. With `n` = 0 the figures are a
        result, such as those of a finished epoch, and every reporter shows them.
        """

    def message(self, text: str, *, level: str = "info") -> None:
        """Says something once; level is "info", "warning" or "error"."""

    def close(self) -> None:
        """Ends the last phase and lets go of the terminal or the file; harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TeeReporter(Reporter):
    """Passes everything on to several reporters, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """To all."""
        for reporter in self._reporters:
            reporter.phase(name, total=total, unit=unit)

    def advance(self, n: int = 1, **metrics: float) -> None:
        """To all."""
        for reporter in self._reporters:
            reporter.advance(n, **metrics)

    def message(self, text: str, *, level: str = "info") -> None:
        """To all."""
        for reporter in self._reporters:
            reporter.message(text, level=level)

    def close(self) -> None:
        """Closes all."""
        for reporter in self._reporters:
            reporter.close()


class RichReporter(Reporter):
    """A bar per phase with remaining time and the latest figures, for a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            # Takes what is left of the line, so that long figures never squeeze the bar and the times.
            TextColumn(
                "{task.fields[figures]}",
                style="cyan",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            expand=True,
        )
        self._bars.start()
        self._task: TaskID | None = None

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Adds a bar and completes the one before."""
        self._finish()
        self._task = self._bars.add_task(escape(name), total=total, unit=escape(unit), figures="")

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Moves the bar and shows the figures beside it."""
        if self._task is None:
            return
        if metrics:
            self._bars.update(self._task, figures=_format_metrics(metrics))
        self._bars.advance(self._task, n)

    def message(self, text: str, *, level: str = "info") -> None:
        """Prints above the bars."""
        self._bars.print(escape(text), style=_STYLES.get(level, ""))

    def close(self) -> None:
        """Stops drawing."""
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            if task.total is None:
                self._bars.update(self._task, total=task.completed or 1, completed=task.completed or 1)
            self._bars.stop_task(self._task)


class _Pace:
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
        if self._reports < _UNTYPICAL_REPORTS + _NEEDED_REPORTS:
            return None
        return (now - since) / (self._step - step) * (self._total - self._step)


class _LineReporter(Reporter):
    """Counts, and writes a line now and then instead of one per image."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._clock = clock
        self._name = ""
        self._unit = ""
        self._total: int | None = None
        self._step = 0
        self._pace = _Pace(None)
        self._written_at = -math.inf
        self._pending: dict[str, float] | None = None

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        """Writes a phase, after the progress that was held back."""
        self._flush()
        self._name, self._total, self._unit, self._step = name, total, unit, 0
        self._pace, self._written_at = _Pace(total), self._clock()
        self._write_phase()

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Writes when the interval has passed, the phase is complete, or the figures are a result."""
        self._step += n
        self._pace.advance(n, self._clock())
        self._pending = {**(self._pending or {}), **metrics}
        due = self._clock() - self._written_at >= self._interval
        if due or (n == 0 and metrics) or self._step == self._total:
            self._flush()

    def close(self) -> None:
        """Writes what was held back."""
        self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            metrics, self._pending = self._pending, None
            self._written_at = self._clock()
            self._write_progress(metrics)

    def _write_phase(self) -> None:
        raise NotImplementedError

    def _write_progress(self, metrics: dict[str, float]) -> None:
        raise NotImplementedError


def _format_metrics(metrics: dict[str, float]) -> str:
    """Figures for one line, e.g. "epoch 3, loss 0.412"."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


class LogReporter(_LineReporter):
    """Plain lines with the time of day, for logs and for terminals that are none."""

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(interval, clock)
        self._stream = stream or sys.stderr

    def message(self, text: str, *, level: str = "info") -> None:
        """Writes a line, with the level in front unless it is "info"."""
        self._write(text if level == "info" else f"{level.upper()}: {text}")

    def _write_phase(self) -> None:
        amount = "" if self._total is None else f": {self._total} {self._unit}".rstrip()
        self._write(f"{self._name}{amount}")

    def _write_progress(self, metrics: dict[str, float]) -> None:
        of = "" if self._total is None else f"/{self._total}"
        parts = [f"{self._name} {self._step}{of} {self._unit}".rstrip(), _format_metrics(metrics)]
        remaining = self._pace.remaining(self._clock())
        if remaining is not None:
            parts.append(f"about {math.ceil(remaining)} s left")
        self._write(", ".join(part for part in parts if part))

    def _write(self, text: str) -> None:
        self._stream.write(f"{datetime.now().astimezone():%H:%M:%S} {text}\n")
        self._stream.flush()


class JsonLinesReporter(_LineReporter):
    """Appends events to a file, one JSON object a line, for programs that follow a run.

    Every event has `sequence` (from 1, continuing where an existing file ends), `time` (UTC, ISO 8601),
    `event` and `phase`. The events are "phase" (with `total`, `unit`), "progress" (`step`, `total`,
    `epoch` or null, `metrics`), "message" (`level`, `text`) and, once a process has come to its end, "end"
    (`outcome`: "published", "failed" or "stopped"; `version` or null; `reason`). Every line is written at
    once, and whole.

    Args:
        path: The file; made with its folder when missing. The torn last line of a killed run is cut off.
        interval: Least number of seconds between two progress events of a phase, results and ends excepted.
        clock: Seconds from any origin.

    Raises:
        EventFileError: The file exists and its last line is no event.
        OSError: It cannot be written.
    """

    def __init__(
        self, path: Path, *, interval: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(interval, clock)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sequence = _last_sequence(path)
        # Names of files may hold bytes that are no text.
        self._file = path.open("a", encoding="utf-8", errors="replace")

    def message(self, text: str, *, level: str = "info") -> None:
        """Writes a "message" event."""
        self._write({"event": "message", "phase": self._name, "level": level, "text": text})

    def end(self, outcome: str, *, version: int | None = None, reason: str = "") -> None:
        """Writes an "end" event after what was held back."""
        self._flush()
        self._write({"event": "end", "outcome": outcome, "version": version, "reason": reason})

    def close(self) -> None:
        """Writes what was held back and closes the file."""
        if not self._file.closed:
            super().close()
            self._file.close()

    def _write_phase(self) -> None:
        self._write({"event": "phase", "phase": self._name, "total": self._total, "unit": self._unit})

    def _write_progress(self, metrics: dict[str, float]) -> None:
        epoch = metrics.pop("epoch", None)
        self._write(
            {
                "event": "progress",
                "phase": self._name,
                "step": self._step,
                "total": self._total,
                "epoch": None if epoch is None else int(epoch),
                # JSON has no NaN; a loss that is none must not make the line unreadable.
                "metrics": {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()},
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        self._sequence += 1
        head = {"sequence": self._sequence, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._file.write(json.dumps(head | event, ensure_ascii=False) + "\n")
        self._file.flush()


def console_reporter(stream: IO[str] | None = None) -> Reporter:
    """Bars when standard error (or `stream`) is a terminal, plain lines otherwise."""
    stream = stream or sys.stderr
    return RichReporter(Console(file=stream)) if stream.isatty() else LogReporter(stream)


def _last_sequence(path: Path) -> int:
    """The sequence number at the end of an event file, 0 for a new one; removes a torn last line."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with path.open("r+b") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        file.truncate(complete)
    if complete == 0:
        return 0
    last = content[:complete].splitlines()[-1]
    try:
        return int(json.loads(last)["sequence"])
    except (ValueError, KeyError, TypeError) as error:
        raise EventFileError(
            f"{path} is not a file of events: its last line has no sequence number"
        ) from error
