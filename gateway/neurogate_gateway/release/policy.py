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
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from neurogate_core.manifest import LONGEST_GATE_POLICY

_MAX_FILE_BYTES: Final = 1 << 20
_MAX_SHOWN: Final = 60


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
        min_pointing: Lowest share of right answers whose explanation points at the lesion, as the manifest
            says, 0 to 1; 0 asks nothing.
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
    min_pointing: float = _key(0.0, 0, 1)


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
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise PolicyError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
    try:
        return parse_policy(content.decode())
    except (PolicyError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None


def parse_policy(text: str) -> Policy:
    """The policy in a text.

    Raises:
        PolicyError: As `read_policy`.
    """
    document = _document(text)
    _check_keys(document, ["gate", "guards"], "")
    return Policy(
        gate=GatePolicy(**_gate_values(document.get("gate", {}))),
        guards=GuardPolicy(**_values(GuardPolicy, _table(document.get("guards", {}), "guards"), "guards")),
    )


def parse_extra_policy(text: str, policy: Policy) -> Policy:
    """A retraining's own policy, to be asked beside the gateway's.

    Args:
        text: TOML with the one table `[gate]`: live guards watch the gateway's callers, not one version's.
        policy: The gateway's; what the text does not name is as in it. A `min_recall` that is named counts
            for every class that the text does not name.

    Raises:
        PolicyError: It is too long, or as `read_policy`.
    """
    if len(text) > LONGEST_GATE_POLICY:
        raise PolicyError(f"it has {len(text)} characters, expected at most {LONGEST_GATE_POLICY}")
    document = _document(text)
    _check_keys(document, ["gate"], "")
    values = _gate_values(document.get("gate", {}))
    if not values:
        raise PolicyError("it asks for nothing, expected a table [gate] with a key, as in min_accuracy = 0.9")
    if "min_recall" not in values:
        values["recall"] = {**policy.gate.recall, **values.get("recall", {})}
    return Policy(gate=dataclasses.replace(policy.gate, **{"recall": {}, **values}))


def check_extra_policy(text: str, policy: Policy, class_ids: Collection[str]) -> None:
    """Refuses a retraining's own policy that could never be met.

    Args:
        text: As for `parse_extra_policy`.
        policy: The gateway's, which says how many resamples a verdict may take.
        class_ids: The classes of the version that the retraining begins from.

    Raises:
        PolicyError: As `parse_extra_policy`; or it asks for too many resamples, or names no such class.
    """
    most = policy.gate.resamples
    # What the gateway's policy asks of classes is not held against this text.
    gate = parse_extra_policy(text, Policy(gate=GatePolicy(resamples=most))).gate
    if gate.resamples > most:
        raise PolicyError(
            f"gate.resamples is {gate.resamples}, expected at most {most}, as the gateway has it"
        )
    for class_id in gate.recall:
        if class_id not in class_ids:
            known = ", ".join(class_ids)
            raise PolicyError(f"gate.recall.{_cut(class_id)} is none of the version's classes: {known}")


def _document(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Numbers with too many digits are a ValueError that is no TOMLDecodeError.
        raise PolicyError(f"not TOML: {_cut(str(error))}") from None


def _gate_values(value: object) -> dict[str, Any]:
    """The fields of a `GatePolicy` that a table `[gate]` names."""
    table = _table(value, "gate")
    recall = _table(table.pop("recall", {}), "gate.recall")
    floors = {name: _number(floor, f"gate.recall.{_cut(name)}", 0, 1) for name, floor in recall.items()}
    return _values(GatePolicy, table, "gate") | ({"recall": floors} if floors else {})


def _values(kind: type[GatePolicy | GuardPolicy], table: Mapping[str, object], name: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _check_keys(table, list(fields), f"{name}.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        low, high = fields[key].metadata["low"], fields[key].metadata["high"]
        values[key] = number = _number(value, f"{name}.{key}", low, high)
        if isinstance(fields[key].default, int):
            values[key] = int(number)
            if number != int(number):
                raise PolicyError(f"{name}.{key} is {_shown(value)}, expected a whole number")
    return values


def _table(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PolicyError(f"{name} is {_shown(value)}, expected a table")
    return dict(value)


def _check_keys(table: Mapping[str, object], known: list[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(_cut(key), known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise PolicyError(f"unknown key {prefix}{_cut(key)}{hint}")


def _number(value: object, name: str, low: float, high: float) -> float:
    # NaN compared by hand, since math.isnan takes no integer beyond a float.
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:  # noqa: PLR0124
        raise PolicyError(f"{name} is {_shown(value)}, expected a number")
    if not low <= value <= high:
        raise PolicyError(f"{name} is {_shown(value)}, expected {low:g} to {high:g}")
    return float(value)


def _shown(value: object) -> str:
    try:
        return _cut(repr(value))
    except (ValueError, RecursionError):
        return "too long to be shown"


def _cut(text: str) -> str:
    """Text of a caller in an error: not too long, and one line."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
