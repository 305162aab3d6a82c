"""What an answer or an example should have been, and what is to be kept no longer."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.release.promotion import StableResolver
from neurogate_gateway.store.amendments import Learned
from neurogate_gateway.store.examples import Example
from neurogate_gateway.store.feedback import Feedback, NewFeedback
from neurogate_gateway.store.store import Store

_LONGEST_COMMENT: Final = 512
_PREDICTION_ID: Final = re.compile(r"[0-9a-f]{32}")
_EXAMPLE_ID: Final = re.compile(r"[0-9a-f]{64}")


class FeedbackService:
    """Checks feedback and keeps it; corrects and erases what is kept.

    Args:
        records: Where it is kept.
        router: Knows the classes.
        journal: What it has not written yet is found too; None where no predictions are kept.
    """

    def __init__(self, records: Store, router: StableResolver, journal: Journal | None) -> None:
        self._records = records
        self._router = router
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
            raise GatewayError(
                error_pb2.ERROR_REASON_FEEDBACK_INVALID,
                "the feedback has neither a class_id nor not_mri",
                field="truth",
            )
        # Databases do not hold the character NUL.
        if len(request.comment) > _LONGEST_COMMENT or "\0" in request.comment:
            raise GatewayError(
                error_pb2.ERROR_REASON_FEEDBACK_INVALID,
                f"the comment is longer than {_LONGEST_COMMENT} characters or has a NUL",
                field="comment",
            )
        _check_prediction_id(request.prediction_id)
        if truth == "class_id":
            await self._check_class(request.class_id, deadline)
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

    async def relabel(
        self, request: training_pb2.UpdateExampleRequest, *, actor: str, deadline: Deadline
    ) -> Example:
        """Corrects the class of an example.

        Raises:
            GatewayError: Why it stays.
        """
        _check_example_id(request.example_id)
        await self._check_class(request.class_id, deadline)
        return await self._records.run(
            self._records.amendments.relabel_example,
            request.example_id,
            request.class_id,
            expected=request.expected_class_id,
            reason=request.reason,
            actor=actor,
        )

    async def erase_example(self, example_id: str, *, reason: str, actor: str) -> Learned:
        """Erases an example; says who has learned from it.

        Raises:
            GatewayError: Why it stays.
        """
        _check_example_id(example_id)
        erase = self._records.amendments.erase_example
        return await self._records.run(erase, example_id, reason=reason, actor=actor)

    async def erase_prediction(self, prediction_id: str, *, reason: str, actor: str) -> list[str]:
        """Erases a prediction and feedback on it; returns the examples that were made of it.

        Raises:
            GatewayError: Why it stays.
        """
        _check_prediction_id(prediction_id)
        return await self._records.run(self._erase_prediction, prediction_id, reason, actor)

    def _submit(self, new: NewFeedback) -> Feedback:
        self._settle(new.prediction_id)
        return self._records.feedback.submit(new)

    def _erase_prediction(self, prediction_id: str, reason: str, actor: str) -> list[str]:
        self._settle(prediction_id)
        return self._records.amendments.erase_prediction(prediction_id, reason=reason, actor=actor)

    def _settle(self, prediction_id: str) -> None:
        # Before the look at the database: what waits now may be written in between.
        if self._journal is not None and self._journal.holds(prediction_id):
            self._journal.flush()

    async def _check_class(self, class_id: str, deadline: Deadline) -> None:
        version = await self._router.resolve_stable(deadline)
        known = [identifier for identifier, _ in version.classes]
        if class_id not in known:
            raise GatewayError(
                error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
                f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
                field="class_id",
            )


def _check_prediction_id(prediction_id: str) -> None:
    if not _PREDICTION_ID.fullmatch(prediction_id):
        raise GatewayError(
            error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND,
            "that is no prediction_id: those have 32 hexadecimal digits",
            field="prediction_id",
            resource=("prediction", prediction_id),
        )


def _check_example_id(example_id: str) -> None:
    if not _EXAMPLE_ID.fullmatch(example_id):
        raise GatewayError(
            error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND,
            "that is no example_id: those have 64 hexadecimal digits",
            field="example_id",
            resource=("example", example_id),
        )
