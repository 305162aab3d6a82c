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

from .concurrency import MIN_SECONDS, CallKind, CallSlots, arrivals, take_slot
from .tfserving import BackendVersion, Outputs, Pixels, ReloadRefusedError, ServerFullError, TensorFlowServing

_T = TypeVar("_T")


class ControlCalls:
    """One model server's methods; each raises `ServerFullError` where the server refuses it all the time."""

    def __init__(self, backend: TensorFlowServing, slots: CallSlots) -> None:
        self._backend = backend
        self._slots = slots
        self._configuring: asyncio.Task[None] | None = None

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """As the backend's. It needs no slot at first: a server that hangs holds all of them."""
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
        # It holds no slot, for it may take long: the slots are for the verification of what it has loaded.
        arrival = next(arrivals)
        sent = self._slots.send(None, lambda: self._backend.reload(config))
        while True:
            try:
                await sent.answer
                return
            except ServerFullError as refused:
                await self._take_slot(arrival, until, refused)
            sent = self._slots.send(None, lambda: self._backend.reload(config))
            self._slots.leave(CallKind.OWN)

    async def _ask(
        self, call: Callable[[float], Coroutine[Any, Any, _T]], seconds: float, *, waits: bool = True
    ) -> _T:
        """Makes a call, which is given the seconds that are left, until the server does not refuse it."""
        until, arrival = _now() + seconds, next(arrivals)
        kind = CallKind.OWN if waits else None
        refused = None
        while True:
            if kind is not None:
                await self._take_slot(arrival, until, refused)
            try:
                answer: _T = await self._slots.send(kind, lambda: call(until - _now())).answer
            except ServerFullError as error:
                kind, refused = CallKind.OWN, error
            else:
                return answer

    async def _take_slot(self, arrival: int, until: float, refused: ServerFullError | None) -> None:
        """Takes a slot, or raises the refusal when none has come in time."""
        taken = None
        try:
            while taken is None:
                left = until - _now() - MIN_SECONDS
                taken = await take_slot([self._slots], CallKind.OWN, arrival, seconds=left)
        except (DeadlineTooShortError, ServerFullError):
            raise refused or DeadlineTooShortError("the model server had no room in time") from None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _look_at(task: asyncio.Task[None]) -> None:
    # Whoever waits has the error; without this, asyncio complains where nobody waits any more.
    if not task.cancelled():
        task.exception()
