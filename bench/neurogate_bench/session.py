"""What every tool of the benchmark begins and ends with: a context on pinned cores, and a complete result."""

from __future__ import annotations

import argparse
import os
import time
import tomllib
from pathlib import Path
from typing import Any

from neurogate_bench import images, machine, prepare, results
from neurogate_bench.context import Context

SCENARIOS = machine.ROOT / "bench" / "scenarios.toml"
RESULTS = machine.ROOT / "bench" / "results"
BUILD = machine.ROOT / "build" / "bench"


def read_scenarios(path: Path = SCENARIOS) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The defaults, and each scenario's settings with the defaults filled in."""
    content = tomllib.loads(path.read_text())
    defaults = content["defaults"]
    return defaults, {name: {**defaults, **settings} for name, settings in content["scenario"].items()}


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where results go, and whether the page is made anew; the same for every tool."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance.md as it is")


def open_context() -> tuple[Context, dict[str, Any]]:
    """A context on as many cores as the scenarios want, and the description of all that it runs on."""
    defaults, _ = read_scenarios()
    cores = machine.pin_to_cores(defaults["cores"])
    about = {
        "machine": machine.describe_machine(cores),
        "versions": machine.describe_versions(),
        "source": machine.describe_source(),
        "load_average": machine.load_average(),
    }
    pictures = images.write_images(BUILD / "images", defaults["images"])
    context = Context(
        model=defaults["model"],
        side=defaults["side"],
        prepare=lambda: prepare.ensure(BUILD / "models", pictures, defaults["model"], defaults["side"]),
        images=pictures,
        cores=cores,
    )
    return context, about


def own_gateway(context: Context) -> str:
    """Address of a gateway that has been started, and is warm, for a tool that loads it itself."""
    gateway = context.gateway()
    context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=1.0)
    return str(gateway.job["target"])


def result_of(
    context: Context,
    settings: dict[str, Any],
    about: dict[str, Any],
    *,
    started_at: str,
    began: float,
    load_average: float,
) -> results.Result:
    """The record of the scenario that has just ended, with everything that a reader needs to judge it."""
    record = context.record
    shown = {
        name: value for name, value in settings.items() if name not in {"title", "question", "only_by_name"}
    }
    return results.Result(
        schema=results.SCHEMA,
        scenario=context.scenario,
        title=settings["title"],
        question=settings["question"],
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend=record.backend,
        machine=about["machine"],
        versions=about["versions"],
        source=about["source"],
        load_average_at_start=load_average,
        settings=shown,
        commands=record.commands,
        figures=record.figures(),
        checks={
            **record.checks,
            "problems": dict(record.problems),
            "generator_busy": round(record.generator_share, 3),
            "other_programs": record.other_programs(),
            "niceness": os.nice(0),
        },
        targets=record.targets,
        notes=record.notes,
        void=record.void,
        details=record.details,
    )
