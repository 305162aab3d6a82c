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


def poll(look: Callable[[], bool], *, every: float) -> None:
    give_up = time.monotonic() + 120
    while not look():
        assert time.monotonic() < give_up
        time.sleep(every)


def wait_for_end(store: Store, run_id: str) -> Run:
    # A look at the database costs more than one at a file, and nothing happens while the lease lasts.
    poll(lambda: store.runs.get(run_id).state.ended, every=0.1)
    return store.runs.get(run_id)


def trainer_of(run_id: str) -> int | None:
    """The trainer's process id; None before it is there, and after its end."""
    wanted = f"--run-id={run_id}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if wanted in words and b"neurogate_testing.scripted_trainer" in words:
                return int(path.parent.name)
    return None


def check(home: Home, store: Store, run: Run) -> None:
    """What must hold of an ended retraining, whatever was killed when."""
    events = []
    while page := store.runs.events_after(run.run_id, len(events)):
        events += page
    assert [event.sequence for event in events] == list(range(1, run.last_sequence + 1))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[-1] == "state_change"
    lines = home.event_lines(run.run_id)
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(kinds) - kinds.count("state_change") == len(lines) == run.trainer_sequence
    steps = [line["step"] for line in lines if line["event"] == "progress"]
    assert [event.progress.step for event in events if event.HasField("progress")] == steps
    # Every version that there is must be whole.
    repository = ModelRepository(home.repository)
    numbers = repository.versions(MODEL)
    manifests = {n: verify_version(repository.path(MODEL, n), model_name=MODEL) for n in numbers}
    versions = [n for n, manifest in manifests.items() if manifest.lineage.run_id == run.run_id]
    if run.state is RunState.SUCCEEDED:
        assert versions == [run.version]
    else:
        assert (run.state, run.version, versions) == (RunState.FAILED, 0, [])
        assert "trainer" in run.error


@pytest.mark.parametrize("seed", MOMENTS)
@pytest.mark.parametrize("killed", [("gateway",), ("trainer",), ("gateway", "trainer")], ids="+".join)
def test_a_killed_retraining_ends_in_the_right_state(
    tmp_path: Path, killed: tuple[str, ...], seed: int
) -> None:
    home = Home(tmp_path)
    home.script(events=EVENTS, pause=0.01)
    store = home.open()
    chance = random.Random(f"{sorted(killed)} {seed}")
    moment = chance.randint("trainer" in killed, EVENTS + 4 * ("trainer" in killed))
    run_id = queue_run(store).run_id
    with contextlib.ExitStack() as gateways:
        first = gateways.enter_context(gateway(home))
        poll(lambda: len(home.event_lines(run_id)) >= moment, every=0.005)
        victims = {"gateway": first.popen.pid, "trainer": trainer_of(run_id)}
        for name in chance.sample(sorted(killed), len(killed)):
            if (pid := victims[name]) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if "gateway" in killed:
            gateways.enter_context(gateway(home))
        ended = wait_for_end(store, run_id)
        check(home, store, ended)
        # A trainer does not notice that its gateway was killed.
        assert ended.state is RunState.SUCCEEDED or "trainer" in killed
        # Nothing stands in the way of the next one.
        home.script(events=1)
        following = wait_for_end(store, queue_run(store).run_id)
    assert following.state is RunState.SUCCEEDED
    check(home, store, following)
    store.close()
