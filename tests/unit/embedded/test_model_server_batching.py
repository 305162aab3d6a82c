from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from neurogate_serving.embedded.batching_options import BatchingOptions, read_batching_options
from neurogate_serving.embedded.caller import Caller
from neurogate_serving.embedded.errors import ServingError
from neurogate_serving.embedded.tensors import Array
from neurogate_testing.batched_doublers import Call, Make, batched_doublers, hold, wait_for_rows


@pytest.fixture
def make() -> Iterator[Make]:
    with batched_doublers() as build:
        yield build


def test_waiting_requests_run_together_and_get_their_own_rows(make: Make) -> None:
    doubler, runner = make()
    first = hold(doubler, runner)
    calls = [Call(runner, [1, 2])]
    wait_for_rows(runner, 2)
    calls.append(Call(runner, [3]))
    wait_for_rows(runner, 3)
    assert doubler.gate is not None
    doubler.gate.set()
    assert first.done().results == [[0]]
    assert [call.done().results for call in calls] == [[[2, 4]], [[6]]]
    assert doubler.batches == [[0], [1, 2, 3]]


def test_a_batch_is_filled_up_to_the_first_allowed_size_that_is_large_enough(make: Make) -> None:
    doubler, runner = make(max_batch_size=8, allowed_batch_sizes=(4, 2, 8))
    assert Call(runner, [1, 5]).done().results == [[2, 10]]
    assert doubler.batches == [[1, 5, 1, 1]]


def test_one_bad_request_fails_its_whole_batch(make: Make) -> None:
    doubler, runner = make()
    first = hold(doubler, runner)
    good = Call(runner, [1])
    wait_for_rows(runner, 1)
    bad = Call(runner, [-1])
    wait_for_rows(runner, 2)
    assert doubler.gate is not None
    doubler.gate.set()
    assert first.done().error is None
    assert [str(call.done().error) for call in (good, bad)] == ["FAILED_PRECONDITION: negative"] * 2


def test_different_inner_shapes_do_not_mix_unless_padded(make: Make) -> None:
    for pad, expected in ((False, None), (True, [[[2, 2]], [[6, 8]]])):
        doubler, runner = make(pad_variable_length=pad)
        first = hold(doubler, runner)
        calls = [Call(runner, [[1]])]
        wait_for_rows(runner, 1)
        calls.append(Call(runner, [[3, 4]]))
        wait_for_rows(runner, 2)
        assert doubler.gate is not None
        doubler.gate.set()
        first.done()
        outcomes = [call.done() for call in calls]
        if expected is None:
            assert all(
                "have different shapes and padding is turned off" in str(call.error) for call in outcomes
            )
        else:
            assert [call.results[0] for call in outcomes] == expected


def test_a_full_queue_refuses(make: Make) -> None:
    doubler, runner = make(max_batch_size=1, max_enqueued_batches=1)
    first = hold(doubler, runner)
    second = Call(runner, [1])
    wait_for_rows(runner, 1)
    refused = Call(runner, [2]).done()
    assert refused.error is not None
    assert refused.error.code is grpc.StatusCode.UNAVAILABLE
    assert refused.error.message.endswith(
        "is full; currently 1 batches enqueued and max_enqueued_batches is 1"
    )
    assert doubler.gate is not None
    doubler.gate.set()
    assert (first.done().results, second.done().results) == ([[0]], [[2]])


def test_a_request_larger_than_a_batch_is_refused_or_split(make: Make) -> None:
    _, runner = make(max_batch_size=2)
    assert str(Call(runner, [1, 2, 3]).done().error) == (
        "INVALID_ARGUMENT: Task size 3 is larger than maximum input batch size 2"
    )
    doubler, runner = make(max_batch_size=8, split_large=True, max_execution_batch_size=2)
    assert Call(runner, [1, 2, 3, 4, 5]).done().results == [[2, 4, 6, 8, 10]]
    assert [len(batch) for batch in doubler.batches] == [2, 2, 1]


def test_a_split_request_that_does_not_fit_is_refused(make: Make) -> None:
    _, runner = make(max_batch_size=8, split_large=True, max_execution_batch_size=2, max_enqueued_batches=2)
    assert "task size is 7 but scheduling capacity is only 4" in str(Call(runner, [1] * 7).done().error)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "must have at least one input tensor"),
        ([("a", np.float32(1))], "must have at least one dimension"),
        ([("a", np.zeros(2)), ("b", np.zeros(3))], "must have equal 0th-dimension size"),
    ],
)
def test_requests_that_cannot_be_batched(make: Make, inputs: list[tuple[str, Array]], message: str) -> None:
    _, runner = make()
    with pytest.raises(ServingError, match=message):
        runner.run(inputs, ["y:0"])


@pytest.mark.parametrize(
    ("fetch", "message"),
    [("scalar:0", "has 0 dimensions"), ("short:0", "0th dimension does not equal the sum")],
)
def test_outputs_that_cannot_be_divided(make: Make, fetch: str, message: str) -> None:
    _, runner = make()
    assert message in str(Call(runner, [1, 2], fetch).done().error)


def test_an_empty_request_waits_for_one_with_rows(make: Make) -> None:
    _, runner = make()
    empty = Call(runner, np.zeros((0,)))
    while not any(batch.tasks for queue in runner._queues.values() for batch in queue._batches):
        time.sleep(0.001)
    assert Call(runner, [1]).done().results == [[2]]
    assert empty.done().results == [[]]


def test_who_stops_waiting_frees_the_thread(make: Make) -> None:
    _, runner = make()
    gone = Call(runner, np.zeros((0,)), caller=Caller(is_waiting=lambda: False)).done()
    assert gone.error is not None
    assert gone.error.code is grpc.StatusCode.CANCELLED


def test_a_batch_runs_until_its_most_patient_caller_gives_up(make: Make) -> None:
    doubler, runner = make()
    Call(runner, [1], caller=Caller(deadline=time.monotonic() + 50)).done()
    assert doubler.timeouts[-1] is not None
    assert 40 < doubler.timeouts[-1] <= 50
    late = Call(runner, [1], caller=Caller(deadline=time.monotonic() - 1)).done()
    assert str(late.error) == "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue"
    Call(runner, [1]).done()
    assert doubler.timeouts[-1] is None


def test_closing_a_version_frees_it(make: Make) -> None:
    doubler, runner = make()
    Call(runner, [1]).done()
    runner.close()
    assert doubler.closed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense {", "Invalid protobuf file"),
        ("max_batch_size { value: 0 }", "must be at least 1; was 0"),
        ("batch_timeout_micros { value: -1 }", "must be at least 0; was -1"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "max_batch_size {value: 8} enable_large_batch_splitting: true max_execution_batch_size{value: 9}",
            "max_execution_batch_size must not be above max_batch_size",
        ),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(ServingError, match=message):
        read_batching_options(file)


def test_parameters_are_read(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        'max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } thread_pool_name { value: "x" } '
        "num_batch_threads { value: 3 } max_enqueued_batches { value: 4 } allowed_batch_sizes: 2 "
        "allowed_batch_sizes: 8 pad_variable_length_inputs: true"
    )
    assert read_batching_options(file) == BatchingOptions(
        max_batch_size=8,
        batch_timeout=0.0015,
        num_batch_threads=3,
        max_enqueued_batches=4,
        allowed_batch_sizes=(2, 8),
        pad_variable_length=True,
    )


def test_the_repositorys_own_parameters_are_valid() -> None:
    read_batching_options(Path(__file__).parents[3] / "serving/batching.config")
