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
from collections import deque
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
S = TypeVar("S")
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


@dataclass(frozen=True, slots=True)
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


@dataclass(slots=True)
class Sent(Generic[S]):
    """What the source gave, its number, and how often it was sent."""

    number: int
    item: S
    times: int = 0


class SendingCall(Generic[S, T]):
    """A running call: one thread reads the source, gRPC's own sends, another receives.

    At most `window` images are out of their source without their result in the caller's hands, so a caller
    that reads slowly slows the source down, and an endless source is fine. On the wire an image's key is its
    number: callers' keys can be anything, as often as they like, and every answer has exactly one image.

    Args:
        source: what to send.
        start: starts the call with its requests; returns gRPC's call, an iterator of responses.
        limits: how far it may go.
        deliver: takes events; called from all threads, and in the order in which the caller is to see them.
        ordered: whether results keep the order of the source.
    """

    def __init__(
        self,
        source: Iterable[S],
        start: Callable[[Iterator[Any]], Any],
        limits: Limits,
        deliver: Deliver,
        *,
        ordered: bool = False,
    ) -> None:
        self._source = iter(source)
        self._start = start
        self._limits = limits
        self._deliver = deliver
        self._ordered = ordered
        self._window = threading.Semaphore(limits.window)
        # Guards everything below; notified whenever something of it changes.
        self._changed = threading.Condition()
        self._attempt = 0
        self._waiting: deque[Sent[S]] = deque()
        self._out: dict[int, Sent[S]] = {}
        self._held: dict[int, T | None] = {}
        self._answers = 0
        self._exhausted = False
        self._stopped = False
        self._touched = time.monotonic()
        self._source_error: BaseException | None = None
        self._call: Any = None
        for target in (self._read, self._run):
            threading.Thread(target=target, name="neurogate-stream", daemon=True).start()

    def take(self, event: T | BaseException | None) -> T | None:
        """The result for the caller; None at the end. Failures of the call and of its source are raised."""
        if isinstance(event, BaseException):
            raise event
        if event is not None:
            self._window.release()
        return event

    def waiting(self) -> tuple[int, float]:
        """How many images are out without a result, and for how many seconds nothing has come for them."""
        with self._changed:
            return len(self._out), time.monotonic() - self._touched if self._out else 0.0

    def patience(self) -> float:
        """Seconds that the consumer may wait for the next event before it calls `check_patience`."""
        return self._limits.idle_timeout - self.waiting()[1]

    def check_patience(self) -> None:
        """Does nothing while images are answered, or none is out.

        Raises:
            DeadlineExceededError: images are out, and no answer has come for longer than the limits allow.
        """
        images, seconds = self.waiting()
        if seconds >= self._limits.idle_timeout:
            raise DeadlineExceededError(
                f"no answer from {self._limits.target} for {self._limits.idle_timeout:g} s, "
                f"with {images} images waiting"
            )

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops reading the source."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            call = self._call
        self._window.release()
        if call is not None:
            call.cancel()

    def _checked(self, item: S) -> S:
        """What the source gave, if it can be sent at all; TypeError otherwise."""
        raise NotImplementedError

    def _image(self, item: S) -> Image:
        raise NotImplementedError

    def _messages(self, key: str, item: S, data: bytes) -> Iterator[Any]:
        raise NotImplementedError

    def _result(self, sent: Sent[S], answer: Any) -> T:  # noqa: ANN401 - a response, or why there is none
        raise NotImplementedError

    def _attempts(self) -> None:
        """Makes the call, as often as it has to be made."""
        raise NotImplementedError

    def _read(self) -> None:
        # What the source raises is raised in the caller's loop, after the results of the images before.
        try:
            number = 0
            while self._window.acquire() and not self._stopped:
                if (item := next(self._source, _END)) is _END:
                    break
                with self._changed:
                    self._waiting.append(Sent(number, self._checked(item)))
                    self._held[number] = None
                    self._changed.notify_all()
                number += 1
        except BaseException as error:  # noqa: BLE001 - see above
            self._source_error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _run(self) -> None:
        # Whatever ends this thread has to reach the consumer, which would wait for ever.
        try:
            self._attempts()
            self._deliver(self._source_error)
        except NeurogateError as error:
            self._deliver(error)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            unreadable = UnexpectedError(f"an answer of the gateway cannot be read: {error!r}")
            unreadable.__cause__ = error
            self._deliver(unreadable)

    def _run_once(self, retry: Reconnecting | None = None) -> None:
        try:
            call = self._start(self._requests(self._attempt))
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
        with self._changed:
            self._call = call
            self._answers = 0
            self._touched = time.monotonic()
            if self._stopped:
                call.cancel()
        try:
            for response in call:
                if retry is not None:
                    retry.worked()
                self._answer(response)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._limits.target) from error
        with self._changed:
            left = len(self._out) + len(self._waiting)
            if left or not self._exhausted:
                raise UnexpectedError(f"the gateway ended the call early, with {left} images unanswered")

    def _answer(self, response: Any) -> None:  # noqa: ANN401 - of the call's own kind
        key = response.key
        with self._changed:
            sent = self._out.pop(int(key) if key.isascii() and key.isdigit() else -1, None)
            self._answers += 1
            self._touched = time.monotonic()
        if sent is None:
            raise UnexpectedError(f"the gateway answered an image that was not waiting (key {key!r})")
        self._finish(sent, response)

    def _finish(self, sent: Sent[S], answer: Any) -> None:  # noqa: ANN401 - as in _result
        result = self._result(sent, answer)
        with self._changed:
            if not self._ordered:
                del self._held[sent.number]
                self._deliver(result)
                return
            self._held[sent.number] = result
            while self._held and (first := self._held[head := next(iter(self._held))]) is not None:
                del self._held[head]
                self._deliver(first)

    def _requests(self, attempt: int) -> Iterator[Any]:
        while (sent := self._next(attempt)) is not None:
            # An exception in here would only reach gRPC's log.
            failure: BaseException | None = None
            try:
                data = load_image(self._image(sent.item), self._limits.max_image_bytes)
            except BaseException as error:  # noqa: BLE001 - a result, or raised in the caller's loop
                failure = error
            with self._changed:
                if self._stopped or attempt != self._attempt:
                    return
                self._waiting.popleft()
                if failure is None:
                    sent.times += 1
                    if not self._out:
                        # Sending is no sign of life of the other side; it only begins the wait for an answer.
                        self._touched = time.monotonic()
                    self._out[sent.number] = sent
            if failure is None:
                yield from self._messages(str(sent.number), sent.item, data)
            elif isinstance(failure, NeurogateError):
                self._finish(sent, failure)
            else:
                self._deliver(failure)

    def _next(self, attempt: int) -> Sent[S] | None:
        """Waits for the next image to send; None when there is none, or another attempt has begun."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or attempt != self._attempt or self._waiting or self._exhausted
            )
            over = self._stopped or attempt != self._attempt or not self._waiting
            return None if over else self._waiting[0]


class StreamCall(SendingCall[tuple[K, Image], Result[K]]):
    """A StreamClassify: it ends with its connection, since what was answered would be classified twice."""

    def __init__(
        self,
        images: Iterable[tuple[K, Image]],
        start: Callable[[Iterator[classification_pb2.StreamClassifyRequest]], Any],
        config: classification_pb2.StreamClassifyConfig,
        limits: Limits,
        deliver: Deliver,
    ) -> None:
        self._config = config
        super().__init__(images, start, limits, deliver, ordered=not config.allow_out_of_order)

    def _checked(self, item: tuple[K, Image]) -> tuple[K, Image]:
        if not isinstance(item, tuple) or len(item) != 2:
            raise TypeError(f"stream_classify takes (key, image) pairs, not {type(item).__name__}")
        return item

    def _image(self, item: tuple[K, Image]) -> Image:
        return item[1]

    def _attempts(self) -> None:
        self._run_once()

    def _requests(self, attempt: int) -> Iterator[classification_pb2.StreamClassifyRequest]:
        yield classification_pb2.StreamClassifyRequest(config=self._config)
        yield from super()._requests(attempt)

    def _messages(
        self, key: str, item: tuple[K, Image], data: bytes
    ) -> Iterator[classification_pb2.StreamClassifyRequest]:
        yield classification_pb2.StreamClassifyRequest(key=key, image=data, frame=framed(item[1])[1])

    def _result(self, sent: Sent[tuple[K, Image]], answer: Any) -> Result[K]:  # noqa: ANN401 - as above
        key, _ = sent.item
        if isinstance(answer, NeurogateError):
            return Result(key, error=answer)
        model = _calls.parse_model_ref(answer.model)
        return _calls.parse_result(key, answer, model, self._config.request_id)


def consume(start: Callable[[Deliver], SendingCall[Any, T]]) -> Generator[T, None, None]:
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
    items: Iterable[K] | AsyncIterable[K], start: Callable[[Iterable[K], Deliver], SendingCall[Any, T]]
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
        self._cancelled = True
        if self._step is not None:
            self._step.cancel()


async def _step(images: AsyncIterator[K]) -> K:
    try:
        return await anext(images)
    except StopAsyncIteration:
        return _END  # type: ignore[no-any-return]


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
