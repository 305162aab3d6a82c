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
from neurogate.v1 import classification_pb2, model_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.errors import RecordsUnavailableError
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.retraining.launcher import LaunchError
from neurogate_gateway.retraining.launcher_ray import RayLauncher
from neurogate_gateway.retraining.module import RetrainingModule
from neurogate_gateway.store.run import RunState
from neurogate_gateway.store.store import Store
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.gateway_harness import Harness, failure, failure_of, serving_gateway
from neurogate_testing.images import sample
from neurogate_testing.manifests import fill_version
from neurogate_testing.stores import log_event
from PIL import Image

QUEUED, RUNNING = RunState.QUEUED, RunState.RUNNING


def module_of(gateway: Harness) -> RetrainingModule:
    assert gateway.gateway.training is not None
    return gateway.gateway.training


def store_of(gateway: Harness) -> Store:
    return module_of(gateway).store


@contextlib.asynccontextmanager
async def training_gateway(tmp_path: Path, **changes: Any) -> AsyncIterator[Harness]:
    """A gateway with a store, a repository with version 1, and the launchers "local" and "ray"."""
    fill_version(tmp_path / "models" / "brain_tumor" / "1")
    settings = {"data_dir": str(tmp_path / "data"), "min_examples_per_class": 0} | changes
    async with serving_gateway(**settings) as (gateway, _):
        retrainings = module_of(gateway).retrainings
        retrainings._launchers = ("local", "ray")
        retrainings._base_versions = lambda: [1]
        yield gateway


async def add(gateway: Harness, count: int, class_id: str, *, seed: int = 0) -> None:
    async def send() -> AsyncIterator[pb.UploadExamplesRequest]:
        for number in range(count):
            yield pb.UploadExamplesRequest(class_id=class_id, data=sample_image(seed + number))

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


async def started(gateway: Harness, **spec: Any) -> pb.Retraining:
    retraining: pb.Retraining = (await start(gateway, **spec)).retraining
    return retraining


def watch(gateway: Harness, run_id: str, after: int = 0) -> Any:
    request = pb.WatchRetrainingRequest(retraining_id=run_id, after_sequence=after)
    return gateway.training.WatchRetraining(request)


def cancel(gateway: Harness, run_id: str, reason: str = "enough") -> Any:
    request = pb.CancelRetrainingRequest(retraining_id=run_id, reason=reason)
    return gateway.training.CancelRetraining(request)


async def reason(call: Any) -> str:
    return (await failure(call)).reason


async def listed(gateway: Harness, **request: Any) -> list[pb.Retraining]:
    response = await gateway.training.ListRetrainings(pb.ListRetrainingsRequest(**request))
    return list(response.retrainings)


