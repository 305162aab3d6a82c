"""Labels, the split of "stable", and who is told what became of an image."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import DeadlineTooShortError
from neurogate_gateway.inference.pipeline import PredictionEvent
from neurogate_gateway.inference.preprocessing import Submitted
from neurogate_gateway.observability.logging import CallRecord, current_call
from neurogate_gateway.release.router import Routing
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import Harness, failure, running_gateway, serving_gateway, stream_of
from neurogate_testing.refusals import refused

IMAGE = sample_image()
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED
KEYS = [f"caller {number}" for number in range(60)]


@contextlib.asynccontextmanager
async def three_versions(**changes: Any) -> AsyncIterator[tuple[Harness, FakeBackend]]:
    """A gateway with versions 1, 2 and 3 READY."""
    async with FakeBackend() as backend:
        for number in (1, 2, 3):
            backend.add_version(number)
        async with running_gateway(backend, **changes) as gateway:
            await gateway.until_ready(1)
            backend.predicts.clear()
            yield gateway, backend


async def chosen(gateway: Harness, label: str | None = None, **fields: Any) -> tuple[int, str]:
    """Version and label that answered."""
    selector = model_pb2.ModelSelector() if label is None else model_pb2.ModelSelector(label=label)
    request = pb.ClassifyRequest(image=IMAGE, model=selector, **fields)
    model = (await gateway.classification.Classify(request, timeout=20)).model
    return model.version, model.label


async def test_labels_mean_what_the_routing_says() -> None:
    async with three_versions() as (gateway, _):
        assert await chosen(gateway) == (3, "stable")
        gateway.gateway.router.set_routing(Routing({"stable": 1, "previous": 2}))
        assert await chosen(gateway) == (1, "stable")
        assert await chosen(gateway, "previous") == (2, "previous")
        assert await chosen(gateway, "latest") == (3, "latest")
        listed = await gateway.models.ListModelVersions(model_pb2.ListModelVersionsRequest())
        assert {version.version: list(version.labels) for version in listed.versions} == {
            3: ["latest"],
            2: ["previous"],
            1: ["stable"],
        }
        gateway.gateway.router.set_routing(None)
        assert await chosen(gateway) == (3, "stable")


async def test_labels_that_the_routing_does_not_have() -> None:
    async with three_versions() as (gateway, _):
        gateway.gateway.router.set_routing(Routing({"candidate": 3}))
        # Nothing is stable before something was promoted.
        failed = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE)))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
        assert not gateway.gateway.router.serving
        request = pb.ClassifyRequest(image=IMAGE, model=model_pb2.ModelSelector(label="canary"))
        failed = await failure(gateway.classification.Classify(request))
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_LABEL_NOT_FOUND")
        known = "'candidate', 'latest' and 'stable'"
        assert failed.message == f"model brain_tumor has no label 'canary', only {known}"


async def test_callers_stay_on_their_side_of_the_split() -> None:
    async with three_versions() as (gateway, _):
        routing = Routing({"stable": 1, "canary": 2}, canary_percent=30)
        gateway.gateway.router.set_routing(routing)
        expected = [routing.chosen_label(key) for key in KEYS]
        assert set(expected) == {"stable", "canary"}
        for _ in range(2):
            assert [(await chosen(gateway, routing_key=key))[1] for key in KEYS] == expected
        assert [(await chosen(gateway, request_id=key))[1] for key in KEYS] == expected
        # The routing key is what counts where there are both.
        both = [(await chosen(gateway, routing_key=KEYS[0], request_id=key))[1] for key in KEYS]
        assert set(both) == {expected[0]}
        unknown = [await chosen(gateway) for _ in range(60)]
        assert set(unknown) == {(1, "stable"), (2, "canary")}
        # Who asks for a label gets it.
        assert {await chosen(gateway, "stable", routing_key=key) for key in KEYS} == {
            (1, "stable"),
            (2, "canary"),
        }
        assert {await chosen(gateway, "canary", routing_key=key) for key in KEYS} == {(2, "canary")}


async def test_a_canary_that_is_not_ready_gets_nobody() -> None:
    async with three_versions() as (gateway, backend):
        gateway.gateway.router.set_routing(Routing({"stable": 1, "canary": 2}, canary_percent=100))
        assert await chosen(gateway) == (2, "canary")
        backend.unload(2)
        # Even the call that learns of it is answered, by stable.
        assert await chosen(gateway) == (1, "stable")
        await gateway.until_state(2, RETIRED)
        assert await chosen(gateway) == (1, "stable")


async def test_a_batch_and_a_stream_stay_on_one_side() -> None:
    async with three_versions() as (gateway, _):
        gateway.gateway.router.set_routing(Routing({"stable": 1, "canary": 2}, canary_percent=50))
        sides = set()
        for key in KEYS[:10]:
            batch = pb.BatchClassifyRequest(
                items=[pb.BatchClassifyItem(image=IMAGE) for _ in range(3)], routing_key=key
            )
            model = (await gateway.classification.BatchClassify(batch)).model
            config = pb.StreamClassifyConfig(routing_key=key)
            requests = [pb.StreamClassifyRequest(config=config)]
            requests += [pb.StreamClassifyRequest(image=IMAGE) for _ in range(3)]
            answers = await stream_of(gateway, requests)
            assert {answer.model.version for answer in answers} == {model.version}
            sides.add(model.label)
        assert sides == {"stable", "canary"}


async def test_a_label_waits_for_its_version() -> None:
    async with three_versions() as (gateway, backend):
        gateway.gateway.router.set_routing(Routing({"stable": 1}))
        backend.unload(1)
        await gateway.until_state(1, RETIRED)
        failed = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE)))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
        assert "version 1 of model brain_tumor, which label 'stable' means, is not READY" in failed.message
        assert not gateway.gateway.router.serving
        backend.add_version(1).gate.clear()
        await backend.until(lambda: backend.running == 1)
        call = gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE))
        backend.versions[1].gate.set()
        assert (await call).model.version == 1


async def test_a_label_of_a_rejected_version_says_why_and_not_to_try_again() -> None:
    async with three_versions() as (gateway, backend):
        gateway.gateway.router.set_routing(Routing({"stable": 1, "candidate": 4}))
        backend.break_version(4)
        await gateway.until_state(4, REJECTED)
        request = pb.ClassifyRequest(image=IMAGE, model=model_pb2.ModelSelector(label="candidate"))
        failed = await failure(gateway.classification.Classify(request))
        assert (failed.code, failed.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_VERSION_REJECTED",
        )
        assert "version 4 of model brain_tumor was rejected: the model server could not load it" in (
            failed.message
        )
        streamed = pb.StreamClassifyRequest(config=pb.StreamClassifyConfig(model=request.model), image=IMAGE)
        failed = await failure(stream_of(gateway, [streamed]))
        assert failed.reason == "MODEL_VERSION_REJECTED"


@pytest.mark.parametrize("key", ["x" * 129, "line\nbreak", "ü"])
async def test_routing_keys_are_checked(key: str) -> None:
    async with serving_gateway() as (gateway, _):
        calls = [
            gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE, routing_key=key)),
            gateway.classification.Explain(pb.ExplainRequest(image=IMAGE, routing_key=key)),
            gateway.classification.BatchClassify(
                pb.BatchClassifyRequest(items=[pb.BatchClassifyItem(image=IMAGE)], routing_key=key)
            ),
            stream_of(gateway, [pb.StreamClassifyRequest(config=pb.StreamClassifyConfig(routing_key=key))]),
        ]
        fields = []
        for call in calls:
            failed = await failure(call)
            assert (failed.code, failed.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "ROUTING_KEY_INVALID",
            )
            fields.append(failed.details["BadRequest"].field_violations[0].field)
        assert fields == ["routing_key"] * 3 + ["config.routing_key"]


class Recorder:
    def __init__(self) -> None:
        self.outcomes: list[PredictionEvent] = []

    def observe(self, outcome: PredictionEvent) -> None:
        self.outcomes.append(outcome)


class Broken:
    def observe(self, outcome: PredictionEvent) -> None:
        raise ZeroDivisionError


async def test_every_image_has_one_outcome() -> None:
    async with serving_gateway() as (gateway, _):
        recorder = Recorder()
        gateway.gateway.pipeline.observers = (Broken(), recorder)
        answer = await gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE))
        [outcome] = recorder.outcomes
        assert outcome.answer is not None
        assert outcome.answer.classification == answer.classification
        assert (outcome.image, outcome.error) == (IMAGE, None)
        assert (outcome.resolved.version.number, outcome.resolved.label) == (1, "stable")
        assert outcome.seconds > 0
        assert outcome.caller.startswith("ipv4:127.0.0.1:")
        await gateway.classification.Explain(pb.ExplainRequest(image=IMAGE))
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(3)]
        await gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        await stream_of(gateway, [pb.StreamClassifyRequest(image=sample_image(9)) for _ in range(2)])
        assert len(recorder.outcomes) == 1 + 1 + 3 + 2
        assert {outcome.caller for outcome in recorder.outcomes} == {outcome.caller}


async def test_the_callers_own_mistakes_are_no_outcomes() -> None:
    async with serving_gateway() as (gateway, _):
        recorder = Recorder()
        gateway.gateway.pipeline.observers = (recorder,)
        for request in (
            pb.ClassifyRequest(image=b"no image"),
            pb.ClassifyRequest(image=b""),
            pb.ClassifyRequest(image=IMAGE, top_k=99),
            pb.ClassifyRequest(image=IMAGE, model=model_pb2.ModelSelector(version=9)),
        ):
            await failure(gateway.classification.Classify(request))
        await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE), timeout=0.001))
        assert recorder.outcomes == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    ],
)
async def test_what_the_version_fails_at_is_an_outcome(code: grpc.StatusCode, reason: str) -> None:
    async with serving_gateway() as (gateway, backend):
        recorder = Recorder()
        gateway.gateway.pipeline.observers = (recorder,)
        backend.versions[1].refusal = (code, "no")
        failed = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE)))
        assert failed.reason == reason
        [outcome] = recorder.outcomes
        assert outcome.answer is None
        assert outcome.error is not None
        assert outcome.error.reason_name() == reason


async def test_a_version_that_does_not_answer_in_time_has_failed() -> None:
    async with serving_gateway() as (gateway, backend):
        recorder = Recorder()
        gateway.gateway.pipeline.observers = (recorder,)
        backend.versions[1].gate.clear()
        with pytest.raises(DeadlineTooShortError):
            await gateway.gateway.pipeline.classify(
                Submitted(IMAGE), model_pb2.ModelSelector(), top_k=0, deadline=Deadline.after(2)
            )
        assert [outcome.error.reason_name() for outcome in recorder.outcomes if outcome.error] == [
            "DEADLINE_TOO_SHORT"
        ]


async def test_quiet_images_are_answered_and_not_observed() -> None:
    async with three_versions() as (gateway, backend):
        recorder, call = Recorder(), CallRecord("EvaluateModelVersion")
        gateway.gateway.pipeline.observers = (recorder,)
        token = current_call.set(call)
        answer = await gateway.gateway.pipeline.classify_in_background(2, IMAGE, seconds=20)
        current_call.reset(token)
        # Its log counts what the caller has sent.
        assert call.images == 0
        assert (answer.resolved.version.number, answer.resolved.label) == (2, "")
        assert len(answer.classification.scores) == 4
        assert backend.predicts == [2]
        assert recorder.outcomes == []
        backend.unload(2)
        with refused("MODEL_NOT_READY"):
            await gateway.gateway.pipeline.classify_in_background(2, IMAGE, seconds=20)
