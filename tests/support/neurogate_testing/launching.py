"""Everything that a retraining runs on, over temporary folders, with a scripted trainer or none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from neurogate.v1 import training_pb2
from neurogate_gateway.retraining.checkpoints import Checkpoints
from neurogate_gateway.retraining.jobs import JobMaker
from neurogate_gateway.store.run import Run
from neurogate_gateway.store.run_starts import NewRun
from neurogate_gateway.store.store import Store

MODEL = "brain_tumor"
SUPPORT = Path(__file__).resolve().parents[1]


class Home:
    """Folders of one installation; `open` opens its records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repository = path / "models"
        self.runs_dir = path / "runs"
        self.base_run = path / "base"
        self.trainer = path / "trainer"
        self.base_run.mkdir(parents=True, exist_ok=True)
        (self.base_run / "state.json").write_text('{"run_id": "base"}')
        if not self.trainer.exists():
            command = f"{sys.executable} -m neurogate_testing.scripted_trainer"
            self.trainer.write_text(f'#!/bin/sh\nPYTHONPATH={SUPPORT} exec {command} "$@"\n')
            self.trainer.chmod(0o755)

    def script(self, *, events: int = 3, pause: float = 0.0, then: str = "publish") -> None:
        """Says what the next trainers do."""
        content = {"events": events, "pause": pause, "then": then}
        (self.path / "script.json").write_text(json.dumps(content))

    def go(self) -> None:
        """Lets trainers that wait go on."""
        (self.path / "go").touch()

    def open(self) -> Store:
        """The records; to be closed."""
        return Store(self.path / "records", "", max_store_bytes=2**30)

    def jobs(self, records: Store) -> JobMaker:
        """Makes jobs for the scripted trainer."""
        return JobMaker(
            trainer=str(self.trainer),
            base_run=self.base_run,
            runs_dir=self.runs_dir,
            repository=self.repository,
            model=MODEL,
            checkpoints=self.checkpoints(),
            image_path=records.images.path,
        )

    def checkpoints(self) -> Checkpoints:
        """Where versions can be started from."""
        return Checkpoints(self.repository, MODEL, base_run=self.base_run, runs_dir=self.runs_dir)

    def event_lines(self, run_id: str) -> list[dict[str, object]]:
        """What the trainer wrote, without a torn last line."""
        path = self.runs_dir / run_id / "events.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def queue_run(records: Store, *, launcher: str = "local", **spec: object) -> Run:
    """A retraining that waits."""
    new = NewRun(
        spec=training_pb2.RetrainingSpec(**({"from_scratch": True} | spec)),
        launcher=launcher,
        actor="tester",
    )
    run, _ = records.runs.create(new, most_queued=100, check_counts=lambda _: None)
    return run


def alive(pid: int) -> bool:
    """Whether a process runs, zombies not counted."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
