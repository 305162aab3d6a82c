"""Streams: images out and results in within a bounded window, and watches that resume after a cut.

A call that sends (StreamClassify, UploadExamples) has threads of its own. They deliver events to one
consumer, a generator (`consume`) or an asynchronous one (`consume_async`).

The asynchronous one bridges these threads into the event loop, in place of grpc.aio's own streams: when a
write meets the end of the call, which is how every refusal of a running stream arrives, grpc.aio puts
"Internal error from Core" in place of the gateway's status and its reason. See
https://github.com/grpc/grpc/issues/36066. Once the oldest grpcio that is allowed has it mended, this can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2, model_pb2, training_pb2

from . import _calls, _channel
from .errors import (
    CallCancelledError,
    DeadlineExceededError,
    InvalidOptionError,
    NeurogateError,
    UnavailableError,
    UnexpectedError,
    from_rpc_error,
)
from .images import Image, framed, load_image
from .types import Result

K = TypeVar("K")
T = TypeVar("T")

DEFAULT_WINDOW = 64
"""Images of a stream on their way at a time: enough to keep a gateway busy, little to hold."""

# A signal that comes just before a wait does not end it: Ctrl-C would go unnoticed until the wait is over.
_SLICE_SECONDS = 0.5

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 5.0
_DELAY_GROWTH = 2.5

_END: Any = object()

Deliver = Callable[[Any], None]
"""Takes a result, a failure, or None for the end, from any thread of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a stream or upload may go.

    Raises:
        ValueError: a window or timeout that cannot work.
    """

    target: str
    max_image_bytes: int
    window: int
    idle_timeout: float
    patience: float = _channel.DEFAULT_IDLE_TIMEOUT

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")
        _channel.check_timeout("patience", self.patience)
        _channel.check_timeout("idle_timeout", self.idle_timeout)


class SendingCall(Generic[T]):
    """A call that delivers events from its threads, seen from its consumer."""

    def __init__(self, limits: Limits, deliver: Deliver) -> None:
        self.limits = limits
        self.deliver = deliver
        self.window = threading.Semaphore(limits.window)

    def take(self, event: T | BaseException | None) -> T | None:
        """The result for the caller; None at the end. Failures are raised."""
        if isinstance(event, BaseException):
            raise event
        if event is not None:
            self.window.release()
        return event

    def waiting(self) -> tuple[int, float]:
        """How many images are out without a result, and for how many seconds nothing has come for them."""
        raise NotImplementedError

    def patience(self) -> float:
        """Seconds that the consumer may wait for the next event before it calls `check_patience`."""
        return self.limits.idle_timeout - self.waiting()[1]

    def check_patience(self) -> None:
        """Does nothing while images are answered, or none is out.

        Raises:
            DeadlineExceededError: images are out, and no answer has come for longer than the limits allow.
        """
        images, seconds = self.waiting()
        if seconds >= self.limits.idle_timeout:
            raise DeadlineExceededError(
                f"no answer from {self.limits.target} for {self.limits.idle_timeout:g} s, "
                f"with {images} images waiting"
            )

    def close(self) -> None:
        """Ends the call, if it still runs, and stops reading the source."""
        raise NotImplementedError


def consume(start: Callable[[Deliver], SendingCall[T]]) -> Generator[T, None, None]:
    """The results of a call as a generator; the first step starts it."""
    # The threads of a call keep it alive; only a generator in front notices that the caller has dropped it.
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call = start(events.put)
    try:
        while True:
            patience = call.patience()
            try:
                event = events.get(block=patience > 0, timeout=min(max(patience, 0), _SLICE_SECONDS))
            except queue.Empty:
                call.check_patience()
                continue
            if (result := call.take(event)) is None:
                return
            yield result
    finally:
        call.close()


async def consume_async(
    items: Iterable[K] | AsyncIterable[K], start: Callable[[Iterable[K], Deliver], SendingCall[T]]
) -> AsyncGenerator[T, None]:
    """The results of a call as an asynchronous generator; the first step starts it.

    Args:
        items: what the call sends; `start` gets it as a plain iterable, whichever it is.
        start: starts the call.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Any] = asyncio.Queue()

    def deliver(event: object) -> None:
        # A loop that has been closed meanwhile has no consumer either.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    source = _AsyncSource(items, loop) if isinstance(items, AsyncIterable) else None
    call = start(items if source is None else source, deliver)  # type: ignore[arg-type]
    try:
        while True:
            patience = call.patience()
            try:
                async with asyncio.timeout(None if math.isinf(patience) else max(patience, 0)):
                    event = await events.get()
            except TimeoutError:
                call.check_patience()
                continue
            if (result := call.take(event)) is None:
                return
            yield result
    finally:
        call.close()
        if source is not None:
            source.cancel()


