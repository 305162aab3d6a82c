"""What the gateway asks of a model server for itself: polls, descriptions, goldens, configurations.

The server refuses these like any call when its threads are busy, and they are sent again until their time is
over. Like a caller's image, what was sent is never cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import DeadlineTooShortError

from .call_slots import LEAST_SECONDS, CallKind, CallSlots, arrivals, turn_at
from .tfs_messages import Outputs, Pixels
from .tfserving import Backend, BackendVersion, ReloadRefusedError, ServerFullError

_T = TypeVar("_T")
_Call = Callable[[float], Coroutine[Any, Any, _T]]
"""Given the seconds that are left."""


class ControlCalls:
    """One model server's methods; each raises `ServerFullError` where the server refuses it all the time."""

    def __init__(self, backend: Backend, places: CallSlots) -> None:
        self._backend = backend
        self._places = places
        self._configuring: asyncio.Task[None] | None = None

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """As the backend's. It needs no place at first: a server that hangs holds all of them."""
        return await self._ask(lambda left: self._backend.versions(model, seconds=left), seconds, waits=False)

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        """As the backend's, when its turn comes."""
        return await self._ask(lambda left: self._backend.describe(model, version, seconds=left), seconds)

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """As the backend's, when its turn comes."""
        return await self._ask(
            lambda left: self._backend.predict(
                model, version, pixels, classes=classes, gradcam=gradcam, seconds=left
            ),
            seconds,
        )

    async def reload(self, config: tfs_pb2.ModelServerConfig, *, seconds: float) -> None:
        """As the backend's, but waits no longer than that for the server to be done with it.

        The call stays open then, and no other configuration is sent before it has ended: whether its client
        waits or not, the server goes on with it, and a second one would take a second thread for as long.

        Raises:
            ReloadRefusedError: The server refuses it, or is not done with the one before.
            DeadlineTooShortError: It has taken too long.
        """
        if self._configuring is not None and not self._configuring.done():
            raise ReloadRefusedError("the configuration before is not in force yet")
        # In a task of its own from the first try on, so that a pause between two is no gap for another one.
        self._configuring = asyncio.create_task(self._reload(config, _now() + seconds))
        self._configuring.add_done_callback(_look_at)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._configuring)
        except TimeoutError:
            raise DeadlineTooShortError("the model server is not done with the configuration yet") from None

    async def _reload(self, config: tfs_pb2.ModelServerConfig, until: float) -> None:
        # It holds no place, for it may take long: the places are for the proofs of what it has loaded.
        arrival, call = next(arrivals), self._places.send(None, self._backend.reload(config))
        while True:
            try:
                return await call
            except ServerFullError as refused:
                await self._place(arrival, until, refused)
            call = self._places.send(None, self._backend.reload(config))
            self._places.leave(CallKind.OWN)

    async def _ask(self, call: _Call[_T], seconds: float, *, waits: bool = True) -> _T:
        until, arrival = _now() + seconds, next(arrivals)
        kind = CallKind.OWN if waits else None
        refused = None
        while True:
            if kind is not None:
                await self._place(arrival, until, refused)
            try:
                return await asyncio.shield(self._places.send(kind, call(until - _now())))
            except ServerFullError as error:
                kind, refused = CallKind.OWN, error

    async def _place(self, arrival: int, until: float, refused: ServerFullError | None) -> None:
        """Takes a place, or raises the refusal when none has come in time."""
        left = until - _now() - LEAST_SECONDS
        try:
            if left > 0 and self._places.enter(CallKind.OWN):
                return
            while await turn_at([self._places], CallKind.OWN, arrival, seconds=left) is None:
                left = until - _now() - LEAST_SECONDS
        except TimeoutError:
            raise refused or DeadlineTooShortError("the model server had no room in time") from None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _look_at(task: asyncio.Task[None]) -> None:
    # Whoever waits has the error; without this, asyncio complains where nobody waits any more.
    if not task.cancelled():
        task.exception()
