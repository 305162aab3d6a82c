"""What a scenario works with: prepared models, pictures, the load generator, servers that are shared, and
its record."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import images, machine, null_backend, prepare, results, systems
from neurogate_bench.generator import Generator
from neurogate_bench.load import Load, merge
from neurogate_bench.processes import Server
from neurogate_bench.record import Record, watch_other_programs
from neurogate_bench.systems import Contender

SCENARIOS = machine.ROOT / "bench" / "scenarios.toml"
BUILD = machine.ROOT / "build" / "bench"
Jobs = Mapping[str, tuple[Contender, Mapping[str, Any]]]
"""By name: who is loaded, and how."""
Settings = Mapping[str, Any]
_NO_SETTINGS = {"title", "question", "only_by_name"}


def read_scenarios(path: Path = SCENARIOS) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The defaults, and each scenario's settings with the defaults filled in."""
    content = tomllib.loads(path.read_text())
    defaults = content["defaults"]
    return defaults, {name: {**defaults, **settings} for name, settings in content["scenario"].items()}


class Context(contextlib.AbstractContextManager["Context"]):
    """Shared by all scenarios of one invocation, on as many cores as they want; starts each server once
    and stops all at the end."""

    def __init__(self) -> None:
        defaults, _ = read_scenarios()
        self.model, self.side = defaults["model"], defaults["side"]
        self._cores = machine.pin_to_cores(defaults["cores"])
        self._about = machine.describe(self._cores)
        self.images = images.write_images(BUILD / "images", defaults["images"])
        self.scenario, self.record = "", Record()
        self.generator = Generator()
        self._stack = contextlib.ExitStack()
        self._began = time.monotonic()
        self._shared: dict[str, Any] = {}
        self._expected: list[list[float]] = []

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.generator.close()

    def say(self, text: str) -> None:
        """A line of progress, with the time since the beginning."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)

    def step(self, run: int, runs: int, text: str = "") -> None:
        """A line of progress after one run of the scenario."""
        self.say(f"{self.scenario}  run {run + 1}/{runs}  {text}".rstrip())

    @functools.cached_property
    def models(self) -> systems.Models:
        """The exported networks; made when first needed, since not every scenario needs them."""
        return prepare.ensure(BUILD / "models", self.images, self.model, self.side)

    def begin(self, scenario: str, settings: Settings) -> None:
        """A new scenario with an empty record; servers and the expected answers stay."""
        self.scenario, self.record, self._settings = scenario, Record(), settings
        self.generator.release()
        self._started = dt.datetime.now(dt.UTC)
        self._load_average = round(os.getloadavg()[0], 2)

    def result(self) -> results.Result:
        """The scenario's record, with everything that a reader needs to judge it."""
        settings = self._settings
        return results.Result(
            schema=results.SCHEMA,
            scenario=self.scenario,
            title=settings["title"],
            question=settings["question"],
            started_at=self._started.isoformat(timespec="seconds"),
            seconds=round((dt.datetime.now(dt.UTC) - self._started).total_seconds(), 1),
            load_average_at_start=self._load_average,
            settings={name: value for name, value in settings.items() if name not in _NO_SETTINGS},
            **self._about,
            **self.record.content(),
        )

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
        """The model server with the exported version, with the flags that are shipped."""
        self.record.backend = systems.backend_kind()
        return self._share(
            "model server",
            lambda: systems.start_model_server("model-server", self.models.optimised, MODEL_SERVER_FLAGS),
        )

    def plain_server(self) -> tuple[Server, str]:
        """A model server with the plain export and no flag that it does not need."""
        return self._share(
            "plain model server", lambda: systems.start_model_server("plain-server", self.models.plain, [])
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
            # The CPU time of what stands in for a model server is not the gateway's.
            return Contender("gateway", job, [server])
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
            call = systems.direct("D1", self.models, address, server, in_call=True)
            answers = self.generator.ask({**call.job, "images": [str(path) for path in self.images]})
            self._expected = [[answer.winner, answer.probability] for answer in answers]
        return self._expected

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

    def rounds(
        self, jobs: Jobs, settings: Settings, *, cpu: str = "CPU"
    ) -> Iterator[dict[str, tuple[Load, float]]]:
        """Lets all jobs take turns, after a warm-up, and records of each its throughput, p50, p99 and CPU
        time.

        Yields for each run, by name, all bursts as one load, and the CPU-seconds that the contender used in
        them.
        """
        for contender, job in jobs.values():
            self.load(contender, counted=False, **job, seconds=settings["warm_up"])
        record = self.record
        for run in range(settings["runs"]):
            found = self.turns(jobs, settings, run)
            for name, (load, used) in found.items():
                record.add(name, "throughput", "images/s", load.per_second)
                record.add(name, "p50", "ms", load.latency(50))
                record.add(name, "p99", "ms", load.latency(99))
                record.add(name, cpu, "ms/image", load.cpu_ms(used))
            yield found
            rates = ", ".join(f"{name} {load.per_second:.0f}" for name, (load, _) in found.items())
            self.step(run, settings["runs"], f"images/s: {rates}")

    def turns(self, jobs: Jobs, settings: Settings, run: int) -> dict[str, tuple[Load, float]]:
        """One run in which all jobs take turns: `bursts` times `seconds` each, every round beginning with
        another job.

        What disturbs the machine for longer than a burst so disturbs all of them, and their ratio holds.
        """
        names = list(jobs)
        loads: dict[str, list[Load]] = {name: [] for name in names}
        used = dict.fromkeys(names, 0.0)
        for burst in range(settings["bursts"]):
            first = (run + burst) % len(names)
            for name in names[first:] + names[:first]:
                contender, job = jobs[name]
                load, cpu = self.load(contender, **job, seconds=settings["seconds"])
                loads[name].append(load)
                used[name] += cpu
        return {name: (merge(loads[name]), used[name]) for name in names}

    def job(self, contender: Contender, **job: object) -> dict[str, Any]:
        """A contender's request with the pictures and the answers that they must get."""
        complete = {"images": [str(path) for path in self.images], **contender.job, **job}
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
                self.record.book(contender.name, load, client_is_part=contender.client_is_part)
            return used

        yield observe

    def disturbance(self) -> Callable[[], None]:
        """Begins to watch what other programs do; call what it returns at the end to book their share."""
        finish, record = watch_other_programs(self._cores), self.record
        return lambda: record.disturbances.append(finish())
