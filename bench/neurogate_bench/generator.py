"""The load generator as a scenario sees it: hand it a job, get the outcome of all its processes together."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from neurogate_bench.calls import Answer
from neurogate_bench.schedule import poisson_arrivals, share_arrivals
from neurogate_bench.stats import percentile

# From the order to the first request: time to connect, and for all workers to hear of it.
LEAD_SECONDS = 0.1


class GeneratorError(RuntimeError):
    """A generator process could not do its job; the message is its own."""


@dataclass(slots=True)
class Load:
    """What one run of load brought.

    Latencies are of good answers, in milliseconds, from the intended send time. Of the same answers in the
    same order, `opened` and `finished` say when their calls began and when they came (monotonic seconds), and
    `answered_by` tells their versions.
    """

    seconds: float
    images: int
    latencies_ms: list[float]
    finished: list[float]
    refusals: Counter[str]
    refusal_ms: list[float]
    wrong: Counter[str]
    versions: Counter[int]
    answered_by: list[int] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)
    generator_cpu: float = 0.0
    busiest_share: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that got an answer that is no error."""
        return len(self.latencies_ms)

    @property
    def requests(self) -> int:
        """All requests."""
        return self.answered + sum(self.refusals.values())

    @property
    def per_second(self) -> float:
        """Images answered per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def error_share(self) -> float:
        """Refused requests among all."""
        return sum(self.refusals.values()) / self.requests if self.requests else 1.0

    def latency(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds."""
        return percentile(self.latencies_ms, percent)

    def cpu_ms(self, cpu_seconds: float) -> float:
        """CPU-milliseconds per image, of a server that used `cpu_seconds` meanwhile."""
        return 1000 * cpu_seconds / self.images if self.images else float("nan")


def combine(replies: list[dict[str, Any]]) -> Load:
    """Adds the replies of all processes up.

    Raises:
        GeneratorError: one of them failed.
    """
    for reply in replies:
        if "failed" in reply:
            raise GeneratorError(reply["failed"])
    return Load(
        seconds=max(reply["wall"] for reply in replies),
        images=sum(reply["images"] for reply in replies),
        latencies_ms=[1000 * seconds for reply in replies for seconds in reply["taken"]],
        finished=[moment for reply in replies for moment in reply["finished"]],
        refusals=sum((Counter(reply["refusals"]) for reply in replies), Counter()),
        refusal_ms=[1000 * seconds for reply in replies for seconds in reply["refusal_taken"]],
        wrong=sum((Counter(reply["wrong"]) for reply in replies), Counter()),
        versions=sum((Counter({int(v): n for v, n in r["versions"].items()}) for r in replies), Counter()),
        opened=[moment for reply in replies for moment in reply["opened"]],
        answered_by=[version for reply in replies for version in reply["answered_by"]],
        lateness_ms=[1000 * seconds for reply in replies for seconds in reply["late"]],
        generator_cpu=sum(reply["cpu"] for reply in replies),
        busiest_share=max(reply["cpu"] / reply["wall"] if reply["wall"] else 0.0 for reply in replies),
    )


def merge(loads: Sequence[Load]) -> Load:
    """Several bursts of one contender as one load: their times add up, what lay between does not count."""
    return Load(
        seconds=sum(load.seconds for load in loads),
        images=sum(load.images for load in loads),
        latencies_ms=[taken for load in loads for taken in load.latencies_ms],
        finished=[moment for load in loads for moment in load.finished],
        refusals=sum((load.refusals for load in loads), Counter()),
        refusal_ms=[taken for load in loads for taken in load.refusal_ms],
        wrong=sum((load.wrong for load in loads), Counter()),
        versions=sum((load.versions for load in loads), Counter()),
        opened=[moment for load in loads for moment in load.opened],
        answered_by=[version for load in loads for version in load.answered_by],
        lateness_ms=[late for load in loads for late in load.lateness_ms],
        generator_cpu=sum(load.generator_cpu for load in loads),
        busiest_share=max((load.busiest_share for load in loads), default=0.0),
    )


class Generator:
    """A few worker processes that live as long as the scenarios, so that no run pays for their start."""

    def __init__(self, processes: int = 1) -> None:
        # In its own folder on the path, the worker finds this package wherever the runner was started from.
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", "neurogate_bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
            for _ in range(processes)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, job: dict[str, Any], *, seed: int = 0) -> list[subprocess.Popen[str]]:
        """Sends a job to the workers it needs and returns them without waiting; `finish` collects."""
        job = {**job, "start_at": time.monotonic() + LEAD_SECONDS}
        if job.get("mode") == "open":
            parts = share_arrivals(
                poisson_arrivals(job["rate"], job["seconds"], seed=seed), len(self._workers)
            )
            jobs = [{**job, "arrivals": part} for part in parts]
        else:
            jobs = [job]
        used = self._workers[: len(jobs)]
        for worker, part in zip(used, jobs, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(part) + "\n")
            worker.stdin.flush()
        return used

    def finish(self, used: list[subprocess.Popen[str]]) -> Load:
        """Waits for the job's end."""
        replies = []
        for worker in used:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if not line:
                raise GeneratorError(f"a generator process ended with status {worker.wait()}")
            replies.append(json.loads(line))
        return combine(replies)

    @staticmethod
    def done(used: list[subprocess.Popen[str]], *, seconds: float) -> bool:
        """Waits up to `seconds` for a worker that still works; whether none does."""
        # A reply is one line and nothing has been read of it yet, so no buffer hides it.
        return all(select.select([worker.stdout], [], [], seconds)[0] for worker in used if worker.stdout)

    def run(self, job: dict[str, Any], *, seed: int = 0) -> Load:
        """Performs a job and returns its outcome."""
        return self.finish(self.begin(job, seed=seed))

    def ask(self, job: dict[str, Any]) -> list[Answer]:
        """Sends each picture once, one after another, and returns the answers."""
        reply = self._talk(self._workers[0], {**job, "mode": "ask"})
        return [Answer(*answer) for answer in reply["answers"]]

    def release(self) -> None:
        """Ends the connections that the workers keep between jobs."""
        for worker in self._workers:
            self._talk(worker, {"mode": "release"})

    @staticmethod
    def _talk(worker: subprocess.Popen[str], job: dict[str, Any]) -> dict[str, Any]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if not line:
            raise GeneratorError(f"a generator process ended with status {worker.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise GeneratorError(reply["failed"])
        return reply

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.close()
            worker.wait(timeout=30)
            worker.stdout.close()
