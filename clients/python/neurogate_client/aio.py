"""The client for asyncio: the methods of `neurogate_client.Client`, to be awaited.

Arguments, results and exceptions are the same, and are described there.

    async with aio.Client("localhost:50051") as client:
        answer = await client.classify("slice.jpg")
        async with contextlib.aclosing(client.stream_classify(folder_images("scans"))) as results:
            async for result in results:
                print(result.key, result.classification or result.error)
"""

# The methods get the docstrings of the other client, below. Timeouts become deadlines of calls, which the
# gateway has to see.
# ruff: noqa: D102, ASYNC109

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from neurogate.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

from . import _calls, _channel, _streams
from ._upload import DEFAULT_WINDOW, UploadCall
from .client import Client as _BlockingClient
from .errors import CallCancelledError, ModelNotFoundError, NeurogateError, from_rpc_error
from .images import DEFAULT_MAX_IMAGE_BYTES, Image, LabelledImage, framed, load_image
from .types import Classification, Explanation, Health, HealthStatus, Result, UploadResult

K = TypeVar("K")
T = TypeVar("T")


class _Services:
    """The services on a channel of asyncio."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.classification = classification_pb2_grpc.ClassificationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.training = training_pb2_grpc.TrainingServiceStub(channel)
        self.check: grpc.aio.UnaryUnaryMultiCallable[_calls.HealthRequest, _calls.HealthResponse] = (
            channel.unary_unary(
                _calls.HEALTH_METHOD,
                request_serializer=_calls.HealthRequest.SerializeToString,
                response_deserializer=_calls.HealthResponse.FromString,
            )
        )


class Client:
    """A connection to a gateway, for one event loop: that of its first call, wherever the client was made.

    Takes the same arguments as `neurogate_client.Client`, with the same defaults. Streams of images go
    through a second connection, which the first of them opens, since they have threads of their own. Their
    source may be an asynchronous iterable, which is stepped in the event loop, or a plain one, which is
    stepped in another thread: it may block, and must leave the loop's objects alone. Wrap their generators
    in `contextlib.aclosing` where the loop over them may end early, so that the call ends at once.

    Once the loop is closed, another one may use the client.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        tls: _channel.Tls = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
    ) -> None:
        _channel.check_settings(timeout, max_image_bytes)
        self.target = target
        self._timeout = timeout
        self._max_image_bytes = max_image_bytes
        self._endpoint = _channel.Target.parse(target)
        self._credentials = _channel.credentials(self._endpoint, tls)
        self._options = _channel.options(self._endpoint, max_image_bytes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._services: _Services | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._streams: grpc.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        with self._lock:
            self._closed = True
        if self._streams is not None:
            self._streams.close()
        if self._services is not None and self._loop is asyncio.get_running_loop():
            await self._services.channel.close()

    async def classify(
        self,
        image: Image,
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        frame: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Classification:
        selector = _calls.build_selector(model, version, label)
        data, frame = await self._load(image, frame)
        request = classification_pb2.ClassifyRequest(
            image=data,
            frame=frame,
            model=selector,
            top_k=top_k,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _calls.parse_classify(await self._call(self._open().classification.Classify, request, timeout))

    async def batch_classify(
        self,
        images: Iterable[Image],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> list[Result[int]]:
        images = list(images)  # an iterator has no length
        # Files may be on a slow disk.
        request = await asyncio.to_thread(
            lambda: _calls.build_batch(
                ((load_image(each, self._max_image_bytes), framed(each)[1]) for each in images),
                len(images),
                self._max_image_bytes,
                model=_calls.build_selector(model, version, label),
                top_k=top_k,
                request_id=request_id,
                routing_key=routing_key,
            )
        )
        response = await self._call(self._open().classification.BatchClassify, request, timeout)
        return _calls.parse_batch(len(images), response)

    def stream_classify(
        self,
        images: Iterable[tuple[K, Image]] | AsyncIterable[tuple[K, Image]],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        allow_out_of_order: bool = False,
        request_id: str = "",
        routing_key: str = "",
        window: int = _streams.DEFAULT_WINDOW,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = math.inf,
    ) -> AsyncGenerator[Result[K], None]:
        deadline = _channel.deadline(timeout, timeout)
        limits = _streams.Limits(self.target, self._max_image_bytes, window, idle_timeout)
        config = classification_pb2.StreamClassifyConfig(
            model=_calls.build_selector(model, version, label),
            top_k=top_k,
            allow_out_of_order=allow_out_of_order,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _streams.consume_async(
            images,
            lambda source, deliver: _streams.StreamCall(
                source,
                lambda requests: classification_pb2_grpc.ClassificationServiceStub(
                    self._open_streams()
                ).StreamClassify(requests, timeout=deadline),
                config,
                limits,
                deliver,
            ),
        )

    async def explain(
        self,
        image: Image,
        *,
        class_id: str = "",
        color_map: str | None = None,
        alpha: float | None = None,
        max_side: int = 0,
        frame: int = 0,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Explanation:
        selector = _calls.build_selector(model, version, label)
        overlay = _calls.build_overlay(color_map, alpha, max_side)
        data, frame = await self._load(image, frame)
        request = classification_pb2.ExplainRequest(
            image=data,
            frame=frame,
            model=selector,
            class_id=class_id,
            overlay=overlay,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _calls.parse_explanation(
            await self._call(self._open().classification.Explain, request, timeout)
        )

    async def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        try:
            response = await self._call(self._open().check, _calls.HealthRequest(value=service), timeout)
        except ModelNotFoundError:
            return Health(service, HealthStatus.SERVICE_UNKNOWN)
        return _calls.parse_health(service, response)

    async def wait_until_ready(self, timeout: float = _channel.DEFAULT_TIMEOUT) -> None:
        wait = _calls.Readiness(self.target, timeout)
        while (seconds := wait.look_seconds()) > 0:
            try:
                health = await self.health(timeout=seconds)
            except NeurogateError as error:
                wait.failed(error, seconds)
            else:
                if health.serving:
                    return
                wait.refused(health)
            await asyncio.sleep(wait.pause_seconds())
        raise wait.failure() from wait.last

    async def list_model_versions(
        self, *, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ModelVersion]:
        request = model_pb2.ListModelVersionsRequest(model=model)
        return await self._list(self._open().models.ListModelVersions, request, "versions", timeout)

    async def list_model_servers(
        self, *, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ModelServer]:
        request = model_pb2.ListModelVersionsRequest(model=model, page_size=1)
        return list((await self._call(self._open().models.ListModelVersions, request, timeout)).model_servers)

    async def get_model_version(
        self, version: int, *, model: str = "", timeout: float | None = None
    ) -> model_pb2.ModelVersion:
        request = model_pb2.GetModelVersionRequest(model=model, version=version)
        return (await self._call(self._open().models.GetModelVersion, request, timeout)).version

    async def get_release(self, *, model: str = "", timeout: float | None = None) -> model_pb2.Release:
        request = model_pb2.GetReleaseRequest(model=model)
        return (await self._call(self._open().models.GetRelease, request, timeout)).release

    async def promote(
        self,
        version: int,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        force: bool = False,
        timeout: float | None = None,
    ) -> model_pb2.PromoteModelVersionResponse:
        request = model_pb2.PromoteModelVersionRequest(
            model=model,
            version=version,
            etag=etag,
            request_id=request_id or _calls.new_request_id(),
            reason=reason,
            force=force,
        )
        return await self._call(self._open().models.PromoteModelVersion, request, timeout)

    async def rollback(
        self,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> model_pb2.RollbackModelResponse:
        request = model_pb2.RollbackModelRequest(
            model=model, etag=etag, request_id=request_id or _calls.new_request_id(), reason=reason
        )
        return await self._call(self._open().models.RollbackModel, request, timeout)

    async def set_traffic_split(
        self,
        *,
        canary_version: int = 0,
        canary_percent: float = 0.0,
        shadow_version: int = 0,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> model_pb2.SetTrafficSplitResponse:
        request = model_pb2.SetTrafficSplitRequest(
            model=model,
            etag=etag,
            request_id=request_id or _calls.new_request_id(),
            reason=reason,
            canary_version=canary_version,
            canary_percent=canary_percent,
            shadow_version=shadow_version,
        )
        return await self._call(self._open().models.SetTrafficSplit, request, timeout)

    async def evaluate_model_version(
        self, version: int, *, model: str = "", timeout: float = _channel.DEFAULT_EVALUATION_TIMEOUT
    ) -> model_pb2.GateReport:
        request = model_pb2.EvaluateModelVersionRequest(model=model, version=version)
        return (await self._call(self._open().models.EvaluateModelVersion, request, timeout)).report

    async def list_release_changes(
        self, *, limit: int = 50, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ReleaseChange]:
        request = model_pb2.ListReleaseChangesRequest(model=model, page_size=_calls.page_size(limit))
        return await self._list(self._open().models.ListReleaseChanges, request, "changes", timeout, limit)

    def watch_model_versions(
        self, *, model: str = "", patience: float = _channel.DEFAULT_IDLE_TIMEOUT, timeout: float = math.inf
    ) -> AsyncGenerator[model_pb2.WatchModelVersionsResponse, None]:
        watch = _streams.VersionsWatch(model, patience, timeout)
        return self._watch(lambda on: on.models.WatchModelVersions, watch)

    def upload_examples(
        self,
        images: Iterable[LabelledImage] | AsyncIterable[LabelledImage],
        *,
        window: int = DEFAULT_WINDOW,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
    ) -> AsyncGenerator[UploadResult, None]:
        limits = _streams.Limits(self.target, self._max_image_bytes, window, idle_timeout, patience)
        return _streams.consume_async(
            images,
            lambda source, deliver: UploadCall(
                source,
                # Each attempt asks anew, so that a client which was closed meanwhile says so.
                lambda requests: training_pb2_grpc.TrainingServiceStub(self._open_streams()).UploadExamples(
                    requests
                ),
                limits,
                deliver,
            ),
        )

    async def submit_feedback(
        self,
        prediction_id: str,
        *,
        class_id: str = "",
        not_mri: bool = False,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> training_pb2.SubmitFeedbackResponse:
        request = _calls.build_feedback(prediction_id, class_id, not_mri, comment, request_id)
        return await self._call(self._open().training.SubmitFeedback, request, timeout)

    async def update_example(
        self,
        example_id: str,
        *,
        class_id: str,
        expected_class_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> training_pb2.Example:
        request = training_pb2.UpdateExampleRequest(
            example_id=example_id, class_id=class_id, expected_class_id=expected_class_id, reason=reason
        )
        return (await self._call(self._open().training.UpdateExample, request, timeout)).example

    async def delete_example(
        self, example_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.DeleteExampleResponse:
        request = training_pb2.DeleteExampleRequest(example_id=example_id, reason=reason)
        return await self._call(self._open().training.DeleteExample, request, timeout)

    async def delete_prediction(
        self, prediction_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.DeletePredictionResponse:
        request = training_pb2.DeletePredictionRequest(prediction_id=prediction_id, reason=reason)
        return await self._call(self._open().training.DeletePrediction, request, timeout)

    async def list_examples(
        self,
        wanted: training_pb2.ExampleFilter | None = None,
        *,
        page_size: int = 0,
        page_token: str = "",
        thumbnails: bool = False,
        timeout: float | None = None,
    ) -> training_pb2.ListExamplesResponse:
        request = training_pb2.ListExamplesRequest(
            filter=wanted, page_size=page_size, page_token=page_token, thumbnails=thumbnails
        )
        return await self._call(self._open().training.ListExamples, request, timeout)

    async def start_retraining(
        self,
        *,
        warm_start_version: int | None = None,
        from_scratch: bool = False,
        examples: training_pb2.ExampleFilter | None = None,
        hyperparameters: Mapping[str, object] | None = None,
        launcher: str = "",
        promote: bool = False,
        gate_policy: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> training_pb2.Retraining:
        request = _calls.build_retraining(
            warm_start_version=warm_start_version,
            from_scratch=from_scratch,
            examples=examples,
            hyperparameters=hyperparameters,
            launcher=launcher,
            promote=promote,
            gate_policy=gate_policy,
            request_id=request_id,
        )
        return (await self._call(self._open().training.StartRetraining, request, timeout)).retraining

    async def get_retraining(
        self, retraining_id: str, *, timeout: float | None = None
    ) -> training_pb2.Retraining:
        request = training_pb2.GetRetrainingRequest(retraining_id=retraining_id)
        return (await self._call(self._open().training.GetRetraining, request, timeout)).retraining

    async def list_retrainings(
        self,
        *,
        state: training_pb2.RetrainingState | str | None = None,
        limit: int = 50,
        timeout: float | None = None,
    ) -> list[training_pb2.Retraining]:
        request = training_pb2.ListRetrainingsRequest(state=state, page_size=_calls.page_size(limit))
        return await self._list(self._open().training.ListRetrainings, request, "retrainings", timeout, limit)

    def watch_retraining(
        self,
        retraining_id: str,
        *,
        after_sequence: int = 0,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = math.inf,
    ) -> AsyncGenerator[training_pb2.RetrainingEvent, None]:
        watch = _streams.RetrainingWatch(retraining_id, after_sequence, patience, timeout)
        return self._watch(lambda on: on.training.WatchRetraining, watch)

    async def cancel_retraining(
        self, retraining_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.Retraining:
        request = training_pb2.CancelRetrainingRequest(retraining_id=retraining_id, reason=reason)
        return (await self._call(self._open().training.CancelRetraining, request, timeout)).retraining

    async def _load(self, image: Image, frame: int = 0) -> tuple[bytes, int]:
        encoded, frame = framed(image, frame)
        if isinstance(encoded, (str, os.PathLike)):
            # Bytes are at hand; a file may be on a slow disk.
            return await asyncio.to_thread(load_image, encoded, self._max_image_bytes), frame
        return load_image(encoded, self._max_image_bytes), frame

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Any, T], request: Message, timeout: float | None
    ) -> T:
        limit = _channel.deadline(timeout, self._timeout)
        with self._errors():
            return await method(request, timeout=limit)

    async def _list(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Any],
        request: Any,  # noqa: ANN401 - any request with pages
        field: str,
        timeout: float | None,
        limit: int = sys.maxsize,
    ) -> list[Any]:
        found: list[Any] = []
        while True:
            response = await self._call(method, request, timeout)
            found.extend(getattr(response, field))
            request.page_token = response.next_page_token
            if not request.page_token or len(found) >= limit:
                return found[:limit]

    async def _watch(
        self, method: Callable[[_Services], Callable[..., Any]], watch: _streams.Watch[T]
    ) -> AsyncGenerator[T, None]:
        call: Any = None
        try:
            while True:
                try:
                    call = method(self._open())(watch.request(), timeout=watch.left())
                    while True:
                        with self._errors():
                            response = await call.read()
                        if response is grpc.aio.EOF:
                            return
                        if (item := watch.take(response)) is not None:
                            yield item
                except NeurogateError as error:
                    await asyncio.sleep(watch.delay(error))
        finally:
            if call is not None:
                call.cancel()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.target) from error
        except asyncio.CancelledError:
            # grpc.aio says so, too, when the channel is closed under a call; a real cancellation has to go
            # on.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallCancelledError("the client was closed during the call") from None

    def _open(self) -> _Services:
        if self._closed:
            raise CallCancelledError("the client is closed")
        # Not before: grpc.aio binds a channel to the loop that it is made in, or guesses one.
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._services is None:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    "an asyncio client belongs to the event loop of its first call: make another one here"
                )
            self._loop = loop
            self._services = _Services(
                grpc.aio.insecure_channel(self._endpoint.uri, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self._endpoint.uri, self._credentials, options=self._options)
            )
        return self._services

    def _open_streams(self) -> grpc.Channel:
        # Streams open it from threads of their own.
        with self._lock:
            if self._closed:
                raise CallCancelledError("the client is closed")
            if self._streams is None:
                self._streams = _channel.open_channel(self._endpoint, self._credentials, self._options)
            return self._streams


for _name, _method in vars(_BlockingClient).items():
    if not _name.startswith("_"):
        vars(Client)[_name].__doc__ = _method.__doc__
