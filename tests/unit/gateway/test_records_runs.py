"""The run store on both databases: one run per request, the state machine, events without gaps."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from neurogate.v1 import error_pb2, model_pb2, training_pb2
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.store.leases import RunLeases
from neurogate_gateway.store.run import LeaseLostError, StateConflictError
from neurogate_gateway.store.run_states import TRANSITIONS, IllegalTransitionError, RunState
from neurogate_testing.refusals import refused
from neurogate_testing.retrainings import Retrainings, log_event

QUEUED, RUNNING, EVALUATING, PUBLISHING = (
    RunState.QUEUED,
    RunState.RUNNING,
    RunState.EVALUATING,
    RunState.PUBLISHING,
)
WAY_TO: Mapping[RunState, list[RunState]] = {
    QUEUED: [],
    RUNNING: [RUNNING],
    EVALUATING: [RUNNING, EVALUATING],
    PUBLISHING: [RUNNING, EVALUATING, PUBLISHING],
    RunState.SUCCEEDED: [RUNNING, EVALUATING, PUBLISHING, RunState.SUCCEEDED],
    RunState.REFUSED: [RUNNING, EVALUATING, RunState.REFUSED],
    RunState.FAILED: [RunState.FAILED],
    RunState.CANCELLED: [RunState.CANCELLED],
}


@pytest.fixture
def records(records_url: str) -> Iterator[Retrainings]:
    retrainings = Retrainings(records_url)
    yield retrainings
    retrainings.close()


def bring(records: Retrainings, run_id: str, state: RunState) -> None:
    steps = [QUEUED, *WAY_TO[state]]
    for before, after in itertools.pairwise(steps):
        records.runs.transition(run_id, {before}, after)


def test_a_new_run_waits_with_its_examples_counted_and_fixed(records: Retrainings) -> None:
    identifiers = records.add_examples(3) + records.add_examples(2, "pituitary")
    seen: list[Mapping[str, int]] = []
    run = records.start(check_counts=seen.append)
    assert seen == [{"glioma": 3, "pituitary": 2}]
    assert (run.state, run.last_sequence, run.examples_by_class) == (QUEUED, 1, {"glioma": 3, "pituitary": 2})
    joined = "\n".join(sorted(identifiers))
    assert run.examples_digest == hashlib.sha256(joined.encode()).hexdigest()
    records.add_examples(1, "notumor")
    chosen = records.runs.examples(run.run_id)
    assert [example.example_id for example in chosen] == sorted(identifiers)
    assert records.runs.get(run.run_id) == run
    [event] = records.runs.events_after(run.run_id, 0)
    assert event.state_change.state == training_pb2.RETRAINING_STATE_QUEUED
    assert event.state_change.retraining == run.message()


def test_the_filter_chooses(records: Retrainings) -> None:
    records.add_examples(3)
    records.add_examples(2, "pituitary", source="FEEDBACK")
    spec = training_pb2.RetrainingSpec(from_scratch=True)
    spec.examples.class_ids.append("pituitary")
    assert records.start(spec=spec).examples_by_class == {"pituitary": 2}
    spec.examples.source = training_pb2.EXAMPLE_SOURCE_UPLOAD
    assert records.start(spec=spec).examples_by_class == {}
    spec.examples.ClearField("class_ids")
    spec.examples.to_time.FromSeconds(1)
    assert records.start(spec=spec).examples_by_class == {}


def test_a_refusal_of_the_counts_leaves_nothing(records: Retrainings) -> None:
    def refuse(_: Mapping[str, int]) -> None:
        raise GatewayError(error_pb2.ERROR_REASON_EXAMPLES_TOO_FEW, "too few")

    with refused("EXAMPLES_TOO_FEW"):
        records.start(check_counts=refuse)
    assert records.runs.page() == []


def test_fifty_starts_with_one_request_id_are_one_run(records: Retrainings) -> None:
    with ThreadPoolExecutor(16) as threads:
        starts = [
            threads.submit(records.start_or_find, request_id="r-1", request_digest="same") for _ in range(50)
        ]
        results = [start.result() for start in starts]
    assert len({run.run_id for run, _ in results}) == 1
    assert sum(new for _, new in results) == 1
    assert len(records.runs.page()) == 1
    with refused("REQUEST_ID_REUSED"):
        records.start(request_id="r-1", request_digest="other")


def test_the_queue_has_an_end_and_a_repeat_still_finds_its_run(records: Retrainings) -> None:
    first = records.start(request_id="r-1", most_queued=2)
    records.start(most_queued=2)
    with refused("RETRAINING_QUEUE_FULL"):
        records.start(most_queued=2)
    assert records.start_or_find(request_id="r-1", most_queued=2) == (first, False)
    records.runs.transition(first.run_id, {QUEUED}, RUNNING)
    records.start(most_queued=2)


@pytest.mark.parametrize("before", list(RunState))
def test_only_the_machines_moves_are_made(records: Retrainings, before: RunState) -> None:
    for after in RunState:
        run = records.start()
        bring(records, run.run_id, before)
        if after in TRANSITIONS[before]:
            moved = records.runs.transition(run.run_id, {before}, after)
            assert moved.state == after
            assert (moved.end_time is not None) == after.ended
        else:
            events = records.runs.events_after(run.run_id, 0)
            with pytest.raises(IllegalTransitionError):
                records.runs.transition(run.run_id, {before}, after)
            assert records.runs.get(run.run_id).state == before
            assert records.runs.events_after(run.run_id, 0) == events


def test_a_move_from_another_state_changes_nothing(records: Retrainings) -> None:
    run = records.start()
    with pytest.raises(StateConflictError) as conflict:
        records.runs.transition(run.run_id, {RUNNING}, EVALUATING)
    assert conflict.value.run == records.runs.get(run.run_id) == run
    with refused("RETRAINING_NOT_FOUND"):
        records.runs.transition("none", {RUNNING}, EVALUATING)


def test_of_many_that_move_at_once_one_does(records: Retrainings) -> None:
    run = records.start()

    def try_it(_: int) -> bool:
        try:
            records.runs.transition(run.run_id, {QUEUED}, RUNNING)
        except StateConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(try_it, range(24))) == 1
    assert [event.sequence for event in records.runs.events_after(run.run_id, 0)] == [1, 2]


def test_values_of_a_move_stay(records: Retrainings) -> None:
    run = records.start()
    bring(records, run.run_id, EVALUATING)
    gate = model_pb2.GateReport(version=3, accepted=False)
    records.runs.transition(run.run_id, {EVALUATING}, RunState.REFUSED, version=3, gate=gate)
    found = records.runs.get(run.run_id)
    assert (found.version, found.gate) == (3, gate)
    assert found.start_time is not None
    assert found.message().state == training_pb2.RETRAINING_STATE_REFUSED


def test_trainer_events_are_numbered_on_and_taken_once(records: Retrainings) -> None:
    run = records.start()
    bring(records, run.run_id, RUNNING)
    numbered = [(number, log_event(f"line {number}")) for number in range(1, 6)]
    assert records.runs.append_trainer_events(run.run_id, numbered[:3]) == 3
    assert records.runs.append_trainer_events(run.run_id, numbered[:3]) == 3
    assert records.runs.append_trainer_events(run.run_id, numbered[1:]) == 5
    records.runs.transition(run.run_id, {RUNNING}, EVALUATING)
    events = records.runs.events_after(run.run_id, 0)
    assert [event.sequence for event in events] == list(range(1, 9))
    assert [event.log.text for event in events if event.HasField("log")] == [f"line {n}" for n in range(1, 6)]
    assert records.runs.events_after(run.run_id, 6, limit=1)[0] == events[6]
    assert records.runs.get(run.run_id).trainer_sequence == 5


def test_relays_that_overlap_double_nothing(records: Retrainings) -> None:
    run = records.start()
    bring(records, run.run_id, RUNNING)
    numbered = [(number, log_event(str(number))) for number in range(1, 61)]

    def relay(begin: int) -> None:
        for start in range(0, 60, 6):
            records.runs.append_trainer_events(run.run_id, numbered[: start + begin])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(relay, (3, 4, 5, 6)))
    texts = [event.log.text for event in records.runs.events_after(run.run_id, 2)]
    assert texts == [str(number) for number in range(1, 61)]


def test_an_ended_run_takes_no_events(records: Retrainings) -> None:
    run = records.start()
    bring(records, run.run_id, RunState.FAILED)
    with pytest.raises(StateConflictError):
        records.runs.append_trainer_events(run.run_id, [(1, log_event("late"))])
    assert records.runs.events_after(run.run_id, 0)[-1].state_change.state == RunState.FAILED.message


def test_claims_go_in_order_and_to_one_gateway(records: Retrainings) -> None:
    first, second = records.start(), records.start()
    records.start(launcher="ray")
    claimed = records.claims.claim_next("a", 60, launchers={"local"})
    assert claimed is not None
    assert (claimed.run_id, claimed.owner, claimed.state) == (first.run_id, "a", QUEUED)
    other = records.claims.claim_next("b", 60, launchers={"local"})
    assert other is not None
    assert other.run_id == second.run_id
    assert records.claims.claim_next("b", 60, launchers={"local"}) is None
    assert [run.run_id for run in records.claims.unfinished("a")] == [first.run_id]


def test_many_gateways_never_claim_the_same_run(records: Retrainings) -> None:
    wanted = {records.start().run_id for _ in range(12)}

    def take(owner: int) -> list[str]:
        taken = []
        while (run := records.claims.claim_next(f"g{owner}", 60, launchers={"local"})) is not None:
            taken.append(run.run_id)
        return taken

    with ThreadPoolExecutor(6) as threads:
        taken = list(itertools.chain.from_iterable(threads.map(take, range(6))))
    assert len(taken) == 12
    assert set(taken) == wanted


def test_who_lost_the_lease_can_do_nothing_more(records: Retrainings) -> None:
    run = records.start()
    records.claims.claim_next("dead", 0, launchers={"local"})
    records.runs.transition(run.run_id, {QUEUED}, RUNNING, owner="dead", handle="pid 1")
    [adopted] = records.claims.adopt("heir", 60, launchers={"local"})
    assert (adopted.run_id, adopted.owner, adopted.handle) == (run.run_id, "heir", "pid 1")
    for attempt in (
        lambda: records.runs.transition(run.run_id, {RUNNING}, EVALUATING, owner="dead"),
        lambda: records.runs.append_trainer_events(run.run_id, [(1, log_event("x"))], owner="dead"),
        lambda: records.claims.renew(run.run_id, "dead", 60),
        lambda: records.claims.set_handle(run.run_id, "dead", "pid 2"),
    ):
        with pytest.raises(LeaseLostError):
            attempt()
    records.claims.release(run.run_id, "dead")
    assert records.claims.adopt("third", 60, launchers={"local"}) == []
    assert records.claims.renew(run.run_id, "heir", 60).owner == "heir"
    assert records.claims.set_handle(run.run_id, "heir", "pid 3").handle == "pid 3"


def test_a_released_or_own_run_is_adopted_at_once(records: Retrainings) -> None:
    run, waiting = records.start(), records.start()
    records.claims.claim_next("a", 60, launchers={"local"})
    records.runs.transition(run.run_id, {QUEUED}, RUNNING, owner="a")
    records.claims.claim_next("a", 60, launchers={"local"})
    assert [own.run_id for own in records.claims.adopt("a", 60, launchers={"local"})] == [
        run.run_id,
        waiting.run_id,
    ]
    assert records.claims.adopt("b", 60, launchers={"local"}) == []
    records.claims.release(run.run_id, "a")
    assert records.claims.adopt("b", 60, launchers={"ray"}) == []
    assert [own.run_id for own in records.claims.adopt("b", 60, launchers={"local"})] == [run.run_id]


def test_a_waiting_run_is_cancelled_at_once(records: Retrainings) -> None:
    run = records.start()
    cancelled = records.runs.request_cancel(run.run_id, reason="changed my mind", actor="me")
    assert cancelled.state == RunState.CANCELLED
    assert records.claims.claim_next("a", 60, launchers={"local"}) is None
    assert records.runs.request_cancel(run.run_id, reason="again", actor="me") == cancelled


def test_a_running_run_is_asked_to_end(records: Retrainings) -> None:
    run = records.start()
    records.claims.claim_next("a", 60, launchers={"local"})
    records.runs.transition(run.run_id, {QUEUED}, RUNNING, owner="a")
    asked = records.runs.request_cancel(run.run_id, reason="enough", actor="me")
    assert (asked.state, asked.cancel_requested, asked.cancel_reason) == (RUNNING, True, "enough")
    assert records.claims.renew(run.run_id, "a", 60).cancel_requested


def test_what_is_to_be_cancelled_is_not_published(records: Retrainings) -> None:
    run = records.start()
    bring(records, run.run_id, RUNNING)
    [_] = records.claims.adopt("a", 60, launchers={"local"})
    records.runs.transition(run.run_id, {RUNNING}, EVALUATING, owner="a", version=3)
    records.runs.request_cancel(run.run_id, reason="enough", actor="me")
    with pytest.raises(LeaseLostError):
        records.runs.transition(run.run_id, {EVALUATING}, PUBLISHING, owner="b")
    ended = records.runs.transition(run.run_id, {EVALUATING}, PUBLISHING, owner="a")
    assert (ended.state, ended.version, ended.owner) == (RunState.CANCELLED, 3, "")
    assert records.runs.get(run.run_id) == ended
    events = records.runs.events_after(run.run_id, 3)
    assert [event.state_change.state for event in events] == [training_pb2.RETRAINING_STATE_CANCELLED]
    with pytest.raises(StateConflictError):
        records.runs.transition(run.run_id, {EVALUATING}, PUBLISHING)


@pytest.mark.parametrize("state", [PUBLISHING, RunState.SUCCEEDED, RunState.REFUSED, RunState.FAILED])
def test_what_is_over_cannot_be_cancelled(records: Retrainings, state: RunState) -> None:
    run = records.start()
    bring(records, run.run_id, state)
    with refused("RETRAINING_ENDED"):
        records.runs.request_cancel(run.run_id, reason="", actor="me")
    assert not records.runs.get(run.run_id).cancel_requested


def test_pages_go_back_in_time(records: Retrainings) -> None:
    runs = [records.start() for _ in range(5)]
    records.runs.transition(runs[2].run_id, {QUEUED}, RUNNING)
    newest = records.runs.page(limit=2)
    assert [run.run_id for run in newest] == [runs[4].run_id, runs[3].run_id]
    older = records.runs.page(below=newest[-1].number, limit=10)
    assert [run.run_id for run in older] == [runs[2].run_id, runs[1].run_id, runs[0].run_id]
    assert [run.run_id for run in records.runs.page(state=RUNNING)] == [runs[2].run_id]


async def test_changes_wake_those_who_wait_and_nobody_else(records: Retrainings) -> None:
    run, other = records.start(), records.start()
    with records.changes.waiter(run.run_id) as waiter, records.changes.waiter() as every:
        await asyncio.to_thread(bring, records, other.run_id, RUNNING)
        assert not await waiter.wait(0.01)
        assert await every.wait(10)
        await asyncio.to_thread(bring, records, run.run_id, RUNNING)
        assert await waiter.wait(10)
        assert not await waiter.wait(0.01)


def test_another_gateways_claims_see_the_same_database(records: Retrainings, records_url: str) -> None:
    other = Retrainings(records_url)
    run = records.start()
    claims: RunLeases = other.claims
    claimed = claims.claim_next("b", 60, launchers={"local"})
    assert claimed is not None
    assert records.runs.get(run.run_id).owner == "b"
    other.close()
