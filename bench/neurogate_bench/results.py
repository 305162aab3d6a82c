"""The form of a result file, its check, and how it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from neurogate_bench.stats import Figure

SCHEMA = 2
_BACKENDS = ("embedded", "tensorflow-serving", "null", "none")


class Target(TypedDict):
    """A promise and what became of it.

    `met` is None where the run could not tell. `absolute` marks a time or a rate, which a busy machine alone
    can make miss; the others compare within a run, or count. `spread` has the runs' extremes where there are
    several.
    """

    name: str
    comparison: str
    limit: float
    value: float
    unit: str
    met: bool | None
    absolute: bool
    spread: list[float]


class Result(TypedDict):
    """One scenario's outcome, complete enough to be judged without the machine that it ran on."""

    schema: int
    scenario: str
    title: str
    question: str
    started_at: str
    seconds: float
    backend: str
    machine: dict[str, Any]
    versions: dict[str, str]
    source: dict[str, Any]
    load_average_at_start: float
    settings: dict[str, Any]
    commands: dict[str, str]
    figures: list[Figure]
    checks: dict[str, Any]
    targets: list[Target]
    notes: list[str]
    void: list[str]
    details: dict[str, Any]


def target(
    name: str,
    comparison: str,
    limit: float,
    value: float,
    unit: str = "",
    *,
    absolute: bool = False,
    spread: Sequence[float] = (),
) -> Target:
    """Judges a value against its limit; comparison is "<=" or ">="."""
    if comparison not in {"<=", ">="}:
        raise ValueError(f"comparison must be <= or >=, not {comparison!r}")
    holds = value <= limit if comparison == "<=" else value >= limit
    met = None if math.isnan(value) else holds
    return Target(
        name=name,
        comparison=comparison,
        limit=limit,
        value=value,
        unit=unit,
        met=met,
        absolute=absolute,
        spread=list(spread),
    )


def check_result(result: object) -> Result:
    """Confirms that a decoded file is a result of this form.

    Raises:
        ValueError: names the first thing that is wrong.
    """
    if not isinstance(result, dict):
        raise ValueError("a result must be a JSON object")  # noqa: TRY004 - the content is wrong, not the call
    missing = sorted(set(Result.__annotations__) - result.keys())
    if missing:
        raise ValueError(f"fields are missing: {', '.join(missing)}")
    if result["schema"] != SCHEMA:
        raise ValueError(f"schema {result['schema']} is not {SCHEMA}: measure again")
    if result["backend"] not in _BACKENDS:
        raise ValueError(f"backend {result['backend']!r} is none of {', '.join(_BACKENDS)}")
    for entry in result["targets"]:
        if lacking := sorted(set(Target.__annotations__) - entry.keys()):
            raise ValueError(f"target {entry.get('name', '?')!r} lacks {', '.join(lacking)}")
    for figure in result["figures"]:
        lacking = sorted(set(Figure.__annotations__) - figure.keys())
        if lacking:
            raise ValueError(f"figure {figure.get('metric', '?')!r} lacks {', '.join(lacking)}")
    checked: Result = result  # type: ignore[assignment]  # every field has just been looked at
    return checked


def save(result: Result, folder: Path) -> Path:
    """Writes `<scenario>.json` in one step, so that a killed run leaves the old result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['scenario']}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(_plain(result), indent=1, sort_keys=True, allow_nan=False) + "\n")
    partial.replace(path)
    return path


def load_all(folder: Path) -> dict[str, Result]:
    """Every result in the folder by scenario.

    Raises:
        ValueError: a file is not a result; the message names it.
    """
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            if isinstance(content, dict) and "schema" not in content:
                continue  # what a program of its own was told to write here
            result = check_result(_numbers(content))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
        found[result["scenario"]] = result
    return found


def _plain(value: object) -> object:
    """NaN is no JSON; null says the same."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _numbers(result: object) -> object:
    """Undoes `_plain` where a number is expected."""
    if isinstance(result, dict):
        for entry in [*result.get("figures", []), *result.get("targets", [])]:
            for key in ("median", "min", "max", "value"):
                if key in entry and entry[key] is None:
                    entry[key] = math.nan
            if "runs" in entry:
                entry["runs"] = [math.nan if run is None else run for run in entry["runs"]]
    return result
