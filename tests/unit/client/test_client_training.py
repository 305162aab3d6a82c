from __future__ import annotations

import datetime as dt
from typing import Any

import grpc
import pytest
from neurogate.v1 import training_pb2
from neurogate_client import ExampleFilter, ExampleSource, LabelledImage, RetrainingState, enum_name, errors
from neurogate_testing.fake_gateway import FakeGateway, status
from neurogate_testing.fake_training import success


def upload(client: Any, *labelled: tuple[bytes, str]) -> None:
    images = [LabelledImage(image=image, class_id=class_id) for image, class_id in labelled]
    assert all(each.error is None for each in client.upload_examples(images))


def test_feedback_is_one_class_or_no_mri(client: Any, gateway: FakeGateway) -> None:
    right = client.submit_feedback("p1", class_id="glioma", comment="by biopsy")
    assert (right.feedback_id, right.example_id, right.confirmed) == ("f1", "e" * 64, True)
    assert client.submit_feedback("p1", not_mri=True).example_id == ""
    first, second = gateway.script.training.feedback.values()
    assert (first.class_id, first.comment, second.not_mri) == ("glioma", "by biopsy", True)
    for wrong in ({}, {"class_id": "glioma", "not_mri": True}):
        with pytest.raises(ValueError, match="give either the right class_id, or not_mri=True"):
            client.submit_feedback("p1", **wrong)
    with pytest.raises(errors.RecordNotFoundError):
        client.submit_feedback("gone", class_id="glioma")


def test_feedback_whose_answer_is_lost_counts_once(client: Any, gateway: FakeGateway) -> None:
    gateway.script.lose_answers = 1
    assert client.submit_feedback("p1", class_id="notumor").feedback_id == "f1"
    assert len(gateway.script.training.feedback) == 1


def test_an_example_is_corrected_and_erased(client: Any, gateway: FakeGateway) -> None:
    upload(client, (b"glioma 1", "glioma"))
    (example,) = client.list_examples().examples
    changed = client.update_example(example.example_id, class_id="notumor", expected_class_id="glioma")
    example.class_id = "notumor"
    assert changed == example
    erased = client.delete_example(example.example_id, reason="withdrawn")
    assert (erased.versions, erased.running_retraining_ids) == ([2, 3], ["r7"])
    with pytest.raises(errors.RecordNotFoundError):
        client.delete_example(example.example_id)
    assert client.delete_prediction("p1").example_ids == ["e" * 64]


def test_examples_come_in_pages_and_are_filtered(client: Any) -> None:
    upload(client, (b"glioma 1", "glioma"), (b"glioma 2", "glioma"), (b"notumor 1", "notumor"))
    first = client.list_examples(page_size=2)
    assert [each.class_id for each in first.examples] == ["notumor", "glioma"]
    assert first.total_by_class == {"glioma": 2, "notumor": 1}
    rest = client.list_examples(page_size=2, page_token=first.next_page_token)
    assert (len(rest.examples), rest.next_page_token) == (1, "")
    assert enum_name(rest.examples[0], "source") == "UPLOAD"
    begin = dt.datetime.fromtimestamp(1_700_000_002, dt.UTC)
    source = ExampleSource.EXAMPLE_SOURCE_UPLOAD
    wanted = ExampleFilter(class_ids=["glioma"], source=source, from_time=begin)
    assert len(client.list_examples(wanted).examples) == 1


