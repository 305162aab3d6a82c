"""Starts the servers under test as real processes, measures what they use, and stops them by their own
ids."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from neurogate_bench.machine import ROOT, relative

LOGS = ROOT / "build" / "bench" / "logs"
_NUMBERS = itertools.count(1)
# Linux numbers a process's clock by its id; the clock counts in nanoseconds, /proc in hundredths of a second.
_CLOCK_OF_PROCESS = 2


class ServerError(RuntimeError):
    """A server ended, or did not become ready; the message ends with its last words."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(contextlib.AbstractContextManager["Server"]):
    """A running process and its children: their output in a file, their CPU time and memory on request."""

    def __init__(self, name: str, command: Sequence[str], *, env: dict[str, str] | None = None) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.command = relative(" ".join(command))
        # Two benchmarks may run at once, and one may start a server of a name twice.
        self.log = LOGS / re.sub(r"[^\w.-]+", "-", f"{os.getpid()}-{next(_NUMBERS)}-{name}.log")
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=ROOT,
            )
        self._process = psutil.Process(self._popen.pid)
        # A child that has ended takes its CPU time along, so the last reading of each is kept.
        self._cpu: dict[int, float] = {}

    def __exit__(self, *_: object) -> None:
        self.stop()

    def output(self) -> str:
        """All that the process has printed."""
        return self.log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], *, seconds: float = 120, every: float = 0.02) -> float:
        """Waits for `ready()` and returns the seconds since the start; a wait that fails ends the process.

        Raises:
            ServerError: the process ended first, or took too long.
        """
        try:
            self._wait(ready, time.monotonic() + seconds, every)
        except BaseException:
            # Nobody else knows of it yet: the caller gets it only when it is ready.
            self.stop()
            raise
        return time.monotonic() - self.started

    def _wait(self, ready: Callable[[], bool], deadline: float, every: float) -> None:
        while not ready():
            if self._popen.poll() is not None:
                raise ServerError(f"{self.name} ended with status {self._popen.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                taken = time.monotonic() - self.started
                raise ServerError(f"{self.name} was not ready after {taken:.0f} s:\n{self._tail()}")
            time.sleep(every)

    def cpu_seconds(self) -> float:
        """User and system time of the process and all its children so far."""
        for process in self._family():
            # An ended process has no clock any more.
            with contextlib.suppress(OSError):
                self._cpu[process.pid] = processor_seconds(process.pid)
        return sum(self._cpu.values())

    def resident_mib(self) -> float:
        """Resident memory of the process and all its children."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._popen.poll() is None

    def stop(self, *, seconds: float = 20) -> None:
        """Asks the process to end, and ends it and its children if it does not."""
        family = self._family()
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=seconds)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait()

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _tail(self) -> str:
        return "\n".join(self.output().splitlines()[-15:])


def installed(name: str, *, environment: str = ".venv") -> str:
    """The path of a command in one of the project's environments.

    Raises:
        SystemExit: it is not there; says what puts it there.
    """
    path: Path = ROOT / environment / "bin" / name
    if not path.exists():
        hint = "make .venv/.installed" if environment == ".venv" else "make bench-environment"
        raise SystemExit(f"{relative(str(path))} is missing: run `{hint}`")
    return str(path)


def run_python(*arguments: str, environment: str = ".venv") -> str:
    """Runs a Python program in one of the project's environments and returns what it printed.

    Raises:
        RuntimeError: it failed; the message ends with its last words.
    """
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT / "bench")}
    command = [installed("python", environment=environment), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, cwd=ROOT, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"{relative(' '.join(command[:4]))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def processor_seconds(pid: int) -> float:
    """User and system time of one process so far, in nanoseconds' resolution.

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime(~pid << 3 | _CLOCK_OF_PROCESS)
