"""Versions that come and go while callers are at work: what do they notice?"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import systems
from neurogate_bench.context import BUILD, Context, Settings
from neurogate_bench.load import Load
from neurogate_bench.processes import Server
from neurogate_bench.record import Record
from neurogate_bench.release import Publisher, ReleaseManager
from neurogate_bench.scenarios.limits import capacity
from neurogate_bench.stats import percentile
from neurogate_bench.systems import Contender

FOLDER = BUILD / "swap"
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
    """All that was done to the release, and the memory that gateway and model server had after each swap."""

    swaps: list[Change] = field(default_factory=list)
    rollbacks: list[Change] = field(default_factory=list)
    memory: dict[int, tuple[float, float]] = field(default_factory=dict)


def swap(context: Context, settings: Settings) -> None:
    """`swaps` new versions, each published, proven and promoted, and then `rollbacks`, under steady load."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    shutil.rmtree(FOLDER, ignore_errors=True)
    publisher = Publisher(models, FOLDER)
    publisher.publish()
    server, address = systems.start_model_server("swap-server", FOLDER / models.model, MODEL_SERVER_FLAGS)
    flags = [flag.format(repository=FOLDER) for flag in settings["gateway_flags"]]
    with server:
        gateway, listening = systems.start_gateway(context.model, address, flags)
        with gateway, ReleaseManager(listening) as manager:
            record.commands.update({"model server": server.command, "gateway": gateway.command})
            job = {"call": "classify", "target": listening, "expected": expected}
            contender = Contender("gateway", job, [gateway, server])
            context.load(contender, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
            rate = settings["share"] * capacity(context, contender, 3)
            record.add("callers", "rate", "images/s", rate)
            callers = {name: settings[name] for name in ("unary", "streams", "stream_seconds")}
            stop = FOLDER / "enough"
            loading = context.job(
                contender, **callers, mode="callers", rate=rate, seconds=900, stop_file=str(stop)
            )
            with context.watched(contender) as observe:
                context.generator.begin(loading)
                try:
                    course = _change_release(context, settings, publisher, manager, (gateway, server))
                finally:
                    # The callers stop, whatever became of the release.
                    stop.touch()
                    load = context.generator.finish()
                observe(load)
            _judge_answers(record, load, manager)
    _judge_course(record, load, course)
    _judge_memory(record, course)


def _change_release(
    context: Context,
    settings: Settings,
    publisher: Publisher,
    manager: ReleaseManager,
    servers: tuple[Server, Server],
) -> Course:
    """What a person would do, step by step, while the generator plays the callers."""
    pause, swaps, course = settings["every"], settings["swaps"], Course()
    # As long as some swaps take, so that the steady time has enough answers for a percentile.
    time.sleep(3 * pause)
    for number in range(1, swaps + 1):
        began = time.monotonic()
        version = publisher.publish()
        manager.wait(version, seconds=120)
        change = Change(version, began, manager.promote(version))
        course.swaps.append(change)
        time.sleep(pause)
        course.memory[number] = (servers[0].resident_mib(), servers[1].resident_mib())
        taken = change.called - began
        context.step(number - 1, swaps, f"version {version} promoted {taken:.1f} s after publication")
    for _ in range(settings["rollbacks"]):
        version, called = manager.roll_back()
        course.rollbacks.append(Change(version, called, called))
        time.sleep(pause / 2)
    return course


def first_answer(load: Load, change: Change) -> float:
    """When the first call that began after a change was answered by its version; infinity for never."""
    answers = zip(load.opened, load.finished, load.answered_by, strict=True)
    return min(
        (
            finished
            for opened, finished, version in answers
            if version == change.version and opened >= change.called
        ),
        default=math.inf,
    )


def _judge_answers(record: Record, load: Load, manager: ReleaseManager) -> None:
    """No answer by a version that was not READY then."""
    early = sum(
        not manager.was_ready(version, finished - taken / 1000, finished, slack=_SLACK_SECONDS)
        for version, finished, taken in zip(load.answered_by, load.finished, load.latencies_ms, strict=True)
    )
    record.judge("failed requests", "<=", 0, load.requests - load.answered)
    record.judge("answers by a version that was not READY", "<=", 0, early)
    record.judge("streams whose answers name two versions", "<=", 0, load.wrong["stream of two versions"])


def _judge_course(record: Record, load: Load, course: Course) -> None:
    spans = []
    for name, changes in (("promotion", course.swaps), ("rollback", course.rollbacks)):
        for change in changes:
            seen = first_answer(load, change)
            record.add(name, "call to first answer", "ms", 1000 * (seen - change.called))
            if name == "promotion":
                record.add(name, "publication to promotion", "s", change.called - change.began)
            spans.append((change.began, min(seen, change.called + 30) + _AFTERMATH_SECONDS))
        if changes:
            slowest = record.figure(name, "call to first answer")["max"]
            title = f"{name}, call to first answer, slowest"
            record.judge(title, "<=", 300, slowest, "ms", absolute=True)
    swapping, steady = list[float](), list[float]()
    for finished, taken in zip(load.finished, load.latencies_ms, strict=True):
        within = any(begin <= finished and finished - taken / 1000 <= end for begin, end in spans)
        (swapping if within else steady).append(taken)
    for percent in (50, 99):
        record.add("callers", f"p{percent} between changes", "ms", percentile(steady, percent))
        record.add("callers", f"p{percent} during changes", "ms", percentile(swapping, percent))
    ratio = percentile(swapping, 99) / percentile(steady, 99)
    record.add("callers", "p99, during / between", "", ratio)
    # A busy machine has no core to spare for loading, which weighs on one side of this ratio alone.
    record.judge("p99, during / between changes", "<=", 2, ratio, absolute=True)
    record.notes.append(
        f"During a change: from its publication, of a rollback from its call, to {_AFTERMATH_SECONDS:.0f} s "
        f"after the first answer of the new version, {len(swapping)} answers; between: {len(steady)} others. "
        f"Extremes are those of {len(course.swaps)} promotions and {len(course.rollbacks)} rollbacks."
    )


def _judge_memory(record: Record, course: Course) -> None:
    """What remains of the versions that came and went."""
    last = max(course.memory)
    first = min(2, last)
    for place, name in enumerate(("gateway", "model server")):
        for number in (first, last):
            record.add(name, f"memory after {number} swaps", "MiB", course.memory[number][place])
        grown = course.memory[last][place] / course.memory[first][place]
        record.judge(f"memory of the {name}, after {last} swaps / after {first}", "<=", 1.2, grown)
