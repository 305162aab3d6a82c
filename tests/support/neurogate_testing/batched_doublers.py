"""A version that doubles what it is fed, behind batching, and calls of it on threads of their own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from neurogate_serving.embedded.batching import BatchingRunner, BatchScheduler
from neurogate_serving.embedded.batching_options import BatchingOptions
from neurogate_serving.embedded.caller import Caller
from neurogate_serving.embedded.errors import ServingError, failed_precondition
from neurogate_serving.embedded.tensors import Array


class Doubler:
    """A version that doubles `x:0` into `y:0`, and notes the batches it saw."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.timeouts: list[float | None] = []
        self.gate: threading.Event | None = None
        self.started = threading.Semaphore(0)
        self.runs = False
        self.closed = False
        self.closed_during_a_run = False

    @property
    def signatures(self) -> dict[str, Any]:
        return {}

    def run(
        self, feeds: Sequence[tuple[str, Array]], fetches: Sequence[str], *, caller: Caller
    ) -> list[Array]:
        ((_, x),) = feeds
        self.runs = True
        self.batches.append(x.reshape(-1).tolist())
        self.timeouts.append(caller.seconds_left())
        self.started.release()
        if self.gate is not None:
            assert self.gate.wait(10)
        self.runs = False
        if (x < 0).any():
            raise failed_precondition("negative")
        results = {"y:0": x * 2, "scalar:0": np.float32(1), "short:0": x[:1]}
        return [np.asarray(results[name]) for name in fetches]

    def close(self) -> None:
        self.closed = True
        self.closed_during_a_run = self.runs


Make = Callable[..., tuple[Doubler, BatchingRunner]]


@contextlib.contextmanager
def batched_doublers() -> Iterator[Make]:
    """Makes doublers behind batching, each with a scheduler of its own, which has one thread by default."""
    schedulers: list[BatchScheduler] = []
    doublers: list[Doubler] = []

    def build(**options: Any) -> tuple[Doubler, BatchingRunner]:
        doubler = Doubler()
        scheduler = BatchScheduler(BatchingOptions(**{"num_batch_threads": 1, **options}))
        schedulers.append(scheduler)
        doublers.append(doubler)
        return doubler, scheduler.wrap(doubler)

    yield build
    for doubler in doublers:
        if doubler.gate is not None:
            doubler.gate.set()
    for scheduler in schedulers:
        scheduler.stop()


class Call(threading.Thread):
    """One run on a thread of its own."""

    def __init__(self, runner: BatchingRunner, x: Any, *fetches: str, caller: Caller | None = None) -> None:
        super().__init__(daemon=True)
        self._run = lambda: runner.run(
            [("x:0", np.asarray(x, np.float32))], fetches or ("y:0",), caller=caller or Caller()
        )
        self.results: list[list[float]] = []
        self.error: ServingError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.results = [array.tolist() for array in self._run()]
        except ServingError as error:
            self.error = error

    def done(self) -> Call:
        self.join(10)
        assert not self.is_alive()
        return self


def hold(doubler: Doubler, runner: BatchingRunner, caller: Caller | None = None) -> Call:
    """Keeps the only batch thread busy."""
    doubler.gate = threading.Event()
    call = Call(runner, [0], caller=caller)
    assert doubler.started.acquire(timeout=10)
    return call


def wait_for_rows(runner: BatchingRunner, rows: int) -> None:
    """Waits until so many rows are queued."""
    end = time.monotonic() + 10
    while sum(batch.size for queue in runner._queues.values() for batch in queue._batches) < rows:
        assert time.monotonic() < end
        time.sleep(0.001)
