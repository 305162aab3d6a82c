"""One model server: whether it can be reached, and where each version stands on it.

A endpoint polls its server. A version that the server calls AVAILABLE is read and proven (PROVING) and only
then READY; one that fails is REJECTED until the server loads it anew; one that leaves is RETIRED. When the
server cannot be reached, or only the connection to it has ended, nothing on it answers, and when it is back
every version is proven again: it may be another server.

A server that hangs is told from a busy one by what comes back. One poll without an answer makes it doubtful,
so that calls go elsewhere where they can; three in a row, with no prediction answered either, and it is lost.
A server whose polls are answered while its predictions are not has to prove its versions again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from typing import Final, Protocol

from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import BackendUnavailableError, GatewayError, InternalError, cut
from neurogate_gateway.observability.logging import log

from .call_slots import CallKind, CallSlots
from .control_calls import ControlCalls
from .in_flight import InFlightCalls
from .rejection import Rejection, tidy
from .tfs_messages import Outputs, Pixels
from .tfserving import Backend, BackendVersion, ServerFullError, VersionUnloadedError
from .verification import ServedVersion
from .verifier import VersionVerifier
from .versions import LOADING, PROVING, READY, REJECTED, RETIRED, EndpointVersion, State

_TFS = tfs_pb2.ModelVersionStatus
_REFUSALS_UNTIL_LOST: Final = 2
_MISSES_UNTIL_LOST: Final = 3
"""Polls in a row that may time out on a busy server before it counts as lost."""
_FIRST_POLL_SECONDS: Final = 0.9
"""Time for the answer to a poll; with the pause before it a hang raises doubt within 2 seconds."""
_POLL_SECONDS: Final = 2.0
"""The same while there is doubt: a busy server gets more time before it is lost."""
_POLL_AFTER_MISS_SECONDS: Final = 0.5
_STALL_SECONDS: Final = 1.4
_DOUBT_SECONDS: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointPrediction:
    """What a version says about an image, and the seconds that its model server took for it."""

    outputs: Outputs
    seconds: float


class EndpointCallbacks(Protocol):
    """What a endpoint asks of the others, and tells them."""

    def changed(self, endpoint: BackendEndpoint) -> None:
        """A version on this endpoint, or its connection, has changed."""

    def polled(self, endpoint: BackendEndpoint) -> None:
        """This endpoint has polled, whatever came of it."""

    def admit(self, endpoint: BackendEndpoint, version: ServedVersion) -> ServedVersion:
        """The last word on a proven version: the object to go on with.

        Raises:
            UnprovenError: Another endpoint serves something else under its number.
        """

    def elsewhere(self, endpoint: BackendEndpoint, number: int) -> bool:
        """Whether another endpoint that is not doubtful can answer for a version."""


class BackendEndpoint:
    """One model server; `run` keeps it up to date."""

    def __init__(
        self,
        backend: Backend,
        places: CallSlots,
        prover: VersionVerifier,
        neighbours: EndpointCallbacks,
        *,
        poll_interval: float,
    ) -> None:
        self.address = places.address
        self.backend = backend
        self.places = places
        self.own = ControlCalls(backend, places)
        self.connected = False
        self.entries: dict[int, EndpointVersion] = {}
        self.looking = True
        """Whether something is known to have happened that no poll has seen yet."""
        self._prover = prover
        self._neighbours = neighbours
        self._poll_interval = poll_interval
        self._misses = 0
        self._losses = 0
        self._told_lost = False
        self._polled_at = -math.inf
        self._heard_at = -math.inf
        self._attempts = InFlightCalls()
        self._one_proof = asyncio.Lock()
        self._wake = asyncio.Event()
        self._forgotten = 0
        """The highest number of a version that was forgotten."""

    @property
    def doubtful(self) -> bool:
        """Whether the last poll had no answer."""
        return self._misses > 0

    async def close(self) -> None:
        """Closes the connection and cancels what is still running on it."""
        await self.backend.close()
        await self.places.close()

    def ready(self, number: int) -> ServedVersion | None:
        """The version of a number, while it may answer here."""
        entry = self.entries.get(number)
        return entry.ready if entry is not None and self.connected else None

    async def predict(
        self, version: ServedVersion, pixels: Pixels, kind: CallKind, *, gradcam: bool, seconds: float
    ) -> EndpointPrediction | None:
        """Runs one image, uint8 [height, width, 3], through a version that is READY here.

        A place of its kind was taken for it.

        Returns:
            What the version says; None when it may have been another that answered, since what is loaded
            here changed meanwhile.

        Raises:
            ServerFullError: The server has refused it, without effect.
            VersionUnloadedError: It is not loaded any more.
            BackendUnavailableError: The server cannot be reached, or hangs.
            GatewayError: As the backend has it.
        """
        entry = self.entries.get(version.number)
        if entry is None:
            # Forgotten in the same moment as the place came.
            self.places.leave(kind)
            return None
        proofs = entry.proofs
        attempt = self._attempts.begin(version.number)
        self.places.send(
            kind,
            self.backend.predict(
                version.model,
                version.number,
                pixels,
                classes=len(version.classes),
                gradcam=gradcam,
                seconds=seconds,
            ),
            attempt.answer,
        )
        try:
            ended = await attempt.ended
        finally:
            self._attempts.end(attempt)
        if ended is None or ended.cancelled():
            # Abandoned, or cut off with a server that has left; its caller was not cancelled.
            raise BackendUnavailableError("the model server stopped answering")
        try:
            outputs = ended.result()
        except VersionUnloadedError:
            self._unloaded(entry, proofs)
            raise
        except BackendUnavailableError:
            self._doubt()
            raise
        self._heard_at = time.monotonic()
        now = self.ready(version.number)
        if now is None or now.digest != version.digest:
            return None
        return EndpointPrediction(outputs, self._heard_at - attempt.since)

    async def run(self) -> None:
        """Polls until cancelled."""
        watching = asyncio.create_task(self._watch_connection())
        try:
            while True:
                self._wake.clear()
                try:
                    await self.poll()
                except Exception as error:  # noqa: BLE001 - a defect here must not end the polling
                    log(logging.ERROR, "poll_failed", backend=self.address, error=error)
                    self._missed(InternalError("the poll failed unforeseen"))
                pause = min(self._poll_interval, _POLL_AFTER_MISS_SECONDS if self._misses else math.inf)
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            watching.cancel()
            for entry in self.entries.values():
                if entry.proof is not None:
                    entry.proof.cancel()

    async def poll(self) -> None:
        """Looks once at what the server has loaded, and acts on it."""
        asked_at, losses = time.monotonic(), self._losses
        seconds = _POLL_SECONDS if self._misses else _FIRST_POLL_SECONDS
        try:
            seen = await self.own.versions(self._prover.model, seconds=seconds)
        except ServerFullError:
            # So it lives. What has become of its versions is yet to be seen.
            self._misses = 0
            self._look_for_stalls()
            self._polled_at = time.monotonic()
            self._neighbours.polled(self)
            return
        except GatewayError as error:
            if isinstance(error, BackendUnavailableError) or self._heard_at < asked_at:
                self._missed(error)
        else:
            if losses != self._losses:
                # The answer is older than the end of the connection: another server may be there by now.
                self.look_again()
                return
            self._misses = 0
            self._connect()
            # Newest first, because proofs run in this order: with several versions loaded, a gateway that has
            # just started must not answer from an old one while the newest waits for its proof.
            for version in sorted(seen, key=lambda version: version.number, reverse=True):
                self._observe(version)
            for number in self.entries.keys() - {version.number for version in seen}:
                self.entries[number].loaded = False
                self._withdraw(self.entries[number], RETIRED)
            self._look_for_stalls()
        self._polled_at = time.monotonic()
        if self.looking and not self._wake.is_set():
            # A wake-up that came during the poll may be about something that the poll did not see yet.
            self.looking = False
            self._neighbours.changed(self)
        self._neighbours.polled(self)

    def forget(self, number: int) -> None:
        """Lets go of a RETIRED version; it is a new one when the server loads it again."""
        if self.entries.pop(number, None) is not None:
            self._forgotten = max(self._forgotten, number)

    def lose(self, reason: str) -> None:
        """Takes every version back until the server is there again and has proven it."""
        if not self._told_lost:
            self._told_lost = True
            log(logging.WARNING, "backend_unreachable", backend=self.address, reason=reason)
        self._losses += 1
        self.connected = False
        for entry in self.entries.values():
            entry.loaded = False
            if entry.state != RETIRED:
                self._withdraw(entry, LOADING)
        self._neighbours.changed(self)

    async def _watch_connection(self) -> None:
        while True:
            await self.backend.connected()
            self.look_again()
            # Another server may take the port between two polls, and only this tells.
            await self.backend.disconnected()
            self.look_again()
            self.lose("the connection ended")

    def _connect(self) -> None:
        if not self.connected:
            self.connected, self._told_lost = True, False
            log(logging.INFO, "backend_connected", backend=self.address, model=self._prover.model)
            self._neighbours.changed(self)

    def _unloaded(self, entry: EndpointVersion, proofs: int) -> None:
        self.look_again()
        # What an older proof had let through says nothing about a newer one.
        if entry.ready is not None and entry.proofs == proofs:
            self._withdraw(entry, RETIRED)

    def _doubt(self) -> None:
        """A call did not reach the server, so looks again, but not for each."""
        if time.monotonic() - self._polled_at >= _DOUBT_SECONDS:
            self.look_again()

    def look_again(self) -> None:
        """Polls at once."""
        self.looking = True
        self._wake.set()

    def _missed(self, error: GatewayError) -> None:
        self._misses += 1
        unreachable = isinstance(error, BackendUnavailableError)
        if self._misses >= (_REFUSALS_UNTIL_LOST if unreachable else _MISSES_UNTIL_LOST):
            self.lose(error.message)
        for attempt in self._attempts:
            if not self.connected or self._neighbours.elsewhere(self, attempt.number):
                self._attempts.abandon(attempt)

    def _look_for_stalls(self) -> None:
        """Withdraws versions whose predictions hang, where others can answer for them.

        Without others the callers' own deadlines decide: a slow answer is better than none.
        """
        before = time.monotonic() - _STALL_SECONDS
        if self._heard_at >= before:
            return
        for attempt in self._attempts:
            if attempt.since < before and self._neighbours.elsewhere(self, attempt.number):
                self._withdraw(
                    self.entries[attempt.number], LOADING, "the model server does not answer predictions"
                )
                self._attempts.abandon(attempt)

    def _observe(self, seen: BackendVersion) -> None:
        entry = self.entries.get(seen.number)
        if entry is None:
            ended = seen.state == _TFS.STATE_END and not seen.error
            if ended and seen.number <= self._forgotten:
                # TensorFlow Serving names what it has unloaded for as long as it runs.
                return
            entry = self.entries[seen.number] = EndpointVersion(seen.number, LOADING, time.time())
            self._neighbours.changed(self)
        before, entry.loaded = entry.loaded, seen.state == _TFS.STATE_AVAILABLE
        match seen.state:
            case _TFS.STATE_AVAILABLE:
                if entry.may_be_proven:
                    # What was read before may be another server's.
                    entry.version = None
                    self._move(entry, PROVING, entry.reason)
                    entry.proof = asyncio.create_task(self._prove(entry))
            case _TFS.STATE_START | _TFS.STATE_LOADING:
                self._withdraw(entry, LOADING)
            case _TFS.STATE_END if seen.error:
                reason = f"the model server could not load it: {tidy(seen.error)}"
                self._withdraw(entry, REJECTED, reason, Rejection.LOAD_FAILED)
            case _:
                self._withdraw(entry, RETIRED)
        if entry.loaded != before:
            # Its state may be the same: a proof that was interrupted has to wait.
            self._neighbours.changed(self)

    async def _prove(self, entry: EndpointVersion) -> None:
        async with self._one_proof:
            verdict = await self._prover.attempt(
                entry, self.own, lambda version: self._neighbours.admit(self, version)
            )
        self._move(entry, verdict.state, verdict.reason, verdict.kind)
        entry.proof = None

    def _withdraw(
        self, entry: EndpointVersion, state: State, reason: str = "", kind: Rejection | None = None
    ) -> None:
        """Moves a version out of PROVING or READY, or from one of the other states to another."""
        if entry.proof is not None:
            entry.proof.cancel()
            entry.proof = None
        entry.forget_interruptions()
        self._move(entry, state, reason, kind)

    def _move(
        self, entry: EndpointVersion, state: State, reason: str = "", kind: Rejection | None = None
    ) -> None:
        reason = cut(reason)
        if (entry.state, entry.reason) == (state, reason):
            return
        before, now = State.Name(entry.state), State.Name(state)
        told: dict[str, object] = {"version": entry.number, "backend": self.address, "before": before}
        if state == REJECTED:
            log(logging.ERROR, "version_rejected", error=None, kind=kind, reason=reason, **told)
        else:
            log(logging.INFO, "version_state", error=None, state=now, **told)
        entry.state, entry.reason, entry.kind, entry.since = state, reason, kind, time.time()
        entry.proofs += state == READY
        self._neighbours.changed(self)
