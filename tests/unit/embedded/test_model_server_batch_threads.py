"""What batch threads owe to versions that are unloaded, and to callers when something breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import pytest
from neurogate_serving.embedded.batch_queue import Task
from neurogate_serving.embedded.batching import BatchingRunner
from neurogate_serving.embedded.caller import Caller
from neurogate_serving.embedded.states import StoppedError
from neurogate_serving.embedded.tensors import Array
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


def test_parts_of_a_request_that_cannot_be_joined_fail_it_as_a_whole(make: Make) -> None:
    doubler, runner = make(
        max_batch_size=8, max_execution_batch_size=2, split_large=True, pad_variable_length=True
    )
    first = hold(doubler, runner)
    wide = Call(runner, [[1, 1]])
    wait_for_rows(runner, 1)
    # Its first row is padded to the wide one, its second row runs alone.
    divided = Call(runner, [[2], [3]])
    wait_for_rows(runner, 3)
    assert doubler.gate is not None
    doubler.gate.set()
    assert first.done().results == [[0]]
    assert wide.done().results == [[[2, 2]]]
    assert str(divided.done().error).startswith(
        "INTERNAL: The results of the parts of a split task cannot be joined: all the input array dimensions"
    )
    assert Call(runner, [[4]]).done().results == [[[8]]]


def test_a_batch_thread_outlives_a_failure_to_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runner = make()

    def explode(_task: Task, _results: Mapping[str, Array]) -> None:
        raise ZeroDivisionError("of all things")

    with monkeypatch.context() as broken:
        broken.setattr(Task, "succeed", explode)
        assert str(Call(runner, [1]).done().error) == "INTERNAL: ZeroDivisionError: of all things"
    assert Call(runner, [1]).done().results == [[2]]
