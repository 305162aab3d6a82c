"""Loads and unloads versions until what is served is what the source wants.

One thread takes one decision after the other, by TensorFlow Serving's AvailabilityPreservingPolicy. With no
load threads, as is the default, it loads as well, and nothing else is looked at meanwhile.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from .background import return_memory
from .errors import ServingError, not_found
from .flags import Flags
from .servable import Servable, check_folder
from .states import State, StateMonitor, StoppedError, VersionId

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1


class Phase(enum.Enum):
    """How far the manager has come with a version."""

    NEW = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    UNLOADING = enum.auto()
    UNLOADED = enum.auto()
    FAILED = enum.auto()


@dataclass(eq=False)
class LoaderHarness:
    """One version under management.

    Attributes:
        id: The version.
        path: Its folder.
        phase: How far it is.
        aspired: Whether the source wants it.
        servable: Where it is loaded.
        error: Why it could not be loaded.
    """

    id: VersionId
    path: Path
    phase: Phase = Phase.NEW
    aspired: bool = True
    servable: Servable | None = None
    error: ServingError | None = None


def next_action(versions: Iterable[LoaderHarness]) -> tuple[LoaderHarness, bool] | None:
    """The version of a model to load (True) or unload (False) next; None if all is as it should be.

    A version that is no longer wanted goes when a wanted one is ready, when none is wanted, or when another
    unwanted one still serves; so the last one that serves stays until its successor is ready. Unloading comes
    before loading, the newest version is loaded first.
    """
    known = sorted(versions, key=lambda harness: harness.id.version)
    aspired = [harness for harness in known if harness.aspired]
    unwanted = [harness for harness in known if not harness.aspired and harness.phase is Phase.READY]
    ready = any(harness.phase is Phase.READY for harness in aspired)
    if unwanted and (not aspired or ready or len(unwanted) > 1):
        return unwanted[0], False
    new = [harness for harness in aspired if harness.phase is Phase.NEW]
    return (new[-1], True) if new else None


class _Map:
    """One immutable map and the number of requests that hold it."""

    def __init__(self, servables: Mapping[VersionId, Servable]) -> None:
        self.servables = servables
        self.latest: dict[str, int] = {}
        for version in servables:
            self.latest[version.name] = max(version.version, self.latest.get(version.name, version.version))
        self.holders = 0
        self.retired = False


class ServingMap:
    """Which versions answer requests; thread-safe.

    It is swapped as a whole, and the swap ends once every request on the old map is done. So clients notice
    nothing of a swap: a request holds the map that it was looked up in, and the version that it runs on stays
    loaded until it ends. As in the real server, a long request, on any model, holds the swap half done.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current = _Map({})
        self._stopped = False

    @contextlib.contextmanager
    def hold(self, name: str, version: int | None) -> Iterator[tuple[VersionId, Servable]]:
        """A version (None: the latest) that stays loaded while the block runs.

        Raises:
            ServingError: NOT_FOUND: it is not loaded.
        """
        with self._changed:
            held = self._current
            found = held.latest.get(name) if version is None else version
            key = None if found is None else VersionId(name, found)
            servable = None if key is None else held.servables.get(key)
            if key is None or servable is None:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {request}")
            held.holders += 1
        try:
            yield key, servable
        finally:
            with self._changed:
                held.holders -= 1
                if held.retired and not held.holders:
                    self._changed.notify_all()

    def update(self, servables: Mapping[VersionId, Servable]) -> None:
        """Answers from these servables from now on, and waits until no request holds the old ones.

        Raises:
            StoppedError: The server is stopping; the new map is in force.
        """
        with self._changed:
            old, self._current = self._current, _Map(dict(servables))
            old.retired = True
            self._changed.wait_for(lambda: not old.holders or self._stopped)
            if self._stopped and old.holders:
                raise StoppedError

    def stop(self) -> None:
        """Lets `update` wait no longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Manager:
    """Keeps the served versions in line with the aspired ones; thread-safe.

    Args:
        load: Loads the version in a folder; raises `ServingError`.
        serving_map: Where versions that are ready go.
        monitor: Hears of every change of state.
        flags: How versions are loaded.
    """

    def __init__(
        self,
        load: Callable[[VersionId, Path], Servable],
        serving_map: ServingMap,
        monitor: StateMonitor,
        flags: Flags,
    ) -> None:
        self._load = load
        self._serving_map = serving_map
        self._monitor = monitor
        self._flags = flags
        # Held while the serving map waits for requests to end, so that no other decision is taken meanwhile.
        self._lock = threading.RLock()
        self._managed: dict[str, dict[int, LoaderHarness]] = {}
        self._wake = threading.Condition()
        self._pending: dict[str, list[tuple[int, Path]]] = {}
        self._stopping = threading.Event()
        self._load_executor = _executor(flags.num_load_threads, "load")
        self._unload_executor = _executor(flags.num_unload_threads, "unload")
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self, initial_load_threads: int) -> None:
        """Starts managing; until `end_initial_load` versions are loaded by so many threads at once."""
        self._load_executor = _executor(initial_load_threads, "initial-load")
        self._thread.start()

    def end_initial_load(self) -> None:
        """Waits until no load is under way or due, and goes on with the usual number of threads."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping.is_set() or not self._is_loading())
        with self._lock:
            initial = self._load_executor
            self._load_executor = _executor(self._flags.num_load_threads, "load")
        if initial is not None:
            initial.shutdown(wait=False)

    def _is_loading(self) -> bool:
        # Without the lock, which a load may hold for long. Every end of a load wakes who waits for this.
        return any(
            harness.phase is Phase.LOADING or (harness.phase is Phase.NEW and harness.aspired)
            for versions in list(self._managed.values())
            for harness in list(versions.values())
        )

    def aspire(self, name: str, versions: Sequence[tuple[int, Path]]) -> None:
        """Sets the wanted versions of a model; replaces an earlier call that was not looked at yet."""
        with self._wake:
            self._pending[name] = list(versions)
            self._wake.notify_all()

    def stop(self) -> None:
        """Stops managing; versions that are loaded go on answering. Loads under way are not waited for."""
        self._stopping.set()
        self._serving_map.stop()
        self._monitor.stop()
        with self._wake:
            self._wake.notify_all()
        for executor in (self._load_executor, self._unload_executor):
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=1)

    # --- decisions ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                while self._step() and not self._stopping.is_set():
                    pass
            except StoppedError:
                return
            except Exception:  # noqa: BLE001  (without this thread nothing is loaded any more)
                # What is shut down beside a decision may fail it.
                if self._stopping.is_set():
                    return
                _log.exception("a decision about versions failed unexpectedly")
            with self._wake:
                if not self._stopping.is_set():
                    self._wake.wait(_TICK_SECONDS)

    def _step(self) -> bool:
        """One decision. Returns whether there may be another one to take at once."""
        with self._lock:
            self._forget_unwanted()
            self._handle_pending()
            action = self._next_action()
            if action is None:
                return False
            harness, load = action
            harness.phase = Phase.LOADING if load else Phase.UNLOADING
            execute = self._execute_load if load else self._execute_unload
            executor = self._load_executor if load else self._unload_executor
            if executor is not None:
                # With the lock: `end_initial_load` shuts an executor down once another one is in its place.
                executor.submit(execute, harness)
                return True
        execute(harness)
        return True

    def _forget_unwanted(self) -> None:
        # Versions that failed stay: their number is never tried again, whatever becomes of the folder.
        for name, versions in list(self._managed.items()):
            for number, harness in list(versions.items()):
                if not harness.aspired and harness.phase in (Phase.NEW, Phase.UNLOADED):
                    del versions[number]
            if not versions:
                del self._managed[name]

    def _handle_pending(self) -> None:
        with self._wake:
            for name, wanted in list(self._pending.items()):
                managed = self._managed.setdefault(name, {})
                numbers = {number for number, _ in wanted}
                if any(
                    not harness.aspired and harness.phase is not Phase.FAILED
                    for harness in managed.values()
                    if harness.id.version in numbers
                ):
                    # A version that is wanted again must first be gone; until then the request waits.
                    continue
                del self._pending[name]
                for harness in managed.values():
                    harness.aspired = harness.id.version in numbers
                for number, path in wanted:
                    if number not in managed:
                        managed[number] = LoaderHarness(VersionId(name, number), path)
                        self._monitor.publish(managed[number].id, State.START)
                    elif managed[number].phase is Phase.READY:
                        # Said again for whoever waits: the model may have been removed and added while this
                        # thread was busy, and then nothing has changed.
                        self._monitor.publish(managed[number].id, State.AVAILABLE)
                if all(managed[number].phase is Phase.FAILED for number in numbers):
                    # For the same reason: nothing of the model will be tried any more.
                    for number in numbers:
                        self._monitor.publish(managed[number].id, State.END, managed[number].error)

    def _next_action(self) -> tuple[LoaderHarness, bool] | None:
        actions = map(next_action, (versions.values() for versions in self._managed.values()))
        # Unloading comes before loading.
        return min(filter(None, actions), key=lambda action: action[1], default=None)

    # --- execution ---------------------------------------------------------------------------

    def _execute_load(self, harness: LoaderHarness) -> None:
        try:
            check_folder(harness.id, harness.path)
            self._monitor.publish(harness.id, State.LOADING)
            servable = self._load_with_retries(harness)
            with self._lock:
                harness.servable = servable
                harness.phase = Phase.READY
                self._update_serving_map()
                self._monitor.publish(harness.id, State.AVAILABLE)
            _log.info("servable %s is available", harness.id)
        except StoppedError:
            return
        except ServingError as error:
            _log.error("servable %s cannot be loaded: %s", harness.id, error)
            self._fail(harness, error)
        except Exception as error:  # noqa: BLE001  (a broken model must not take the manager with it)
            _log.exception("load of servable %s failed unexpectedly", harness.id)
            self._fail(harness, ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            return_memory()
        self._nudge()

    def _fail(self, harness: LoaderHarness, error: ServingError) -> None:
        with self._lock:
            harness.phase, harness.error = Phase.FAILED, error
        self._monitor.publish(harness.id, State.END, error)

    def _load_with_retries(self, harness: LoaderHarness) -> Servable:
        retries = max(0, self._flags.max_num_load_retries)
        interval = max(0.0, self._flags.load_retry_interval_micros / 1e6)
        for attempt in range(1, retries + 1):
            try:
                return self._load(harness.id, harness.path)
            except ServingError as error:
                if not harness.aspired:
                    raise
                _log.warning(
                    "load of servable %s failed, retry %d of %d in %g s: %s",
                    harness.id,
                    attempt,
                    retries,
                    interval,
                    error,
                )
            if self._stopping.wait(interval):
                raise StoppedError
        return self._load(harness.id, harness.path)

    def _execute_unload(self, harness: LoaderHarness) -> None:
        try:
            with self._lock:
                self._monitor.publish(harness.id, State.UNLOADING)
                self._update_serving_map()
            # No request holds the version any more, so it has ended for everyone; to free it may take time.
            self._monitor.publish(harness.id, State.END)
            with self._lock:
                servable, harness.servable = harness.servable, None
                harness.phase = Phase.UNLOADED
            if servable is not None:
                servable.close()
                del servable
                return_memory()
            _log.info("servable %s is unloaded", harness.id)
        except StoppedError:
            return
        except Exception:  # noqa: BLE001  (what cannot be freed must not take the manager with it)
            _log.exception("unload of servable %s failed unexpectedly", harness.id)
        self._nudge()

    def _update_serving_map(self) -> None:
        self._serving_map.update({
            harness.id: harness.servable
            for versions in self._managed.values()
            for harness in versions.values()
            if harness.phase is Phase.READY and harness.servable is not None
        })  # fmt: skip

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify_all()


def _executor(threads: int, name: str) -> ThreadPoolExecutor | None:
    return ThreadPoolExecutor(threads, thread_name_prefix=name) if threads > 0 else None
