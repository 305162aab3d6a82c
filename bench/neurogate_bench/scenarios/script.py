"""Benchmarks that are programs of their own: run, and what they found taken over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from neurogate_bench import results
from neurogate_bench.context import Context
from neurogate_bench.machine import ROOT, relative

_FOLDER = ROOT / "build" / "bench" / "scripts"


def script(context: Context, settings: Mapping[str, Any]) -> None:
    """Runs `script` with `arguments`. With `figures`, it prints one JSON object, and the numbers at their
    paths are
    taken; without, it writes a result of its own to the folder that `--results` names."""
    record, prints = context.record, "figures" in settings
    command = [sys.executable, str(ROOT / "bench" / settings["script"]), *settings["arguments"]]
    if not prints:
        command.append(f"--results={_FOLDER}")
    record.commands[settings["script"]] = relative(" ".join(command))
    disturbance = context.disturbance()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    disturbance()
    if done.returncode:
        raise RuntimeError(
            f"{settings['script']} ended with status {done.returncode}:\n{done.stderr[-1500:]}"
        )
    if prints:
        record.backend = settings["backend"]
        _take_numbers(context, settings["figures"], json.loads(done.stdout))
    else:
        _take_result(context, results.load_all(_FOLDER)[context.scenario])


def _take_numbers(context: Context, figures: list[dict[str, str]], printed: Any) -> None:  # noqa: ANN401 - any JSON
    """A path leads to a number, to a list of numbers (its runs), or to an object of such (a metric each)."""
    for wanted in figures:
        found = printed
        for part in wanted["path"].split("."):
            found = found[part]
        metrics = found if isinstance(found, dict) else {wanted["metric"]: found}
        for metric, values in metrics.items():
            for value in values if isinstance(values, list) else [values]:
                context.record.add(wanted["series"], metric, wanted["unit"], float(value))


def _take_result(context: Context, result: results.Result) -> None:
    record = context.record
    record.backend = result["backend"]
    record.targets += result["targets"]
    record.notes += result["notes"]
    for figure in result["figures"]:
        for value in figure["runs"]:
            record.add(figure["series"], figure["metric"], figure["unit"], value)
