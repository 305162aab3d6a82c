from __future__ import annotations

import contextlib
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
from neurogate_model_server.manager import LoaderHarness, Phase, ServingMap, next_action
from neurogate_model_server.states import State, StoppedError, VersionId
from neurogate_testing.core_harness import FakeVersion, Harness, core_harnesses
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    with core_harnesses(tmp_path) as make:
        yield make


def test_a_load_is_tried_again_as_often_as_set(harness: Callable[..., Harness]) -> None:
    it = harness(max_num_load_retries=2)
    it.add("m/1")
    it.loader.failures[1] = 2
    it.serve("m")
    assert it.answers() == 1
    assert len(it.loader.attempts) == 3


def test_stopping_ends_every_wait(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m")
    seen: list[type[Exception]] = []

    def serve() -> None:
        try:
            it.serve("m")
        except StoppedError as error:
            seen.append(type(error))

    starter = threading.Thread(target=serve)
    starter.start()
    it.core.stop()
    starter.join(10)
    assert seen == [StoppedError]


def test_labels_at_startup_need_leave(harness: Callable[..., Harness]) -> None:
    strict = harness()
    strict.add("m/1")
    with pytest.raises(ServingError, match="not currently available for inference"):
        strict.serve("m", labels={"stable": 1})
    lax = harness(allow_version_labels_for_unavailable_models=True)
    lax.serve("m", labels={"stable": 1, "next": 9})
    assert lax.answers(label="stable") == 1
    with pytest.raises(ServingError, match=r"Specific\(m, 9\)"):
        lax.answers(label="next")
    # Only a label that is new may point anywhere.
    with pytest.raises(ServingError, match="assign label to version 8"):
        lax.serve("m", labels={"next": 8})


def test_a_model_removed_and_added_while_the_manager_is_busy_is_not_waited_for_in_vain(
    harness: Callable[..., Harness],
) -> None:
    it = harness()
    it.add("m/1", "n/5")
    it.serve("m", "n")
    with ThreadPoolExecutor() as pool:
        with it.core.hold(model_pb2.ModelSpec(name="m")):
            it.serve("m")
            # The unloading of n waits for the request, and so does whatever is asked of the manager now.
            it.wait_for(lambda: it.states("n") == {5: State.UNLOADING})
            it.serve()
            reload = pool.submit(it.serve, "m", "n")
            wake, pending = it.core._manager._wake, it.core._manager._pending
            with wake:
                # The removal of m was never looked at.
                assert wake.wait_for(lambda: pending.get("m"), timeout=10)
        # It may have met n between its two lives, which the real server reports, too.
        with contextlib.suppress(ServingError):
            reload.result(10)
    it.wait_for(lambda: (it.states(), it.states("n")) == ({1: State.AVAILABLE}, {5: State.AVAILABLE}))


def test_a_model_that_cannot_be_loaded_is_not_waited_for_when_it_is_added_again(
    harness: Callable[..., Harness],
) -> None:
    it = harness()
    it.add("m/1", "q/6")
    it.serve("m")
    it.loader.failures[6] = 1
    pool = ThreadPoolExecutor()
    for _ in range(2):
        with pytest.raises(ServingError, match=r"name: q version: 6\} due to error: NOT_FOUND"):
            pool.submit(it.serve, "m", "q").result(10)
        it.serve("m")
    # The number is tried no more, and the next one is.
    it.add("q/7")
    it.serve("m", "q")
    assert it.answers("q") == 7
    assert it.loader.attempts.count("{name: q version: 6}") == 1


def test_only_lists_of_models_are_configurations(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.core.reload(config_pb2.ModelServerConfig())
    it.serve()
    with pytest.raises(ServingError, match="Cannot transition to requested config"):
        it.core.reload(config_pb2.ModelServerConfig())
    custom = config_pb2.ModelServerConfig()
    custom.custom_model_config.SetInParent()
    with pytest.raises(ServingError, match="Cannot transition to requested config"):
        it.core.reload(custom)


# --- what must not keep it from loading and unloading ----------------------------------------


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


@pytest.mark.parametrize("broken", ["check_folder", "_load"])
def test_an_unexpected_failure_stays_with_its_version(
    harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")

    def explode(*_: Any) -> None:
        raise ZeroDivisionError("what a model")

    with monkeypatch.context() as patch:
        patch.setattr(manager_module if broken == "check_folder" else it.core._manager, broken, explode)
        it.add("m/2")
        it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    assert _error(it, 2) == "INTERNAL: ZeroDivisionError: what a model"
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


# --- parts -----------------------------------------------------------------------------------


def test_a_map_is_retired_when_the_last_request_lets_go() -> None:
    serving_map = ServingMap()
    one, two = VersionId("m", 1), VersionId("m", 2)
    serving_map.update({one: FakeVersion(Path("1"))})
    updated = threading.Event()

    def update() -> None:
        serving_map.update({two: FakeVersion(Path("2"))})
        updated.set()

    with serving_map.hold("m", None) as (held, _):
        assert held == one
        updater = threading.Thread(target=update)
        updater.start()
        assert not updated.wait(0.05)
    updater.join(10)
    assert updated.is_set()


def test_a_stopping_map_waits_for_nobody() -> None:
    serving_map = ServingMap()
    serving_map.update({VersionId("m", 1): FakeVersion(Path("1"))})
    with serving_map.hold("m", 1):
        serving_map.stop()
        with pytest.raises(StoppedError):
            serving_map.update({})


NEW, LOADING, READY, FAILED = Phase.NEW, Phase.LOADING, Phase.READY, Phase.FAILED
UNLOADING = Phase.UNLOADING


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param([], None, id="nothing known"),
        pytest.param([(1, NEW, True)], (1, True), id="first version"),
        pytest.param([(1, NEW, True), (3, NEW, True), (2, NEW, True)], (3, True), id="newest first"),
        pytest.param([(1, READY, True)], None, id="all well"),
        pytest.param([(1, READY, False), (2, NEW, True)], (2, True), id="load before unload"),
        pytest.param([(1, READY, False), (2, LOADING, True)], None, id="old one stays while new one loads"),
        pytest.param([(1, READY, False), (2, READY, True)], (1, False), id="then it goes"),
        pytest.param([(1, READY, False), (2, FAILED, True)], None, id="old one stays when new one fails"),
        pytest.param(
            [(1, READY, False), (2, READY, False), (3, NEW, True)],
            (1, False),
            id="one old one is enough",
        ),
        pytest.param([(1, READY, False), (2, READY, False)], (1, False), id="none wanted"),
        pytest.param([(1, READY, False)], (1, False), id="last unwanted one"),
        pytest.param([(1, UNLOADING, False), (2, READY, True)], None, id="already going"),
        pytest.param([(1, NEW, False)], None, id="never loaded, not wanted"),
    ],
)
def test_the_next_step_keeps_a_model_available(
    versions: list[tuple[int, Phase, bool]], expected: tuple[int, bool] | None
) -> None:
    harnesses = [
        LoaderHarness(VersionId("m", number), Path(), phase, aspired) for number, phase, aspired in versions
    ]
    action = next_action(harnesses)
    assert (action and (action[0].id.version, action[1])) == expected
