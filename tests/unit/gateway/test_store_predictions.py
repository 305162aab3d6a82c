"""Predictions and feedback on both databases: kept once, forgotten in time, erased with all they left."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from neurogate.v1 import training_pb2 as pb
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.store.blobs import ImageGoneError, ImageStore
from neurogate_gateway.store.predictions import Feedback, NewFeedback, StoredPrediction
from neurogate_gateway.store.schema import audit, examples, feedback, predictions
from neurogate_gateway.store.store import Store
from neurogate_testing.images import sample
from neurogate_testing.stores import add_examples, add_prediction, refusal

ANY = pb.ExampleFilter()
WHY: dict[str, Any] = {"reason": "withdrawn", "actor": "operator"}
IMAGE = deidentified(sample("PNG", width=20, height=30))
OTHER = deidentified(sample("PNG", width=30, height=20))


def count(store: Store, table: sa.Table) -> int:
    with store.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def say(prediction_id: str, class_id: str = "pituitary", **changes: Any) -> NewFeedback:
    values = {"comment": "", "actor": "me", "request_id": "", "request_digest": ""}
    return NewFeedback(prediction_id=prediction_id, class_id=class_id, **values | changes)


def test_feedback_turns_a_kept_image_into_an_example(store: Store) -> None:
    digest = add_prediction(store, "p-1", IMAGE)
    result = store.predictions.submit(say("p-1", comment="clearly"))
    assert (result.example_id, result.confirmed) == (digest, False)
    [example] = store.examples.page(ANY, below=None, limit=2)
    assert (example.class_id, example.source, example.prediction_id) == ("pituitary", "FEEDBACK", "p-1")
    assert (example.width, example.height, example.size_bytes) == (20, 30, len(IMAGE))


def test_feedback_says_whether_the_answer_was_right(store: Store) -> None:
    for number, (class_id, verdict, confirmed) in enumerate(
        [
            ("glioma", "CONFIDENT", True),
            ("pituitary", "CONFIDENT", False),
            ("", "OUT_OF_DISTRIBUTION", True),
            ("", "CONFIDENT", False),
        ]
    ):
        add_prediction(store, str(number), IMAGE, keep=False, verdict=verdict)
        result = store.predictions.submit(say(str(number), class_id))
        assert (result.example_id, result.confirmed) == ("", confirmed)
    assert count(store, examples) == 0


def test_feedback_is_taken_once_per_request(store: Store) -> None:
    add_prediction(store, "p-1", IMAGE)
    request = say("p-1", request_id="r", request_digest="d")
    with ThreadPoolExecutor(8) as threads:
        results = set(threads.map(store.predictions.submit, [request] * 16))
    assert (len(results), count(store, feedback)) == (1, 1)
    other = say("p-1", request_id="r", request_digest="other")
    assert refusal(store.predictions.submit, other) == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("prediction_id", "class_id"), [("p-2", "pituitary"), ("p-1", "glioma"), ("p-1", "pituitary")]
)
def test_feedback_that_is_overtaken_by_other_feedback_of_its_request_keeps_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, prediction_id: str, class_id: str
) -> None:
    digest = add_prediction(store, "p-1", IMAGE)
    add_prediction(store, "p-2", OTHER)
    first = say("p-1", "pituitary", request_id="r", request_digest="d")
    same = (prediction_id, class_id) == ("p-1", "pituitary")
    second = say(prediction_id, class_id, request_id="r", request_digest="d" if same else "other")
    find = store.predictions.find
    results: list[Feedback] = []

    def find_late(wanted: str) -> StoredPrediction | None:
        monkeypatch.undo()
        results.append(store.predictions.submit(first))
        return find(wanted)

    monkeypatch.setattr(store.predictions, "find", find_late)
    if same:
        assert store.predictions.submit(second) == results[0]
    else:
        assert refusal(store.predictions.submit, second) == "REQUEST_ID_REUSED"
    assert count(store, feedback) == 1
    [example] = store.examples.page(ANY, below=None, limit=9)
    assert (example.example_id, example.class_id) == (digest, "pituitary")


def test_feedback_that_contradicts_an_example_keeps_nothing(store: Store) -> None:
    add_prediction(store, "p-1", IMAGE)
    add_examples(store, IMAGE, class_id="notumor")
    assert refusal(store.predictions.submit, say("p-1")) == "EXAMPLE_CONFLICT"
    assert count(store, feedback) == 0
    assert refusal(store.predictions.submit, say("p-2")) == "PREDICTION_NOT_FOUND"


def test_predictions_go_by_age_and_number_and_their_images_with_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurogate_gateway.store.predictions._FORGOTTEN_AT_ONCE", 2)
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    add_prediction(store, "old", b"old", create_time=long_ago)
    labelled = add_prediction(store, "labelled", IMAGE, create_time=long_ago)
    store.predictions.submit(say("labelled"))
    for number in range(4):
        add_prediction(store, f"new {number}", f"image {number}".encode())
    assert store.sweep(journal_days=30, max_predictions=3, image_days=1) == 2
    names = ["old", "labelled", *(f"new {number}" for number in range(4))]
    assert [name for name in names if store.predictions.find(name)] == ["new 1", "new 2", "new 3"]
    assert store.images.read(labelled) == IMAGE
    assert store.sweep(journal_days=30, max_predictions=3, image_days=0) == 3
    found = store.predictions.find("new 3")
    assert found is not None
    assert not found.image_kept
    assert store.predictions.submit(say("new 3")).example_id == ""


def test_a_batch_of_predictions_may_come_twice(store: Store) -> None:
    for _ in range(2):
        add_prediction(store, "p-1", IMAGE)
    assert count(store, predictions) == 1


def test_a_prediction_is_erased_with_its_image_and_feedback(store: Store) -> None:
    # An image that cannot become an example, so that nothing else keeps it.
    digest = add_prediction(store, "p-1", b"no image")
    said = say("p-1", request_id="r", comment="about her")
    store.predictions.submit(said)
    assert store.predictions.erase("p-1", **WHY) == []
    with pytest.raises(ImageGoneError):
        store.images.read(digest)
    assert count(store, feedback) == 0
    assert refusal(store.predictions.submit, said) == "PREDICTION_NOT_FOUND"
    assert refusal(store.predictions.erase, "p-1", **WHY) == "PREDICTION_NOT_FOUND"
    with store.database.read() as connection:
        noted = connection.execute(sa.select(audit.c.action, audit.c.subject, audit.c.details)).one()
    assert tuple(noted) == ("DELETE_PREDICTION", "p-1", {"reason": "withdrawn"})


def test_an_image_stays_as_long_as_anything_needs_it(store: Store) -> None:
    digest = add_prediction(store, "p-1", IMAGE)
    add_prediction(store, "p-2", IMAGE)
    assert store.predictions.submit(say("p-1")).example_id == digest
    assert store.predictions.erase("p-1", **WHY) == [digest]
    (example,) = store.examples.page(ANY, below=None, limit=9)
    assert example.prediction_id == ""
    store.examples.erase(digest, **WHY)
    assert store.images.read(digest) == IMAGE
    store.predictions.erase("p-2", **WHY)
    with pytest.raises(ImageGoneError):
        store.images.read(digest)


def test_feedback_on_what_is_erased_meanwhile_keeps_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_prediction(store, "p-1", IMAGE)
    read = store.images.read

    def read_then_erase(digest: str) -> bytes:
        data = read(digest)
        store.predictions.erase("p-1", **WHY)
        return data

    monkeypatch.setattr(store.images, "read", read_then_erase)
    # It would wait for those who add images, of whom this is one.
    monkeypatch.setattr(ImageStore, "remove", lambda *_: None)
    assert refusal(store.predictions.submit, say("p-1")) == "PREDICTION_NOT_FOUND"
    assert store.examples.totals(ANY) == {}
    assert store.sweep(journal_days=30, max_predictions=100, image_days=30) == 1
