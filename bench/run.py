"""Measures what docs/performance.md states: `bench/run.py [SCENARIO…]`, all but the soak when none is named."""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import Any

from neurogate_bench import images, machine, prepare, results
from neurogate_bench.context import Context
from neurogate_bench.scenarios import KINDS

HERE = Path(__file__).resolve().parent
BUILD = machine.ROOT / "build" / "bench"


def read_scenarios(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The defaults, and each scenario's settings with the defaults filled in.

    Raises:
        SystemExit: a scenario names a kind that does not exist.
    """
    content = tomllib.loads(path.read_text())
    defaults = content["defaults"]
    scenarios = {name: {**defaults, **settings} for name, settings in content["scenario"].items()}
    for name, settings in scenarios.items():
        if settings["kind"] not in KINDS:
            raise SystemExit(f"{path.name}: scenario {name} has unknown kind {settings['kind']!r}")
    return defaults, scenarios


def _arguments(scenarios: dict[str, dict[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios)}")
    parser.add_argument("--runs", type=int, help="instead of each scenario's own number of runs")
    parser.add_argument(
        "--seconds", type=float, help="instead of each scenario's own seconds of load per run"
    )
    parser.add_argument("--minutes", type=float, help="of the soak")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the JSON files")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument(
        "--tolerate-others", action="store_true", help="keep figures although other programs used the cores"
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.scenario) - scenarios.keys()):
        parser.error(f"no scenario is named {', '.join(unknown)}; there are {', '.join(scenarios)}")
    return arguments


def run_scenario(
    context: Context, name: str, settings: dict[str, Any], about: dict[str, Any]
) -> results.Result:
    """Measures one scenario and puts down everything that a reader needs to judge it."""
    context.begin(name)
    context.say(f"--- {name}: {settings['title']}")
    started_at, began, load = machine.now(), time.monotonic(), machine.load_average()
    KINDS[settings["kind"]](context, settings)
    record = context.record
    return results.Result(
        schema=results.SCHEMA,
        scenario=name,
        title=settings["title"],
        question=settings["question"],
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend=record.backend,
        machine=about["machine"],
        versions=about["versions"],
        source=about["source"],
        load_average_at_start=load,
        settings=settings,
        commands=record.commands,
        figures=record.figures(),
        checks={
            **record.checks,
            "problems": dict(record.problems),
            "generator_busy": round(record.generator_share, 3),
            "other_programs": round(record.foreign_share, 3),
        },
        targets=record.targets,
        notes=record.notes,
        void=record.void,
        details=record.details,
    )


def main() -> int:
    """Runs the scenarios one after the other; one that fails does not stop the rest."""
    defaults, scenarios = read_scenarios(HERE / "scenarios.toml")
    arguments = _arguments(scenarios)
    chosen = arguments.scenario or [
        name for name, found in scenarios.items() if not found.get("only_by_name")
    ]
    overrides = {name: getattr(arguments, name) for name in ("runs", "seconds", "minutes")}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    cores = machine.pin_to_cores(defaults["cores"])
    about = {
        "machine": machine.describe_machine(cores),
        "versions": machine.describe_versions(),
        "source": machine.describe_source(),
    }
    context = Context(
        model=defaults["model"],
        side=defaults["side"],
        prepare=lambda: prepare.ensure(BUILD / "models", defaults["model"], defaults["side"]),
        images=images.write_images(BUILD / "images", defaults["images"]),
        cores=cores,
        tolerate_others=arguments.tolerate_others,
    )
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
