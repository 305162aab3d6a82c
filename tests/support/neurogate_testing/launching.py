"""What a retraining runs on, over temporary folders, with a scripted trainer or none.

Run as a script, it is a gateway's part in retrainings as a process of its own, to be killed: argument, a
`Home`'s folder. It says "running" once it works.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from neurogate_gateway.observability.logging import configure_logging
from neurogate_gateway.retraining import worker
from neurogate_gateway.retraining.launcher import TrainerJobs
from neurogate_gateway.retraining.launcher_local import LocalLauncher
from neurogate_gateway.store.store import Store

MODEL = "brain_tumor"
SUPPORT = Path(__file__).resolve().parents[1]


class Home:
    """Folders of one installation; `open` opens its store."""

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
        """The store; to be closed."""
        return Store(self.path / "records", "", max_store_bytes=2**30)

    def jobs(self) -> TrainerJobs:
        """Makes jobs for the scripted trainer."""
        return TrainerJobs(
            trainer=str(self.trainer),
            base_run=self.base_run,
            runs_dir=self.runs_dir,
            repository=self.repository,
            model=MODEL,
            image_path=self.path.joinpath,
        )

    def event_lines(self, run_id: str) -> list[dict[str, object]]:
        """What the trainer wrote, without a torn last line."""
        path = self.runs_dir / run_id / "events.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def alive(pid: int) -> bool:
    """Whether a process runs, zombies not counted."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


async def main(path: Path) -> None:
    home = Home(path)
    # A killed gateway is waited for no longer than a test likes to.
    worker._LEASE_SECONDS = 2.0
    setup = worker.Setup(
        store=home.open(),
        jobs=home.jobs(),
        promoter=None,
        hang_seconds=600,
    )
    runner = worker.RetrainingRunner(setup, [LocalLauncher(cores=0, memory_bytes=0)])
    sys.stdout.write("running\n")
    sys.stdout.flush()
    await runner.run()


if __name__ == "__main__":
    configure_logging("info")
    asyncio.run(main(Path(sys.argv[1])))
