"""What a version has to reach before and while it answers: a TOML file with nothing unknown in it.

    [gate]                        before a version becomes "stable"
    min_accuracy = 0.85
    [gate.recall]
    glioma = 0.9
    [guards]                      while it answers
    max_error_rate = 0.02

Every key has a default; docs/versions.md explains them all.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_LARGEST_FILE: Final = 1 << 20


class PolicyError(ValueError):
    """The policy cannot be used; the message names the key and what would be right."""


def _key(default: float, low: float, high: float) -> Any:  # noqa: ANN401 - stands for a value of the field's type
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """What the evaluation images have to show.

    Attributes:
        min_accuracy: Lowest accuracy, 0 to 1.
        min_recall: Lowest recall of every class that `recall` does not name, 0 to 1.
        recall: Lowest recall by class, 0 to 1.
        max_regression: How much accuracy the candidate may lose against "stable", 0 to 1. The lower end of
            the confidence interval of the difference has to reach that, so too few images are a refusal too.
        confidence: Level of that interval, two-sided.
        resamples: Bootstrap resamples behind it.
        seed: Of the bootstrap.
        max_ece: Highest expected calibration error, 0 to 1.
        max_latency_p99_ms: Longest 99th percentile through the gateway, one image at a time, in milliseconds.
    """

    min_accuracy: float = _key(0.8, 0, 1)
    min_recall: float = _key(0.7, 0, 1)
    recall: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_regression: float = _key(0.05, 0, 1)
    confidence: float = _key(0.95, 0.5, 0.999)
    resamples: int = _key(1000, 100, 100_000)
    seed: int = _key(0, 0, 2**31)
    max_ece: float = _key(0.15, 0, 1)
    max_latency_p99_ms: float = _key(2000.0, 0, 3_600_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuardPolicy:
    """What the callers' own images may show of a canary, or of "stable" soon after a promotion.

    Attributes:
        window: Images a window.
        breaches_to_fire: Windows in a row above a limit until the gateway acts.
        release_below: A window counts as good again only below this share of the limit, 0 to 1; in between
            the count stays as it is.
        watch_seconds: How long "stable" is watched after a promotion.
        max_error_rate: Highest share of images that the version fails on, 0 to 1.
        max_latency_ms: Longest 95th percentile of the time from admission to answer, in milliseconds.
        max_abstention_rate: Highest share of answers with another verdict than CONFIDENT, 0 to 1.
        max_probability_shift: Largest distance between the mean probabilities of the version and those of the
            one it is compared with, 0 to 1: half the sum over the classes.
    """

    window: int = _key(200, 5, 100_000)
    breaches_to_fire: int = _key(3, 1, 100)
    release_below: float = _key(0.8, 0, 1)
    watch_seconds: float = _key(900.0, 0, 604_800)
    max_error_rate: float = _key(0.02, 0, 1)
    max_latency_ms: float = _key(10_000.0, 0, 3_600_000)
    max_abstention_rate: float = _key(0.9, 0, 1)
    max_probability_shift: float = _key(0.25, 0, 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Both, as one file holds them."""

    gate: GatePolicy = GatePolicy()
    guards: GuardPolicy = GuardPolicy()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of what the gate asks for; the same for files that mean the same."""
        text = json.dumps(dataclasses.asdict(self.gate), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        PolicyError: It cannot be read, is not TOML, or has a key or a value that is not right.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_FILE:
        raise PolicyError(f"{path} is larger than {_LARGEST_FILE} bytes")
    try:
        return parse_policy(content.decode())
    except (PolicyError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None


def parse_policy(text: str) -> Policy:
    """The policy in a text.

    Raises:
        PolicyError: As `read_policy`.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"not TOML: {error}") from None
    _check_keys(document, ["gate", "guards"], "")
    gate = _table(document.get("gate", {}), "gate")
    recall = _table(gate.pop("recall", {}), "gate.recall")
    floors = {name: _number(value, f"gate.recall.{name}", 0, 1) for name, value in recall.items()}
    return Policy(
        gate=_section(GatePolicy, gate, "gate", recall=floors),
        guards=_section(GuardPolicy, _table(document.get("guards", {}), "guards"), "guards"),
    )


def _section(kind: type[_T], table: dict[str, object], name: str, **given: object) -> _T:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in given}  # type: ignore[arg-type]
    _check_keys(table, list(fields), f"{name}.")
    values: dict[str, object] = dict(given)
    for key, value in table.items():
        field = fields[key]
        number = _number(value, f"{name}.{key}", field.metadata["low"], field.metadata["high"])
        if isinstance(field.default, int):
            if number != int(number):
                raise PolicyError(f"{name}.{key} is {value!r}, expected a whole number")
            number = int(number)
        values[key] = number
    return kind(**values)


def _table(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PolicyError(f"{name} is {value!r}, expected a table")
    return dict(value)


def _check_keys(table: Mapping[str, object], known: list[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise PolicyError(f"unknown key {prefix}{key}{hint}")


def _number(value: object, name: str, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise PolicyError(f"{name} is {value!r}, expected a number")
    if not low <= value <= high:
        raise PolicyError(f"{name} is {value}, expected {low:g} to {high:g}")
    return float(value)
