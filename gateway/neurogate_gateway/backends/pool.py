"""The model servers together: which versions are READY on which of them, and how one image finds its way.

Calls go round robin over the servers on which the pinned version is READY, the doubtful ones last, and past
those that have no free slot; where none has, they wait for the first that has. A call that does not reach its
server, or finds the version unloaded there, is tried on one more before its caller learns of it; one that a
server refuses for want of a thread is sent again for as long as there is time. Two servers that hold
different bytes under one version number never both serve it: the one that was verified later is rejected.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import BackendUnavailableError, GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import Signal

from .concurrency import MIN_SECONDS, CallKind, CallSlots, ConcurrencyLimit, arrivals, take_slot
from .endpoint import BackendEndpoint
from .status import VersionStatusTable
from .tfserving import (
    Outputs,
    Pixels,
    ReloadRefusedError,
    ServerFullError,
    TensorFlowServing,
    VersionUnloadedError,
)
from .verification import Rejection, ServedVersion, VerificationError, VersionVerifier
from .versions import READY

DEADLINE_MARGIN_SECONDS: Final = 0.01
"""Kept back from the model server's deadline, so that an answer in time still reaches the caller in time."""
_LAST_ANSWERS_SECONDS: Final = 60.0
_LONGEST_CALL_SECONDS: Final = 120.0
"""A server goes on with a prediction until its deadline, though its caller may have gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackendPrediction:
    """What a version says about an image, and the seconds that its model server took for it."""

    outputs: Outputs
    seconds: float


class BackendPool(VersionStatusTable):
    """All model servers of one model; `run` keeps it up to date."""

    def __init__(
        self,
        addresses: AsyncIterator[tuple[str, ...]],
        connect: Callable[[str], TensorFlowServing],
        verifier: VersionVerifier,
        *,
        poll_interval: float,
        limit: Callable[[], ConcurrencyLimit] = ConcurrencyLimit,
    ) -> None:
        super().__init__()
        self.slots: Mapping[str, CallSlots] = {}
        """The calls to every model server, by address; another object after each change."""
        self.on_refusal: Signal[[str]] = Signal()
        """Gets the address of a model server whenever it has refused a call for want of a thread."""
        self._limit = limit
        self._addresses = addresses
        self._connect = connect
        self._verifier = verifier
        self._poll_interval = poll_interval
        self._endpoints: dict[str, BackendEndpoint] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._found = False
        self._doubtful: frozenset[str] = frozenset()

    @property
    def looking(self) -> bool:
        """Whether something is known to have happened on a model server that nobody has looked at yet."""
        return not self._found or any(endpoint.looking for endpoint in self._endpoints.values())

    def look_again(self) -> None:
        """Has every model server polled at once."""
        for endpoint in self._endpoints.values():
            endpoint.look_again()

    async def predict(
        self, version: ServedVersion, pixels: Pixels, kind: CallKind, *, gradcam: bool, deadline: Deadline
    ) -> BackendPrediction | None:
        """Runs one image, uint8 [height, width, 3], on one of the model servers that have the version READY.

        Returns:
            What the version says; None when it went away before the image was sent, or when what answered may
            have been another one. Whoever asks knows whether to wait for it.

        Raises:
            VersionUnloadedError: The model servers that were asked have not loaded it any more.
            BackendUnavailableError: None that was asked can be reached.
            OverloadedError: They refuse calls though none of this gateway is in flight there.
            GatewayError: As `TensorFlowServing.predict` has it.
        """
        arrival = next(arrivals)
        failed: BackendEndpoint | None = None
        failure: VersionUnloadedError | BackendUnavailableError | None = None
        while endpoints := self._in_turn(version, but=failed):
            slots = [endpoint.slots for endpoint in endpoints]
            left = deadline.remaining() - DEADLINE_MARGIN_SECONDS
            taken = await take_slot(slots, kind, arrival, seconds=left - MIN_SECONDS)
            if taken is None:
                continue
            endpoint = endpoints[slots.index(taken)]
            entry = endpoint.entries.get(version.number)
            if entry is None:
                # Forgotten in the same moment as the slot came.
                taken.leave(kind)
                return None
            times_ready = entry.times_ready
            predict = functools.partial(
                endpoint.backend.predict,
                version.model,
                version.number,
                pixels,
                classes=len(version.classes),
                gradcam=gradcam,
                seconds=min(deadline.remaining() - DEADLINE_MARGIN_SECONDS, _LONGEST_CALL_SECONDS),
            )
            call = taken.send(kind, predict, version.number)
            try:
                outputs = await call.answer
            except ServerFullError:
                continue
            except VersionUnloadedError as error:
                endpoint.unloaded(entry, times_ready)
                unanswered: VersionUnloadedError | BackendUnavailableError = error
            except BackendUnavailableError as error:
                endpoint.unreached()
                unanswered = error
            else:
                endpoint.answered_at = asyncio.get_running_loop().time()
                # The one place that decides whether this version has answered, and not what came after it.
                # By the endpoint's own entry: a server that was taken out of the pool answers what it began.
                now = endpoint.entries.get(version.number)
                served = now.version if now is not None and now.state == READY else None
                if not endpoint.connected or served is None or served.digest != version.digest:
                    return None
                return BackendPrediction(outputs, endpoint.answered_at - call.sent_at)
            if failure is not None:
                raise unanswered
            failed, failure = endpoint, unanswered
        if failure is not None:
            raise failure
        return None

    async def reload(
        self,
        config: tfs_pb2.ModelServerConfig,
        *,
        addresses: Iterable[str] | None = None,
        seconds: float = 10.0,
    ) -> dict[str, GatewayError | ReloadRefusedError | None]:
        """Gives a configuration to every model server, or to those at some addresses, all at once.

        Returns:
            By address: None when it was taken over, else why not. A server that cannot be reached has its
            error like any other.
        """
        chosen = list(self._endpoints if addresses is None else addresses)

        async def one(address: str) -> GatewayError | ReloadRefusedError | None:
            try:
                endpoint = self._at(address)
                await endpoint.control.reload(config, seconds=seconds)
            except (GatewayError, ReloadRefusedError) as error:
                return error
            endpoint.look_again()
            return None

        results = await asyncio.gather(*(one(address) for address in chosen))
        return dict(zip(chosen, results, strict=True))

    async def knows(self, address: str, model: str, *, seconds: float = 2.0) -> bool:
        """Whether a model server has, or has had, any version of a model.

        Raises:
            GatewayError: It cannot be asked.
        """
        return bool(await self._at(address).control.versions(model, seconds=seconds))

    async def run(self) -> None:
        """Finds model servers, and polls them, until cancelled."""
        try:
            async for addresses in self._addresses:
                self.set_addresses(addresses)
        finally:
            tasks = [*self._tasks.values(), *self._leaving]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def close(self) -> None:
        """Closes the connections and cancels what is still running on them; after `run` has ended."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Takes in model servers that are new, and lets those go that are not named any more."""
        wanted = dict.fromkeys(addresses)
        for address in self._endpoints.keys() - wanted:
            endpoint, task = self._endpoints.pop(address), self._tasks.pop(address)
            self.slots = {each.address: each.slots for each in self._endpoints.values()}
            task.cancel()
            endpoint.slots.send_away()
            log(logging.INFO, "backend_left", backend=address)
            leaving = asyncio.create_task(_last_answers(endpoint))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for address in wanted:
            endpoint = self.endpoint(address)
            if address not in self._tasks:
                self._tasks[address] = asyncio.create_task(endpoint.run())
        self.changed()

    def refuse(self, refused: Mapping[int, str]) -> None:
        """Shows versions of the repository that no model server is given, with the reason of each."""
        if refused != self._refused:
            self._refused = dict(refused)
            self._refresh(self._endpoints.values())

    def leave_alone(self, foreign: Mapping[str, str]) -> None:
        """Shows model servers that are somebody else's, with the reason by address."""
        if foreign != self.foreign:
            self.foreign = dict(foreign)
            self.wake()

    def endpoint(self, address: str) -> BackendEndpoint:
        """The model server at an address, taken in where it is new; `run` begins to poll it."""
        self._found = True
        if address not in self._endpoints:
            slots = CallSlots(address, self._limit(), self.on_refusal.emit)
            self._endpoints[address] = BackendEndpoint(
                self._connect(address), slots, self._verifier, self, poll_interval=self._poll_interval
            )
            self.slots = {each.address: each.slots for each in self._endpoints.values()}
        return self._endpoints[address]

    def changed(self) -> None:
        """As `EndpointCallbacks` has it; what has changed is found by comparison."""
        before = self._ready
        self._refresh(self._endpoints.values())
        if self._ready != before:
            self._send_away()

    def polled(self) -> None:
        """As `EndpointCallbacks` has it."""
        self._forget_retired(self._endpoints.values())
        doubtful = frozenset(each.address for each in self._endpoints.values() if each.misses)
        if doubtful != self._doubtful:
            self._doubtful = doubtful
            self._send_away()
        self.looked.emit()

    def admit(self, endpoint: BackendEndpoint, version: ServedVersion) -> ServedVersion:
        """The object for a verified version: that of the other endpoints, so that all are one.

        Raises:
            VerificationError: Another endpoint serves something else under its number.
        """
        for other in self._endpoints.values():
            known = other.ready(version.number) if other is not endpoint else None
            if known is None:
                continue
            if known.digest != version.digest:
                raise VerificationError(
                    Rejection.NUMBER_TAKEN,
                    f"the model server at {other.address} already serves another version {version.number}: "
                    f"its manifest has digest {known.digest[:12]}…, this one {version.digest[:12]}…",
                )
            return known
        return version

    def elsewhere(self, endpoint: BackendEndpoint, number: int) -> bool:
        """Whether an endpoint other than this one, and not doubtful, can answer for a version."""
        _, endpoints = self._ready.get(number, (None, ()))
        return any(other is not endpoint and not other.misses for other in endpoints)

    def _at(self, address: str) -> BackendEndpoint:
        if address not in self._endpoints:
            raise BackendUnavailableError(f"there is no model server at {address} any more")
        return self._endpoints[address]

    def _send_away(self) -> None:
        """Those who wait for a slot do so where it was best to wait when they came."""
        for slots in self.slots.values():
            slots.send_away()

    def _serving(self, version: ServedVersion) -> tuple[BackendEndpoint, ...]:
        """The model servers on which this very version is READY."""
        found = self._ready.get(version.number)
        return found[1] if found is not None and found[0].digest == version.digest else ()

    def _in_turn(self, version: ServedVersion, *, but: BackendEndpoint | None) -> list[BackendEndpoint]:
        """Whose turn it is for an image, one after another; the doubtful ones only for want of others."""
        endpoints = [endpoint for endpoint in self._serving(version) if endpoint is not but]
        if len(endpoints) > 1:
            endpoints = [endpoint for endpoint in endpoints if not endpoint.misses] or endpoints
            self._turn += 1
            first = self._turn % len(endpoints)
            endpoints = endpoints[first:] + endpoints[:first]
        return endpoints


async def _last_answers(endpoint: BackendEndpoint) -> None:
    """Lets the predictions on a model server that was taken out of the pool end, and closes it."""
    try:
        async with asyncio.timeout(_LAST_ANSWERS_SECONDS):
            await endpoint.slots.idle()
        log(logging.INFO, "backend_drained", backend=endpoint.address)
    except TimeoutError:
        pass
    finally:
        await endpoint.close()
