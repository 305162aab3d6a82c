"""What was kept, corrected and erased afterwards, with a line in the audit that repeats nothing of it.

Rows go before files: killed in between, a file is left that no row names, which the next sweep removes. What
a retraining has learned from stays known by the examples' identifiers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.errors import GatewayError, RecordsUnavailableError
from neurogate_gateway.observability.logging import log

from .blobs import ImageStore
from .database import Database
from .examples import Example
from .predictions import not_found
from .run import counted
from .run_states import RunState
from .schema import audit, examples, feedback, predictions, run_examples, runs


class Learned(NamedTuple):
    """What has learned from an example, or from what had.

    Attributes:
        versions: That are published.
        running: Retrainings that have none yet.
    """

    versions: list[int]
    running: list[str]


class Amendments:
    """Changes of the examples and predictions of one database and one image store."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def relabel_example(
        self, example_id: str, class_id: str, *, expected: str, reason: str, actor: str
    ) -> Example:
        """Sets the class of an example; safe to repeat.

        Args:
            example_id: Which.
            class_id: Its class from now on.
            expected: The class that it has to have before; empty where that does not matter.
            reason: Why.
            actor: Who says so.

        Raises:
            GatewayError (EXAMPLE_NOT_FOUND): There is none of that id.
            GatewayError (EXAMPLE_CONFLICT): It has another class than was expected.
        """
        # Nobody may count the classes of a new retraining in between.
        with self._database.write("runs") as connection:
            example = _load(connection, example_id)
            if example.class_id == class_id:
                return example
            if expected not in {"", example.class_id}:
                raise GatewayError(
                    error_pb2.ERROR_REASON_EXAMPLE_CONFLICT,
                    f"the example is kept as {example.class_id!r}, not as {expected!r}",
                    field="expected_class_id",
                    resource=("example", example_id),
                    metadata={"class_id": example.class_id},
                )
            this = examples.c.example_id == example_id
            connection.execute(sa.update(examples).where(this).values(class_id=class_id))
            for run_id in _queued(connection, example_id):
                _count_anew(connection, run_id)
            details = {"from": example.class_id, "to": class_id, "reason": reason}
            self._note(connection, actor, "UPDATE_EXAMPLE", example_id, details)
            return _load(connection, example_id)

    def erase_example(self, example_id: str, *, reason: str, actor: str) -> Learned:
        """Erases an example.

        Raises:
            GatewayError (EXAMPLE_NOT_FOUND): There is none of that id.
        """
        with self._database.write("runs") as connection:
            _load(connection, example_id)
            connection.execute(sa.delete(examples).where(examples.c.example_id == example_id))
            for run_id in _queued(connection, example_id):
                given = (run_examples.c.run_id == run_id, run_examples.c.example_id == example_id)
                connection.execute(sa.delete(run_examples).where(*given))
                _count_anew(connection, run_id)
            connection.execute(
                sa.update(feedback).where(feedback.c.example_id == example_id).values(example_id="")
            )
            learned = _learned(connection, example_id)
            details = {"versions": learned.versions, "running": learned.running, "reason": reason}
            self._note(connection, actor, "DELETE_EXAMPLE", example_id, details)
        self._remove_image(example_id)
        return learned

    def erase_prediction(self, prediction_id: str, *, reason: str, actor: str) -> list[str]:
        """Erases a prediction with the feedback on it.

        Returns:
            The examples that feedback made of it, which stay.

        Raises:
            PredictionNotFoundError: There is none of that id.
        """
        with self._database.write() as connection:
            row = connection.execute(
                sa.delete(predictions)
                .where(predictions.c.prediction_id == prediction_id)
                .returning(predictions.c.image_digest, predictions.c.image_kept)
            ).one_or_none()
            if row is None:
                raise not_found(prediction_id)
            connection.execute(sa.delete(feedback).where(feedback.c.prediction_id == prediction_id))
            made = (
                sa.update(examples)
                .where(examples.c.prediction_id == prediction_id)
                .values(prediction_id="")
                .returning(examples.c.example_id)
            )
            left = sorted(connection.execute(made).scalars())
            self._note(connection, actor, "DELETE_PREDICTION", prediction_id, {"reason": reason})
        if row.image_kept:
            self._remove_image(row.image_digest)
        return left

    def wanted(self, first_digits: str) -> set[str]:
        """Digests of all images that a row needs and that begin with these digits."""
        kept = sa.select(predictions.c.image_digest).where(
            predictions.c.image_kept, predictions.c.image_digest.startswith(first_digits)
        )
        labelled = sa.select(examples.c.example_id).where(examples.c.example_id.startswith(first_digits))
        # A trainer reads its images in every epoch, erased ones too.
        read = (
            sa.select(run_examples.c.example_id)
            .join(runs, runs.c.run_id == run_examples.c.run_id)
            .where(runs.c.state == RunState.RUNNING.value, run_examples.c.example_id.startswith(first_digits))
        )
        with self._database.read() as connection:
            return set(connection.execute(sa.union(kept, labelled, read)).scalars())

    def _remove_image(self, digest: str) -> None:
        # With the transaction behind it: those who add images hold the store's lock while they wait for one.
        try:
            self._images.remove(digest, lambda: digest in self.wanted(digest))
        except RecordsUnavailableError as error:
            # Its row is gone, so the next sweep tries again.
            log(logging.WARNING, "image_not_removed", error=error)

    def _note(
        self,
        connection: sa.Connection,
        actor: str,
        action: str,
        subject: str,
        details: Mapping[str, Any],
    ) -> None:
        now = self._database.now(connection)
        row = {"create_time": now, "actor": actor, "action": action, "subject": subject, "details": details}
        connection.execute(sa.insert(audit).values(**row))


def _load(connection: sa.Connection, example_id: str) -> Example:
    query = sa.select(examples).where(examples.c.example_id == example_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise GatewayError(
            error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND,
            f"there is no example {example_id!r}, or it was erased",
            resource=("example", example_id),
            field="example_id",
        )
    return Example(*row)


def _queued(connection: sa.Connection, example_id: str) -> list[str]:
    """Retrainings that wait with the example among theirs; none begins before the transaction ends."""
    query = (
        sa.select(runs.c.run_id)
        .join(run_examples, run_examples.c.run_id == runs.c.run_id)
        .where(run_examples.c.example_id == example_id, runs.c.state == RunState.QUEUED.value)
        .with_for_update(of=runs)
    )
    return list(connection.execute(query).scalars())


def _count_anew(connection: sa.Connection, run_id: str) -> None:
    chosen = (
        sa.select(examples.c.example_id, examples.c.class_id)
        .join(run_examples, run_examples.c.example_id == examples.c.example_id)
        .where(run_examples.c.run_id == run_id)
    )
    values = counted(connection.execute(chosen).all())
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))


def _learned(connection: sa.Connection, example_id: str) -> Learned:
    used = set(
        connection.execute(
            sa.select(run_examples.c.run_id).where(run_examples.c.example_id == example_id)
        ).scalars()
    )
    learned = Learned([], [])
    begun = [state.value for state in RunState if not state.ended and state != RunState.QUEUED]
    query = sa.select(runs.c.run_id, runs.c.version, runs.c.spec).where(
        sa.or_(runs.c.version != 0, runs.c.state.in_(begun))
    )
    # A version is there before another one starts from it.
    for run_id, version, text in connection.execute(query.order_by(runs.c.number)):
        spec = training_pb2.RetrainingSpec.FromString(text)
        if run_id not in used and spec.warm_start_version not in learned.versions:
            continue
        if version:
            learned.versions.append(version)
        else:
            learned.running.append(run_id)
    return learned
