"""What a scenario works with: prepared models, pictures, the load generator, servers that are shared, and
its record."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from neurogate_bench import null_backend, systems
from neurogate_bench.generator import BUSY_LIMIT, Generator, Load
from neurogate_bench.processes import Server
from neurogate_bench.results import Target, target
from neurogate_bench.stats import Figure, figure
from neurogate_bench.systems import Contender, Models

# A share of the cores that somebody else may use before a run says more about them.
FOREIGN_LIMIT = 0.1
_EXPECTED_REFUSALS = frozenset({"RESOURCE_EXHAUSTED"})


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
        self.generator_share = 0.0
        self.foreign_share = 0.0
        self.backend = "none"

    def add(self, series: str, metric: str, unit: str, value: float) -> None:
        """One run's value of one figure."""
        self._runs.setdefault((series, metric), (unit, []))[1].append(value)

    def runs(self, series: str, metric: str) -> list[float]:
        """Every run's value so far."""
        return self._runs[series, metric][1]

    def median(self, series: str, metric: str) -> float:
        """The median so far."""
        return self.figure(series, metric)["median"]

    def figure(self, series: str, metric: str) -> Figure:
        """The figure so far."""
        unit, runs = self._runs[series, metric]
        return figure(series, metric, unit, runs)

    def figures(self) -> list[Figure]:
        """All figures, in the order of their first value."""
        return [self.figure(series, metric) for series, metric in self._runs]

    def judge(self, name: str, comparison: str, limit: float, value: float, unit: str = "") -> None:
        """Holds a value to its target."""
        self.targets.append(target(name, comparison, limit, value, unit))

    def invalidate(self, reason: str) -> None:
        """Says why the figures must not be used; the same reason once."""
        if reason not in self.void:
            self.void.append(reason)


