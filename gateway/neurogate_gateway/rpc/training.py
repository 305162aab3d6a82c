"""TrainingService: checks messages, calls the use cases, shapes answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import error_pb2, training_pb2_grpc
from neurogate.v1 import training_pb2 as pb

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.logging import call_record
from neurogate_gateway.retraining.feedback import FeedbackService
from neurogate_gateway.retraining.service import RetrainingService
from neurogate_gateway.retraining.watch import RetrainingWatch
from neurogate_gateway.store.blobs import ImageGoneError
from neurogate_gateway.store.examples import Example, check_filter
from neurogate_gateway.store.run import RunState
from neurogate_gateway.store.store import Store

from .interceptor import Context
from .paging import Pages
from .upload_examples import UploadServer

_MAX_REASON: Final = 512
_THUMBNAIL_SIDE: Final = 96
_EXAMPLES: Final = Pages("examples", default=50, max_size=500)
_RETRAININGS: Final = Pages("retrainings", default=50, max_size=100)
_DIGITS: Final = {"prediction": 32, "example": 64, "retraining": 32}
_NOT_FOUND: Final = {
    "prediction": error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND,
    "example": error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND,
    "retraining": error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND,
}


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Takes examples and feedback, starts and shows retrainings."""

    def __init__(
        self,
        *,
        store: Store,
        uploads: UploadServer,
        feedback: FeedbackService,
        retrainings: RetrainingService,
        watching: RetrainingWatch,
        transforms: TransformPool,
        admission: Admission,
        default_timeout: float,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._feedback = feedback
        self._retrainings = retrainings
        self._watching = watching
        self._transforms = transforms
        self._admission = admission
        self._default_timeout = default_timeout

    async def UploadExamples(  # type: ignore[override]  # noqa: N802 - writes by itself, to know when
        self, request_iterator: AsyncIterator[pb.UploadExamplesRequest], context: Context
    ) -> None:
        """Keeps labelled images, an answer for each."""
        await self._uploads.serve(request_iterator, context)

    async def SubmitFeedback(  # noqa: N802 - the contract's name
        self, request: pb.SubmitFeedbackRequest, context: Context
    ) -> pb.SubmitFeedbackResponse:
        """Keeps what an answer should have been."""
        _check_id("prediction", request.prediction_id)
        feedback = await self._feedback.submit(
            request,
            actor=call_record().caller(),
            deadline=Deadline.of_call(context.time_remaining(), self._default_timeout),
        )
        return pb.SubmitFeedbackResponse(**feedback._asdict())

    async def UpdateExample(  # noqa: N802 - the contract's name
        self, request: pb.UpdateExampleRequest, context: Context
    ) -> pb.UpdateExampleResponse:
        """Corrects the class of an example."""
        _check_reason(request.reason)
        _check_id("example", request.example_id)
        example = await self._feedback.relabel(
            request,
            actor=call_record().caller(),
            deadline=Deadline.of_call(context.time_remaining(), self._default_timeout),
        )
        return pb.UpdateExampleResponse(example=example.message())

    async def DeleteExample(  # noqa: N802 - the contract's name
        self, request: pb.DeleteExampleRequest, _: Context
    ) -> pb.DeleteExampleResponse:
        """Erases an example."""
        _check_reason(request.reason)
        _check_id("example", request.example_id)
        erase, actor = self._store.examples.erase, call_record().caller()
        learned = await self._store.run(erase, request.example_id, reason=request.reason, actor=actor)
        return pb.DeleteExampleResponse(versions=learned.versions, running_retraining_ids=learned.running)

    async def DeletePrediction(  # noqa: N802 - the contract's name
        self, request: pb.DeletePredictionRequest, _: Context
    ) -> pb.DeletePredictionResponse:
        """Erases a prediction."""
        _check_reason(request.reason)
        _check_id("prediction", request.prediction_id)
        left = await self._feedback.erase_prediction(
            request.prediction_id, reason=request.reason, actor=call_record().caller()
        )
        return pb.DeletePredictionResponse(example_ids=left)

    async def ListExamples(  # noqa: N802 - the contract's name
        self, request: pb.ListExamplesRequest, _: Context
    ) -> pb.ListExamplesResponse:
        """A page of examples, newest first."""
        check_filter(request.filter, field="filter")
        chosen = request.filter.SerializeToString(deterministic=True)
        size = _EXAMPLES.size(request.page_size)
        below = _EXAMPLES.below(chosen, request.page_token)
        examples = self._store.examples
        found = await self._store.run(examples.page, request.filter, below=below, limit=size + 1)
        totals = await self._store.run(examples.totals, request.filter)
        page = found[:size]
        thumbnails = [b""] * len(page)
        if request.thumbnails:
            # Admitted, and one after another: they share their threads with images that are to be classified.
            with self._admission.bulk_calls.held():
                thumbnails = [await self._thumbnail(example) for example in page]
        return pb.ListExamplesResponse(
            examples=[example.message(picture) for example, picture in zip(page, thumbnails, strict=True)],
            next_page_token=_EXAMPLES.token(chosen, page[-1].number) if len(found) > size else "",
            total_by_class=totals,
        )

    async def StartRetraining(  # noqa: N802 - the contract's name
        self, request: pb.StartRetrainingRequest, context: Context
    ) -> pb.StartRetrainingResponse:
        """Queues a retraining."""
        run = await self._retrainings.start(
            request.spec,
            request_id=request.request_id,
            actor=call_record().caller(),
            deadline=Deadline.of_call(context.time_remaining(), self._default_timeout),
        )
        return pb.StartRetrainingResponse(retraining=run.message())

    async def GetRetraining(  # noqa: N802 - the contract's name
        self, request: pb.GetRetrainingRequest, _: Context
    ) -> pb.GetRetrainingResponse:
        """One retraining."""
        _check_id("retraining", request.retraining_id)
        run = await self._store.run(self._store.runs.get, request.retraining_id)
        return pb.GetRetrainingResponse(retraining=run.message())

    async def ListRetrainings(  # noqa: N802 - the contract's name
        self, request: pb.ListRetrainingsRequest, _: Context
    ) -> pb.ListRetrainingsResponse:
        """A page of retrainings, newest first."""
        states: dict[int, RunState | None] = {0: None, **{state.message: state for state in RunState}}
        if request.state not in states:
            raise GatewayError(
                error_pb2.ERROR_REASON_FILTER_INVALID, f"state {request.state} is unknown", field="state"
            )
        chosen = str(request.state).encode()
        size = _RETRAININGS.size(request.page_size)
        below = _RETRAININGS.below(chosen, request.page_token)
        runs, state = self._store.runs, states[request.state]
        found = await self._store.run(runs.page, state=state, below=below, limit=size + 1)
        page = found[:size]
        return pb.ListRetrainingsResponse(
            retrainings=[run.message() for run in page],
            next_page_token=_RETRAININGS.token(chosen, page[-1].number) if len(found) > size else "",
        )

    async def WatchRetraining(  # noqa: N802 - the contract's name
        self, request: pb.WatchRetrainingRequest, _: Context
    ) -> AsyncIterator[pb.WatchRetrainingResponse]:
        """The events of a retraining, until its last."""
        _check_id("retraining", request.retraining_id)
        with self._admission.watches.held():
            async for event in self._watching.events(request.retraining_id, request.after_sequence):
                yield pb.WatchRetrainingResponse(event=event)

    async def CancelRetraining(  # noqa: N802 - the contract's name
        self, request: pb.CancelRetrainingRequest, _: Context
    ) -> pb.CancelRetrainingResponse:
        """Ends a retraining, or asks for its end."""
        _check_reason(request.reason)
        _check_id("retraining", request.retraining_id)
        cancel, actor = self._store.runs.request_cancel, call_record().caller()
        run = await self._store.run(cancel, request.retraining_id, reason=request.reason, actor=actor)
        return pb.CancelRetrainingResponse(retraining=run.message())

    async def _thumbnail(self, example: Example) -> bytes:
        """Empty where the image cannot be shown: the list is worth more than the picture."""
        try:
            image = await self._store.run(self._store.images.read, example.example_id)
            async with self._admission.bulk_image():
                return await self._transforms.thumbnail(image, _THUMBNAIL_SIDE)
        except (ImageGoneError, GatewayError):
            return b""


def _check_reason(reason: str) -> None:
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise GatewayError(
            error_pb2.ERROR_REASON_CHANGE_REASON_INVALID,
            f"the reason is not printable or longer than {_MAX_REASON} characters",
            field="reason",
        )


def _check_id(kind: str, identifier: str) -> None:
    """Refuses what cannot be an identifier, before the database sees it."""
    if not re.fullmatch(rf"[0-9a-f]{{{_DIGITS[kind]}}}", identifier):
        raise GatewayError(
            _NOT_FOUND[kind],
            f"there is no {kind} {identifier!r}: identifiers have {_DIGITS[kind]} hexadecimal digits",
            resource=(kind, identifier),
            field=f"{kind}_id",
        )
