"""Classify and BatchClassify against the fake backend, over real sockets."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_core.preprocessing.transform import transform
from neurogate_testing.fake_backend import CLASSES, FakeBackend, build_manifest, fake_outputs, sample_image
from neurogate_testing.gateway_harness import failure, failure_of, running_gateway, serving_gateway, stream_of

REQUEST_ID = " ~!@#".ljust(128, "x")


def version(number: int) -> model_pb2.ModelSelector:
    return model_pb2.ModelSelector(version=number)


def label(name: str) -> model_pb2.ModelSelector:
    return model_pb2.ModelSelector(label=name)


async def test_the_answer_is_the_models_with_scores_in_falling_order() -> None:
    async with serving_gateway() as (gateway, backend):
        image = sample_image(7)
        request = pb.ClassifyRequest(image=image, request_id=REQUEST_ID)
        response = await gateway.classification.Classify(request)
        manifest = backend.versions[1].manifest
        outputs = fake_outputs(transform(image, manifest.transform)[np.newaxis], 1)
        expected = sorted(zip(outputs["probabilities"][0].tolist(), CLASSES, strict=True), reverse=True)
        scores = response.classification.scores
        assert [(score.class_id, score.display_name) for score in scores] == [names for _, names in expected]
        assert [score.probability for score in scores] == [probability for probability, _ in expected]
        assert [CLASSES[score.index][0] for score in scores] == [score.class_id for score in scores]
        assert response.classification.ood_score == outputs["ood_score"][0]
        assert response.request_id == REQUEST_ID
        assert (response.model.name, response.model.version, response.model.label) == (
            "brain_tumor",
            1,
            "stable",
        )
        assert len(response.model.manifest_digest) == 64
        timings = response.classification.timings
        assert timings.transform.ToNanoseconds() > 0
        assert timings.predict.ToNanoseconds() > 0


async def test_only_what_is_needed_is_asked_of_the_backend() -> None:
    async with serving_gateway() as (gateway, backend):
        one = await gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
        other = await gateway.classification.Explain(pb.ExplainRequest(image=sample_image()))
        assert one.classification.prediction_id != other.classification.prediction_id
        assert backend.predicts == [1, 1]
        assert backend.filters == [["probabilities", "ood_score"], ["probabilities", "ood_score", "gradcam"]]


async def test_explain_says_when_the_maps_are_not_to_be_relied_on() -> None:
    manifest = build_manifest(2)
    manifest.localisation.pointing.value, manifest.localisation.brightest_spot.value = 0.25, 0.61
    async with serving_gateway() as (gateway, backend):
        request = pb.ExplainRequest(image=sample_image())
        assert (await gateway.classification.Explain(request)).map_caution == ""
        backend.add_version(2, manifest)
        await gateway.until_ready(2)
        request.model.version = 2
        caution = (await gateway.classification.Explain(request)).map_caution
        assert "point at the lesion in 25.0%" in caution


@pytest.mark.parametrize("top_k", [0, 1, 3, 4])
async def test_top_k(top_k: int) -> None:
    async with serving_gateway() as (gateway, _):
        request = pb.ClassifyRequest(image=sample_image(), top_k=top_k)
        response = await gateway.classification.Classify(request)
        assert len(response.classification.scores) == (top_k or 4)


async def test_equal_probabilities_come_in_the_order_of_the_classes() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].change = lambda outputs: (
            outputs | {"probabilities": np.full((1, 4), 0.25, np.float32)}
        )
        response = await gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
        assert [score.index for score in response.classification.scores] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("top", "ood_score", "verdict"),
    [
        (0.9, 0.1, pb.VERDICT_CONFIDENT),
        (0.7, 0.1, pb.VERDICT_CONFIDENT),
        (0.69, 0.1, pb.VERDICT_ABSTAIN),
        (0.9, 0.5, pb.VERDICT_CONFIDENT),
        (0.9, 0.51, pb.VERDICT_OUT_OF_DISTRIBUTION),
        (0.3, 0.51, pb.VERDICT_OUT_OF_DISTRIBUTION),
    ],
)
async def test_verdict(top: float, ood_score: float, verdict: pb.Verdict) -> None:
    async with FakeBackend() as backend:
        # Thresholds that f32 holds exactly, so that "equal" is meant.
        threshold = float(np.float32(0.7))
        manifest = build_manifest(1, abstain_below=threshold, out_of_distribution_above=0.5)
        backend.add_version(1, manifest)
        async with running_gateway(backend) as gateway:
            await gateway.until_ready(1)
            rest = (1 - top) / 3
            backend.versions[1].change = lambda outputs: {
                "probabilities": np.array([[rest, top, rest, rest]], np.float32),
                "ood_score": np.array([ood_score], np.float32),
            }
            response = await gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
            assert response.classification.verdict == verdict


async def test_versions_and_labels_choose() -> None:
    async with FakeBackend() as backend:
        backend.add_version(1)
        backend.add_version(3)
        async with running_gateway(backend) as gateway:
            await gateway.until_ready(1)
            await gateway.until_ready(3)

            async def reference(selector: model_pb2.ModelSelector) -> tuple[int, str]:
                request = pb.ClassifyRequest(image=sample_image(), model=selector)
                model = (await gateway.classification.Classify(request)).model
                return model.version, model.label

            assert await reference(model_pb2.ModelSelector()) == (3, "stable")
            assert await reference(model_pb2.ModelSelector(name="brain_tumor")) == (3, "stable")
            assert await reference(label("stable")) == (3, "stable")
            assert await reference(label("latest")) == (3, "latest")
            assert await reference(version(1)) == (1, "")
            assert await reference(version(3)) == (3, "")


async def test_the_callers_deadline_or_the_default_goes_on_to_the_backend() -> None:
    async with serving_gateway(default_timeout_seconds=7) as (gateway, backend):
        for timeout in (5, None):
            await gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()), timeout=timeout)
        own, default = backend.deadlines
        # On the wire gRPC rounds up, to a hundredth of a second here.
        assert 0 < own <= 5.01 < default <= 7.01


async def test_the_default_deadline_ends_a_call() -> None:
    async with serving_gateway(default_timeout_seconds=0.1) as (gateway, backend):
        backend.versions[1].gate.clear()
        late = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=sample_image())))
        assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")


async def test_a_deadline_that_is_too_near_is_refused_before_any_work() -> None:
    async with serving_gateway(min_deadline_seconds=60) as (gateway, backend):
        call = gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()), timeout=30)
        refused = await failure(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
        assert backend.predicts == []


async def test_what_was_sent_is_not_cancelled_with_its_caller_and_keeps_its_place() -> None:
    async with serving_gateway() as (gateway, backend):
        [slots] = gateway.gateway.pool.slots.values()
        backend.versions[1].gate.clear()
        call = gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
        await backend.until(lambda: backend.running == 1)
        call.cancel()
        while gateway.gateway._admission.in_flight:
            await gateway.check()
        # A model server would keep a thread for it, whoever waits for the answer.
        assert slots._held == [0, 1, 0]
        assert (backend.running, backend.cancelled) == (1, 0)
        backend.versions[1].gate.set()
        await slots.idle()
        assert backend.cancelled == 0


async def test_more_than_the_limit_is_shed_and_told_when_to_return() -> None:
    async with serving_gateway(max_in_flight=2) as (gateway, backend):
        backend.versions[1].gate.clear()
        request = pb.ClassifyRequest(image=sample_image())
        running = [gateway.classification.Classify(request) for _ in range(2)]
        await backend.until(lambda: backend.running == 2)
        refused = await failure(gateway.classification.Classify(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert 0.05 <= refused.details["RetryInfo"].retry_delay.ToMilliseconds() / 1000 <= 5
        backend.versions[1].gate.set()
        for call in running:
            await call
        assert (await gateway.classification.Classify(request)).model.version == 1


async def test_shedding_does_not_read_the_message() -> None:
    async with serving_gateway(max_in_flight=2, max_image_bytes=1024) as (gateway, backend):
        backend.versions[1].gate.clear()
        request = pb.ClassifyRequest(image=sample_image(size=(8, 8)))
        running = [gateway.classification.Classify(request) for _ in range(2)]
        await backend.until(lambda: backend.running == 2)
        # Reading it would give gRPC's own refusal of a message beyond the limit.
        refused = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=bytes(4 * 2**20))))
        assert refused.reason == "OVERLOADED"
        backend.versions[1].gate.set()
        await asyncio.gather(*running)


async def test_a_batch_is_answered_in_order_with_a_status_each() -> None:
    async with serving_gateway() as (gateway, backend):
        images = [sample_image(seed) for seed in range(5)]
        items = [pb.BatchClassifyItem(image=image) for image in images]
        items.insert(2, pb.BatchClassifyItem(image=b"not an image"))
        items.append(pb.BatchClassifyItem())
        request = pb.BatchClassifyRequest(items=items, top_k=1, request_id="b")
        response = await gateway.classification.BatchClassify(request)
        kinds = [result.WhichOneof("result") for result in response.results]
        assert kinds == ["classification"] * 2 + ["error"] + ["classification"] * 3 + ["error"]
        assert failure_of(response.results[2].error).reason == "IMAGE_FORMAT_UNSUPPORTED"
        assert failure_of(response.results[6].error).reason == "IMAGE_EMPTY"
        assert (response.model.version, response.request_id) == (1, "b")
        answers = [result.classification for result in response.results if result.HasField("classification")]
        spec = backend.versions[1].manifest.transform
        for image, answer in zip(images, answers, strict=True):
            outputs = fake_outputs(transform(image, spec)[np.newaxis], 1)
            assert [score.index for score in answer.scores] == [outputs["probabilities"][0].argmax()]
            assert answer.scores[0].probability == outputs["probabilities"][0].max()


async def test_a_batch_runs_concurrently_within_its_window() -> None:
    async with serving_gateway(stream_window=3) as (gateway, backend):
        backend.most_running = 0
        backend.versions[1].gate.clear()
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(8)]
        call = gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        await backend.until(lambda: backend.running == 3)
        backend.versions[1].gate.set()
        assert len((await call).results) == 8
        assert backend.most_running == 3


async def test_nothing_of_a_batch_is_sent_any_more_once_it_is_cancelled() -> None:
    async with serving_gateway(stream_window=4) as (gateway, backend):
        backend.versions[1].gate.clear()
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(8)]
        call = gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        await backend.until(lambda: backend.running == 4)
        call.cancel()
        while gateway.gateway._admission.bulk_calls.count:
            await gateway.check()
        assert gateway.gateway._admission.in_flight == 0
        backend.versions[1].gate.set()
        [slots] = gateway.gateway.pool.slots.values()
        await slots.idle()
        assert (len(backend.predicts), backend.cancelled, slots.waiting) == (4, 0, 0)


async def test_bulk_work_leaves_room_for_single_calls() -> None:
    async with serving_gateway(max_in_flight=4, stream_window=16) as (gateway, backend):
        backend.versions[1].gate.clear()
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(8)]
        batch = gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        await backend.until(lambda: backend.running == 2)
        single = gateway.classification.Classify(pb.ClassifyRequest(image=sample_image()))
        await backend.until(lambda: backend.running == 3)
        backend.versions[1].gate.set()
        assert (await single).model.version == 1
        assert len((await batch).results) == 8


async def test_too_many_bulk_calls_are_shed() -> None:
    async with serving_gateway(max_bulk_calls=1) as (gateway, backend):
        backend.versions[1].gate.clear()
        request = pb.BatchClassifyRequest(items=[pb.BatchClassifyItem(image=sample_image())])
        first = gateway.classification.BatchClassify(request)
        await backend.until(lambda: backend.running == 1)
        for call in (gateway.classification.BatchClassify(request), stream_of(gateway, [])):
            refused = await failure(call)
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        backend.versions[1].gate.set()
        await first
