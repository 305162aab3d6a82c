"""Predictions as the journal keeps them, and feedback on them.

Feedback becomes an example where the prediction's image was kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from neurogate.v1 import error_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import TransformError, upright_size

from neurogate_gateway.errors import GatewayError

from .blobs import ImageGoneError, ImageStore
from .database import Database, earlier_request
from .examples import NewExample, add_rows, remove_image
from .schema import examples, feedback, predictions

_FORGOTTEN_AT_ONCE: Final = 1000
"""Rows of one transaction, so that other writers wait for a moment only."""
_INSERTED_AT_ONCE: Final = 64


class StoredPrediction(NamedTuple):
    """What feedback needs to know of one."""

    prediction_id: str
    class_id: str
    verdict: str
    image_digest: str
    image_kept: bool
    attributes: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewFeedback:
    """Feedback that has been checked; `class_id` is empty where the image is no MRI."""

    prediction_id: str
    class_id: str
    comment: str
    actor: str
    request_id: str
    request_digest: str
    """Tells the same request from another one under the same id."""


class Feedback(NamedTuple):
    """Feedback that is kept; `example_id` is empty where it turned into none."""

    feedback_id: str
    example_id: str
    confirmed: bool


class PredictionStore:
    """The predictions and the feedback of one database and one image store."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def add(self, rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> None:
        """Keeps predictions as values of the columns, and images by their digests.

        Images for which there is no room are left out, and their rows say so.
        """
        if not images:
            self._insert(rows, kept=set())
            return
        with self._images.adding():
            refused = self._images.put(images)
            self._insert(rows, kept=images.keys() - refused.keys())

    def find(self, prediction_id: str) -> StoredPrediction | None:
        """One prediction, if it is kept."""
        columns = [predictions.c[name] for name in StoredPrediction._fields]
        query = sa.select(*columns).where(predictions.c.prediction_id == prediction_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else StoredPrediction(*row)

    def forget_images(self, before: timedelta) -> None:
        """Lets go of the images of older predictions; the next sweep of the image store removes them."""
        with self._database.write() as connection:
            old = predictions.c.create_time < self._database.now(connection) - before
            forget = sa.update(predictions).where(predictions.c.image_kept, old)
            connection.execute(forget.values(image_kept=False))

    def forget(self, before: timedelta, max_count: int) -> None:
        """Removes predictions that are older, and the oldest of more than `max_count`; a few at a time."""
        while self._forget_some(before, max_count):
            pass

    def submit(self, new: NewFeedback) -> Feedback:
        """Keeps feedback for good, with the example that it turns into.

        Returns:
            What is kept; for a repeated request what the first one had kept.

        Raises:
            GatewayError (REQUEST_ID_REUSED): The request_id belongs to other feedback.
            GatewayError (PREDICTION_NOT_FOUND): There is no such prediction, or it is no longer kept.
            GatewayError (EXAMPLE_CONFLICT): The image is an example of another class already.
        """
        earlier = self._earlier(new)
        if earlier is not None:
            return earlier
        prediction = self.find(new.prediction_id)
        if prediction is None:
            raise _not_found(new.prediction_id)
        with self._images.adding():
            example = self._example(prediction, new)
            if example is not None:
                # Under the lock, so that a sweep that has just removed the file is made good.
                self._images.put({example.example_id: example.data})
            return self._keep(new, prediction, example)

    def erase(self, prediction_id: str, *, reason: str, actor: str) -> list[str]:
        """Erases a prediction with the feedback on it.

        Returns:
            The examples that feedback made of it, which stay.

        Raises:
            GatewayError (PREDICTION_NOT_FOUND): There is none of that id.
        """
        with self._database.write() as connection:
            row = connection.execute(
                sa.delete(predictions)
                .where(predictions.c.prediction_id == prediction_id)
                .returning(predictions.c.image_digest, predictions.c.image_kept)
            ).one_or_none()
            if row is None:
                raise _not_found(prediction_id)
            connection.execute(sa.delete(feedback).where(feedback.c.prediction_id == prediction_id))
            made = sa.update(examples).where(examples.c.prediction_id == prediction_id)
            made = made.values(prediction_id="")
            left = sorted(connection.execute(made.returning(examples.c.example_id)).scalars())
            self._database.audit(connection, actor, "DELETE_PREDICTION", prediction_id, {"reason": reason})
        if row.image_kept:
            remove_image(self._database, self._images, row.image_digest)
        return left

    def _forget_some(self, before: timedelta, max_count: int) -> bool:
        # By number, in which they came: an index by time would cost every prediction, and this is rare.
        oldest = (
            sa.select(predictions.c.number, predictions.c.create_time)
            .order_by(predictions.c.number)
            .limit(_FORGOTTEN_AT_ONCE)
        )
        with self._database.write() as connection:
            newest = connection.execute(sa.select(sa.func.max(predictions.c.number))).scalar_one() or 0
            cutoff = self._database.now(connection) - before
            past = [
                row.number
                for row in connection.execute(oldest)
                if row.create_time < cutoff or row.number <= newest - max_count
            ]
            connection.execute(sa.delete(predictions).where(predictions.c.number.in_(past)))
        return len(past) == _FORGOTTEN_AT_ONCE

    def _insert(self, rows: Sequence[Mapping[str, Any]], kept: set[str]) -> None:
        complete = [{**row, "image_kept": row["image_digest"] in kept} for row in rows]
        try:
            self._execute(sa.insert(predictions), complete)
        except sa.exc.IntegrityError:
            # The batch came before: an error does not say whether it was before or after the commit.
            self._execute(self._database.insert_new(predictions), complete)

    def _execute(self, statement: sa.Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._database.write() as connection:
            # In small pieces, since each is prepared without a pause for the threads that answer calls.
            for start in range(0, len(rows), _INSERTED_AT_ONCE):
                connection.execute(statement, rows[start : start + _INSERTED_AT_ONCE])

    def _keep(self, new: NewFeedback, prediction: StoredPrediction, example: NewExample | None) -> Feedback:
        if new.class_id:
            confirmed = new.class_id == prediction.class_id
        else:
            confirmed = prediction.verdict == "OUT_OF_DISTRIBUTION"
        kept = Feedback(uuid.uuid4().hex, "" if example is None else example.example_id, confirmed)
        # Before the example: where the request_id is taken, none may be kept.
        statement = self._database.insert_new(feedback).values(
            **kept._asdict(),
            request_id=new.request_id or None,
            request_digest=new.request_digest,
            prediction_id=new.prediction_id,
            class_id=new.class_id,
            not_mri=not new.class_id,
            comment=new.comment,
            actor=new.actor,
        )
        this = sa.select(predictions.c.number).where(predictions.c.prediction_id == new.prediction_id)
        with self._database.write() as connection:
            # It may have been erased since; until this ends it cannot be.
            if connection.execute(this.with_for_update()).one_or_none() is None:
                raise _not_found(new.prediction_id)
            statement = statement.values(create_time=self._database.now(connection))
            inserted = connection.execute(statement.returning(feedback.c.feedback_id)).one_or_none()
            if inserted is not None and example is not None:
                [added] = add_rows(connection, self._database, [example], {})
                if isinstance(added, GatewayError):
                    raise added
        if inserted is not None:
            return kept
        # The same request_id came twice at once, and the other one was first.
        earlier = self._earlier(new)
        if earlier is None:  # erased in between, with its prediction
            raise _not_found(new.prediction_id)
        return earlier

    def _earlier(self, new: NewFeedback) -> Feedback | None:
        with self._database.read() as connection:
            row = earlier_request(connection, feedback, new.request_id, new.request_digest)
        return None if row is None else Feedback(row["feedback_id"], row["example_id"], row["confirmed"])

    def _example(self, prediction: StoredPrediction, new: NewFeedback) -> NewExample | None:
        if not new.class_id or not prediction.image_kept:
            return None
        try:
            # Those of an older release lie there as they were sent; to all others this changes nothing.
            data = deidentified(self._images.read(prediction.image_digest))
        except (ImageGoneError, TransformError):
            return None
        width, height = upright_size(data)
        return NewExample(
            example_id=hashlib.sha256(data).hexdigest(),
            data=data,
            sent_sha256="",
            class_id=new.class_id,
            source="FEEDBACK",
            width=width,
            height=height,
            prediction_id=prediction.prediction_id,
            actor=new.actor,
            attributes=prediction.attributes,
        )


def _not_found(prediction_id: str) -> GatewayError:
    return GatewayError(
        error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND,
        f"there is no prediction {prediction_id!r}, or it is no longer kept",
        resource=("prediction", prediction_id),
        field="prediction_id",
    )