async def test_what_is_kept_is_corrected_and_erased(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, prediction_image_days=1) as gateway:
        # The journal writes it when a call asks for it, at the latest.
        said = await classify(gateway, sample_image(1))
        about = {"prediction_id": said.prediction_id, "request_id": "f-1"}
        feedback = pb.SubmitFeedbackRequest(**about, class_id="glioma", comment="seen by two")
        answer = await gateway.training.SubmitFeedback(feedback)
        assert await gateway.training.SubmitFeedback(feedback) == answer
        other = pb.SubmitFeedbackRequest(**about, class_id="notumor")
        assert await reason(gateway.training.SubmitFeedback(other)) == "REQUEST_ID_REUSED"
        other.request_id = ""
        assert await reason(gateway.training.SubmitFeedback(other)) == "EXAMPLE_CONFLICT"
        identifier = answer.example_id
        [example] = (await gateway.training.ListExamples(pb.ListExamplesRequest())).examples
        assert (example.example_id, example.class_id) == (identifier, "glioma")
        assert (example.source, example.prediction_id) == (pb.EXAMPLE_SOURCE_FEEDBACK, said.prediction_id)
        update = pb.UpdateExampleRequest(example_id=identifier, class_id="notumor", reason="histology")
        changed = (await gateway.training.UpdateExample(update)).example
        assert (changed.example_id, changed.class_id) == (identifier, "notumor")
        for changes, expected in (
            ({"class_id": "brain"}, "CLASS_NOT_FOUND"),
            ({"example_id": "x\0"}, "EXAMPLE_NOT_FOUND"),
            ({"example_id": "0" * 64}, "EXAMPLE_NOT_FOUND"),
            ({"expected_class_id": "pituitary"}, "EXAMPLE_CONFLICT"),
            ({"reason": "a\nb"}, "CHANGE_REASON_INVALID"),
        ):
            wrong = {"example_id": identifier, "class_id": "glioma", **changes}
            call = gateway.training.UpdateExample(pb.UpdateExampleRequest(**wrong))
            assert await reason(call) == expected
        erase = pb.DeletePredictionRequest(prediction_id=said.prediction_id, reason="withdrawn")
        assert list((await gateway.training.DeletePrediction(erase)).example_ids) == [identifier]
        assert await reason(gateway.training.DeletePrediction(erase)) == "PREDICTION_NOT_FOUND"
        assert await reason(gateway.training.SubmitFeedback(feedback)) == "PREDICTION_NOT_FOUND"
        forget = pb.DeleteExampleRequest(example_id=identifier)
        assert await gateway.training.DeleteExample(forget) == pb.DeleteExampleResponse()
        assert await reason(gateway.training.DeleteExample(forget)) == "EXAMPLE_NOT_FOUND"
        assert not store_of(gateway).images.path(identifier).exists()


async def test_without_a_data_folder_every_method_says_so() -> None:
    async with serving_gateway() as (gateway, _):
        for method in pb.DESCRIPTOR.services_by_name["TrainingService"].methods:
            request: Any = getattr(pb, method.input_type.name)()
            call = getattr(gateway.training, method.name)(iter(()) if method.client_streaming else request)
            assert await reason(call.read() if method.server_streaming else call) == "RECORDS_DISABLED"


async def test_a_gateway_that_ends_closes_its_launchers(tmp_path: Path) -> None:
    ray = RayLauncher("http://ray.invalid", cpus=1, gpus=0)
    async with training_gateway(tmp_path) as gateway:
        module_of(gateway)._launchers.append(ray)
    with pytest.raises(LaunchError, match="after shutdown"):
        await ray.status("a")


async def test_feedback_without_an_image_is_feedback_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path) as gateway:
        answer = await classify(gateway, sample_image(5))
        flushes: list[None] = []
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "flush", lambda self: flushes.append(None))
            unknown = pb.SubmitFeedbackRequest(prediction_id="0" * 32, not_mri=True)
            assert await reason(gateway.training.SubmitFeedback(unknown)) == "PREDICTION_NOT_FOUND"
        # The journal does not write because of a prediction that it does not hold.
        assert not flushes
        right = answer.scores[0].class_id
        for truth, confirmed in (({"class_id": right}, True), ({"not_mri": True}, False)):
            request = pb.SubmitFeedbackRequest(prediction_id=answer.prediction_id, **truth)
            response = await gateway.training.SubmitFeedback(request)
            assert (response.confirmed, response.example_id) == (confirmed, "")
        for changes, expected in (
            ({}, "FEEDBACK_INVALID"),
            ({"not_mri": False}, "FEEDBACK_INVALID"),
            ({"class_id": right, "comment": "x" * 513}, "FEEDBACK_INVALID"),
            ({"class_id": right, "comment": "a\0b"}, "FEEDBACK_INVALID"),
            ({"class_id": "brain"}, "CLASS_NOT_FOUND"),
            ({"class_id": ""}, "CLASS_NOT_FOUND"),
            ({"class_id": right, "prediction_id": "0" * 32}, "PREDICTION_NOT_FOUND"),
            ({"class_id": right, "prediction_id": "'; --"}, "PREDICTION_NOT_FOUND"),
            ({"class_id": right, "request_id": "ä"}, "REQUEST_ID_INVALID"),
        ):
            request = pb.SubmitFeedbackRequest(**{"prediction_id": answer.prediction_id, **changes})
            assert await reason(gateway.training.SubmitFeedback(request)) == expected, changes


