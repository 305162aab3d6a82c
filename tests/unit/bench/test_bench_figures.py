"""Arrival schedules, percentiles, figures and the rates that pass."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurogate_bench.schedule import poisson_arrivals, share_arrivals
from neurogate_bench.stats import figure, highest_passing, median, percentile, ratios


def test_arrivals_are_the_same_for_the_same_seed_and_others_for_another():
    assert poisson_arrivals(50, 2, seed=7) == poisson_arrivals(50, 2, seed=7)
    assert poisson_arrivals(50, 2, seed=7) != poisson_arrivals(50, 2, seed=8)


def test_arrivals_ascend_within_the_time_at_the_rate():
    arrivals = poisson_arrivals(200, 50, seed=1)
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0
    assert arrivals[-1] < 50
    # 10,000 expected: five standard deviations are 500.
    assert abs(len(arrivals) - 10_000) < 500
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    # The exponential distribution's own mark: its deviation is its mean.
    assert deviation == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_arrivals_need_a_positive_rate_and_time(rate, seconds):
    with pytest.raises(ValueError, match="must be positive"):
        poisson_arrivals(rate, seconds, seed=0)


@given(st.lists(st.floats(0, 100), max_size=50).map(sorted), st.integers(1, 7))
def test_shared_arrivals_are_together_what_they_were(arrivals, parts):
    shared = share_arrivals(arrivals, parts)
    assert len(shared) == parts
    assert sorted(offset for part in shared for offset in part) == arrivals
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_a_measured_value_by_nearest_rank(percent, expected):
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_percentile_of_nothing_is_unknown_and_of_nonsense_refused():
    assert math.isnan(percentile([], 50))
    with pytest.raises(ValueError, match=r"0\.\.100"):
        percentile([1], 101)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.floats(0, 100))
def test_percentile_is_one_of_the_values_and_enough_do_not_exceed_it(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(len(values) * percent / 100)


def test_median_of_an_even_number_lies_in_the_middle():
    assert median([4, 1, 3, 2]) == 2.5
    assert median([5, 1, 3]) == 3
    assert math.isnan(median([]))


def test_figure_leaves_unknown_runs_out_of_the_median_but_keeps_them():
    found = figure("gateway", "p50", "ms", [3.0, math.nan, 1.0])
    assert (found["median"], found["min"], found["max"]) == (2.0, 1.0, 3.0)
    assert len(found["runs"]) == 3
    assert math.isnan(figure("gateway", "p50", "ms", [math.nan])["median"])


def test_ratios_are_taken_run_by_run():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert math.isnan(ratios([1.0], [0.0])[0])
    with pytest.raises(ValueError, match="argument"):
        ratios([1.0], [1.0, 2.0])


def test_a_pass_above_a_failure_does_not_count():
    passing = {0.5, 0.7, 0.9}
    assert highest_passing([0.9, 0.5, 0.8, 0.7], passing.__contains__) == 0.7
    assert highest_passing([0.8], passing.__contains__) == 0
