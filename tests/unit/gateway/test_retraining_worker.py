"""Retrainings from the queue to their end, by a launcher and a release that do what a test says."""

import asyncio
import datetime as dt
import json
import logging

import pytest
import sqlalchemy as sa
from neurogate.v1 import error_pb2
from neurogate_gateway.errors import (
    BackendUnavailableError,
    EtagMismatchError,
    GateRefusedError,
    GatewayError,
)
from neurogate_gateway.retraining.launcher import GATE_POLICY_FILE, LOG_FILE, JobState, JobStatus, LaunchError
from neurogate_gateway.store.run import RunState
from neurogate_gateway.store.schema import runs
from neurogate_testing.retraining_harness import harness
from neurogate_testing.stores import queue_run

__all__ = ["harness"]

WAY = ["QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.worker._RETRY_SECONDS", 0)
    monkeypatch.setattr("neurogate_gateway.retraining.worker._TRAINER_SECONDS", 0.02)
    monkeypatch.setattr("neurogate_gateway.retraining.worker._PAUSE_SECONDS", 0)


async def test_a_retraining_goes_its_way(harness):
    policy = '[gate]\r\nmin_accuracy = 0.9 # "ä"\n'
    run = await harness.run_started(promote=True, hyperparameters={"epochs": "3"}, gate_policy=policy)
    job = harness.launcher.jobs[run.run_id]
    assert job.command[1:3] == ("retrain", str(harness.home.base_run))
    assert {
        "--set=epochs=3",
        f"--run-id={run.run_id}",
        f"--gate-policy={job.folder / GATE_POLICY_FILE}",
    } < set(job.command)
    assert (job.folder / GATE_POLICY_FILE).read_bytes().decode() == policy
    assert json.loads((job.folder / "examples.json").read_text()) == {"revision": 1, "examples": []}
    with harness.reporter(run.run_id) as reporter:
        reporter.phase("fine-tune", total=2, unit="steps")
        reporter.advance(1, epoch=1, loss=0.5)
    version = harness.publish(run.run_id)
    ended = await harness.until(run.run_id, RunState.SUCCEEDED)
    assert (ended.version, ended.gate.accepted, ended.error) == (version, True, "")
    assert harness.states(run.run_id) == WAY
    assert harness.release.promoted == [(version, "tester", f"retraining-{run.run_id}", False)]
    assert harness.release.policies == [policy, policy]
    lines = harness.home.event_lines(run.run_id)
    recorded = [e for e in harness.events(run.run_id) if e.WhichOneof("event") != "state_change"]
    assert len(recorded) == len(lines) == ended.trainer_sequence


@pytest.mark.parametrize("promote", [True, False])
@pytest.mark.parametrize("gate", ["refuses", "changes its mind", "is not there", "accepts"])
async def test_the_gate_decides_and_nothing_is_promoted_unasked(harness, gate, promote):
    harness.release.accepted = gate != "refuses"
    if gate == "changes its mind":
        harness.release.promotion_errors = [GateRefusedError("not any more")]
    release = harness.release
    if gate == "is not there":
        harness.release = None
    run = await harness.run_started(promote=promote)
    assert not any("gate-policy" in option for option in harness.launcher.jobs[run.run_id].command)
    version = harness.publish(run.run_id)
    ended = await harness.until(run.run_id, RunState.REFUSED, RunState.SUCCEEDED, RunState.FAILED)
    refuses = gate == "refuses" or (gate == "changes its mind" and promote)
    fails = gate == "is not there" and promote
    expected = RunState.REFUSED if refuses else RunState.FAILED if fails else RunState.SUCCEEDED
    assert (ended.state, ended.version) == (expected, version)
    assert (ended.gate is None) == (gate == "is not there")
    assert len(release.promoted) == (gate == "accepts" and promote)


async def test_a_version_that_cannot_be_judged_fails_with_the_reason(harness):
    rejected = GatewayError(error_pb2.ERROR_REASON_MODEL_VERSION_REJECTED, "bad goldens")
    harness.release.errors = [BackendUnavailableError("no model server"), rejected]
    run = await harness.run_started()
    version = harness.publish(run.run_id)
    ended = await harness.until(run.run_id, RunState.FAILED)
    assert ended.error == f"version {version} is published, but cannot be judged: bad goldens"
    assert ended.version == version
    assert harness.release.errors == []


