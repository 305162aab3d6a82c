"""Examples on both databases: kept, listed, corrected and erased, with their files, lineage and audit."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.errors import GatewayError, RecordsUnavailableError
from neurogate_gateway.store import database as database_module
from neurogate_gateway.store.blobs import ImageGoneError, ImageStore
from neurogate_gateway.store.examples import Kept
from neurogate_gateway.store.run import RunState
from neurogate_gateway.store.schema import audit
from neurogate_gateway.store.store import Store
from neurogate_testing.stores import add_examples, new_example, queue_run, refusal

ANY = pb.ExampleFilter()
WHY: dict[str, Any] = {"reason": "withdrawn", "actor": "operator"}


def reason(result: GatewayError | Kept) -> str:
    """Why an example is not kept; empty for one that is."""
    return result.reason_name() if isinstance(result, GatewayError) else ""


def run_to(store: Store, run_id: str, last: RunState, version: int | None = None) -> None:
    path = [RunState.QUEUED, RunState.RUNNING, RunState.EVALUATING, RunState.PUBLISHING, RunState.SUCCEEDED]
    for before, after in itertools.pairwise(path[: path.index(last) + 1]):
        made = version if after == RunState.EVALUATING else None
        store.runs.transition(run_id, before, after, version=made)


def noted(store: Store) -> list[tuple[str, str, dict[str, Any]]]:
    query = sa.select(audit.c.action, audit.c.subject, audit.c.details).order_by(audit.c.number)
    with store.database.read() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    return [row for row in rows if row[0] != "START_RETRAINING"]


def sweep(store: Store) -> int:
    return store.sweep(journal_days=30, max_predictions=100, image_days=30)


def test_an_example_is_kept_with_its_image(store: Store) -> None:
    new = new_example(b"one", group="p-1", width=7, height=9, attributes={"Modality": "MR"})
    assert store.examples.add([new]) == [Kept(new.example_id, duplicate=False)]
    [example] = store.examples.page(ANY, below=None, limit=10)
    message = example.message(b"thumb")
    assert store.images.read(message.example_id) == b"one"
    assert (message.class_id, message.name, message.group) == ("glioma", "", "p-1")
    assert (message.sent_sha256, message.attributes) == (message.example_id, {"Modality": "MR"})
    assert (message.width, message.height, message.size_bytes) == (7, 9, 3)
    assert (message.source, message.thumbnail) == (pb.EXAMPLE_SOURCE_UPLOAD, b"thumb")
    assert message.create_time.ToDatetime(dt.UTC) == example.create_time


def test_a_second_one_is_a_duplicate_and_of_another_class_a_conflict(store: Store) -> None:
    one, two = new_example(b"one"), new_example(b"two", "pituitary")
    results = store.examples.add([one, one, new_example(b"one", "pituitary"), two])
    assert [reason(result) for result in results] == ["", "", "EXAMPLE_CONFLICT", ""]
    assert [result.duplicate for result in results if isinstance(result, Kept)] == [False, True, False]
    assert isinstance(results[2], GatewayError)
    assert results[2].metadata == {"class_id": "glioma"}
    later = store.examples.add([one, new_example(b"two")])
    assert (later[0], reason(later[1])) == (Kept(one.example_id, duplicate=True), "EXAMPLE_CONFLICT")
    assert store.examples.totals(ANY) == {"glioma": 1, "pituitary": 1}


def test_what_does_not_fit_is_refused_alone(store: Store) -> None:
    results = store.examples.add([new_example(data) for data in (b"x" * 999_000, b"y" * 5000, b"z")])
    assert [reason(result) for result in results] == ["", "EXAMPLE_STORE_FULL", ""]
    assert store.examples.totals(ANY) == {"glioma": 2}


def test_pages_and_totals_follow_the_filter(store: Store) -> None:
    order = [add_examples(store, bytes([n]), class_id="glioma" if n % 2 else "pituitary") for n in range(5)]
    chosen = pb.ExampleFilter(class_ids=["pituitary"])
    first = store.examples.page(chosen, below=None, limit=2)
    rest = store.examples.page(chosen, below=first[-1].number, limit=2)
    assert [[example.example_id] for example in first + rest] == order[::-2]
    assert store.examples.totals(chosen) == {"pituitary": 3}
    chosen.from_time.FromDatetime(first[0].create_time)
    assert store.examples.page(chosen, below=None, limit=9) == first[:1]
    chosen.to_time.FromDatetime(first[0].create_time)
    assert store.examples.page(chosen, below=None, limit=9) == []


def test_a_class_is_corrected_for_retrainings_that_have_not_begun(store: Store) -> None:
    one, two = add_examples(store, b"one", b"two")
    running, waiting = queue_run(store).run_id, queue_run(store).run_id
    run_to(store, running, RunState.RUNNING)
    relabel = store.examples.relabel
    done = relabel(one, "notumor", expected="glioma", **WHY)
    assert (done.example_id, done.class_id) == (one, "notumor")
    assert store.runs.get(waiting).examples_by_class == {"glioma": 1, "notumor": 1}
    assert store.runs.get(running).examples_by_class == {"glioma": 2}
    given = {each.example_id: each.class_id for each in store.runs.examples(waiting)}
    assert given == {one: "notumor", two: "glioma"}
    assert relabel(one, "notumor", expected="glioma", **WHY) == done
    assert refusal(relabel, one, "pituitary", expected="glioma", **WHY) == "EXAMPLE_CONFLICT"
    assert refusal(relabel, "0" * 64, "notumor", expected="", **WHY) == "EXAMPLE_NOT_FOUND"
    details = {"from": "glioma", "to": "notumor", "reason": "withdrawn"}
    assert noted(store) == [("UPDATE_EXAMPLE", one, details)]


def test_an_example_is_erased_and_those_that_learned_from_it_are_named(store: Store) -> None:
    one, two = add_examples(store, b"one", b"two")
    direct = queue_run(store).run_id
    run_to(store, direct, RunState.SUCCEEDED, version=2)
    none = pb.ExampleFilter(class_ids=["notumor"])
    other = queue_run(store, examples=none).run_id
    run_to(store, other, RunState.SUCCEEDED, version=3)
    heir = queue_run(store, warm_start_version=2, examples=none).run_id
    run_to(store, heir, RunState.SUCCEEDED, version=4)
    running, waiting = queue_run(store, warm_start_version=3).run_id, queue_run(store).run_id
    run_to(store, running, RunState.RUNNING)
    before = store.images.used_bytes
    assert store.examples.erase(one, **WHY) == ([2, 4], [running])
    details = {"versions": [2, 4], "running": [running], "reason": "withdrawn"}
    assert noted(store) == [("DELETE_EXAMPLE", one, details)]
    run = store.runs.get(waiting)
    assert run.examples_by_class == {"glioma": 1}
    assert run.examples_digest == hashlib.sha256(two.encode()).hexdigest()
    assert [each.example_id for each in store.runs.examples(waiting)] == [two]
    assert refusal(store.examples.erase, one, **WHY) == "EXAMPLE_NOT_FOUND"
    # The trainer that runs reads it in every epoch.
    assert (sweep(store), store.images.read(one)) == (0, b"one")
    store.runs.transition(running, RunState.RUNNING, RunState.CANCELLED)
    assert sweep(store) == 1
    with pytest.raises(ImageGoneError):
        store.images.read(one)
    assert store.images.used_bytes == before - 3
    # Whoever sends it again sends a new one; what learned from the old one is known still.
    assert add_examples(store, b"one") == [one]
    assert store.examples.erase(one, **WHY).versions == [2, 4]
    with pytest.raises(ImageGoneError):
        store.images.read(one)


def test_an_upload_of_the_same_image_meanwhile_keeps_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [digest] = add_examples(store, b"one")
    remove = ImageStore.remove

    def remove_late(*args: Any) -> None:
        thread = threading.Thread(target=add_examples, args=(store, b"one"))
        thread.start()
        thread.join()
        remove(*args)

    monkeypatch.setattr(ImageStore, "remove", remove_late)
    store.examples.erase(digest, **WHY)
    assert store.images.read(digest) == b"one"
    assert store.examples.totals(ANY) == {"glioma": 1}


def test_a_file_that_cannot_go_now_goes_with_the_next_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [digest] = add_examples(store, b"one")

    def fail(*_: Any) -> None:
        raise RecordsUnavailableError("away")

    monkeypatch.setattr(ImageStore, "remove", fail)
    store.examples.erase(digest, **WHY)
    assert store.images.path(digest).exists()
    assert sweep(store) == 1


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
    store = Store(tmp_path / "data", records_url, max_store_bytes=1_000_000)
    (example,) = store.examples.page(ANY, below=None, limit=9)
    assert (example.sent_sha256, example.attributes) == (digest, {})
    assert example.create_time == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert store.images.read(digest) == b"old"
    run_to(store, queue_run(store).run_id, RunState.SUCCEEDED, version=2)
    assert store.examples.erase(digest, **WHY).versions == [2]
    store.close()
