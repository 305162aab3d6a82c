"""TrainingService: checks messages, calls the use cases, shapes answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import error_pb2, training_pb2, training_pb2_grpc

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.logging import call_record
from neurogate_gateway.retraining.feedback import FeedbackService
from neurogate_gateway.retraining.service import RetrainingService
from neurogate_gateway.retraining.watch import RetrainingWatch
from neurogate_gateway.store.blobs import ImageGoneError
from neurogate_gateway.store.examples import Example, check_filter
from neurogate_gateway.store.run_states import RunState
from neurogate_gateway.store.store import Store

from .paging import Pages
from .requests import Context, deadline_of, take_request_id
from .upload_examples import UploadServer

_LONGEST_REASON: Final = 512
_THUMBNAIL_SIDE: Final = 96
_RETRAINING_ID: Final = re.compile(r"[0-9a-f]{32}")
_EXAMPLES: Final = Pages("examples", default=50, max_size=500)
_RETRAININGS: Final = Pages("retrainings", default=50, max_size=100)


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Takes examples and feedback, starts and shows retrainings."""

    def __init__(
        self,
        *,
        records: Store,
        uploads: UploadServer,
        corrections: FeedbackService,
        retrainings: RetrainingService,
        watching: RetrainingWatch,
        transforms: TransformPool,
        admission: Admission,
        default_timeout: float,
    ) -> None:
        self._records = records
        self._uploads = uploads
        self._corrections = corrections
        self._retrainings = retrainings
        self._watching = watching
        self._transforms = transforms
        self._admission = admission
        self._default_timeout = default_timeout

    async def UploadExamples(  # type: ignore[override]  # noqa: N802 - writes by itself, to know when
        self, request_iterator: AsyncIterator[training_pb2.UploadExamplesRequest], context: Context
    ) -> None:
        """Keeps labelled images, an answer for each."""
        await self._uploads.serve(request_iterator, context)

    async def SubmitFeedback(  # noqa: N802 - the contract's name
        self, request: training_pb2.SubmitFeedbackRequest, context: Context
    ) -> training_pb2.SubmitFeedbackResponse:
        """Keeps what an answer should have been."""
        take_request_id(request.request_id)
        feedback = await self._corrections.submit(
            request, actor=call_record().caller(), deadline=deadline_of(context, self._default_timeout)
        )
        return training_pb2.SubmitFeedbackResponse(
            feedback_id=feedback.feedback_id, example_id=feedback.example_id, confirmed=feedback.confirmed
        )

    async def UpdateExample(  # noqa: N802 - the contract's name
        self, request: training_pb2.UpdateExampleRequest, context: Context
    ) -> training_pb2.UpdateExampleResponse:
        """Corrects the class of an example."""
        _check_reason(request.reason)
        example = await self._corrections.relabel(
            request, actor=call_record().caller(), deadline=deadline_of(context, self._default_timeout)
        )
        return training_pb2.UpdateExampleResponse(example=example.message())

    async def DeleteExample(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.DeleteExampleRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.DeleteExampleResponse:
        """Erases an example."""
        _check_reason(request.reason)
        learned = await self._corrections.erase_example(
            request.example_id, reason=request.reason, actor=call_record().caller()
        )
        return training_pb2.DeleteExampleResponse(
            versions=learned.versions, running_retraining_ids=learned.running
        )

    async def DeletePrediction(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.DeletePredictionRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.DeletePredictionResponse:
        """Erases a prediction."""
        _check_reason(request.reason)
        left = await self._corrections.erase_prediction(
            request.prediction_id, reason=request.reason, actor=call_record().caller()
        )
        return training_pb2.DeletePredictionResponse(example_ids=left)

    async def ListExamples(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.ListExamplesRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.ListExamplesResponse:
        """A page of examples, newest first."""
        check_filter(request.filter, field="filter")
        chosen = request.filter.SerializeToString(deterministic=True)
        size = _EXAMPLES.size(request.page_size)
        below = _EXAMPLES.below(chosen, request.page_token)
        store = self._records.examples
        found = await self._records.run(store.page, request.filter, below=below, limit=size + 1)
        totals = await self._records.run(store.totals, request.filter)
        page = found[:size]
        thumbnails = [b""] * len(page)
        if request.thumbnails:
            # Admitted, and one after another: they share their threads with images that are to be classified.
            with self._admission.bulk_call():
                thumbnails = [await self._thumbnail(example) for example in page]
        return training_pb2.ListExamplesResponse(
            examples=[
                example.message(thumbnail) for example, thumbnail in zip(page, thumbnails, strict=True)
            ],
            next_page_token=_EXAMPLES.token(chosen, page[-1].number) if len(found) > size else "",
            total_by_class=totals,
        )

    async def StartRetraining(  # noqa: N802 - the contract's name
        self, request: training_pb2.StartRetrainingRequest, context: Context
    ) -> training_pb2.StartRetrainingResponse:
        """Queues a retraining."""
        run = await self._retrainings.start(
            request.spec,
            request_id=take_request_id(request.request_id),
            actor=call_record().caller(),
            deadline=deadline_of(context, self._default_timeout),
        )
        return training_pb2.StartRetrainingResponse(retraining=run.message())

    async def GetRetraining(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.GetRetrainingRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.GetRetrainingResponse:
        """One retraining."""
        run = await self._records.run(self._records.runs.get, _checked_id(request.retraining_id))
        return training_pb2.GetRetrainingResponse(retraining=run.message())

    async def ListRetrainings(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.ListRetrainingsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.ListRetrainingsResponse:
        """A page of retrainings, newest first."""
        state = None
        if request.state:
            states = {state.message: state for state in RunState}
            if request.state not in states:
                raise GatewayError(
                    error_pb2.ERROR_REASON_FILTER_INVALID, f"state {request.state} is unknown", field="state"
                )
            state = states[request.state]
        chosen = str(request.state).encode()
        size = _RETRAININGS.size(request.page_size)
        below = _RETRAININGS.below(chosen, request.page_token)
        found = await self._records.run(self._records.runs.page, state=state, below=below, limit=size + 1)
        page = found[:size]
        return training_pb2.ListRetrainingsResponse(
            retrainings=[run.message() for run in page],
            next_page_token=_RETRAININGS.token(chosen, page[-1].number) if len(found) > size else "",
        )

    async def WatchRetraining(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.WatchRetrainingRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[training_pb2.WatchRetrainingResponse]:
        """The events of a retraining, until its last."""
        run_id = _checked_id(request.retraining_id)
        with self._admission.watch():
            async for event in self._watching.events(run_id, request.after_sequence):
                yield training_pb2.WatchRetrainingResponse(event=event)

    async def CancelRetraining(  # noqa: N802 - the contract's name
        self,
        request: training_pb2.CancelRetrainingRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> training_pb2.CancelRetrainingResponse:
        """Ends a retraining, or asks for its end."""
        _check_reason(request.reason)
        run = await self._records.run(
            self._records.runs.request_cancel,
            _checked_id(request.retraining_id),
            reason=request.reason,
            actor=call_record().caller(),
        )
        return training_pb2.CancelRetrainingResponse(retraining=run.message())

    async def _thumbnail(self, example: Example) -> bytes:
        """Empty where the image cannot be shown: the list is worth more than the picture."""
        try:
            image = await self._records.run(self._records.images.read, example.example_id)
            async with self._admission.bulk_image():
                return await self._transforms.thumbnail(image, _THUMBNAIL_SIDE)
        except (ImageGoneError, GatewayError):
            return b""


def _check_reason(reason: str) -> None:
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise GatewayError(
            error_pb2.ERROR_REASON_CHANGE_REASON_INVALID,
            f"the reason is not printable or longer than {_LONGEST_REASON} characters",
            field="reason",
        )


def _checked_id(retraining_id: str) -> str:
    """The identifier, where it can be one.

    Raises:
        GatewayError (RETRAINING_NOT_FOUND): It cannot.
    """
    if not _RETRAINING_ID.fullmatch(retraining_id):
        raise GatewayError(
            error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND,
            f"there is no retraining {retraining_id!r}",
            resource=("retraining", retraining_id),
            field="retraining_id",
        )
    return retraining_id
