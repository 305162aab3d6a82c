"""What a release needs without anybody asking: a first version, news of published ones, an end to old ones.

Pure: from what is known now to the change that is due. Every gateway over a repository comes to the same, and
the store lets one of them make it.
"""

from __future__ import annotations

from neurogate_core.release_store import CANDIDATE, PROMOTE, RETIRE, Draft, Release

from . import transitions
from .traffic_split import STABLE

GATEWAY = "gateway"
"""Who changes the release when nobody asked."""


def due(
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
        after = transitions.first(state, version, now=now)
        return Draft(action=PROMOTE, state=after, actor=GATEWAY, reason=reason)
    news = {version for version in published if version > state.highest}
    if news:
        version = max(news)
        after = transitions.candidate(state, version, now=now)
        reason = f"version {version} was published"
        return Draft(action=CANDIDATE, state=after, actor=GATEWAY, reason=reason)
    old = sorted(version for version, since in state.draining.items() if now - since >= retire_after)
    if old:
        listed = ", ".join(map(str, old))
        reason = f"without a label for {retire_after:g} s: {listed}"
        return Draft(action=RETIRE, state=transitions.retire(state, old), actor=GATEWAY, reason=reason)
    return None


def superfluous(
    release: Release, *, published: frozenset[int], loaded: frozenset[int], keep: int
) -> list[int]:
    """Versions on disk that nobody misses, oldest first.

    Never one with a label, one that drains or is loaded, and never one above the highest that had a label: it
    is news that nobody has looked at.

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
