"""ClassificationService: checks messages, calls the use case, shapes answers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from neurogate.v1 import classification_pb2, classification_pb2_grpc, error_pb2
from neurogate_core.localisation import map_caution

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.explain import Overlay
from neurogate_gateway.inference.pipeline import InferencePipeline
from neurogate_gateway.inference.predictions import check_top_k
from neurogate_gateway.inference.preprocessing import Submitted

from .requests import Context, deadline_of, take_request_id, take_routing_key
from .stream_classify import StreamServer


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """Answers for single images, batches, streams and explanations."""

    def __init__(
        self,
        classifier: InferencePipeline,
        admission: Admission,
        streams: StreamServer,
        *,
        default_timeout: float,
    ) -> None:
        self._classifier = classifier
        self._admission = admission
        self._streams = streams
        self._default_timeout = default_timeout

    async def Classify(  # noqa: N802 - the contract's name
        self, request: classification_pb2.ClassifyRequest, context: Context
    ) -> classification_pb2.ClassifyResponse:
        """Classifies one image."""
        request_id = take_request_id(request.request_id)
        key = take_routing_key(request.routing_key, request_id)
        check_top_k(request.top_k)
        answer = await self._classifier.classify(
            Submitted(request.image, request.frame),
            request.model,
            top_k=request.top_k,
            deadline=deadline_of(context, self._default_timeout),
            key=key,
        )
        return classification_pb2.ClassifyResponse(
            classification=answer.classification, model=answer.choice.reference, request_id=request_id
        )

    async def BatchClassify(  # noqa: N802 - the contract's name
        self, request: classification_pb2.BatchClassifyRequest, context: Context
    ) -> classification_pb2.BatchClassifyResponse:
        """Classifies several images with one version, a status for each.

        That there are not too many has been checked before the message was parsed.
        """
        request_id = take_request_id(request.request_id)
        key = take_routing_key(request.routing_key, request_id)
        check_top_k(request.top_k)
        if not request.items:
            raise GatewayError(error_pb2.ERROR_REASON_BATCH_EMPTY, "the batch has no items", field="items")
        with self._admission.bulk_call():
            choice, answers = await self._classifier.classify_batch(
                [Submitted(item.image, item.frame) for item in request.items],
                request.model,
                top_k=request.top_k,
                deadline=deadline_of(context, math.inf),
                key=key,
            )
        return classification_pb2.BatchClassifyResponse(
            results=[
                classification_pb2.BatchClassifyResult(error=answer.to_status())
                if isinstance(answer, GatewayError)
                else classification_pb2.BatchClassifyResult(classification=answer.classification)
                for answer in answers
            ],
            model=choice.reference,
            request_id=request_id,
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
        request_id = take_request_id(request.request_id)
        key = take_routing_key(request.routing_key, request_id)
        explanation = await self._classifier.explain(
            Submitted(request.image, request.frame),
            request.model,
            class_id=request.class_id,
            overlay=Overlay.from_options(request.overlay),
            deadline=deadline_of(context, self._default_timeout),
            key=key,
        )
        height, width = explanation.values.shape
        return classification_pb2.ExplainResponse(
            classification=explanation.answer.classification,
            class_id=explanation.class_id,
            map=classification_pb2.ClassActivationMap(
                height=height, width=width, values=explanation.values.ravel().tolist()
            ),
            overlay_png=explanation.picture,
            model=explanation.answer.choice.reference,
            request_id=request_id,
            map_caution=map_caution(explanation.answer.choice.version.manifest.localisation),
        )
