"""The form of a result file, how targets are judged, and how files are written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from neurogate_bench.stats import Figure

SCHEMA = 2
# A larger share of the cores in other hands makes times and rates those of a busy machine.
FOREIGN_LIMIT = 0.1
VOID, UNKNOWN, MET, MISSED, UNDECIDED = "void", "not measured", "met", "missed", "undecided"
_NUMBERS = {"median", "min", "max", "value"}


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
    holds = {"<=": value <= limit, ">=": value >= limit}[comparison]
    return Target(
        name=name,
        comparison=comparison,
        limit=limit,
        value=value,
        unit=unit,
        met=None if math.isnan(value) else holds,
        absolute=absolute,
        spread=list(spread),
    )


def is_disturbed(checks: Mapping[str, Any]) -> bool:
    """Whether other programs took more of the cores than a result's times and rates can stand."""
    return float(checks.get("other_programs", {}).get("mean", 0.0)) > FOREIGN_LIMIT


def outcome(result: Result, entry: Target) -> str:
    """What became of a promise, in view of how disturbed the measuring was.

    Undecided is only what a disturbed scenario cannot tell: a time or rate that was missed, which the other
    programs alone may have done, and a comparison whose runs lie on both sides of the limit.
    """
    if result["void"]:
        return VOID
    if entry["met"] is None:
        return UNKNOWN
    if is_disturbed(result["checks"]):
        low, high = entry["spread"] or (entry["value"], entry["value"])
        if (entry["absolute"] and not entry["met"]) or (
            not entry["absolute"] and low < entry["limit"] < high
        ):
            return UNDECIDED
    return MET if entry["met"] else MISSED


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
        ValueError: a file is not a result of this form; the message names it.
    """
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(), object_hook=_numbers)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path.name} is no result of schema {SCHEMA}: measure again")
        if missing := sorted(Result.__annotations__.keys() - content.keys()):
            raise ValueError(f"{path.name} lacks {', '.join(missing)}")
        found[content["scenario"]] = Result(**content)  # type: ignore[typeddict-item]
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


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Undoes `_plain` where a number is expected."""
    for key in _NUMBERS & content.keys():
        if content[key] is None:
            content[key] = math.nan
    if isinstance(content.get("runs"), list):
        content["runs"] = [math.nan if run is None else run for run in content["runs"]]
    return content
