"""The model servers together: which versions are READY on which of them, and how one image finds its way.

Calls go round robin over the servers on which the pinned version is READY, the doubtful ones last, and past
those that have no room; where none has, they wait for the first that has. A call that does not reach its
server, or finds the version unloaded there, is tried on one more before its caller learns of it; one that a
server refuses for want of a thread is sent again for as long as there is time. Two servers that hold
different bytes under one version number never both serve it: the one that was proven later is rejected.

For whoever manages the release, this is what there is to build on:

- `ready` and `versions` tell where every version stands, `subscribe` of every change,
- `subscribe_connections` tells when a server is there (again) and has to be given its configuration,
- `reload` gives a configuration to all servers, or to some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import BackendUnavailableError, DeadlineTooShortError, GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import Signal

from .call_slots import LEAST_SECONDS, CallKind, CallSlots, arrivals, turn_at
from .concurrency_limit import ConcurrencyLimit
from .endpoint import BackendEndpoint, EndpointPrediction
from .rejection import Rejection, UnprovenError
from .status import VersionStatusTable
from .tfs_messages import Pixels
from .tfserving import Backend, ReloadRefusedError, ServerFullError, VersionUnloadedError
from .verification import ServedVersion
from .verifier import VersionVerifier

DEADLINE_MARGIN_SECONDS: Final = 0.01
"""Kept back from the model server's deadline, so that an answer in time still reaches the caller in time."""
_LAST_ANSWERS_SECONDS: Final = 60.0
_LONGEST_CALL_SECONDS: Final = 120.0
"""A server goes on with a prediction until its deadline, though its caller may have gone."""