async def test_examples_come_in_pages_with_totals_and_thumbnails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path, max_bulk_calls=1) as gateway:
        await add(gateway, 4, "glioma")
        await add(gateway, 2, "pituitary", seed=50)
        wide = pb.UploadExamplesRequest(class_id="pituitary", data=sample("PNG", width=400, height=100))
        lost = (await gateway.training.UploadExamples(iter([wide])).read()).example.example_id
        request = pb.ListExamplesRequest(page_size=3, filter={"class_ids": ["glioma"]})
        first = await gateway.training.ListExamples(request)
        request.page_token = first.next_page_token
        last = await gateway.training.ListExamples(request)
        assert (len(first.examples), len(last.examples), last.next_page_token) == (3, 1, "")
        assert len({example.example_id for example in (*first.examples, *last.examples)}) == 4
        assert first.total_by_class == {"glioma": 4}
        assert not first.examples[0].thumbnail
        request.filter.class_ids[0] = "pituitary"
        assert await reason(gateway.training.ListExamples(request)) == "PAGE_INVALID"

        request = pb.ListExamplesRequest(thumbnails=True, filter={"class_ids": ["pituitary"]})
        examples = (await gateway.training.ListExamples(request)).examples
        sizes = [Image.open(io.BytesIO(example.thumbnail)).size for example in examples]
        assert sizes == [(96, 24), (64, 48), (64, 48)]
        assert (examples[0].width, examples[0].height) == (400, 100)
        store_of(gateway).images.path(lost).unlink()
        admission, transforms = gateway.gateway._admission, gateway.gateway._transforms
        real, seen = transforms.thumbnail, []

        async def thumbnail(*args: Any) -> bytes:
            seen.append((admission.in_flight, admission.bulk_calls.count))
            return await real(*args)

        monkeypatch.setattr(transforms, "thumbnail", thumbnail)
        examples = (await gateway.training.ListExamples(request)).examples
        assert [bool(example.thumbnail) for example in examples] == [False, True, True]
        # One by one, admitted as bulk work.
        assert seen == [(1, 1)] * 2
        with admission.bulk_calls.held():
            assert await reason(gateway.training.ListExamples(request)) == "OVERLOADED"
            assert (await gateway.training.ListExamples(pb.ListExamplesRequest())).examples
        assert admission.in_flight == 0
        for wrong, expected in (
            ({"page_size": -1}, "PAGE_INVALID"),
            ({"page_token": "x"}, "PAGE_INVALID"),
            ({"filter": {"class_ids": [""]}}, "FILTER_INVALID"),
            ({"filter": {"class_ids": ["a\0"]}}, "FILTER_INVALID"),
            ({"filter": {"source": 9}}, "FILTER_INVALID"),
            ({"filter": {"from_time": {"seconds": 5}, "to_time": {"seconds": 5}}}, "FILTER_INVALID"),
            ({"filter": {"from_time": {"seconds": 10**15}}}, "FILTER_INVALID"),
        ):
            request = pb.ListExamplesRequest(**wrong)
            assert await reason(gateway.training.ListExamples(request)) == expected, wrong


async def test_a_retraining_is_queued_with_its_defaults(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=2) as gateway:
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


