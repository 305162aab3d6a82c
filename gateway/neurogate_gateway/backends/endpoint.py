"""One model server: whether it can be reached, and where each version stands on it.

An endpoint polls its server. A version that the server calls AVAILABLE is read and verified (PROVING) and
only then READY; one that fails is REJECTED until the server loads it anew; one that leaves is RETIRED. When
the server cannot be reached, or only the connection to it has ended, nothing on it answers, and when it is
back every version is verified again: it may be another server.

A server that hangs is told from a busy one by what comes back. One poll without an answer makes it doubtful,
so that calls go elsewhere where they can; three in a row, with no prediction answered either, and it is lost.
A server whose polls are answered while its predictions are not has to have its versions verified again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from typing import Any, Final, Protocol

from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import BackendUnavailableError, GatewayError, InternalError, cut
from neurogate_gateway.observability.logging import log

from .concurrency import CallSlots, InFlightCall
from .control_calls import ControlCalls
from .tfserving import BackendVersion, ServerFullError, TensorFlowServing, VersionUnloadedError
from .verification import FilesUnreadableError, Rejection, ServedVersion, VerificationError, VersionVerifier
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


class EndpointCallbacks(Protocol):
    """What an endpoint asks of the others, and tells them."""

    def changed(self) -> None:
        """A version on an endpoint, or its connection, has changed."""

    def polled(self) -> None:
        """An endpoint has polled, whatever came of it."""

    def admit(self, endpoint: BackendEndpoint, version: ServedVersion) -> ServedVersion:
        """The last word on a verified version: the object to go on with.

        Raises:
            VerificationError: Another endpoint serves something else under its number.
        """

    def elsewhere(self, endpoint: BackendEndpoint, number: int) -> bool:
        """Whether another endpoint that is not doubtful can answer for a version."""


class BackendEndpoint:
    """One model server; `run` keeps it up to date."""

    def __init__(
        self,
        backend: TensorFlowServing,
        slots: CallSlots,
        verifier: VersionVerifier,
        callbacks: EndpointCallbacks,
        *,
        poll_interval: float,
    ) -> None:
        self.address = slots.address
        self.backend = backend
        self.slots = slots
        self.control = ControlCalls(backend, slots)
        self.connected = False
        self.entries: dict[int, EndpointVersion] = {}
        self.looking = True
        """Whether something is known to have happened that no poll has seen yet."""
        self.answered_at = -math.inf
        """By the loop's clock: when a prediction was last answered."""
        self._verifier = verifier
        self._callbacks = callbacks
        self._poll_interval = poll_interval
        self.misses = 0
        """Polls in a row without an answer; from one on calls go elsewhere where they can."""
        self._losses = 0
        self._lost_logged = False
        self._polled_at = -math.inf
        self._one_verification = asyncio.Lock()
        self._wake = asyncio.Event()
        self._forgotten = 0
        """The highest number of a version that was forgotten."""

    async def close(self) -> None:
        """Closes the connection and cancels what is still running on it."""
        await self.backend.close()
        await self.slots.close()

    def ready(self, number: int) -> ServedVersion | None:
        """The version of a number, while it may answer here."""
        entry = self.entries.get(number)
        return entry.ready if entry is not None and self.connected else None

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
                pause = min(self._poll_interval, _POLL_AFTER_MISS_SECONDS if self.misses else math.inf)
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            watching.cancel()
            for entry in self.entries.values():
                if entry.verification is not None:
                    entry.verification.cancel()

    async def poll(self) -> None:
        """Looks once at what the server has loaded, and acts on it."""
        asked_at, losses = _now(), self._losses
        seconds = _POLL_SECONDS if self.misses else _FIRST_POLL_SECONDS
        try:
            seen = await self.control.versions(self._verifier.model, seconds=seconds)
        except ServerFullError:
            # So it lives. What has become of its versions is yet to be seen.
            self.misses = 0
            self._look_for_stalls()
            self._polled_at = _now()
            self._callbacks.polled()
            return
        except GatewayError as error:
            if isinstance(error, BackendUnavailableError) or self.answered_at < asked_at:
                self._missed(error)
        else:
            if losses != self._losses:
                # The answer is older than the end of the connection: another server may be there by now.
                self.look_again()
                return
            self.misses = 0
            self._connect()
            # Newest first, because verifications run in this order: with several versions loaded, a gateway
            # that has just started must not answer from an old one while the newest waits.
            for version in sorted(seen, key=lambda version: version.number, reverse=True):
                self._observe(version)
            for number in self.entries.keys() - {version.number for version in seen}:
                self.entries[number].loaded = False
                self._withdraw(self.entries[number], RETIRED)
            self._look_for_stalls()
        self._polled_at = _now()
        if self.looking and not self._wake.is_set():
            # A wake-up that came during the poll may be about something that the poll did not see yet.
            self.looking = False
            self._callbacks.changed()
        self._callbacks.polled()

    def forget(self, number: int) -> None:
        """Lets go of a RETIRED version; it is a new one when the server loads it again."""
        if self.entries.pop(number, None) is not None:
            self._forgotten = max(self._forgotten, number)

    def lose(self, reason: str) -> None:
        """Takes every version back until the server is there again and the version is verified anew."""
        if not self._lost_logged:
            self._lost_logged = True
            log(logging.WARNING, "backend_unreachable", backend=self.address, reason=reason)
        self._losses += 1
        self.connected = False
        for entry in self.entries.values():
            entry.loaded = False
            if entry.state != RETIRED:
                self._withdraw(entry, LOADING)
        self._callbacks.changed()

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
            self.connected, self._lost_logged = True, False
            log(logging.INFO, "backend_connected", backend=self.address, model=self._verifier.model)
            self._callbacks.changed()

    def unloaded(self, entry: EndpointVersion, times_ready: int) -> None:
        """A call found a version unloaded that had become READY so many times when the call was sent."""
        self.look_again()
        # What an older verification had let through says nothing about a newer one.
        if entry.ready is not None and entry.times_ready == times_ready:
            self._withdraw(entry, RETIRED)

    def unreached(self) -> None:
        """A call did not reach the server, so looks again, but not for each."""
        if _now() - self._polled_at >= _DOUBT_SECONDS:
            self.look_again()

    def look_again(self) -> None:
        """Polls at once."""
        self.looking = True
        self._wake.set()

    def _missed(self, error: GatewayError) -> None:
        self.misses += 1
        unreachable = isinstance(error, BackendUnavailableError)
        if self.misses >= (_REFUSALS_UNTIL_LOST if unreachable else _MISSES_UNTIL_LOST):
            self.lose(error.message)
        for call in self._waited_for():
            if not self.connected or self._callbacks.elsewhere(self, call.version):
                call.abandon()

    def _look_for_stalls(self) -> None:
        """Withdraws versions whose predictions hang, where others can answer for them.

        Without others the callers' own deadlines decide: a slow answer is better than none.
        """
        before = _now() - _STALL_SECONDS
        if self.answered_at >= before:
            return
        for call in self._waited_for():
            if call.sent_at < before and self._callbacks.elsewhere(self, call.version):
                reason = "the model server does not answer predictions"
                self._withdraw(self.entries[call.version], LOADING, reason)
                call.abandon()

    def _waited_for(self) -> list[InFlightCall]:
        """The predictions whose callers still wait for the answer."""
        return [call for call in self.slots.calls if call.version and not call.answer.done()]

    def _observe(self, seen: BackendVersion) -> None:
        entry = self.entries.get(seen.number)
        if entry is None:
            ended = seen.state == _TFS.STATE_END and not seen.error
            if ended and seen.number <= self._forgotten:
                # TensorFlow Serving names what it has unloaded for as long as it runs.
                return
            entry = self.entries[seen.number] = EndpointVersion(seen.number, LOADING, time.time())
            self._callbacks.changed()
        before, entry.loaded = entry.loaded, seen.state == _TFS.STATE_AVAILABLE
        match seen.state:
            case _TFS.STATE_AVAILABLE:
                if entry.may_be_verified:
                    # What was read before may be another server's.
                    entry.version = None
                    self._move(entry, PROVING, entry.reason)
                    entry.verification = asyncio.create_task(self._verify(entry))
            case _TFS.STATE_START | _TFS.STATE_LOADING:
                self._withdraw(entry, LOADING)
            case _TFS.STATE_END if seen.error:
                reason = f"the model server could not load it: {_tidy(seen.error)}"
                self._withdraw(entry, REJECTED, reason, Rejection.LOAD_FAILED)
            case _:
                self._withdraw(entry, RETIRED)
        if entry.loaded != before:
            # Its state may be the same: a verification that was interrupted has to wait.
            self._callbacks.changed()

    async def _verify(self, entry: EndpointVersion) -> None:
        """Reads and verifies a version: it is READY then, REJECTED, or LOADING when nothing was found out."""
        async with self._one_verification:
            start = _now()
            try:
                # What was read stays with the entry, so that a version that is rejected can be looked at.
                entry.version = await self._verifier.read(entry.number, self.control)
                await self._verifier.verify(entry.version, self.control)
                entry.version = self._callbacks.admit(self, entry.version)
            except VerificationError as error:
                self._move(entry, REJECTED, str(error), error.kind)
            except (FilesUnreadableError, VersionUnloadedError, GatewayError) as error:
                self._interrupted(entry, str(error), fault=isinstance(error, InternalError))
            except Exception as error:  # noqa: BLE001 - a version that breaks this must not serve either
                log(logging.ERROR, "proof_failed", version=entry.number, error=error)
                reason = "it failed unforeseen; the gateway's log has the details"
                self._interrupted(entry, reason, fault=True)
            else:
                goldens, seconds = len(entry.version.manifest.goldens), round(_now() - start, 3)
                log(logging.INFO, "version_ready", version=entry.number, goldens=goldens, seconds=seconds)
                entry.forget_interruptions()
                self._move(entry, READY)
        entry.verification = None

    def _interrupted(self, entry: EndpointVersion, reason: str, *, fault: bool) -> None:
        rejected = entry.interrupted(fault=fault)
        log(logging.WARNING, "proof_interrupted", version=entry.number, reason=reason, rejected=rejected)
        reason = f"the proof was interrupted: {reason}"
        self._move(
            entry,
            REJECTED if rejected else LOADING,
            reason,
            Rejection.PROOF_FAILED if rejected else None,
        )

    def _withdraw(
        self, entry: EndpointVersion, state: State, reason: str = "", kind: Rejection | None = None
    ) -> None:
        """Moves a version out of PROVING or READY, or from one of the other states to another."""
        if entry.verification is not None:
            entry.verification.cancel()
            entry.verification = None
        entry.forget_interruptions()
        self._move(entry, state, reason, kind)

    def _move(
        self, entry: EndpointVersion, state: State, reason: str = "", kind: Rejection | None = None
    ) -> None:
        reason = cut(reason)
        if (entry.state, entry.reason) == (state, reason):
            return
        before, now = State.Name(entry.state), State.Name(state)
        if state == REJECTED:
            level, event = logging.ERROR, "version_rejected"
            fields: dict[str, Any] = {"kind": kind, "reason": reason}
        else:
            level, event, fields = logging.INFO, "version_state", {"state": now}
        log(level, event, **fields, version=entry.number, backend=self.address, before=before)
        entry.state, entry.reason, entry.kind, entry.since = state, reason, kind, time.time()
        entry.times_ready += state == READY
        self._callbacks.changed()


def _tidy(text: str) -> str:
    """The first line of the model server's words, without paths: those are its own affair."""
    return re.sub(r"(?:/[\w.@+-]+){2,}/?", "(path)", text.partition("\n")[0])[:300]


def _now() -> float:
    return asyncio.get_running_loop().time()
