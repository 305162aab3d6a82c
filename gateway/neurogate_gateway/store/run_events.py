"""Writes and reads the events of retrainings; used inside the transactions of `runs` and `claims`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from neurogate.v1 import training_pb2

from .run import Run, timestamp
from .schema import events

LONGEST_PAGE: Final = 500


def state_changed(connection: sa.Connection, run: Run, moment: datetime) -> None:
    """Records that a retraining is in its state now, under its `last_sequence`."""
    event = training_pb2.RetrainingEvent(
        time=timestamp(moment),
        state_change=training_pb2.RetrainingStateChange(state=run.state.message, retraining=run.message()),
    )
    insert(connection, run.run_id, run.last_sequence, moment, [(None, event)])


def insert(
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


def after(
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
