"""What the server says about versions: the states that GetModelStatus lists, and waiting for one."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterable
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
    """The state of one version, and why it failed if it did; `turn` counts what the monitor has heard."""

    state: State
    error: ServingError | None = None
    turn: int = 0


class StoppedError(Exception):
    """The server is stopping, so that what was awaited will not come."""


class StateMonitor:
    """Remembers the last state of every version that it heard of; thread-safe.

    A version once seen stays listed (as END when it is gone) for the life of the monitor.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # reentrant
        self._states: dict[str, dict[int, VersionState]] = {}
        self._turn = 0
        self._stopped = False

    def publish(self, version: VersionId, state: State, error: ServingError | None = None) -> None:
        """Takes note of a new state."""
        with self._changed:
            self._turn += 1
            self._states.setdefault(version.name, {})[version.version] = VersionState(
                state, error, self._turn
            )
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends every wait with `StoppedError`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def turn(self) -> int:
        """How many states were published."""
        with self._changed:
            return self._turn

    def state(self, version: VersionId) -> VersionState | None:
        """The state of a version, None if it was never seen."""
        with self._changed:
            return self._states.get(version.name, {}).get(version.version)

    def versions(self, name: str) -> list[tuple[int, VersionState]]:
        """Every version of a model that was ever seen, newest first."""
        with self._changed:
            return sorted(self._states.get(name, {}).items(), key=lambda item: -item[0])

    def wait_until_available(self, names: Iterable[str], after: int = 0) -> dict[VersionId, VersionState]:
        """Waits until each model has a version that is AVAILABLE or has ended.

        Args:
            names: The models.
            after: As `turn` was; what was published until then does not count.

        Returns:
            That version of each model and its state: the newest one, where there are several.

        Raises:
            StoppedError: The server is stopping.
        """
        names = list(names)
        with self._changed:
            while not self._stopped:
                settled = {name: self._settled(name, after) for name in names}
                if all(settled.values()):
                    return {reached[0]: reached[1] for reached in settled.values() if reached is not None}
                self._changed.wait()
            raise StoppedError

    def _settled(self, name: str, after: int) -> tuple[VersionId, VersionState] | None:
        for version, state in self.versions(name):
            if state.state in (State.AVAILABLE, State.END) and state.turn > after:
                return VersionId(name, version), state
        return None
