"""Which versions answer requests: swapped as a whole, and only once every request on the old map is done.

This is what makes a swap of versions invisible to clients: a request holds the map it was looked up in, so
the version it runs on stays loaded until it ends. As in the real server it also means that a long request, on
any model, holds the swap half done.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from .errors import not_found
from .servable import Servable
from .states import StoppedError, VersionId


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
    """Looks versions up for requests; thread-safe."""

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
