"""What runs a load tool of others, ghz or k6, against a gateway of its own or of somebody else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import RESULTS, write_report

from neurogate_bench import machine, results
from neurogate_bench.context import Context
from neurogate_bench.record import Record


def arguments_of(description: str | None, names: list[str], *, env: bool = False) -> argparse.Namespace:
    """The tool's command line; `names` are what can be run, all when none is named."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; all when none is named")
    parser.add_argument("--address", help="HOST:PORT of a gateway that runs already")
    parser.add_argument("--image", type=Path, nargs="+", help="pictures to send instead of drawn ones")
    if env:
        parser.add_argument("--env", action="append", default=[], help="for the script, for example RATE=80")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance.md as it is")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.name) - set(names)):
        parser.error(f"{', '.join(unknown)} cannot be run; there are {', '.join(names)}")
    arguments.name = arguments.name or names
    return arguments


def measure(
    tool: str,
    settings: dict[str, Any],
    arguments: argparse.Namespace,
    one: Callable[[str, str, list[Path], Record], None],
) -> int:
    """Runs `one` by name with an address and pictures, and sums up unless the gateway is somebody else's;
    returns the exit status."""
    failed = False
    with Context() as context:
        context.begin(tool, settings)
        record = context.record
        address = arguments.address
        if not address:
            gateway = context.gateway()
            context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=1.0)
            address = gateway.job["target"]
        for name in arguments.name:
            context.say(f"{tool} {name}")
            disturbance = context.disturbance()
            try:
                one(name, address, arguments.image or context.images, record)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                record.notes.append(f"{name} could not be run: {str(error).strip().splitlines()[-1]}")
                failed = True
                continue
            disturbance()
        result = context.result()
        for figure in result["figures"]:
            context.say(f"  {figure['series']}: {figure['metric']} {figure['median']:.4g} {figure['unit']}")
    if not arguments.address:
        print(machine.relative(str(results.save(result, arguments.results))))
        if not arguments.no_report:
            write_report(arguments.results, machine.ROOT / "docs")
    return 1 if failed or result["void"] else 0
