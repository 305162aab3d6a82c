"""The client for threads."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Self, TypeVar

from . import _channel, _requests
from ._blocking import BlockingClient
from ._bridge import consume
from ._classification_calls import ClassificationCalls
from ._model_calls import ModelCalls
from ._steps import Stubs
from ._stream import StreamCall
from ._training_calls import TrainingCalls
from ._upload import DEFAULT_WINDOW, UploadCall, UploadSettings
from .images import Image
from .results import Result
from .results_training import LabelledImage, UploadResult

K = TypeVar("K")


class Client(ClassificationCalls, ModelCalls, TrainingCalls, BlockingClient):
    """A connection to a gateway.

    Make one and keep it: it holds one channel, may be used by many threads at once, and reconnects by itself.
    After `os.fork` a child process needs a client of its own.

        with Client("localhost:50051") as client:
            print(client.classify("slice.jpg").top.class_id)

    Every unary call has a deadline, and all but `health` and `cancel_retraining` are tried up to 4 times
    while the answer is UNAVAILABLE; changes carry a request_id, so that they happen once. Errors are
    `NeurogateError`s, after `close()` a `CallCancelledError`; see `neurogate_client.errors`.

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
        self._stubs = Stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight end with `CallCancelledError`."""
        self._channel.close()

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
        routing_key: str = "",
        window: int = _requests.DEFAULT_WINDOW,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = float("inf"),
    ) -> Generator[Result[K], None, None]:
        """Classifies any number of images, all by one version.

        An image may be a `Frame`. `images` may be a generator, even an endless one. It is read in another
        thread, at most `window` images ahead of the results that the caller has taken, so memory stays flat.
        `folder_images` makes one from a folder.

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
            routing_key: keeps a caller on one version while traffic is split; see `classify`.
            window: largest number of images on their way at a time.
            idle_timeout: seconds without any answer, while images are waiting for one, after which the stream
                ends with `DeadlineExceededError`.
            timeout: seconds for the whole stream.
        """
        limit = _channel.deadline(timeout, timeout)
        settings = _requests.StreamSettings(
            config=_requests.stream_config(
                version=version,
                label=label,
                model=model,
                top_k=top_k,
                allow_out_of_order=allow_out_of_order,
                request_id=request_id,
                routing_key=routing_key,
            ),
            window=window,
            idle_timeout=idle_timeout,
            max_image_bytes=self._max_image_bytes,
            target=self.target,
        )
        stub = self._stubs.classification
        return consume(
            lambda deliver: StreamCall(
                images, lambda requests: stub.StreamClassify(requests, timeout=limit), settings, deliver
            )
        )

    def upload_examples(
        self,
        images: Iterable[LabelledImage],
        *,
        window: int = DEFAULT_WINDOW,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
    ) -> Generator[UploadResult, None, None]:
        """Sends labelled images for retraining; one result for each, once it is kept for good or refused.

        `images` may be a generator, even an endless one. It is read in another thread, at most `window`
        images ahead of the results that the caller has taken. `labelled_images` makes one from class folders.

        When the connection breaks or the gateway restarts, the upload goes on where it was. An image whose
        result was lost is sent again, which does no harm: the gateway knows an image by its bytes. A single
        image that is not taken is a result with an error; an exception ends the upload, and another upload of
        the same images completes it.

        Args:
            images: what to send; keys come back in the results.
            window: largest number of images on their way at a time.
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            idle_timeout: seconds without any answer, while images are waiting for one, after which the upload
                ends with `DeadlineExceededError`.
        """
        settings = UploadSettings(
            window=window,
            patience=patience,
            idle_timeout=idle_timeout,
            max_image_bytes=self._max_image_bytes,
            target=self.target,
        )
        stub = self._stubs.training
        return consume(lambda deliver: UploadCall(images, stub.UploadExamples, settings, deliver))
