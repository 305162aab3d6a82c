from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from neurogate_model_server.errors import ServingError
from neurogate_model_server.serving_map import ServingMap
from neurogate_model_server.states import State, StateBus, StateMonitor, StoppedError, VersionId
from neurogate_testing.core_harness import FakeVersion, Harness, core_harnesses
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    with core_harnesses(tmp_path) as make:
        yield make


def test_a_new_version_takes_over_only_when_it_is_ready(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")
    assert it.answers() == 1
    it.loader.gates[2] = threading.Event()
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.LOADING, 1: State.AVAILABLE})
    assert it.answers() == 1
    it.loader.gates[2].set()
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})
    assert it.answers() == 2
    assert it.loader.loaded[VersionId("m", 1)].closed.wait(10)
    with pytest.raises(ServingError, match=r"Specific\(m, 1\)"):
        it.answers(version=1)


def test_a_request_keeps_its_version_loaded_until_it_ends(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")
    with it.core.hold(model_pb2.ModelSpec(name="m")):
        it.add("m/2")
        # The swap is half done: new requests already run on version 2, and the state lags behind.
        it.wait_for(lambda: it.states() == {2: State.LOADING, 1: State.AVAILABLE} and it.answers() == 2)
        assert it.answers(version=1) == 1
        assert not it.loader.loaded[VersionId("m", 1)].closed.is_set()
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})


def test_a_broken_version_leaves_the_good_one_alone_and_is_not_tried_again(
    harness: Callable[..., Harness],
) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")
    it.loader.failures[2] = 1
    it.add("m/2")
    it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    state = it.core.monitor.state(VersionId("m", 2))
    assert state is not None
    assert str(state.error) == "NOT_FOUND: broken: 2"
    assert it.answers() == 1
    it.add("m/3")
    it.wait_for(lambda: it.states() == {3: State.AVAILABLE, 2: State.END, 1: State.END})
    assert it.loader.attempts.count("{name: m version: 2}") == 1


def test_a_load_is_tried_again_as_often_as_set(harness: Callable[..., Harness]) -> None:
    it = harness(max_num_load_retries=2)
    it.add("m/1")
    it.loader.failures[1] = 2
    it.serve("m")
    assert it.answers() == 1
    assert len(it.loader.attempts) == 3


def test_startup_fails_when_a_model_does_not_load(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1")
    it.loader.failures[1] = 1
    with pytest.raises(
        ServingError, match=r"Some models did not become available: \{\{name: m version: 1\}, \}"
    ):
        it.serve("m")


def test_startup_waits_for_a_version(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m")
    starter = threading.Thread(target=it.serve, args=["m"])
    starter.start()
    it.add("m/1")
    starter.join(10)
    assert it.answers() == 1


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


def test_a_removed_version_that_comes_back_is_loaded_again(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1", "m/2")
    it.serve("m")
    (tmp := it.root / "m/2").rmdir()
    it.wait_for(lambda: it.states() == {2: State.END, 1: State.AVAILABLE})
    tmp.mkdir()
    it.wait_for(lambda: it.states() == {2: State.AVAILABLE, 1: State.END})


def test_a_plain_file_is_a_version_that_cannot_load(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1")
    it.serve("m")
    (it.root / "m/7").write_text("not a folder")
    it.wait_for(lambda: it.states().get(7) is State.END)
    state = it.core.monitor.state(VersionId("m", 7))
    assert state is not None
    assert state.error is not None
    assert state.error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert state.error.message.endswith("m/7; Not a directory")


def test_with_load_threads_a_slow_version_does_not_hold_up_another_model(
    harness: Callable[..., Harness],
) -> None:
    it = harness(num_load_threads=2)
    it.add("m/1", "n/1")
    it.serve("m", "n")
    it.loader.gates[2] = threading.Event()
    it.add("m/2")
    it.wait_for(lambda: it.states().get(2) is State.LOADING)
    it.add("n/3")
    it.wait_for(lambda: it.states("n") == {3: State.AVAILABLE, 1: State.END})
    assert it.states() == {2: State.LOADING, 1: State.AVAILABLE}


def test_policy_all_serves_every_version_and_takes_the_first_folder_of_a_number(
    harness: Callable[..., Harness],
) -> None:
    it = harness()
    it.add("m/007", "m/7", "m/1")
    it.serve("m", policy="all")
    assert it.states() == {7: State.AVAILABLE, 1: State.AVAILABLE}
    assert it.loader.loaded[VersionId("m", 7)].path.name == "007"


# --- labels ----------------------------------------------------------------------------------


def test_a_label_names_a_version_that_is_available(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1", "m/2")
    it.serve("m", policy="all")
    it.serve("m", policy="all", labels={"stable": 1})
    assert it.answers(label="stable") == 1
    with pytest.raises(ServingError, match="assign label to version 3 of model m, which is not currently"):
        it.serve("m", policy="all", labels={"stable": 3})
    assert it.answers(label="stable") == 1
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
        it.answers(label="canary")
    it.serve("m", policy="all")
    with pytest.raises(ServingError, match="Unrecognized servable version label: stable"):
        it.answers(label="stable")


def test_labels_at_startup_need_leave(harness: Callable[..., Harness]) -> None:
    strict = harness()
    strict.add("m/1")
    with pytest.raises(ServingError, match="not currently available for inference"):
        strict.serve("m", labels={"stable": 1})
    lax = harness(allow_labels=True)
    lax.serve("m", labels={"stable": 1, "next": 9})
    assert lax.answers(label="stable") == 1
    with pytest.raises(ServingError, match=r"Specific\(m, 9\)"):
        lax.answers(label="next")
    # Only a label that is new may point anywhere.
    with pytest.raises(ServingError, match="assign label to version 8"):
        lax.serve("m", labels={"next": 8})


# --- configuration ---------------------------------------------------------------------------


def test_a_reload_waits_for_new_models_and_reports_those_that_fail(harness: Callable[..., Harness]) -> None:
    it = harness()
    it.add("m/1", "n/5")
    it.serve("m")
    it.serve("m", "n")
    assert it.answers("n") == 5
    it.loader.failures[6] = 1
    it.add("q/6")
    with pytest.raises(
        ServingError,
        match=r"1 model\(s\) did not become available: \{\{\{name: q version: 6\} due to error: NOT_",
    ):
        it.serve("m", "n", "q")
    it.serve("m", "n", "q")
    it.serve("m")
    it.wait_for(lambda: it.states("n") == {5: State.END})
    assert it.answers() == 1


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


def test_a_monitor_sees_only_what_happens_after_it_subscribed() -> None:
    bus = StateBus()
    old = bus.subscribe()
    bus.publish(VersionId("m", 1), State.END)
    fresh = bus.subscribe()
    assert old.versions("m")
    assert not fresh.versions("m")
    bus.publish(VersionId("m", 2), State.AVAILABLE)
    assert list(fresh.wait_until_available(["m"])) == [VersionId("m", 2)]
    bus.unsubscribe(fresh)
    bus.publish(VersionId("m", 3), State.AVAILABLE)
    assert [number for number, _ in fresh.versions("m")] == [2]


def test_a_stopped_monitor_ends_waits() -> None:
    monitor = StateMonitor()
    monitor.stop()
    with pytest.raises(StoppedError):
        monitor.wait_until_available(["m"])
