"""What is due without anybody asking, and which versions nobody misses."""

from __future__ import annotations

import pytest
from neurogate_core.release_store import CANDIDATE, PROMOTE, RETIRE, Draft, Release, State
from neurogate_gateway.release.reconcile import due, superfluous

NOW = 1000.0


def check(
    state: State,
    *,
    published: set[int],
    ready: set[int],
    with_policy: frozenset[int] = frozenset(),
    retire_after: float = 60,
) -> Draft | None:
    return due(
        Release(state=state),
        published=frozenset(published),
        ready=frozenset(ready),
        with_policy=with_policy,
        now=NOW,
        retire_after=retire_after,
    )


def test_the_highest_ready_version_is_the_first() -> None:
    assert check(State(), published={1, 2, 3}, ready=set()) is None
    draft = check(State(), published={1, 2, 3}, ready={1, 2})
    assert draft is not None
    assert (draft.action, draft.actor, draft.state.labels) == (PROMOTE, "gateway", {"stable": 2})


@pytest.mark.parametrize(("ready", "stable"), [({1, 2, 3}, 1), ({2, 3}, 3), ({2}, 2), ({1, 2, 4}, 1)])
def test_a_gate_policy_of_its_own_lets_others_go_first(ready: set[int], stable: int) -> None:
    draft = check(State(), published={1, 2, 3}, ready=ready, with_policy=frozenset({2, 3}))
    assert draft is not None
    assert draft.state.labels == {"stable": stable}


def test_what_is_not_in_the_repository_is_not_the_first() -> None:
    assert check(State(), published=set(), ready={7}) is None


def test_news_become_candidate_once() -> None:
    state = State(labels={"stable": 2}, highest=2)
    draft = check(state, published={1, 2, 3, 4}, ready={2})
    assert draft is not None
    assert (draft.action, draft.state.labels) == (CANDIDATE, {"stable": 2, "candidate": 4})
    assert check(draft.state, published={1, 2, 3, 4}, ready={2}) is None
    # One that had a label is no news, whatever became of it.
    back = State(labels={"stable": 2, "previous": 4}, highest=4)
    assert check(back, published={1, 2, 3, 4}, ready={2, 4}) is None


def test_versions_are_let_go_when_their_time_is_over() -> None:
    state = State(labels={"stable": 4}, draining={1: NOW - 61, 2: NOW - 60, 3: NOW - 59}, highest=4)
    draft = check(state, published={1, 2, 3, 4}, ready={4})
    assert draft is not None
    assert (draft.action, draft.state.draining) == (RETIRE, {3: NOW - 59})
    assert draft.reason == "without a label for 60 s: 1, 2"
    assert check(draft.state, published={1, 2, 3, 4}, ready={4}) is None


def test_retention_never_touches_what_somebody_needs() -> None:
    state = State(labels={"stable": 8, "previous": 3, "shadow": 1}, draining={4: NOW}, highest=8)
    published = frozenset(range(1, 11))

    def old(keep: int, loaded: frozenset[int] = frozenset()) -> list[int]:
        return superfluous(Release(state=state), published=published, loaded=loaded, keep=keep)

    # 9 and 10 are news; 1, 3, 8 have labels; 4 drains.
    assert old(1) == [2, 5, 6]
    assert old(3) == [2]
    assert old(4) == []
    assert old(0) == []
    assert old(1, loaded=frozenset({5})) == [2, 6]
    assert superfluous(Release(), published=published, loaded=frozenset(), keep=1) == []
