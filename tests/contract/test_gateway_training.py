"""Feedback, lists and retrainings over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
from neurogate.v1 import classification_pb2, model_pb2, training_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.errors import RecordsUnavailableError
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.retraining.launcher import LaunchError
from neurogate_gateway.retraining.launcher_ray import RayLauncher
from neurogate_gateway.store.run_states import RunState
from neurogate_gateway.store.store import Store
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.gateway_harness import Harness, failure, failure_of, serving_gateway
from neurogate_testing.images import sample
from neurogate_testing.manifests import fill_version
from neurogate_testing.retrainings import log_event
from PIL import Image

QUEUED, RUNNING = RunState.QUEUED, RunState.RUNNING


def records_of(gateway: Harness) -> Store:
    assert gateway.gateway.training is not None
    return gateway.gateway.training.records


@contextlib.asynccontextmanager
async def training_gateway(tmp_path: Path, **changes: Any) -> AsyncIterator[Harness]:
    """A gateway with records, a repository with version 1, and the launchers "local" and "ray"."""
    fill_version(tmp_path / "models" / "brain_tumor" / "1")
    settings = {"data_dir": str(tmp_path / "data"), "min_examples_per_class": 2} | changes
    async with serving_gateway(**settings) as (gateway, _):
        assert gateway.gateway.training is not None
        retrainings = gateway.gateway.training.retrainings
        retrainings._launchers = ("local", "ray")
        retrainings._base_versions = lambda: [1]
        yield gateway


async def add(gateway: Harness, count: int, class_id: str, *, seed: int = 0, **changes: Any) -> None:
    async def send() -> AsyncIterator[pb.UploadExamplesRequest]:
        for number in range(count):
            yield pb.UploadExamplesRequest(class_id=class_id, data=sample_image(seed + number), **changes)

    async for response in gateway.training.UploadExamples(send()):
        assert response.HasField("example"), response.error


async def classify(gateway: Harness, image: bytes) -> classification_pb2.Classification:
    request = classification_pb2.ClassifyRequest(image=image)
    response = await gateway.classification.Classify(request)
    classification: classification_pb2.Classification = response.classification
    return classification


def start(gateway: Harness, request_id: str = "", **spec: Any) -> Any:
    request = pb.StartRetrainingRequest(spec=pb.RetrainingSpec(**spec), request_id=request_id)
    return gateway.training.StartRetraining(request)


async def started(gateway: Harness, **spec: Any) -> training_pb2.Retraining:
    retraining: training_pb2.Retraining = (await start(gateway, **spec)).retraining
    return retraining


async def test_what_is_kept_is_corrected_and_erased(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, prediction_image_days=1) as gateway:
        # Written by the journal when somebody asks for it, at the latest.
        told = await classify(gateway, sample_image(1))
        feedback = pb.SubmitFeedbackRequest(prediction_id=told.prediction_id, class_id="glioma")
        identifier = (await gateway.training.SubmitFeedback(feedback)).example_id
        update = pb.UpdateExampleRequest(example_id=identifier, class_id="notumor", reason="histology")
        changed = (await gateway.training.UpdateExample(update)).example
        assert (changed.example_id, changed.class_id) == (identifier, "notumor")
        for wrong, reason in (
            (pb.UpdateExampleRequest(example_id=identifier, class_id="brain"), "CLASS_NOT_FOUND"),
            (pb.UpdateExampleRequest(example_id="x\0", class_id="glioma"), "EXAMPLE_NOT_FOUND"),
            (pb.UpdateExampleRequest(example_id="0" * 64, class_id="glioma"), "EXAMPLE_NOT_FOUND"),
            (
                pb.UpdateExampleRequest(
                    example_id=identifier, class_id="glioma", expected_class_id="pituitary"
                ),
                "EXAMPLE_CONFLICT",
            ),
            (
                pb.UpdateExampleRequest(example_id=identifier, class_id="glioma", reason="a\nb"),
                "CHANGE_REASON_INVALID",
            ),
        ):
            assert (await failure(gateway.training.UpdateExample(wrong))).reason == reason
        erase = pb.DeletePredictionRequest(prediction_id=told.prediction_id, reason="withdrawn")
        assert list((await gateway.training.DeletePrediction(erase)).example_ids) == [identifier]
        assert (await failure(gateway.training.DeletePrediction(erase))).reason == "PREDICTION_NOT_FOUND"
        assert (await failure(gateway.training.SubmitFeedback(feedback))).reason == "PREDICTION_NOT_FOUND"
        forget = pb.DeleteExampleRequest(example_id=identifier)
        answer = await gateway.training.DeleteExample(forget)
        assert (list(answer.versions), list(answer.running_retraining_ids)) == ([], [])
        assert (await failure(gateway.training.DeleteExample(forget))).reason == "EXAMPLE_NOT_FOUND"
        assert not records_of(gateway).images.path(identifier).exists()


async def test_without_a_data_folder_every_method_says_so() -> None:
    async with serving_gateway() as (gateway, _):
        calls = [
            gateway.training.SubmitFeedback(pb.SubmitFeedbackRequest()),
            gateway.training.ListExamples(pb.ListExamplesRequest()),
            gateway.training.StartRetraining(pb.StartRetrainingRequest()),
            gateway.training.GetRetraining(pb.GetRetrainingRequest()),
            gateway.training.ListRetrainings(pb.ListRetrainingsRequest()),
            gateway.training.CancelRetraining(pb.CancelRetrainingRequest()),
            gateway.training.UpdateExample(pb.UpdateExampleRequest()),
            gateway.training.DeleteExample(pb.DeleteExampleRequest()),
            gateway.training.DeletePrediction(pb.DeletePredictionRequest()),
            gateway.training.WatchRetraining(pb.WatchRetrainingRequest()).read(),
            gateway.training.UploadExamples(iter(())).read(),
        ]
        assert {(await failure(call)).reason for call in calls} == {"RECORDS_DISABLED"}
        assert len(calls) == len(pb.DESCRIPTOR.services_by_name["TrainingService"].methods)


async def test_a_gateway_that_ends_closes_its_launchers(tmp_path: Path) -> None:
    ray = RayLauncher("http://ray.invalid", cpus=1, gpus=0)
    async with training_gateway(tmp_path) as gateway:
        assert gateway.gateway.training is not None
        gateway.gateway.training._launchers.append(ray)
    with pytest.raises(LaunchError, match="after shutdown"):
        await ray.status("a")


async def test_feedback_right_after_the_answer_becomes_an_example(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, prediction_image_days=1) as gateway:
        image = sample_image(5)
        answer = await classify(gateway, image)
        wrong = next(score.class_id for score in answer.scores[1:])
        request = pb.SubmitFeedbackRequest(
            prediction_id=answer.prediction_id, class_id=wrong, comment="seen by two", request_id="f-1"
        )
        response = await gateway.training.SubmitFeedback(request)
        assert not response.confirmed
        assert await gateway.training.SubmitFeedback(request) == response
        page = await gateway.training.ListExamples(pb.ListExamplesRequest())
        [example] = page.examples
        assert (example.example_id, example.class_id) == (response.example_id, wrong)
        assert (example.source, example.prediction_id) == (pb.EXAMPLE_SOURCE_FEEDBACK, answer.prediction_id)
        request.comment = "something else"
        assert (await failure(gateway.training.SubmitFeedback(request))).reason == "REQUEST_ID_REUSED"
        request = pb.SubmitFeedbackRequest(
            prediction_id=answer.prediction_id, class_id=answer.scores[0].class_id
        )
        assert (await failure(gateway.training.SubmitFeedback(request))).reason == "EXAMPLE_CONFLICT"


async def test_feedback_without_an_image_is_feedback_all_the_same(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        answer = await classify(gateway, sample_image(5))
        request = pb.SubmitFeedbackRequest(
            prediction_id=answer.prediction_id, class_id=answer.scores[0].class_id
        )
        response = await gateway.training.SubmitFeedback(request)
        assert (response.confirmed, response.example_id) == (True, "")
        request = pb.SubmitFeedbackRequest(prediction_id=answer.prediction_id, not_mri=True)
        assert not (await gateway.training.SubmitFeedback(request)).example_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "FEEDBACK_INVALID"),
        ({"not_mri": False}, "FEEDBACK_INVALID"),
        ({"class_id": "glioma", "comment": "x" * 513}, "FEEDBACK_INVALID"),
        ({"class_id": "glioma", "comment": "a\0b"}, "FEEDBACK_INVALID"),
        ({"class_id": "brain"}, "CLASS_NOT_FOUND"),
        ({"class_id": ""}, "CLASS_NOT_FOUND"),
        ({"class_id": "glioma"}, "PREDICTION_NOT_FOUND"),
        ({"class_id": "glioma", "prediction_id": "'; --"}, "PREDICTION_NOT_FOUND"),
        ({"class_id": "glioma", "request_id": "ä"}, "REQUEST_ID_INVALID"),
    ],
)
async def test_feedback_that_cannot_be_taken(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    async with training_gateway(tmp_path) as gateway:
        request = pb.SubmitFeedbackRequest(**{"prediction_id": "0" * 32} | changes)
        assert (await failure(gateway.training.SubmitFeedback(request))).reason == reason


async def test_feedback_on_a_prediction_that_nobody_knows_has_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path) as gateway:
        flushes: list[None] = []
        monkeypatch.setattr(Journal, "flush", lambda self: flushes.append(None))
        await classify(gateway, sample_image(5))
        request = pb.SubmitFeedbackRequest(prediction_id="0" * 32, not_mri=True)
        assert (await failure(gateway.training.SubmitFeedback(request))).reason == "PREDICTION_NOT_FOUND"
        assert not flushes


async def test_examples_come_in_pages_with_totals_and_thumbnails(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 4, "glioma")
        await add(gateway, 3, "pituitary", seed=50)
        request = pb.ListExamplesRequest(page_size=3, thumbnails=True)
        request.filter.class_ids.append("glioma")
        first = await gateway.training.ListExamples(request)
        request.page_token = first.next_page_token
        last = await gateway.training.ListExamples(request)
        assert (len(first.examples), len(last.examples), last.next_page_token) == (3, 1, "")
        assert len({example.example_id for example in (*first.examples, *last.examples)}) == 4
        assert first.total_by_class == {"glioma": 4}
        with Image.open(io.BytesIO(first.examples[0].thumbnail)) as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", (64, 48))
        assert not (await gateway.training.ListExamples(pb.ListExamplesRequest())).examples[0].thumbnail
        request.filter.class_ids[0] = "pituitary"
        assert (await failure(gateway.training.ListExamples(request))).reason == "PAGE_INVALID"


async def test_thumbnails_queue_one_by_one_before_the_threads_of_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 6, "glioma")
        transforms = gateway.gateway._transforms
        thumbnail, running, most = transforms.thumbnail, 0, 0

        async def counted(image: bytes, side: int) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await thumbnail(image, side)
            finally:
                running -= 1

        monkeypatch.setattr(transforms, "thumbnail", counted)
        response = await gateway.training.ListExamples(pb.ListExamplesRequest(thumbnails=True))
        assert all(example.thumbnail for example in response.examples)
        assert (len(response.examples), most) == (6, 1)


async def test_a_thumbnail_is_small_and_one_that_is_lost_is_empty(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        image = sample("PNG", width=400, height=100)
        call = gateway.training.UploadExamples(
            iter([pb.UploadExamplesRequest(class_id="glioma", data=image)])
        )
        response = await call.read()
        request = pb.ListExamplesRequest(thumbnails=True)
        [example] = (await gateway.training.ListExamples(request)).examples
        assert (example.width, example.height) == (400, 100)
        with Image.open(io.BytesIO(example.thumbnail)) as thumbnail:
            assert thumbnail.size == (96, 24)
        records_of(gateway).images.path(response.example.example_id).unlink()
        [example] = (await gateway.training.ListExamples(request)).examples
        assert example.thumbnail == b""


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.ListExamplesRequest(page_size=-1), "PAGE_INVALID"),
        (pb.ListExamplesRequest(page_token="x"), "PAGE_INVALID"),
        (pb.ListExamplesRequest(filter={"class_ids": [""]}), "FILTER_INVALID"),
        (pb.ListExamplesRequest(filter={"class_ids": ["a\0"]}), "FILTER_INVALID"),
        (pb.ListExamplesRequest(filter={"source": 9}), "FILTER_INVALID"),
        (
            pb.ListExamplesRequest(filter={"from_time": {"seconds": 5}, "to_time": {"seconds": 5}}),
            "FILTER_INVALID",
        ),
        (pb.ListExamplesRequest(filter={"from_time": {"seconds": 10**15}}), "FILTER_INVALID"),
    ],
)
async def test_lists_that_cannot_be_asked_for(
    tmp_path: Path, request_: pb.ListExamplesRequest, reason: str
) -> None:
    async with training_gateway(tmp_path) as gateway:
        assert (await failure(gateway.training.ListExamples(request_))).reason == reason


async def test_a_retraining_is_queued_with_its_defaults(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 2, "glioma")
        retraining = await started(gateway, hyperparameters={"epochs": "3"})
        assert retraining.state == pb.RETRAINING_STATE_QUEUED
        assert (retraining.spec.warm_start_version, retraining.spec.launcher) == (1, "local")
        assert (retraining.examples_by_class, len(retraining.examples_digest)) == ({"glioma": 2}, 64)
        assert retraining.actor
        request = pb.GetRetrainingRequest(retraining_id=retraining.retraining_id)
        assert (await gateway.training.GetRetraining(request)).retraining == retraining
        scratch = await started(gateway, from_scratch=True, launcher="ray")
        assert (scratch.spec.from_scratch, scratch.spec.launcher) == (True, "ray")


async def test_fifty_starts_with_one_request_id_are_one_retraining(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 2, "glioma")
        responses = await asyncio.gather(*(start(gateway, "r-1", from_scratch=True) for _ in range(50)))
        assert len({response.retraining.retraining_id for response in responses}) == 1
        listed = await gateway.training.ListRetrainings(pb.ListRetrainingsRequest())
        assert len(listed.retrainings) == 1
        assert (await failure(start(gateway, "r-1"))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"hyperparameters": {"epochs": "0"}}, "HYPERPARAMETER_INVALID"),
        ({"hyperparameters": {"epochs": "many"}}, "HYPERPARAMETER_INVALID"),
        ({"hyperparameters": {"nonsense": "1"}}, "HYPERPARAMETER_INVALID"),
        ({"warm_start_version": 7}, "BASE_VERSION_NOT_FOUND"),
        ({"warm_start_version": -1}, "BASE_VERSION_NOT_FOUND"),
        ({"launcher": "cluster"}, "LAUNCHER_NOT_CONFIGURED"),
        ({"examples": {"class_ids": ["brain"]}}, "CLASS_NOT_FOUND"),
        ({"examples": {"class_ids": ["glioma", "notumor"]}}, "EXAMPLES_TOO_FEW"),
        ({"examples": {"source": "EXAMPLE_SOURCE_FEEDBACK"}}, "EXAMPLES_TOO_FEW"),
        ({"examples": {"class_ids": [""]}}, "FILTER_INVALID"),
        ({"promote": True}, "RELEASE_NOT_MANAGED"),
    ],
)
async def test_retrainings_that_cannot_be_started(tmp_path: Path, spec: dict[str, Any], reason: str) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 3, "glioma")
        assert (await failure(start(gateway, **spec))).reason == reason
        assert not (await gateway.training.ListRetrainings(pb.ListRetrainingsRequest())).retrainings


async def test_too_few_are_counted_for_the_caller(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        await add(gateway, 3, "glioma")
        await add(gateway, 1, "notumor", seed=50)
        refusal = await failure(start(gateway))
        assert refusal.reason == "EXAMPLES_TOO_FEW"
        assert refusal.metadata == {"min_examples_per_class": "2", "glioma": "3", "notumor": "1"}
        assert (await started(gateway, examples={"class_ids": ["glioma"]})).examples_by_class == {"glioma": 3}


async def test_the_queue_is_bounded_and_launchers_are_needed(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, max_queued_retrainings=1, min_examples_per_class=0) as gateway:
        await started(gateway, from_scratch=True)
        assert (await failure(start(gateway))).reason == "RETRAINING_QUEUE_FULL"
        assert gateway.gateway.training is not None
        gateway.gateway.training.retrainings._launchers = ()
        assert (await failure(start(gateway))).reason == "LAUNCHER_NOT_CONFIGURED"
        gateway.gateway.training.retrainings._base_versions = None
        gateway.gateway.training.retrainings._launchers = ("local",)
        assert (await failure(start(gateway))).reason == "BASE_VERSION_NOT_FOUND"


async def test_retrainings_are_listed_by_state_and_page(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        ids = [(await started(gateway, from_scratch=True)).retraining_id for _ in range(3)]
        records_of(gateway).runs.transition(ids[1], {QUEUED}, RUNNING)
        request = pb.ListRetrainingsRequest(page_size=2)
        first = await gateway.training.ListRetrainings(request)
        request.page_token = first.next_page_token
        last = await gateway.training.ListRetrainings(request)
        found = [entry.retraining_id for page in (first, last) for entry in page.retrainings]
        assert found == ids[::-1]
        request = pb.ListRetrainingsRequest(state=pb.RETRAINING_STATE_RUNNING)
        [running] = (await gateway.training.ListRetrainings(request)).retrainings
        assert running.retraining_id == ids[1]
        request.state = 99
        assert (await failure(gateway.training.ListRetrainings(request))).reason == "FILTER_INVALID"


@pytest.mark.parametrize("retraining_id", ["", "none", "0" * 32, "a\0b"])
async def test_there_is_no_such_retraining(tmp_path: Path, retraining_id: str) -> None:
    async with training_gateway(tmp_path) as gateway:
        for call in (
            gateway.training.GetRetraining(pb.GetRetrainingRequest(retraining_id=retraining_id)),
            gateway.training.CancelRetraining(pb.CancelRetrainingRequest(retraining_id=retraining_id)),
            gateway.training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=retraining_id)).read(),
        ):
            assert (await failure(call)).reason == "RETRAINING_NOT_FOUND"


async def test_a_watch_begins_with_the_past_and_ends_with_the_end(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        runs = records_of(gateway).runs
        runs.transition(run_id, {QUEUED}, RUNNING)
        runs.append_trainer_events(run_id, [(n, log_event(f"line {n}")) for n in range(1, 451)])
        whole = gateway.training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=run_id))
        late = gateway.training.WatchRetraining(
            pb.WatchRetrainingRequest(retraining_id=run_id, after_sequence=452)
        )
        for sequence in range(1, 453):
            assert (await whole.read()).event.sequence == sequence
        runs.append_trainer_events(run_id, [(451, log_event("live"))])
        assert (await whole.read()).event.log.text == "live"
        assert (await late.read()).event.log.text == "live"
        runs.transition(run_id, {RUNNING}, RunState.FAILED, error="broken")
        for call in (whole, late):
            last = (await call.read()).event
            assert (last.sequence, last.state_change.retraining.error) == (454, "broken")
            assert await call.read() is grpc.aio.EOF
        after = pb.WatchRetrainingRequest(retraining_id=run_id, after_sequence=454)
        assert await gateway.training.WatchRetraining(after).read() is grpc.aio.EOF
        negative = pb.WatchRetrainingRequest(retraining_id=run_id, after_sequence=-1)
        assert (await failure(gateway.training.WatchRetraining(negative).read())).reason == "FILTER_INVALID"


async def test_a_watch_sees_what_another_process_writes(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        watch = gateway.training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=run_id))
        assert (await watch.read()).event.sequence == 1
        other = await asyncio.to_thread(Store, tmp_path / "data", "", max_store_bytes=1)
        await asyncio.to_thread(other.runs.transition, run_id, {QUEUED}, RunState.CANCELLED)
        assert (await watch.read()).event.state_change.state == pb.RETRAINING_STATE_CANCELLED
        assert await watch.read() is grpc.aio.EOF
        other.close()


async def test_many_watchers_share_one_poller_and_their_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurogate_gateway.retraining.watch._POLL_SECONDS", 0.01)
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        run_ids = [(await started(gateway, from_scratch=True)).retraining_id for _ in range(2)]
        runs = records_of(gateway).runs
        asked: Counter[str] = Counter()
        polls = threading.Semaphore(0)
        for name in ("get", "heads", "events_after"):
            real = getattr(runs, name)

            def counted(*args: Any, name: str = name, real: Any = real) -> Any:
                asked[name] += 1
                if name == "heads":
                    polls.release()
                return real(*args)

            monkeypatch.setattr(runs, name, counted)
        watches = [
            gateway.training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=run_id))
            for run_id in run_ids * 20
        ]
        for watch in watches:
            assert (await watch.read()).event.sequence == 1
        before = asked.copy()
        for _ in range(before["heads"] + 5):
            await asyncio.to_thread(polls.acquire)
        assert (asked["get"], asked["events_after"]) == (before["get"], before["events_after"])
        await asyncio.to_thread(runs.transition, run_ids[0], {QUEUED}, RUNNING)
        for watch in watches[::2]:
            assert (await watch.read()).event.sequence == 2
        assert asked["get"] == before["get"]
        assert asked["events_after"] - before["events_after"] < 10
        for watch in watches:
            watch.cancel()


async def test_watches_end_with_the_reason_when_the_records_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        runs, request = records_of(gateway).runs, pb.WatchRetrainingRequest(retraining_id=run_id)
        watches = [gateway.training.WatchRetraining(request) for _ in range(2)]
        for watch in watches:
            await watch.read()
        with monkeypatch.context() as patch:
            patch.setattr(runs, "heads", mock.Mock(side_effect=RecordsUnavailableError("away")))
            runs.changes.notify(run_id)
            for watch in watches:
                assert (await failure(watch.read())).reason == "RECORDS_UNAVAILABLE"
        watch = gateway.training.WatchRetraining(request)
        await watch.read()
        assert gateway.gateway.training is not None
        watching = gateway.gateway.training.watching
        polling = watching._polling
        assert polling is not None
        await asyncio.to_thread(runs.transition, run_id, {QUEUED}, RunState.CANCELLED)
        assert (await watch.read()).event.sequence == 2
        assert await watch.read() is grpc.aio.EOF
        # Nobody watches any more, so nobody polls.
        await asyncio.wait([polling])
        assert not watching._watched


async def test_the_number_of_watches_is_limited_over_all_kinds(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0, max_watches=2) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        request = pb.WatchRetrainingRequest(retraining_id=run_id)
        first = gateway.models.WatchModelVersions(model_pb2.WatchModelVersionsRequest())
        second = gateway.training.WatchRetraining(request)
        for watch in (first, second):
            await watch.read()
        for refused in (
            gateway.models.WatchModelVersions(model_pb2.WatchModelVersionsRequest()),
            gateway.training.WatchRetraining(request),
        ):
            why = await failure(refused.read())
            assert (why.code, why.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert "RetryInfo" in why.details
        first.cancel()
        third = None
        while third is None:
            # The place is free when the cancellation has arrived.
            with contextlib.suppress(grpc.aio.AioRpcError):
                third = await gateway.training.WatchRetraining(request).read()
        assert third.event.sequence == 1


async def test_thumbnails_are_admitted_as_bulk_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with training_gateway(tmp_path, max_bulk_calls=1) as gateway:
        await add(gateway, 2, "glioma")
        admission, transforms = gateway.gateway._admission, gateway.gateway._transforms
        real, seen = transforms.thumbnail, []

        async def thumbnail(*args: Any) -> bytes:
            seen.append((admission.in_flight, admission.bulk_calls))
            return await real(*args)

        monkeypatch.setattr(transforms, "thumbnail", thumbnail)
        await gateway.training.ListExamples(pb.ListExamplesRequest(thumbnails=True))
        assert seen == [(1, 1)] * 2
        with admission.bulk_call():
            why = await failure(gateway.training.ListExamples(pb.ListExamplesRequest(thumbnails=True)))
            assert why.reason == "OVERLOADED"
            assert len((await gateway.training.ListExamples(pb.ListExamplesRequest())).examples) == 2
        assert admission.in_flight == 0


async def test_a_stop_ends_watches_and_says_so(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        watch = gateway.training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=run_id))
        await watch.read()
        assert gateway.gateway.training is not None
        gateway.gateway.training.drain()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await watch.read()
        assert failure_of(error.value).reason == "SHUTTING_DOWN"


async def test_cancelling(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=0) as gateway:
        waiting, running, ended = [
            (await started(gateway, from_scratch=True)).retraining_id for _ in range(3)
        ]
        runs = records_of(gateway).runs
        runs.transition(running, {QUEUED}, RUNNING)
        runs.transition(ended, {QUEUED}, RunState.FAILED)

        def cancel(run_id: str, reason: str = "enough") -> Any:
            request = pb.CancelRetrainingRequest(retraining_id=run_id, reason=reason)
            return gateway.training.CancelRetraining(request)

        assert (await cancel(waiting)).retraining.state == pb.RETRAINING_STATE_CANCELLED
        assert (await cancel(waiting)).retraining.state == pb.RETRAINING_STATE_CANCELLED
        assert (await cancel(running)).retraining.state == pb.RETRAINING_STATE_RUNNING
        assert runs.get(running).cancel_reason == "enough"
        assert (await failure(cancel(ended))).reason == "RETRAINING_ENDED"
        assert (await failure(cancel(running, "x" * 513))).reason == "CHANGE_REASON_INVALID"
