"""Where one version stands: on one model server, and over all of them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from typing import Final

from neurogate.v1 import model_pb2

from .verification import Rejection, ServedVersion

State = model_pb2.ModelVersionState
LOADING: Final = model_pb2.MODEL_VERSION_STATE_LOADING
PROVING: Final = model_pb2.MODEL_VERSION_STATE_PROVING
READY: Final = model_pb2.MODEL_VERSION_STATE_READY
REJECTED: Final = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED: Final = model_pb2.MODEL_VERSION_STATE_RETIRED

_FAULTS_UNTIL_REJECTED: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0


@dataclasses.dataclass(slots=True)
class EndpointVersion:
    """One version as one model server has it."""

    number: int
    state: State
    since: float
    """Unix time of the last change of state."""
    reason: str = ""
    kind: Rejection | None = None
    """Of a REJECTED version."""
    version: ServedVersion | None = None
    """As it was last read; whether it may answer depends on the state alone."""
    loaded: bool = False
    """Whether the model server calls it AVAILABLE, whatever its verification says."""
    times_ready: int = 0
    """How often it became READY."""
    verification: asyncio.Task[None] | None = None
    _interruptions: int = 0
    _faults: int = 0
    _not_before: float = 0.0

    @property
    def ready(self) -> ServedVersion | None:
        """The version, while it may answer."""
        return self.version if self.state == READY else None

    @property
    def may_be_verified(self) -> bool:
        """Whether a verification may begin: none has, and the pause after an interrupted one is over."""
        return self.state in {LOADING, RETIRED} and time.monotonic() >= self._not_before

    def interrupted(self, *, fault: bool) -> bool:
        """Takes note of a verification without a result, after which the next one waits longer and longer.

        The first is followed by another at the next poll, because what interrupts verifications most often is
        a model server that just goes or comes.

        Args:
            fault: Something broke; otherwise the model server was away, slow or busy, which says nothing
                about the version however often it happens.

        Returns:
            Whether too many verifications in a row were faults for another one.
        """
        pause = _FIRST_PAUSE_SECONDS * 2 ** min(self._interruptions - 1, 10) if self._interruptions else 0.0
        self._interruptions += 1
        self._faults += fault
        self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE_SECONDS)
        return self._faults >= _FAULTS_UNTIL_REJECTED

    def forget_interruptions(self) -> None:
        """The next verification is the first of its kind."""
        self._interruptions, self._faults, self._not_before = 0, 0, 0.0


_FROM_BEST: Final = (READY, PROVING, LOADING, REJECTED, RETIRED)


@dataclasses.dataclass(frozen=True, slots=True)
class VersionOnBackend:
    """Where a version stands on one model server."""

    address: str
    state: State
    reason: str
    kind: Rejection | None
    """Of a REJECTED version."""
    since: float
    """Unix time of the last change of state."""
    loaded: bool
    """As `EndpointVersion.loaded`."""
    digest: str = ""
    """Of the manifest that it describes itself by; empty before it was read."""


@dataclasses.dataclass(frozen=True, slots=True)
class VersionView:
    """Where a version stands, over all model servers.

    Attributes:
        number: The version number.
        state: The best of its states.
        reason: Why it is in that state, where there is something to say.
        since: Unix time of the last change of state.
        version: As it was last read; None before. Whether it may answer depends on the state alone.
        answered: Whether it was READY before, anywhere.
        backends: The same for each model server that has seen it.
    """

    number: int
    state: State
    reason: str
    since: float
    version: ServedVersion | None
    answered: bool
    backends: tuple[VersionOnBackend, ...]


def view_of(
    number: int, entries: Iterable[tuple[str, EndpointVersion]], before: VersionView | None, refusal: str = ""
) -> VersionView:
    """A version as its entries, by address, say.

    Args:
        number: The version number.
        entries: What each model server that has seen the version says.
        before: The view so far. What no server knows of any more is RETIRED, and keeps its manifest.
        refusal: Why no server is told to load it; empty where nothing speaks against that.
    """
    pairs = sorted(entries, key=lambda pair: _FROM_BEST.index(pair[1].state))
    state, reason = (pairs[0][1].state, pairs[0][1].reason) if pairs else (RETIRED, "")
    if state == RETIRED and refusal:
        state, reason = REJECTED, refusal
    read = next((entry.version for _, entry in pairs if entry.version is not None), None)
    return VersionView(
        number=number,
        state=state,
        reason=reason,
        since=before.since if before is not None and before.state == state else time.time(),
        version=read if read is not None or before is None else before.version,
        answered=(before is not None and before.answered) or any(entry.times_ready for _, entry in pairs),
        backends=tuple(
            VersionOnBackend(
                address,
                entry.state,
                entry.reason,
                entry.kind,
                entry.since,
                entry.loaded,
                entry.version.digest if entry.version is not None else "",
            )
            for address, entry in sorted(pairs, key=lambda pair: pair[0])
        ),
    )