def test_a_retraining_is_asked_for_with_its_settings(client: Any, gateway: FakeGateway) -> None:
    upload(client, (b"glioma 1", "glioma"))
    run = client.start_retraining(
        warm_start_version=1,
        examples=ExampleFilter(class_ids=["glioma"]),
        hyperparameters={"head_epochs": 3},
        launcher="local",
        promote=True,
        gate_policy="[gate]\nmin_accuracy = 0.9\n",
    )
    assert (run.retraining_id, enum_name(run, "state")) == ("r1", "QUEUED")
    assert run.examples_by_class == {"glioma": 1}
    spec = gateway.script.training.runs["r1"].spec
    assert spec == training_pb2.RetrainingSpec(
        warm_start_version=1,
        examples=ExampleFilter(class_ids=["glioma"]),
        hyperparameters={"head_epochs": "3"},
        launcher="local",
        promote=True,
        gate_policy="[gate]\nmin_accuracy = 0.9\n",
    )
    assert client.start_retraining(from_scratch=True).spec.WhichOneof("base") == "from_scratch"
    assert gateway.script.training.runs["r2"].spec.from_scratch
    with pytest.raises(ValueError, match="give either warm_start_version or from_scratch"):
        client.start_retraining(warm_start_version=1, from_scratch=True)
    with pytest.raises(errors.InvalidOptionError, match="no hyper-parameter 'speed'"):
        client.start_retraining(hyperparameters={"speed": 11})
    with pytest.raises(errors.InvalidOptionError, match="unknown key gates") as refused:
        client.start_retraining(gate_policy="[gates]")
    assert refused.value.reason == "GATE_POLICY_INVALID"


def test_a_start_whose_answer_is_lost_starts_one_run(client: Any, gateway: FakeGateway) -> None:
    gateway.script.lose_answers = 1
    assert client.start_retraining().retraining_id == "r1"
    assert client.start_retraining(request_id="night") == client.start_retraining(request_id="night")
    assert list(gateway.script.training.runs) == ["r1", "r2"]


def test_runs_are_listed_newest_first(client: Any, gateway: FakeGateway) -> None:
    gateway.script.page_size = 2
    for _ in range(5):
        client.start_retraining()
    client.cancel_retraining("r2", reason="wrong data")
    assert [each.retraining_id for each in client.list_retrainings()] == ["r5", "r4", "r3", "r2", "r1"]
    assert [each.retraining_id for each in client.list_retrainings(limit=1)] == ["r5"]
    cancelled = client.list_retrainings(state=RetrainingState.RETRAINING_STATE_CANCELLED)
    assert [each.retraining_id for each in cancelled] == ["r2"]


def test_cancelling_is_not_tried_again(client: Any, gateway: FakeGateway) -> None:
    client.start_retraining()
    gateway.script.failures = [status(grpc.StatusCode.UNAVAILABLE, "RECORDS_UNAVAILABLE", "not now")]
    with pytest.raises(errors.UnavailableError):
        client.cancel_retraining("r1")
    assert enum_name(client.cancel_retraining("r1"), "state") == "CANCELLED"
    with pytest.raises(errors.TrainingError, match="ended already"):
        client.cancel_retraining("r1")
    with pytest.raises(errors.RecordNotFoundError):
        client.get_retraining("r9")


def test_the_events_of_a_run_until_its_end(client: Any, gateway: FakeGateway) -> None:
    gateway.script.training.script = success
    client.start_retraining()
    events = list(client.watch_retraining("r1"))
    assert [each.sequence for each in events] == list(range(1, 9))
    states = [enum_name(each.state_change, "state") for each in events if each.HasField("state_change")]
    assert states == ["QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED"]
    phase, progress, line = (
        next(getattr(each, kind) for each in events if each.HasField(kind))
        for kind in ("phase", "progress", "log")
    )
    assert (phase.name, phase.total, phase.unit) == ("fine-tune", 20, "batches")
    assert (progress.step, progress.epoch, progress.metrics) == (20, 2, {"loss": 0.25})
    assert line.text == "best epoch 2"
    final = events[-1].state_change.retraining
    assert (final.version, final.gate.accepted) == (2, True)
    assert [each.sequence for each in client.watch_retraining("r1", after_sequence=6)] == [7, 8]


def test_a_broken_watch_misses_no_event_and_repeats_none(client: Any, gateway: FakeGateway) -> None:
    training = gateway.script.training
    training.script = success
    client.start_retraining()
    training.cut_after = [2, 0, 3]
    assert [each.sequence for each in client.watch_retraining("r1")] == list(range(1, 9))
    after = [
        each.after_sequence
        for each in gateway.script.requests
        if isinstance(each, training_pb2.WatchRetrainingRequest)
    ]
    assert after == [0, 2, 2, 5]
