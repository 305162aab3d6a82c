"""What a scenario finds: its figures run by run, its targets, and everything that went wrong or got in the
way."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

from neurogate_bench.load import Load
from neurogate_bench.results import Target, target
from neurogate_bench.stats import Figure, figure, percentile, ratios

# A generator that has no time left measures itself.
BUSY_LIMIT = 0.8
# An open loop that sends so much later than it should offers another load than it says.
LATE_LIMIT_MS = 10.0
_EXPECTED_REFUSALS = frozenset({"RESOURCE_EXHAUSTED"})


class Disturbance(NamedTuple):
    """What other programs took of the cores while something was measured."""

    seconds: float
    share: float


class Record:
    """What one scenario has found so far."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], tuple[str, list[float]]] = {}
        self.targets: list[Target] = []
        self.notes: list[str] = []
        self.void: list[str] = []
        self.details: dict[str, Any] = {}
        self.commands: dict[str, str] = {}
        self.checks: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.disturbances: list[Disturbance] = []
        self.generator_share = 0.0
        self.backend = "none"

    def add(self, series: str, metric: str, unit: str, value: float) -> None:
        """One run's value of one figure."""
        self._runs.setdefault((series, metric), (unit, []))[1].append(value)

    def runs(self, series: str, metric: str) -> list[float]:
        """Every run's value so far."""
        return self._runs[series, metric][1]

    def figure(self, series: str, metric: str) -> Figure:
        """The figure so far."""
        unit, runs = self._runs[series, metric]
        return figure(series, metric, unit, runs)

    def content(self) -> dict[str, Any]:
        """What a result has of it."""
        return {
            "backend": self.backend,
            "commands": self.commands,
            "figures": [self.figure(series, metric) for series, metric in self._runs],
            "checks": {
                **self.checks,
                "problems": dict(self.problems),
                "generator_busy": round(self.generator_share, 3),
                "other_programs": self.other_programs(),
                "niceness": os.nice(0),
            },
            "targets": self.targets,
            "notes": self.notes,
            "void": self.void,
            "details": self.details,
        }

    def ratio(self, title: str, metric: str, over: str, under: str) -> None:
        """Adds the ratio of two series run by run, as a series `title`."""
        for value in ratios(self.runs(over, metric), self.runs(under, metric)):
            self.add(title, "ratio", "", value)

    def judge(
        self,
        name: str,
        comparison: str,
        limit: float,
        value: float,
        unit: str = "",
        *,
        absolute: bool = False,
    ) -> None:
        """Holds a value to its target; `absolute` where a busy machine alone can make it miss."""
        self.targets.append(target(name, comparison, limit, value, unit, absolute=absolute))

    def judge_figure(
        self, name: str, comparison: str, limit: float, found: Figure, *, absolute: bool = False
    ) -> None:
        """Holds the median of a figure's runs to a target, with the extremes beside it."""
        spread = [found["min"], found["max"]] if len(found["runs"]) > 1 else []
        self.targets.append(
            target(name, comparison, limit, found["median"], found["unit"], absolute=absolute, spread=spread)
        )

    def invalidate(self, reason: str) -> None:
        """Says why the figures must not be used; the same reason once."""
        if reason not in self.void:
            self.void.append(reason)

    def book(self, name: str, load: Load, *, client_is_part: bool = False) -> None:
        """Books what was wrong with a load's answers, and whether the generator kept up with it."""
        self.checks["answers"] += load.images
        self.checks["requests"] += load.requests
        for problem, count in load.wrong.items():
            self.problems[f"{name}: wrong {problem}"] += count
        for refusal, count in load.refusals.items():
            self.problems[f"{name}: {refusal}"] += count
        if load.wrong:
            self.invalidate("answers were wrong")
        if unexpected := set(load.refusals) - _EXPECTED_REFUSALS:
            self.invalidate(f"requests failed: {', '.join(sorted(unexpected))}")
        if not client_is_part:
            self.generator_share = max(self.generator_share, load.busiest_share)
            if load.busiest_share > BUSY_LIMIT:
                self.invalidate(f"the generator was busy for more than {BUSY_LIMIT:.0%} of its time")
        if load.lateness_ms and percentile(load.lateness_ms, 50) > LATE_LIMIT_MS:
            self.invalidate(f"half of the requests were sent more than {LATE_LIMIT_MS:.0f} ms late")

    def other_programs(self) -> dict[str, float]:
        """How disturbed the measuring was: the share of the cores that other programs took, on average and
        at worst."""
        total = sum(entry.seconds for entry in self.disturbances)
        mean = sum(entry.seconds * entry.share for entry in self.disturbances) / total if total else 0.0
        worst = max((entry.share for entry in self.disturbances), default=0.0)
        return {"mean": round(mean, 3), "worst": round(worst, 3)}


def watch_other_programs(cores: list[int]) -> Callable[[], Disturbance]:
    """Begins to watch what neither this process nor anything that it started does on the cores in use;
    what it returns ends it and tells."""
    busy, own, began = _busy(cores), _own(), time.monotonic()

    def finish() -> Disturbance:
        seconds = time.monotonic() - began
        foreign = (_busy(cores) - busy) - (_own() - own)
        return Disturbance(seconds, min(1.0, max(0.0, foreign / (seconds * len(cores)))))

    return finish


def _busy(cores: list[int]) -> float:
    """CPU-seconds that cores have spent on anything at all, the hypervisor's theft included."""
    times = psutil.cpu_times(percpu=True)
    # Guests are counted among user time already.
    return sum(sum(times[core][:8]) - times[core].idle - times[core].iowait for core in cores)


def _own() -> float:
    """CPU-seconds of this process and all below it, ended ones included."""
    process, total = psutil.Process(), 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(member.cpu_times()[:4])
    return total
