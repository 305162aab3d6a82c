"""The journal of predictions: taken note of on the event loop, written in batches by threads of its own.

A call pays for one append to a queue; digests, rows and commits happen elsewhere. One thread makes rows, and
lets go of images that are not kept; another writes the rows, so that a slow commit holds up no image. What
waits is bounded, in predictions and in bytes of images. What does not fit is dropped and counted: the journal
never holds up or fails a call.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

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
_PREPARED_AT_ONCE: Final = 64
_PAUSE_SECONDS: Final = 1.0
_SMALL_BYTES: Final = 64 * 1024
_RETRY_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 5.0
_TELL_SECONDS: Final = 10.0
_VERDICT: Final = classification_pb2.Verdict


class _Row(NamedTuple):
    """One prediction that is ready to be written, and its image where that is kept."""

    values: dict[str, Any]
    image: bytes


class Journal:
    """Observes predictions and keeps predictions.

    Args:
        store: Where they are kept.
        metrics: Where what is written and dropped is counted too.
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
        # Of several, so that one is written while the next one fills.
        self._batch_bytes = max_waiting_bytes // 8
        self._arrived: deque[tuple[float, PredictionEvent]] = deque()
        self._arrived_bytes = 0
        self._rows: deque[_Row] = deque()
        self._row_bytes = 0
        self._waiting_bytes = 0
        """Of all images that the journal holds, those that are being written included."""
        self._unwritten: set[str] = set()
        """The prediction_id of every prediction that is neither written nor dropped yet."""
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._taken = 0
        self._prepared = 0
        self._done = 0
        self._flush_to = 0
        self._closing = False
        self._give_up: float | None = None
        self._counters = {
            fate: metrics.counter(
                f"neurogate_journal_{fate}_total", f"Predictions that the journal has {fate}."
            )
            for fate in ("written", "dropped")
        }
        self.written = 0
        self.dropped = 0
        self._told_dropped = 0
        self._told_at = -_TELL_SECONDS
        self._threads = [
            threading.Thread(target=self._prepare, name="journal-rows", daemon=True),
            threading.Thread(target=self._work, name="journal", daemon=True),
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
        with self._lock:
            # One image may always enter, however large.
            full = len(self._arrived) + len(self._rows) >= self._max_waiting or (
                self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes
            )
            if full or self._closing:
                self._count_dropped(1)
                return
            self._arrived.append((time.time(), event))
            self._unwritten.add(event.answer.classification.prediction_id)
            before = self._arrived_bytes
            self._arrived_bytes += size
            self._waiting_bytes += size
            self._taken += 1
            if len(self._arrived) == _BATCH or before < self._batch_bytes <= self._arrived_bytes:
                self._due.notify_all()

    def holds(self, prediction_id: str) -> bool:
        """Whether a prediction waits to be written."""
        with self._lock:
            return prediction_id in self._unwritten

    def flush(self, seconds: float = _LAST_SECONDS) -> bool:
        """Waits, in any thread but the loop's, until what was observed before is written or dropped.

        Returns:
            Whether it was in time.
        """
        with self._lock:
            wanted = self._flush_to = self._taken
            self._due.notify_all()
            return self._due.wait_for(lambda: self._done >= wanted, seconds)

    def close(self) -> None:
        """Writes what waits, for as long as a few seconds, and ends."""
        with self._lock:
            self._closing = True
            self._give_up = time.monotonic() + _LAST_SECONDS
            self._due.notify_all()
        for thread in self._threads:
            # One that was never started cannot be waited for.
            if thread.ident is not None:
                thread.join(2 * _LAST_SECONDS)
        self._tell_dropped(last=True)

    def _prepare(self) -> None:
        """Makes rows of what has arrived, until the end."""
        while True:
            with self._lock:
                self._due.wait_for(
                    lambda: (
                        self._closing
                        or len(self._arrived) >= _BATCH
                        or self._arrived_bytes >= self._batch_bytes
                        or self._flush_to > self._prepared
                    ),
                    _PAUSE_SECONDS,
                )
                if self._closing and not self._arrived:
                    return
            while self._prepare_some():
                pass
            with self._lock:
                self._due.notify_all()

    def _prepare_some(self) -> bool:
        """Makes rows of what arrived first; whether there was anything."""
        chunk: list[tuple[float, PredictionEvent]] = []
        size = 0
        with self._lock:
            for each in self._arrived:
                if len(chunk) == _PREPARED_AT_ONCE or size >= self._batch_bytes:
                    break
                chunk.append(each)
                size += len(each[1].image)
        rows: list[_Row] = []
        broken: list[str] = []
        for moment, event in chunk:
            try:
                image = _to_keep(event.image) if self._keep_images else b""
                rows.append(_Row(_row(moment, event, _digest(image or event.image)), image))
            except Exception as error:  # noqa: BLE001 - a defect here must not end the journal
                assert event.answer is not None  # noqa: S101 - others are not taken
                broken.append(event.answer.classification.prediction_id)
                log(logging.ERROR, "journal_not_written", error=error)
        kept = sum(len(row.image) for row in rows)
        with self._lock:
            for _ in chunk:
                self._arrived.popleft()
            self._arrived_bytes -= size
            self._prepared += len(chunk)
            self._rows += rows
            self._row_bytes += kept
            self._settle(broken, kept=0, size=size - kept)
        return bool(chunk)

    def _work(self) -> None:
        """Writes rows, until the end."""
        while True:
            with self._lock:
                self._due.wait_for(
                    lambda: (
                        self._closing
                        or len(self._rows) >= _BATCH
                        or self._row_bytes >= self._batch_bytes
                        or (bool(self._rows) and self._flush_to > self._done)
                    ),
                    _PAUSE_SECONDS,
                )
                if self._closing and self._arrived:
                    self._due.wait_for(lambda: self._rows or not self._arrived)
                batch = self._take_batch()
                if self._closing and not batch:
                    return
            if batch:
                self._write(batch)
                self._tell_dropped()

    def _take_batch(self) -> list[_Row]:
        """The rows of one transaction; the lock is held."""
        batch: list[_Row] = []
        size = 0
        while self._rows and len(batch) < _BATCH and size < self._batch_bytes:
            row = self._rows.popleft()
            size += len(row.image)
            batch.append(row)
        self._row_bytes -= size
        return batch

    def _write(self, batch: Sequence[_Row]) -> None:
        try:
            kept = len(batch) if self._try(batch) else 0
        except Exception as error:  # noqa: BLE001 - a defect here must not end the journal
            log(logging.ERROR, "journal_not_written", error=error)
            kept = self._write_singly(batch) if len(batch) > 1 else 0
        with self._lock:
            self._settle(
                [row.values["prediction_id"] for row in batch],
                kept=kept,
                size=sum(len(row.image) for row in batch),
            )

    def _settle(self, prediction_ids: Sequence[str], *, kept: int, size: int) -> None:
        """Counts predictions that wait no longer, and lets go of them; the lock is held."""
        self._waiting_bytes -= size
        self._unwritten.difference_update(prediction_ids)
        self._done += len(prediction_ids)
        self.written += kept
        self._counters["written"].inc(kept)
        self._count_dropped(len(prediction_ids) - kept)
        self._due.notify_all()

    def _write_singly(self, batch: Sequence[_Row]) -> int:
        """Writes one by one what could not be written together; how many could."""
        kept = 0
        for each in batch:
            # What is wrong was told for all of them.
            with contextlib.suppress(Exception):
                if not self._try([each]):
                    break
                kept += 1
        return kept

    def _try(self, batch: Sequence[_Row]) -> bool:
        """Writes a batch, again and again while the database is away and somebody may wait for it."""
        rows = [row.values for row in batch]
        images = {row.values["image_digest"]: row.image for row in batch if row.image}
        while True:
            try:
                self._store.add(rows, images)
                return True
            except GatewayError as error:
                log(logging.WARNING, "journal_not_written", reason=error.reason_name(), message=error.message)
            with self._lock:
                self._due.wait_for(lambda: self._closing, _RETRY_SECONDS)
                give_up = self._give_up
            if give_up is not None and time.monotonic() >= give_up:
                return False
            if give_up is not None:
                time.sleep(0.1)

    def _count_dropped(self, number: int) -> None:
        self.dropped += number
        self._counters["dropped"].inc(number)

    def _tell_dropped(self, *, last: bool = False) -> None:
        fresh = self.dropped - self._told_dropped
        if fresh and (last or time.monotonic() - self._told_at >= _TELL_SECONDS):
            self._told_dropped, self._told_at = self.dropped, time.monotonic()
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
    answer = event.answer
    assert answer is not None  # noqa: S101 - others are not taken
    version, told = event.resolved.version, answer.classification
    probabilities = answer.outputs.probabilities.tolist()
    timings = told.timings
    return {
        "prediction_id": told.prediction_id,
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
        "verdict": _VERDICT.Name(told.verdict).removeprefix("VERDICT_"),
        "ood_score": told.ood_score,
        "queue_seconds": timings.queue.ToNanoseconds() / 1e9,
        "transform_seconds": timings.transform.ToNanoseconds() / 1e9,
        "predict_seconds": timings.predict.ToNanoseconds() / 1e9,
        "total_seconds": event.seconds,
        "caller": event.caller,
        "attributes": dict(event.attributes),
    }
