"""The release among processes: promotions that race, and changes killed at every step."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from neurogate_core.release_store import PROMOTE, Draft, Release, ReleaseStore, State
from neurogate_testing.killing import reports, start

MODEL = "brain_tumor"
ROUNDS = 50

PREAMBLE = """
import json, os, sys
from pathlib import Path
from neurogate_core.release_store import PROMOTE, Draft, EtagMismatchError, ReleaseStore, State
store = ReleaseStore(Path(sys.argv[1]), "brain_tumor")

def to(version):
    def decide(release):
        state = State(labels={"stable": version}, highest=max(release.state.highest, version))
        return Draft(action=PROMOTE, state=state, actor=f"process {os.getpid()}")
    return decide
"""

# Each line of input is the etag that all racers have seen; the answer says who won.
RACE = (
    PREAMBLE
    + """
for line in sys.stdin:
    etag, version = line.split()
    try:
        print(json.dumps(["won", store.change(to(int(version)), etag=etag).change.sequence]), flush=True)
    except EtagMismatchError:
        print(json.dumps(["lost", 0]), flush=True)
"""
)

KILLED_AT_EVERY_STEP = (
    PREAMBLE
    + """
from neurogate_testing.killing import at_every_step
at_every_step(lambda name: store.change(to(1000 + int(name.partition("-")[2])), request_id=name))
"""
)

MANY = (
    PREAMBLE
    + """
for turn in range(int(sys.argv[2])):
    # No two alike: what is so already is no change.
    store.change(to(1000 * os.getpid() + turn + 1), request_id=f"{os.getpid()}-{turn}")
"""
)


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def stable(version: int) -> Draft:
    return Draft(action=PROMOTE, state=State(labels={"stable": version}, highest=version), actor="parent")


def test_of_promotions_that_saw_the_same_release_one_wins(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path, MODEL)
    racers = [start(RACE, tmp_path) for _ in range(2)]
    for turn in range(ROUNDS):
        etag = store.read().etag
        for number, racer in enumerate(racers):
            assert racer.stdin is not None
            racer.stdin.write(f"{etag} {turn * 10 + number + 1}\n")
            racer.stdin.flush()
        answers = []
        for racer in racers:
            assert racer.stdout is not None
            answers.append(json.loads(racer.stdout.readline()))
        assert sorted(outcome for outcome, _ in answers) == ["lost", "won"]
        winner = next(number for number, (outcome, _) in enumerate(answers) if outcome == "won")
        release = store.read()
        assert release.state.labels == {"stable": turn * 10 + winner + 1}
        assert release.revision == answers[winner][1] == turn + 1
    for racer in racers:
        end(racer)
    assert [change.sequence for change in store.changes(size=100)] == list(range(ROUNDS, 0, -1))


def test_a_change_killed_at_any_step_is_made_or_not_made(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path, MODEL)
    before = store.change(lambda _: stable(1)).release
    outcomes = set()
    for report in reports(start(KILLED_AT_EVERY_STEP, tmp_path)):
        wanted = 1000 + report["step"]
        now = store.read()
        assert now == before or (now.revision, now.state.labels) == (before.revision + 1, {"stable": wanted})
        made = now != before
        outcomes.add(made)
        # The record shows what the release says, whether or not its line was written.
        assert store.changes(size=1) == [now.last_change]

        # Who asks again under the same name gets it once, never twice.
        def again(_: Release, version: int = wanted) -> Draft:
            return stable(version)

        assert store.change(again, request_id=report["name"]).repeated is made
        before = store.read()
        assert [change.sequence for change in store.changes(size=1000)] == list(range(before.revision, 0, -1))
        assert not list((tmp_path / MODEL).glob("*.tmp"))
    assert outcomes == {True, False}


def test_changes_of_many_processes_leave_a_record_without_gaps(tmp_path: Path) -> None:
    processes = [start(MANY, tmp_path, 25) for _ in range(4)]
    store = ReleaseStore(tmp_path, MODEL)
    # Whatever can be read at any moment is whole, and never goes back.
    revision = 0
    while any(process.poll() is None for process in processes):
        now = store.read().revision
        assert now >= revision
        revision = now
    for process in processes:
        end(process)
    changes = store.changes(size=1000)
    assert [change.sequence for change in changes] == list(range(100, 0, -1))
    for later, earlier in itertools.pairwise(changes):
        assert later.labels_before == earlier.state.labels
    assert len({change.request_id for change in changes}) == 100


pytestmark = pytest.mark.timeout(120)
