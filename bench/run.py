"""Measures what docs/performance.md states: `bench/run.py [SCENARIO…]`, all but the soak when none is
named."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from typing import Any

from neurogate_bench import machine, results
from neurogate_bench.context import Context
from neurogate_bench.scenarios import KINDS
from neurogate_bench.session import add_output_arguments, open_context, read_scenarios, result_of


def _arguments(scenarios: dict[str, dict[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios)}")
    parser.add_argument("--runs", type=int, help="instead of each scenario's own number of runs")
    parser.add_argument(
        "--seconds", type=float, help="instead of each scenario's own seconds of load per run"
    )
    parser.add_argument("--minutes", type=float, help="of the soak")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.scenario) - scenarios.keys()):
        parser.error(f"no scenario is named {', '.join(unknown)}; there are {', '.join(scenarios)}")
    return arguments


def run_scenario(
    context: Context, name: str, settings: dict[str, Any], about: dict[str, Any]
) -> results.Result:
    """Measures one scenario."""
    context.begin(name)
    context.say(f"--- {name}: {settings['title']}")
    started_at, began, load_average = machine.now(), time.monotonic(), machine.load_average()
    KINDS[settings["kind"]](context, settings)
    return result_of(context, settings, about, started_at=started_at, began=began, load_average=load_average)


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
    context, about = open_context()
    failed = []
    try:
        for name in chosen:
            try:
                result = run_scenario(context, name, {**scenarios[name], **overrides}, about)
            except Exception:  # noqa: BLE001 - the other scenarios' figures are worth having
                traceback.print_exc()
                failed.append(name)
                continue
            path = results.save(result, arguments.results)
            context.say(f"{name}: {_verdict(result)}; {machine.relative(str(path))}")
    except KeyboardInterrupt:
        print("stopped; finished scenarios are saved", file=sys.stderr)
        return 130
    finally:
        context.close()
    if not arguments.no_report:
        from report import write_report  # noqa: PLC0415 - matplotlib takes a second that a failed run need not wait

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