class _AsyncSource(Iterator[K]):
    """An asynchronous iterable, for the thread that pulls images: each step runs in the event loop."""

    def __init__(self, images: AsyncIterable[K], loop: asyncio.AbstractEventLoop) -> None:
        self._images = aiter(images)
        self._loop = loop
        self._cancelled = False
        self._step: futures.Future[K] | None = None

    def __next__(self) -> K:
        step = asyncio.run_coroutine_threadsafe(_step(self._images), self._loop)
        self._step = step
        if self._cancelled:
            step.cancel()
        try:
            item = step.result()
        except futures.CancelledError:
            # What the source raised came through a future, which has a CancelledError of its own.
            raise asyncio.CancelledError from None
        if item is _END:
            raise StopIteration
        return item

    def cancel(self) -> None:
        """Lets go of a thread that waits for the next item."""
        self._cancelled = True
        if self._step is not None:
            self._step.cancel()


async def _step(images: AsyncIterator[K]) -> K:
    try:
        return await anext(images)
    except StopAsyncIteration:
        return _END  # type: ignore[no-any-return]


class PendingResults(Generic[K]):
    """Matches answers with keys, and gives results in the order in which they may go to the caller.

    One thread sends while another receives, so it locks. On the wire an image's key is its number in the
    stream: callers' keys can then be anything, as often as they like, and every answer has exactly one image.
    """

    def __init__(self, config: classification_pb2.StreamClassifyConfig) -> None:
        self._ordered = not config.allow_out_of_order
        self._request_id = config.request_id
        self._lock = threading.Lock()
        self._slots: dict[int, tuple[K, Result[K] | None]] = {}
        self._next = 0
        self._unanswered = 0
        self._touched = time.monotonic()

    def send(self, key: K) -> str:
        """Notes that an image goes out; returns its key on the wire."""
        with self._lock:
            number = self._open(key)
            # Sending is no sign of life of the other side; it only begins the wait for the first answer.
            if self._unanswered == 0:
                self._touched = time.monotonic()
            self._unanswered += 1
            return str(number)

    def refuse(self, key: K, error: NeurogateError) -> list[Result[K]]:
        """Notes an image that is not sent at all; returns the results that may go to the caller now."""
        with self._lock:
            return self._close(self._open(key), Result(key, error=error))

    def answer(self, response: classification_pb2.StreamClassifyResponse) -> list[Result[K]]:
        """Takes an answer in; returns the results that may go to the caller now.

        Raises:
            UnexpectedError: an answer to nothing, or a second one.
        """
        with self._lock:
            number = wire_number(response.key)
            slot = self._slots.get(number)
            if slot is None or slot[1] is not None:
                raise not_waiting(response.key)
            model = _calls.parse_model_ref(response.model)
            result = _calls.parse_result(slot[0], response, model, self._request_id)
            self._unanswered -= 1
            self._touched = time.monotonic()
            return self._close(number, result)

    def waiting(self) -> tuple[int, float]:
        """How many images are out and not answered, and for how many seconds no answer has come for them."""
        with self._lock:
            return self._unanswered, time.monotonic() - self._touched if self._unanswered else 0.0

    def _open(self, key: K) -> int:
        number = self._next
        self._next += 1
        self._slots[number] = (key, None)
        return number

    def _close(self, number: int, result: Result[K]) -> list[Result[K]]:
        if not self._ordered:
            del self._slots[number]
            return [result]
        self._slots[number] = (result.key, result)
        ready: list[Result[K]] = []
        while self._slots:
            head, (_, first) = next(iter(self._slots.items()))
            if first is None:
                break
            ready.append(first)
            del self._slots[head]
        return ready


