"""What happens to a retraining between two steps: cancellations, lost answers, other changes of the release."""

import pytest
from neurogate_gateway.records.states import RunState
from neurogate_testing.launching import queue_run
from neurogate_testing.retraining_desk import Desk


@pytest.fixture
async def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


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
