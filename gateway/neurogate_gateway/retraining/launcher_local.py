"""Trainers as processes of this machine, one at a time, behind everything else that runs here.

Each has a supervisor (`trainer_supervisor`) in a session of its own, so both go on when the gateway ends, by
whatever means.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from . import trainer_supervisor
from .launcher import Job, JobState, JobStatus, LaunchError

_START_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.02
_GRACE_SECONDS: Final = 30.0
_TURN_LOCK: Final = ".local.lock"


class LocalLauncher:
    """Runs trainers on this machine.

    Args:
        cores: How many cores a trainer gets; 0 means all but one.
        memory_bytes: A trainer that holds more is killed; 0 means no limit. Watched rather than set in the
            kernel: limits on address space break TensorFlow, and control groups are not everybody's to make.
    """

    name: Final = "local"
    max_jobs: Final = 1

    def __init__(self, *, cores: int, memory_bytes: int) -> None:
        usable = sorted(os.sched_getaffinity(0))
        # TensorFlow starts as many threads as there are cores. The last ones: the first take the interrupts.
        self._cores = usable[-(cores or max(1, len(usable) - 1)) :]
        self._memory_bytes = memory_bytes

    async def start(self, job: Job) -> str:
        """As `Launcher`; the handle has the job's folder and identifies the supervisor."""
        return await asyncio.to_thread(self._start, job)

    async def status(self, handle: str) -> JobStatus:
        """As `Launcher`."""
        folder, supervisor = _parse(handle)
        alive = trainer_supervisor.identity(supervisor["pid"]) == supervisor
        # Only now: a supervisor that is not alive has written it, if it ever will.
        with contextlib.suppress(OSError, ValueError):
            ended = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
            return JobStatus(JobState.ENDED, ended["reason"] or _describe(ended["status"]))
        if alive:
            return JobStatus(JobState.RUNNING if (folder / "started").exists() else JobState.WAITING)
        return JobStatus(JobState.LOST, "the trainer's supervisor was killed, and the trainer with it")

    async def cancel(self, handle: str) -> None:
        """As `Launcher`."""
        _, supervisor = _parse(handle)
        try:
            descriptor = os.pidfd_open(supervisor["pid"])
        except OSError:
            return
        try:
            # With the descriptor in hand the number cannot go to another process any more.
            if trainer_supervisor.identity(supervisor["pid"]) == supervisor:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """As `Launcher`; there is nothing to release."""

    def _start(self, job: Job) -> str:
        folder = job.folder.absolute()
        content = {
            "command": list(job.command),
            "turn_lock": str(folder.parent / _TURN_LOCK),
            "cores": self._cores,
            "memory_bytes": self._memory_bytes,
            "grace_seconds": _GRACE_SECONDS,
        }
        # A trainer that was started before the supervisor had its name is found by the name it had.
        earlier = folder / "keeper.json"
        known = earlier if earlier.exists() else folder / "supervisor.json"
        late = f"the trainer's supervisor did not start within {_START_SECONDS:g} s"
        try:
            if not known.exists():
                trainer_supervisor.write_json(folder / "job.json", content)
                subprocess.run(  # noqa: S603 - our own script, which goes on by itself
                    [sys.executable, "-I", trainer_supervisor.__file__, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=_START_SECONDS,
                    check=True,
                )
            give_up = time.monotonic() + _START_SECONDS
            while not known.exists():
                if time.monotonic() > give_up:
                    raise LaunchError(late, transient=True)
                time.sleep(_LOOK_SECONDS)
            supervisor = json.loads(known.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired as error:
            # It may start yet, and is found the next time.
            raise LaunchError(late, transient=True) from error
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"the trainer's supervisor cannot be started: {error}") from error
        return json.dumps({"folder": str(folder), "supervisor": supervisor})


def _parse(handle: str) -> tuple[Path, dict[str, int]]:
    content = json.loads(handle)
    return Path(content["folder"]), content.get("supervisor") or content["keeper"]


def _describe(status: int) -> str:
    if status < 0:
        return f"the trainer was ended by {signal.Signals(-status).name}"
    return f"the trainer ended with status {status}"
