"""StreamClassify for threads: a bounded window between the caller's images and the caller's reading."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import grpc
from neurogate.v1 import classification_pb2 as pb

from neurogate_client._ledger import Ledger
from neurogate_client._requests import StreamSettings
from neurogate_client._status import from_rpc_error
from neurogate_client.errors import DeadlineExceededError, NeurogateError, UnexpectedError
from neurogate_client.images import Image, load_image
from neurogate_client.results import Result

K = TypeVar("K")

_END: Any = object()

# What the sending and receiving threads tell the consumer: a result, the end of the stream, or its failure.
_Event = Result[K] | grpc.RpcError | NeurogateError | None

Start = Callable[[Iterator[pb.StreamClassifyRequest]], Any]
"""Starts the call with its requests; returns gRPC's call, an iterator of responses."""


def stream(
    images: Iterable[tuple[K, Image]],
    *,
    start: Start,
    settings: StreamSettings,
) -> Generator[Result[K], None, None]:
    """One StreamClassify call as a generator of results; the first step starts it.

    At most `window` images are out of their source without their result in the caller's hands, so a caller
    that reads slowly slows the source down, and an endless source is fine. gRPC pulls the source in a thread
    of its own.
    """
    # The threads of a call keep it alive; only a generator in front notices that the caller has dropped it.
    call = _Stream(images, start, settings)
    try:
        yield from call
    finally:
        call.close()


class _Stream(Iterator[Result[K]]):
    def __init__(self, images: Iterable[tuple[K, Image]], start: Start, settings: StreamSettings) -> None:
        self._images = iter(images)
        self._settings = settings
        self._ledger = Ledger[K](settings.config)
        self._events: queue.SimpleQueue[_Event[K]] = queue.SimpleQueue()
        self._window = threading.Semaphore(settings.window)
        self._stopped = threading.Event()
        self._source_error: BaseException | None = None
        self._call = start(self._requests())
        threading.Thread(target=self._receive, name="neurogate-stream", daemon=True).start()

    def __iter__(self) -> _Stream[K]:
        return self

    def __next__(self) -> Result[K]:
        event = self._next_event()
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
        raise StopIteration

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops pulling the source."""
        self._stopped.set()
        self._window.release()
        self._call.cancel()

    def _next_event(self) -> _Event[K]:
        while True:
            idle = self._ledger.idle_seconds()
            try:
                left = self._settings.idle_timeout - idle
                return self._events.get(block=left > 0, timeout=min(max(left, 0), threading.TIMEOUT_MAX))
            except queue.Empty:
                if self._ledger.idle_seconds() >= self._settings.idle_timeout:
                    raise DeadlineExceededError(
                        f"no answer from {self._settings.target} for {self._settings.idle_timeout:g} s, "
                        f"with {self._ledger.waiting()} images waiting"
                    ) from None

    def _receive(self) -> None:
        try:
            for response in self._call:
                for result in self._ledger.answer(response):
                    self._events.put(result)
        except (grpc.RpcError, NeurogateError) as error:
            self._events.put(error)
        else:
            self._events.put(None)

    def _requests(self) -> Iterator[pb.StreamClassifyRequest]:
        yield pb.StreamClassifyRequest(config=self._settings.config)
        # An exception in here would only reach gRPC's log. The images before it still get their answers.
        try:
            while not self._stopped.is_set():
                self._window.acquire()
                if self._stopped.is_set():
                    return
                item = next(self._images, _END)
                if item is _END:
                    return
                key, image = pair(item)
                try:
                    data = load_image(image, self._settings.max_image_bytes)
                except NeurogateError as error:
                    for result in self._ledger.refuse(key, error):
                        self._events.put(result)
                else:
                    yield pb.StreamClassifyRequest(key=self._ledger.send(key), image=data)
        except Exception as error:  # noqa: BLE001 - raised in the caller's loop
            self._source_error = error


def pair(item: tuple[K, Image]) -> tuple[K, Image]:
    """One item of a source, checked.

    Raises:
        TypeError: not a (key, image) pair.
    """
    if not isinstance(item, tuple) or len(item) != 2:
        raise TypeError(f"stream_classify takes (key, image) pairs, not {type(item).__name__}")
    return item
