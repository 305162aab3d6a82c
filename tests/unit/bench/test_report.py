"""The form of result files, targets, and the page that is made of them."""

from __future__ import annotations

import json
import math

import pytest
from neurogate_bench import results
from neurogate_bench.stats import figure
from report import RESULTS, number, pivot, verdict, write_report

QUIET = {"mean": 0.02, "worst": 0.04}
BUSY = {"mean": 0.4, "worst": 0.9}


def result(**changes):
    """A real one, with figures and targets that are easy to read."""
    made = results.load_all(RESULTS)["null"] | {
        "figures": [
            figure("unary", "gateway CPU", "ms/image", [1.0, 3.0]),
            figure("stream", "gateway CPU", "ms/image", [math.nan]),
        ],
        "checks": {"answers": 10, "requests": 10, "problems": {}, "other_programs": QUIET},
        "targets": [results.target("cost", "<=", 2.0, 1.5, "CPU-ms")],
    }
    return made | changes


def test_a_result_survives_its_file(tmp_path):
    results.save(result(), tmp_path)
    found = results.load_all(tmp_path)["null"]
    assert found["figures"][0]["runs"] == [1.0, 3.0]
    assert math.isnan(found["figures"][1]["median"])
    assert [path.name for path in tmp_path.iterdir()] == ["null.json"]


def test_a_file_is_json_that_other_programs_read(tmp_path):
    path = results.save(result(), tmp_path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.pop("figures"), "lacks figures"),
        (lambda content: content.update(schema=0), f"is no result of schema {results.SCHEMA}"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(tmp_path, spoil, message):
    path = results.save(result(), tmp_path)
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"null\.json {message}"):
        results.load_all(tmp_path)


@pytest.mark.parametrize(
    ("comparison", "value", "met"),
    [("<=", 2.0, True), ("<=", 2.1, False), (">=", 2.0, True), (">=", 1.9, False), ("<=", math.nan, None)],
)
def test_a_target_is_judged(comparison, value, met):
    assert results.target("any", comparison, 2.0, value)["met"] is met


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5000, "5,000"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.0, "1"),
        (0.01234, "0.0123"),
        (math.nan, "n/a"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_series_that_share_a_metric_share_a_table():
    figures = [
        figure("a", "p50", "ms", [1.0]),
        figure("b", "p50", "ms", [2.0, 4.0]),
        figure("b", "p99", "ms", [9.0]),
        figure("a / b", "ratio", "", [0.5]),
    ]
    assert pivot(figures).splitlines() == [
        "| | p50, ms | p99, ms |",
        "|---|---|---|",
        "| a | 1 |  |",
        "| b | 3 (2 to 4) | 9 |",
        "",
        "| | ratio |",
        "|---|---|",
        "| a / b | 0.5 |",
    ]


def page_of(tmp_path, **changes):
    results.save(result(**changes), tmp_path / "results")
    return write_report(tmp_path / "results", tmp_path / "docs").read_text()


def test_the_page_says_what_was_measured_on_which_backend(tmp_path):
    page = page_of(tmp_path)
    assert "a model server that answers constants" in page
    assert result()["machine"]["cpu_model"] in page
    assert result()["source"]["commit"][:12] in page
    assert "at most 2 CPU-ms | 1.5 CPU-ms | met |" in page
    assert "2 (1 to 3)" in page
    # Every server's flags, without the port, which is chance.
    assert "- gateway on null: `.venv/bin/neurogate-gateway --listen=127.0.0.1:… --backend" in page


def test_what_is_void_is_never_said_to_be_met(tmp_path):
    page = page_of(tmp_path, void=["answers were wrong"])
    assert "**Void:** answers were wrong." in page
    assert "| void |" in page
    assert "| met |" not in page


def test_the_embedded_server_is_not_called_tensorflow_serving(tmp_path):
    page = page_of(tmp_path, backend="embedded")
    assert "Backend: the embedded model server (not TensorFlow Serving)." in page


def test_without_results_the_page_says_so(tmp_path):
    page = write_report(tmp_path / "results", tmp_path / "docs").read_text()
    assert "There are no results yet" in page
    assert "## Targets" not in page


def ratio(value, spread=()):
    return results.target("ratio", ">=", 0.85, value, spread=spread)


def cost(value, spread=()):
    return results.target("cost", "<=", 2.0, value, absolute=True, spread=spread)


def count(value):
    return results.target("failed requests", "<=", 0, value)


@pytest.mark.parametrize(
    ("entry", "others", "expected"),
    [
        (ratio(0.68), BUSY, "**missed** by 20 %"),
        (ratio(0.68, [0.6, 0.7]), BUSY, "**missed** by 20 %"),
        (ratio(0.9, [0.86, 1.1]), BUSY, "met"),
        (ratio(0.68, [0.6, 0.9]), BUSY, "undecided: disturbed; missed by 20 %"),
        (ratio(0.9, [0.8, 1.1]), BUSY, "undecided: disturbed; met"),
        (ratio(0.68, [0.6, 0.9]), QUIET, "**missed** by 20 %"),
        (ratio(0.9, [0.8, 1.1]), QUIET, "met"),
        (cost(2.5), QUIET, "**missed** by 25 %"),
        (cost(2.5), BUSY, "undecided: disturbed; missed by 25 %"),
        (cost(1.5, [1.4, 2.2]), BUSY, "met"),
        (count(3), BUSY, "**missed** by 3"),
        (count(math.nan), QUIET, "not measured"),
    ],
)
def test_a_verdict_says_how_far_and_claims_no_more_than_the_machine_could_tell(entry, others, expected):
    assert verdict(result(checks={"other_programs": others}), entry) == expected


def test_the_page_says_how_disturbed_the_machine_was(tmp_path):
    page = page_of(tmp_path, checks={"other_programs": BUSY, "niceness": 10})
    assert "**disturbed**: other programs took 40% of the cores, 90% at worst" in page
    assert "niceness 10" in page


def test_targets_show_the_runs_extremes(tmp_path):
    page = page_of(tmp_path, targets=[results.target("ratio", ">=", 0.85, 0.9, spread=[0.7, 1.25])])
    assert "at least 0.85 | 0.9 (0.7 to 1.25) | met |" in page
