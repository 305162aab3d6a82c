"""Runs ghz as its users run it: `bench/ghz.py [--address HOST:PORT] [CONFIGURATION…]`.

Builds the pinned ghz from its Go module when it is not there. Without an address it starts model server and
gateway
itself and sums the outcome up in bench/results/ghz.json; with one it measures that gateway and keeps ghz's
own reports.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from neurogate_bench import machine, payloads
from neurogate_bench.context import Context
from neurogate_bench.session import add_output_arguments, open_context, own_gateway, result_of

VERSION = "v0.121.0"
QUESTION = "What does the usual load tool for gRPC see? One run of each configuration in bench/ghz."
BINARY = machine.ROOT / "build" / "bin" / "ghz"
CONFIGURATIONS = Path(__file__).resolve().parent / "ghz"
REPORTS = machine.ROOT / "build" / "bench" / "ghz"


def install() -> None:
    """Builds ghz into build/bin unless this very version is there.

    Raises:
        SystemExit: there is no Go, or the build failed.
    """
    if BINARY.exists():
        found = subprocess.run([str(BINARY), "--version"], capture_output=True, text=True, check=False)
        # ghz built by `go install` does not know its own version; the marker beside it does.
        marker = BINARY.with_suffix(".version")
        if found.returncode == 0 and marker.exists() and marker.read_text() == VERSION:
            return
    print(f"building ghz {VERSION}, once", file=sys.stderr)
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    command = ["go", "install", f"github.com/bojand/ghz/cmd/ghz@{VERSION}"]
    try:
        subprocess.run(command, env={**os.environ, "GOBIN": str(BINARY.parent)}, check=True)
    except FileNotFoundError:
        raise SystemExit("ghz is built with Go, and there is no `go` on the path") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"ghz could not be built: exit status {error.returncode}") from None
    BINARY.with_suffix(".version").write_text(VERSION)


def run(configuration: Path, address: str) -> dict[str, Any]:
    """Runs one configuration and returns ghz's JSON report, which stays in build/bench/ghz."""
    report = REPORTS / f"{configuration.stem}.json"
    command = [str(BINARY), "--config", str(configuration), "--format=json", f"--output={report}", address]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode or not report.exists():
        raise RuntimeError(f"ghz {configuration.name} failed:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    content: dict[str, Any] = json.loads(report.read_text())
    if not content.get("latencyDistribution"):
        reasons = "\n".join(content.get("errorDistribution") or {"no request was sent": 0})
        raise RuntimeError(f"ghz {configuration.name}: nothing was answered:\n{reasons}")
    return content


def percentiles(report: dict[str, Any]) -> dict[int, float]:
    """Latency by percentage in milliseconds; ghz counts in nanoseconds."""
    distribution = report.get("latencyDistribution") or []
    return {entry["percentage"]: entry["latency"] / 1e6 for entry in distribution}


def images_of(method: str) -> int:
    """Pictures in one request of a method, as `payloads` makes them."""
    name = method.rpartition("/")[2].rpartition(".")[2]
    return {"BatchClassify": payloads.BATCH_SIZE, "StreamClassify": payloads.STREAM_LENGTH}.get(name, 1)


def book(context: Context, report: dict[str, Any]) -> None:
    """One report's figures into the record."""
    record, name = context.record, report["name"]
    latencies = percentiles(report)
    statuses = report.get("statusCodeDistribution") or {}
    good, count = statuses.get("OK", 0), sum(statuses.values())
    record.add(name, "requests", "", count)
    record.add(name, "not OK", "", count - good)
    record.add(name, "rate", "requests/s", report["rps"])
    record.add(name, "images", "images/s", report["rps"] * images_of(report["options"]["call"]))
    for percent in (50, 90, 99):
        record.add(name, f"p{percent}", "ms", latencies.get(percent, float("nan")))
    record.checks["requests"] += count
    for status, number in statuses.items():
        if status != "OK":
            record.problems[f"{name}: {status}"] += number
            # Shedding is an answer too, and the rate of arrivals is the configuration's choice.
            if status != "ResourceExhausted":
                record.invalidate(f"requests failed: {status}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = sorted(path.stem for path in CONFIGURATIONS.glob("*.json"))
    parser.add_argument(
        "configuration", nargs="*", help=f"of {', '.join(everything)}; all when none is named"
    )
    parser.add_argument("--address", help="HOST:PORT of a gateway that runs already")
    parser.add_argument("--image", type=Path, nargs="*", help="pictures to send instead of drawn ones")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.configuration) - set(everything)):
        parser.error(f"no configuration is named {', '.join(unknown)}; there are {', '.join(everything)}")
    install()
    context, about = open_context()
    failed = []
    try:
        pictures = arguments.image or context.images
        payloads.write_payloads([path.read_bytes() for path in pictures], REPORTS)
        context.begin("ghz")
        began, started_at = time.monotonic(), machine.now()
        address = arguments.address or own_gateway(context)
        for name in arguments.configuration or everything:
            context.say(f"ghz {name}")
            disturbance = context.disturbance()
            try:
                report = run(CONFIGURATIONS / f"{name}.json", address)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                context.record.notes.append(
                    f"{name}.json could not be run: {str(error).strip().splitlines()[-1]}"
                )
                failed.append(name)
                continue
            disturbance()
            book(context, report)
            latencies = percentiles(report)
            p50, p99 = latencies.get(50, math.nan), latencies.get(99, math.nan)
            statuses = ", ".join(
                f"{status} {count}" for status, count in report["statusCodeDistribution"].items()
            )
            context.say(f"  {report['rps']:.1f} requests/s, p50 {p50:.1f}, p99 {p99:.1f} ms; {statuses}")
        if not arguments.address:
            settings = {"title": "ghz", "question": QUESTION, "ghz": VERSION, "runs": 1}
            result = result_of(
                context,
                settings,
                about,
                started_at=started_at,
                began=began,
                load_average=about["load_average"],
            )
            from report import publish  # noqa: PLC0415 - matplotlib takes a second that other uses need not wait

            publish(result, arguments)
    finally:
        context.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
