from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from neurogate_cli.local_stack import processes
from neurogate_cli.local_stack.processes import ChildFailedError, Interrupted, Supervisor
from neurogate_testing.processes import running


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


OBEDIENT = python(
    """
    import signal, sys, time
    def stop(*_):
        print("bye", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    print("up", flush=True)
    time.sleep(60)
    """
)
STUBBORN = python(
    """
    import signal, time
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    print("up", flush=True)
    time.sleep(60)
    """
)


class Lines:
    """Output of children, to be waited for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def __call__(self, name: str, line: str) -> None:
        with self._changed:
            self.seen.append((name, line))
            self._changed.notify_all()

    def wait_for(self, name: str, line: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (name, line) in self.seen, 20), self.seen


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid)


def test_children_are_stopped_last_first() -> None:
    lines = Lines()
    with Supervisor() as supervisor:
        for name in ("first", "second"):
            supervisor.start(name, OBEDIENT, on_line=lines)
            lines.wait_for(name, "up")
        supervisor.check()
    assert lines.seen[2:] == [("second", "bye"), ("first", "bye")]


def test_a_child_that_ignores_its_signal_is_killed() -> None:
    lines = Lines()
    with Supervisor(grace=0.2) as supervisor:
        child = supervisor.start("stubborn", STUBBORN, on_line=lines)
        lines.wait_for("stubborn", "up")
    assert child.status() == -signal.SIGKILL
    assert child.describe_end() == "stubborn was killed by SIGKILL"


def test_a_second_signal_kills_at_once() -> None:
    lines = Lines()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    supervisor = Supervisor(grace=60)

    def interrupted() -> None:
        with supervisor:
            children.append(supervisor.start("stubborn", STUBBORN, on_line=lines))
            lines.wait_for("stubborn", "up")
            timer.start()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    children: list[processes.Child] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        interrupted()
    timer.join()
    assert children[0].status() == -signal.SIGKILL
    assert supervisor.hurried


def test_signal_handlers_are_given_back() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Supervisor():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_child_that_ends_by_itself_is_noticed_with_its_last_lines() -> None:
    with Supervisor() as supervisor:
        supervisor.start(
            "brief", python("import sys; [print(n) for n in range(99)]; sys.exit(3)"), on_line=lambda *_: None
        )
        with pytest.raises(ChildFailedError, match="brief ended with exit status 3") as caught:
            supervisor.wait_until(lambda: False, 20, "nothing")
    assert list(caught.value.child.tail) == [str(n) for n in range(69, 99)]


def test_waiting_has_an_end() -> None:
    with (
        Supervisor() as supervisor,
        pytest.raises(TimeoutError, match=r"the moon did not happen within 0\.2 s"),
    ):
        supervisor.wait_until(lambda: False, 0.2, "the moon")


def test_running_to_the_end_passes_output_through(capfd: pytest.CaptureFixture[str]) -> None:
    with Supervisor(env={"NEUROGATE_TEST_WORD": "hello", "HOME": "/elsewhere"}) as supervisor:
        supervisor.run(
            "talk", python("import os; print(os.environ['NEUROGATE_TEST_WORD'], os.environ['HOME'])")
        )
        supervisor.check()
        with pytest.raises(ChildFailedError, match="fail ended with exit status 7"):
            supervisor.run("fail", python("raise SystemExit(7)"))
    assert capfd.readouterr().out == f"hello {os.environ['HOME']}\n"


def test_a_program_that_does_not_exist(capfd: pytest.CaptureFixture[str]) -> None:
    with Supervisor() as supervisor, pytest.raises(ChildFailedError, match="ghost ended with exit status 1"):
        supervisor.run("ghost", ["/no/such/program"])
    assert "FileNotFoundError" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
        import sys, time
        from neurogate_cli.local_stack.processes import Supervisor
        with Supervisor() as supervisor:
            command = [sys.executable, "-c", {STUBBORN[2]!r}]
            child = supervisor.start("child", command, on_line=lambda *a: print(*a, flush=True))
            print("pid", child.pid, flush=True)
            time.sleep(60)
    """
    with running(python(code)) as parent:
        pid = int(parent.wait_for(r"pid (\d+)").group(1))
        parent.wait_for("child up")
        parent.stop(signal.SIGKILL)
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    script = Path(processes.__file__).with_name("_exec_with_parent.py")
    stranger = subprocess.run(
        [sys.executable, str(script), "1", "/bin/echo", "hi"], capture_output=True, check=False
    )
    assert (stranger.returncode, stranger.stdout) == (1, b"")


def test_programs_are_found_beside_python_or_named_with_their_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(processes.MissingProgramError, match=r"neurogate-gateway is not .*\[gateway\]"):
        processes.program("neurogate-gateway")
    (tmp_path / "neurogate-gateway").touch(mode=0o755)
    assert processes.program("neurogate-gateway") == str(tmp_path / "neurogate-gateway")
    (tmp_path / "neurogate-model-server").touch(mode=0o755)
    found = processes.importlib.util.find_spec
    missing = {"sqlalchemy", "alembic", "tensorflow", "tensorflow_serving"}
    monkeypatch.setattr(
        processes.importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )
    with pytest.raises(
        processes.MissingProgramError,
        match=r"neurogate-gateway needs sqlalchemy, alembic: pip install 'neurogate\[records\]'",
    ):
        processes.program("neurogate-gateway", records=True)
    with pytest.raises(
        processes.MissingProgramError,
        match=r"neurogate-model-server needs tensorflow, tensorflow_serving: .*\[serving\]",
    ):
        processes.program("neurogate-model-server")


def test_ports() -> None:
    port = processes.free_port()
    assert processes.port_is_free(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not processes.port_is_free(port)
