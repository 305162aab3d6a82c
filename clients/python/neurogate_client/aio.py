"""The client for asyncio: the methods of `neurogate_client.Client`, to be awaited.

Arguments, results and exceptions are the same, and are described there.

    async with aio.Client("localhost:50051") as client:
        answer = await client.classify("slice.jpg")
        async with contextlib.aclosing(client.stream_classify(folder_images("scans"))) as results:
            async for result in results:
                print(result.key, result.classification or result.error)
"""

# Timeouts become deadlines of calls, which the gateway has to see; asyncio.timeout would keep them here.
# ruff: noqa: ASYNC109

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc, model_pb2, model_pb2_grpc

from neurogate_client import _channel, _requests, _wire
from neurogate_client._aio_stream import stream
from neurogate_client._status import from_rpc_error
from neurogate_client.errors import (
    CallCancelledError,
    ModelNotFoundError,
    ModelNotReadyError,
    NeurogateError,
    UnavailableError,
)
from neurogate_client.images import Image, load_image
from neurogate_client.results import Classification, Explanation, Health, HealthStatus, ModelVersion, Result

K = TypeVar("K")
_Response = TypeVar("_Response")


class Client:
    """A connection to a gateway, for one event loop; make it inside of that loop and keep it.

    Takes the same arguments as `neurogate_client.Client`, with the same defaults. Streams go through a second
    connection, which the first of them opens.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        tls: _channel.Tls = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_image_bytes: int = _channel.DEFAULT_MAX_IMAGE_BYTES,
    ) -> None:
        _channel.check_settings(timeout, max_image_bytes)
        self.target = target
        self._timeout = timeout
        self._max_image_bytes = max_image_bytes
        self._endpoint = _channel.Target.parse(target)
        self._credentials = _channel.credentials(self._endpoint, tls)
        self._options = _channel.options(self._endpoint, max_image_bytes)
        self._channel = (
            grpc.aio.insecure_channel(self._endpoint.uri, options=self._options)
            if self._credentials is None
            else grpc.aio.secure_channel(self._endpoint.uri, self._credentials, options=self._options)
        )
        self._closed = False
        self._stream_channel: grpc.Channel | None = None
        self._classification = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._check = self._channel.unary_unary(
            _requests.HEALTH_METHOD,
            request_serializer=wrappers_pb2.StringValue.SerializeToString,
            response_deserializer=wrappers_pb2.Int32Value.FromString,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls in flight end with `CallCancelledError`."""
        self._closed = True
        await self._channel.close()
        if self._stream_channel is not None:
            self._stream_channel.close()

    async def classify(
        self,
        image: Image,
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Classification:
        """Classifies one image; see `neurogate_client.Client.classify`."""
        selector = _wire.selector(model, version, label)
        request = _requests.classify(await _load(image, self._max_image_bytes), selector, top_k, request_id)
        response = await self._call(self._classification.Classify, request, timeout)
        return _wire.classification(
            response.classification, _wire.model_ref(response.model), response.request_id
        )

    async def batch_classify(
        self,
        images: Sequence[Image],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> list[Result[int]]:
        """Classifies several images in one call; see `neurogate_client.Client.batch_classify`."""
        selector = _wire.selector(model, version, label)
        request = await asyncio.to_thread(
            _requests.batch, images, self._max_image_bytes, selector, top_k, request_id
        )
        response = await self._call(self._classification.BatchClassify, request, timeout)
        return _requests.batch_results(request, response)

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
        window: int = _requests.DEFAULT_WINDOW,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = float("inf"),
    ) -> AsyncGenerator[Result[K], None]:
        """Classifies any number of images, all by one version; see `neurogate_client.Client.stream_classify`.

        `images` may be an asynchronous iterable, which is stepped in the event loop, or a plain one, which is
        stepped in another thread: it may block, and must leave the loop's objects alone. Wrap the generator
        in `contextlib.aclosing` where the loop over it may end early, so that the call ends at once.
        """
        limit = _channel.deadline(timeout, timeout)
        config = pb.StreamClassifyConfig(
            model=_wire.selector(model, version, label),
            top_k=top_k,
            allow_out_of_order=allow_out_of_order,
            request_id=request_id,
        )
        settings = _requests.StreamSettings(
            config=config,
            window=window,
            idle_timeout=idle_timeout,
            max_image_bytes=self._max_image_bytes,
            target=self.target,
        )
        return stream(
            images,
            lambda requests: self._streams().StreamClassify(requests, timeout=limit),
            settings,
        )

    async def explain(
        self,
        image: Image,
        *,
        class_id: str = "",
        color_map: str | None = None,
        alpha: float | None = None,
        max_side: int = 0,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Explanation:
        """Shows where in an image the evidence for a class lies; see `neurogate_client.Client.explain`."""
        selector = _wire.selector(model, version, label)
        overlay = _wire.overlay(color_map, alpha, max_side)
        data = await _load(image, self._max_image_bytes)
        request = _requests.explain(data, selector, class_id, overlay, request_id)
        return _wire.explanation(await self._call(self._classification.Explain, request, timeout))

    async def list_model_versions(
        self,
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> list[ModelVersion]:
        """All versions that the gateway knows, newest first. `timeout` is per page of 50."""
        request = model_pb2.ListModelVersionsRequest(model=model)
        versions: list[ModelVersion] = []
        while True:
            response = await self._call(self._models.ListModelVersions, request, timeout)
            versions.extend(_wire.model_version(each) for each in response.versions)
            if not response.next_page_token:
                return versions
            request.page_token = response.next_page_token

    async def get_model_version(
        self,
        version: int,
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> ModelVersion:
        """One version with its whole manifest."""
        request = model_pb2.GetModelVersionRequest(model=model, version=version)
        return _wire.model_version((await self._call(self._models.GetModelVersion, request, timeout)).version)

    async def health(
        self,
        service: str = "",
        *,
        timeout: float | None = None,
    ) -> Health:
        """Whether the gateway, or one of its services, takes work; see `neurogate_client.Client.health`."""
        try:
            response = await self._call(self._check, wrappers_pb2.StringValue(value=service), timeout)
        except ModelNotFoundError:
            return Health(service, HealthStatus.SERVICE_UNKNOWN)
        return Health(service, _wire.health_status(response.value))

    async def wait_until_ready(
        self,
        timeout: float = _channel.DEFAULT_TIMEOUT,
    ) -> None:
        """Returns as soon as the gateway takes work; raises `UnavailableError` after `timeout` seconds."""
        _channel.check_timeout("timeout", timeout)
        end = time.monotonic() + timeout
        last: NeurogateError | None = None
        while (left := end - time.monotonic()) > 0:
            try:
                health = await self.health(timeout=min(left, 5.0))
            except NeurogateError as error:
                last = error
            else:
                if health.serving:
                    return
                last = ModelNotReadyError(f"the gateway at {self.target} answers {health.status}")
            await asyncio.sleep(min(_requests.READY_POLL_SECONDS, max(0.0, end - time.monotonic())))
        raise UnavailableError(
            f"not ready after {timeout:g} s: {last.message if last else 'no answer'}"
        ) from last

    def _streams(self) -> classification_pb2_grpc.ClassificationServiceStub:
        self._check_open()
        if self._stream_channel is None:
            self._stream_channel = _channel.open_channel(self._endpoint, self._credentials, self._options)
        return classification_pb2_grpc.ClassificationServiceStub(self._stream_channel)

    async def _call(
        self,
        method: Callable[..., Awaitable[_Response]],
        request: Message,
        timeout: float | None,
    ) -> _Response:
        limit = _channel.deadline(timeout, self._timeout)
        self._check_open()
        try:
            return await method(request, timeout=limit)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.target) from error
        except asyncio.CancelledError:
            # grpc.aio says so, too, when the channel is closed under a call; a real cancellation has to go
            # on.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallCancelledError("the client was closed during the call") from None

    def _check_open(self) -> None:
        if self._closed:
            raise CallCancelledError("the client is closed")


async def _load(image: Image, limit: int) -> bytes:
    # Bytes are at hand; a file may be on a slow disk.
    return (
        await asyncio.to_thread(load_image, image, limit)
        if isinstance(image, (str, os.PathLike))
        else load_image(image, limit)
    )
