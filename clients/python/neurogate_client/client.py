"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc, model_pb2, model_pb2_grpc

from neurogate_client import _channel, _requests, _wire
from neurogate_client._status import from_rpc_error
from neurogate_client._stream import stream
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
    """A connection to a gateway.

    Make one and keep it: it holds one channel, may be used by many threads at once, and reconnects by itself.
    After `os.fork` a child process needs a client of its own.

        with Client("localhost:50051") as client:
            print(client.classify("slice.jpg").top.class_id)

    Every unary call has a deadline, and all but `health` are tried up to 4 times while the answer is
    UNAVAILABLE. Errors are `NeurogateError`s, after `close()` a `CallCancelledError`; see
    `neurogate_client.errors`.

    Args:
        target: "HOST:PORT", or any gRPC target URI. DNS names may have many addresses; calls go to all in
            turn.
        tls: True for TLS with the system's root certificates, `grpc.ChannelCredentials` for anything more
            special, False for a plain connection. Unset: plain to this machine, and an error for any other.
        timeout: seconds for a unary call without a timeout of its own; `math.inf` for none.
        max_image_bytes: largest encoded image that is sent. Set it to the gateway's limit where that is not
            the default of 16 MiB. A request may have twice that and 1 MiB; answers are not limited.

    Raises:
        ValueError: a target or setting that cannot work.
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
        parsed = _channel.Target.parse(target)
        credentials = _channel.credentials(parsed, tls)
        options = _channel.options(parsed, max_image_bytes)
        self.target = target
        self._timeout = timeout
        self._max_image_bytes = max_image_bytes
        self._channel = _channel.open_channel(parsed, credentials, options)
        self._classification = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._check = self._channel.unary_unary(
            _requests.HEALTH_METHOD,
            request_serializer=wrappers_pb2.StringValue.SerializeToString,
            response_deserializer=wrappers_pb2.Int32Value.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight end with `CallCancelledError`."""
        self._channel.close()

    def classify(
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
        """Classifies one image.

        Args:
            image: encoded bytes, or the path of a file.
            version: number of the version that is to answer.
            label: or its label; neither means "stable", and "latest" the newest that is ready.
            model: model name, where a gateway has another than its own.
            top_k: number of scores wanted, highest first; 0 for all classes.
            request_id: identifier for the gateway's log, up to 128 printable ASCII characters.
            timeout: seconds for this call, in place of the client's.
        """
        selector = _wire.selector(model, version, label)
        request = _requests.classify(load_image(image, self._max_image_bytes), selector, top_k, request_id)
        response = self._call(self._classification.Classify, request, timeout)
        return _wire.classification(
            response.classification, _wire.model_ref(response.model), response.request_id
        )

    def batch_classify(
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
        """Classifies several images in one call, by one version. For many, `stream_classify` is better.

        Returns one result per image, in order, its key the position. An image that has no answer has an error
        in its result; exceptions are for the call as a whole, and for an image too large or unreadable to be
        sent at all.
        """
        selector = _wire.selector(model, version, label)
        request = _requests.batch(images, self._max_image_bytes, selector, top_k, request_id)
        response = self._call(self._classification.BatchClassify, request, timeout)
        return _requests.batch_results(request, response)

    def stream_classify(
        self,
        images: Iterable[tuple[K, Image]],
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
    ) -> Generator[Result[K], None, None]:
        """Classifies any number of images, all by one version.

        `images` may be a generator, even an endless one. It is read in another thread, at most `window`
        images ahead of the results that the caller has taken, so memory stays flat. `folder_images` makes one
        from a folder.

        A single image without an answer is a result with an error. Exceptions end the stream: the call as a
        whole was refused, the connection broke (streams are not retried), or `images` itself raised. To stop
        early, leave the loop or `close()` the generator; the call is then cancelled.

        Args:
            images: (key, image) pairs; keys may be anything and come back in the results.
            version: number of the version that is to answer.
            label: or its label; neither means "stable". Chosen once, when the stream begins.
            model: model name, where a gateway has another than its own.
            top_k: number of scores wanted per image, highest first; 0 for all classes.
            allow_out_of_order: take results as they are ready. False: in the order of the images.
            request_id: identifier for the gateway's log.
            window: largest number of images on their way at a time.
            idle_timeout: seconds without any answer, while images are waiting for one, after which the stream
                ends with `DeadlineExceededError`.
            timeout: seconds for the whole stream.
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
            lambda requests: self._classification.StreamClassify(requests, timeout=limit),
            settings,
        )

    def explain(
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
        """Shows where in an image the evidence for a class lies (Grad-CAM), with a picture of it.

        Args:
            image: encoded bytes, or the path of a file.
            class_id: the class to explain; empty for the most probable one.
            color_map: "jet" (default), "viridis" or "inferno".
            alpha: opacity of the map where it is strongest, 0 to 1; unset for 0.5.
            max_side: longer side of the picture in pixels, 64 to 2048; 0 for the image's own, but at most
                1024.
            version: number of the version that is to answer.
            label: or its label; neither means "stable".
            model: model name, where a gateway has another than its own.
            request_id: identifier for the gateway's log.
            timeout: seconds for this call, in place of the client's.
        """
        selector = _wire.selector(model, version, label)
        overlay = _wire.overlay(color_map, alpha, max_side)
        data = load_image(image, self._max_image_bytes)
        request = _requests.explain(data, selector, class_id, overlay, request_id)
        return _wire.explanation(self._call(self._classification.Explain, request, timeout))

    def list_model_versions(self, *, model: str = "", timeout: float | None = None) -> list[ModelVersion]:
        """All versions that the gateway knows, newest first. `timeout` is per page of 50."""
        request = model_pb2.ListModelVersionsRequest(model=model)
        versions: list[ModelVersion] = []
        while True:
            response = self._call(self._models.ListModelVersions, request, timeout)
            versions.extend(_wire.model_version(each) for each in response.versions)
            if not response.next_page_token:
                return versions
            request.page_token = response.next_page_token

    def get_model_version(
        self, version: int, *, model: str = "", timeout: float | None = None
    ) -> ModelVersion:
        """One version with its whole manifest."""
        request = model_pb2.GetModelVersionRequest(model=model, version=version)
        return _wire.model_version(self._call(self._models.GetModelVersion, request, timeout).version)

    def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """Whether the gateway takes work, or one of its services ("neurogate.v1.ClassificationService").

        Not serving is an answer, and not an error; an error is a gateway that cannot be reached.
        """
        try:
            response = self._call(self._check, wrappers_pb2.StringValue(value=service), timeout)
        except ModelNotFoundError:
            return Health(service, HealthStatus.SERVICE_UNKNOWN)
        return Health(service, _wire.health_status(response.value))

    def wait_until_ready(self, timeout: float = _channel.DEFAULT_TIMEOUT) -> None:
        """Returns as soon as the gateway takes work.

        Raises:
            UnavailableError: it did not within `timeout` seconds; the message says what it answered last.
        """
        _channel.check_timeout("timeout", timeout)
        end = time.monotonic() + timeout
        last: NeurogateError | None = None
        while (left := end - time.monotonic()) > 0:
            try:
                health = self.health(timeout=min(left, 5.0))
            except NeurogateError as error:
                last = error
            else:
                if health.serving:
                    return
                last = ModelNotReadyError(f"the gateway at {self.target} answers {health.status}")
            time.sleep(min(_requests.READY_POLL_SECONDS, max(0.0, end - time.monotonic())))
        raise UnavailableError(
            f"not ready after {timeout:g} s: {last.message if last else 'no answer'}"
        ) from last

    def _call(self, method: Callable[..., _Response], request: Message, timeout: float | None) -> _Response:
        limit = _channel.deadline(timeout, self._timeout)
        try:
            return method(request, timeout=limit)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
