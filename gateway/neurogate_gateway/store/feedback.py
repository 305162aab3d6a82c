"""What an earlier answer should have been; becomes an example where the prediction's image was kept."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Callable

import sqlalchemy as sa
from neurogate.v1 import error_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import TransformError

from neurogate_gateway.errors import GatewayError

from .blobs import ImageGoneError, ImageStore
from .database import Database
from .examples import NewExample, add_rows
from .predictions import PredictionStore, StoredPrediction, hold, not_found
from .schema import feedback


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


@dataclasses.dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback that is kept."""

    feedback_id: str
    example_id: str
    confirmed: bool


class FeedbackStore:
    """The feedback of one database.

    Args:
        database: Where the rows are.
        images: Where the images of predictions are.
        predictions: What feedback is about.
        measure: Width and height of an encoded image.
    """

    def __init__(
        self,
        database: Database,
        images: ImageStore,
        predictions: PredictionStore,
        measure: Callable[[bytes], tuple[int, int]],
    ) -> None:
        self._database = database
        self._images = images
        self._predictions = predictions
        self._measure = measure

    def submit(self, new: NewFeedback) -> Feedback:
        """Keeps feedback for good, with the example that it turns into.

        Returns:
            What is kept; for a repeated request what the first one had kept.

        Raises:
            GatewayError (REQUEST_ID_REUSED): The request_id belongs to other feedback.
            PredictionNotFoundError: There is no such prediction, or it is no longer kept.
            ExampleConflictError: The image is an example of another class already; nothing is kept.
        """
        earlier = self._earlier(new)
        if earlier is not None:
            return earlier
        prediction = self._predictions.find(new.prediction_id)
        if prediction is None:
            raise not_found(new.prediction_id)
        with self._images.adding():
            example = self._example(prediction, new)
            if example is not None:
                # Under the lock, so that a sweep that has just removed the file is made good.
                self._images.put({example.example_id: example.data})
            return self._keep(new, prediction, example)

    def _keep(self, new: NewFeedback, prediction: StoredPrediction, example: NewExample | None) -> Feedback:
        row = {
            "feedback_id": uuid.uuid4().hex,
            "example_id": example.example_id if example is not None else "",
            "confirmed": (new.class_id or "OUT_OF_DISTRIBUTION")
            == (prediction.class_id if new.class_id else prediction.verdict),
        }
        with self._database.write() as connection:
            # It may have been erased since; until this ends it cannot be.
            if not hold(connection, prediction.prediction_id):
                raise not_found(prediction.prediction_id)
            # Before the example: where the request_id is taken, none may be kept.
            inserted = connection.execute(
                self._database.insert_new(feedback)
                .values(
                    **row,
                    request_id=new.request_id or None,
                    request_digest=new.request_digest,
                    prediction_id=new.prediction_id,
                    class_id=new.class_id,
                    not_mri=not new.class_id,
                    comment=new.comment,
                    create_time=self._database.now(connection),
                    actor=new.actor,
                )
                .returning(feedback.c.feedback_id, feedback.c.example_id, feedback.c.confirmed)
            ).one_or_none()
            if inserted is not None and example is not None:
                [added] = add_rows(connection, self._database, [example], {})
                if isinstance(added, GatewayError):
                    raise added
        if inserted is not None:
            return Feedback(*inserted)
        # The same request_id came twice at once, and the other one was first.
        earlier = self._earlier(new)
        if earlier is None:  # erased in between, with its prediction
            raise not_found(new.prediction_id)
        return earlier

    def _earlier(self, new: NewFeedback) -> Feedback | None:
        if not new.request_id:
            return None
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(feedback).where(feedback.c.request_id == new.request_id)
            ).one_or_none()
        if row is None:
            return None
        if row.request_digest != new.request_digest:
            raise GatewayError(
                error_pb2.ERROR_REASON_REQUEST_ID_REUSED,
                "the request_id belongs to earlier feedback that said something else",
                field="request_id",
            )
        return Feedback(row.feedback_id, row.example_id, row.confirmed)

    def _example(self, prediction: StoredPrediction, new: NewFeedback) -> NewExample | None:
        if not new.class_id or not prediction.image_kept:
            return None
        try:
            # Those of an older release lie there as they were sent; to all others this changes nothing.
            data = deidentified(self._images.read(prediction.image_digest))
        except (ImageGoneError, TransformError):
            return None
        width, height = self._measure(data)
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
