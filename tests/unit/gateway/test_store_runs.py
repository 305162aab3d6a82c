"""Retrainings on both databases: one per request, the state machine, events without gaps, leases."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from neurogate.v1 import model_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.store.run import TRANSITIONS, LeaseLostError, RunState, StateConflictError
from neurogate_gateway.store.store import Store
from neurogate_testing.stores import add_examples, log_event, queue_run, refusal

QUEUED, RUNNING, EVALUATING, PUBLISHING, SUCCEEDED, REFUSED, FAILED, CANCELLED = RunState
WAY_TO: Mapping[RunState, list[RunState]] = {
    QUEUED: [],
    RUNNING: [RUNNING],
    EVALUATING: [RUNNING, EVALUATING],
    PUBLISHING: [RUNNING, EVALUATING, PUBLISHING],
    SUCCEEDED: [RUNNING, EVALUATING, PUBLISHING, SUCCEEDED],
    REFUSED: [RUNNING, EVALUATING, REFUSED],
    FAILED: [FAILED],
    CANCELLED: [CANCELLED],
}
LOCAL = {"local"}


def bring(store: Store, run_id: str, state: RunState) -> None:
    for before, after in itertools.pairwise([QUEUED, *WAY_TO[state]]):
        store.runs.transition(run_id, before, after)


def taken(store: Store, owner: str, seconds: float = 60) -> str:
    """The run_id of the retraining that a gateway leases next; empty for none."""
    run = store.leases.take_next(owner, seconds, launchers=LOCAL)
    return "" if run is None else run.run_id


def expired(store: Store, owner: str, *launchers: str) -> list[str]:
    return [run.run_id for run in store.leases.take_expired(owner, 60, launchers=launchers or LOCAL)]


def test_a_new_run_waits_with_its_examples_counted_and_fixed(store: Store) -> None:
    identifiers = add_examples(store, b"1", b"2", b"3") + add_examples(store, b"4", class_id="pituitary")
    seen: list[Mapping[str, int]] = []
    run = queue_run(store, check_counts=seen.append)
    assert seen == [{"glioma": 3, "pituitary": 1}]
    assert (run.state, run.last_sequence, run.examples_by_class) == (QUEUED, 1, seen[0])
    joined = "\n".join(sorted(identifiers))
    assert run.examples_digest == hashlib.sha256(joined.encode()).hexdigest()
    add_examples(store, b"later")
    assert [example.example_id for example in store.runs.examples(run.run_id)] == sorted(identifiers)
    assert store.runs.get(run.run_id) == run
    [event] = store.runs.events_after(run.run_id, 0)
    assert event.state_change.state == pb.RETRAINING_STATE_QUEUED
    assert event.state_change.retraining == run.message()
    upload = pb.ExampleFilter(source=pb.EXAMPLE_SOURCE_UPLOAD, class_ids=["pituitary"])
    assert queue_run(store, examples=upload).examples_by_class == {"pituitary": 1}
    upload.to_time.FromSeconds(1)
    assert queue_run(store, examples=upload).examples_by_class == {}


def test_what_refuses_a_start_leaves_nothing(store: Store) -> None:
    def refuse(_: Mapping[str, int]) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        queue_run(store, check_counts=refuse)
    assert store.runs.page() == []
    first = queue_run(store, request_id="r-1", max_queued=2)
    queue_run(store, max_queued=2)
    assert refusal(queue_run, store, max_queued=2) == "RETRAINING_QUEUE_FULL"
    assert queue_run(store, request_id="r-1", max_queued=2) == first
    other = {"request_id": "r-1", "request_digest": "other"}
    assert refusal(queue_run, store, **other) == "REQUEST_ID_REUSED"
    store.runs.transition(first.run_id, QUEUED, RUNNING)
    queue_run(store, max_queued=2)


def test_only_the_machines_moves_are_made(store: Store) -> None:
    for before, after in itertools.product(RunState, repeat=2):
        run = queue_run(store)
        bring(store, run.run_id, before)
        if after in TRANSITIONS[before]:
            moved = store.runs.transition(run.run_id, before, after)
            assert (moved.state, moved.end_time is not None) == (after, after.ended)
        else:
            events = store.runs.events_after(run.run_id, 0)
            with pytest.raises(ValueError, match="cannot move"):
                store.runs.transition(run.run_id, before, after)
            assert store.runs.get(run.run_id).state == before
            assert store.runs.events_after(run.run_id, 0) == events


def test_a_move_from_another_state_changes_nothing(store: Store) -> None:
    run = queue_run(store)
    with pytest.raises(StateConflictError) as conflict:
        store.runs.transition(run.run_id, RUNNING, EVALUATING)
    assert conflict.value.run == store.runs.get(run.run_id) == run
    assert refusal(store.runs.transition, "none", RUNNING, EVALUATING) == "RETRAINING_NOT_FOUND"

    def try_it(_: int) -> bool:
        try:
            store.runs.transition(run.run_id, QUEUED, RUNNING)
        except StateConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(try_it, range(24))) == 1
    assert [event.sequence for event in store.runs.events_after(run.run_id, 0)] == [1, 2]


def test_values_of_a_move_stay(store: Store) -> None:
    run = queue_run(store)
    bring(store, run.run_id, EVALUATING)
    gate = model_pb2.GateReport(version=3, accepted=False)
    store.runs.transition(run.run_id, EVALUATING, REFUSED, version=3, gate=gate)
    found = store.runs.get(run.run_id)
    assert (found.version, found.gate) == (3, gate)
    assert found.start_time is not None
    assert found.message().state == pb.RETRAINING_STATE_REFUSED


def test_trainer_events_are_numbered_on_and_taken_once(store: Store) -> None:
    run_id = queue_run(store).run_id
    bring(store, run_id, RUNNING)
    numbered = [(number, log_event(f"line {number}")) for number in range(1, 6)]
    for some, highest in ((numbered[:3], 3), (numbered[:3], 3), (numbered[1:], 5)):
        assert store.runs.append_trainer_events(run_id, some) == highest
    store.runs.transition(run_id, RUNNING, EVALUATING)
    events = store.runs.events_after(run_id, 0)
    assert [event.sequence for event in events] == list(range(1, 9))
    assert [event.log.text for event in events if event.HasField("log")] == [f"line {n}" for n in range(1, 6)]
    assert store.runs.events_after(run_id, 6, limit=1) == events[6:7]
    assert store.runs.get(run_id).trainer_sequence == 5
    store.runs.transition(run_id, EVALUATING, FAILED)
    with pytest.raises(StateConflictError):
        store.runs.append_trainer_events(run_id, [(6, log_event("late"))])
    assert store.runs.events_after(run_id, 8)[-1].state_change.state == pb.RETRAINING_STATE_FAILED


def test_readers_of_the_trainer_that_overlap_double_nothing(store: Store) -> None:
    run_id = queue_run(store).run_id
    bring(store, run_id, RUNNING)
    numbered = [(number, log_event(str(number))) for number in range(1, 61)]

    def append(begin: int) -> None:
        for start in range(0, 60, 6):
            store.runs.append_trainer_events(run_id, numbered[: start + begin])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(append, (3, 4, 5, 6)))
    texts = [event.log.text for event in store.runs.events_after(run_id, 2)]
    assert texts == [str(number) for number in range(1, 61)]


def test_leases_go_in_order_and_to_one_gateway(store: Store) -> None:
    wanted = [queue_run(store).run_id for _ in range(14)]
    queue_run(store, launcher="ray")
    assert [taken(store, "a"), taken(store, "b")] == wanted[:2]

    def take(owner: int) -> list[str]:
        return list(iter(lambda: taken(store, f"g{owner}"), ""))

    with ThreadPoolExecutor(6) as threads:
        others = list(itertools.chain.from_iterable(threads.map(take, range(6))))
    assert sorted(others) == sorted(wanted[2:])
    assert store.runs.get(wanted[0]).state == QUEUED


def test_who_lost_the_lease_can_do_nothing_more(store: Store) -> None:
    run_id = queue_run(store).run_id
    taken(store, "dead", 0)
    store.runs.transition(run_id, QUEUED, RUNNING, owner="dead")
    store.leases.set_handle(run_id, "dead", "pid 1")
    [run] = store.leases.take_expired("heir", 60, launchers=LOCAL)
    assert (run.run_id, run.owner, run.handle) == (run_id, "heir", "pid 1")
    for attempt in (
        lambda: store.runs.transition(run_id, RUNNING, EVALUATING, owner="dead"),
        lambda: store.runs.append_trainer_events(run_id, [(1, log_event("x"))], owner="dead"),
        lambda: store.leases.set_handle(run_id, "dead", "pid 2"),
    ):
        with pytest.raises(LeaseLostError):
            attempt()
    store.leases.release(run_id, "dead")
    assert expired(store, "third") == []
    assert store.leases.set_handle(run_id, "heir", "pid 3").handle == "pid 3"


def test_a_released_or_own_run_is_taken_at_once(store: Store) -> None:
    run_id, waiting = queue_run(store).run_id, queue_run(store).run_id
    taken(store, "a")
    store.runs.transition(run_id, QUEUED, RUNNING, owner="a")
    taken(store, "a")
    assert expired(store, "a") == [run_id, waiting]
    assert expired(store, "b") == []
    store.leases.release(run_id, "a")
    assert expired(store, "b", "ray") == []
    assert expired(store, "b") == [run_id]


def test_a_waiting_run_is_cancelled_at_once(store: Store) -> None:
    run_id = queue_run(store).run_id
    cancelled = store.runs.request_cancel(run_id, reason="changed my mind", actor="me")
    assert (cancelled.state, cancelled.cancel_reason) == (CANCELLED, "changed my mind")
    assert taken(store, "a") == ""
    assert store.runs.request_cancel(run_id, reason="again", actor="me") == cancelled


def test_a_running_run_is_asked_to_end_and_not_published(store: Store) -> None:
    run_id = queue_run(store).run_id
    taken(store, "a")
    store.runs.transition(run_id, QUEUED, RUNNING, owner="a")
    asked = store.runs.request_cancel(run_id, reason="enough", actor="me")
    assert (asked.state, asked.cancel_requested, asked.cancel_reason) == (RUNNING, True, "enough")
    [renewed] = store.leases.take_expired("a", 60, launchers=LOCAL)
    assert renewed.cancel_requested
    store.runs.transition(run_id, RUNNING, EVALUATING, owner="a", version=3)
    with pytest.raises(LeaseLostError):
        store.runs.transition(run_id, EVALUATING, PUBLISHING, owner="b")
    ended = store.runs.transition(run_id, EVALUATING, PUBLISHING, owner="a")
    assert (ended.state, ended.version, ended.owner) == (CANCELLED, 3, "")
    assert store.runs.get(run_id) == ended
    events = store.runs.events_after(run_id, 3)
    assert [event.state_change.state for event in events] == [pb.RETRAINING_STATE_CANCELLED]
    with pytest.raises(StateConflictError):
        store.runs.transition(run_id, EVALUATING, PUBLISHING)


def test_what_is_over_cannot_be_cancelled(store: Store) -> None:
    for state in (PUBLISHING, SUCCEEDED, REFUSED, FAILED):
        run_id = queue_run(store).run_id
        bring(store, run_id, state)
        cancel = store.runs.request_cancel
        assert refusal(cancel, run_id, reason="", actor="me") == "RETRAINING_ENDED"
        assert not store.runs.get(run_id).cancel_requested


async def test_changes_wake_those_who_wait(store: Store) -> None:
    run_id = queue_run(store).run_id
    async with asyncio.timeout(60):
        with store.notifier.waiter() as wait:
            await asyncio.to_thread(bring, store, run_id, RUNNING)
            await wait(3600)
            waiting = asyncio.ensure_future(wait(3600))
            await asyncio.sleep(0)
            assert not waiting.done()
            await asyncio.to_thread(store.runs.transition, run_id, RUNNING, FAILED)
            await waiting
            await wait(0)
