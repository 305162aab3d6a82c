"""UploadExamples: a bounded window of labelled images, sent again where the connection broke."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from neurogate.v1 import training_pb2 as pb

from . import _channel, _wire_training
from ._bridge import Deliver
from ._status import from_rpc_error
from ._steps import Reconnecting
from .errors import (
    CallCancelledError,
    DeadlineExceededError,
    NeurogateError,
    UnavailableError,
    UnexpectedError,
)
from .images import framed, load_image
from .results_training import LabelledImage, UploadResult

DEFAULT_WINDOW = 32
"""Images of an upload on their way at a time."""

CHUNK_BYTES = 2**20
"""Largest part of an image in one message; a larger image comes in several."""

_IDLE = "DEADLINE_TOO_SHORT"
"""Why the gateway ends an upload that sends nothing for a while, as one whose source is slow does."""

_END: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """How one upload is to run.

    Raises:
        ValueError: a window or timeout that cannot work.
    """

    window: int
    patience: float
    idle_timeout: float
    max_image_bytes: int
    target: str

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")
        _channel.check_timeout("patience", self.patience)
        _channel.check_timeout("idle_timeout", self.idle_timeout)


@dataclass(slots=True)
class _Item:
    number: int
    image: LabelledImage
    sendings: int = field(default=0)


class UploadCall:
    """A running upload: one thread reads the source, gRPC's own sends, another receives and begins again.

    An image leaves the window only with its result, so what a broken connection leaves without one is sent
    again; the gateway knows an image by its digest, so nothing is kept twice. On the wire an image's key is
    its number, and callers' keys can be anything.
    """

    def __init__(
        self,
        images: Iterable[LabelledImage],
        start: Callable[[Iterator[pb.UploadExamplesRequest]], Any],
        settings: UploadSettings,
        deliver: Deliver,
    ) -> None:
        self._images = iter(images)
        self._start = start
        self._settings = settings
        self._deliver = deliver
        self._room = threading.Semaphore(settings.window)
        # Guards everything below; notified whenever something of it changes.
        self._changed = threading.Condition()
        self._attempt = 0
        self._waiting: deque[_Item] = deque()
        self._out: dict[int, _Item] = {}
        self._answers = 0
        self._exhausted = False
        self._stopped = False
        self._touched = time.monotonic()
        self._source_error: BaseException | None = None
        self._call: Any = None
        for target in (self._read, self._run):
            threading.Thread(target=target, name="neurogate-upload", daemon=True).start()

    def take(self, event: UploadResult | BaseException | None) -> UploadResult | None:
        """The result for the caller; None at the end of the upload.

        Raises:
            NeurogateError: the upload failed.
            BaseException: whatever the source of the images raised.
        """
        if isinstance(event, UploadResult):
            self._room.release()
            return event
        if event is not None:
            raise event
        if self._source_error is not None:
            raise self._source_error
        return None

    def patience(self) -> float:
        """Seconds that the consumer may wait for the next event before it calls `check_patience`."""
        with self._changed:
            idle = time.monotonic() - self._touched if self._out else 0.0
            return self._settings.idle_timeout - idle

    def check_patience(self) -> None:
        """Does nothing while images are answered, or none is out.

        Raises:
            DeadlineExceededError: images are out, and no answer has come for longer than the settings allow.
        """
        if self.patience() <= 0:
            raise DeadlineExceededError(
                f"no answer from {self._settings.target} for {self._settings.idle_timeout:g} s, "
                f"with {len(self._out)} images waiting"
            )

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops reading the source."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            call = self._call
        self._room.release()
        if call is not None:
            call.cancel()

    def _read(self) -> None:
        # What the source raises is raised in the caller's loop, after the results of the images before.
        try:
            number = 0
            while self._room.acquire() and not self._stopped:
                if (image := next(self._images, _END)) is _END:
                    break
                with self._changed:
                    self._waiting.append(_Item(number, _checked(image)))
                    self._changed.notify_all()
                number += 1
        except BaseException as error:  # noqa: BLE001 - see above
            self._source_error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _run(self) -> None:
        retry = Reconnecting(self._settings.patience)
        # Whatever ends this thread has to reach the consumer, which would wait for ever.
        try:
            # No call without something to send: the gateway ends one that is silent.
            while self._has_work():
                try:
                    self._run_once(retry)
                except UnavailableError as error:
                    delay = retry.delay(error)
                    with self._changed:
                        self._take_back()
                        if self._changed.wait_for(lambda: self._stopped, delay):
                            return
                except DeadlineExceededError as error:
                    with self._changed:
                        if error.reason != _IDLE or (self._out and not self._answers):
                            raise
                        self._take_back()
            self._deliver(None)
        except NeurogateError as error:
            self._deliver(error)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            unexpected = UnexpectedError(f"an answer of the gateway cannot be read: {error!r}")
            unexpected.__cause__ = error
            self._deliver(unexpected)

    def _has_work(self) -> bool:
        """Waits for the next image; False when there is none, or nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting or self._exhausted)
            return bool(self._waiting) and not self._stopped

    def _run_once(self, retry: Reconnecting) -> None:
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
                retry.worked()
                self._answer(response)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._settings.target) from error
        with self._changed:
            left = len(self._out) + len(self._waiting)
            if left or not self._exhausted:
                raise UnexpectedError(f"the gateway ended the upload early, with {left} images unanswered")

    def _take_back(self) -> None:
        """What the broken attempt left without an answer comes first in the next one."""
        self._attempt += 1
        self._waiting.extendleft(reversed(self._out.values()))
        self._out.clear()
        self._changed.notify_all()

    def _answer(self, response: pb.UploadExamplesResponse) -> None:
        with self._changed:
            number = int(response.key) if response.key.isascii() and response.key.isdigit() else -1
            item = self._out.pop(number, None)
            self._answers += 1
            self._touched = time.monotonic()
        if item is None:
            raise UnexpectedError(
                f"the gateway answered an image that was not waiting (key {response.key!r})"
            )
        image = item.image
        self._deliver(_wire_training.upload_result(image.key, image.class_id, item.sendings > 1, response))

    def _requests(self, attempt: int) -> Iterator[pb.UploadExamplesRequest]:
        while (item := self._next(attempt)) is not None:
            if (data := self._load(item)) is not None:
                yield from _messages(item, data)

    def _load(self, item: _Item) -> bytes | None:
        # An exception in here would only reach gRPC's log.
        try:
            return load_image(item.image.image, self._settings.max_image_bytes)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop, or a result
            with self._changed:
                self._out.pop(item.number, None)
            image = item.image
            self._deliver(
                UploadResult(image.key, image.class_id, error=error)
                if isinstance(error, NeurogateError)
                else error
            )
            return None

    def _next(self, attempt: int) -> _Item | None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or attempt != self._attempt or self._waiting or self._exhausted
            )
            if self._stopped or attempt != self._attempt or not self._waiting:
                return None
            item = self._waiting.popleft()
            item.sendings += 1
            if not self._out:
                # Sending is no sign of life of the other side; it only begins the wait for the first answer.
                self._touched = time.monotonic()
            self._out[item.number] = item
            return item


def _checked(image: LabelledImage) -> LabelledImage:
    if not isinstance(image, LabelledImage):
        raise TypeError(f"upload_examples takes LabelledImage, not {type(image).__name__}")
    return image


def _messages(item: _Item, data: bytes) -> Iterator[pb.UploadExamplesRequest]:
    image, key = item.image, str(item.number)
    yield pb.UploadExamplesRequest(
        key=key,
        class_id=image.class_id,
        data=data[:CHUNK_BYTES],
        more=len(data) > CHUNK_BYTES,
        sha256=hashlib.sha256(data).hexdigest(),
        group=image.group,
        frame=framed(image.image)[1],
    )
    for start in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        yield pb.UploadExamplesRequest(key=key, data=data[start:end], more=end < len(data))
