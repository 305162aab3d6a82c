"""What a promotion, a rollback, a split and the rest make of a release, and which change is due by itself.

Pure functions of the labels. Whether a version is READY, and whether the gate accepts it, is asked before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from neurogate.v1 import error_pb2
from neurogate_core.release_store import CANDIDATE as CANDIDATE_ACTION
from neurogate_core.release_store import PROMOTE, RETIRE, Draft, Release, State

from neurogate_gateway.errors import GatewayError

from .router import CANARY, CANDIDATE, PREVIOUS, SHADOW, STABLE

GATEWAY = "gateway"
"""The actor of changes that a gateway makes by itself."""


def first(state: State, version: int, *, now: float) -> State:
    """A version becomes "stable" where nothing was."""
    return _with(state, {**state.labels, STABLE: version}, now=now)


def candidate(state: State, version: int, *, now: float) -> State:
    """A version that was published becomes "candidate", in place of the one before."""
    return _with(state, {**state.labels, CANDIDATE: version}, now=now)


def promote(state: State, version: int, *, now: float) -> State:
    """A version becomes "stable", the one before "previous"; no change where it is "stable" already."""
    before = state.labels.get(STABLE)
    if before == version:
        return state
    labels = _without(state.labels, version, (CANARY, CANDIDATE, SHADOW, PREVIOUS))
    labels[STABLE] = version
    if before is not None:
        labels[PREVIOUS] = before
    changed = _with(state, labels, now=now)
    return dataclasses.replace(changed, promoted_at=None if before is None else now)


def rollback(state: State, *, now: float) -> State:
    """The labels "previous" and "stable" change places.

    Raises:
        GatewayError (NOTHING_TO_ROLL_BACK): There is no "previous".
    """
    if PREVIOUS not in state.labels or STABLE not in state.labels:
        raise GatewayError(
            error_pb2.ERROR_REASON_NOTHING_TO_ROLL_BACK, 'there is no "previous" version to go back to'
        )
    back = state.labels[PREVIOUS]
    labels = _without(state.labels, back, (CANARY, CANDIDATE, SHADOW))
    labels |= {STABLE: back, PREVIOUS: state.labels[STABLE]}
    return dataclasses.replace(_with(state, labels, now=now), promoted_at=None)


def split(state: State, *, canary: int, percent: float, shadow: int, now: float) -> State:
    """Sets canary and shadow as a whole; 0 means none.

    Raises:
        GatewayError (TRAFFIC_SPLIT_INVALID): The share is out of its range, or does not fit the versions.
    """
    stable = state.labels.get(STABLE)
    for field, version in (("canary_version", canary), ("shadow_version", shadow)):
        if version < 0:
            raise GatewayError(
                error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
                f"{field} is {version}, expected 0 for none or more",
                field=field,
            )
        if version and version == stable:
            raise GatewayError(
                error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
                f'version {version} is "stable" already',
                field=field,
            )
    if not math.isfinite(percent) or not 0 <= percent <= 100:
        raise GatewayError(
            error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
            f"the share is {percent:g} percent, expected 0 to 100",
            field="canary_percent",
        )
    if canary and not percent:
        raise GatewayError(
            error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
            f"version {canary} is to be canary without a share",
            field="canary_percent",
        )
    if percent and not canary:
        raise GatewayError(
            error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
            f"a share of {percent:g} percent has no canary version",
            field="canary_version",
        )
    if canary and canary == shadow:
        raise GatewayError(
            error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID,
            f"version {canary} cannot be canary and shadow at once",
            field="shadow_version",
        )
    labels = {label: version for label, version in state.labels.items() if label not in {CANARY, SHADOW}}
    labels |= {label: version for label, version in ((CANARY, canary), (SHADOW, shadow)) if version}
    return _with(state, labels, now=now, canary_percent=percent)


def end_canary(state: State, *, now: float) -> State:
    """Callers get "stable" only."""
    labels = {label: version for label, version in state.labels.items() if label != CANARY}
    return _with(state, labels, now=now)


def retire(state: State, versions: Iterable[int]) -> State:
    """Versions without a label are let go."""
    gone = set(versions)
    draining = {version: since for version, since in state.draining.items() if version not in gone}
    return dataclasses.replace(state, draining=draining)


def next_change(
    release: Release,
    *,
    published: frozenset[int],
    ready: frozenset[int],
    with_policy: frozenset[int],
    now: float,
    retire_after: float,
) -> Draft | None:
    """The change that is due; None when all is as it should be.

    Args:
        release: As it is.
        published: Versions in the repository.
        ready: Versions that are READY.
        with_policy: Those of them that have a gate policy of their own. No gate is asked about the first
            version, so they are it only where there is no other.
        now: Unix time.
        retire_after: Seconds for which a version that has lost its last label stays loaded.
    """
    state = release.state
    if STABLE not in state.labels:
        able = ready & published
        if not able:
            return None
        version = max(able - with_policy or able)
        reason = f'version {version} is the first that is READY, and nothing was "stable"'
        after = first(state, version, now=now)
        return Draft(action=PROMOTE, state=after, actor=GATEWAY, reason=reason)
    news = {version for version in published if version > state.highest}
    if news:
        version = max(news)
        after = candidate(state, version, now=now)
        reason = f"version {version} was published"
        return Draft(action=CANDIDATE_ACTION, state=after, actor=GATEWAY, reason=reason)
    old = sorted(version for version, since in state.draining.items() if now - since >= retire_after)
    if old:
        listed = ", ".join(map(str, old))
        reason = f"without a label for {retire_after:g} s: {listed}"
        return Draft(action=RETIRE, state=retire(state, old), actor=GATEWAY, reason=reason)
    return None


def versions_to_prune(
    release: Release, *, published: frozenset[int], loaded: frozenset[int], keep: int
) -> list[int]:
    """Versions to remove from the disk, oldest first.

    Never one that has a label, drains or is loaded, and never one above the highest that had a label: that
    one becomes "candidate" first.

    Args:
        release: As it is.
        published: Versions in the repository.
        loaded: Versions that a model server has loaded, or is loading.
        keep: How many others are kept, the newest ones; 0 keeps all.
    """
    state = release.state
    if not keep or STABLE not in state.labels:
        return []
    needed = {*state.labels.values(), *state.draining, *loaded}
    others = sorted(version for version in published - needed if version < state.highest)
    return others[: max(0, len(others) - keep)]


def _without(labels: Mapping[str, int], version: int, names: tuple[str, ...]) -> dict[str, int]:
    return {label: number for label, number in labels.items() if not (label in names and number == version)}


def _with(state: State, labels: dict[str, int], *, now: float, canary_percent: float | None = None) -> State:
    """The state with other labels: what lost its last one drains from now on."""
    percent = state.canary_percent if canary_percent is None else canary_percent
    lost = {*state.labels.values(), *state.draining} - {*labels.values()}
    return dataclasses.replace(
        state,
        labels=labels,
        canary_percent=percent if CANARY in labels else 0.0,
        draining={version: state.draining.get(version, now) for version in sorted(lost)},
        highest=max([state.highest, *labels.values()]),
    )
