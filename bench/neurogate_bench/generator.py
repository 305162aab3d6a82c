"""The load generator as a scenario sees it: hand it a job, get its outcome."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from neurogate_bench.load import Answer, Load

# From the order to the first request: time to connect.
LEAD_SECONDS = 0.1


class GeneratorError(RuntimeError):
    """The generator's process could not do its job; the message is its own."""


class Generator:
    """A process that lives as long as the scenarios, so that no run pays for its start."""

    def __init__(self) -> None:
        # In its own folder on the path, the worker finds this package wherever the runner was started from.
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        command = [sys.executable, "-m", "neurogate_bench.worker"]
        self._worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._jobs, self._replies = self._worker.stdin, self._worker.stdout

    def begin(self, job: dict[str, Any], *, seed: int = 0) -> None:
        """Sends a job without waiting; `finish` collects its outcome."""
        job = {**job, "start_at": time.monotonic() + LEAD_SECONDS}
        if job.get("mode") == "open":
            job["arrivals"] = poisson_arrivals(job["rate"], job["seconds"], seed=seed)
        self._jobs.write(json.dumps(job) + "\n")
        self._jobs.flush()

    def finish(self) -> Load:
        """Waits for the job's end."""
        return Load.from_json(self._reply())

    def done(self, *, seconds: float) -> bool:
        """Waits up to `seconds` for the job's end; whether it has come."""
        # A reply is one line and nothing has been read of it yet, so no buffer hides it.
        return bool(select.select([self._replies], [], [], seconds)[0])

    def run(self, job: dict[str, Any], *, seed: int = 0) -> Load:
        """Performs a job and returns its outcome."""
        self.begin(job, seed=seed)
        return self.finish()

    def ask(self, job: dict[str, Any]) -> list[Answer]:
        """Sends each picture once, one after another, and returns the answers."""
        self.begin({**job, "mode": "ask"})
        return [Answer(*answer) for answer in self._reply()["answers"]]

    def release(self) -> None:
        """Ends the connections that the worker keeps between jobs."""
        self.begin({"mode": "release"})
        self._reply()

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise GeneratorError(f"the generator's process ended with status {self._worker.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise GeneratorError(reply["failed"])
        return reply

    def close(self) -> None:
        """Ends the worker."""
        self._jobs.close()
        self._worker.wait(timeout=30)
        self._replies.close()


def poisson_arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Offsets in seconds from the start, ascending, of a Poisson process of `rate` arrivals per second."""
    source, offsets = random.Random(seed), list[float]()
    moment = source.expovariate(rate)
    while moment < seconds:
        offsets.append(moment)
        moment += source.expovariate(rate)
    return offsets