def wire_number(key: str) -> int:
    """The number of an image by its key on the wire; -1 for what is none."""
    return int(key) if key.isascii() and key.isdigit() else -1


def not_waiting(key: str) -> UnexpectedError:
    """An answer to nothing."""
    return UnexpectedError(f"the gateway answered an image that was not waiting (key {key!r})")


def unreadable(error: BaseException) -> UnexpectedError:
    """An answer that cannot be read, as a failure of the call."""
    unexpected = UnexpectedError(f"an answer of the gateway cannot be read: {error!r}")
    unexpected.__cause__ = error
    return unexpected


class StreamCall(SendingCall[Result[K]]):
    """A running StreamClassify: one thread pulls images and sends them (gRPC's own), another receives.

    At most `window` images are out of their source without their result in the caller's hands, so a caller
    that reads slowly slows the source down, and an endless source is fine.

    Args:
        images: (key, image) pairs.
        start: starts the call with its requests; returns gRPC's call, an iterator of responses.
        config: how the stream is to be served.
        limits: how far it may go.
        deliver: takes events, from both threads.
    """

    def __init__(
        self,
        images: Iterable[tuple[K, Image]],
        start: Callable[[Iterator[classification_pb2.StreamClassifyRequest]], Any],
        config: classification_pb2.StreamClassifyConfig,
        limits: Limits,
        deliver: Deliver,
    ) -> None:
        super().__init__(limits, deliver)
        self._images = iter(images)
        self._config = config
        self._pending = PendingResults[K](config)
        self._stopped = threading.Event()
        self._source_error: BaseException | None = None
        try:
            self._call = start(self._requests())
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
        threading.Thread(target=self._receive, name="neurogate-stream", daemon=True).start()

    def waiting(self) -> tuple[int, float]:
        """How many images are out without an answer, and for how many seconds none has come."""
        return self._pending.waiting()

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops pulling the source."""
        self._stopped.set()
        self.window.release()
        self._call.cancel()

    def _receive(self) -> None:
        # Whatever ends this thread has to reach the consumer, which would wait for ever.
        try:
            for response in self._call:
                for result in self._pending.answer(response):
                    self.deliver(result)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, self.limits.target)
            failure.__cause__ = error
            self.deliver(failure)
        except NeurogateError as error:
            self.deliver(error)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            self.deliver(unreadable(error))
        else:
            self.deliver(self._source_error or self._left_over())

    def _left_over(self) -> UnexpectedError | None:
        unanswered, _ = self._pending.waiting()
        if not unanswered:
            return None
        return UnexpectedError(f"the gateway ended the stream with {unanswered} images unanswered")

    def _requests(self) -> Iterator[classification_pb2.StreamClassifyRequest]:
        yield classification_pb2.StreamClassifyRequest(config=self._config)
        while (request := self._next_request()) is not None:
            yield request

    def _next_request(self) -> classification_pb2.StreamClassifyRequest | None:
        # An exception in here would only reach gRPC's log, and SystemExit nobody at all. The images before it
        # still get their answers.
        try:
            while self.window.acquire() and not self._stopped.is_set():
                if (item := next(self._images, _END)) is _END:
                    break
                key, image = _pair(item)
                try:
                    data = load_image(image, self.limits.max_image_bytes)
                except NeurogateError as error:
                    for result in self._pending.refuse(key, error):
                        self.deliver(result)
                else:
                    return classification_pb2.StreamClassifyRequest(
                        key=self._pending.send(key), image=data, frame=framed(image)[1]
                    )
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            self._source_error = error
        return None


def _pair(item: tuple[K, Image]) -> tuple[K, Image]:
    if not isinstance(item, tuple) or len(item) != 2:
        raise TypeError(f"stream_classify takes (key, image) pairs, not {type(item).__name__}")
    return item


class Reconnecting:
    """How long to wait before a broken stream is begun again, and when to give up.

    Args:
        patience: seconds without any response after which the last failure is raised.
    """

    def __init__(self, patience: float) -> None:
        _channel.check_timeout("patience", patience)
        self._patience = patience
        self.worked()

    def worked(self) -> None:
        """Notes that a response has come."""
        self._since: float | None = None
        self._delay = _FIRST_DELAY

    def delay(self, error: UnavailableError) -> float:
        """Seconds to wait now.

        Raises:
            UnavailableError: `error`, when it has lasted too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        left = self._since + self._patience - now
        if left <= 0:
            raise error
        wanted = error.retry_after if error.retry_after is not None else self._delay
        self._delay = min(self._delay * _DELAY_GROWTH, _LONGEST_DELAY)
        return min(wanted, left)


