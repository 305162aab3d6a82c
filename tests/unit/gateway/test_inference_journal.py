"""The journal: bounded, written by its own thread, and never in a caller's way."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa
from neurogate.v1 import error_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.backends.tfserving import Outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import GatewayError, RecordsUnavailableError
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.inference.pipeline import (
    Prediction,
    PredictionEvent,
    ResolvedVersion,
    classification,
)
from neurogate_gateway.observability.metrics import Metrics
from neurogate_gateway.store.predictions import PredictionStore
from neurogate_gateway.store.schema import predictions
from neurogate_gateway.store.store import Store
from neurogate_testing import identifying
from neurogate_testing.manifests import sound_manifest

CHOICE = ResolvedVersion(ServedVersion("brain_tumor", 3, sound_manifest(version=3), "d" * 64), "stable", 1)


class GatedStore:
    """A store of predictions that waits until it may write, and fails as often as a test says."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.failures = 0
        self.written: list[Mapping[str, Any]] = []

    def add(self, rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> None:
        self.entered.set()
        assert self.gate.wait(60)
        if self.failures:
            self.failures -= 1
            raise RecordsUnavailableError("away")
        self.written.extend(rows)


def outcome(image: bytes = b"image") -> PredictionEvent:
    outputs = Outputs(np.array([0.1, 0.2, 0.6, 0.1], np.float32), 1.5)
    said = classification(CHOICE, outputs, queue=0.001, transform=0.002, predict=0.003)
    return PredictionEvent(CHOICE, image, Prediction(CHOICE, outputs, said), None, 0.01, "ipv4:127.0.0.1:9")


def gated(**changes: Any) -> tuple[Journal, GatedStore]:
    store = GatedStore()
    journal = Journal(cast("PredictionStore", store), Metrics(), **{"keep_images": False, **changes})
    journal.start()
    return journal, store


@pytest.fixture(autouse=True)
def any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are kept as they come, so that they can be any bytes."""
    monkeypatch.setattr("neurogate_gateway.inference.journal.deidentified", lambda image: image)


def test_images_are_kept_without_what_they_say_about_people(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    journal = Journal(store.predictions, Metrics(), keep_images=True)
    journal.start()
    sound, broken = outcome(identifying.files()["jpeg"]), outcome(b"the machine is at fault")
    journal.observe(sound)
    journal.observe(broken)
    assert journal.flush()
    journal.close()
    kept = deidentified(sound.image)
    for each, digest in ((sound, kept), (broken, broken.image)):
        assert each.answer is not None
        found = store.predictions.find(each.answer.classification.prediction_id)
        assert found is not None
        assert found.image_digest == hashlib.sha256(digest).hexdigest()
        assert found.image_kept == (each is sound)
    assert store.images.read(hashlib.sha256(kept).hexdigest()) == kept


@pytest.mark.parametrize("keep_images", [True, False])
def test_a_prediction_is_written_with_all_that_decided_it(store: Store, keep_images: bool) -> None:
    journal = Journal(store.predictions, Metrics(), keep_images=keep_images)
    journal.start()
    seen = outcome()
    journal.observe(seen)
    assert journal.flush()
    with store.database.read() as connection:
        row = connection.execute(sa.select(predictions)).one()
    digest = hashlib.sha256(b"image").hexdigest()
    assert seen.answer is not None
    assert row.prediction_id == seen.answer.classification.prediction_id
    assert (row.model, row.version, row.label, row.manifest_digest) == ("brain_tumor", 3, "stable", "d" * 64)
    assert row.transform_revision == CHOICE.version.manifest.transform.revision
    assert (row.image_digest, row.image_kept) == (digest, keep_images)
    assert (row.class_id, row.verdict) == ("notumor", "CONFIDENT")
    assert row.scores == {"glioma": 0.1, "meningioma": 0.2, "notumor": 0.6, "pituitary": 0.1}
    assert (row.queue_seconds, row.transform_seconds, row.predict_seconds) == (0.001, 0.002, 0.003)
    assert (row.total_seconds, row.ood_score, row.caller) == (0.01, 1.5, "ipv4:127.0.0.1:9")
    assert store.images.path(digest).exists() == keep_images
    journal.close()


def test_the_digest_is_the_images_whatever_its_size() -> None:
    journal, store = gated()
    store.gate.set()
    sizes = (1, 2047, 2048, 64 * 1024, 64 * 1024 + 1, 1_000_000)
    images = [bytes(range(256)) * (size // 256) + b"x" * (size % 256) for size in sizes]
    for image in images:
        journal.observe(outcome(image))
    journal.close()
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    assert [row["image_digest"] for row in store.written] == digests


def test_failures_are_no_predictions() -> None:
    journal, store = gated()
    store.gate.set()
    corrupt = GatewayError(error_pb2.ERROR_REASON_IMAGE_CORRUPT, "bad")
    journal.observe(PredictionEvent(CHOICE, b"x", None, corrupt, 0.1))
    journal.close()
    assert store.written == []


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    journal, store = gated(max_waiting=3)
    journal.observe(outcome())
    assert store.entered.wait(60)
    for _ in range(5):
        journal.observe(outcome())
    assert journal.dropped == 3
    store.gate.set()
    journal.close()
    assert (len(store.written), journal.written, journal.dropped) == (3, 3, 3)


def test_images_that_wait_are_bounded_too_but_one_always_fits() -> None:
    journal, store = gated(keep_images=True, max_waiting_bytes=100)
    journal.observe(outcome(b"x" * 500))
    assert store.entered.wait(60)
    journal.observe(outcome(b"y"))
    assert journal.dropped == 1
    store.gate.set()
    assert journal.flush()
    store.gate.clear()
    journal.observe(outcome(b"z" * 60))
    journal.observe(outcome(b"z" * 60))
    store.gate.set()
    journal.close()
    assert (journal.written, journal.dropped) == (2, 2)


@pytest.mark.parametrize("keep_images", [True, False])
def test_images_wake_the_writer_long_before_a_batch_or_a_pause(
    monkeypatch: pytest.MonkeyPatch, keep_images: bool
) -> None:
    monkeypatch.setattr("neurogate_gateway.inference.journal._PAUSE_SECONDS", 3600.0)
    journal, store = gated(keep_images=keep_images, max_waiting_bytes=1000)
    store.gate.set()
    journal.observe(outcome(b"x" * 126))
    with journal._changed:
        if keep_images:
            assert journal._changed.wait_for(lambda: journal.written == 1, 60)
        else:
            assert journal._changed.wait_for(lambda: journal._waiting_bytes == 0, 60)
    journal.close()
    assert (journal.written, journal.dropped) == (1, 0)


def test_images_that_are_not_kept_take_no_room_while_the_database_is_slow() -> None:
    journal, store = gated(max_waiting_bytes=1000)
    journal.observe(outcome())
    assert store.entered.wait(60)
    # Five times what there is room for, while the database answers nothing.
    for number in range(50):
        journal.observe(outcome(b"%02d" % number * 50))
        with journal._changed:
            assert journal._changed.wait_for(lambda: journal._waiting_bytes < 900, 60)
    store.gate.set()
    journal.close()
    assert (journal.written, journal.dropped) == (51, 0)


def test_no_image_is_lost_below_the_speed_of_the_store(store: Store) -> None:
    journal = Journal(store.predictions, Metrics(), keep_images=False, max_waiting_bytes=4 * 2**20)
    journal.start()
    image = bytes(400 * 1024)
    for _ in range(100):
        journal.observe(outcome(image))
        # The callers' pace is the journal's own: there is room for the next image.
        with journal._changed:
            assert journal._changed.wait_for(lambda: journal._waiting_bytes < 3 * 2**20, 60)
    journal.close()
    assert (journal.written, journal.dropped) == (100, 0)


def test_the_journal_knows_what_it_has_not_written_yet() -> None:
    journal, store = gated()
    first, broken = outcome(), outcome()
    assert first.answer is not None
    assert broken.answer is not None
    prediction_id = first.answer.classification.prediction_id
    assert not journal.holds(prediction_id)
    journal.observe(first)
    answer = dataclasses.replace(broken.answer, outputs=Outputs(np.zeros(3, np.float32), 0.0))
    journal.observe(dataclasses.replace(broken, answer=answer))
    assert journal.holds(prediction_id)
    assert store.entered.wait(60)
    assert journal.holds(prediction_id)
    store.gate.set()
    assert journal.flush(60)
    assert not journal.holds(prediction_id)
    assert not journal.holds(broken.answer.classification.prediction_id)
    journal.close()


def test_a_journal_that_was_never_started_closes() -> None:
    journal = Journal(cast("PredictionStore", GatedStore()), Metrics(), keep_images=False)
    journal.close()


def test_a_database_that_comes_back_gets_what_waited() -> None:
    journal, store = gated()
    store.failures = 1
    store.gate.set()
    journal.observe(outcome())
    assert journal.flush(30)
    assert (journal.written, journal.dropped) == (1, 0)
    journal.close()
    journal.observe(outcome())
    assert journal.dropped == 1


def test_a_database_that_stays_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurogate_gateway.inference.journal._LAST_SECONDS", 0.3)
    journal, store = gated()
    store.failures = 10**9
    store.gate.set()
    journal.observe(outcome())
    journal.close()
    for thread in journal._threads:
        thread.join(60)
    assert (journal.written, journal.dropped) == (0, 1)


def test_the_end_writes_what_is_ready_while_images_are_still_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = GatedStore()
    store.gate.set()
    written = store.entered

    def prepare(image: bytes) -> bytes:
        assert image == b"first" or written.wait(60)
        return image

    monkeypatch.setattr("neurogate_gateway.inference.journal.deidentified", prepare)
    journal = Journal(cast("PredictionStore", store), Metrics(), keep_images=True)
    for image in (b"first", b"second"):
        journal.observe(outcome(image))
    journal.start()
    journal.close()
    assert (journal.written, journal.dropped) == (2, 0)


def test_a_prediction_that_cannot_be_written_takes_no_other_with_it(store: Store) -> None:
    journal = Journal(store.predictions, Metrics(), keep_images=True)
    broken, unwritable = outcome(), outcome()
    assert broken.answer is not None
    short = dataclasses.replace(broken.answer, outputs=Outputs(np.zeros(3, np.float32), 0.0))
    good = [outcome(b"image %d" % number) for number in range(4)]
    for each in (
        *good[:2],
        dataclasses.replace(broken, answer=short),
        dataclasses.replace(unwritable, caller="no text: \udc80"),
        *good[2:],
    ):
        journal.observe(each)
    journal.start()
    assert journal.flush(60)
    journal.close()
    assert (journal.written, journal.dropped) == (4, 2)
    for each in good:
        assert each.answer is not None
        kept = store.predictions.find(each.answer.classification.prediction_id)
        assert kept is not None
        assert kept.image_kept


def test_a_database_that_goes_away_while_rows_are_written_singly_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurogate_gateway.inference.journal._LAST_SECONDS", 0.3)

    class LeavingStore(GatedStore):
        def add(self, rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> None:
            if len(rows) > 1:
                raise ValueError("one of them is no row")
            if self.written:
                self.failures = 10**9
            super().add(rows, images)

    store = LeavingStore()
    store.gate.set()
    journal = Journal(cast("PredictionStore", store), Metrics(), keep_images=False)
    for _ in range(5):
        journal.observe(outcome())
    journal.start()
    journal.close()
    for thread in journal._threads:
        thread.join(60)
    assert (journal.written, journal.dropped) == (1, 4)
