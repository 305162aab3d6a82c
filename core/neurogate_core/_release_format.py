"""A release and its changes as JSON, read with suspicion: people and other programs can reach these files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

FORMAT: Final = 1

CANDIDATE: Final = "candidate"
"""A version became "candidate" because it was published."""
PROMOTE: Final = "promote"
"""A version became "stable"."""
ROLLBACK: Final = "rollback"
""""previous" and "stable" changed places."""
SET_TRAFFIC: Final = "set_traffic"
"""Canary or shadow were set."""
GUARD: Final = "guard"
"""A live guard ended the canary or rolled back."""
RETIRE: Final = "retire"
"""Versions without a label were let go."""
ACTIONS: Final = (CANDIDATE, PROMOTE, ROLLBACK, SET_TRAFFIC, GUARD, RETIRE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a release says, apart from how it came about.

    Attributes:
        labels: Version by label.
        canary_percent: Share of the callers of "stable" that get "canary" instead, 0 to 100.
        draining: Versions that have lost their last label and are still loaded, with the Unix time of that.
        highest: Highest version that ever had a label; a higher one in the repository is news.
        promoted_at: Unix time from which live guards watch "stable"; None when nobody has to.
    """

    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    canary_percent: float = 0.0
    draining: Mapping[int, float] = dataclasses.field(default_factory=dict)
    highest: int = 0
    promoted_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the audit record.

    Attributes:
        sequence: 1, 2, 3, … without gaps.
        time: Unix time.
        actor: Who.
        action: One of `ACTIONS`.
        labels_before: Version by label before.
        state: All that the release says after.
        reason: Why, for people.
        forced: Whether the gate was overruled: it had refused, or nobody waited for its verdict.
        gate: What the gate had said, as JSON; None where it was not asked.
        request_id: The caller's name for the change; empty for none.
        content: Digest of what that caller asked for.
    """

    sequence: int
    time: float
    actor: str
    action: str
    labels_before: Mapping[str, int]
    state: State
    reason: str = ""
    forced: bool = False
    gate: Mapping[str, Any] | None = None
    request_id: str = ""
    content: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Which version each label means, as of one change.

    Attributes:
        state: What it says.
        last_change: The change that made it so; None before the first.
    """

    state: State = State()
    last_change: Change | None = None

    @property
    def change(self) -> Change:
        """The last change, where there must have been one."""
        assert self.last_change is not None  # noqa: S101 - the caller's promise
        return self.last_change

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self.last_change.sequence if self.last_change is not None else 0

    @property
    def etag(self) -> str:
        """Another one for every release that ever was, the same on every machine."""
        text = "" if self.last_change is None else encode_change(self.last_change)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


class FormatError(ValueError):
    """The text is not what this module writes; the message says where."""


def encode_change(change: Change) -> str:
    """One line of JSON."""
    value = dataclasses.asdict(change)
    state = value.pop("state")
    value["time"] = datetime.fromtimestamp(change.time, UTC).isoformat(timespec="microseconds")
    state["draining"] = {str(version): since for version, since in sorted(state["draining"].items())}
    state["labels"] = dict(sorted(state["labels"].items()))
    value["labels_before"] = dict(sorted(value["labels_before"].items()))
    return json.dumps({**value, "after": state}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def decode_change(text: str | bytes) -> Change:
    """The change on one line.

    Raises:
        FormatError: It is not one.
    """
    record = _object(_parse(text), "change")
    after = _object(record.get("after"), "after")
    promoted_at = after.get("promoted_at")
    gate = record.get("gate")
    draining = _object(after.get("draining"), "after.draining")
    state = State(
        labels=_labels(after.get("labels"), "after.labels"),
        canary_percent=_number(after.get("canary_percent"), "after.canary_percent"),
        draining={
            _version(_integer_text(key), "after.draining"): _number(since, "after.draining")
            for key, since in draining.items()
        },
        highest=_whole(after.get("highest"), "after.highest"),
        promoted_at=None if promoted_at is None else _number(promoted_at, "after.promoted_at"),
    )
    if not 0 <= state.canary_percent <= 100:
        raise FormatError(f"after.canary_percent is {state.canary_percent}, expected 0 to 100")
    action = _text(record.get("action"), "action")
    if action not in ACTIONS:
        raise FormatError(f"action is {action!r}, expected one of {', '.join(ACTIONS)}")
    return Change(
        sequence=_version(record.get("sequence"), "sequence"),
        time=_time(record.get("time")),
        actor=_text(record.get("actor"), "actor"),
        action=action,
        labels_before=_labels(record.get("labels_before"), "labels_before"),
        state=state,
        reason=_text(record.get("reason"), "reason"),
        forced=record.get("forced") is True,
        gate=None if gate is None else _object(gate, "gate"),
        request_id=_text(record.get("request_id"), "request_id"),
        content=_text(record.get("content"), "content"),
    )


def encode_release(change: Change) -> bytes:
    """The document of the release that a change has made, for people to read too."""
    document = {"format": FORMAT, "change": json.loads(encode_change(change))}
    return (json.dumps(document, ensure_ascii=True, indent=2, allow_nan=False) + "\n").encode()


def decode_release(content: bytes) -> Release:
    """The release in a document.

    Raises:
        FormatError: It is not one, or of a format that this version does not know.
    """
    document = _object(_parse(content), "document")
    if document.get("format") != FORMAT:
        raise FormatError(f"format is {document.get('format')!r}, expected {FORMAT}")
    change = decode_change(json.dumps(document.get("change")))
    return Release(state=change.state, last_change=change)


def _parse(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from None


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{name} is {type(value).__name__}, expected an object")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{name} is {value!r}, expected text")
    return value


def _whole(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise FormatError(f"{name} is {value!r}, expected a whole number from 0")
    return value


def _version(value: object, name: str) -> int:
    number = _whole(value, name)
    if number < 1:
        raise FormatError(f"{name} is {number}, expected at least 1")
    return number


def _integer_text(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise FormatError(f"{name} is {value!r}, expected a number")
    return float(value)


def _labels(value: object, name: str) -> dict[str, int]:
    return {label: _version(version, f"{name}.{label}") for label, version in _object(value, name).items()}


def _time(value: object) -> float:
    try:
        moment = datetime.fromisoformat(_text(value, "time"))
    except ValueError:
        raise FormatError(f"time is {value!r}, expected ISO 8601") from None
    if moment.tzinfo is None:
        raise FormatError(f"time is {value!r}, expected a time zone")
    return moment.timestamp()
