"""Which versions are READY on which model servers, and the signals of changes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.observability.signal import Signal

from .endpoint import BackendEndpoint
from .verification import ServedVersion
from .versions import RETIRED, VersionView, view_of

_MOST_RETIRED: Final = 50
"""Versions without a server whose manifests are kept, the highest ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """Where every version stood at one moment; for threads, which see nothing change meanwhile.

    Attributes:
        versions: Every version that is known, newest first.
        served: Those that are READY, by number.
    """

    versions: tuple[VersionView, ...] = ()
    served: Mapping[int, ServedVersion] = dataclasses.field(default_factory=dict)

    def view(self, number: int) -> VersionView | None:
        """One version; None when it is not known."""
        return next((view for view in self.versions if view.number == number), None)

    def ready(self, number: int) -> ServedVersion | None:
        """A version that was READY on at least one model server."""
        return self.served.get(number)


class VersionStatusTable:
    """Where every version stands over all endpoints, as of the last `_refresh`."""

    def __init__(self) -> None:
        self.connected = False
        """Whether any model server can be reached."""
        self.backends: Mapping[str, bool] = {}
        """Address of every model server, and whether it can be reached; another object after each change."""
        self.foreign: Mapping[str, str] = {}
        """Why model servers are taken for somebody else's, by address."""
        self.ready_lost_at = -math.inf
        """`time.monotonic` of the moment when a version last ceased to be READY anywhere."""
        self._refused: Mapping[int, str] = {}
        """Why versions in the repository are given to no model server."""
        self._views: dict[int, VersionView] = {}
        self.snapshot = StatusSnapshot()
        """Of this moment; another object after each change."""
        self.newest: int | None = None
        """The highest READY version."""
        self._ready: dict[int, tuple[ServedVersion, tuple[BackendEndpoint, ...]]] = {}
        self.next_change = asyncio.Event()
        """Set with the next change of anything; another object after each."""
        self.version_changed: Signal[[VersionView]] = Signal()
        """Emitted for every version that changes, on any model server, right after the change."""
        self.connection_changed: Signal[[str, bool]] = Signal()
        """Emitted with the address of a model server and whether it can be reached, whenever that changes.

        One that can be reached (again) may be another process, and knows nothing of an earlier `reload`.
        """
        self.looked: Signal[[]] = Signal()
        """Emitted after every change and every look at a model server: time passes in between."""
        self._emitted_connected: set[str] = set()

    def versions(self) -> Sequence[VersionView]:
        """Every version that is known, newest first; another object after each change.

        What no model server knows of any more stays known, up to a number of such versions.
        """
        return self.snapshot.versions

    def view(self, number: int) -> VersionView | None:
        """One version; None when it is not known."""
        return self._views.get(number)

    def ready(self, number: int) -> ServedVersion | None:
        """A version, while it is READY on at least one model server."""
        return self.snapshot.ready(number)

    async def changes(self, give_up: Deadline) -> bool:
        """Waits for the next change of anything; whether it came in time."""
        remaining = give_up.remaining()
        if remaining <= 0:
            return False
        try:
            async with asyncio.timeout(remaining):
                await self.next_change.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Has everyone who waits for a change look again, and health too."""
        self.next_change.set()
        self.next_change = asyncio.Event()
        self.looked.emit()

    def _refresh(self, endpoints: Collection[BackendEndpoint]) -> None:
        """Works out anew what all endpoints together mean, and emits what has changed."""
        self.backends = {endpoint.address: endpoint.connected for endpoint in endpoints}
        self.connected = any(self.backends.values())
        seen = {number for endpoint in endpoints for number in endpoint.entries}
        numbers = self._views.keys() | self._refused.keys() | seen
        ready: dict[int, tuple[ServedVersion, tuple[BackendEndpoint, ...]]] = {}
        changes = []
        for number in sorted(numbers, reverse=True):
            entries = [
                (endpoint.address, entry) for endpoint in endpoints if (entry := endpoint.entries.get(number))
            ]
            view = view_of(number, entries, self._views.get(number), self._refused.get(number, ""))
            if view != self._views.get(number):
                self._views[number] = view
                changes.append(view)
            having = tuple(endpoint for endpoint in endpoints if endpoint.ready(number) is not None)
            if having:
                version = having[0].ready(number)
                assert version is not None  # noqa: S101 - nothing happened in between
                ready[number] = (version, having)
        ready_before, self._ready = self._ready, ready
        self.newest = max(ready, default=None)
        self._take_snapshot()
        if ready_before.keys() - ready.keys():
            self.ready_lost_at = time.monotonic()
        self.wake()
        for view in changes:
            self.version_changed.emit(view)
        self._emit_connections(endpoints)

    def _forget_retired(self, endpoints: Collection[BackendEndpoint]) -> None:
        """Forgets the lowest of the versions that no model server has, where they are too many."""
        retired = sorted(
            (number for number, view in self._views.items() if view.state == RETIRED), reverse=True
        )
        forgotten = retired[_MOST_RETIRED:]
        if not forgotten:
            return
        for number in forgotten:
            del self._views[number]
            for endpoint in endpoints:
                endpoint.forget(number)
        self._take_snapshot()

    def _take_snapshot(self) -> None:
        self.snapshot = StatusSnapshot(
            tuple(self._views[number] for number in sorted(self._views, reverse=True)),
            {number: version for number, (version, _) in self._ready.items()},
        )

    def _emit_connections(self, endpoints: Collection[BackendEndpoint]) -> None:
        now = {endpoint.address for endpoint in endpoints if endpoint.connected}
        before, self._emitted_connected = self._emitted_connected, now
        for address in sorted(now ^ before):
            self.connection_changed.emit(address, address in now)
