"""Runs the k6 scripts as their users run them: `bench/k6.py [--address HOST:PORT] [SCRIPT…]`.

Without an address it starts model server and gateway itself and sums the outcome up in bench/results/k6.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from neurogate_bench import machine
from neurogate_bench.load_tool import arguments_of, measure
from neurogate_bench.processes import installed
from neurogate_bench.record import Record

SCRIPTS = Path(__file__).resolve().parent / "k6"
REPORTS = machine.ROOT / "build" / "bench" / "k6"
# By script: a title, and k6's own names for the time of one request and for the number of pictures answered.
KINDS = {
    "classify": ("Classify", "grpc_req_duration", "iterations"),
    "batch": ("BatchClassify, batches of 8", "grpc_req_duration", "pictures_answered"),
    "stream": ("StreamClassify, streams of 64 pictures", "stream_duration", "pictures_answered"),
}
QUESTION = (
    "What does k6 see, with arrivals at a constant rate that do not wait for answers? "
    "One run of each script in bench/k6."
)


def run(script: Path, address: str, image: Path, variables: list[str]) -> dict[str, Any]:
    """One script; k6's exit status 99 says that a threshold did not hold, and its metrics say which."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    summary = REPORTS / f"{script.stem}.json"
    command = [
        installed("k6", environment="build/bench-venv"),
        "run",
        "--no-usage-report",
        "--quiet",
        "--no-color",
    ]
    command += [f"--summary-export={summary}", f"--env=TARGET={address}", f"--env=IMAGE={image}"]
    command += [f"--env={variable}" for variable in variables]
    done = subprocess.run(
        [*command, str(script)], cwd=machine.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 99} or not summary.exists():
        raise RuntimeError(f"k6 {script.name} failed:\n{done.stdout[-800:]}{done.stderr[-1500:]}")
    metrics: dict[str, Any] = json.loads(summary.read_text())["metrics"]
    return metrics


def book(record: Record, script: str, metrics: dict[str, Any]) -> None:
    """k6's figures into the record."""
    name, time_of, count_of = KINDS[script]
    times, counted = metrics[time_of], metrics[count_of]
    for percent, label in (("med", "p50"), ("p(90)", "p90"), ("p(99)", "p99")):
        record.add(name, f"{label} of a call", "ms", times[percent])
    record.add(name, "images answered", "", counted["count"])
    record.add(name, "rate", "images/s", counted["rate"])
    record.checks["requests"] += metrics["iterations"]["count"]
    record.checks["answers"] += counted["count"]
    for problem, count, reason in (
        ("wrong answers", metrics.get("wrong_answers", {}).get("count", 0), "answers were wrong"),
        ("failed", metrics.get("checks", {}).get("fails", 0), "requests failed"),
        (
            "not begun in time",
            metrics.get("dropped_iterations", {}).get("count", 0),
            "k6 could not keep the rate: it ran out of virtual users",
        ),
    ):
        if count:
            record.problems[f"{name}: {problem}"] += count
            record.invalidate(reason)


def main() -> int:
    arguments = arguments_of(__doc__, list(KINDS), env=True)

    def one(name: str, address: str, images: list[Path], record: Record) -> None:
        book(record, name, run(SCRIPTS / f"{name}.js", address, images[0].resolve(), arguments.env))

    settings = {"title": "k6", "question": QUESTION, "runs": 1, "variables": arguments.env}
    return measure("k6", settings, arguments, one)


if __name__ == "__main__":
    sys.exit(main())
