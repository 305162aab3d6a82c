"""SubmitFeedback: what an answer should have been."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from neurogate.v1 import training_pb2

from neurogate_gateway.admission import Deadline
from neurogate_gateway.catalog import Catalog
from neurogate_gateway.errors import ClassNotFoundError
from neurogate_gateway.records.feedback import Feedback, NewFeedback
from neurogate_gateway.records.journal import Journal
from neurogate_gateway.records.opened import Records
from neurogate_gateway.training_errors import FeedbackInvalidError, PredictionNotFoundError

from .stable import known_classes, stable_version

_LONGEST_COMMENT: Final = 512
_PREDICTION_ID: Final = re.compile(r"[0-9a-f]{32}")


class Corrections:
    """Checks feedback and keeps it.

    Args:
        records: Where it is kept.
        catalog: Knows the classes.
        journal: What it has not written yet is found too; None where no predictions are kept.
    """

    def __init__(self, records: Records, catalog: Catalog, journal: Journal | None) -> None:
        self._records = records
        self._catalog = catalog
        self._journal = journal

    async def submit(
        self, request: training_pb2.SubmitFeedbackRequest, *, actor: str, deadline: Deadline
    ) -> Feedback:
        """Keeps feedback for good; a repeat of a request gets the first one's answer.

        Raises:
            GatewayError: Why it is not kept.
        """
        truth = request.WhichOneof("truth")
        if truth is None or (truth == "not_mri" and not request.not_mri):
            raise FeedbackInvalidError("the feedback has neither a class_id nor not_mri", field="truth")
        # Databases do not hold the character NUL.
        if len(request.comment) > _LONGEST_COMMENT or "\0" in request.comment:
            raise FeedbackInvalidError(
                f"the comment is longer than {_LONGEST_COMMENT} characters or has a NUL", field="comment"
            )
        if not _PREDICTION_ID.fullmatch(request.prediction_id):
            raise PredictionNotFoundError(
                "that is no prediction_id: those have 32 hexadecimal digits",
                field="prediction_id",
                resource=("prediction", request.prediction_id),
            )
        if truth == "class_id":
            version = await stable_version(self._catalog, deadline)
            known = known_classes(version)
            if request.class_id not in known:
                raise ClassNotFoundError(
                    f"version {version.number} has no class {request.class_id!r}, only {', '.join(known)}",
                    field="class_id",
                )
        asked = training_pb2.SubmitFeedbackRequest()
        asked.CopyFrom(request)
        asked.ClearField("request_id")
        new = NewFeedback(
            prediction_id=request.prediction_id,
            class_id=request.class_id,
            comment=request.comment,
            actor=actor,
            request_id=request.request_id,
            request_digest=hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest(),
        )
        return await self._records.run(self._submit, new)

    def _submit(self, new: NewFeedback) -> Feedback:
        # Before the look at the database: what waits now may be written in between.
        if self._journal is not None and self._journal.holds(new.prediction_id):
            self._journal.flush()
        return self._records.feedback.submit(new)
