"""UploadExamples: a bounded window of labelled images, sent again where the connection broke."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from neurogate.v1 import training_pb2 as pb

from ._streams import Deliver, Limits, Reconnecting, SendingCall, not_waiting, unreadable, wire_number
from .errors import (
    CallCancelledError,
    DeadlineExceededError,
    NeurogateError,
    UnavailableError,
    UnexpectedError,
    from_rpc_error,
    from_status,
)
from .images import LabelledImage, framed, load_image
from .types import UploadResult

DEFAULT_WINDOW = 32
"""Images of an upload on their way at a time."""

CHUNK_BYTES = 2**20
"""Largest part of an image in one message; a larger image comes in several."""

_IDLE = "DEADLINE_TOO_SHORT"
"""Why the gateway ends an upload that sends nothing for a while, as one whose source is slow does."""

_END: Any = object()


@dataclass(slots=True)
class _Item:
    number: int
    image: LabelledImage
    sendings: int = 0


class UploadCall(SendingCall[UploadResult]):
    """A running upload: one thread reads the source, gRPC's own sends, another receives and begins again.

    An image leaves the window only with its result, so what a broken connection leaves without one is sent
    again; the gateway knows an image by its digest, so nothing is kept twice. On the wire an image's key is
    its number, and callers' keys can be anything.
    """

    def __init__(
        self,
        images: Iterable[LabelledImage],
        start: Callable[[Iterator[pb.UploadExamplesRequest]], Any],
        limits: Limits,
        deliver: Deliver,
    ) -> None:
        super().__init__(limits, deliver)
        self._images = iter(images)
        self._start = start
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

    def waiting(self) -> tuple[int, float]:
        """How many images are out without a result, and for how many seconds none has come."""
        with self._changed:
            return len(self._out), time.monotonic() - self._touched if self._out else 0.0

    def close(self) -> None:
        """Cancels the call, if it still runs, and stops reading the source."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            call = self._call
        self.window.release()
        if call is not None:
            call.cancel()

    def _read(self) -> None:
        # What the source raises is raised in the caller's loop, after the results of the images before.
        try:
            number = 0
            while self.window.acquire() and not self._stopped:
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
        retry = Reconnecting(self.limits.patience)
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
            self.deliver(self._source_error)
        except NeurogateError as error:
            self.deliver(error)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop
            self.deliver(unreadable(error))

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
            raise from_rpc_error(error, self.limits.target) from error
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
            item = self._out.pop(wire_number(response.key), None)
            self._answers += 1
            self._touched = time.monotonic()
        if item is None:
            raise not_waiting(response.key)
        self.deliver(_result(item, response))

    def _requests(self, attempt: int) -> Iterator[pb.UploadExamplesRequest]:
        while (item := self._next(attempt)) is not None:
            if (data := self._load(item)) is not None:
                yield from _messages(item, data)

    def _load(self, item: _Item) -> bytes | None:
        # An exception in here would only reach gRPC's log.
        try:
            return load_image(item.image.image, self.limits.max_image_bytes)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's loop, or a result
            with self._changed:
                self._out.pop(item.number, None)
            image = item.image
            self.deliver(
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


def _result(item: _Item, response: pb.UploadExamplesResponse) -> UploadResult:
    key, class_id, resent = item.image.key, item.image.class_id, item.sendings > 1
    if response.WhichOneof("result") == "example":
        kept = response.example
        return UploadResult(key, class_id, kept.example_id, kept.duplicate, resent)
    error = (
        from_status(response.error)
        if response.WhichOneof("result") == "error"
        else UnexpectedError("the gateway sent neither an example nor an error")
    )
    return UploadResult(key, class_id, resent=resent, error=error)


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
