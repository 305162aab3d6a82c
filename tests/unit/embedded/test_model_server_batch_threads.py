"""What batch threads owe to versions that are unloaded, and to callers when something breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from neurogate_serving.embedded.batching import BatchingRunner
from neurogate_serving.embedded.caller import Caller
from neurogate_serving.embedded.states import StoppedError
from neurogate_testing.batched_doublers import Call, Make, batched_doublers, hold, wait_for_rows

GONE = Caller(is_waiting=lambda: False)


@pytest.fixture
def make() -> Iterator[Make]:
    with batched_doublers() as build:
        yield build


class Close(threading.Thread):
    """Closes a version on a thread of its own."""

    def __init__(self, runner: BatchingRunner) -> None:
        super().__init__(daemon=True)
        self._runner = runner
        self.stopped = False
        self.start()

    def run(self) -> None:
        try:
            self._runner.close()
        except StoppedError:
            self.stopped = True

    def done(self) -> Close:
        self.join(10)
        assert not self.is_alive()
        return self


def test_a_version_is_freed_once_the_batch_that_nobody_waits_for_has_left_it(make: Make) -> None:
    doubler, runner = make()
    assert hold(doubler, runner, GONE).done().error is not None
    left = Call(runner, [1])
    wait_for_rows(runner, 1)
    closing = Close(runner)
    # Only after this answer does closing wait for the batch.
    assert str(left.done().error) == "UNAVAILABLE: The version is being unloaded"
    assert doubler.gate is not None
    doubler.gate.set()
    closing.done()
    assert doubler.closed
    assert not doubler.closed_during_a_run


def test_a_stopping_server_does_not_wait_for_a_batch_and_leaves_its_version_alone(make: Make) -> None:
    doubler, runner = make()
    hold(doubler, runner, GONE).done()
    left = Call(runner, [1])
    wait_for_rows(runner, 1)
    closing = Close(runner)
    left.done()
    runner._scheduler.stop()
    assert closing.done().stopped
    assert not doubler.closed