async def test_retrainings_that_cannot_be_started(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, min_examples_per_class=2, max_queued_retrainings=1) as gateway:
        await add(gateway, 3, "glioma")
        await add(gateway, 1, "notumor", seed=50)
        for spec, expected in (
            ({"hyperparameters": {"epochs": "0"}}, "HYPERPARAMETER_INVALID"),
            ({"hyperparameters": {"epochs": "many"}}, "HYPERPARAMETER_INVALID"),
            ({"hyperparameters": {"nonsense": "1"}}, "HYPERPARAMETER_INVALID"),
            ({"warm_start_version": 7}, "BASE_VERSION_NOT_FOUND"),
            ({"warm_start_version": -1}, "BASE_VERSION_NOT_FOUND"),
            ({"launcher": "cluster"}, "LAUNCHER_NOT_CONFIGURED"),
            ({"examples": {"class_ids": ["brain"]}}, "CLASS_NOT_FOUND"),
            ({"examples": {"class_ids": ["glioma", "pituitary"]}}, "EXAMPLES_TOO_FEW"),
            ({"examples": {"source": "EXAMPLE_SOURCE_FEEDBACK"}}, "EXAMPLES_TOO_FEW"),
            ({"examples": {"class_ids": [""]}}, "FILTER_INVALID"),
            ({"promote": True}, "RELEASE_NOT_MANAGED"),
            ({"gate_policy": "[gate]\nmin_accuracy = 0.9\n"}, "RELEASE_NOT_MANAGED"),
        ):
            assert await reason(start(gateway, **spec)) == expected, spec
        refusal = await failure(start(gateway))
        assert refusal.reason == "EXAMPLES_TOO_FEW"
        assert refusal.metadata == {"min_examples_per_class": "2", "glioma": "3", "notumor": "1"}
        assert not await listed(gateway)
        assert (await started(gateway, examples={"class_ids": ["glioma"]})).examples_by_class == {"glioma": 3}
        enough = {"examples": {"class_ids": ["glioma"]}}
        assert await reason(start(gateway, **enough)) == "RETRAINING_QUEUE_FULL"
        retrainings = module_of(gateway).retrainings
        retrainings._base_versions = None
        assert await reason(start(gateway, **enough)) == "BASE_VERSION_NOT_FOUND"
        retrainings._launchers = ()
        assert await reason(start(gateway, **enough)) == "LAUNCHER_NOT_CONFIGURED"


