"""Runs one trainer for a gateway that may not live as long: bounds it, ends it, records how it ended.

`launcher_local` runs this file as a script, in a session of its own. Its folder holds

    job.json         what to run and within which bounds; written before
    supervisor.lock  locked for as long as the supervisor lives, so that a second one goes away
    supervisor.json  {"pid", "start", "boot"}: identifies the supervisor
    started          made when the trainer starts; until then it waits for its turn
    exit.json        {"status", "reason"}: how the trainer ended
    trainer.log      what the trainer wrote

SIGTERM is passed on to the trainer, which is killed when it does not end. The trainer dies with its
supervisor. It leads a process group, and whatever it has started there ends with it: a command may be a
script that starts the program proper. Nothing but the standard library is imported, which keeps the process
small.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

_LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_IDLE = 3 << 13
_FIRST_FOR_THE_OOM_KILLER = 800


class Supervisor:
    """One trainer, from its turn to its end."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self._folder = folder
        self._job = job
        self._pid = os.getpid()
        self._stop_at: float | None = None
        self._reason = ""
        self._wakeup, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def run(self) -> None:
        """Waits for its turn, runs the trainer, and records how it ended."""
        status = -signal.SIGTERM
        try:
            with Path(self._job["turn_lock"]).open("ab") as lock:
                if self._wait_for_turn(lock):
                    (self._folder / "started").touch()
                    status = self._supervise()
        except OSError as error:
            status, self._reason = 127, f"the trainer cannot be started: {error}"
        write_json(self._folder / "exit.json", {"status": status, "reason": self._reason})

    def _on_sigterm(self, *_: object) -> None:
        self._stop_at = self._stop_at or time.monotonic()

    def _wait_for_turn(self, lock: IO[bytes]) -> bool:
        """Takes the lock of which one trainer at a time holds it; False where SIGTERM comes first."""
        while self._stop_at is None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._sleep([self._wakeup])
            else:
                return True
        return False

    def _supervise(self) -> int:
        with (self._folder / "trainer.log").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - as the operator set it
                self._job["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                process_group=0,
                preexec_fn=self._bound,  # noqa: PLW1509 - safe in a process of one thread
            )
        ended = os.pidfd_open(child.pid)
        asked = False
        while not self._over(child.pid):
            self._sleep([ended, self._wakeup])
            if self._stop_at is not None and not asked:
                os.killpg(child.pid, signal.SIGTERM)
                asked = True
            if self._stop_at is not None and time.monotonic() - self._stop_at > self._job["grace_seconds"]:
                self._reason = "it did not end when it was asked to, so it was killed"
                os.killpg(child.pid, signal.SIGKILL)
            limit = self._job["memory_bytes"]
            if limit and (used := resident_bytes(child.pid)) > limit:
                self._reason = (
                    f"it used {used >> 20} MiB of memory, the limit is {limit >> 20} MiB, so it was killed"
                )
                os.killpg(child.pid, signal.SIGKILL)
        # Before the trainer is reaped, so that no other process can have its number.
        os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def _over(self, pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _bound(self) -> None:
        """In the trainer, before it is one: everything else on the machine comes first."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:
            # The supervisor was killed before the trainer could be set to die with it.
            os._exit(128 + signal.SIGKILL)
        os.nice(19)
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, self._job["cores"])
        if number := _IOPRIO_SET.get(os.uname().machine):
            libc.syscall(number, 1, 0, _IOPRIO_IDLE)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(f"{_FIRST_FOR_THE_OOM_KILLER}\n", encoding="ascii")

    def _sleep(self, descriptors: list[int]) -> None:
        select.select(descriptors, [], [], _LOOK_SECONDS)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 64)


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 where it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def identity(pid: int) -> dict[str, object] | None:
    """Identifies a process among all that ever have its number; None where it has ended."""
    try:
        # The name in parentheses may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    state, start = fields.split()[0], fields.split()[19]
    return None if state in {"Z", "X"} else {"pid": pid, "start": int(start), "boot": boot}


def write_json(path: Path, content: object) -> None:
    """Writes a small file in one step, and to the disk."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def main() -> None:
    """Argument: the job's folder."""
    folder = Path(sys.argv[1])
    lock = os.open(folder / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if (folder / "supervisor.json").exists():
        return
    # The launcher waits for this process alone; the supervisor is no child of it and leaves no zombie.
    if os.fork():
        os._exit(0)
    os.setsid()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    supervisor = Supervisor(folder, job)
    write_json(folder / "supervisor.json", identity(os.getpid()))
    supervisor.run()


if __name__ == "__main__":
    main()
