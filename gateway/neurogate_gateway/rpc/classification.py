"""ClassificationService: checks messages, calls the use case, shapes answers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from neurogate.v1 import classification_pb2, classification_pb2_grpc, error_pb2
from neurogate_core.evidence import map_caution

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.explain import Overlay
from neurogate_gateway.inference.pipeline import ExplanationRequest, InferencePipeline, check_top_k
from neurogate_gateway.inference.preprocessing import Submitted

from .interceptor import Context
from .stream_classify import StreamServer


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers for single images, batches, streams and explanations."""

    def __init__(
        self,
        pipeline: InferencePipeline,
        admission: Admission,
        streams: StreamServer,
        *,
        default_timeout: float,
    ) -> None:
        self._pipeline = pipeline
        self._admission = admission
        self._streams = streams
        self._default_timeout = default_timeout

    async def Classify(  # noqa: N802 - the contract's name
        self, request: classification_pb2.ClassifyRequest, context: Context
    ) -> classification_pb2.ClassifyResponse:
        """Classifies one image."""
        check_top_k(request.top_k)
        answer = await self._pipeline.classify(
            Submitted(request.image, request.frame),
            request.model,
            top_k=request.top_k,
            deadline=Deadline.of_call(context.time_remaining(), self._default_timeout),
            key=request.routing_key or request.request_id,
        )
        return classification_pb2.ClassifyResponse(
            classification=answer.classification,
            model=answer.resolved.reference,
            request_id=request.request_id,
        )

    async def BatchClassify(  # noqa: N802 - the contract's name
        self, request: classification_pb2.BatchClassifyRequest, context: Context
    ) -> classification_pb2.BatchClassifyResponse:
        """Classifies several images with one version, a status for each.

        That there are not too many has been checked before the message was parsed.
        """
        check_top_k(request.top_k)
        if not request.items:
            raise GatewayError(error_pb2.ERROR_REASON_BATCH_EMPTY, "the batch has no items", field="items")
        with self._admission.bulk_calls.held():
            resolved, answers = await self._pipeline.classify_batch(
                [Submitted(item.image, item.frame) for item in request.items],
                request.model,
                top_k=request.top_k,
                deadline=Deadline.of_call(context.time_remaining(), math.inf),
                key=request.routing_key or request.request_id,
            )
        return classification_pb2.BatchClassifyResponse(
            results=[
                classification_pb2.BatchClassifyResult(error=answer.to_status())
                if isinstance(answer, GatewayError)
                else classification_pb2.BatchClassifyResult(classification=answer.classification)
                for answer in answers
            ],
            model=resolved.reference,
            request_id=request.request_id,
        )

    async def StreamClassify(  # type: ignore[override]  # noqa: N802 - writes by itself, to know when
        self,
        request_iterator: AsyncIterator[classification_pb2.StreamClassifyRequest],
        context: Context,
    ) -> None:
        """Classifies a stream of images with one version."""
        await self._streams.serve(request_iterator, context)

    async def Explain(  # noqa: N802 - the contract's name
        self, request: classification_pb2.ExplainRequest, context: Context
    ) -> classification_pb2.ExplainResponse:
        """Classifies one image and draws where the evidence for a class lies."""
        answer = await self._pipeline.classify(
            Submitted(request.image, request.frame),
            request.model,
            top_k=0,
            deadline=Deadline.of_call(context.time_remaining(), self._default_timeout),
            key=request.routing_key or request.request_id,
            explain=ExplanationRequest(request.class_id, Overlay.from_options(request.overlay)),
        )
        explanation = answer.explanation
        assert explanation is not None  # noqa: S101 - it was asked for
        height, width = explanation.values.shape
        return classification_pb2.ExplainResponse(
            classification=answer.classification,
            class_id=explanation.class_id,
            map=classification_pb2.ClassActivationMap(
                height=height, width=width, values=explanation.values.ravel().tolist()
            ),
            overlay_png=explanation.picture,
            model=answer.resolved.reference,
            request_id=request.request_id,
            map_caution=map_caution(answer.resolved.version.manifest.localisation),
        )
