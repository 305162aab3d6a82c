"""The one state machine of a retraining.

    QUEUED ──> RUNNING ──> EVALUATING ──> PUBLISHING ──> SUCCEEDED
      │           │            │  │            │
      │           │            │  └──────> REFUSED <─┤
      └───────────┴────────────┴── FAILED ─────┘
      └───────────┴────────────┴── CANCELLED

A publication cannot be cancelled: it is one step that happens or does not.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, cast

from neurogate.v1 import training_pb2


class RunState(enum.StrEnum):
    """Where a retraining stands; training.proto's RetrainingState without its prefix."""

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
    RunState.SUCCEEDED: frozenset(),
    RunState.REFUSED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
"""Which state may follow which."""


class IllegalTransitionError(RuntimeError):
    """A defect of the caller: no retraining may ever move so."""


def check_transition(before: RunState, after: RunState) -> None:
    """Refuses a move that the machine does not have.

    Raises:
        IllegalTransitionError: It is one.
    """
    if after not in TRANSITIONS[before]:
        raise IllegalTransitionError(f"a retraining cannot move from {before} to {after}")