@pytest.mark.parametrize(("met", "state"), [(2, RunState.SUCCEEDED), (100, RunState.FAILED)])
async def test_a_promotion_that_meets_other_changes_is_tried_again(harness, met, state):
    harness.release.promotion_errors = [EtagMismatchError("another change") for _ in range(met)]
    run = await harness.run_started(promote=True, gate_policy="[gate]\nmin_accuracy = 0.9\n")
    version = harness.publish(run.run_id)
    ended = await harness.until(run.run_id, RunState.SUCCEEDED, RunState.FAILED)
    assert ended.state is state
    if state is RunState.SUCCEEDED:
        assert [each[0] for each in harness.release.promoted] == [version]
    else:
        why = f"version {version} passed the gate, but cannot be promoted: another change"
        assert (ended.error, harness.release.promoted) == (why, [])
        assert len(harness.release.promotion_errors) == met - 5
    assert set(harness.release.policies) == {run.spec.gate_policy}


async def test_a_trainer_that_fails_ends_with_its_reason_and_the_end_of_its_log(harness):
    run = await harness.run_started()
    log = harness.launcher.jobs[run.run_id].folder / LOG_FILE
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    with harness.reporter(run.run_id) as reporter:
        reporter.end("failed", reason="the loss became nan")
    harness.launcher.statuses[run.run_id] = JobStatus(JobState.ENDED, "the trainer ended with status 1")
    ended = await harness.until(run.run_id, RunState.FAILED)
    first, *tail = ended.error.splitlines()
    assert first == "the loss became nan; the trainer ended with status 1"
    assert tail == [f"line {n}" for n in range(80, 100)]
    assert ended.version == 0


async def test_a_trainer_killed_after_its_publication_has_published(harness):
    run = await harness.run_started()
    version = harness.publish(run.run_id, reported=False)
    harness.launcher.statuses[run.run_id] = JobStatus(JobState.LOST, "killed")
    assert (await harness.until(run.run_id, RunState.SUCCEEDED)).version == version


async def test_a_trainer_without_events_is_ended_unless_it_waits_for_its_turn(harness):
    harness.hang_seconds = 0
    waiting = queue_run(harness.store)
    harness.launcher.statuses[waiting.run_id] = JobStatus(JobState.WAITING)
    harness.start()
    await harness.until_started(waiting.run_id)
    async with asyncio.timeout(60):
        with harness.store.notifier.waiter() as wait:
            while harness.launcher.looks < 5:
                await wait(0.02)
    assert harness.store.runs.get(waiting.run_id).state is RunState.RUNNING
    harness.launcher.statuses[waiting.run_id] = JobStatus(JobState.RUNNING)
    ended = await harness.until(waiting.run_id, RunState.FAILED)
    assert ended.error.startswith("the trainer hung: no event for 0 minutes; the trainer was ended by")
    assert harness.launcher.cancelled == [waiting.run_id]


@pytest.mark.parametrize("transient", [True, False])
async def test_a_trainer_that_cannot_be_started_fails_with_the_reason(harness, transient):
    harness.launcher.refusals = [LaunchError("no cluster", transient=transient)]
    run = queue_run(harness.store)
    harness.start()
    if transient:
        await harness.until_started(run.run_id)
        return
    ended = await harness.until(run.run_id, RunState.FAILED)
    assert ended.error == "the trainer could not be started: no cluster"


async def test_what_a_trainer_needs_and_is_not_there_is_named(harness):
    harness.start()

    async def why(**spec) -> str:
        return (await harness.until(queue_run(harness.store, **spec).run_id, RunState.FAILED)).error

    assert "the weights of version 3 are gone" in await why(warm_start_version=3)
    harness.home.trainer.unlink()
    assert "there is no command" in await why()
    (harness.home.base_run / "state.json").unlink()
    assert "no folder of a training run" in await why()


async def test_cancelling_ends_the_trainer(harness):
    run = await harness.run_started()
    harness.store.runs.request_cancel(run.run_id, reason="no need", actor="tester")
    ended = await harness.until(run.run_id, RunState.CANCELLED)
    assert harness.launcher.cancelled == [run.run_id]
    assert (ended.version, ended.error) == (0, "")


async def test_cancelling_while_the_gate_thinks_leaves_the_version_where_it_is(harness):
    harness.release.blocked = asyncio.Event()
    run = await harness.run_started(promote=True)
    version = harness.publish(run.run_id)
    await harness.until(run.run_id, RunState.EVALUATING)
    harness.store.runs.request_cancel(run.run_id, reason="", actor="tester")
    assert (await harness.until(run.run_id, RunState.CANCELLED)).version == version
    assert harness.release.promoted == []


