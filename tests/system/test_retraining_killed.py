"""Gateway, trainer, and both, killed at random moments of a retraining: nothing is lost, doubled or half."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from neurogate_core.manifest import verify_version
from neurogate_core.repository import ModelRepository
from neurogate_gateway.store.run import Run, RunState
from neurogate_gateway.store.store import Store
from neurogate_testing.launching import MODEL, SUPPORT, Home
from neurogate_testing.processes import RunningProcess
from neurogate_testing.stores import queue_run

pytestmark = pytest.mark.timeout(900)

# One moment of each kind with every change, the others with the slow tests.
MOMENTS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]
EVENTS = 40


@contextlib.contextmanager
def gateway(home: Home) -> Iterator[RunningProcess]:
    process = RunningProcess(
        [sys.executable, "-m", "neurogate_testing.launching", str(home.path)],
        env={"PYTHONPATH": str(SUPPORT)},
    )
    try:
        process.wait_for("running")
        yield process
    finally:
        process.stop(signal.SIGKILL)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.script(events=EVENTS, pause=0.01)
    return home


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = home.open()
    yield store
    store.close()


def poll(look: Callable[[], bool], *, seconds: float = 120, every: float = 0.005) -> None:
    give_up = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < give_up
        time.sleep(every)


def wait_for_end(store: Store, run_id: str) -> Run:
    # A look at the database costs more than one at a file, and nothing happens while the lease lasts.
    poll(lambda: store.runs.get(run_id).state.ended, every=0.1)
    return store.runs.get(run_id)


def trainer_of(home: Home, run_id: str) -> int | None:
    """The trainer's process id; None before it is there, and after its end."""
    wanted = f"--run-id={run_id}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if wanted in words and b"neurogate_testing.scripted_trainer" in words:
                return int(path.parent.name)
    return None


def kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def published(home: Home, run_id: str) -> list[int]:
    """Versions of a run; every version there is must be whole."""
    repository = ModelRepository(home.repository)
    numbers = repository.versions(MODEL)
    manifests = {n: verify_version(repository.path(MODEL, n), model_name=MODEL) for n in numbers}
    return [n for n, manifest in manifests.items() if manifest.lineage.run_id == run_id]


def check(home: Home, store: Store, run: Run) -> None:
    """What must hold of an ended retraining, whatever was killed when."""
    events = []
    while page := store.runs.events_after(run.run_id, len(events)):
        events += page
    assert [event.sequence for event in events] == list(range(1, run.last_sequence + 1))
    kinds = [event.WhichOneof("event") for event in events]
    relayed = [event for event, kind in zip(events, kinds, strict=True) if kind != "state_change"]
    lines = home.event_lines(run.run_id)
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(relayed) == len(lines) == run.trainer_sequence
    steps = [line["step"] for line in lines if line["event"] == "progress"]
    assert [event.progress.step for event in relayed if event.WhichOneof("event") == "progress"] == steps
    assert kinds[-1] == "state_change"
    versions = published(home, run.run_id)
    if run.state is RunState.SUCCEEDED:
        assert versions == [run.version]
    else:
        assert (run.state, run.version, versions) == (RunState.FAILED, 0, [])
        assert "trainer" in run.error


@pytest.mark.parametrize("seed", MOMENTS)
def test_a_killed_gateway_is_followed_by_one_that_goes_on(home, store, seed):
    moment = random.Random(seed).randint(0, EVENTS)
    run = queue_run(store)
    with gateway(home):
        poll(lambda: len(home.event_lines(run.run_id)) >= moment)
    with gateway(home):
        ended = wait_for_end(store, run.run_id)
    # The trainer did not notice.
    assert ended.state is RunState.SUCCEEDED
    check(home, store, ended)


@pytest.mark.parametrize("seed", MOMENTS)
def test_a_killed_trainer_fails_unless_it_has_published(home, store, seed):
    moment = random.Random(100 + seed).randint(1, EVENTS + 4)
    run = queue_run(store)
    with gateway(home):
        poll(lambda: len(home.event_lines(run.run_id)) >= moment)
        kill(trainer_of(home, run.run_id))
        ended = wait_for_end(store, run.run_id)
        check(home, store, ended)
        # Nothing stands in the way of the next one.
        home.script(events=1)
        following = queue_run(store)
        after = wait_for_end(store, following.run_id)
    assert after.state is RunState.SUCCEEDED
    check(home, store, after)


@pytest.mark.parametrize("seed", MOMENTS)
def test_both_killed_leave_the_right_state(home, store, seed):
    chance = random.Random(200 + seed)
    moment = chance.randint(1, EVENTS + 4)
    run = queue_run(store)
    with gateway(home) as process:
        poll(lambda: len(home.event_lines(run.run_id)) >= moment)
        victims = [process.popen.pid, trainer_of(home, run.run_id)]
        chance.shuffle(victims)
        for victim in victims:
            kill(victim)
    with gateway(home):
        ended = wait_for_end(store, run.run_id)
    check(home, store, ended)
