"""Percentiles, and figures of several runs."""

from __future__ import annotations

import math

import pytest
from neurogate_bench.stats import figure, median, percentile, ratios


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_a_measured_value_by_nearest_rank(percent, expected):
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_nothing_has_no_percentile_and_no_median():
    assert math.isnan(percentile([], 50))
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
