"""What makes a result void, what only disturbs it, and how contenders take turns."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from neurogate_bench.context import Context
from neurogate_bench.load import Load
from neurogate_bench.record import BUSY_LIMIT, LATE_LIMIT_MS, Disturbance, Record, watch_other_programs


def load(**changes):
    return Load(**{"seconds": 1.0, "images": 2, "latencies_ms": [10.0, 20.0], **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wrong": Counter(probability=1)}, "answers were wrong"),
        ({"refusals": Counter(UNAVAILABLE=1)}, "requests failed: UNAVAILABLE"),
        ({"busiest_share": BUSY_LIMIT + 0.01}, "the generator was busy"),
        ({"lateness_ms": [0.0, LATE_LIMIT_MS + 1, LATE_LIMIT_MS + 1]}, "sent more than 10 ms late"),
    ],
)
def test_what_is_really_wrong_makes_a_result_void(changes, reason):
    record = Record()
    record.book("gateway", load(**changes))
    assert len(record.void) == 1
    assert reason in record.void[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"refusals": Counter(RESOURCE_EXHAUSTED=5)},
        {"busiest_share": BUSY_LIMIT},
        {"lateness_ms": [0.0, 0.0, 10 * LATE_LIMIT_MS]},
    ],
)
def test_shedding_and_a_single_late_request_do_not(changes):
    record = Record()
    record.book("gateway", load(**changes))
    assert record.void == []


def test_a_client_that_is_part_of_the_contender_may_be_busy():
    record = Record()
    record.book("D1", load(busiest_share=1.0), client_is_part=True)
    assert record.void == []


def test_other_programs_are_recorded_and_void_nothing():
    record = Record()
    record.disturbances += [Disturbance(3.0, 0.0), Disturbance(1.0, 0.8)]
    assert record.other_programs() == {"mean": 0.2, "worst": 0.8}
    assert record.void == []
    assert Record().other_programs()["mean"] == 0


def test_own_work_is_not_that_of_other_programs():
    found = watch_other_programs([0])()
    assert found.seconds > 0
    assert 0 <= found.share <= 1


def test_targets_of_a_figure_show_its_extremes():
    record = Record()
    for over, under in ((8.0, 4.0), (9.0, 3.0), (10.0, 10.0)):
        record.add("a", "throughput", "images/s", over)
        record.add("b", "throughput", "images/s", under)
    record.ratio("a / b", "throughput", "a", "b")
    record.judge_figure("a / b", ">=", 2.5, record.figure("a / b", "ratio"))
    (entry,) = record.targets
    assert (entry["value"], entry["spread"], entry["met"]) == (2.0, [1.0, 3.0], False)


def test_contenders_take_turns_and_each_round_begins_with_another():
    order = []

    def burst(contender, **job):
        order.append((contender, job["concurrency"], job["seconds"]))
        return load(), 0.5

    jobs = {name: (name.upper(), {"concurrency": 8}) for name in ("a", "b", "c")}
    found = Context.turns(SimpleNamespace(load=burst), jobs, {"bursts": 3, "seconds": 0.4}, 1)
    assert "".join(contender for contender, _, _ in order) == "BCACABABC"
    assert {rest for _, *rest in map(tuple, order) for rest in [tuple(rest)]} == {(8, 0.4)}
    assert found["a"][0].images == 6
    assert found["a"][1] == pytest.approx(1.5)
