"""Who looks after which retraining: a gateway claims it for a while and renews the claim while it lives.

A gateway that stops renewing is taken for dead, and another one, or its own successor, takes over. The clock
that decides is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from .database import Database
from .notifier import RunNotifier
from .run import Run, check_owner, load
from .run_states import RunState
from .schema import runs

_LIVE = [state.value for state in RunState if not state.ended]


class RunLeases:
    """The claims on the retrainings of one database."""

    def __init__(self, database: Database, changes: RunNotifier) -> None:
        self._database = database
        self._changes = changes

    def claim_next(self, owner: str, lease_seconds: float, *, launchers: Collection[str]) -> Run | None:
        """Claims the retraining that has waited longest; it stays QUEUED until its trainer starts.

        Args:
            owner: Who claims; unlike every other gateway of this database.
            lease_seconds: For how long.
            launchers: Only retrainings for these.

        Returns:
            The retraining; None when there is nothing to claim.
        """
        with self._database.write("runs") as connection:
            now = self._database.now(connection)
            longest = (
                sa.select(runs.c.number)
                .where(
                    runs.c.state == RunState.QUEUED.value,
                    runs.c.launcher.in_(sorted(launchers)),
                    _free(now),
                )
                .order_by(runs.c.number)
                .limit(1)
                .scalar_subquery()
            )
            claimed = _claim(connection, [runs.c.number == longest, _free(now)], owner, now, lease_seconds)
            return claimed[0] if claimed else None

    def adopt(self, owner: str, lease_seconds: float, *, launchers: Collection[str]) -> list[Run]:
        """Claims the retrainings whose trainers were started and whose owner is dead or gone, oldest first.

        Those of `owner` itself are among them, so that a gateway that comes back goes on with its own.
        """
        with self._database.write("runs") as connection:
            now = self._database.now(connection)
            abandoned = sa.and_(runs.c.state != RunState.QUEUED.value, _free(now))
            conditions = [
                runs.c.state.in_(_LIVE),
                runs.c.launcher.in_(sorted(launchers)),
                sa.or_(runs.c.owner == owner, abandoned),
            ]
            return _claim(connection, conditions, owner, now, lease_seconds)

    def unfinished(self, owner: str) -> list[Run]:
        """Retrainings that have not ended and belong to `owner`, oldest first."""
        query = sa.select(runs).where(runs.c.state.in_(_LIVE), runs.c.owner == owner).order_by(runs.c.number)
        with self._database.read() as connection:
            return [Run.from_row(row) for row in connection.execute(query)]

    def renew(self, run_id: str, owner: str, lease_seconds: float) -> Run:
        """Claims for longer.

        Returns:
            The retraining as it stands, `cancel_requested` included.

        Raises:
            LeaseLostError: Somebody else has it now, or it has ended.
            RetrainingNotFoundError: There is none of that id.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = connection.execute(
                sa.update(runs)
                .where(runs.c.run_id == run_id, runs.c.owner == owner)
                .values(lease_time=now + timedelta(seconds=lease_seconds))
                .returning(*runs.c)
            ).one_or_none()
            if row is None:
                check_owner(load(connection, run_id), owner)
            assert row is not None  # noqa: S101 - check_owner has raised
            return Run.from_row(row)

    def release(self, run_id: str, owner: str) -> None:
        """Gives a claim up, so that another gateway need not wait for its end; nothing where it is lost."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(runs)
                .where(runs.c.run_id == run_id, runs.c.owner == owner)
                .values(owner="", lease_time=None)
            )
        self._changes.notify(run_id)

    def set_handle(self, run_id: str, owner: str, handle: str) -> Run:
        """Records the launcher's words by which it finds the trainer again.

        Raises:
            LeaseLostError: Somebody else has it now, or it has ended.
            RetrainingNotFoundError: There is none of that id.
        """
        with self._database.write() as connection:
            check_owner(load(connection, run_id, lock=True), owner)
            row = connection.execute(
                sa.update(runs).where(runs.c.run_id == run_id).values(handle=handle).returning(*runs.c)
            ).one()
            return Run.from_row(row)


def _free(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(runs.c.owner == "", runs.c.lease_time.is_(None), runs.c.lease_time <= now)


def _claim(
    connection: sa.Connection,
    conditions: Sequence[sa.ColumnElement[bool]],
    owner: str,
    now: datetime,
    seconds: float,
) -> list[Run]:
    # One statement, so that a renewal in the same moment is either seen or comes too late.
    rows = connection.execute(
        sa.update(runs)
        .where(*conditions)
        .values(owner=owner, lease_time=now + timedelta(seconds=seconds))
        .returning(*runs.c)
    ).all()
    return sorted((Run.from_row(row) for row in rows), key=lambda run: run.number)
