"""The retrainings: made once per request, moved only along the state machine, every move with its event.

A move compares and sets in one statement, so of two gateways that try only one succeeds, and the other is
told. With an `owner` a move also needs the lease: a gateway that was taken for dead cannot disturb the one
that took over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from neurogate.v1 import error_pb2, model_pb2, training_pb2

from neurogate_gateway.errors import GatewayError

from .database import Database
from .notifier import RunNotifier
from .run import (
    LONGEST_PAGE,
    Run,
    RunExample,
    StateConflictError,
    check_owner,
    events_after,
    insert_events,
    load,
    move,
)
from .run_starts import NewRun, earlier, insert
from .run_states import RunState, check_transition
from .schema import audit, examples, run_examples, runs


class Head(NamedTuple):
    """How far a retraining has come; of two the later one is the greater.

    Attributes:
        sequence: Of its last event.
        ended: Whether that is the last one of all.
    """

    sequence: int
    ended: bool


class RunStore:
    """The retrainings of one database."""

    def __init__(self, database: Database, changes: RunNotifier) -> None:
        self._database = database
        self.changes = changes

    def create(
        self,
        new: NewRun,
        *,
        most_queued: int,
        check_counts: Callable[[Mapping[str, int]], None],
    ) -> tuple[Run, bool]:
        """Queues a retraining, or finds the one that the same request has made.

        Args:
            new: What is asked for.
            most_queued: How many may wait.
            check_counts: Is given the number of examples by class, and may refuse.

        Returns:
            The retraining, and whether it is new.

        Raises:
            RequestIdReusedError: The request_id belongs to another request.
            RetrainingQueueFullError: Too many wait.
        """
        with self._database.write("runs") as connection:
            run = earlier(connection, new.request_id, new.request_digest)
            if run is not None:
                return run, False
            run = insert(connection, self._database, new, most_queued, check_counts)
        self.changes.notify(run.run_id)
        return run, True

    def earlier(self, request_id: str, request_digest: str) -> Run | None:
        """The retraining that the same request has made, if it has.

        Raises:
            RequestIdReusedError: The id belongs to another request.
        """
        with self._database.read() as connection:
            return earlier(connection, request_id, request_digest)

    def get(self, run_id: str) -> Run:
        """One retraining.

        Raises:
            RetrainingNotFoundError: There is none of that id.
        """
        with self._database.read() as connection:
            return load(connection, run_id)

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """How far retrainings have come, with one query for all."""
        query = sa.select(runs.c.run_id, runs.c.last_sequence, runs.c.state).where(runs.c.run_id.in_(run_ids))
        with self._database.read() as connection:
            return {
                row.run_id: Head(row.last_sequence, RunState(row.state).ended)
                for row in connection.execute(query)
            }

    def page(self, *, state: RunState | None = None, below: int | None = None, limit: int = 50) -> list[Run]:
        """Retrainings, newest first.

        Args:
            state: Only those in it.
            below: Only those with a smaller `number`.
            limit: At most so many.
        """
        query = sa.select(runs).order_by(runs.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(runs.c.state == state)
        if below is not None:
            query = query.where(runs.c.number < below)
        with self._database.read() as connection:
            return [Run.from_row(row) for row in connection.execute(query)]

    def examples(self, run_id: str) -> list[RunExample]:
        """The examples that a retraining learns from, fixed when it was made, but for those erased since."""
        columns = (examples.c.example_id, examples.c.class_id, examples.c.group)
        query = (
            sa.select(*columns)
            .join(run_examples, run_examples.c.example_id == examples.c.example_id)
            .where(run_examples.c.run_id == run_id)
            .order_by(examples.c.example_id)
        )
        with self._database.read() as connection:
            return [RunExample(*row) for row in connection.execute(query)]

    def transition(
        self,
        run_id: str,
        before: Collection[RunState],
        after: RunState,
        *,
        owner: str | None = None,
        version: int | None = None,
        gate: model_pb2.GateReport | None = None,
        error: str | None = None,
        handle: str | None = None,
    ) -> Run:
        """Moves a retraining, with the event that says so.

        Args:
            run_id: Which.
            before: States from which to move; in any other one nothing happens.
            after: Where to.
            owner: Who must hold the lease; None where it does not matter.
            version: That came out; None leaves what there is, here and below.
            gate: What the gate said.
            error: Why it FAILED.
            handle: The launcher's.

        Returns:
            The retraining as it stands then; CANCELLED where it was to become PUBLISHING, and somebody had
            asked to cancel it.

        Raises:
            IllegalTransitionError: The machine has no such move: a defect of the caller.
            StateConflictError: It is in another state.
            LeaseLostError: Somebody else holds the lease.
            RetrainingNotFoundError: There is none of that id.
        """
        for state in before:
            check_transition(state, after)
        with self._database.write() as connection:
            run = move(
                connection,
                self._database,
                run_id,
                before,
                after,
                owner=owner,
                changes={
                    "version": version,
                    "gate": None if gate is None else gate.SerializeToString(),
                    "error": error,
                    "handle": handle,
                },
            )
        self.changes.notify(run_id)
        return run

    def append_trainer_events(
        self,
        run_id: str,
        numbered: Sequence[tuple[int, training_pb2.RetrainingEvent]],
        *,
        owner: str | None = None,
    ) -> int:
        """Records events of the trainer that are not recorded yet; safe to repeat.

        Args:
            run_id: Whose.
            numbered: The trainer's sequence number, ascending, and the event.
            owner: Who must hold the lease; None where it does not matter.

        Returns:
            The highest trainer's number that is recorded now.

        Raises:
            StateConflictError: The retraining has ended, so its last event is written.
            LeaseLostError, RetrainingNotFoundError: As for `transition`.
        """
        with self._database.write() as connection:
            run = load(connection, run_id, lock=True)
            check_owner(run, owner)
            if run.state.ended:
                raise StateConflictError(run, "take more events")
            new = [(number, event) for number, event in numbered if number > run.trainer_sequence]
            if not new:
                return run.trainer_sequence
            highest = new[-1][0]
            connection.execute(
                sa.update(runs)
                .where(runs.c.run_id == run_id)
                .values(last_sequence=run.last_sequence + len(new), trainer_sequence=highest)
            )
            insert_events(connection, run_id, run.last_sequence + 1, self._database.now(connection), new)
        self.changes.notify(run_id)
        return highest

    def events_after(
        self, run_id: str, sequence: int, limit: int = LONGEST_PAGE
    ) -> list[training_pb2.RetrainingEvent]:
        """Events with larger sequence numbers, in order; the last of an ended retraining tells its end."""
        with self._database.read() as connection:
            return events_after(connection, run_id, sequence, limit)

    def request_cancel(self, run_id: str, *, reason: str, actor: str) -> Run:
        """Ends a retraining that waits, or asks the owner of one that runs to end it; safe to repeat.

        Raises:
            GatewayError (RETRAINING_ENDED): It has ended otherwise, or is being published.
            RetrainingNotFoundError: There is none of that id.
        """
        with self._database.write("runs") as connection:
            run = load(connection, run_id, lock=True)
            if run.state == RunState.CANCELLED or run.cancel_requested:
                return run
            if run.state.ended or run.state == RunState.PUBLISHING:
                raise GatewayError(
                    error_pb2.ERROR_REASON_RETRAINING_ENDED,
                    f"retraining {run_id} is {run.state}, so it can no longer be cancelled",
                    metadata={"state": run.state.value},
                )
            now = self._database.now(connection)
            connection.execute(
                sa.update(runs)
                .where(runs.c.run_id == run_id)
                .values(cancel_requested=True, cancel_reason=reason)
            )
            connection.execute(
                sa.insert(audit).values(
                    create_time=now,
                    actor=actor,
                    action="CANCEL_RETRAINING",
                    subject=run_id,
                    details={"reason": reason, "state": run.state.value},
                )
            )
            alive = bool(run.owner) and run.lease_time is not None and run.lease_time > now
            if run.state == RunState.QUEUED and not alive:
                run = move(connection, self._database, run_id, {RunState.QUEUED}, RunState.CANCELLED)
            else:
                run = load(connection, run_id)
        self.changes.notify(run_id)
        return run
