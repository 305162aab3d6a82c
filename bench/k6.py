"""Runs the k6 scripts as their users run them: `bench/k6.py [--address HOST:PORT] [SCRIPT…]`.

Without an address it starts model server and gateway itself and sums the outcome up in bench/results/k6.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from neurogate_bench import machine
from neurogate_bench.context import Context
from neurogate_bench.processes import installed
from neurogate_bench.session import add_output_arguments, open_context, own_gateway, result_of

SCRIPTS = Path(__file__).resolve().parent / "k6"
REPORTS = machine.ROOT / "build" / "bench" / "k6"
TITLES = {
    "classify": "Classify",
    "batch": "BatchClassify, batches of 8",
    "stream": "StreamClassify, streams of 64 pictures",
}
# k6's own name for the time of one request, and of the number of pictures that were answered.
_TIMES = {"classify": "grpc_req_duration", "batch": "grpc_req_duration", "stream": "stream_duration"}
_COUNTS = {"classify": "iterations", "batch": "pictures_answered", "stream": "pictures_answered"}
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


def book(context: Context, script: str, metrics: dict[str, Any]) -> None:
    """k6's figures into the record."""
    record, name = context.record, TITLES[script]
    times, counted = metrics[_TIMES[script]], metrics[_COUNTS[script]]
    for percent, label in (("med", "p50"), ("p(90)", "p90"), ("p(99)", "p99")):
        record.add(name, f"{label} of a call", "ms", times[percent])
    record.add(name, "images answered", "", counted["count"])
    record.add(name, "rate", "images/s", counted["rate"])
    dropped = metrics.get("dropped_iterations", {}).get("count", 0)
    record.checks["requests"] += metrics["iterations"]["count"]
    record.checks["answers"] += counted["count"]
    failed = metrics.get("checks", {}).get("fails", 0)
    for problem, count, reason in (
        ("wrong answers", metrics.get("wrong_answers", {}).get("count", 0), "answers were wrong"),
        ("failed", failed, "requests failed"),
        ("not begun in time", dropped, "k6 could not keep the rate: it ran out of virtual users"),
    ):
        if count:
            record.problems[f"{name}: {problem}"] += count
            record.invalidate(reason)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", nargs="*", help=f"of {', '.join(TITLES)}; all when none is named")
    parser.add_argument("--address", help="HOST:PORT of a gateway that runs already")
    parser.add_argument("--image", type=Path, help="picture to send instead of a drawn one")
    parser.add_argument("--env", action="append", default=[], help="for the script, for example RATE=80")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.script) - set(TITLES)):
        parser.error(f"no script is named {', '.join(unknown)}; there are {', '.join(TITLES)}")
    context, about = open_context()
    try:
        context.begin("k6")
        began, started_at = time.monotonic(), machine.now()
        address = arguments.address or own_gateway(context)
        image = (arguments.image or context.images[0]).resolve()
        for name in arguments.script or TITLES:
            context.say(f"k6 {name}")
            disturbance = context.disturbance()
            metrics = run(SCRIPTS / f"{name}.js", address, image, arguments.env)
            disturbance()
            book(context, name, metrics)
        for figure in context.record.figures():
            context.say(f"  {figure['series']}: {figure['metric']} {figure['median']:.4g} {figure['unit']}")
        if not arguments.address:
            settings = {"title": "k6", "question": QUESTION, "runs": 1, "variables": arguments.env}
            load_average = about["load_average"]
            result = result_of(
                context, settings, about, started_at=started_at, began=began, load_average=load_average
            )
            from report import publish  # noqa: PLC0415 - matplotlib takes a second that other uses need not wait

            publish(result, arguments)
    finally:
        context.close()
    return 1 if context.record.void else 0


if __name__ == "__main__":
    sys.exit(main())
