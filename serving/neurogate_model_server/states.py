"""What the server says about versions: the states that GetModelStatus lists, and waiting for one."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import ServingError


class State(enum.IntEnum):
    """Life of a version; numbers are those of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionId:
    """A version of a model."""

    name: str
    version: int

    def __str__(self) -> str:
        """TensorFlow Serving's way of writing it, which is part of its messages."""
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True, slots=True)
class VersionState:
    """The state of one version, and why it failed if it did."""

    state: State
    error: ServingError | None = None


class StoppedError(Exception):
    """The server is stopping, so that what was awaited will not come."""


class StateMonitor:
    """Remembers the last state of every version it heard of; thread-safe.

    A version once seen stays listed (as END when it is gone) for the life of the monitor.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._states: dict[str, dict[int, VersionState]] = {}
        self._stopped = False

    def publish(self, version: VersionId, state: VersionState) -> None:
        """Takes note of a new state."""
        with self._changed:
            self._states.setdefault(version.name, {})[version.version] = state
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends every wait with `StoppedError`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def state(self, version: VersionId) -> VersionState | None:
        """The state of a version, None if it was never seen."""
        with self._changed:
            return self._states.get(version.name, {}).get(version.version)

    def versions(self, name: str) -> list[tuple[int, VersionState]]:
        """Every version of a model that was ever seen, newest first."""
        with self._changed:
            return sorted(self._states.get(name, {}).items(), key=lambda item: -item[0])

    def wait_until_available(self, names: Iterable[str]) -> dict[VersionId, VersionState]:
        """Waits until each model has a version that is AVAILABLE or has ended.

        Returns:
            That version of each model and its state: the newest one, where there are several.

        Raises:
            StoppedError: The server is stopping.
        """
        names = list(names)
        with self._changed:
            while True:
                if self._stopped:
                    raise StoppedError
                settled = {name: self._settled(name) for name in names}
                if all(settled.values()):
                    return {reached[0]: reached[1] for reached in settled.values() if reached is not None}
                self._changed.wait()

    def _settled(self, name: str) -> tuple[VersionId, VersionState] | None:
        for version, state in sorted(self._states.get(name, {}).items(), key=lambda item: -item[0]):
            if state.state in (State.AVAILABLE, State.END):
                return VersionId(name, version), state
        return None


class StateBus:
    """Hands every change of state to all monitors, in order; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._monitors: list[StateMonitor] = []
        self._stopped = False

    def subscribe(self) -> StateMonitor:
        """A monitor that hears of every change from now on."""
        monitor = StateMonitor()
        with self._lock:
            if self._stopped:
                monitor.stop()
            self._monitors.append(monitor)
        return monitor

    def unsubscribe(self, monitor: StateMonitor) -> None:
        """Ends a subscription."""
        with self._lock:
            self._monitors.remove(monitor)

    def publish(self, version: VersionId, state: State, error: ServingError | None = None) -> None:
        """Announces a new state."""
        self._each(lambda monitor: monitor.publish(version, VersionState(state, error)))

    def stop(self) -> None:
        """Ends every wait on every monitor."""
        with self._lock:
            self._stopped = True
        self._each(StateMonitor.stop)

    def _each(self, action: Callable[[StateMonitor], None]) -> None:
        with self._lock:
            for monitor in self._monitors:
                action(monitor)
