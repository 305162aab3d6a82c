"""The retrainings of a database: queued once per request, moved along the state machine, leased to gateways.

Every move compares the state, sets the next one and records its event in one transaction, so of two gateways
that try only one succeeds. A gateway leases a retraining for a while and renews the lease while it lives. One
that stops renewing is taken for dead: another one, or its own successor, takes over, and it can change
nothing more. The clock that decides is the database's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from neurogate.v1 import error_pb2, model_pb2, training_pb2

from neurogate_gateway.errors import GatewayError

from .database import Database, earlier_request
from .examples import example_conditions, example_counts
from .notifier import RunNotifier
from .run import (
    LIVE,
    TRANSITIONS,
    Head,
    LeaseLostError,
    NewRun,
    Run,
    RunExample,
    RunState,
    StateConflictError,
    timestamp,
)
from .schema import events, examples, run_examples, runs

_LONGEST_PAGE: Final = 500


class RunStore:
    """The retrainings of one database."""

    def __init__(self, database: Database, notifier: RunNotifier) -> None:
        self._database = database
        self._notifier = notifier

    def create(
        self, new: NewRun, *, max_queued: int, check_counts: Callable[[Mapping[str, int]], None]
    ) -> Run:
        """Queues a retraining with the examples that there are now; a repeated request finds the first one's.

        `check_counts` gets the number of examples by class, and may refuse by an exception.

        Raises:
            GatewayError (REQUEST_ID_REUSED): The request_id belongs to another request.
            GatewayError (RETRAINING_QUEUE_FULL): Too many wait.
        """
        with self._database.write("runs") as connection:
            earlier = earlier_request(connection, runs, new.request_id, new.request_digest)
            if earlier is not None:
                return Run(**earlier)
            queued = sa.select(sa.func.count()).where(runs.c.state == RunState.QUEUED)
            waiting = connection.execute(queued).scalar_one()
            if waiting >= max_queued:
                raise GatewayError(
                    error_pb2.ERROR_REASON_RETRAINING_QUEUE_FULL,
                    f"{waiting} retrainings wait already, which is the limit",
                )
            query = sa.select(examples.c.example_id, examples.c.class_id)
            chosen = connection.execute(query.where(*example_conditions(new.spec.examples))).all()
            counts = example_counts(chosen)
            check_counts(counts["examples_by_class"])
            now = self._database.now(connection)
            values = {
                "run_id": uuid.uuid4().hex,
                "request_id": new.request_id or None,
                "request_digest": new.request_digest,
                "state": RunState.QUEUED,
                "spec": new.spec,
                "launcher": new.spec.launcher,
                "create_time": now,
                "last_sequence": 1,
                "trainer_sequence": 0,
                "version": 0,
                "error": "",
                "actor": new.actor,
                **counts,
                "handle": "",
                "owner": "",
                "cancel_requested": False,
                "cancel_reason": "",
            }
            [run] = _runs(connection, sa.insert(runs).values(**values).returning(*runs.c))
            if chosen:
                joined = [{"run_id": run.run_id, "example_id": row.example_id} for row in chosen]
                connection.execute(sa.insert(run_examples), joined)
            _insert_state_change(connection, run, now)
            details = {"request_id": new.request_id, "launcher": new.spec.launcher}
            self._database.audit(connection, new.actor, "START_RETRAINING", run.run_id, details)
        self._notifier.notify()
        return run

    def earlier(self, request_id: str, request_digest: str) -> Run | None:
        """The retraining that the same request has made, if it has.

        Raises:
            GatewayError (REQUEST_ID_REUSED): The id belongs to another request.
        """
        with self._database.read() as connection:
            row = earlier_request(connection, runs, request_id, request_digest)
            return None if row is None else Run(**row)

    def get(self, run_id: str) -> Run:
        """One retraining.

        Raises:
            GatewayError (RETRAINING_NOT_FOUND): There is none of that id.
        """
        with self._database.read() as connection:
            return _load(connection, run_id)

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """How far retrainings have come, with one query for all."""
        query = sa.select(runs.c.run_id, runs.c.last_sequence, runs.c.state).where(runs.c.run_id.in_(run_ids))
        with self._database.read() as connection:
            return {row.run_id: Head(row.last_sequence, row.state.ended) for row in connection.execute(query)}

    def page(self, *, state: RunState | None = None, below: int | None = None, limit: int = 50) -> list[Run]:
        """Retrainings, newest first: those in a state, with a smaller `number` than `below`."""
        query = sa.select(runs).order_by(runs.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(runs.c.state == state)
        if below is not None:
            query = query.where(runs.c.number < below)
        with self._database.read() as connection:
            return _runs(connection, query)

    def examples(self, run_id: str) -> list[RunExample]:
        """The examples that a retraining learns from: as of its start, without those erased since."""
        query = (
            sa.select(examples.c.example_id, examples.c.class_id, examples.c.group)
            .join(run_examples, run_examples.c.example_id == examples.c.example_id)
            .where(run_examples.c.run_id == run_id)
            .order_by(examples.c.example_id)
        )
        with self._database.read() as connection:
            return [RunExample(*row) for row in connection.execute(query)]

    def transition(
        self,
        run_id: str,
        before: RunState,
        after: RunState,
        *,
        owner: str | None = None,
        version: int | None = None,
        gate: model_pb2.GateReport | None = None,
        error: str | None = None,
    ) -> Run:
        """Moves a retraining from one state to another, with the event that says so.

        `owner` must hold the lease; None where that does not matter. A column whose value is None stays.

        Returns:
            The retraining as it stands then; CANCELLED where it was to become PUBLISHING, and a caller had
            asked to cancel it.

        Raises:
            ValueError: The machine has no such move: a defect of the caller.
            StateConflictError: It is in another state.
            LeaseLostError: Another gateway holds the lease.
            GatewayError (RETRAINING_NOT_FOUND): There is none of that id.
        """
        if after not in TRANSITIONS[before]:
            raise ValueError(f"a retraining cannot move from {before} to {after}")
        values = {"version": version, "gate": gate, "error": error}
        changes = {name: value for name, value in values.items() if value is not None}
        with self._database.write() as connection:
            now = self._database.now(connection)
            run = _move(connection, now, run_id, (before, after), changes, owner=owner)
        self._notifier.notify()
        return run

    def append_trainer_events(
        self,
        run_id: str,
        numbered: Sequence[tuple[int, training_pb2.RetrainingEvent]],
        *,
        owner: str | None = None,
    ) -> int:
        """Records events of the trainer that are not recorded yet; safe to repeat.

        They come with the trainer's sequence numbers, ascending. The owner is as for `transition`.

        Returns:
            The highest trainer's number that is recorded now.

        Raises:
            StateConflictError: The retraining has ended, so its last event is written.
            LeaseLostError, GatewayError (RETRAINING_NOT_FOUND): As for `transition`.
        """
        with self._database.write() as connection:
            run = _load(connection, run_id, lock=True)
            _check_owner(run, owner)
            if run.state.ended:
                raise StateConflictError(run, "take more events")
            new = [(number, event) for number, event in numbered if number > run.trainer_sequence]
            if not new:
                return run.trainer_sequence
            highest = new[-1][0]
            values = {"last_sequence": run.last_sequence + len(new), "trainer_sequence": highest}
            connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))
            _insert_events(connection, run_id, run.last_sequence + 1, self._database.now(connection), new)
        self._notifier.notify()
        return highest

    def events_after(
        self, run_id: str, sequence: int, limit: int = _LONGEST_PAGE
    ) -> list[training_pb2.RetrainingEvent]:
        """Events with larger sequence numbers, in order; the last of an ended retraining is its end."""
        query = (
            sa.select(events.c.event)
            .where(events.c.run_id == run_id, events.c.sequence > sequence)
            .order_by(events.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def request_cancel(self, run_id: str, *, reason: str, actor: str) -> Run:
        """Ends a retraining that waits, or asks the owner of one that runs to end it; safe to repeat.

        Raises:
            GatewayError (RETRAINING_ENDED): It has ended otherwise, or is being published.
            GatewayError (RETRAINING_NOT_FOUND): There is none of that id.
        """
        with self._database.write("runs") as connection:
            run = _load(connection, run_id, lock=True)
            if run.state == RunState.CANCELLED or run.cancel_requested:
                return run
            if run.state.ended or run.state == RunState.PUBLISHING:
                raise GatewayError(
                    error_pb2.ERROR_REASON_RETRAINING_ENDED,
                    f"retraining {run_id} is {run.state}, so it can no longer be cancelled",
                    metadata={"state": run.state.value},
                )
            now = self._database.now(connection)
            changes = {"cancel_requested": True, "cancel_reason": reason}
            details = {"reason": reason, "state": run.state.value}
            self._database.audit(connection, actor, "CANCEL_RETRAINING", run_id, details)
            owned = bool(run.owner) and run.lease_time is not None and run.lease_time > now
            if run.state == RunState.QUEUED and not owned:
                run = _move(connection, now, run_id, (run.state, RunState.CANCELLED), changes)
            else:
                statement = sa.update(runs).where(runs.c.run_id == run_id).values(**changes)
                [run] = _runs(connection, statement.returning(*runs.c))
        self._notifier.notify()
        return run


class RunLeases:
    """Who looks after which retraining of one database."""

    def __init__(self, database: Database, notifier: RunNotifier) -> None:
        self._database = database
        self._notifier = notifier

    def take_next(self, owner: str, seconds: float, *, launchers: Collection[str]) -> Run | None:
        """Leases the retraining for these launchers that has waited longest; None when none waits.

        It stays QUEUED until its trainer starts. The owner's name must be unlike every other gateway's.
        """
        with self._database.write("runs") as connection:
            now = self._database.now(connection)
            longest = (
                sa.select(runs.c.number)
                .where(runs.c.state == RunState.QUEUED, runs.c.launcher.in_(launchers), _free(now))
                .order_by(runs.c.number)
                .limit(1)
                .scalar_subquery()
            )
            taken = _lease(connection, [runs.c.number == longest, _free(now)], owner, now, seconds)
            return taken[0] if taken else None

    def take_expired(self, owner: str, seconds: float, *, launchers: Collection[str]) -> list[Run]:
        """Leases the retrainings whose trainers were started and whose owner is dead or gone, oldest first.

        Renews those of `owner` itself, which are among them.
        """
        with self._database.write("runs") as connection:
            now = self._database.now(connection)
            conditions = [
                runs.c.state.in_(LIVE),
                runs.c.launcher.in_(launchers),
                sa.or_(runs.c.owner == owner, sa.and_(runs.c.state != RunState.QUEUED, _free(now))),
            ]
            return _lease(connection, conditions, owner, now, seconds)

    def release(self, run_id: str, owner: str) -> None:
        """Gives a lease up, so that another gateway need not wait for its end; nothing where it is lost."""
        with self._database.write() as connection:
            mine = (runs.c.run_id == run_id, runs.c.owner == owner)
            connection.execute(sa.update(runs).where(*mine).values(owner="", lease_time=None))
        self._notifier.notify()

    def set_handle(self, run_id: str, owner: str, handle: str) -> Run:
        """Records the launcher's words by which it finds the trainer again.

        Raises:
            LeaseLostError: Another gateway holds the lease, or the retraining has ended.
            GatewayError (RETRAINING_NOT_FOUND): There is none of that id.
        """
        with self._database.write() as connection:
            _check_owner(_load(connection, run_id, lock=True), owner)
            statement = sa.update(runs).where(runs.c.run_id == run_id).values(handle=handle)
            [run] = _runs(connection, statement.returning(*runs.c))
            return run


def _runs(connection: sa.Connection, statement: sa.Executable) -> list[Run]:
    """The retrainings in the rows that a statement gives."""
    return [Run(**row) for row in connection.execute(statement).mappings()]


def _load(connection: sa.Connection, run_id: str, *, lock: bool = False) -> Run:
    """One retraining; `lock` keeps other transactions from changing it until this one ends."""
    query = sa.select(runs).where(runs.c.run_id == run_id)
    # SQLite ignores FOR UPDATE and does not need it: it has one writer at a time.
    found = _runs(connection, query.with_for_update() if lock else query)
    if not found:
        raise GatewayError(
            error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND,
            f"there is no retraining {run_id!r}",
            resource=("retraining", run_id),
            field="retraining_id",
        )
    return found[0]


def _check_owner(run: Run, owner: str | None) -> None:
    if owner is not None and run.owner != owner:
        raise LeaseLostError(f"retraining {run.run_id} belongs to {run.owner or 'nobody'}, not to {owner}")


def _free(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(runs.c.owner == "", runs.c.lease_time.is_(None), runs.c.lease_time <= now)


def _lease(
    connection: sa.Connection,
    conditions: Sequence[sa.ColumnElement[bool]],
    owner: str,
    now: datetime,
    seconds: float,
) -> list[Run]:
    # One statement, so that a renewal in the same moment is either seen or comes too late.
    values = {"owner": owner, "lease_time": now + timedelta(seconds=seconds)}
    statement = sa.update(runs).where(*conditions).values(**values).returning(*runs.c)
    return sorted(_runs(connection, statement), key=lambda run: run.number)


def _move(
    connection: sa.Connection,
    now: datetime,
    run_id: str,
    states: tuple[RunState, RunState],
    changes: Mapping[str, object],
    *,
    owner: str | None = None,
) -> Run:
    before, after = states
    values = {"state": after, "last_sequence": runs.c.last_sequence + 1, **changes}
    if after == RunState.RUNNING:
        values["start_time"] = now
    if after.ended:
        values |= {"end_time": now, "owner": "", "lease_time": None}
    conditions = [runs.c.run_id == run_id, runs.c.state == before]
    if owner is not None:
        conditions.append(runs.c.owner == owner)
    if after == RunState.PUBLISHING:
        # A caller whose cancellation was accepted must not find the version published.
        conditions.append(sa.not_(runs.c.cancel_requested))
    moved = _runs(connection, sa.update(runs).where(*conditions).values(**values).returning(*runs.c))
    if not moved:
        run = _load(connection, run_id)
        _check_owner(run, owner)
        if after == RunState.PUBLISHING and run.cancel_requested and run.state == before:
            return _move(connection, now, run_id, (before, RunState.CANCELLED), changes, owner=owner)
        raise StateConflictError(run, f"become {after}")
    [run] = moved
    _insert_state_change(connection, run, now)
    return run


def _insert_state_change(connection: sa.Connection, run: Run, moment: datetime) -> None:
    change = training_pb2.RetrainingStateChange(state=run.state.message, retraining=run.message())
    event = training_pb2.RetrainingEvent(time=timestamp(moment), state_change=change)
    _insert_events(connection, run.run_id, run.last_sequence, moment, [(None, event)])


def _insert_events(
    connection: sa.Connection,
    run_id: str,
    first_sequence: int,
    moment: datetime,
    numbered: Sequence[tuple[int | None, training_pb2.RetrainingEvent]],
) -> None:
    """Adds events under consecutive numbers, which the transaction has reserved in `runs.last_sequence`.

    They come with the trainer's numbers, None for the gateway's own. `moment` is when they are recorded, and
    their own time where they have none.
    """
    rows = []
    for sequence, (trainer_sequence, event) in enumerate(numbered, first_sequence):
        stored = training_pb2.RetrainingEvent()
        stored.CopyFrom(event)
        stored.sequence = sequence
        if not stored.HasField("time"):
            stored.time.FromDatetime(moment)
        rows.append(
            {
                "run_id": run_id,
                "sequence": sequence,
                "trainer_sequence": trainer_sequence,
                "create_time": moment,
                "kind": stored.WhichOneof("event") or "",
                "event": stored,
            }
        )
    connection.execute(sa.insert(events), rows)
