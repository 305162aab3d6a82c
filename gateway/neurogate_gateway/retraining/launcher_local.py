"""Trainers as processes of this machine, one at a time, behind everything else that runs here.

Each has a keeper (`_keeper`) in a session of its own, so both go on when the gateway ends, by whatever means.
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

from . import trainer_supervisor as _keeper
from .launcher import Job, JobState, JobStatus, LaunchError

_START_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.02
_GRACE_SECONDS: Final = 30.0
_SLOT: Final = ".local.lock"


class LocalLauncher:
    """Runs trainers on this machine.

    Args:
        cores: How many cores a trainer gets; 0 means all but one.
        memory_bytes: A trainer that holds more is killed; 0 means no limit. Watched rather than set in the
            kernel: limits on address space break TensorFlow, and control groups are not everybody's to make.
    """

    name: Final = "local"
    at_once: Final = 1

    def __init__(self, *, cores: int, memory_bytes: int) -> None:
        usable = sorted(os.sched_getaffinity(0))
        # TensorFlow and its friends start as many threads. The last ones: the first take the interrupts.
        self._cores = usable[-(cores or max(1, len(usable) - 1)) :]
        self._memory_bytes = memory_bytes

    async def start(self, job: Job) -> str:
        """As `Launcher`; the handle is the job's folder and what tells the keeper from any later process."""
        return await asyncio.to_thread(self._start, job)

    async def status(self, handle: str) -> JobStatus:
        """As `Launcher`."""
        folder, keeper = _parse(handle)
        alive = _keeper.identity(keeper["pid"]) == keeper
        # Only now: what is not alive has written it, if it ever will.
        with contextlib.suppress(OSError, ValueError):
            ended = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
            return JobStatus(JobState.ENDED, ended["reason"] or _words(ended["status"]))
        if alive:
            return JobStatus(JobState.RUNNING if (folder / "started").exists() else JobState.WAITING)
        return JobStatus(JobState.LOST, "the trainer's keeper was killed, and the trainer with it")

    async def cancel(self, handle: str) -> None:
        """As `Launcher`."""
        _, keeper = _parse(handle)
        try:
            descriptor = os.pidfd_open(keeper["pid"])
        except OSError:
            return
        try:
            # With the descriptor in hand the number cannot go to another process any more.
            if _keeper.identity(keeper["pid"]) == keeper:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """As `Launcher`; nothing is held."""

    def _start(self, job: Job) -> str:
        folder = job.folder.absolute()
        content = {
            "command": list(job.command),
            "slot": str(folder.parent / _SLOT),
            "cores": self._cores,
            "memory_bytes": self._memory_bytes,
            "grace_seconds": _GRACE_SECONDS,
        }
        known = folder / "keeper.json"
        late = f"the trainer's keeper did not start within {_START_SECONDS:g} s"
        try:
            if not known.exists():
                _keeper.note(folder / "job.json", content)
                subprocess.run(  # noqa: S603 - our own script, which goes on by itself
                    [sys.executable, "-I", _keeper.__file__, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=_START_SECONDS,
                    check=True,
                )
            give_up = time.monotonic() + _START_SECONDS
            while not known.exists():
                if time.monotonic() > give_up:
                    raise LaunchError(late, passing=True)
                time.sleep(_LOOK_SECONDS)
            keeper = json.loads(known.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired as error:
            # It may start yet, and is found the next time.
            raise LaunchError(late, passing=True) from error
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"the trainer's keeper cannot be started: {error}") from error
        return json.dumps({"folder": str(folder), "keeper": keeper})


def _parse(handle: str) -> tuple[Path, dict[str, int]]:
    content = json.loads(handle)
    return Path(content["folder"]), content["keeper"]


def _words(status: int) -> str:
    if status < 0:
        return f"the trainer was ended by {signal.Signals(-status).name}"
    return f"the trainer ended with status {status}"
