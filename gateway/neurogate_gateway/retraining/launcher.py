"""Who runs a trainer: the one small interface behind which a machine's own processes and clusters stand."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Final, Protocol

EVENTS_FILE: Final = "events.jsonl"
EXAMPLES_FILE: Final = "examples.json"
GATE_POLICY_FILE: Final = "gate-policy.toml"
LOG_FILE: Final = "trainer.log"
RUN_DIR: Final = "run"
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 20


class LaunchError(RuntimeError):
    """A trainer cannot be started or asked about; the message says why.

    Attributes:
        passing: Whether it may work a moment later, as when a cluster cannot be reached.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One run of a trainer.

    Attributes:
        run_id: The retraining's.
        command: Program and arguments; the trainer writes events to `folder`/EVENTS_FILE.
        folder: The job's own, made by the caller; a launcher keeps LOG_FILE and its own notes there.
    """

    run_id: str
    command: tuple[str, ...]
    folder: Path


class JobState(enum.Enum):
    """Where a job stands."""

    WAITING = "waiting"
    """For its turn, or for resources."""
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"
    """It is gone, and nobody noted how it ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job is.

    Attributes:
        state: Where it stands.
        reason: Once ENDED or LOST, how that came, for people.
    """

    state: JobState
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return self.state in {JobState.ENDED, JobState.LOST}


class Launcher(Protocol):
    """Starts trainers, and finds them again after a restart of the gateway.

    What a job has to say it says in its folder: events, log, and the version in the repository. So a
    launcher only starts, looks, and ends.
    """

    @property
    def name(self) -> str:
        """As RetrainingSpec.launcher has it."""

    @property
    def at_once(self) -> int:
        """How many jobs a gateway starts before one has ended."""

    async def start(self, job: Job) -> str:
        """Starts a job, or finds the one that was started for the same run before.

        Returns:
            A handle, by which this or another gateway finds the job again.

        Raises:
            LaunchError: It cannot be started.
        """

    async def status(self, handle: str) -> JobStatus:
        """How a job is.

        Raises:
            LaunchError: That cannot be told now.
        """

    async def cancel(self, handle: str) -> None:
        """Asks a job to end; what does not end is killed after a while. Safe to repeat.

        Raises:
            LaunchError: It cannot be asked now.
        """

    def close(self) -> None:
        """Lets go of what is held to start and to ask; jobs go on. Nothing may be asked any more."""


def log_tail(folder: Path) -> str:
    """The last lines of a job's log; empty where there is none."""
    try:
        with (folder / LOG_FILE).open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_BYTES))
            # PostgreSQL holds no NUL.
            text = log.read().decode(errors="replace").replace("\0", "\ufffd")
    except OSError:
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])
