"""Starts model servers: the embedded one, forked from a process that has imported it, or a real one.

TensorFlow's import takes seconds. A fork server pays for it once, so that every server is still a process of
its own, with its own flags, port and exit status.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from neurogate_testing.processes import free_port, model_server_binary, model_server_flags

_SIGNS_OF_A_POLL = ("no versions of servable", "could not find base path", "loading servable")
_FORK_SERVER = multiprocessing.get_context("forkserver")


class ServerProcess(Protocol):
    """A started model server; what it prints goes into `log`."""

    address: str
    log: Path

    @property
    def pid(self) -> int:
        """The process."""

    def exit_status(self) -> int | None:
        """Its exit status, None while it runs."""

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""

    def wait_until_watching(self) -> None:
        """Waits until it has looked for versions once, as far as that can be known."""

    def kill(self) -> None:
        """Ends it as `kill -9` does."""

    def stop(self) -> None:
        """Ends it and waits."""


class EmbeddedServer:
    """The embedded model server in a process of its own."""

    def __init__(self, flags: Sequence[str], folder: Path, *, port: int = 0) -> None:
        port = port or free_port()
        self.address = f"127.0.0.1:{port}"
        self.log = folder / "server.log"
        _FORK_SERVER.set_forkserver_preload(["neurogate_testing.serving_preload"])
        self._process: ForkServerProcess = _FORK_SERVER.Process(
            target=_run_embedded, args=([f"--port={port}", *flags], str(folder), str(self.log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def exit_status(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_until_watching(self) -> None:
        end = time.monotonic() + 60
        log = ""
        while self.exit_status() is None and not any(sign in log for sign in _SIGNS_OF_A_POLL):
            assert time.monotonic() < end, log
            log = self.log.read_text() if self.log.exists() else ""
            time.sleep(0.02)

    def wait_for_exit(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def stop(self) -> None:
        if self._process.exitcode is None:
            self._process.terminate()
            self._process.join(15)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _run_embedded(flags: list[str], folder: str, log: str) -> None:
    from neurogate_model_server.main import main

    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main(flags)


class BinaryServer:
    """A model server that is a program, such as a real `tensorflow_model_server`."""

    def __init__(self, binary: str, flags: Sequence[str], folder: Path, *, port: int = 0) -> None:
        port = port or free_port()
        self.address = f"127.0.0.1:{port}"
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, f"--port={port}", *flags],
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def exit_status(self) -> int | None:
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_until_watching(self) -> None:
        """Nothing is known of its log; it starts in well under a second."""

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(8)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def is_open(address: str) -> bool:
    """Whether something accepts connections there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


def wait_until_open(server: ServerProcess, seconds: float = 90) -> bool:
    """Waits until the server accepts connections; False if it ended or takes too long."""
    end = time.monotonic() + seconds
    while not is_open(server.address):
        if time.monotonic() > end or server.exit_status() is not None:
            return False
        time.sleep(0.02)
    return True


def start_model_server(flags: Sequence[str], folder: Path, *, port: int = 0) -> ServerProcess:
    """Starts the model server that is under test, the embedded one where nothing else is said.

    Args:
        flags: All but its port.
        folder: Where it runs and where its log is.
        port: On 127.0.0.1; 0: a free one.
    """
    binary = model_server_binary()
    if binary is not None:
        return BinaryServer(binary, flags, folder, port=port)
    return EmbeddedServer(flags, folder, port=port)


@contextlib.contextmanager
def running_model_server(flags: Sequence[str], folder: Path) -> Iterator[ServerProcess]:
    """A model server that accepts calls, stopped when the block ends."""
    server = start_model_server([*flags, *model_server_flags()], folder)
    try:
        assert wait_until_open(server), server.log.read_text()
        yield server
    finally:
        server.stop()
