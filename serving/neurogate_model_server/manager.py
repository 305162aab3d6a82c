"""Loads and unloads versions until what is served is what the source wants.

One thread takes one decision after the other (see `policy`). With no load threads, as is the default, it also
does the loading itself, so that nothing else is looked at meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from .background import return_memory
from .errors import ServingError
from .policy import Action, Phase, Snapshot, next_action
from .saved_file import check_folder
from .servable import Servable
from .serving_map import ServingMap
from .states import State, StateBus, StoppedError, VersionId

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are loaded.

    Attributes:
        num_load_threads: Threads that load; 0 loads in the manager's own thread.
        num_unload_threads: The same for unloading.
        max_num_load_retries: Further attempts after a failed load.
        load_retry_interval: Seconds between attempts.
    """

    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval: float = 60.0


class _Harness:
    """One version under management."""

    def __init__(self, version: VersionId, path: Path) -> None:
        self.id = version
        self.path = path
        self.phase = Phase.NEW
        self.aspired = True
        self.servable: Servable | None = None
        self.error: ServingError | None = None
        """Why it could not be loaded."""


class Manager:
    """Keeps the served versions in line with the aspired ones; thread-safe.

    Args:
        load: Loads the version in a folder; raises `ServingError`.
        serving_map: Where versions that are ready go.
        bus: Hears of every change of state.
        options: How versions are loaded.
    """

    def __init__(
        self,
        load: Callable[[VersionId, Path], Servable],
        serving_map: ServingMap,
        bus: StateBus,
        options: ManagerOptions,
    ) -> None:
        self._load = load
        self._serving_map = serving_map
        self._bus = bus
        self._options = options
        # Held while the serving map waits for requests to end, so that no other decision is taken meanwhile.
        self._lock = threading.RLock()
        self._managed: dict[str, dict[int, _Harness]] = {}
        self._wake = threading.Condition()
        self._pending: dict[str, list[tuple[int, Path]]] = {}
        self._stopping = threading.Event()
        self._load_executor = _executor(options.num_load_threads, "load")
        self._unload_executor = _executor(options.num_unload_threads, "unload")
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
            initial, self._load_executor = (
                self._load_executor,
                _executor(self._options.num_load_threads, "load"),
            )
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
        self._bus.stop()
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
            name, action = self._next_action()
            if action is None:
                return False
            harness = self._managed[name][action.version]
            harness.phase = Phase.LOADING if action.load else Phase.UNLOADING
            execute = self._execute_load if action.load else self._execute_unload
            executor = self._load_executor if action.load else self._unload_executor
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
                        managed[number] = _Harness(VersionId(name, number), path)
                        self._bus.publish(managed[number].id, State.START)
                    elif managed[number].phase is Phase.READY:
                        # Said again for whoever waits: the model may have been removed and added while this
                        # thread was busy, and then nothing has changed.
                        self._bus.publish(managed[number].id, State.AVAILABLE)
                if all(managed[number].phase is Phase.FAILED for number in numbers):
                    # For the same reason: nothing of the model will be tried any more.
                    for number in numbers:
                        self._bus.publish(managed[number].id, State.END, managed[number].error)

    def _next_action(self) -> tuple[str, Action | None]:
        first_load: tuple[str, Action | None] = ("", None)
        for name, versions in self._managed.items():
            action = next_action(Snapshot(h.id.version, h.phase, h.aspired) for h in versions.values())
            if action is not None and not action.load:
                return name, action
            if action is not None and first_load[1] is None:
                first_load = name, action
        return first_load

    # --- execution ---------------------------------------------------------------------------

    def _execute_load(self, harness: _Harness) -> None:
        try:
            self._load_and_publish(harness)
        finally:
            return_memory()

    def _load_and_publish(self, harness: _Harness) -> None:
        try:
            check_folder(harness.id, harness.path)
            self._bus.publish(harness.id, State.LOADING)
            servable = self._load_with_retries(harness)
            with self._lock:
                harness.servable = servable
                harness.phase = Phase.READY
                self._update_serving_map()
                self._bus.publish(harness.id, State.AVAILABLE)
            _log.info("servable %s is available", harness.id)
        except StoppedError:
            return
        except ServingError as error:
            _log.error("servable %s cannot be loaded: %s", harness.id, error)
            self._fail(harness, error)
        except Exception as error:  # noqa: BLE001  (a broken model must not take the manager with it)
            _log.exception("load of servable %s failed unexpectedly", harness.id)
            self._fail(harness, ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))
        self._nudge()

    def _fail(self, harness: _Harness, error: ServingError) -> None:
        with self._lock:
            harness.phase, harness.error = Phase.FAILED, error
        self._bus.publish(harness.id, State.END, error)

    def _load_with_retries(self, harness: _Harness) -> Servable:
        attempt = 0
        while True:
            try:
                return self._load(harness.id, harness.path)
            except ServingError as error:
                if not harness.aspired or attempt >= self._options.max_num_load_retries:
                    raise
                attempt += 1
                _log.warning(
                    "load of servable %s failed, retry %d of %d in %g s: %s",
                    harness.id,
                    attempt,
                    self._options.max_num_load_retries,
                    self._options.load_retry_interval,
                    error,
                )
            if self._stopping.wait(max(0.0, self._options.load_retry_interval)):
                raise StoppedError

    def _execute_unload(self, harness: _Harness) -> None:
        try:
            with self._lock:
                self._bus.publish(harness.id, State.UNLOADING)
                self._update_serving_map()
            # No request holds the version any more, so it has ended for everyone; to free it may take time.
            self._bus.publish(harness.id, State.END)
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
