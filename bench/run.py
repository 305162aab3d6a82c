"""Measures what docs/performance.md states: `bench/run.py [SCENARIO…]`, all but the soak when none is
named."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from neurogate_bench import machine, results
from neurogate_bench.context import Context, read_scenarios
from neurogate_bench.scenarios import KINDS
from report import RESULTS, write_report


def _arguments(scenarios: dict[str, dict[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios)}")
    parser.add_argument("--runs", type=int, help="instead of each scenario's own number of runs")
    parser.add_argument(
        "--seconds", type=float, help="instead of each scenario's own seconds of load per run"
    )
    parser.add_argument("--minutes", type=float, help="of the soak")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance.md as it is")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.scenario) - scenarios.keys()):
        parser.error(f"no scenario is named {', '.join(unknown)}; there are {', '.join(scenarios)}")
    return arguments


def main() -> int:
    """Runs the scenarios one after the other; one that fails does not stop the rest."""
    _, scenarios = read_scenarios()
    arguments = _arguments(scenarios)
    # Ended by `kill`, as a soak in the background is, it stops its servers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = arguments.scenario or [
        name for name, found in scenarios.items() if not found.get("only_by_name")
    ]
    overrides = {name: getattr(arguments, name) for name in ("runs", "seconds", "minutes")}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    failed = []
    with Context() as context:
        for name in chosen:
            settings = {**scenarios[name], **overrides}
            context.say(f"--- {name}: {settings['title']}")
            try:
                context.begin(name, settings)
                KINDS[settings["kind"]](context, settings)
            except KeyboardInterrupt:
                print("stopped; finished scenarios are saved", file=sys.stderr)
                return 130
            except Exception:  # noqa: BLE001 - the other scenarios' figures are worth having
                traceback.print_exc()
                failed.append(name)
                continue
            result = context.result()
            path = results.save(result, arguments.results)
            context.say(f"{name}: {_verdict(result)}; {machine.relative(str(path))}")
    if not arguments.no_report:
        write_report(arguments.results, machine.ROOT / "docs")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _verdict(result: results.Result) -> str:
    if result["void"]:
        return f"VOID ({'; '.join(result['void'])})"
    missed = [target["name"] for target in result["targets"] if target["met"] is False]
    return f"targets missed: {', '.join(missed)}" if missed else "done"


if __name__ == "__main__":
    sys.exit(main())
