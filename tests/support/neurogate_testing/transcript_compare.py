"""What the record says, compared with what was seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

Json = Any

# From here on a message of TensorFlow names the node that failed; which one fails first is a race.
NODE_SUFFIX = "\n\t [["


def number(value: int | dict[str, int]) -> int:
    """A number of the record, which may depend on the CPUs that the process may use."""
    if isinstance(value, int):
        return value
    return value["per_cpu"] * len(os.sched_getaffinity(0)) + value.get("add", 0)


def within(counts: dict[str, int], wanted: dict[str, Sequence[Any]]) -> bool:
    """Whether there are as many of each as wanted, and no others."""
    return counts.keys() <= wanted.keys() and all(
        number(least) <= counts.get(name, 0) <= number(most) for name, (least, most) in wanted.items()
    )


def wrong_parts(step: Json, outcome: Json) -> list[str]:
    """The parts of an outcome that are not as recorded."""
    for accepted in step.get("also_accept", ()):
        if all(_essence(part, accepted.get(part)) == _essence(part, outcome.get(part)) for part in outcome):
            return []
    wanted, lifted = step["expect"], step.get("compare", {})
    parts = sorted(wanted.keys() | outcome.keys())
    return [
        part
        for part in parts
        if lifted.get(part) != "any" and _essence(part, wanted.get(part)) != _essence(part, outcome.get(part))
    ]


def _essence(part: str, value: Json) -> Json:
    return value.split(NODE_SUFFIX)[0] if part == "message" and isinstance(value, str) else value


def spells_out(pattern: Sequence[str], seen: Sequence[str]) -> bool:
    """Whether what was seen is the pattern; an entry that ends in " ?" may be missing."""
    if not pattern:
        return not seen
    entry = pattern[0].removesuffix(" ?")
    if seen and seen[0] == entry and spells_out(pattern[1:], seen[1:]):
        return True
    return pattern[0].endswith(" ?") and spells_out(pattern[1:], seen)
