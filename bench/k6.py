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

from neurogate_bench import machine, results
from neurogate_bench.context import Context
from neurogate_bench.processes import installed
from neurogate_bench.session import open_context, result_of

SCRIPTS = Path(__file__).resolve().parent / "k6"
REPORTS = machine.ROOT / "build" / "bench" / "k6"
TITLES = {"classify": "Classify, constant arrivals", "stream": "StreamClassify, streams of 64 pictures"}
QUESTION = "What does k6 see, with arrivals that do not wait for answers? One run of each script in bench/k6."


def run(script: Path, address: str, image: Path, variables: list[str]) -> dict[str, Any]:
    """One script; k6's own exit status says whether its thresholds (all answers right, none dropped) held."""
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
    return {**metrics, "thresholds held": done.returncode == 0}


def book(context: Context, script: str, metrics: dict[str, Any]) -> None:
    """k6's figures into the record."""
    record, name = context.record, TITLES[script]
    streams = script == "stream"
    times = metrics["grpc_req_duration"] if not streams else metrics["iteration_duration"]
    what = "one stream" if streams else "a request"
    for percent in ("med", "p(90)", "p(99)"):
        label = {"med": "p50"}.get(percent, percent.replace("(", "").replace(")", ""))
        record.add(name, f"{label} of {what}", "ms", times[percent])
    counted = metrics["pictures_answered"] if streams else metrics["iterations"]
    record.add(name, "images answered", "", counted["count"])
    record.add(name, "rate", "images/s", counted["rate"])
    wrong = metrics.get("wrong_answers", {}).get("count", 0)
    record.checks["requests"] += counted["count"]
    record.checks["answers"] += counted["count"]
    if wrong or not metrics["thresholds held"]:
        record.problems[f"{name}: thresholds missed, wrong answers"] += wrong
        record.invalidate(f"k6's thresholds did not hold for {script}.js")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", nargs="*", help=f"of {', '.join(TITLES)}; all when none is named")
    parser.add_argument("--address", help="HOST:PORT of a gateway that runs already")
    parser.add_argument("--image", type=Path, help="picture to send instead of a drawn one")
    parser.add_argument("--env", action="append", default=[], help="for the script, for example RATE=80")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.script) - set(TITLES)):
        parser.error(f"no script is named {', '.join(unknown)}; there are {', '.join(TITLES)}")
    context, about = open_context()
    try:
        context.begin("k6")
        began, started_at = time.monotonic(), machine.now()
        address = arguments.address or str(context.gateway().job["target"])
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
            results.save(result, machine.ROOT / "bench" / "results")
    finally:
        context.close()
    return 1 if context.record.void else 0


if __name__ == "__main__":
    sys.exit(main())