class Watch(Generic[T]):
    """Where a watch stands: what to ask for next, what of it the caller gets, and what a failure means.

    Args:
        patience: seconds that the gateway may be away before its `UnavailableError` is raised.
        timeout: seconds for the whole watch.
    """

    def __init__(self, patience: float, timeout: float) -> None:
        _channel.check_timeout("timeout", timeout)
        self._end = time.monotonic() + timeout
        self.retry = Reconnecting(patience)

    def request(self) -> Message:
        """What to ask for."""
        raise NotImplementedError

    def take(self, response: Any) -> T | None:  # noqa: ANN401 - of its own RPC
        """What the caller gets; None for what was seen, or what this client is too old to know."""
        raise NotImplementedError

    def left(self) -> float | None:
        """What gRPC takes as timeout of the next attempt: None for no limit."""
        return None if math.isinf(self._end) else max(self._end - time.monotonic(), 0.001)

    def delay(self, error: NeurogateError) -> float:
        """Seconds after which to ask again.

        Raises:
            NeurogateError: `error`, where that would be of no use.
        """
        if isinstance(error, UnavailableError):
            return self.retry.delay(error)
        raise error


class VersionsWatch(Watch[model_pb2.WatchModelVersionsResponse]):
    """A WatchModelVersions: resumes by the token of the last response."""

    def __init__(self, model: str, patience: float, timeout: float) -> None:
        super().__init__(patience, timeout)
        self._model = model
        self._token = ""

    def request(self) -> model_pb2.WatchModelVersionsRequest:
        """What to ask for."""
        return model_pb2.WatchModelVersionsRequest(model=self._model, resume_token=self._token)

    def take(
        self, response: model_pb2.WatchModelVersionsResponse
    ) -> model_pb2.WatchModelVersionsResponse | None:
        """What the caller gets; None for a kind of event that this client is too old to know."""
        self.retry.worked()
        self._token = response.resume_token
        return response if response.WhichOneof("event") else None

    def delay(self, error: NeurogateError) -> float:
        """As `Watch.delay`; a gateway that does not know the token is asked for the present state."""
        # Another gateway behind the same name, or this one begun anew, did not issue it.
        if self._token and isinstance(error, InvalidOptionError) and error.reason == "RESUME_TOKEN_INVALID":
            self._token = ""
            return 0.0
        return super().delay(error)


class RetrainingWatch(Watch[training_pb2.RetrainingEvent]):
    """A WatchRetraining: resumes behind the last event, so that none is missed and none comes twice."""

    def __init__(self, retraining_id: str, after_sequence: int, patience: float, timeout: float) -> None:
        super().__init__(patience, timeout)
        self._retraining_id = retraining_id
        self._last = after_sequence

    def request(self) -> training_pb2.WatchRetrainingRequest:
        """What to ask for."""
        return training_pb2.WatchRetrainingRequest(
            retraining_id=self._retraining_id, after_sequence=self._last
        )

    def take(self, response: training_pb2.WatchRetrainingResponse) -> training_pb2.RetrainingEvent | None:
        """The event; None for one that was seen, or of a kind that this client is too old to know."""
        self.retry.worked()
        event = response.event
        if event.sequence <= self._last:
            return None
        self._last = event.sequence
        return event if event.WhichOneof("event") else None
