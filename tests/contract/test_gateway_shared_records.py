"""Two gateways over one database and one folder, on both kinds of database: what one takes, the other has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from neurogate.v1 import classification_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.store.run import RunState
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import Harness, running_gateway


@pytest.fixture
async def gateways(tmp_path: Path, records_url: str) -> AsyncIterator[tuple[Harness, Harness]]:
    settings: dict[str, Any] = {
        "data_dir": str(tmp_path),
        "records_url": records_url,
        "prediction_image_days": 1,
        "min_examples_per_class": 0,
    }
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(FakeBackend())
        backend.add_version(1)
        pair = [await stack.enter_async_context(running_gateway(backend, **settings)) for _ in range(2)]
        for gateway in pair:
            await gateway.until_ready(1)
            assert gateway.gateway.training is not None
            gateway.gateway.training.retrainings._launchers = ("local",)
        yield pair[0], pair[1]


async def upload(gateway: Harness, seeds: range) -> list[pb.UploadExamplesResponse]:
    requests = [pb.UploadExamplesRequest(class_id="glioma", data=sample_image(seed)) for seed in seeds]
    return [response async for response in gateway.training.UploadExamples(iter(requests))]


async def test_the_same_uploads_to_both_at_once_are_kept_once(gateways: tuple[Harness, Harness]) -> None:
    # In either order, for which a database that locks row by row would not be ready.
    orders = [range(40), range(39, -1, -1)]
    uploads = [upload(gateway, order) for gateway in gateways for order in orders]
    answers = [response.example for responses in await asyncio.gather(*uploads) for response in responses]
    assert len(answers) == 160
    assert sum(not answer.duplicate for answer in answers) == 40
    for gateway in gateways:
        listed = await gateway.training.ListExamples(pb.ListExamplesRequest())
        assert listed.total_by_class == {"glioma": 40}


async def test_feedback_may_go_to_the_other_gateway(gateways: tuple[Harness, Harness]) -> None:
    request = classification_pb2.ClassifyRequest(image=sample_image(3))
    answer = (await gateways[0].classification.Classify(request)).classification
    training = gateways[0].gateway.training
    assert training is not None
    assert training.journal is not None
    # The other gateway cannot know what this one has not written yet.
    assert await asyncio.to_thread(training.journal.flush)
    feedback = pb.SubmitFeedbackRequest(prediction_id=answer.prediction_id, class_id="notumor")
    assert (await gateways[1].training.SubmitFeedback(feedback)).example_id


async def test_one_request_to_both_is_one_retraining(gateways: tuple[Harness, Harness]) -> None:
    request = pb.StartRetrainingRequest(spec=pb.RetrainingSpec(from_scratch=True), request_id="r-1")
    started = await asyncio.gather(*(gateways[n % 2].training.StartRetraining(request) for n in range(50)))
    assert len({response.retraining.retraining_id for response in started}) == 1
    [listed] = (await gateways[1].training.ListRetrainings(pb.ListRetrainingsRequest())).retrainings
    assert listed == started[0].retraining


async def test_a_retraining_of_one_is_watched_and_cancelled_at_the_other(
    gateways: tuple[Harness, Harness],
) -> None:
    request = pb.StartRetrainingRequest(spec=pb.RetrainingSpec(from_scratch=True))
    run_id = (await gateways[0].training.StartRetraining(request)).retraining.retraining_id
    watch = gateways[1].training.WatchRetraining(pb.WatchRetrainingRequest(retraining_id=run_id))
    assert (await watch.read()).event.state_change.state == pb.RETRAINING_STATE_QUEUED
    assert gateways[0].gateway.training is not None
    store = gateways[0].gateway.training.store
    assert await store.run(store.leases.take_next, "owner", 60, launchers={"local"}) is not None
    await store.run(store.runs.transition, run_id, RunState.QUEUED, RunState.RUNNING, owner="owner")
    assert (await watch.read()).event.state_change.state == pb.RETRAINING_STATE_RUNNING
    await gateways[1].training.CancelRetraining(pb.CancelRetrainingRequest(retraining_id=run_id, reason="no"))
    [run] = await store.run(store.leases.take_expired, "owner", 60, launchers={"local"})
    assert run.cancel_requested
    await store.run(store.runs.transition, run_id, RunState.RUNNING, RunState.CANCELLED, owner="owner")
    assert (await watch.read()).event.state_change.state == pb.RETRAINING_STATE_CANCELLED
    assert await watch.read() is grpc.aio.EOF
