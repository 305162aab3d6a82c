"""Starts the project's commands as real processes, waits for what they print, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

# Below the range from which the system hands ports out: a server opens its port long after it was chosen, and
# whoever asks the system for a port meanwhile must not get the same one. Above the ports of Ray's workers.
_RANGE = range(20_000, 32_000)
_WORKERS = 8


def _ports() -> Iterator[int]:
    """This process's share of the range, over and over.

    The workers of one test run have shares of their own; test runs side by side start at different places.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = _RANGE[worker % _WORKERS :: _WORKERS]
    start = os.getpid() * 97 % len(share)
    return itertools.cycle([*share[start:], *share[:start]])


_PORTS = _ports()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on, and that nobody else in this process is given."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no end to the cycle of ports")


class RunningProcess:
    """A child process whose output is collected line by line while it runs."""

    def __init__(
        self, command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = list(command)
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.popen = subprocess.Popen(
            self.command,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    @property
    def output(self) -> str:
        """Everything read from the process so far."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, *, seconds: float = 60) -> re.Match[str]:
        """The first line, from where the last wait ended, that matches `pattern`."""
        compiled = re.compile(pattern)
        while True:
            try:
                line = self._queue.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no line matched {pattern!r} in {seconds} s:\n{self.output}") from None
            if line is None:
                self._queue.put(None)
                raise AssertionError(
                    f"{self.command[0]} ended before a line matched {pattern!r}:\n{self.output}"
                )
            self.lines.append(line)
            if match := compiled.search(line):
                return match

    def stop(self, sig: int = signal.SIGTERM, *, seconds: float = 30) -> int:
        """Ends the process by its own pid and returns its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
            try:
                self.popen.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self._reader.join(timeout=5)
        with contextlib.suppress(queue.Empty):
            while (line := self._queue.get_nowait()) is not None:
                self.lines.append(line)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return self.popen.returncode


def script(name: str) -> str:
    """The path of a command that this distribution installs."""
    return str(Path(sys.executable).with_name(name))


def model_server_binary() -> str | None:
    """What stands in for the embedded model server: the `tensorflow_model_server` of NEUROGATE_TFS_BINARY."""
    return os.environ.get("NEUROGATE_TFS_BINARY") or None


def model_server_flags() -> list[str]:
    """More flags for every model server: those of NEUROGATE_TFS_FLAGS."""
    return shlex.split(os.environ.get("NEUROGATE_TFS_FLAGS", ""))


def model_server_command(*flags: str) -> list[str]:
    """The command that starts a model server, whichever is under test; the last of equal flags holds."""
    return [model_server_binary() or script("neurogate-model-server"), *flags, *model_server_flags()]


def up_model_server_options() -> list[str]:
    """What makes `neurogate up` start the model server that is under test; nothing for the embedded one."""
    if model_server_binary() is None and not model_server_flags():
        return []
    return [f"--model-server-command={shlex.join(model_server_command())}"]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[RunningProcess]:
    """A process that is stopped when the block ends, however it ends."""
    process = RunningProcess(command, env=env, cwd=cwd)
    try:
        yield process
    finally:
        process.stop()
