"""Retrainings from the queue to their end, by a launcher that does as it is told."""

import asyncio
import datetime as dt
import json
import logging

import pytest
import sqlalchemy as sa
from neurogate.v1 import error_pb2
from neurogate_gateway.errors import BackendUnavailableError, GateRefusedError, GatewayError
from neurogate_gateway.retraining.launcher import GATE_POLICY_FILE, LOG_FILE, JobState, JobStatus, LaunchError
from neurogate_gateway.retraining.worker import Limits
from neurogate_gateway.store.run_states import RunState
from neurogate_gateway.store.schema import runs
from neurogate_testing.launching import queue_run
from neurogate_testing.retraining_desk import Desk


@pytest.fixture
async def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


async def test_a_retraining_goes_its_way(desk):
    run = queue_run(desk.records, promote=True, hyperparameters={"epochs": "3"})
    desk.start()
    job = await desk.until_started(run.run_id)
    assert job.command[1:3] == ("retrain", str(desk.home.base_run))
    assert "--set=epochs=3" in job.command
    assert not any("gate-policy" in option for option in job.command)
    assert f"--run-id={run.run_id}" in job.command
    assert json.loads((job.folder / "examples.json").read_text()) == {"revision": 1, "examples": []}
    with desk.reporter(run.run_id) as reporter:
        reporter.phase("fine-tune", total=2, unit="steps")
        reporter.advance(1, epoch=1, loss=0.5)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.SUCCEEDED)
    assert (ended.version, ended.gate.accepted, ended.error) == (version, True, "")
    assert desk.states(run.run_id) == ["QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"]
    assert desk.release.promoted == [(version, "tester", f"retraining-{run.run_id}", False)]
    lines = desk.home.event_lines(run.run_id)
    relayed = [e for e in desk.events(run.run_id) if e.WhichOneof("event") != "state_change"]
    assert len(relayed) == len(lines) == ended.trainer_sequence


async def test_a_gate_policy_of_its_own_goes_to_trainer_and_gate(desk):
    policy = '[gate]\r\nmin_accuracy = 0.9 # "ä"\n'
    run = queue_run(desk.records, promote=True, gate_policy=policy)
    desk.start()
    job = await desk.until_started(run.run_id)
    assert f"--gate-policy={job.folder / GATE_POLICY_FILE}" in job.command
    assert (job.folder / GATE_POLICY_FILE).read_bytes().decode() == policy
    desk.publish(run.run_id)
    await desk.until(run.run_id, RunState.SUCCEEDED)
    assert desk.release.policies == [policy, policy]


async def test_what_the_gate_refuses_ends_refused_and_is_not_promoted(desk):
    desk.release.accepted = False
    run = queue_run(desk.records, promote=True)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.REFUSED)
    assert (ended.version, ended.gate.accepted) == (version, False)
    assert desk.release.promoted == []


async def test_nothing_is_promoted_unasked(desk):
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    desk.publish(run.run_id)
    await desk.until(run.run_id, RunState.SUCCEEDED)
    assert desk.release.promoted == []


async def test_a_gate_that_has_changed_its_mind_refuses(desk):
    desk.release.promotion_errors = [GateRefusedError("not any more")]
    run = queue_run(desk.records, promote=True)
    desk.start()
    await desk.until_started(run.run_id)
    desk.publish(run.run_id)
    await desk.until(run.run_id, RunState.REFUSED)


async def test_a_version_that_cannot_be_judged_is_told(desk, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.worker._RETRY_SECONDS", 0)
    desk.release.errors = [
        BackendUnavailableError("no model server"),
        GatewayError(error_pb2.ERROR_REASON_MODEL_VERSION_REJECTED, "bad goldens"),
    ]
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.FAILED)
    assert ended.error == f"version {version} is published, but cannot be judged: bad goldens"
    assert ended.version == version
    assert desk.release.errors == []


async def test_without_a_release_versions_are_taken_as_they_come(desk):
    desk.release = None
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    ended = await desk.until(run.run_id, RunState.SUCCEEDED)
    assert (ended.version, ended.gate) == (version, None)


async def test_a_trainer_that_fails_ends_with_its_words_and_the_end_of_its_log(desk):
    run = queue_run(desk.records)
    desk.start()
    job = await desk.until_started(run.run_id)
    (job.folder / LOG_FILE).write_text("".join(f"line {n}\n" for n in range(100)))
    with desk.reporter(run.run_id) as reporter:
        reporter.end("failed", reason="the loss became nan")
    desk.launcher.statuses[run.run_id] = JobStatus(JobState.ENDED, "the trainer ended with status 1")
    ended = await desk.until(run.run_id, RunState.FAILED)
    first, *tail = ended.error.splitlines()
    assert first == "the loss became nan; the trainer ended with status 1"
    assert tail == [f"line {n}" for n in range(80, 100)]
    assert ended.version == 0


async def test_a_trainer_killed_after_its_publication_has_published(desk):
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id, told=False)
    desk.launcher.statuses[run.run_id] = JobStatus(JobState.LOST, "killed")
    assert (await desk.until(run.run_id, RunState.SUCCEEDED)).version == version


