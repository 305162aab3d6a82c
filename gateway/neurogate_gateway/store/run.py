"""A retraining: the states that it passes through, and what is recorded of it.

    QUEUED ──> RUNNING ──> EVALUATING ──> PUBLISHING ──> SUCCEEDED
      │           │            │  │            │
      │           │            │  └──────> REFUSED <─┤
      └───────────┴────────────┴── FAILED ─────┘
      └───────────┴────────────┴── CANCELLED

A publication cannot be cancelled: it is one step that happens or does not.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple, cast

from google.protobuf import timestamp_pb2
from neurogate.v1 import model_pb2, training_pb2


class RunState(enum.StrEnum):
    """training.proto's RetrainingState without its prefix."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    EVALUATING = "EVALUATING"
    PUBLISHING = "PUBLISHING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def message(self) -> training_pb2.RetrainingState:
        """The contract's value."""
        number = training_pb2.RetrainingState.Value(f"RETRAINING_STATE_{self.value}")
        return cast("training_pb2.RetrainingState", number)

    @property
    def ended(self) -> bool:
        """Whether nothing comes after it."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.EVALUATING, RunState.FAILED, RunState.CANCELLED}),
    RunState.EVALUATING: frozenset(
        {RunState.PUBLISHING, RunState.REFUSED, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.PUBLISHING: frozenset({RunState.SUCCEEDED, RunState.REFUSED, RunState.FAILED}),
    **dict.fromkeys((RunState.SUCCEEDED, RunState.REFUSED, RunState.FAILED, RunState.CANCELLED), frozenset()),
}
LIVE: Final = [state for state in RunState if not state.ended]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One retraining; `schema.runs` says what each column means."""

    number: int
    run_id: str
    request_id: str | None
    request_digest: str
    state: RunState
    spec: training_pb2.RetrainingSpec
    launcher: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    last_sequence: int
    trainer_sequence: int
    version: int
    gate: model_pb2.GateReport | None
    error: str
    actor: str
    examples_digest: str
    examples_by_class: Mapping[str, int]
    handle: str
    owner: str
    lease_time: datetime | None
    cancel_requested: bool
    cancel_reason: str

    def message(self) -> training_pb2.Retraining:
        """The retraining as callers see it."""
        return training_pb2.Retraining(
            retraining_id=self.run_id,
            state=self.state.message,
            spec=self.spec,
            create_time=timestamp(self.create_time),
            start_time=timestamp(self.start_time),
            end_time=timestamp(self.end_time),
            last_sequence=self.last_sequence,
            version=self.version,
            gate=self.gate,
            error=self.error,
            actor=self.actor,
            examples_by_class=self.examples_by_class,
            examples_digest=self.examples_digest,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A retraining that a caller asks for.

    Attributes:
        spec: Checked, with defaults filled in.
        actor: Who asks.
        request_id: The caller's; empty for none.
        request_digest: Tells the same request from another one under the same id.
    """

    spec: training_pb2.RetrainingSpec
    actor: str
    request_id: str = ""
    request_digest: str = ""


class RunExample(NamedTuple):
    """One example that a retraining learns from; the image store has the bytes under `example_id`."""

    example_id: str
    class_id: str
    group: str


class Head(NamedTuple):
    """How far a retraining has come: its last event so far, and whether that is the last of all."""

    sequence: int
    ended: bool


class StateConflictError(RuntimeError):
    """The retraining was not in the state from which it was to move; `run` is how it stands."""

    def __init__(self, run: Run, wanted: str) -> None:
        super().__init__(f"retraining {run.run_id} is {run.state}, so it cannot {wanted}")
        self.run = run


class LeaseLostError(RuntimeError):
    """Another gateway looks after the retraining now."""


def timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """The moment as messages have it."""
    if moment is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message
