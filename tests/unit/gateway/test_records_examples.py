"""Examples, predictions and feedback over opened records, on both databases."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from neurogate.v1 import training_pb2
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.store.examples import Kept, NewExample
from neurogate_gateway.store.feedback import Feedback, NewFeedback
from neurogate_gateway.store.predictions import StoredPrediction
from neurogate_gateway.store.schema import examples, feedback, predictions
from neurogate_gateway.store.store import Store
from neurogate_testing.images import sample
from neurogate_testing.refusals import refused

ANY = training_pb2.ExampleFilter()
IMAGE = deidentified(sample("PNG", width=20, height=30))


@pytest.fixture
def records(records_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data", records_url, max_store_bytes=1_000_000)
    yield opened
    opened.close()


def new(data: bytes, class_id: str = "glioma", **changes: Any) -> NewExample:
    digest = hashlib.sha256(data).hexdigest()
    values = {
        "example_id": digest,
        "data": data,
        "sent_sha256": digest,
        "class_id": class_id,
        "width": 1,
        "height": 1,
        "actor": "me",
    }
    return NewExample(**values | changes)


def kept(result: Kept | GatewayError) -> Kept:
    assert isinstance(result, Kept), result
    return result


def count(records: Store, table: sa.Table) -> int:
    with records.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def predict(
    records: Store, identifier: str, image: bytes = IMAGE, *, keep: bool = True, **changes: Any
) -> str:
    digest = hashlib.sha256(image).hexdigest()
    row = {
        "prediction_id": identifier,
        "create_time": dt.datetime.now(dt.UTC),
        "model": "m",
        "version": 1,
        "label": "stable",
        "manifest_digest": "0" * 64,
        "transform_revision": 1,
        "image_digest": digest,
        "class_id": "glioma",
        "scores": {"glioma": 0.9},
        "verdict": "CONFIDENT",
        "ood_score": 0.0,
        "queue_seconds": 0.0,
        "transform_seconds": 0.0,
        "predict_seconds": 0.0,
        "total_seconds": 0.0,
        "caller": "",
    }
    records.predictions.add([row | changes], {digest: image} if keep else {})
    return digest


def say(identifier: str, class_id: str = "pituitary", **changes: Any) -> NewFeedback:
    values = {"comment": "", "actor": "me", "request_id": "", "request_digest": ""}
    return NewFeedback(**{"prediction_id": identifier, "class_id": class_id, **values} | changes)


def test_an_example_is_kept_with_its_image(records: Store) -> None:
    [result] = records.examples.add(
        [new(b"one", group="p-1", width=7, height=9, attributes={"Modality": "MR"})]
    )
    assert result == Kept(hashlib.sha256(b"one").hexdigest(), duplicate=False)
    [example] = records.examples.page(ANY, below=None, limit=10)
    message = example.message(b"thumb")
    assert records.images.read(message.example_id) == b"one"
    assert (message.class_id, message.name, message.group) == ("glioma", "", "p-1")
    assert (message.sent_sha256, message.attributes) == (message.example_id, {"Modality": "MR"})
    assert (message.width, message.height, message.size_bytes) == (7, 9, 3)
    assert (message.source, message.thumbnail) == (training_pb2.EXAMPLE_SOURCE_UPLOAD, b"thumb")
    assert message.create_time.ToDatetime(dt.UTC) == example.create_time


def test_a_second_one_is_a_duplicate_and_of_another_class_a_conflict(records: Store) -> None:
    results = records.examples.add(
        [new(b"one"), new(b"one"), new(b"one", "pituitary"), new(b"two", "pituitary")]
    )
    assert [kept(results[index]).duplicate for index in (0, 1, 3)] == [False, True, False]
    assert isinstance(results[2], GatewayError)
    assert results[2].reason_name() == "EXAMPLE_CONFLICT"
    assert results[2].metadata == {"class_id": "glioma"}
    later = records.examples.add([new(b"one"), new(b"two")])
    assert kept(later[0]).duplicate
    assert isinstance(later[1], GatewayError)
    assert records.examples.totals(ANY) == {"glioma": 1, "pituitary": 1}


def test_those_that_add_at_once_add_each_image_once(records: Store) -> None:
    batch = [new(f"image {number}".encode()) for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(records.examples.add, [batch, batch[::-1], batch, batch[::-1]]))
    fresh = [kept(result) for added in results for result in added if not kept(result).duplicate]
    assert len(fresh) == len({result.example_id for result in fresh}) == 40
    assert records.examples.totals(ANY) == {"glioma": 40}


def test_what_does_not_fit_is_refused_alone(records: Store, tmp_path: Path) -> None:
    results = records.examples.add([new(b"x" * 999_000), new(b"y" * 5000), new(b"z")])
    assert isinstance(results[1], GatewayError)
    assert results[1].reason_name() == "EXAMPLE_STORE_FULL"
    assert not kept(results[0]).duplicate
    assert not kept(results[2]).duplicate
    assert records.examples.totals(ANY) == {"glioma": 2}


def test_pages_and_totals_follow_the_filter(records: Store) -> None:
    for number in range(5):
        records.examples.add([new(bytes([number]), "glioma" if number % 2 else "pituitary")])
    chosen = training_pb2.ExampleFilter(class_ids=["pituitary"])
    first = records.examples.page(chosen, below=None, limit=2)
    rest = records.examples.page(chosen, below=first[-1].number, limit=2)
    order = [hashlib.sha256(bytes([number])).hexdigest() for number in (4, 2, 0)]
    assert [example.example_id for example in first + rest] == order
    assert records.examples.totals(chosen) == {"pituitary": 3}
    moment = first[0].create_time
    chosen.from_time.FromDatetime(moment)
    assert [example.number for example in records.examples.page(chosen, below=None, limit=9)] == [
        first[0].number
    ]
    chosen.to_time.FromDatetime(moment)
    assert records.examples.page(chosen, below=None, limit=9) == []


def test_feedback_turns_a_kept_image_into_an_example(records: Store) -> None:
    digest = predict(records, "p-1")
    result = records.feedback.submit(say("p-1", comment="clearly"))
    assert (result.example_id, result.confirmed) == (digest, False)
    [example] = records.examples.page(ANY, below=None, limit=2)
    assert (example.class_id, example.source, example.prediction_id) == ("pituitary", "FEEDBACK", "p-1")
    assert (example.width, example.height, example.size_bytes) == (20, 30, len(IMAGE))


@pytest.mark.parametrize(
    ("class_id", "verdict", "confirmed"),
    [
        ("glioma", "CONFIDENT", True),
        ("pituitary", "CONFIDENT", False),
        ("", "OUT_OF_DISTRIBUTION", True),
        ("", "CONFIDENT", False),
    ],
)
def test_feedback_says_whether_the_answer_was_right(
    records: Store, class_id: str, verdict: str, confirmed: bool
) -> None:
    predict(records, "p-1", keep=False, verdict=verdict)
    result = records.feedback.submit(say("p-1", class_id))
    assert (result.example_id, result.confirmed) == ("", confirmed)
    assert count(records, examples) == 0


def test_feedback_is_taken_once_per_request(records: Store) -> None:
    predict(records, "p-1")
    request = say("p-1", request_id="r", request_digest="d")
    with ThreadPoolExecutor(8) as threads:
        results: set[Feedback] = set(threads.map(records.feedback.submit, [request] * 16))
    assert len(results) == 1
    assert count(records, feedback) == 1
    with refused("REQUEST_ID_REUSED"):
        records.feedback.submit(say("p-1", request_id="r", request_digest="other"))


@pytest.mark.parametrize(
    ("prediction_id", "class_id"), [("p-2", "pituitary"), ("p-1", "glioma"), ("p-1", "pituitary")]
)
def test_feedback_that_is_overtaken_by_other_feedback_of_its_request_keeps_nothing(
    records: Store, monkeypatch: pytest.MonkeyPatch, prediction_id: str, class_id: str
) -> None:
    digest = predict(records, "p-1")
    predict(records, "p-2", deidentified(sample("PNG", width=30, height=20)))
    first = say("p-1", "pituitary", request_id="r", request_digest="d")
    same = (prediction_id, class_id) == ("p-1", "pituitary")
    second = say(prediction_id, class_id, request_id="r", request_digest="d" if same else "other")
    find = records.predictions.find
    results: list[Feedback] = []

    def find_late(wanted: str) -> StoredPrediction | None:
        monkeypatch.undo()
        results.append(records.feedback.submit(first))
        return find(wanted)

    monkeypatch.setattr(records.predictions, "find", find_late)
    if same:
        assert records.feedback.submit(second) == results[0]
    else:
        with refused("REQUEST_ID_REUSED"):
            records.feedback.submit(second)
    assert count(records, feedback) == 1
    [example] = records.examples.page(ANY, below=None, limit=9)
    assert (example.example_id, example.class_id) == (digest, "pituitary")


def test_feedback_that_contradicts_an_example_keeps_nothing(records: Store) -> None:
    predict(records, "p-1")
    records.examples.add([new(IMAGE, "notumor")])
    with refused("EXAMPLE_CONFLICT"):
        records.feedback.submit(say("p-1"))
    assert count(records, feedback) == 0
    with refused("PREDICTION_NOT_FOUND"):
        records.feedback.submit(say("p-2"))


def test_predictions_go_by_age_and_number_and_their_images_with_them(
    records: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurogate_gateway.store.predictions._FORGOTTEN_AT_ONCE", 2)
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    predict(records, "old", b"old", create_time=long_ago)
    labelled = predict(records, "labelled", IMAGE, create_time=long_ago)
    records.feedback.submit(say("labelled"))
    for number in range(4):
        predict(records, f"new {number}", f"image {number}".encode())
    assert records.sweep(journal_days=30, journal_most=3, image_days=1) == 2
    with records.database.read() as connection:
        left = connection.execute(
            sa.select(predictions.c.prediction_id).order_by(predictions.c.number)
        ).scalars()
        assert list(left) == ["new 1", "new 2", "new 3"]
    assert records.images.read(labelled) == IMAGE
    assert records.sweep(journal_days=30, journal_most=3, image_days=0) == 3
    found = records.predictions.find("new 3")
    assert found is not None
    assert not found.image_kept
    assert records.feedback.submit(say("new 3")).example_id == ""


def test_a_batch_of_predictions_may_come_twice(records: Store) -> None:
    predict(records, "p-1")
    predict(records, "p-1")
    assert count(records, predictions) == 1
