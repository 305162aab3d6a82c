"""The journal of predictions: noted on the event loop, written in batches by threads of its own.

A call pays for one append to a queue; digests, rows and commits happen elsewhere. One thread makes rows, and
lets go of images that are not kept; another writes the rows, so that a slow commit holds up no image. What
waits is bounded, in predictions and in bytes of images. What does not fit is dropped and counted: the journal
never holds up or fails a call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

from neurogate.v1 import classification_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import TransformError

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.metrics import Metrics
from neurogate_gateway.store.predictions import PredictionStore

from .pipeline import PredictionEvent

_BATCH: Final = 512
"""Rows of one transaction: what a commit costs is shared by as many as a second or so brings."""
_PAUSE_SECONDS: Final = 1.0
_SMALL_BYTES: Final = 64 * 1024
_RETRY_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 5.0
_LAST_RETRY_SECONDS: Final = 0.1
_REPORT_SECONDS: Final = 10.0
_VERDICT: Final = classification_pb2.Verdict

_T = TypeVar("_T")


class _Row(NamedTuple):
    """One prediction that is ready to be written, and its image where that is kept."""

    values: dict[str, Any]
    image: bytes


@dataclasses.dataclass(slots=True)
class _Queue(Generic[_T]):
    """What waits for one of the threads, and the bytes of its images."""

    batch_bytes: int
    items: deque[_T] = dataclasses.field(default_factory=deque)
    size: int = 0

    @property
    def full(self) -> bool:
        """Whether there is enough for a batch."""
        return len(self.items) >= _BATCH or self.size >= self.batch_bytes


class Journal:
    """Keeps the predictions that it observes.

    Args:
        store: Where they are kept.
        metrics: Counts what is written and dropped.
        keep_images: Whether their images are kept too.
        max_waiting: Predictions that may wait to be written.
        max_waiting_bytes: Bytes of images that may wait: for their digests or, where they are kept, to be
            written.
    """

    def __init__(
        self,
        store: PredictionStore,
        metrics: Metrics,
        *,
        keep_images: bool,
        max_waiting: int = 4096,
        max_waiting_bytes: int = 64 * 2**20,
    ) -> None:
        self._store = store
        self._keep_images = keep_images
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        # A batch has an eighth of the bytes, so that one is written while the next ones fill.
        self._arrived: _Queue[tuple[float, PredictionEvent]] = _Queue(max_waiting_bytes // 8)
        self._rows: _Queue[_Row] = _Queue(max_waiting_bytes // 8)
        self._waiting_bytes = 0
        """Of all images that the journal holds, those that are being written included."""
        self._unwritten: set[str] = set()
        """The prediction_id of every prediction that is neither written nor dropped yet."""
        self._changed = threading.Condition()
        self._flushing = 0
        self._give_up: float | None = None
        """Once it closes, the moment until which it tries to write."""
        self._counters = {
            fate: metrics.counter(
                f"neurogate_journal_{fate}_total", f"Predictions that the journal has {fate}."
            )
            for fate in ("written", "dropped")
        }
        self.written = 0
        self.dropped = 0
        self._reported_dropped = 0
        self._reported_at = -_REPORT_SECONDS
        self._threads = [
            threading.Thread(target=self._make_rows, name="journal-rows", daemon=True),
            threading.Thread(target=self._write_rows, name="journal", daemon=True),
        ]

    def start(self) -> None:
        """Begins to write."""
        for thread in self._threads:
            thread.start()

    def observe(self, event: PredictionEvent) -> None:
        """Takes note of a prediction; failures are none."""
        if event.answer is None:
            return
        size = len(event.image)
        with self._changed:
            # One image may always enter, however large.
            full = len(self._unwritten) >= self._max_waiting or (
                self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes
            )
            if full or self._give_up is not None:
                self._count_dropped(1)
                return
            was_full = self._arrived.full
            self._arrived.items.append((time.time(), event))
            self._arrived.size += size
            self._waiting_bytes += size
            self._unwritten.add(event.answer.classification.prediction_id)
            if self._arrived.full and not was_full:
                self._changed.notify_all()

    def holds(self, prediction_id: str) -> bool:
        """Whether a prediction waits to be written."""
        with self._changed:
            return prediction_id in self._unwritten

    def flush(self, seconds: float = _LAST_SECONDS) -> bool:
        """Waits, in any thread but the loop's, until what was observed before is written or dropped.

        Returns:
            Whether it was in time.
        """
        with self._changed:
            wanted = set(self._unwritten)
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: wanted.isdisjoint(self._unwritten), seconds)
            finally:
                self._flushing -= 1

    def close(self) -> None:
        """Writes what waits, for as long as a few seconds, and ends."""
        with self._changed:
            self._give_up = time.monotonic() + _LAST_SECONDS
            self._changed.notify_all()
        for thread in self._threads:
            # One that was never started cannot be waited for.
            if thread.ident is not None:
                thread.join(2 * _LAST_SECONDS)
        self._report_dropped(last=True)

    def _wait(self, queue: _Queue[Any]) -> bool:
        """Waits until it is time to empty a queue; False once it stays empty for ever."""
        with self._changed:
            self._changed.wait_for(
                lambda: queue.full or self._give_up is not None or bool(self._flushing and queue.items),
                _PAUSE_SECONDS,
            )
            if self._give_up is None:
                return True
            self._changed.wait_for(lambda: queue.items or not self._arrived.items)
            return bool(queue.items)

    def _make_rows(self) -> None:
        """Makes rows of what has arrived, until the end."""
        while self._wait(self._arrived):
            while self._arrived.items:
                self._make_row(*self._arrived.items[0])
            with self._changed:
                self._changed.notify_all()

    def _make_row(self, moment: float, event: PredictionEvent) -> None:
        row: _Row | None = None
        try:
            image = _to_keep(event.image) if self._keep_images else b""
            row = _Row(_row(moment, event, _digest(image or event.image)), image)
        except Exception as error:  # noqa: BLE001 - a defect here must not end the journal
            log(logging.ERROR, "journal_not_written", error=error)
        size = len(event.image)
        with self._changed:
            self._arrived.items.popleft()
            self._arrived.size -= size
            if row is None:
                assert event.answer is not None  # noqa: S101 - others are not taken
                self._settle([event.answer.classification.prediction_id], kept=0, size=size)
                return
            self._waiting_bytes += len(row.image) - size
            was_full = self._rows.full
            self._rows.items.append(row)
            self._rows.size += len(row.image)
            # At the end the writer takes rows as they come, since the time is short.
            if (self._rows.full and not was_full) or self._give_up is not None:
                self._changed.notify_all()

    def _write_rows(self) -> None:
        """Writes rows, until the end."""
        while self._wait(self._rows):
            batch: list[_Row] = []
            size = 0
            with self._changed:
                while self._rows.items and len(batch) < _BATCH and size < self._rows.batch_bytes:
                    row = self._rows.items.popleft()
                    size += len(row.image)
                    batch.append(row)
                self._rows.size -= size
            if batch:
                kept = self._write(batch)
                with self._changed:
                    self._settle([row.values["prediction_id"] for row in batch], kept=kept, size=size)
                self._report_dropped()

    def _settle(self, prediction_ids: Sequence[str], *, kept: int, size: int) -> None:
        """Counts predictions that wait no longer, and lets go of them; the lock is held."""
        self._waiting_bytes -= size
        self._unwritten.difference_update(prediction_ids)
        self.written += kept
        self._counters["written"].inc(kept)
        self._count_dropped(len(prediction_ids) - kept)
        self._changed.notify_all()

    def _write(self, batch: Sequence[_Row]) -> int:
        """Writes rows together or, where one of them cannot be written, one by one; how many it wrote."""
        try:
            return len(batch) if self._try(batch) else 0
        except Exception as error:  # noqa: BLE001 - a defect here must not end the journal
            log(logging.ERROR, "journal_not_written", error=error)
        kept = 0
        for row in batch if len(batch) > 1 else ():
            # The log has the reason already.
            with contextlib.suppress(Exception):
                if not self._try([row]):
                    break
                kept += 1
        return kept

    def _try(self, batch: Sequence[_Row]) -> bool:
        """Writes a batch; retries while the database is away, after `close` for a few seconds only."""
        rows = [row.values for row in batch]
        images = {row.values["image_digest"]: row.image for row in batch if row.image}
        while True:
            try:
                self._store.add(rows, images)
                return True
            except GatewayError as error:
                log(logging.WARNING, "journal_not_written", reason=error.reason_name(), message=error.message)
            with self._changed:
                if self._give_up is None:
                    self._changed.wait_for(lambda: self._give_up is not None, _RETRY_SECONDS)
                elif time.monotonic() >= self._give_up:
                    return False
                else:
                    self._changed.wait_for(lambda: False, _LAST_RETRY_SECONDS)

    def _count_dropped(self, number: int) -> None:
        self.dropped += number
        self._counters["dropped"].inc(number)

    def _report_dropped(self, *, last: bool = False) -> None:
        fresh = self.dropped - self._reported_dropped
        if fresh and (last or time.monotonic() - self._reported_at >= _REPORT_SECONDS):
            self._reported_dropped, self._reported_at = self.dropped, time.monotonic()
            log(logging.WARNING, "journal_dropped", predictions=fresh, total=self.dropped)


def _to_keep(image: bytes) -> bytes:
    """What may be kept of an image; nothing where that cannot be made now."""
    try:
        return deidentified(image)
    except (TransformError, MemoryError, OSError) as error:
        # By its kind alone: the transform has accepted the image, so what failed is the machine.
        log(logging.WARNING, "image_not_kept", cause=type(error).__name__)
        return b""


def _digest(image: bytes) -> str:
    """Hex SHA-256; of a small image without letting go of the interpreter.

    hashlib lets go of it for pieces from 2048 bytes on. To get it back from the busy loop costs both threads
    more than the few microseconds that a usual image takes.
    """
    if len(image) > _SMALL_BYTES:
        return hashlib.sha256(image).hexdigest()
    digest = hashlib.sha256()
    for start in range(0, len(image), 2047):
        digest.update(image[start : start + 2047])
    return digest.hexdigest()


def _row(moment: float, event: PredictionEvent, digest: str) -> dict[str, Any]:
    """The columns of a prediction, by what its event says."""
    answer = event.answer
    assert answer is not None  # noqa: S101 - others are not taken
    version, said = event.resolved.version, answer.classification
    probabilities = answer.outputs.probabilities.tolist()
    timings = said.timings
    return {
        "prediction_id": said.prediction_id,
        "create_time": datetime.fromtimestamp(moment, UTC),
        "model": version.model,
        "version": version.number,
        "label": event.resolved.label,
        "manifest_digest": version.digest,
        "transform_revision": version.manifest.transform.revision,
        "image_digest": digest,
        "class_id": version.classes[max(range(len(probabilities)), key=probabilities.__getitem__)][0],
        "scores": {
            class_id: round(value, 6)
            for (class_id, _), value in zip(version.classes, probabilities, strict=True)
        },
        "verdict": _VERDICT.Name(said.verdict).removeprefix("VERDICT_"),
        "ood_score": said.ood_score,
        "queue_seconds": timings.queue.ToNanoseconds() / 1e9,
        "transform_seconds": timings.transform.ToNanoseconds() / 1e9,
        "predict_seconds": timings.predict.ToNanoseconds() / 1e9,
        "total_seconds": event.seconds,
        "caller": event.caller,
        "attributes": dict(event.attributes),
    }
