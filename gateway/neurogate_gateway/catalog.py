"""Which versions of the model may answer, and why the others may not.

The catalog polls the model server. A version that the server calls AVAILABLE is read and proven (PROVING)
and only then READY; one that fails is REJECTED until the server loads it anew; one that leaves is RETIRED.
When the server cannot be reached, or only the connection to it has ended, nothing answers, and when it is
back every version is proven again: it may be another server.

The labels "latest" and "stable" both mean the highest READY version.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import model_pb2

from .admission import Deadline
from .backend import Backend, BackendVersion, VersionUnloadedError
from .entries import LOADING, PROVING, READY, REJECTED, RETIRED, Entry, State
from .errors import (
    BackendUnavailableError,
    GatewayError,
    InternalError,
    ModelNotFoundError,
    ModelNotReadyError,
    cut,
)
from .proof import ServedVersion
from .proving import attempt_proof
from .selection import LATEST, STABLE, check_number, label_of, not_answering, tidy
from .telemetry import log
from .transforms import TransformPool

_TFS = tfs_pb2.ModelVersionStatus
_REFUSALS_UNTIL_LOST: Final = 2
_MISSES_UNTIL_LOST: Final = 3
"""Polls in a row that may time out on a busy server before it counts as lost."""
_POLL_TIMEOUT_SECONDS: Final = 2.0
_POLL_AFTER_MISS_SECONDS: Final = 0.5
_DOUBT_SECONDS: Final = 0.1


class VersionLostError(BackendUnavailableError):
    """The version that was chosen cannot be reached, and may be another one when it can."""


class Catalog:
    """The versions of one model; `run` keeps it up to date."""

    def __init__(
        self,
        backend: Backend,
        transforms: TransformPool,
        *,
        model: str,
        poll_interval: float,
        proof_timeout: float,
        swap_wait: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.connected = False
        self.serving = False
        """Whether calls by default are answered."""
        self.on_change = on_change
        self._backend = backend
        self._transforms = transforms
        self._poll_interval = poll_interval
        self._proof_timeout = proof_timeout
        self._swap_wait = swap_wait
        self._entries: dict[int, Entry] = {}
        self._misses = 0
        self._told_lost = False
        self._ready_lost_at = -math.inf
        self._polled_at = -math.inf
        self._one_proof = asyncio.Lock()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._poll_due = True

    def entries(self) -> list[Entry]:
        """All versions, newest first."""
        return [self._entries[number] for number in sorted(self._entries, reverse=True)]

    def labels_of(self, number: int) -> list[str]:
        """The labels that point to a version, sorted."""
        return [LATEST, STABLE] if number == self._newest() else []

    async def resolve(
        self, selector: model_pb2.ModelSelector, deadline: Deadline
    ) -> tuple[ServedVersion, str]:
        """The version that a selector means, and the label by which it was found ("" for a number).

        While versions change, a label may for a moment mean nothing that is proven; then this waits.

        Raises:
            ModelNotFoundError, ModelLabelNotFoundError, ModelVersionNotFoundError, ModelVersionRejectedError,
            ModelSelectorInvalidError: The selector names nothing that may answer.
            ModelNotReadyError, BackendUnavailableError: Nothing may answer now.
        """
        self.check_model(selector.name)
        if selector.WhichOneof("selection") == "version":
            return self._by_number(selector.version), ""
        label = label_of(self.model, selector)
        give_up = deadline.capped(self._swap_wait)
        while True:
            number = self._newest() if self.connected else None
            version = self._entries[number].ready if number is not None else None
            if version is not None:
                return version, label
            if not (self._may_soon_be_ready() and await self._changes(give_up)):
                raise self._not_ready()

    def current(self, version: ServedVersion) -> bool:
        """Whether a version that was chosen earlier may still answer, and is still the same."""
        entry = self._entries.get(version.number)
        now = entry.ready if entry is not None and self.connected else None
        return now is version or (now is not None and now.digest == version.digest)

    async def confirm(self, version: ServedVersion, deadline: Deadline) -> None:
        """Waits until a version that was chosen earlier may answer, which it nearly always may at once.

        Raises:
            VersionUnloadedError: It was unloaded or rejected, or another one has its number now.
            VersionLostError: The model server has been away, or the version's new proof has lasted, for too
                long.
        """
        give_up: Deadline | None = None
        while not self.current(version):
            entry = self._entries.get(version.number)
            if self.connected and (entry is None or entry.state not in {LOADING, PROVING}):
                raise VersionUnloadedError("the version is no longer the one that was chosen")
            give_up = give_up or deadline.capped(self._swap_wait)
            if not await self._changes(give_up):
                raise VersionLostError(
                    f"version {version.number} of model {self.model} cannot be reached or is proven again"
                )

    def check_model(self, name: str) -> None:
        """Refuses a model name other than the gateway's; empty is fine.

        Raises:
            ModelNotFoundError: It is another one.
        """
        if name not in {"", self.model}:
            raise ModelNotFoundError(
                f"no model {name!r} is served here, only {self.model!r}", resource=("model", name)
            )

    def unloaded(self, version: ServedVersion) -> None:
        """Takes note that the model server refused a version as not loaded, and looks again at once."""
        self._look_again()
        entry = self._entries.get(version.number)
        if entry is not None and entry.ready is version:
            self._withdraw(entry, RETIRED)

    def doubt(self) -> None:
        """Takes note that a call did not reach the model server, and looks again, but not for each."""
        if time.monotonic() - self._polled_at >= _DOUBT_SECONDS:
            self._look_again()

    async def run(self) -> None:
        """Polls until cancelled."""
        watching = asyncio.create_task(self._watch_connection())
        try:
            while True:
                self._wake.clear()
                try:
                    await self._poll()
                except Exception as error:  # noqa: BLE001 - a defect here must not end the polling
                    log(logging.ERROR, "poll_failed", error=error)
                    self._missed(InternalError("the poll failed unforeseen"))
                pause = min(self._poll_interval, _POLL_AFTER_MISS_SECONDS if self._misses else math.inf)
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            watching.cancel()
            for entry in self._entries.values():
                if entry.proof is not None:
                    entry.proof.cancel()

    async def _watch_connection(self) -> None:
        while True:
            # Another server may take the port between two polls, and only this tells.
            await self._backend.disconnected()
            self._look_again()
            self._lose("the connection ended")

    def _look_again(self) -> None:
        self._poll_due = True
        self._wake.set()

    async def _poll(self) -> None:
        try:
            seen = await self._backend.versions(self.model, seconds=_POLL_TIMEOUT_SECONDS)
        except GatewayError as error:
            self._missed(error)
        else:
            self._misses = 0
            if not self.connected:
                self.connected, self._told_lost = True, False
                log(logging.INFO, "backend_connected", model=self.model)
                self._notify()
            # Newest first, because proofs run in this order: with several versions loaded, a gateway that has
            # just started must not answer from an old one while the newest waits for its proof.
            for version in sorted(seen, key=lambda version: version.number, reverse=True):
                self._observe(version)
            for number in self._entries.keys() - {version.number for version in seen}:
                self._withdraw(self._entries[number], RETIRED)
        self._polled_at = time.monotonic()
        if self._poll_due and not self._wake.is_set():
            # A wake-up that came during the poll may be about something that the poll did not see yet.
            self._poll_due = False
            self._notify()
        else:
            self._tell_health()

    def _missed(self, error: GatewayError) -> None:
        self._misses += 1
        unreachable = isinstance(error, BackendUnavailableError)
        if self._misses >= (_REFUSALS_UNTIL_LOST if unreachable else _MISSES_UNTIL_LOST):
            self._lose(error.message)

    def _lose(self, reason: str) -> None:
        if not self._told_lost:
            self._told_lost = True
            log(logging.WARNING, "backend_unreachable", model=self.model, reason=reason)
        self.connected = False
        for entry in self._entries.values():
            if entry.state != RETIRED:
                self._withdraw(entry, LOADING)
        self._notify()

    def _observe(self, seen: BackendVersion) -> None:
        entry = self._entries.get(seen.number)
        if entry is None:
            entry = self._entries[seen.number] = Entry(seen.number, LOADING, time.time())
        match seen.state:
            case _TFS.STATE_AVAILABLE:
                if entry.may_be_proven:
                    self._move(entry, PROVING, entry.reason)
                    entry.proof = asyncio.create_task(self._prove(entry))
            case _TFS.STATE_START | _TFS.STATE_LOADING:
                self._withdraw(entry, LOADING)
            case _TFS.STATE_END if seen.error:
                if entry.state != REJECTED:
                    log(logging.WARNING, "version_failed_to_load", version=seen.number, message=seen.error)
                self._withdraw(entry, REJECTED, f"the model server could not load it: {tidy(seen.error)}")
            case _:
                self._withdraw(entry, RETIRED)

    async def _prove(self, entry: Entry) -> None:
        async with self._one_proof:
            state, reason = await attempt_proof(
                entry, self.model, self._backend, self._transforms, seconds_per_call=self._proof_timeout
            )
        self._move(entry, state, reason)
        entry.proof = None

    def _by_number(self, number: int) -> ServedVersion:
        check_number(number)
        if not self.connected:
            raise self._not_ready()
        entry = self._entries.get(number)
        if entry is None or entry.ready is None:
            raise not_answering(self.model, number, entry)
        return entry.ready

    def _newest(self) -> int | None:
        return max((entry.number for entry in self._entries.values() if entry.state == READY), default=None)

    def _may_soon_be_ready(self) -> bool:
        # A version that is being loaded is worth waiting for only where the one before has just gone: from
        # nothing to a first version the wait may be long, and a caller learns more from an error.
        soon = {PROVING, LOADING} if self._swapping() else {PROVING}
        return self._poll_due or any(entry.state in soon for entry in self._entries.values())

    def _swapping(self) -> bool:
        return time.monotonic() - self._ready_lost_at < self._swap_wait

    async def _changes(self, give_up: Deadline) -> bool:
        """Waits for the next change; whether it came in time."""
        remaining = give_up.remaining()
        if remaining <= 0:
            return False
        try:
            async with asyncio.timeout(remaining):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _not_ready(self) -> GatewayError:
        if not self.connected:
            return BackendUnavailableError("the model server cannot be reached")
        return ModelNotReadyError(f"no version of model {self.model} is READY for this call yet")

    def _withdraw(self, entry: Entry, state: State, reason: str = "") -> None:
        """Moves a version out of PROVING or READY, or from one of the other states to another."""
        if entry.proof is not None:
            entry.proof.cancel()
            entry.proof = None
        entry.forget_interruptions()
        self._move(entry, state, reason)

    def _move(self, entry: Entry, state: State, reason: str = "") -> None:
        reason = cut(reason)
        if (entry.state, entry.reason) == (state, reason):
            return
        log(
            logging.INFO,
            "version_state",
            version=entry.number,
            before=State.Name(entry.state),
            state=State.Name(state),
        )
        if entry.state == READY:
            self._ready_lost_at = time.monotonic()
        entry.state, entry.reason, entry.since = state, reason, time.time()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._tell_health()

    def _tell_health(self) -> None:
        ready = self._newest() is not None
        # While versions change, calls wait for the next proof rather than fail, so for as long as they wait
        # that is no interruption.
        waiting = self.serving and self._swapping() and self._may_soon_be_ready()
        serving = self.connected and (ready or waiting)
        if serving != self.serving:
            self.serving = serving
            self.on_change()