async def test_a_cancellation_after_the_last_look_is_kept(harness, monkeypatch):
    transition = harness.store.runs.transition

    def cancel_first(run_id, before, after, **changes):
        if after is RunState.PUBLISHING:
            harness.store.runs.request_cancel(run_id, reason="no", actor="tester")
        return transition(run_id, before, after, **changes)

    monkeypatch.setattr(harness.store.runs, "transition", cancel_first)
    run = await harness.run_started(promote=True)
    version = harness.publish(run.run_id)
    ended = await harness.until(run.run_id, RunState.CANCELLED, RunState.SUCCEEDED)
    assert (ended.state, ended.version) == (RunState.CANCELLED, version)
    assert harness.release.promoted == []
    assert harness.states(run.run_id) == [*WAY[:3], "CANCELLED"]


async def test_a_trainer_whose_start_was_not_answered_is_ended_when_it_is_cancelled(harness, monkeypatch):
    run = queue_run(harness.store)
    worker = harness.worker()
    start = harness.launcher.start
    lost = [LaunchError("no answer", transient=True), LaunchError("no connection", transient=True)]

    async def start_unanswered(job):
        handle = await start(job)
        worker.note(harness.store.runs.request_cancel(run.run_id, reason="no", actor="tester"))
        if lost:
            raise lost.pop(0)
        return handle

    monkeypatch.setattr(harness.launcher, "start", start_unanswered)
    await worker.run()
    ended = harness.store.runs.get(run.run_id)
    assert (ended.state, ended.error, ended.handle) == (RunState.CANCELLED, "", run.run_id)
    assert harness.launcher.cancelled == [run.run_id]


async def test_a_cancelled_retraining_whose_trainer_cannot_be_started_has_not_failed(harness, monkeypatch):
    run = queue_run(harness.store)

    async def refuse(job):
        harness.store.runs.request_cancel(run.run_id, reason="no", actor="tester")
        raise LaunchError("no such command")

    monkeypatch.setattr(harness.launcher, "start", refuse)
    await harness.worker().run()
    ended = harness.store.runs.get(run.run_id)
    assert (ended.state, ended.error) == (RunState.CANCELLED, "")


async def test_one_at_a_time_in_the_order_of_arrival(harness):
    queued = [queue_run(harness.store).run_id for _ in range(3)]
    harness.start()
    for number, run_id in enumerate(queued, 1):
        await harness.until_started(run_id)
        assert list(harness.launcher.jobs) == queued[:number]
        harness.publish(run_id)
        await harness.until(run_id, RunState.SUCCEEDED)


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.EVALUATING])
async def test_another_gateway_goes_on_where_the_first_stopped(harness, state):
    harness.release.blocked = asyncio.Event()
    run = await harness.run_started(promote=True)
    with harness.reporter(run.run_id) as reporter:
        reporter.phase("fine-tune", total=2, unit="steps")
        reporter.advance(1, epoch=1)
    if state is RunState.EVALUATING:
        harness.publish(run.run_id)
    await harness.until(run.run_id, state)
    await harness.stop(harness.tasks[0])
    assert harness.store.runs.get(run.run_id).owner == ""
    harness.start("second")
    if state is RunState.RUNNING:
        harness.publish(run.run_id)
    harness.release.blocked.set()
    ended = await harness.until(run.run_id, RunState.SUCCEEDED)
    assert len(harness.launcher.jobs) == 1
    assert ended.trainer_sequence == len(harness.home.event_lines(run.run_id))
    assert harness.states(run.run_id) == WAY


async def test_a_gateway_that_was_taken_for_dead_lets_go(harness, caplog):
    """As if it had been frozen for longer than its lease."""
    run = await harness.run_started()
    with harness.store.database.write() as connection:
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        connection.execute(sa.update(runs).values(owner="second", lease_time=later))
    with caplog.at_level(logging.WARNING, "neurogate_gateway"):
        harness.publish(run.run_id)
        async with asyncio.timeout(60):
            with harness.store.notifier.waiter() as wait:
                while "retraining_taken_over" not in caplog.messages:
                    await wait(0.05)
    left = harness.store.runs.get(run.run_id)
    assert (left.state, left.owner, left.trainer_sequence) == (RunState.RUNNING, "second", 0)
