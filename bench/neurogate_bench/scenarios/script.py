"""Benchmarks that are programs of their own and print one JSON object: run, and their numbers taken over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from neurogate_bench.context import Context
from neurogate_bench.machine import ROOT, relative


def script(context: Context, settings: Mapping[str, Any]) -> None:
    """Runs `script` with `arguments` and takes over the numbers at the paths in `figures`.

    A path leads to a number, to a list of numbers (its runs), or to an object of such (a metric each).
    """
    command = [sys.executable, str(ROOT / "bench" / settings["script"]), *settings["arguments"]]
    context.record.commands[settings["script"]] = relative(" ".join(command))
    context.record.backend = settings["backend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    if done.returncode:
        raise RuntimeError(
            f"{settings['script']} ended with status {done.returncode}:\n{done.stderr[-1500:]}"
        )
    printed = json.loads(done.stdout)
    for wanted in settings["figures"]:
        found: Any = printed
        for part in wanted["path"].split("."):
            found = found[part]
        metrics = found if isinstance(found, dict) else {wanted.get("metric", ""): found}
        for metric, values in metrics.items():
            for value in values if isinstance(values, list) else [values]:
                context.record.add(wanted["series"], metric, wanted["unit"], float(value))
