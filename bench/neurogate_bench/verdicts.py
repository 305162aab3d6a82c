"""What became of a promise, in view of how disturbed the measuring was."""

from __future__ import annotations

from neurogate_bench import tables
from neurogate_bench.record import is_disturbed
from neurogate_bench.results import Result, Target

VOID, UNKNOWN, MET, MISSED, UNDECIDED = "void", "not measured", "met", "missed", "undecided"


def standing(result: Result, entry: Target) -> str:
    """One of the five words above.

    Undecided is only what a disturbed scenario cannot tell: a time or rate that was missed, which the other
    programs alone may have done, and a comparison whose runs lie on both sides of the limit.
    """
    if result["void"]:
        return VOID
    if entry["met"] is None:
        return UNKNOWN
    if is_disturbed(result["checks"]):
        if entry["absolute"]:
            return MET if entry["met"] else UNDECIDED
        low, high = entry["spread"] or (entry["value"], entry["value"])
        if low < entry["limit"] < high:
            return UNDECIDED
    return MET if entry["met"] else MISSED


def verdict(result: Result, entry: Target) -> str:
    """The standing in words, with the distance of what was missed."""
    word = standing(result, entry)
    if word == MISSED:
        return f"**missed** by {_distance(entry)}"
    if word == UNDECIDED:
        return f"undecided: disturbed; {'met' if entry['met'] else f'missed by {_distance(entry)}'}"
    return word


def _distance(entry: Target) -> str:
    if not entry["limit"]:
        return tables.number(abs(entry["value"]))
    return f"{tables.number(100 * abs(entry['value'] / entry['limit'] - 1))} %"
