"""A retraining followed live: a bar for each phase, its figures, the trainer's log, and the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Self

from neurogate_client.client import Client
from neurogate_client.results_training import (
    Logged,
    PhaseBegan,
    Progressed,
    Retraining,
    RetrainingEvent,
    RetrainingState,
    StateChanged,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from neurogate_cli.common import cell, own_name, printable

from .json import document, dumped
from .release import gate_view
from .tables import duration

STATE_STYLES = {
    RetrainingState.QUEUED: "dim",
    RetrainingState.RUNNING: "cyan",
    RetrainingState.EVALUATING: "cyan",
    RetrainingState.PUBLISHING: "cyan",
    RetrainingState.SUCCEEDED: "green",
    RetrainingState.REFUSED: "yellow",
    RetrainingState.FAILED: "red",
    RetrainingState.CANCELLED: "yellow",
}
_LOG_STYLES = {"warning": "yellow", "error": "red"}
_SHOWN_FIGURES = 4
_TELLING = ("val_accuracy", "val_macro_f1", "accuracy", "loss")


def follow(client: Client, run_id: str, console: Console, *, as_json: bool = False) -> Retraining:
    """Shows the events of a retraining until its end; returns it as it ended."""
    with contextlib.ExitStack() as stack:
        show: Callable[[RetrainingEvent], None]
        if as_json:
            show = _json_lines(console)
        elif console.is_terminal:
            show = stack.enter_context(_Bars(console)).show
        else:
            show = _Lines(console).show
        events = stack.enter_context(contextlib.closing(client.watch_retraining(run_id)))
        for event in events:
            show(event)
    return client.get_retraining(run_id)


def tell_end(console: Console, run: Retraining) -> None:
    """How a retraining ended."""
    took = ""
    if run.start_time is not None and run.end_time is not None:
        took = f" after {duration((run.end_time - run.start_time).total_seconds())}"
    if run.gate is not None:
        console.print(gate_view(run.gate))
        console.print()
    line = Text(f"retraining {printable(run.retraining_id)} ").append(
        run.state.value, f"bold {STATE_STYLES.get(run.state, '')}".strip()
    )
    line.append(f"{took}: version {run.version}" if run.version else took)
    console.print(line, soft_wrap=True)
    if run.error:
        for each in run.error.splitlines():
            console.print(cell(f"  {each}", "red"), soft_wrap=True)
    if run.version and run.state is RetrainingState.SUCCEEDED and not run.promote:
        console.print(f"`{own_name()} promote {run.version}` makes it stable.", style="dim", markup=False)


def figures(event: Progressed) -> str:
    """A few figures of a progress for people, the more telling ones first."""
    first = [name for name in _TELLING if name in event.metrics]
    names = [*first, *sorted(set(event.metrics) - set(first))][:_SHOWN_FIGURES]
    shown = [f"{name.replace('_', ' ')} {event.metrics[name]:.3g}" for name in names]
    return ", ".join([*([f"epoch {event.epoch}"] if event.epoch else []), *shown])


def _json_lines(console: Console) -> Callable[[RetrainingEvent], None]:
    def show(event: RetrainingEvent) -> None:
        line = {"event": type(event).__name__, **document(event)}
        console.out(dumped(line, indent=None), highlight=False)

    return show


class _Lines:
    """For files and pipes: a line for everything that happens, but not for every step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def show(self, event: RetrainingEvent) -> None:
        if isinstance(event, StateChanged):
            self._print(event.state.value)
        elif isinstance(event, PhaseBegan):
            self._print(f"phase {event.name}" + (f": {event.total} {event.unit}" if event.total else ""))
        elif isinstance(event, Logged):
            self._print(event.text)
        elif isinstance(event, Progressed):
            done = 0 < event.total <= event.step
            if done or (event.phase, event.epoch) != self._last:
                self._last = (event.phase, event.epoch)
                of = f"/{event.total}" if event.total else ""
                self._print(f"{event.phase} {event.step}{of} {figures(event)}".rstrip())

    def _print(self, line: str) -> None:
        self._console.print(cell(line), soft_wrap=True)


class _Bars:
    """For terminals: a bar a phase; the trainer's log scrolls above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Where room is short, figures go before the bar does.
        wide = console.width >= 100
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None if wide else 16),
            TextColumn("{task.fields[steps]}", markup=False),
            TextColumn("{task.fields[left]}", style="cyan", markup=False),
            *([TextColumn("{task.fields[figures]}", style="dim", markup=False)] if wide else []),
            TimeElapsedColumn(),
        ]
        self._progress = Progress(*columns, console=console, expand=wide)
        self._tasks: dict[str, TaskID] = {}
        self._units: dict[str, str] = {}
        self._over: set[TaskID] = set()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._progress.stop()

    def show(self, event: RetrainingEvent) -> None:
        if isinstance(event, StateChanged):
            self._finish()
            self._progress.console.print(
                cell(event.state.value, f"bold {STATE_STYLES.get(event.state, '')}".strip())
            )
        elif isinstance(event, PhaseBegan):
            self._finish()
            self._units[event.name] = event.unit
            self._task(event.name, event.total)
        elif isinstance(event, Logged):
            self._progress.console.print(
                cell(event.text, _LOG_STYLES.get(event.level, "dim")), soft_wrap=True
            )
        elif isinstance(event, Progressed):
            of = f"/{event.total}" if event.total else ""
            unit = self._units.get(event.phase, "")
            left = f"{duration(event.remaining)} left" if event.remaining is not None else ""
            self._progress.update(
                self._task(event.phase, event.total),
                completed=event.step,
                total=event.total or None,
                steps=f"{event.step}{of} {unit}".rstrip(),
                left=left,
                figures=figures(event),
            )

    def _task(self, phase: str, total: int) -> TaskID:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(
                printable(phase), total=total or None, steps="", left="", figures=""
            )
        return self._tasks[phase]

    def _finish(self) -> None:
        """A phase is over when the next one begins."""
        for task in self._progress.tasks:
            if task.id in self._over:
                continue
            self._over.add(task.id)
            done = task.completed or 1
            self._progress.update(task.id, total=done, completed=done, left="")
            self._progress.stop_task(task.id)
