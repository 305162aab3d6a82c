"""Where a version stands, over all model servers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Final

from .entries import LOADING, PROVING, READY, REJECTED, RETIRED, Entry, State
from .proof import ServedVersion
from .rejection import Rejection

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
    """Whether the model server calls it AVAILABLE, whatever is proven."""
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
    number: int, entries: Iterable[tuple[str, Entry]], before: VersionView | None, refusal: str = ""
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
        answered=(before is not None and before.answered) or any(entry.proofs for _, entry in pairs),
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
