"""Child processes for `neurogate up` and `neurogate demo`: started, watched, and always ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

_EXEC_WITH_PARENT = Path(__file__).with_name("_exec_with_parent.py")
_TAIL_LINES = 30
_POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class MissingProgramError(Exception):
    """A command of this distribution is not installed; the message says which extra has it."""


class ChildFailedError(Exception):
    """A child ended by itself when it should not have, or with a failure."""

    def __init__(self, child: Child, message: str) -> None:
        super().__init__(message)
        self.child = child


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


# Commands of this distribution: the extra that has them, and modules that come with it and nothing less.
_PROGRAMS = {
    "neurogate-gateway": ("gateway", ("grpc_health", "grpc_reflection", "numpy", "PIL")),
    "neurogate-model-server": ("serving", ("tensorflow", "tensorflow_serving")),
    "neurogate-trainer": ("trainer", ("keras", "kagglehub", "tensorflow", "sklearn")),
}

_RECORDS = ("sqlalchemy", "alembic")


def program(name: str, *, records: bool = False) -> str:
    """The path of one of this distribution's commands, beside the running Python.

    Args:
        name: the command.
        records: whether it is to keep records, which is an extra of its own.

    Raises:
        MissingProgramError: it is not there, or what it needs is not installed.
    """
    extra, modules = _PROGRAMS[name]
    path = Path(sys.executable).with_name(name)
    if not os.access(path, os.X_OK):
        raise _missing(name, f"is not installed beside {sys.executable}", extra)
    for wanted, needed in ((extra, modules), ("records", _RECORDS if records else ())):
        if missing := [each for each in needed if importlib.util.find_spec(each) is None]:
            raise _missing(name, f"needs {', '.join(missing)}", wanted)
    return str(path)


def _missing(name: str, what: str, extra: str) -> MissingProgramError:
    return MissingProgramError(f"{name} {what}: pip install 'neurogate[{extra}]'")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As servers do: a connection that has just ended does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Child:
    """A running command in a session of its own, so that Ctrl-C reaches it only through its supervisor.

    With `on_line` its output is read, passed on and its end kept; without, it writes where its parent
    writes, so that its progress bars stay bars.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on_line: Callable[[str, str], None] | None,
        env: Mapping[str, str],
    ) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._on_line = on_line
        captured = on_line is not None
        self._popen = subprocess.Popen(  # noqa: S603 - programs of this distribution, no shell
            [sys.executable, "-I", "-S", str(_EXEC_WITH_PARENT), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if captured else None,
            stderr=subprocess.STDOUT if captured else None,
            text=True,
            errors="replace",
            start_new_session=True,
            env={"PYTHONUNBUFFERED": "1", **env, **os.environ},
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        if captured:
            self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def stop(self, number: int, seconds: float, hurry: threading.Event) -> bool:
        """Sends a signal, waits, and kills what is left after `seconds` or when `hurry` is set; was it so?"""
        killed = False
        if self.status() is None:
            self._popen.send_signal(number)
            end = time.monotonic() + seconds
            while self.status() is None and time.monotonic() < end and not hurry.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(_POLL_SECONDS)
            if self.status() is None:
                # The whole session: its helpers have no other parent.
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._popen.wait()
        self.drain()
        return killed

    def drain(self) -> None:
        """Waits for the last lines of a child that has ended."""
        if self._reader.ident is not None:
            # A helper that outlives the child may hold the pipe open.
            self._reader.join(2)

    def describe_end(self) -> str:
        """How it ended, for people."""
        status = self.status()
        if status is None:
            return f"{self.name} is running"
        if status < 0:
            return f"{self.name} was killed by {signal.Signals(-status).name}"
        return f"{self.name} ended with exit status {status}"

    def _read(self) -> None:
        stream = self._popen.stdout
        if stream is None or self._on_line is None:
            return
        with stream:
            for line in stream:
                self.tail.append(line.rstrip("\n"))
                self._on_line(self.name, self.tail[-1])


class Supervisor:
    """Starts children and ends all of them when its block ends, the last one first, however it ends.

    In the block SIGINT, SIGTERM and SIGHUP raise `Interrupted`. While children are stopped, another one
    kills them at once. For the main thread, whose death the children do not survive.

    Args:
        grace: seconds for each child to end by itself after its signal.
        env: environment variables of the children that this process's own override.
    """

    def __init__(self, *, grace: float = 40.0, env: Mapping[str, str] | None = None) -> None:
        self._grace = grace
        self._env = dict(env or {})
        self._children: list[tuple[Child, int]] = []
        self._previous: list[tuple[int, object]] = []
        self._starting = False
        self._pending: int | None = None
        self._stopping = False
        self._hurry = threading.Event()
        self._killed = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """A folder for what children need while they run; removed after they have ended."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="neurogate-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    @property
    def hurried(self) -> bool:
        """Whether children were killed, because another signal came while they were stopped."""
        return self._killed and self._hurry.is_set()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._previous.append((number, signal.signal(number, self._on_signal)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        try:
            for child, number in reversed(self._children):
                self._killed |= child.stop(number, self._grace, self._hurry)
        finally:
            if self._folder is not None:
                self._folder.cleanup()
            for number, handler in self._previous:
                signal.signal(number, handler)  # type: ignore[arg-type]

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        on_line: Callable[[str, str], None] | None = None,
        stop_signal: int = signal.SIGTERM,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Starts a command that this supervisor ends with `stop_signal`.

        Args:
            name: What it is called in messages.
            command: The program and its arguments.
            on_line: Takes the name and each line of output; None lets it write where this process writes.
            stop_signal: What asks it to end.
            env: More environment variables, as in the constructor.
        """
        # A signal between the start and the list would leave a child running.
        self._starting = True
        try:
            child = Child(name, command, on_line, {**self._env, **(env or {})})
            self._children.append((child, stop_signal))
        finally:
            self._starting = False
        if self._pending is not None:
            raise Interrupted(self._pending)
        return child

    def run(
        self, name: str, command: Sequence[str], *, on_line: Callable[[str, str], None] | None = None
    ) -> None:
        """Runs a command to its end, with `on_line` as in `start`.

        Raises:
            ChildFailedError: its exit status is not 0.
        """
        child = self.start(name, command, on_line=on_line, stop_signal=signal.SIGINT)
        while child.status() is None:
            time.sleep(_POLL_SECONDS)
        self._children.pop()
        child.drain()
        if child.status() != 0:
            raise ChildFailedError(child, child.describe_end())

    def check(self) -> None:
        """Does nothing while all servers run.

        Raises:
            ChildFailedError: one has ended.
        """
        for child, _ in self._children:
            if child.status() is not None:
                child.drain()
                raise ChildFailedError(child, child.describe_end())

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Returns as soon as `ready` says so.

        Raises:
            ChildFailedError: a child has ended meanwhile.
            TimeoutError: `what` did not happen in `seconds`.
        """
        end = time.monotonic() + seconds
        while True:
            self.check()
            if ready():
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{what} did not happen within {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self._hurry.set()
        elif self._starting:
            self._pending = number
        else:
            raise Interrupted(number)
