"""What changes make of the labels, which change is due by itself, and which versions are pruned."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate_core.release_store import CANDIDATE, PROMOTE, RETIRE, Draft, Release, State
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.release import transitions
from neurogate_testing.refusals import refused

NOW = 1000.0
LIVE = State(labels={"stable": 2, "previous": 1, "candidate": 3}, highest=3)


def test_a_promotion_keeps_the_version_before_as_previous() -> None:
    after = transitions.promote(LIVE, 3, now=NOW)
    assert after.labels == {"stable": 3, "previous": 2}
    assert after.draining == {1: NOW}
    assert after.promoted_at == NOW
    assert transitions.promote(after, 3, now=NOW + 1) == after


def test_the_first_version_has_nothing_before_it() -> None:
    after = transitions.first(State(), 4, now=NOW)
    assert (after.labels, after.highest, after.promoted_at) == ({"stable": 4}, 4, None)


def test_a_rollback_swaps_and_can_be_undone() -> None:
    promoted = transitions.promote(LIVE, 3, now=NOW)
    back = transitions.rollback(promoted, now=NOW + 1)
    assert back.labels == {"stable": 2, "previous": 3}
    assert back.promoted_at is None
    assert transitions.rollback(back, now=NOW + 2).labels == promoted.labels
    with refused("NOTHING_TO_ROLL_BACK"):
        transitions.rollback(State(labels={"stable": 1}), now=NOW)


def test_promoting_the_canary_ends_it() -> None:
    split = transitions.split(LIVE, canary=3, percent=10, shadow=0, now=NOW)
    assert (split.labels["canary"], split.canary_percent) == (3, 10)
    after = transitions.promote(split, 3, now=NOW)
    assert (after.labels, after.canary_percent) == ({"stable": 3, "previous": 2}, 0)


def test_rolling_back_to_the_canary_ends_it() -> None:
    split = transitions.split(LIVE, canary=1, percent=5, shadow=0, now=NOW)
    after = transitions.rollback(split, now=NOW)
    assert (after.labels["stable"], "canary" in after.labels, after.canary_percent) == (1, False, 0)


def test_a_split_is_the_whole_split() -> None:
    both = transitions.split(LIVE, canary=3, percent=0.5, shadow=1, now=NOW)
    assert both.labels == {**LIVE.labels, "canary": 3, "shadow": 1}
    none = transitions.split(both, canary=0, percent=0, shadow=0, now=NOW)
    assert (none.labels, none.canary_percent) == (LIVE.labels, 0)
    assert transitions.end_canary(both, now=NOW).labels == {**LIVE.labels, "shadow": 1}


@pytest.mark.parametrize(
    ("canary", "percent", "shadow", "field"),
    [
        (2, 10, 0, "canary_version"),
        (0, 0, 2, "shadow_version"),
        (-1, 10, 0, "canary_version"),
        (0, 0, -1, "shadow_version"),
        (3, 0, 0, "canary_percent"),
        (3, -1, 0, "canary_percent"),
        (3, 100.1, 0, "canary_percent"),
        (3, math.nan, 0, "canary_percent"),
        (3, math.inf, 0, "canary_percent"),
        (0, 10, 0, "canary_version"),
        (3, 10, 3, "shadow_version"),
    ],
)
def test_invalid_splits(canary: int, percent: float, shadow: int, field: str) -> None:
    with refused("TRAFFIC_SPLIT_INVALID") as refusal:
        transitions.split(LIVE, canary=canary, percent=percent, shadow=shadow, now=NOW)
    assert refusal.value.field == field


def test_what_lost_its_label_drains_until_it_is_retired_or_wanted_again() -> None:
    state = transitions.candidate(LIVE, 4, now=NOW)
    assert state.draining == {3: NOW}
    assert transitions.split(state, canary=0, percent=0, shadow=3, now=NOW + 1).draining == {}
    later = transitions.promote(state, 4, now=NOW + 5)
    assert later.draining == {1: NOW + 5, 3: NOW}
    assert transitions.retire(later, [3]).draining == {1: NOW + 5}
    assert transitions.retire(later, [3]).labels == later.labels


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["promote", "rollback", "canary", "shadow", "candidate", "end"]),
            st.integers(1, 5),
        )
    )
)
def test_no_version_is_lost_on_any_way(steps: list[tuple[str, int]]) -> None:
    """Whatever had a label has one, or drains; a canary has a share and no other version has."""
    state = transitions.first(State(), 1, now=0)
    ever = {1}
    for turn, (action, version) in enumerate(steps):
        try:
            match action:
                case "promote":
                    state = transitions.promote(state, version, now=turn)
                case "rollback":
                    state = transitions.rollback(state, now=turn)
                case "canary":
                    state = transitions.split(state, canary=version, percent=50, shadow=0, now=turn)
                case "shadow":
                    state = transitions.split(state, canary=0, percent=0, shadow=version, now=turn)
                case "candidate":
                    state = transitions.candidate(state, version, now=turn)
                case "end":
                    state = transitions.end_canary(state, now=turn)
        except GatewayError:
            continue
        ever |= {*state.labels.values()}
        assert {*state.labels.values(), *state.draining} == ever
        assert not {*state.labels.values()} & state.draining.keys()
        assert state.labels["stable"] not in {state.labels.get("canary"), state.labels.get("previous")}
        assert ("canary" in state.labels) == (state.canary_percent > 0)
        assert state.highest == max(ever)


def check(
    state: State,
    *,
    published: set[int],
    ready: set[int],
    with_policy: frozenset[int] = frozenset(),
    retire_after: float = 60,
) -> Draft | None:
    return transitions.next_change(
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
def test_versions_without_a_gate_policy_of_their_own_become_first(ready: set[int], stable: int) -> None:
    draft = check(State(), published={1, 2, 3}, ready=ready, with_policy=frozenset({2, 3}))
    assert draft is not None
    assert draft.state.labels == {"stable": stable}


def test_what_is_not_in_the_repository_is_not_the_first() -> None:
    assert check(State(), published=set(), ready={7}) is None


def test_a_new_version_becomes_candidate_once() -> None:
    state = State(labels={"stable": 2}, highest=2)
    draft = check(state, published={1, 2, 3, 4}, ready={2})
    assert draft is not None
    assert (draft.action, draft.state.labels) == (CANDIDATE, {"stable": 2, "candidate": 4})
    assert check(draft.state, published={1, 2, 3, 4}, ready={2}) is None
    # One that had a label is no news, whatever became of it.
    back = State(labels={"stable": 2, "previous": 4}, highest=4)
    assert check(back, published={1, 2, 3, 4}, ready={2, 4}) is None


def test_draining_versions_are_retired_after_their_time() -> None:
    state = State(labels={"stable": 4}, draining={1: NOW - 61, 2: NOW - 60, 3: NOW - 59}, highest=4)
    draft = check(state, published={1, 2, 3, 4}, ready={4})
    assert draft is not None
    assert (draft.action, draft.state.draining) == (RETIRE, {3: NOW - 59})
    assert draft.reason == "without a label for 60 s: 1, 2"
    assert check(draft.state, published={1, 2, 3, 4}, ready={4}) is None


def test_pruning_keeps_versions_in_use() -> None:
    state = State(labels={"stable": 8, "previous": 3, "shadow": 1}, draining={4: NOW}, highest=8)
    published = frozenset(range(1, 11))

    def old(keep: int, loaded: frozenset[int] = frozenset()) -> list[int]:
        return transitions.versions_to_prune(
            Release(state=state), published=published, loaded=loaded, keep=keep
        )

    # 9 and 10 are news; 1, 3, 8 have labels; 4 drains.
    assert old(1) == [2, 5, 6]
    assert old(3) == [2]
    assert old(4) == []
    assert old(0) == []
    assert old(1, loaded=frozenset({5})) == [2, 6]
    assert transitions.versions_to_prune(Release(), published=published, loaded=frozenset(), keep=1) == []
