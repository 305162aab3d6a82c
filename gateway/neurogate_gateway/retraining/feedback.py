"""Feedback on predictions, corrections of examples, and predictions that are to be erased."""

from __future__ import annotations

from typing import Final

from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.release.promotion import StableResolver
from neurogate_gateway.store.examples import Example
from neurogate_gateway.store.predictions import Feedback, NewFeedback
from neurogate_gateway.store.store import Store

from .service import check_classes, message_digest

_MAX_COMMENT: Final = 512


class FeedbackService:
    """Checks feedback and keeps it; corrects and erases what is kept.

    Args:
        store: Where it is kept.
        router: Knows "stable", whose classes there are.
        journal: Has the predictions that are not written yet; None where no predictions are kept.
    """

    def __init__(self, store: Store, router: StableResolver, journal: Journal | None) -> None:
        self._store = store
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
            raise _invalid("the feedback has neither a class_id nor not_mri", "truth")
        # Databases do not hold the character NUL.
        if len(request.comment) > _MAX_COMMENT or "\0" in request.comment:
            raise _invalid(f"the comment is longer than {_MAX_COMMENT} characters or has a NUL", "comment")
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
            request_digest=message_digest(asked),
        )

        def submit() -> Feedback:
            self._flush(new.prediction_id)
            return self._store.predictions.submit(new)

        return await self._store.run(submit)

    async def relabel(
        self, request: training_pb2.UpdateExampleRequest, *, actor: str, deadline: Deadline
    ) -> Example:
        """Corrects the class of an example.

        Raises:
            GatewayError: Why it stays.
        """
        await self._check_class(request.class_id, deadline)
        return await self._store.run(
            self._store.examples.relabel,
            request.example_id,
            request.class_id,
            expected=request.expected_class_id,
            reason=request.reason,
            actor=actor,
        )

    async def erase_prediction(self, prediction_id: str, *, reason: str, actor: str) -> list[str]:
        """Erases a prediction and feedback on it; returns the examples that were made of it.

        Raises:
            GatewayError: Why it stays.
        """

        def erase() -> list[str]:
            self._flush(prediction_id)
            return self._store.predictions.erase(prediction_id, reason=reason, actor=actor)

        return await self._store.run(erase)

    def _flush(self, prediction_id: str) -> None:
        # Before the look at the database: what waits now may be written in between.
        if self._journal is not None and self._journal.holds(prediction_id):
            self._journal.flush()

    async def _check_class(self, class_id: str, deadline: Deadline) -> None:
        check_classes(await self._router.resolve_stable(deadline), [class_id], field="class_id")


def _invalid(complaint: str, field: str) -> GatewayError:
    return GatewayError(error_pb2.ERROR_REASON_FEEDBACK_INVALID, complaint, field=field)
