"""A retraining between two steps: cancellations, lost answers, other changes of the release."""

import pytest
from neurogate_gateway.errors import EtagMismatchError
from neurogate_gateway.retraining.launcher import LaunchError
from neurogate_gateway.retraining.worker import RetrainingWorker
from neurogate_gateway.store.run_states import RunState
from neurogate_testing.launching import queue_run
from neurogate_testing.retraining_desk import Desk


@pytest.fixture
async def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


def tend(desk: Desk) -> RetrainingWorker:
    """The oldest retraining, looked after without a runner, which would note changes when it comes to it."""
    return RetrainingWorker(
        desk.records.claims.claim_next("first", 60, launchers=["local"]),
        records=desk.records,
        owner="first",
        launcher=desk.launcher,
        jobs=desk.home.jobs(desk.records),
        promoter=desk.release,
        limits=desk.limits,
    )


async def test_a_cancellation_after_the_last_look_is_kept(desk, monkeypatch):
    run = queue_run(desk.records, promote=True)
    transition = desk.records.runs.transition

    def cancel_first(run_id, before, after, **changes):
        if after is RunState.PUBLISHING:
            desk.records.runs.request_cancel(run_id, reason="no", actor="tester")
        return transition(run_id, before, after, **changes)

    monkeypatch.setattr(desk.records.runs, "transition", cancel_first)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.CANCELLED, RunState.SUCCEEDED)
    assert (ended.state, ended.version) == (RunState.CANCELLED, version)
    assert desk.release.promoted == []
    assert desk.states(run.run_id) == ["QUEUED", "RUNNING", "EVALUATING", "CANCELLED"]


async def test_a_trainer_whose_start_was_not_answered_is_ended_when_it_is_cancelled(desk, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.worker._RETRY_SECONDS", 0)
    run = queue_run(desk.records)
    tending = tend(desk)
    start = desk.launcher.start
    lost = [LaunchError("no answer", passing=True), LaunchError("no connection", passing=True)]

    async def start_unanswered(job):
        handle = await start(job)
        tending.note(desk.records.runs.request_cancel(run.run_id, reason="no", actor="tester"))
        if lost:
            raise lost.pop(0)
        return handle

    monkeypatch.setattr(desk.launcher, "start", start_unanswered)
    await tending.to_the_end()
    ended = desk.records.runs.get(run.run_id)
    assert (ended.state, ended.error, ended.handle) == (RunState.CANCELLED, "", run.run_id)
    assert desk.launcher.cancelled == [run.run_id]


async def test_a_cancelled_retraining_whose_trainer_cannot_be_started_has_not_failed(desk, monkeypatch):
    run = queue_run(desk.records)

    async def refuse(job):
        desk.records.runs.request_cancel(run.run_id, reason="no", actor="tester")
        raise LaunchError("no such command")

    monkeypatch.setattr(desk.launcher, "start", refuse)
    await tend(desk).to_the_end()
    ended = desk.records.runs.get(run.run_id)
    assert (ended.state, ended.error) == (RunState.CANCELLED, "")


@pytest.mark.parametrize(("met", "state"), [(2, RunState.SUCCEEDED), (100, RunState.FAILED)])
async def test_a_promotion_that_meets_other_changes_is_tried_again(desk, met, state):
    desk.release.promotion_errors = [EtagMismatchError("another change") for _ in range(met)]
    run = queue_run(desk.records, promote=True, gate_policy="[gate]\nmin_accuracy = 0.9\n")
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.SUCCEEDED, RunState.FAILED)
    assert ended.state is state
    if state is RunState.SUCCEEDED:
        assert [each[0] for each in desk.release.promoted] == [version]
    else:
        words = f"version {version} passed the gate, but cannot be promoted: another change"
        assert (ended.error, desk.release.promoted) == (words, [])
        assert len(desk.release.promotion_errors) == met - 5
    assert set(desk.release.policies) == {run.spec.gate_policy}
