"""One retraining as the records have it, and the examples that it learns from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from neurogate.v1 import error_pb2, model_pb2, training_pb2

from neurogate_gateway.errors import GatewayError

from .database import Database
from .run_states import RunState
from .schema import events, runs

LONGEST_PAGE: Final = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One retraining, as a row has it.

    Attributes:
        number: Order of arrival.
        run_id: Its identifier, 32 hexadecimal digits; also fit for a folder's name.
        request_id: The caller's; None where there was none.
        request_digest: Of what was asked under it.
        state: Where it stands.
        spec: What it is to do, defaults filled in.
        launcher: Who is to run the trainer.
        create_time, start_time, end_time: Queued, RUNNING, ended.
        last_sequence: Of its last event.
        trainer_sequence: Of the last event of the trainer that is recorded; 0 before the first.
        version: The version that came out; 0 for none.
        gate: What the gate said; None before.
        error: Why it FAILED; empty otherwise.
        actor: Who asked for it.
        examples_digest: Hex SHA-256 of the examples' identifiers, sorted and joined by newlines, as the
            version's lineage has it.
        examples_by_class: How many joined.
        handle: The launcher's words by which it finds the trainer again; empty before there is one.
        owner: The gateway that looks after it; empty for none.
        lease_time: Until when the owner is taken for alive.
        cancel_requested, cancel_reason: Whether its owner is to end it, and why.
    """

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

    @classmethod
    def from_row(cls, row: sa.Row[Any]) -> Run:
        """The retraining in a row of `runs`."""
        values: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
        values["state"] = RunState(values["state"])
        values["spec"] = training_pb2.RetrainingSpec.FromString(values["spec"])
        if values["gate"] is not None:
            values["gate"] = model_pb2.GateReport.FromString(values["gate"])
        return cls(**values)

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


@dataclasses.dataclass(frozen=True, slots=True)
class RunExample:
    """One example that a retraining learns from; the bytes are in the image store under `example_id`."""

    example_id: str
    class_id: str
    group: str


def timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """The moment as messages have it."""
    if moment is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def counted(chosen: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The columns of a retraining that say which examples it has, by their identifiers and classes."""
    classes = dict(chosen)
    return {
        "examples_digest": hashlib.sha256("\n".join(sorted(classes)).encode()).hexdigest(),
        "examples_by_class": dict(sorted(Counter(classes.values()).items())),
    }


class StateConflictError(RuntimeError):
    """The retraining was not in a state from which it could move; `run` is how it stands."""

    def __init__(self, run: Run, wanted: str) -> None:
        super().__init__(f"retraining {run.run_id} is {run.state}, so it cannot {wanted}")
        self.run = run


class LeaseLostError(RuntimeError):
    """Another gateway looks after the retraining now."""


def load(connection: sa.Connection, run_id: str, *, lock: bool = False) -> Run:
    """One retraining; `lock` keeps other transactions from changing it until this one ends.

    Raises:
        GatewayError (RETRAINING_NOT_FOUND): There is none of that id.
    """
    query = sa.select(runs).where(runs.c.run_id == run_id)
    # SQLite has no such words and needs none: there, whoever writes is alone.
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise GatewayError(
            error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND,
            f"there is no retraining {run_id!r}",
            resource=("retraining", run_id),
            field="retraining_id",
        )
    return Run.from_row(row)


def check_owner(run: Run, owner: str | None) -> None:
    """Refuses whoever does not hold the lease.

    Raises:
        LeaseLostError: Somebody else does.
    """
    if owner is not None and run.owner != owner:
        raise LeaseLostError(f"retraining {run.run_id} belongs to {run.owner or 'nobody'}, not to {owner}")


def insert_state_change(connection: sa.Connection, run: Run, moment: datetime) -> None:
    """Records that a retraining is in its state now, under its `last_sequence`."""
    event = training_pb2.RetrainingEvent(
        time=timestamp(moment),
        state_change=training_pb2.RetrainingStateChange(state=run.state.message, retraining=run.message()),
    )
    insert_events(connection, run.run_id, run.last_sequence, moment, [(None, event)])


def insert_events(
    connection: sa.Connection,
    run_id: str,
    first_sequence: int,
    moment: datetime,
    numbered: Sequence[tuple[int | None, training_pb2.RetrainingEvent]],
) -> None:
    """Adds events under consecutive sequence numbers.

    Args:
        connection: In a transaction that has reserved the numbers in `runs.last_sequence`.
        run_id: Whose.
        first_sequence: Number of the first.
        moment: When they were recorded; also their own time where they have none.
        numbered: The trainer's number (None for the gateway's own) and the event.
    """
    rows = []
    for offset, (trainer_sequence, event) in enumerate(numbered):
        stored = training_pb2.RetrainingEvent()
        stored.CopyFrom(event)
        stored.sequence = first_sequence + offset
        if not stored.HasField("time"):
            stored.time.FromDatetime(moment)
        rows.append(
            {
                "run_id": run_id,
                "sequence": stored.sequence,
                "trainer_sequence": trainer_sequence,
                "create_time": moment,
                "kind": stored.WhichOneof("event") or "",
                "event": stored.SerializeToString(),
            }
        )
    connection.execute(sa.insert(events), rows)


def events_after(
    connection: sa.Connection, run_id: str, sequence: int, limit: int = LONGEST_PAGE
) -> list[training_pb2.RetrainingEvent]:
    """Events with larger sequence numbers, in order."""
    rows = connection.execute(
        sa.select(events.c.event)
        .where(events.c.run_id == run_id, events.c.sequence > sequence)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return [training_pb2.RetrainingEvent.FromString(event) for event in rows.scalars()]


def move(
    connection: sa.Connection,
    database: Database,
    run_id: str,
    before: Collection[RunState],
    after: RunState,
    *,
    owner: str | None = None,
    changes: Mapping[str, object] | None = None,
) -> Run:
    """Compares the state (and the owner), sets the next one, and records the event.

    Returns:
        The retraining as it stands then; CANCELLED where it was to become PUBLISHING, and somebody had asked
        to cancel it.

    Raises:
        StateConflictError, LeaseLostError, GatewayError: Nothing was changed.
    """
    now = database.now(connection)
    values = {name: value for name, value in (changes or {}).items() if value is not None}
    if after == RunState.RUNNING:
        values["start_time"] = now
    if after.ended:
        values |= {"end_time": now, "owner": "", "lease_time": None}
    conditions = [runs.c.run_id == run_id, runs.c.state.in_([state.value for state in before])]
    if owner is not None:
        conditions.append(runs.c.owner == owner)
    if after == RunState.PUBLISHING:
        # Whoever was told that it will be cancelled must not find it published.
        conditions.append(sa.not_(runs.c.cancel_requested))
    row = connection.execute(
        sa.update(runs)
        .where(*conditions)
        .values(state=after.value, last_sequence=runs.c.last_sequence + 1, **values)
        .returning(*runs.c)
    ).one_or_none()
    if row is None:
        run = load(connection, run_id)
        check_owner(run, owner)
        if after == RunState.PUBLISHING and run.cancel_requested and run.state in before:
            return move(
                connection, database, run_id, before, RunState.CANCELLED, owner=owner, changes=changes
            )
        raise StateConflictError(run, f"become {after}")
    run = Run.from_row(row)
    insert_state_change(connection, run, now)
    return run