class BackendPool(VersionStatusTable):
    """All model servers of one model; `run` keeps it up to date."""

    def __init__(
        self,
        addresses: AsyncIterator[tuple[str, ...]],
        connect: Callable[[str], Backend],
        prover: VersionVerifier,
        *,
        poll_interval: float,
        limit: Callable[[], ConcurrencyLimit] = ConcurrencyLimit,
    ) -> None:
        super().__init__()
        self.places: Mapping[str, CallSlots] = {}
        """The calls to every model server; another object after each change."""
        self.on_refusal: Signal[[str]] = Signal()
        """Told the address of a model server whenever it has refused a call for want of a thread."""
        self._limit = limit
        self._addresses = addresses
        self._connect = connect
        self._prover = prover
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
    ) -> EndpointPrediction | None:
        """Runs one image, uint8 [height, width, 3], on one of the model servers that have the version READY.

        Returns:
            What the version says; None when what answered may have been another one, or when the version
            went away while the image waited for its turn.

        Raises:
            VersionUnloadedError: The model servers that were asked have not loaded it any more.
            BackendUnavailableError: None that was asked can be reached.
            OverloadedError: They refuse calls though none of this gateway is in flight there.
            GatewayError: As the backend has it.
        """
        arrival = next(arrivals)
        waited = False
        failed: BackendEndpoint | None = None
        failure: Exception = VersionUnloadedError("no model server has it any more")
        while endpoints := self._in_turn(version, but=failed):
            endpoint = await self._place(endpoints, kind, arrival, deadline)
            if endpoint is None:
                waited = True
                continue
            try:
                seconds = min(_left(deadline), _LONGEST_CALL_SECONDS)
                return await endpoint.predict(version, pixels, kind, gradcam=gradcam, seconds=seconds)
            except ServerFullError:
                waited = True
            except (VersionUnloadedError, BackendUnavailableError) as error:
                if failed is not None:
                    raise
                failed, failure = endpoint, error
        if waited and failed is None:
            # It was READY when this began. Whoever asks knows whether to wait for it.
            return None
        raise failure

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
            endpoint = self._endpoints.get(address)
            if endpoint is None:
                return BackendUnavailableError(f"there is no model server at {address} any more")
            try:
                await endpoint.own.reload(config, seconds=seconds)
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
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            raise BackendUnavailableError(f"there is no model server at {address} any more")
        return bool(await endpoint.own.versions(model, seconds=seconds))

    async def run(self) -> None:
        """Finds model servers, and polls them, until cancelled."""
        try:
            async for addresses in self._addresses:
                self.set_members(addresses)
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

    def set_members(self, addresses: Iterable[str]) -> None:
        """Takes in model servers that are new, and lets those go that are not named any more."""
        wanted = dict.fromkeys(addresses)
        for address in self._endpoints.keys() - wanted:
            endpoint, task = self._endpoints.pop(address), self._tasks.pop(address)
            self.places = {each.address: each.places for each in self._endpoints.values()}
            task.cancel()
            endpoint.places.send_away()
            log(logging.INFO, "backend_left", backend=address)
            leaving = asyncio.create_task(_last_answers(endpoint))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for address in wanted:
            endpoint = self.endpoint(address)
            if address not in self._tasks:
                self._tasks[address] = asyncio.create_task(endpoint.run())
        self._look_around()

    def refuse(self, refused: Mapping[int, str]) -> None:
        """Shows versions of the repository that no model server is told to load, with the reason of each."""
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
            places = CallSlots(address, self._limit(), self.on_refusal.emit)
            self._endpoints[address] = BackendEndpoint(
                self._connect(address), places, self._prover, self, poll_interval=self._poll_interval
            )
            self.places = {each.address: each.places for each in self._endpoints.values()}
        return self._endpoints[address]

    def changed(self, endpoint: BackendEndpoint) -> None:  # noqa: ARG002 - what has changed is found by comparison
        """A endpoint tells that a version on it, or its connection, has changed."""
        self._look_around()

    def polled(self, endpoint: BackendEndpoint) -> None:  # noqa: ARG002 - each counts alike
        """A endpoint tells that it has polled."""
        self._forget_retired(self._endpoints.values())
        doubtful = frozenset(each.address for each in self._endpoints.values() if each.doubtful)
        if doubtful != self._doubtful:
            self._doubtful = doubtful
            self._have_chosen_anew()
        self._on_look.emit()

    def admit(self, endpoint: BackendEndpoint, version: ServedVersion) -> ServedVersion:
        """The object for a proven version: that of the other endpoints, so that all are one.

        Raises:
            UnprovenError: Another endpoint serves something else under its number.
        """
        for other in self._endpoints.values():
            known = other.ready(version.number) if other is not endpoint else None
            if known is None:
                continue
            if known.digest != version.digest:
                raise UnprovenError(
                    Rejection.NUMBER_TAKEN,
                    f"the model server at {other.address} already serves another version {version.number}: "
                    f"its manifest has digest {known.digest[:12]}…, this one {version.digest[:12]}…",
                )
            return known
        return version

    def elsewhere(self, endpoint: BackendEndpoint, number: int) -> bool:
        """Whether a endpoint other than this one, and not doubtful, can answer for a version."""
        _, endpoints = self._ready.get(number, (None, ()))
        return any(other is not endpoint and not other.doubtful for other in endpoints)

    def _look_around(self) -> None:
        before = self._ready
        self._refresh(self._endpoints.values())
        if self._ready != before:
            self._have_chosen_anew()

    def _have_chosen_anew(self) -> None:
        """Those who wait for a place do so where it was best to wait when they came."""
        for places in self.places.values():
            places.send_away()

    def _in_turn(self, version: ServedVersion, *, but: BackendEndpoint | None) -> list[BackendEndpoint]:
        """Whose turn it is for an image, one after another; the doubtful ones only for want of others."""
        found = self._ready.get(version.number)
        if found is None or found[0].digest != version.digest:
            return []
        endpoints = [endpoint for endpoint in found[1] if endpoint is not but]
        endpoints = [endpoint for endpoint in endpoints if not endpoint.doubtful] or endpoints
        if len(endpoints) > 1:
            self._turn += 1
            first = self._turn % len(endpoints)
            endpoints = endpoints[first:] + endpoints[:first]
        return endpoints

    async def _place(
        self, endpoints: Sequence[BackendEndpoint], kind: CallKind, arrival: int, deadline: Deadline
    ) -> BackendEndpoint | None:
        """The first endpoint that has a place, which is taken; None when they are to be chosen anew."""
        left = _left(deadline) - LEAST_SECONDS
        if left >= 0:
            for endpoint in endpoints:
                if endpoint.places.enter(kind):
                    return endpoint
        by_places = {endpoint.places: endpoint for endpoint in endpoints}
        try:
            places = await turn_at(list(by_places), kind, arrival, seconds=left)
        except TimeoutError:
            if all(endpoint.places.shut for endpoint in endpoints):
                raise ServerFullError("the model server is busy with the calls of others") from None
            raise DeadlineTooShortError("the deadline is too near for the model server") from None
        return by_places[places] if places is not None else None


def _left(deadline: Deadline) -> float:
    return deadline.remaining() - DEADLINE_MARGIN_SECONDS


async def _last_answers(endpoint: BackendEndpoint) -> None:
    """Lets the predictions on a model server that was taken out of the pool end, and closes it."""
    try:
        async with asyncio.timeout(_LAST_ANSWERS_SECONDS):
            await endpoint.places.idle()
        log(logging.INFO, "backend_drained", backend=endpoint.address)
    except TimeoutError:
        pass
    finally:
        await endpoint.close()
