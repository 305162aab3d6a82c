"""The client for asyncio: the methods of `neurogate_client.Client`, to be awaited.

Arguments, results and exceptions are the same, and are described there.

    async with aio.Client("localhost:50051") as client:
        answer = await client.classify("slice.jpg")
        async with contextlib.aclosing(client.stream_classify(folder_images("scans"))) as results:
            async for result in results:
                print(result.key, result.classification or result.error)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from . import _channel, _requests
from ._aio_bridge import consume
from ._awaiting import AwaitingClient
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


class Client(ClassificationCalls, ModelCalls, TrainingCalls, AwaitingClient):
    """A connection to a gateway, for one event loop: that of its first call, wherever the client was made.

    Takes the same arguments as `neurogate_client.Client`, with the same defaults. Streams of images go
    through a second connection, which the first of them opens. Once the loop is closed, another one may use
    the client.
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stubs: Stubs | None = None
        self._closed = False
        self._stream_channel: grpc.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls in flight end with `CallCancelledError`."""
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()
        if self._stream_channel is not None:
            self._stream_channel.close()

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
        return consume(
            images,
            lambda source, deliver: StreamCall(
                source,
                lambda requests: self._streams().classification.StreamClassify(requests, timeout=limit),
                settings,
                deliver,
            ),
        )

    def upload_examples(
        self,
        images: Iterable[LabelledImage] | AsyncIterable[LabelledImage],
        *,
        window: int = DEFAULT_WINDOW,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
    ) -> AsyncGenerator[UploadResult, None]:
        """Sends labelled images for retraining; see `neurogate_client.Client.upload_examples`.

        `images` may be an asynchronous iterable or a plain one, as in `stream_classify`.
        """
        settings = UploadSettings(
            window=window,
            patience=patience,
            idle_timeout=idle_timeout,
            max_image_bytes=self._max_image_bytes,
            target=self.target,
        )
        return consume(
            images,
            lambda source, deliver: UploadCall(
                source,
                # Each attempt asks anew, so that a client which was closed meanwhile says so.
                lambda requests: self._streams().training.UploadExamples(requests),  # noqa: PLW0108
                settings,
                deliver,
            ),
        )

    def _open(self) -> Stubs:
        # Not before: grpc.aio binds a channel to the loop that it is made in, or guesses one.
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._stubs is None:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    "an asyncio client belongs to the event loop of its first call: make another one here"
                )
            self._loop = loop
            self._channel = (
                grpc.aio.insecure_channel(self._endpoint.uri, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self._endpoint.uri, self._credentials, options=self._options)
            )
            self._stubs = Stubs(self._channel)
        return self._stubs

    def _streams(self) -> Stubs:
        self._check_open()
        if self._stream_channel is None:
            self._stream_channel = _channel.open_channel(self._endpoint, self._credentials, self._options)
        return Stubs(self._stream_channel)
