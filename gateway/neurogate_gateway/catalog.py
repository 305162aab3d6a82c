"""Which versions of the model may answer, and why the others may not.

The catalog polls the model server. A version that the server calls AVAILABLE is read and proven (PROVING)
and only then READY; one that fails is REJECTED until the server loads it anew; one that leaves is RETIRED.
When the server cannot be reached nothing answers, and when it is back every version is proven again: it may
be another server.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import model_pb2

from .admission import Deadline
from .backend import Backend, BackendVersion, VersionUnloadedError
from .errors import (
    BackendUnavailableError,
    GatewayError,
    ModelLabelNotFoundError,
    ModelNotFoundError,
    ModelNotReadyError,
    ModelSelectorInvalidError,
    ModelVersionNotFoundError,
    ModelVersionRejectedError,
)
from .labels import STABLE, LabelTable
from .proof import ServedVersion, UnprovenError, prove, read_version
from .telemetry import log
from .transforms import TransformPool

State = model_pb2.ModelVersionState
LOADING: Final = model_pb2.MODEL_VERSION_STATE_LOADING
PROVING: Final = model_pb2.MODEL_VERSION_STATE_PROVING
READY: Final = model_pb2.MODEL_VERSION_STATE_READY
REJECTED: Final = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED: Final = model_pb2.MODEL_VERSION_STATE_RETIRED

_TFS = tfs_pb2.ModelVersionStatus
_MISSES_UNTIL_LOST: Final = 3
"""Polls in a row that may time out on a busy server before it counts as lost."""
_POLL_TIMEOUT_SECONDS: Final = 2.0


@dataclasses.dataclass(slots=True)
class Entry:
    """One version as the catalog sees it."""

    number: int
    state: State
    since: float
    """Unix time of the last change of state."""
    reason: str = ""
    version: ServedVersion | None = None
    """Its manifest, once read; only a READY one may answer."""
    proof: asyncio.Task[None] | None = None


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
        self.labels = LabelTable()
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
        self._one_proof = asyncio.Lock()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._poll_due = True

    def entries(self) -> list[Entry]:
        """All versions, newest first."""
        return [self._entries[number] for number in sorted(self._entries, reverse=True)]

    def labels_of(self, number: int) -> list[str]:
        """The labels that point to a version, sorted."""
        return self.labels.of(number, self._ready())

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
        label = selector.label if selector.WhichOneof("selection") else STABLE
        if not label:
            raise ModelSelectorInvalidError("the label is empty", field="model.label")
        if label not in self.labels:
            raise ModelLabelNotFoundError(
                f"model {self.model} has no label {label!r}", resource=("label", label), field="model.label"
            )
        give_up = deadline.capped(self._swap_wait)
        while True:
            number = self.labels.version(label, self._ready()) if self.connected else None
            if number is not None:
                version = self._entries[number].version
                assert version is not None  # noqa: S101 - READY entries have one
                return version, label
            remaining = give_up.remaining()
            if not self._may_soon_be_ready() or remaining <= 0:
                raise self._not_ready()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                raise self._not_ready() from None

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
        self._poll_due = True
        self._wake.set()
        entry = self._entries.get(version.number)
        if entry is not None and entry.version is version:
            self._withdraw(entry, RETIRED)

    async def run(self) -> None:
        """Polls until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._poll()
                except Exception as error:  # noqa: BLE001 - a defect here must not end the polling
                    log(logging.ERROR, "poll_failed", error=error)
                try:
                    async with asyncio.timeout(self._poll_interval):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for entry in self._entries.values():
                if entry.proof is not None:
                    entry.proof.cancel()

    async def _poll(self) -> None:
        try:
            seen = await self._backend.versions(self.model, seconds=_POLL_TIMEOUT_SECONDS)
        except GatewayError as error:
            self._missed(error)
        else:
            self._misses = 0
            if not self.connected:
                self.connected = True
                log(logging.INFO, "backend_connected", model=self.model)
            # Newest first, because proofs run in this order: with several versions loaded, a gateway that has
            # just started must not answer from an old one while the newest waits for its proof.
            for version in sorted(seen, key=lambda version: version.number, reverse=True):
                self._observe(version)
            for number in self._entries.keys() - {version.number for version in seen}:
                self._withdraw(self._entries[number], RETIRED)
        # A wake-up that came during the poll may be about something that the poll did not see yet.
        self._poll_due = self._wake.is_set()
        self._notify()

    def _missed(self, error: GatewayError) -> None:
        self._misses += 1
        if not isinstance(error, BackendUnavailableError) and self._misses < _MISSES_UNTIL_LOST:
            return
        if self.connected or self._misses == 1:
            log(logging.WARNING, "backend_unreachable", model=self.model, reason=error.message)
        self.connected = False
        for entry in self._entries.values():
            if entry.state != RETIRED:
                self._withdraw(entry, LOADING)

    def _observe(self, seen: BackendVersion) -> None:
        entry = self._entries.get(seen.number)
        if entry is None:
            entry = self._entries[seen.number] = Entry(seen.number, LOADING, time.time())
        match seen.state:
            case _TFS.STATE_AVAILABLE:
                if entry.state in {LOADING, RETIRED}:
                    self._move(entry, PROVING)
                    entry.proof = asyncio.create_task(self._prove(entry))
            case _TFS.STATE_START | _TFS.STATE_LOADING:
                self._withdraw(entry, LOADING)
            case _TFS.STATE_END if seen.error:
                if entry.state != REJECTED:
                    log(logging.WARNING, "version_failed_to_load", version=seen.number, message=seen.error)
                self._withdraw(entry, REJECTED, f"the model server could not load it: {_tidy(seen.error)}")
            case _:
                self._withdraw(entry, RETIRED)

    async def _prove(self, entry: Entry) -> None:
        start = time.monotonic()
        try:
            async with self._one_proof:
                version = await read_version(
                    self.model, entry.number, self._backend, seconds_per_call=self._proof_timeout
                )
                entry.version = version
                await prove(version, self._backend, self._transforms, seconds_per_call=self._proof_timeout)
        except UnprovenError as error:
            log(logging.ERROR, "version_rejected", version=entry.number, reason=str(error))
            self._move(entry, REJECTED, str(error))
        except (VersionUnloadedError, GatewayError) as error:
            # Nothing is known about the version; the next poll begins anew.
            log(logging.WARNING, "proof_interrupted", version=entry.number, reason=str(error))
            self._move(entry, LOADING)
        except Exception as error:  # noqa: BLE001 - a version that breaks the proof must not serve either
            log(logging.ERROR, "version_rejected", version=entry.number, error=error)
            self._move(entry, REJECTED, "the proof failed unforeseen; the gateway's log has the details")
        else:
            seconds = round(time.monotonic() - start, 3)
            goldens = len(version.manifest.goldens)
            log(logging.INFO, "version_ready", version=entry.number, goldens=goldens, seconds=seconds)
            self._move(entry, READY)
        entry.proof = None

    def _by_number(self, number: int) -> ServedVersion:
        if number < 1:
            raise ModelSelectorInvalidError(
                f"the version is {number}, expected at least 1", field="model.version"
            )
        if not self.connected:
            raise self._not_ready()
        entry = self._entries.get(number)
        if entry is not None and entry.state == READY and entry.version is not None:
            return entry.version
        resource = ("model_version", f"{self.model}/{number}")
        if entry is not None and entry.state == REJECTED:
            raise ModelVersionRejectedError(
                f"version {number} of model {self.model} was rejected: {entry.reason}",
                resource=resource,
                metadata={"state_reason": entry.reason},
            )
        state = "unknown" if entry is None else State.Name(entry.state).removeprefix("MODEL_VERSION_STATE_")
        raise ModelVersionNotFoundError(
            f"model {self.model} has no version {number} that is READY; it is {state}", resource=resource
        )

    def _ready(self) -> list[int]:
        return [entry.number for entry in self._entries.values() if entry.state == READY]

    def _may_soon_be_ready(self) -> bool:
        return self._poll_due or any(entry.state == PROVING for entry in self._entries.values())

    def _not_ready(self) -> GatewayError:
        if not self.connected:
            return BackendUnavailableError("the model server cannot be reached")
        return ModelNotReadyError(f"no version of model {self.model} is READY for this call yet")

    def _withdraw(self, entry: Entry, state: State, reason: str = "") -> None:
        """Moves a version out of PROVING or READY, or from one of the other states to another."""
        if entry.proof is not None:
            entry.proof.cancel()
            entry.proof = None
        entry.version = None
        self._move(entry, state, reason)

    def _move(self, entry: Entry, state: State, reason: str = "") -> None:
        if (entry.state, entry.reason) == (state, reason):
            return
        log(
            logging.INFO,
            "version_state",
            version=entry.number,
            before=State.Name(entry.state),
            state=State.Name(state),
        )
        entry.state, entry.reason, entry.since = state, reason, time.time()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        ready = self.labels.version(STABLE, self._ready()) is not None
        # While versions change, calls wait for the next proof rather than fail, so that is no interruption.
        self.serving = self.connected and (ready or (self.serving and self._may_soon_be_ready()))
        self.on_change()


def _tidy(text: str) -> str:
    """The first line without paths: they are the model server's own affair."""
    return re.sub(r"(?:/[\w.@+-]+){2,}/?", "(path)", text.partition("\n")[0])[:300]
