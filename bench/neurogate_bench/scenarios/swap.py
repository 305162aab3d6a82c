"""Versions that come and go while callers are at work: what do they notice?"""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.generator import Load
from neurogate_bench.machine import ROOT
from neurogate_bench.processes import Server
from neurogate_bench.record import Record
from neurogate_bench.release import Publisher, Readiness, Releases
from neurogate_bench.scenarios.limits import capacity
from neurogate_bench.stats import percentile
from neurogate_bench.systems import Contender

FOLDER = ROOT / "build" / "bench" / "swap"
# The watch tells of a change after it has happened, and threads of a busy machine wait for their turn.
_SLACK_SECONDS = 0.25
# What a swap may still do to callers after the first answer of the new version: the old one is let go.
_AFTERMATH_SECONDS = 1.0


class Change(NamedTuple):
    """One promotion or rollback: the version that became "stable", when it was asked for, and when its
    publication began, for a rollback the same moment."""

    version: int
    began: float
    called: float


@dataclass(slots=True)
class Course:
    """All that was done to the release, and the memory that gateway and model server had meanwhile."""

    swaps: list[Change]
    rollbacks: list[Change]
    memory: dict[int, tuple[float, float]]


def swap(context: Context, settings: Mapping[str, Any]) -> None:
    """`swaps` new versions, each published, proven and promoted, and then `rollbacks`, under steady load."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    shutil.rmtree(FOLDER, ignore_errors=True)
    publisher = Publisher(models, FOLDER)
    publisher.publish()
    server, address = systems.start_model_server(
        "swap-server", models, FOLDER / models.model, MODEL_SERVER_FLAGS
    )
    flags = [flag.format(repository=FOLDER) for flag in settings["gateway_flags"]]
    with server:
        gateway, listening = systems.start_gateway(context.model, address, flags)
        with gateway, Client(listening) as client, Readiness(listening) as readiness:
            record.commands.update({"model server": server.command, "gateway": gateway.command})
            job = {"call": "classify", "target": listening, "expected": expected}
            contender = Contender("gateway", job, [gateway, server])
            context.load(contender, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
            rate = settings["share"] * capacity(context, contender, 3)
            record.add("callers", "rate", "images/s", rate)
            manager = _Manager(context, settings, publisher, readiness, Releases(client))
            load, course = manager.work(contender, rate, gateway, server)
            _judge_answers(record, load, readiness)
    _judge_course(record, load, course)


class _Manager:
    """Does to the release what a person would, step by step, while the generator plays the callers."""

    def __init__(
        self,
        context: Context,
        settings: Mapping[str, Any],
        publisher: Publisher,
        readiness: Readiness,
        releases: Releases,
    ) -> None:
        self._context, self._settings = context, settings
        self._publisher, self._readiness, self._releases = publisher, readiness, releases

    def work(self, contender: Contender, rate: float, gateway: Server, server: Server) -> tuple[Load, Course]:
        """The whole course under load; the callers stop when it is over, whatever became of it."""
        settings, stop = self._settings, FOLDER / "enough"
        callers = {name: settings[name] for name in ("unary", "streams", "stream_seconds")}
        job = self._context.job(
            contender, **callers, call="callers", mode="callers", rate=rate, seconds=900, stop_file=str(stop)
        )
        with self._context.watched(contender) as observe:
            used = self._context.generator.begin(job)
            try:
                course = self._course(gateway, server)
            finally:
                stop.touch()
                load = self._context.generator.finish(used)
            observe(load)
        return load, course

    def _course(self, gateway: Server, server: Server) -> Course:
        pause, swaps = self._settings["every"], self._settings["swaps"]
        course = Course([], [], {})
        # As long as some swaps take, so that the steady time has enough answers for a percentile.
        time.sleep(3 * pause)
        for number in range(1, swaps + 1):
            began = time.monotonic()
            version = self._publisher.publish()
            self._readiness.wait(version, seconds=120)
            course.swaps.append(Change(version, began, self._releases.promote(version)))
            time.sleep(pause)
            course.memory[number] = (gateway.resident_mib(), server.resident_mib())
            taken = course.swaps[-1].called - began
            self._context.step(
                number - 1, swaps, f"version {version} promoted {taken:.1f} s after publication"
            )
        for _ in range(self._settings["rollbacks"]):
            version, called = self._releases.roll_back()
            course.rollbacks.append(Change(version, called, called))
            time.sleep(pause / 2)
        return course


def first_answer(load: Load, change: Change) -> float:
    """When the first call that began after a change was answered by its version; infinity for never."""
    return min(
        (
            finished
            for opened, finished, version in zip(load.opened, load.finished, load.answered_by, strict=True)
            if version == change.version and opened >= change.called
        ),
        default=math.inf,
    )


def _judge_answers(record: Record, load: Load, readiness: Readiness) -> None:
    """No answer by a version that was not READY then."""
    early = sum(
        not readiness.was_ready(version, finished - taken / 1000, finished, slack=_SLACK_SECONDS)
        for version, finished, taken in zip(load.answered_by, load.finished, load.latencies_ms, strict=True)
    )
    record.judge("failed requests", "<=", 0, load.requests - load.answered)
    record.judge("answers by a version that was not READY", "<=", 0, early)
    record.judge("streams whose answers name two versions", "<=", 0, load.wrong["stream of two versions"])
    record.details["answers by version"] = {str(version): n for version, n in sorted(load.versions.items())}


def _judge_course(record: Record, load: Load, course: Course) -> None:
    spans = []
    for name, changes in (("promotion", course.swaps), ("rollback", course.rollbacks)):
        for change in changes:
            seen = first_answer(load, change)
            record.add(name, "call to first answer", "ms", 1000 * (seen - change.called))
            if name == "promotion":
                record.add(name, "publication to promotion", "s", change.called - change.began)
            end = min(seen, change.called + 30)
            spans.append((change.began, end + _AFTERMATH_SECONDS))
        if changes:
            found = record.figure(name, "call to first answer")
            title = f"{name}, call to first answer, slowest"
            record.judge(title, "<=", 300, found["max"], "ms", absolute=True)
    swapping, steady = _apart(load, spans)
    ratio = percentile(swapping, 99) / percentile(steady, 99)
    record.add("callers", "p50 between changes", "ms", percentile(steady, 50))
    record.add("callers", "p50 during changes", "ms", percentile(swapping, 50))
    record.add("callers", "p99 between changes", "ms", percentile(steady, 99))
    record.add("callers", "p99 during changes", "ms", percentile(swapping, 99))
    record.add("callers", "p99, during / between", "", ratio)
    # A busy machine has no core to spare for loading, which weighs on one side of this ratio alone.
    record.judge("p99, during / between changes", "<=", 2, ratio, absolute=True)
    record.notes.append(
        f"During a change: from its publication, of a rollback from its call, to {_AFTERMATH_SECONDS:.0f} s "
        f"after the first answer of the new version, {len(swapping)} answers; between: {len(steady)} others. "
        f"Extremes are those of {len(course.swaps)} promotions and {len(course.rollbacks)} rollbacks."
    )
    _judge_memory(record, course)
    start = min(load.finished)
    points = sorted(zip(load.finished, load.latencies_ms, strict=True))
    record.details["timeline"] = [
        (round(finished - start, 3), round(taken, 2))
        for finished, taken in itertools.islice(points, 0, None, max(1, len(points) // 1500))
    ]
    record.details["promoted"] = [round(change.called - start, 2) for change in course.swaps]
    record.details["rolled back"] = [round(change.called - start, 2) for change in course.rollbacks]


def _apart(load: Load, spans: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Latencies of the answers within the spans, and of the others."""
    swapping: list[float] = []
    steady: list[float] = []
    for finished, taken in zip(load.finished, load.latencies_ms, strict=True):
        within = any(begin <= finished and finished - taken / 1000 <= end for begin, end in spans)
        (swapping if within else steady).append(taken)
    return swapping, steady


def _judge_memory(record: Record, course: Course) -> None:
    """What remains of 18 versions that came and went."""
    last = max(course.memory)
    first = min(2, last)
    for place, name in enumerate(("gateway", "model server")):
        for number in (first, last):
            record.add(name, f"memory after {number} swaps", "MiB", course.memory[number][place])
        grown = course.memory[last][place] / course.memory[first][place]
        record.judge(f"memory of the {name}, after {last} swaps / after {first}", "<=", 1.2, grown)
    record.details["memory"] = [[number, *pair] for number, pair in course.memory.items()]