class Context:
    """Shared by all scenarios of one invocation; starts each server once and stops all at the end."""

    def __init__(
        self,
        *,
        model: str,
        side: int,
        prepare: Callable[[], Models],
        images: list[Path],
        cores: list[int],
        tolerate_others: bool,
    ) -> None:
        self.model = model
        self.side = side
        self._prepare = prepare
        self.images = images
        self.scenario = ""
        self.record = Record()
        self.generator = Generator()
        self._cores = cores
        self._tolerate_others = tolerate_others
        self._stack = contextlib.ExitStack()
        self._began = time.monotonic()
        self._shared: dict[str, Any] = {}
        self._expected: list[list[float]] = []

    def say(self, text: str) -> None:
        """A line of progress, with the time since the beginning."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)

    def step(self, run: int, runs: int, text: str = "") -> None:
        """A line of progress after one run of the scenario."""
        self.say(f"{self.scenario}  run {run + 1}/{runs}  {text}".rstrip())

    @functools.cached_property
    def models(self) -> Models:
        """The exported networks; made when first needed, since not every scenario needs them."""
        return self._prepare()

    def begin(self, scenario: str) -> None:
        """A new scenario with an empty record; servers and the expected answers stay."""
        self.scenario, self.record = scenario, Record()

    def close(self) -> None:
        """Stops everything."""
        self._stack.close()
        self.generator.close()

    def _share(self, name: str, start: Callable[[], tuple[Server, str]]) -> tuple[Server, str]:
        if name not in self._shared:
            self.say(f"starting {name}")
            server, address = start()
            self._stack.callback(server.stop)
            self._shared[name] = (server, address)
        server, address = self._shared[name]
        self.record.commands[name] = server.command
        return server, address

    def model_server(self) -> tuple[Server, str]:
        """The model server with the optimised version, with the flags that `serving/` has."""
        self.record.backend = systems.backend_kind()
        flags = ["--tensorflow_intra_op_parallelism=1"]
        return self._share(
            "model server",
            lambda: systems.start_model_server("model-server", self.models, self.models.optimised, flags),
        )

    def plain_server(self) -> tuple[Server, str]:
        """A model server with the plain export and no flag that it does not need."""
        return self._share(
            "plain model server",
            lambda: systems.start_model_server("plain-server", self.models, self.models.plain, []),
        )

    def null_server(self) -> tuple[Server, str]:
        """The model server that computes nothing."""
        self.record.backend = "null"
        return self._share(
            "null model server", lambda: systems.start_null_backend(self.model, self.side, self.images)
        )

    def gateway(self, *flags: str, null: bool = False) -> Contender:
        """A gateway in front of the model server, or of the null one; another set of flags is another
        gateway."""
        backend, address = self.null_server() if null else self.model_server()
        name = " ".join(["gateway", *(["on null"] if null else []), *flags])
        server, listening = self._share(name, lambda: systems.start_gateway(self.model, address, flags))
        job: dict[str, Any] = {"call": "classify", "target": listening}
        if null:
            best = max(null_backend.PROBABILITIES)
            job["expected"] = [[null_backend.PROBABILITIES.index(best), best]]
            job["versions"] = [null_backend.VERSION]
        return Contender("gateway", job, [server, backend])

    def http_baselines(self) -> list[Contender]:
        """The HTTP baselines, running."""
        if "http" not in self._shared:
            self.say("starting the HTTP baselines")
            self._shared["http"] = systems.http_baselines(self.models)
            for contender in self._shared["http"]:
                self._stack.callback(contender.servers[0].stop)
        contenders: list[Contender] = self._shared["http"]
        for contender in contenders:
            self.record.commands[contender.name] = contender.servers[0].command
        return contenders

    def expected(self) -> list[list[float]]:
        """What each picture must be answered with, asked of the model server itself while nothing else
        runs."""
        if not self._expected:
            server, address = self.model_server()
            call = systems.direct("D1", self.models, address, [server], in_call=True)
            answers = self.generator.ask({**call.job, "images": self._paths()})
            self._expected = [[answer.winner, answer.probability] for answer in answers]
        return self._expected

    def _paths(self) -> list[str]:
        return [str(path) for path in self.images]

    def load(
        self, contender: Contender, *, seed: int = 0, counted: bool = True, **job: object
    ) -> tuple[Load, float]:
        """Loads a contender once and returns the outcome with the CPU-seconds that it used.

        `counted` is False for warm-up, which may be as disturbed and as wrong as it likes.
        """
        complete = self.job(contender, **job)
        with self.watched(contender, counted=counted) as observe:
            load = self.generator.run(complete, seed=seed)
            return load, observe(load)

    def job(self, contender: Contender, **job: object) -> dict[str, Any]:
        """A contender's request with the pictures and the answers that they must get."""
        complete = {"images": self._paths(), **contender.job, **job}
        if "expected" not in complete:
            complete["expected"] = self.expected()
        return complete

    @contextlib.contextmanager
    def watched(self, contender: Contender, *, counted: bool = True) -> Iterator[Callable[[Load], float]]:
        """Takes the readings around a load; call what it yields with the load to book it and learn the
        CPU-seconds that the contender used."""
        before, disturbance = contender.cpu_seconds(), self.disturbance()

        def observe(load: Load) -> float:
            used = contender.cpu_seconds() - before
            if contender.client_is_part:
                used += load.generator_cpu
            if counted:
                disturbance()
                self._book(contender, load)
            return used

        yield observe

    def disturbance(self) -> Callable[[], None]:
        """Begins to watch what other programs do; call what it returns at the end to book their share."""
        busy, own, began = self._busy(), self._own(), time.monotonic()

        def book() -> None:
            seconds = (self._busy() - busy) - (self._own() - own)
            foreign = max(0.0, seconds) / ((time.monotonic() - began) * len(self._cores))
            self.record.foreign_share = max(self.record.foreign_share, foreign)
            if foreign > FOREIGN_LIMIT and not self._tolerate_others:
                self.record.invalidate(f"other programs used more than {FOREIGN_LIMIT:.0%} of the cores")

        return book

    def _book(self, contender: Contender, load: Load) -> None:
        record = self.record
        record.checks["answers"] += load.images
        record.checks["requests"] += load.requests
        for name, count in load.wrong.items():
            record.problems[f"{contender.name}: wrong {name}"] += count
        for name, count in load.refusals.items():
            record.problems[f"{contender.name}: {name}"] += count
        if not contender.client_is_part:
            record.generator_share = max(record.generator_share, load.busiest_share)
            if load.busiest_share > BUSY_LIMIT:
                record.invalidate(f"the generator was busy for more than {BUSY_LIMIT:.0%} of its time")
        if load.wrong:
            record.invalidate("answers were wrong")
        if unexpected := set(load.refusals) - _EXPECTED_REFUSALS:
            record.invalidate(f"requests failed: {', '.join(sorted(unexpected))}")

    def _busy(self) -> float:
        """CPU-seconds that the cores in use have spent on anything at all, the hypervisor's theft
        included."""
        times = psutil.cpu_times(percpu=True)
        return sum(sum(times[core]) - times[core].idle - times[core].iowait for core in self._cores)

    @staticmethod
    def _own() -> float:
        """CPU-seconds of this process and all below it, ended ones included."""
        process, total = psutil.Process(), 0.0
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(member.cpu_times()[:4])
        return total
