"""How a retraining comes into the database, once per request."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.errors import GatewayError

from .database import Database
from .examples import example_conditions
from .run import Run, counted, insert_state_change
from .run_states import RunState
from .schema import audit, examples, run_examples, runs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A retraining that is asked for.

    Attributes:
        spec: Checked, with defaults filled in.
        launcher: Who is to run the trainer.
        actor: Who asks.
        request_id: The caller's; empty for none.
        request_digest: Tells the same request from another one under the same id.
    """

    spec: training_pb2.RetrainingSpec
    launcher: str
    actor: str
    request_id: str = ""
    request_digest: str = ""


def earlier(connection: sa.Connection, request_id: str, request_digest: str) -> Run | None:
    """The retraining that the same request has made, if it has.

    Raises:
        GatewayError (REQUEST_ID_REUSED): The id belongs to another request.
    """
    if not request_id:
        return None
    row = connection.execute(sa.select(runs).where(runs.c.request_id == request_id)).one_or_none()
    if row is None:
        return None
    run = Run.from_row(row)
    if run.request_digest != request_digest:
        raise GatewayError(
            error_pb2.ERROR_REASON_REQUEST_ID_REUSED,
            "the request_id belongs to an earlier retraining that asked for something else",
            field="request_id",
        )
    return run


def insert(
    connection: sa.Connection,
    database: Database,
    new: NewRun,
    most_queued: int,
    check_counts: Callable[[Mapping[str, int]], None],
) -> Run:
    """A new retraining, QUEUED, with its examples fixed and its first event.

    Raises:
        GatewayError (RETRAINING_QUEUE_FULL): Too many wait.
    """
    queued = sa.select(sa.func.count()).select_from(runs).where(runs.c.state == RunState.QUEUED)
    waiting = connection.execute(queued).scalar_one()
    if waiting >= most_queued:
        raise GatewayError(
            error_pb2.ERROR_REASON_RETRAINING_QUEUE_FULL,
            f"{waiting} retrainings wait already, which is the limit",
        )
    chosen = connection.execute(
        sa.select(examples.c.example_id, examples.c.class_id).where(*example_conditions(new.spec.examples))
    ).all()
    about = counted(chosen)
    check_counts(about["examples_by_class"])
    now = database.now(connection)
    values = {
        "run_id": uuid.uuid4().hex,
        "request_id": new.request_id or None,
        "request_digest": new.request_digest,
        "state": RunState.QUEUED.value,
        "spec": new.spec.SerializeToString(),
        "launcher": new.launcher,
        "create_time": now,
        "last_sequence": 1,
        "trainer_sequence": 0,
        "version": 0,
        "error": "",
        "actor": new.actor,
        **about,
        "handle": "",
        "owner": "",
        "cancel_requested": False,
        "cancel_reason": "",
    }
    run = Run.from_row(connection.execute(sa.insert(runs).values(**values).returning(*runs.c)).one())
    if chosen:
        joined = [{"run_id": run.run_id, "example_id": row.example_id} for row in chosen]
        connection.execute(sa.insert(run_examples), joined)
    insert_state_change(connection, run, now)
    connection.execute(
        sa.insert(audit).values(
            create_time=now,
            actor=new.actor,
            action="START_RETRAINING",
            subject=run.run_id,
            details={"request_id": new.request_id, "launcher": new.launcher},
        )
    )
    return run
