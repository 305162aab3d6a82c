"""StreamClassify: a bounded window between the caller's images and the caller's reading."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import grpc
from neurogate.v1 import classification_pb2 as pb

from ._ledger import Ledger
from ._requests import StreamSettings
from ._status import from_rpc_error
from .errors import CallCancelledError, DeadlineExceededError, NeurogateError, UnexpectedError
from .images import Image, framed, load_image
from .results import Result

K = TypeVar("K")

_END: Any = object()

Event = Result[K] | grpc.RpcError | NeurogateError | None
"""What the threads of a call tell its consumer: a result, a failure, or the end of the stream."""

Start = Callable[[Iterator[pb.StreamClassifyRequest]], Any]
"""Starts the call with its requests; returns gRPC's call, an iterator of responses."""


class StreamCall(Generic[K]):
    """A running call: one thread pulls images and sends them (gRPC's own), another receives.

    At most `window` images are out of their source without their result in the caller's hands, so a caller
    that reads slowly slows the source down, and an endless source is fine. `deliver` is called from both
    threads; the consumer hands what it got to `take`.
    """

    def __init__(
        self,
        images: Iterable[tuple[K, Image]],
        start: Start,
        settings: StreamSettings,
        deliver: Callable[[Event[K]], None],
    ) -> None:
        self._images = iter(images)
        self._settings = settings
        self._deliver = deliver
        self._ledger = Ledger[K](settings.config)
        self._window = threading.Semaphore(settings.window)
        self._stopped = threading.Event()
        self._source_error: BaseException | None = None
        try:
            self._call = start(self._requests())
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
        threading.Thread(target=self._receive, name="neurogate-stream", daemon=True).start()

    def take(self, event: Event[K]) -> Result[K] | None:
        """The result for the caller; None at the end of the stream.

        Raises:
            NeurogateError: the stream failed.
            BaseException: whatever the source of the images raised.
        """
        if isinstance(event, Result):
            self._window.release()
            return event
        if isinstance(event, NeurogateError):
            raise event
        if event is not None:
            raise from_rpc_error(event, self._settings.target) from event
        if self._source_error is not None:
            raise self._source_error
        if unanswered := self._ledger.waiting():
            raise UnexpectedError(f"the gateway ended the stream with {unanswered} images unanswered")
        return None

    def patience(self) -> float:
        """Seconds that the consumer may wait for the next event before it calls `check_patience`."""
        return self._settings.idle_timeout - self._ledger.idle_seconds()

    def check_patience(self) -> None:
        """Does nothing while images are answered, or none is waiting.

        Raises:
            DeadlineExceededError: images wait, and no answer has come for longer than the settings allow.
        """
        if self.patience() <= 0:
            raise DeadlineExceededError(
                f"no answer from {self._settings.target} for {self._settings.idle_timeout:g} s, "
                f"with {self._ledger.waiting()} images waiting"
            )

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops pulling the source."""
        self._stopped.set()
        self._window.release()
        self._call.cancel()

    def _receive(self) -> None:
        # Whatever ends this thread has to reach the consumer, which would wait for ever.
        try:
            for response in self._call:
                for result in self._ledger.answer(response):
                    self._deliver(result)
        except (grpc.RpcError, NeurogateError) as error:
            self._deliver(error)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            unexpected = UnexpectedError(f"an answer of the gateway cannot be read: {error!r}")
            unexpected.__cause__ = error
            self._deliver(unexpected)
        else:
            self._deliver(None)

    def _requests(self) -> Iterator[pb.StreamClassifyRequest]:
        yield pb.StreamClassifyRequest(config=self._settings.config)
        while (request := self._next_request()) is not None:
            yield request

    def _next_request(self) -> pb.StreamClassifyRequest | None:
        # An exception in here would only reach gRPC's log, and SystemExit nobody at all. The images before it
        # still get their answers.
        try:
            while self._window.acquire() and not self._stopped.is_set():
                if (item := next(self._images, _END)) is _END:
                    break
                key, image = _pair(item)
                try:
                    data = load_image(image, self._settings.max_image_bytes)
                except NeurogateError as error:
                    for result in self._ledger.refuse(key, error):
                        self._deliver(result)
                else:
                    frame = framed(image)[1]
                    return pb.StreamClassifyRequest(key=self._ledger.send(key), image=data, frame=frame)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            self._source_error = error
        return None


def _pair(item: tuple[K, Image]) -> tuple[K, Image]:
    if not isinstance(item, tuple) or len(item) != 2:
        raise TypeError(f"stream_classify takes (key, image) pairs, not {type(item).__name__}")
    return item