async def test_retrainings_are_listed_by_state_and_page_and_cancelled(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        ids = [(await started(gateway, from_scratch=True)).retraining_id for _ in range(3)]
        store_of(gateway).runs.transition(ids[1], QUEUED, RUNNING)
        request = pb.ListRetrainingsRequest(page_size=2)
        first = await gateway.training.ListRetrainings(request)
        request.page_token = first.next_page_token
        last = await gateway.training.ListRetrainings(request)
        found = [entry.retraining_id for page in (first, last) for entry in page.retrainings]
        assert found == ids[::-1]
        [running] = await listed(gateway, state=pb.RETRAINING_STATE_RUNNING)
        assert running.retraining_id == ids[1]
        assert await reason(listed(gateway, state=99)) == "FILTER_INVALID"
        for run_id, state in ((ids[0], "CANCELLED"), (ids[0], "CANCELLED"), (ids[1], "RUNNING")):
            assert (await cancel(gateway, run_id)).retraining.state == RunState(state).message
        assert store_of(gateway).runs.get(ids[1]).cancel_reason == "enough"
        store_of(gateway).runs.transition(ids[2], QUEUED, RunState.FAILED)
        assert await reason(cancel(gateway, ids[2])) == "RETRAINING_ENDED"
        assert await reason(cancel(gateway, ids[1], "x" * 513)) == "CHANGE_REASON_INVALID"
        for run_id in ("", "none", "0" * 32, "a\0b"):
            for call in (
                gateway.training.GetRetraining(pb.GetRetrainingRequest(retraining_id=run_id)),
                cancel(gateway, run_id),
                watch(gateway, run_id).read(),
            ):
                assert await reason(call) == "RETRAINING_NOT_FOUND"


async def test_a_watch_begins_with_the_past_and_ends_with_the_end(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        runs = store_of(gateway).runs
        runs.transition(run_id, QUEUED, RUNNING)
        runs.append_trainer_events(run_id, [(n, log_event(f"line {n}")) for n in range(1, 451)])
        whole, late = watch(gateway, run_id), watch(gateway, run_id, 452)
        for sequence in range(1, 453):
            assert (await whole.read()).event.sequence == sequence
        runs.append_trainer_events(run_id, [(451, log_event("live"))])
        assert (await whole.read()).event.log.text == "live"
        assert (await late.read()).event.log.text == "live"
        # Another process writes it, so no notifier reports it here.
        other = await asyncio.to_thread(Store, tmp_path / "data", "", max_store_bytes=1)
        await asyncio.to_thread(other.runs.transition, run_id, RUNNING, RunState.FAILED, error="broken")
        other.close()
        for call in (whole, late):
            last = (await call.read()).event
            assert (last.sequence, last.state_change.retraining.error) == (454, "broken")
            assert await call.read() is grpc.aio.EOF
        assert await watch(gateway, run_id, 454).read() is grpc.aio.EOF
        assert await reason(watch(gateway, run_id, -1).read()) == "FILTER_INVALID"


async def test_many_watchers_share_one_poller_and_their_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurogate_gateway.retraining.watch._POLL_SECONDS", 0.01)
    async with training_gateway(tmp_path) as gateway:
        run_ids = [(await started(gateway, from_scratch=True)).retraining_id for _ in range(2)]
        runs = store_of(gateway).runs
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
        watches = [watch(gateway, run_id) for run_id in run_ids * 20]
        for each in watches:
            assert (await each.read()).event.sequence == 1
        before = asked.copy()
        for _ in range(before["heads"] + 5):
            await asyncio.to_thread(polls.acquire)
        assert (asked["get"], asked["events_after"]) == (before["get"], before["events_after"])
        await asyncio.to_thread(runs.transition, run_ids[0], QUEUED, RUNNING)
        for each in watches[::2]:
            assert (await each.read()).event.sequence == 2
        assert asked["get"] == before["get"]
        assert asked["events_after"] - before["events_after"] < 10
        for each in watches:
            each.cancel()


async def test_watches_end_with_the_reason_when_the_records_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with training_gateway(tmp_path) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        store = store_of(gateway)
        watches = [watch(gateway, run_id) for _ in range(2)]
        for each in watches:
            await each.read()
        with monkeypatch.context() as patch:
            patch.setattr(store.runs, "heads", mock.Mock(side_effect=RecordsUnavailableError("away")))
            store.notifier.notify()
            for each in watches:
                assert await reason(each.read()) == "RECORDS_UNAVAILABLE"
        again = watch(gateway, run_id)
        await again.read()
        watching = module_of(gateway).watching
        polling = watching._polling
        assert polling is not None
        await asyncio.to_thread(store.runs.transition, run_id, QUEUED, RunState.CANCELLED)
        assert (await again.read()).event.sequence == 2
        assert await again.read() is grpc.aio.EOF
        # The last watcher has ended the poller.
        await asyncio.wait([polling])
        assert not watching._heads


async def test_the_number_of_watches_is_limited_over_all_kinds(tmp_path: Path) -> None:
    async with training_gateway(tmp_path, max_watches=2) as gateway:
        run_id = (await started(gateway, from_scratch=True)).retraining_id
        first = gateway.models.WatchModelVersions(model_pb2.WatchModelVersionsRequest())
        second = watch(gateway, run_id)
        for each in (first, second):
            await each.read()
        for refused in (
            gateway.models.WatchModelVersions(model_pb2.WatchModelVersionsRequest()),
            watch(gateway, run_id),
        ):
            why = await failure(refused.read())
            assert (why.code, why.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert "RetryInfo" in why.details
        first.cancel()
        third = None
        while third is None:
            # The place is free when the cancellation has arrived.
            with contextlib.suppress(grpc.aio.AioRpcError):
                third = await watch(gateway, run_id).read()
        assert third.event.sequence == 1


async def test_a_stop_ends_watches_and_says_so(tmp_path: Path) -> None:
    async with training_gateway(tmp_path) as gateway:
        call = watch(gateway, (await started(gateway, from_scratch=True)).retraining_id)
        await call.read()
        module_of(gateway).drain()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert failure_of(error.value).reason == "SHUTTING_DOWN"


async def test_a_sweep_that_finds_the_database_away_is_no_defect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(Store, "sweep", side_effect=RecordsUnavailableError("away")):
        async with training_gateway(tmp_path) as gateway:
            while not (lines := [line for line in caplog.records if line.msg == "records_not_swept"]):
                await gateway.check()
    assert [(line.levelname, line.exc_info) for line in lines] == [("WARNING", None)]
