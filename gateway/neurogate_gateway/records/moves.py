"""Reading and moving one retraining inside a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from neurogate_gateway.training_errors import RetrainingNotFoundError

from . import run_events
from .database import Database
from .run import Run
from .schema import runs
from .states import RunState


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
        RetrainingNotFoundError: There is none of that id.
    """
    query = sa.select(runs).where(runs.c.run_id == run_id)
    # SQLite has no such words and needs none: there, whoever writes is alone.
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise RetrainingNotFoundError(
            f"there is no retraining {run_id!r}", resource=("retraining", run_id), field="retraining_id"
        )
    return Run.from_row(row)


def check_owner(run: Run, owner: str | None) -> None:
    """Refuses whoever does not hold the lease.

    Raises:
        LeaseLostError: Somebody else does.
    """
    if owner is not None and run.owner != owner:
        raise LeaseLostError(f"retraining {run.run_id} belongs to {run.owner or 'nobody'}, not to {owner}")


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
        StateConflictError, LeaseLostError, RetrainingNotFoundError: Nothing was changed.
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
    run_events.state_changed(connection, run, now)
    return run
