"""Which images of a stream are out, and in which order their results may go to the caller."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from neurogate.v1 import classification_pb2 as pb

from . import _wire
from .errors import NeurogateError, UnexpectedError
from .results import Result

K = TypeVar("K")


class Ledger(Generic[K]):
    """Matches answers with keys. One side sends while the other receives, so it locks.

    On the wire an image's key is its number in the stream: callers' keys can then be anything, of any length
    and as often as they like, and every answer has exactly one image.
    """

    def __init__(self, config: pb.StreamClassifyConfig) -> None:
        self._ordered = not config.allow_out_of_order
        self._request_id = config.request_id
        self._lock = threading.Lock()
        self._slots: OrderedDict[int, tuple[K, Result[K] | None]] = OrderedDict()
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

    def refuse(self, key: K, error: NeurogateError) -> Sequence[Result[K]]:
        """Notes an image that is not sent at all; returns the results that may go to the caller now."""
        with self._lock:
            return self._close(self._open(key), Result(key, error=error))

    def answer(self, response: pb.StreamClassifyResponse) -> Sequence[Result[K]]:
        """Takes an answer in; returns the results that may go to the caller now.

        Raises:
            UnexpectedError: an answer to nothing, or a second one.
        """
        with self._lock:
            number = int(response.key) if response.key.isascii() and response.key.isdigit() else -1
            slot = self._slots.get(number)
            if slot is None or slot[1] is not None:
                raise UnexpectedError(
                    f"the gateway answered an image that was not waiting (key {response.key!r})"
                )
            model = _wire.model_ref(response.model)
            result = _wire.item_result(slot[0], response, model, self._request_id)
            self._unanswered -= 1
            self._touched = time.monotonic()
            return self._close(number, result)

    def waiting(self) -> int:
        """Number of images that are out and not answered."""
        with self._lock:
            return self._unanswered

    def idle_seconds(self) -> float:
        """How long no answer has come while images are out; 0 when none is."""
        with self._lock:
            return time.monotonic() - self._touched if self._unanswered else 0.0

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
            head, (_, waiting) = next(iter(self._slots.items()))
            if waiting is None:
                break
            ready.append(waiting)
            del self._slots[head]
        return ready
