"""What must not keep the manager from loading and unloading versions."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from neurogate_model_server import manager as manager_module
from neurogate_model_server.errors import ServingError
from neurogate_model_server.states import State, VersionId
from neurogate_testing.core_harness import Harness, core_harnesses


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    with core_harnesses(tmp_path) as make:
        yield make


def _break_folder(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    stat = Path.stat

    def look(path: Path, **options: Any) -> os.stat_result:
        if path == folder:
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", look)


def _error(it: Harness, version: int) -> str:
    state = it.core.monitor.state(VersionId("m", version))
    assert state is not None
    return str(state.error)


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, "PERMISSION_DENIED: {}; Permission denied"),
        (errno.ESTALE, "ABORTED: {}; Stale file handle"),
        (errno.EIO, "UNKNOWN: {}; Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_looked_at_is_a_version_that_cannot_load(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, threads: int, number: int, error: str
) -> None:
    it = harness(num_load_threads=threads)
    it.add("m/1")
    it.serve("m")
    _break_folder(monkeypatch, it.root / "m/2", number)
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    reserving = "Error while attempting to reserve resources to load servable {name: m version: 2}: "
    code, _, text = error.format(it.root / "m/2").partition(": ")
    assert _error(it, 2) == f"{code}: {reserving}{text}"
    it.add("m/3")
    it.wait_for(lambda: it.states() == {3: State.AVAILABLE, 2: State.END, 1: State.END})


def test_startup_ends_when_a_folder_cannot_be_looked_at(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = harness()
    it.add("m/1")
    _break_folder(monkeypatch, it.root / "m/1", errno.EIO)
    errors: list[str] = []

    def serve() -> None:
        try:
            it.serve("m")
        except ServingError as error:
            errors.append(str(error))

    starting = threading.Thread(target=serve, daemon=True)
    starting.start()
    starting.join(10)
    assert errors == ["UNKNOWN: Some models did not become available: {{name: m version: 1}, }"]


def test_an_unexpected_failure_of_the_loader_stays_with_its_version(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")

    def explode(*_: Any) -> None:
        raise ZeroDivisionError("what a model")

    monkeypatch.setattr(it.core._manager, "_load", explode)
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    assert _error(it, 2) == "INTERNAL: ZeroDivisionError: what a model"


def test_an_unexpected_failure_before_the_load_stays_with_its_version(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")

    def look(*_: Any) -> None:
        raise ZeroDivisionError("what a folder")

    with monkeypatch.context() as broken:
        broken.setattr(manager_module, "check_folder", look)
        it.add("m/2")
        it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    assert _error(it, 2) == "INTERNAL: ZeroDivisionError: what a folder"
    it.add("m/3")
    it.wait_for(lambda: it.states() == {3: State.AVAILABLE, 2: State.END, 1: State.END})


def test_a_decision_that_fails_is_taken_again(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")
    failed = threading.Event()
    decide = manager_module.next_action

    def decide_the_second_time(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("what a policy")
        return decide(*arguments)

    monkeypatch.setattr(manager_module, "next_action", decide_the_second_time)
    assert failed.wait(10)
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})


@pytest.mark.parametrize("threads", [0, 1])
def test_a_version_that_cannot_be_freed_does_not_keep_others(
    harness: Callable[..., Harness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int,
) -> None:
    it = harness(num_unload_threads=threads)
    it.add("m/1")
    it.serve("m")

    def explode() -> None:
        raise ZeroDivisionError("what a session")

    monkeypatch.setattr(it.loader.loaded[VersionId("m", 1)], "close", explode)
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})
    it.add("m/3")
    it.wait_for(lambda: it.states() == {3: State.AVAILABLE, 2: State.END, 1: State.END})
    assert "unload of servable {name: m version: 1} failed unexpectedly" in caplog.text


class WatchedExecutor(ThreadPoolExecutor):
    """Notes whether a lock was free whenever work was handed over."""

    def __init__(self, lock: Any) -> None:
        super().__init__(1)
        self._lock = lock
        self.free: list[bool] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:  # type: ignore[override]
        with ThreadPoolExecutor(1) as other:
            self.free.append(other.submit(self._try_lock).result())
        return super().submit(work, *arguments)

    def _try_lock(self) -> bool:
        if not self._lock.acquire(blocking=False):
            return False
        self._lock.release()
        return True


def test_a_load_is_handed_over_before_its_threads_can_be_replaced(harness: Callable[..., Harness]) -> None:
    it = harness(num_load_threads=1)
    it.add("m/1")
    it.serve("m")
    manager = it.core._manager
    watched = WatchedExecutor(manager._lock)
    usual, manager._load_executor = manager._load_executor, watched
    assert usual is not None
    usual.shutdown()
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})
    assert watched.free == [False]
