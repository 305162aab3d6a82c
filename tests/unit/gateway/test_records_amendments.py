"""What was kept is corrected and erased, on both databases: rows, files, lineage, and a line in the audit."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from neurogate.v1 import training_pb2 as pb
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_gateway.errors import RecordsUnavailableError
from neurogate_gateway.store import database as database_module
from neurogate_gateway.store.blobs import ImageGoneError, ImageStore
from neurogate_gateway.store.examples import NewExample
from neurogate_gateway.store.feedback import NewFeedback
from neurogate_gateway.store.run_starts import NewRun
from neurogate_gateway.store.run_states import RunState
from neurogate_gateway.store.schema import audit, feedback
from neurogate_gateway.store.store import Store
from neurogate_testing.images import sample
from neurogate_testing.refusals import refused

WHY: dict[str, Any] = {"reason": "withdrawn", "actor": "operator"}
IMAGE = deidentified(sample("PNG"))
PREDICTION: dict[str, Any] = {
    "create_time": dt.datetime.now(dt.UTC),
    "model": "m",
    "version": 1,
    "label": "stable",
    "manifest_digest": "0" * 64,
    "transform_revision": 2,
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


@pytest.fixture
def records(records_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data", records_url, max_store_bytes=1_000_000)
    yield opened
    opened.close()


def add(records: Store, data: bytes, class_id: str = "glioma") -> str:
    digest = hashlib.sha256(data).hexdigest()
    new = NewExample(
        example_id=digest, data=data, sent_sha256=digest, class_id=class_id, width=1, height=1, actor="me"
    )
    records.examples.add([new])
    return digest


def predict(records: Store, identifier: str, image: bytes) -> str:
    digest = hashlib.sha256(image).hexdigest()
    row = PREDICTION | {"prediction_id": identifier, "image_digest": digest}
    records.predictions.add([row], {digest: image})
    return digest


def say(identifier: str, **changes: Any) -> NewFeedback:
    values = {"class_id": "pituitary", "comment": "", "actor": "me", "request_id": "", "request_digest": ""}
    return NewFeedback(prediction_id=identifier, **values | changes)


def queue(records: Store, **spec: Any) -> str:
    new = NewRun(spec=pb.RetrainingSpec(**spec), launcher="local", actor="me")
    run, _ = records.runs.create(new, most_queued=9, check_counts=lambda _: None)
    return run.run_id


def run_to(records: Store, run_id: str, last: RunState, version: int | None = None) -> None:
    path = [RunState.QUEUED, RunState.RUNNING, RunState.EVALUATING, RunState.PUBLISHING, RunState.SUCCEEDED]
    for before, after in itertools.pairwise(path[: path.index(last) + 1]):
        records.runs.transition(
            run_id, {before}, after, version=version if after == RunState.EVALUATING else None
        )


def noted(records: Store) -> list[tuple[str, str, dict[str, Any]]]:
    columns = (audit.c.action, audit.c.subject, audit.c.details, audit.c.actor)
    with records.database.read() as connection:
        rows = connection.execute(sa.select(*columns).order_by(audit.c.number)).all()
    return [(row.action, row.subject, row.details) for row in rows if row.action != "START_RETRAINING"]


def sweep(records: Store) -> int:
    return records.sweep(journal_days=30, journal_most=100, image_days=30)


def test_a_class_is_corrected_for_whoever_has_not_begun(records: Store) -> None:
    one, two = add(records, b"one"), add(records, b"two")
    running, waiting = queue(records), queue(records)
    run_to(records, running, RunState.RUNNING)
    done = records.amendments.relabel_example(one, "notumor", expected="glioma", **WHY)
    assert (done.example_id, done.class_id) == (one, "notumor")
    assert records.runs.get(waiting).examples_by_class == {"glioma": 1, "notumor": 1}
    assert records.runs.get(running).examples_by_class == {"glioma": 2}
    assert {each.example_id: each.class_id for each in records.runs.examples(waiting)} == {
        one: "notumor",
        two: "glioma",
    }
    assert records.amendments.relabel_example(one, "notumor", expected="glioma", **WHY) == done
    with refused("EXAMPLE_CONFLICT"):
        records.amendments.relabel_example(one, "pituitary", expected="glioma", **WHY)
    with refused("EXAMPLE_NOT_FOUND"):
        records.amendments.relabel_example("0" * 64, "notumor", expected="", **WHY)
    details = {"from": "glioma", "to": "notumor", "reason": "withdrawn"}
    assert noted(records) == [("UPDATE_EXAMPLE", one, details)]


def test_an_example_is_erased_and_those_that_learned_from_it_are_named(records: Store) -> None:
    one, two = add(records, b"one"), add(records, b"two")
    direct = queue(records, from_scratch=True)
    run_to(records, direct, RunState.SUCCEEDED, version=2)
    other = queue(records, from_scratch=True, examples=pb.ExampleFilter(class_ids=["notumor"]))
    run_to(records, other, RunState.SUCCEEDED, version=3)
    heir = queue(records, warm_start_version=2, examples=pb.ExampleFilter(class_ids=["notumor"]))
    run_to(records, heir, RunState.SUCCEEDED, version=4)
    running, waiting = queue(records, warm_start_version=3), queue(records)
    run_to(records, running, RunState.RUNNING)
    before = records.images.used_bytes
    learned = records.amendments.erase_example(one, **WHY)
    assert learned == ([2, 4], [running])
    assert noted(records) == [
        ("DELETE_EXAMPLE", one, {"versions": [2, 4], "running": [running], "reason": "withdrawn"})
    ]
    run = records.runs.get(waiting)
    assert run.examples_by_class == {"glioma": 1}
    assert run.examples_digest == hashlib.sha256(two.encode()).hexdigest()
    assert [each.example_id for each in records.runs.examples(waiting)] == [two]
    with refused("EXAMPLE_NOT_FOUND"):
        records.amendments.erase_example(one, **WHY)
    # The trainer that runs reads it in every epoch.
    assert (sweep(records), records.images.read(one)) == (0, b"one")
    records.runs.transition(running, {RunState.RUNNING}, RunState.CANCELLED)
    assert sweep(records) == 1
    with pytest.raises(ImageGoneError):
        records.images.read(one)
    assert records.images.used_bytes == before - 3
    # Whoever sends it again sends a new one; what learned from the old one is known still.
    assert add(records, b"one") == one
    assert records.amendments.erase_example(one, **WHY).versions == [2, 4]
    with pytest.raises(ImageGoneError):
        records.images.read(one)


def test_a_prediction_is_erased_with_its_image_and_feedback(records: Store) -> None:
    digest = predict(records, "a", b"no image")
    records.feedback.submit(say("a", request_id="r", comment="about her"))
    assert records.amendments.erase_prediction("a", **WHY) == []
    with pytest.raises(ImageGoneError):
        records.images.read(digest)
    with records.database.read() as connection:
        assert connection.execute(sa.select(feedback)).all() == []
    with refused("PREDICTION_NOT_FOUND"):
        records.feedback.submit(say("a", request_id="r", comment="about her"))
    with refused("PREDICTION_NOT_FOUND"):
        records.amendments.erase_prediction("a", **WHY)
    assert noted(records) == [("DELETE_PREDICTION", "a", {"reason": "withdrawn"})]


def test_an_image_stays_as_long_as_anything_needs_it(records: Store) -> None:
    digest = predict(records, "a", IMAGE)
    predict(records, "b", IMAGE)
    assert records.feedback.submit(say("a")).example_id == digest
    assert records.amendments.erase_prediction("a", **WHY) == [digest]
    (example,) = records.examples.page(pb.ExampleFilter(), below=None, limit=9)
    assert example.prediction_id == ""
    records.amendments.erase_example(digest, **WHY)
    assert records.images.read(digest) == IMAGE
    records.amendments.erase_prediction("b", **WHY)
    with pytest.raises(ImageGoneError):
        records.images.read(digest)


def test_feedback_on_what_is_erased_meanwhile_keeps_nothing(
    records: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(records, "a", IMAGE)
    read = records.images.read

    def read_then_erase(digest: str) -> bytes:
        data = read(digest)
        records.amendments.erase_prediction("a", **WHY)
        return data

    monkeypatch.setattr(records.images, "read", read_then_erase)
    # It would wait for those who add images, of whom this is one.
    monkeypatch.setattr(ImageStore, "remove", lambda *_: None)
    with refused("PREDICTION_NOT_FOUND"):
        records.feedback.submit(say("a"))
    assert records.examples.totals(pb.ExampleFilter()) == {}
    assert sweep(records) == 1


def test_an_upload_of_the_same_image_meanwhile_keeps_it(
    records: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(records, b"one")
    remove, added = ImageStore.remove, threading.Event()

    def remove_late(store: ImageStore, image: str, wanted: Any) -> None:
        thread = threading.Thread(target=lambda: (add(records, b"one"), added.set()))
        thread.start()
        thread.join()
        remove(store, image, wanted)

    monkeypatch.setattr(ImageStore, "remove", remove_late)
    records.amendments.erase_example(digest, **WHY)
    assert added.is_set()
    assert records.images.read(digest) == b"one"
    assert records.examples.totals(pb.ExampleFilter()) == {"glioma": 1}


def test_a_file_that_cannot_go_now_goes_with_the_next_sweep(
    records: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(records, b"one")

    def fail(*_: Any) -> None:
        raise RecordsUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(ImageStore, "remove", fail)
        records.amendments.erase_example(digest, **WHY)
    assert records.images.path(digest).exists()
    assert sweep(records) == 1


def test_records_of_the_first_release_lose_names_and_keep_the_rest(records_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(records_url)
    config = Config()
    folder = Path(database_module.__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        moment = "'2026-01-01 00:00:00+00'" if "postgresql" in records_url else "'2026-01-01 00:00:00'"
        digest = hashlib.sha256(b"old").hexdigest()
        connection.exec_driver_sql(
            "INSERT INTO examples (example_id, class_id, name, source, create_time, width, height,"
            ' size_bytes, prediction_id, "group", actor)'
            f" VALUES ('{digest}', 'glioma', 'Quillfeather.png', 'UPLOAD', {moment}, 1, 1, 3, '', '', 'me')"
        )
    engine.dispose()
    path = tmp_path / "data" / "images" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    records = Store(tmp_path / "data", records_url, max_store_bytes=1_000_000)
    (example,) = records.examples.page(pb.ExampleFilter(), below=None, limit=9)
    assert (example.sent_sha256, example.attributes) == (digest, {})
    assert example.create_time == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert records.images.read(digest) == b"old"
    run_id = queue(records)
    run_to(records, run_id, RunState.SUCCEEDED, version=2)
    assert records.amendments.erase_example(digest, **WHY).versions == [2]
    records.close()
