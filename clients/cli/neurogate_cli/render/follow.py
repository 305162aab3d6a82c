"""A retraining followed live: a bar for each phase, its figures, the trainer's log, and the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Self

from neurogate.v1 import training_pb2
from neurogate_client import Client, Retraining, RetrainingEvent, enum_name
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from neurogate_cli.render.output import own_name

from .output import duration, print_json, print_line, printable
from .release import gate_view

STATE_STYLES = {
    "QUEUED": "dim",
    "RUNNING": "cyan",
    "EVALUATING": "cyan",
    "PUBLISHING": "cyan",
    "SUCCEEDED": "green",
    "REFUSED": "yellow",
    "FAILED": "red",
    "CANCELLED": "yellow",
}
ENDED = frozenset({"SUCCEEDED", "REFUSED", "FAILED", "CANCELLED"})
_LOG_STYLES = {"warning": "yellow", "error": "red"}
_SHOWN_FIGURES = 4
_TELLING = ("val_accuracy", "val_macro_f1", "accuracy", "loss")


def follow(client: Client, run_id: str, console: Console, *, as_json: bool = False) -> Retraining:
    """Shows the events of a retraining until its end; returns it as it ended."""
    with contextlib.ExitStack() as stack:
        show: Callable[[RetrainingEvent], None]
        if as_json:
            show = lambda event: print_json(console, event, indent=None)  # noqa: E731
        elif console.is_terminal:
            show = stack.enter_context(_Bars(console)).show
        else:
            show = _Lines(console).show
        for event in stack.enter_context(contextlib.closing(client.watch_retraining(run_id))):
            show(event)
    return client.get_retraining(run_id)


def print_end(console: Console, run: Retraining) -> None:
    """How a retraining ended."""
    state = enum_name(run, "state")
    if run.HasField("gate"):
        console.print(gate_view(run.gate))
        console.print()
    ended = run.HasField("start_time") and run.HasField("end_time")
    took = f" after {duration(run.end_time.seconds - run.start_time.seconds)}" if ended else ""
    line = Text(f"retraining {printable(run.retraining_id)} ").append(state, _style(state))
    print_line(console, line.append(f"{took}: version {run.version}" if run.version else took))
    for each in run.error.splitlines():
        print_line(console, f"  {each}", "red")
    if run.version and state == "SUCCEEDED" and not run.spec.promote:
        print_line(console, f"`{own_name()} promote {run.version}` makes it stable.", "dim")


def _style(state: str) -> str:
    return f"bold {STATE_STYLES.get(state, '')}".strip()


def _figures(progress: training_pb2.RetrainingProgress) -> str:
    """A few figures of a progress for people, the more telling ones first."""
    first = [name for name in _TELLING if name in progress.metrics]
    names = [*first, *sorted(set(progress.metrics) - set(first))][:_SHOWN_FIGURES]
    shown = [f"{name.replace('_', ' ')} {progress.metrics[name]:.3g}" for name in names]
    return ", ".join([*([f"epoch {progress.epoch}"] if progress.epoch else []), *shown])


class _Lines:
    """For files and pipes: a line for everything that happens, but not for every step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def show(self, event: RetrainingEvent) -> None:
        phase, progress = event.phase, event.progress
        match event.WhichOneof("event"):
            case "state_change":
                print_line(self._console, enum_name(event.state_change, "state"))
            case "phase":
                steps = f": {phase.total} {phase.unit}" if phase.total else ""
                print_line(self._console, f"phase {phase.name}{steps}")
            case "log":
                print_line(self._console, event.log.text)
            case "progress":
                done = 0 < progress.total <= progress.step
                if done or (progress.phase, progress.epoch) != self._last:
                    self._last = (progress.phase, progress.epoch)
                    of = f"/{progress.total}" if progress.total else ""
                    line = f"{progress.phase} {progress.step}{of} {_figures(progress)}"
                    print_line(self._console, line.rstrip())


class _Bars:
    """For terminals: a bar a phase; the trainer's log scrolls above."""

    def __init__(self, console: Console) -> None:
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
        self._bars = Progress(*columns, console=console, expand=wide)
        self._tasks: dict[str, TaskID] = {}
        self._units: dict[str, str] = {}
        self._over: set[TaskID] = set()

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._bars.stop()

    def show(self, event: RetrainingEvent) -> None:
        phase, progress, console = event.phase, event.progress, self._bars.console
        match event.WhichOneof("event"):
            case "state_change":
                self._finish()
                state = enum_name(event.state_change, "state")
                print_line(console, state, _style(state))
            case "phase":
                self._finish()
                self._units[phase.name] = phase.unit
                self._task(phase.name, phase.total)
            case "log":
                print_line(console, event.log.text, _LOG_STYLES.get(event.log.level, "dim"))
            case "progress":
                of = f"/{progress.total}" if progress.total else ""
                steps = f"{progress.step}{of} {self._units.get(progress.phase, '')}"
                left = (
                    f"{duration(progress.remaining.seconds)} left" if progress.HasField("remaining") else ""
                )
                self._bars.update(
                    self._task(progress.phase, progress.total),
                    completed=progress.step,
                    total=progress.total or None,
                    steps=steps.rstrip(),
                    left=left,
                    figures=_figures(progress),
                )

    def _task(self, phase: str, total: int) -> TaskID:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(
                printable(phase), total=total or None, steps="", left="", figures=""
            )
        return self._tasks[phase]

    def _finish(self) -> None:
        """A phase is over when the next one begins."""
        for task in self._bars.tasks:
            if task.id not in self._over:
                self._over.add(task.id)
                done = task.completed or 1
                self._bars.update(task.id, total=done, completed=done, left="")
                self._bars.stop_task(task.id)
