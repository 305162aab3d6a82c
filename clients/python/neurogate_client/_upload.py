"""UploadExamples: labelled images, sent again where the connection broke."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from neurogate.v1 import training_pb2 as pb

from ._streams import Reconnecting, SendingCall, Sent
from .errors import DeadlineExceededError, NeurogateError, UnavailableError, UnexpectedError, from_status
from .images import Image, LabelledImage, framed
from .types import UploadResult

DEFAULT_WINDOW = 32
"""Images of an upload on their way at a time."""

CHUNK_BYTES = 2**20
"""Largest part of an image in one message; a larger image comes in several."""

_IDLE = "DEADLINE_TOO_SHORT"
"""Why the gateway ends an upload that sends nothing for a while, as one whose source is slow does."""


class UploadCall(SendingCall[LabelledImage, UploadResult]):
    """An upload: what a broken connection leaves without a result is sent again.

    The gateway knows an image by its digest, so nothing is kept twice.
    """

    def _checked(self, item: LabelledImage) -> LabelledImage:
        if not isinstance(item, LabelledImage):
            raise TypeError(f"upload_examples takes LabelledImage, not {type(item).__name__}")
        return item

    def _image(self, item: LabelledImage) -> Image:
        return item.image

    def _attempts(self) -> None:
        retry = Reconnecting(self._limits.patience)
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

    def _has_work(self) -> bool:
        """Waits for the next image; False when there is none, or the call was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting or self._exhausted)
            return bool(self._waiting) and not self._stopped

    def _take_back(self) -> None:
        """What the broken attempt left without an answer comes first in the next one."""
        self._attempt += 1
        self._waiting.extendleft(reversed(self._out.values()))
        self._out.clear()
        self._changed.notify_all()

    def _messages(self, key: str, item: LabelledImage, data: bytes) -> Iterator[pb.UploadExamplesRequest]:
        yield pb.UploadExamplesRequest(
            key=key,
            class_id=item.class_id,
            data=data[:CHUNK_BYTES],
            more=len(data) > CHUNK_BYTES,
            sha256=hashlib.sha256(data).hexdigest(),
            group=item.group,
            frame=framed(item.image)[1],
        )
        for start in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
            end = start + CHUNK_BYTES
            yield pb.UploadExamplesRequest(key=key, data=data[start:end], more=end < len(data))

    def _result(self, sent: Sent[LabelledImage], answer: Any) -> UploadResult:  # noqa: ANN401 - as above
        key, class_id, resent = sent.item.key, sent.item.class_id, sent.times > 1
        if isinstance(answer, NeurogateError):
            return UploadResult(key, class_id, error=answer)
        if answer.WhichOneof("result") == "example":
            kept = answer.example
            return UploadResult(key, class_id, kept.example_id, kept.duplicate, resent)
        error = (
            from_status(answer.error)
            if answer.WhichOneof("result") == "error"
            else UnexpectedError("the gateway sent neither an example nor an error")
        )
        return UploadResult(key, class_id, resent=resent, error=error)