async def test_a_trainer_without_events_is_ended_and_told(desk):
    desk.limits = Limits(hang_seconds=0.2, ready_seconds=600)
    run = queue_run(desk.records)
    desk.start()
    ended = await desk.until(run.run_id, RunState.FAILED)
    assert ended.error.startswith("the trainer hung: no event for 0.00333 minutes; the trainer was ended by")
    assert desk.launcher.cancelled == [run.run_id]


async def test_a_trainer_that_waits_for_its_turn_does_not_hang(desk):
    desk.limits = Limits(hang_seconds=0.2, ready_seconds=600)
    run = queue_run(desk.records)
    desk.launcher.statuses[run.run_id] = JobStatus(JobState.WAITING)
    desk.start()
    await desk.until_started(run.run_id)
    for _ in range(3):
        with desk.records.changes.waiter(run.run_id) as waiter:
            await waiter.wait(0.2)
    assert desk.records.runs.get(run.run_id).state is RunState.RUNNING
    desk.publish(run.run_id)
    await desk.until(run.run_id, RunState.SUCCEEDED)


@pytest.mark.parametrize("passing", [True, False])
async def test_a_trainer_that_cannot_be_started_is_told(desk, monkeypatch, passing):
    monkeypatch.setattr("neurogate_gateway.retraining.worker._RETRY_SECONDS", 0)
    desk.launcher.refusals = [LaunchError("no cluster", passing=passing)]
    run = queue_run(desk.records)
    desk.start()
    if passing:
        await desk.until_started(run.run_id)
        return
    ended = await desk.until(run.run_id, RunState.FAILED)
    assert ended.error == "the trainer could not be started: no cluster"


@pytest.mark.parametrize("lack", ["base run", "trainer", "checkpoint"])
async def test_what_a_trainer_needs_and_is_not_there_is_told(desk, lack):
    spec = {}
    if lack == "base run":
        (desk.home.base_run / "state.json").unlink()
        words = "no folder of a training run"
    elif lack == "trainer":
        desk.home.trainer.unlink()
        words = "there is no command"
    else:
        spec = {"from_scratch": False, "warm_start_version": 3}
        words = "the weights of version 3 are gone"
    run = queue_run(desk.records, **spec)
    desk.start()
    assert words in (await desk.until(run.run_id, RunState.FAILED)).error


async def test_cancelling_ends_the_trainer(desk):
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    desk.records.runs.request_cancel(run.run_id, reason="no need", actor="tester")
    ended = await desk.until(run.run_id, RunState.CANCELLED)
    assert desk.launcher.cancelled == [run.run_id]
    assert (ended.version, ended.error) == (0, "")


async def test_cancelling_while_the_gate_thinks_leaves_the_version_where_it_is(desk):
    desk.release.blocked = asyncio.Event()
    run = queue_run(desk.records, promote=True)
    desk.start()
    await desk.until_started(run.run_id)
    version = desk.publish(run.run_id)
    await desk.until(run.run_id, RunState.EVALUATING)
    desk.records.runs.request_cancel(run.run_id, reason="", actor="tester")
    assert (await desk.until(run.run_id, RunState.CANCELLED)).version == version
    assert desk.release.promoted == []


async def test_one_at_a_time_in_the_order_of_arrival(desk):
    queued = [queue_run(desk.records) for _ in range(3)]
    desk.start()
    for number, run in enumerate(queued):
        await desk.until_started(run.run_id)
        assert list(desk.launcher.jobs) == [each.run_id for each in queued[: number + 1]]
        desk.publish(run.run_id)
        await desk.until(run.run_id, RunState.SUCCEEDED)


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.EVALUATING])
async def test_another_gateway_goes_on_where_the_first_stopped(desk, state):
    desk.release.blocked = asyncio.Event()
    run = queue_run(desk.records, promote=True)
    first = desk.start()
    await desk.until_started(run.run_id)
    with desk.reporter(run.run_id) as reporter:
        reporter.phase("fine-tune", total=2, unit="steps")
        reporter.advance(1, epoch=1)
    if state is RunState.EVALUATING:
        desk.publish(run.run_id)
    await desk.until(run.run_id, state)
    await desk.stop(first)
    assert desk.records.runs.get(run.run_id).owner == ""
    desk.start("second")
    if state is RunState.RUNNING:
        desk.publish(run.run_id)
    desk.release.blocked.set()
    ended = await desk.until(run.run_id, RunState.SUCCEEDED)
    assert len(desk.launcher.jobs) == 1
    assert ended.trainer_sequence == len(desk.home.event_lines(run.run_id))
    assert desk.states(run.run_id) == ["QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"]


async def test_a_gateway_that_was_taken_for_dead_lets_go(desk, caplog):
    """As if it had been frozen for longer than its lease."""
    run = queue_run(desk.records)
    desk.start()
    await desk.until_started(run.run_id)
    with desk.records.database.write() as connection:
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        connection.execute(sa.update(runs).values(owner="second", lease_time=later))
    with caplog.at_level(logging.WARNING, "neurogate_gateway"):
        desk.publish(run.run_id)
        with desk.records.changes.waiter(run.run_id) as waiter:
            async with asyncio.timeout(60):
                while "retraining_taken_over" not in caplog.messages:
                    await waiter.wait(0.05)
    left = desk.records.runs.get(run.run_id)
    assert (left.state, left.owner, left.trainer_sequence) == (RunState.RUNNING, "second", 0)
