"""How many calls a model server may have: low at first, halved by a refusal, and soon back."""

from __future__ import annotations

import pytest
from neurogate_gateway.backends.concurrency_limit import START, ConcurrencyLimit


def wait(limit: ConcurrencyLimit, seconds: float) -> list[int]:
    """What the limit is while calls wait, every hundredth of a second."""
    values = []
    for _ in range(round(seconds * 100)):
        limit.waited(0.01)
        values.append(limit.value)
    return values


def test_it_begins_with_what_a_server_on_one_core_takes() -> None:
    assert ConcurrencyLimit().value == START == 3


def test_it_rises_only_while_calls_wait_and_no_higher_than_it_may() -> None:
    limit = ConcurrencyLimit(most=20)
    assert limit.value == 3
    values = wait(limit, 3)
    assert values == sorted(values)
    assert values[-1] == 20
    assert ConcurrencyLimit(most=2).value == 2


def test_a_refusal_halves_it() -> None:
    limit = ConcurrencyLimit()
    wait(limit, 5)
    limit.fall(others=40)
    assert limit.value == 20


def test_it_stays_below_where_it_was_refused_for_a_while_and_is_higher_within_two_seconds() -> None:
    limit = ConcurrencyLimit()
    limit.fall(others=31)
    values = wait(limit, 2)
    assert max(values[:60]) < 31
    assert values[50] >= 24
    assert values[-1] >= 62


@pytest.mark.parametrize("others", [0, 1, 2])
def test_it_never_falls_below_one_and_comes_back_from_there(others: int) -> None:
    limit = ConcurrencyLimit()
    limit.fall(others)
    assert limit.value == 1
    assert wait(limit, 2)[-1] >= 6


def test_a_burst_makes_it_fall_once_and_to_where_there_was_room() -> None:
    limit = ConcurrencyLimit()
    wait(limit, 5)
    limit.fall(others=12)
    assert limit.value == 6
    for others in (11, 10, 9):
        limit.correct(others)
    assert limit.value >= 4
    assert max(wait(limit, 0.5)) <= 8


def test_a_fixed_one_is_what_it_was_set_to() -> None:
    limit = ConcurrencyLimit(fixed=7)
    limit.fall(others=2)
    limit.correct(others=1)
    assert (limit.value, wait(limit, 3)[-1]) == (7, 7)
