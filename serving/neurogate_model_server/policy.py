"""The availability-preserving policy: what to load or unload next, so that a model always has a version."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Phase(enum.Enum):
    """How far the manager has come with a version."""

    NEW = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    UNLOADING = enum.auto()
    UNLOADED = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the policy knows of a version: whether the source wants it, and how far it is."""

    version: int
    phase: Phase
    aspired: bool


@dataclass(frozen=True, slots=True)
class Action:
    """The next step for a model: load or unload a version."""

    version: int
    load: bool


def next_action(versions: Iterable[Snapshot]) -> Action | None:
    """The next step for a model with these versions, None if all is as it should be.

    A version that is no longer wanted goes when a wanted one is ready, when none is wanted, or when another
    unwanted one still serves; so the last one that serves stays until its successor is ready. Unloading comes
    before loading, the newest version is loaded first.
    """
    snapshots = list(versions)
    aspired = [snapshot for snapshot in snapshots if snapshot.aspired]
    unwanted = [item.version for item in snapshots if not item.aspired and item.phase is Phase.READY]
    ready = any(snapshot.phase is Phase.READY for snapshot in aspired)
    if unwanted and (not aspired or ready or len(unwanted) > 1):
        return Action(min(unwanted), load=False)
    new = [snapshot.version for snapshot in aspired if snapshot.phase is Phase.NEW]
    return Action(max(new), load=True) if new else None
