"""Versions come, go, break and change under load; ModelService and health tell the truth about it."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_core.preprocessing.transform import default_spec, pixels_digest, transform
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.fake_model import fake_outputs
from neurogate_testing.gateway_harness import (
    NOT_SERVING,
    SERVING,
    Harness,
    failure,
    running_gateway,
    serving_gateway,
)
from neurogate_testing.images import encode
from PIL import Image

READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED
PROVING = model_pb2.MODEL_VERSION_STATE_PROVING
LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
SERVICES = ("", "neurogate.v1.ClassificationService")
REQUEST = pb.ClassifyRequest(image=sample_image())


async def versions(gateway: Harness) -> dict[int, int]:
    response = await gateway.models.ListModelVersions(model_pb2.ListModelVersionsRequest())
    return {version.version: version.state for version in response.versions}


async def clients_without_pause(gateway: Harness, stop: asyncio.Event, count: int = 4) -> list[int]:
    """Versions that answered `count` clients who classify one image after another until told to stop."""

    async def client() -> list[int]:
        answered = []
        while not stop.is_set():
            answered.append((await gateway.classification.Classify(REQUEST, timeout=20)).model.version)
        return answered

    return [
        version for answers in await asyncio.gather(*(client() for _ in range(count))) for version in answers
    ]


@pytest.mark.parametrize("overlap", [True, False], ids=["both loaded for a while", "old unloaded at once"])
async def test_hot_swap_fails_no_request(overlap: bool) -> None:
    async with serving_gateway() as (gateway, backend):
        stop = asyncio.Event()
        clients = asyncio.create_task(clients_without_pause(gateway, stop))
        await backend.until(lambda: len(backend.predicts) > 20)
        for number in range(2, 6):
            backend.add_version(number)
            if overlap:
                await gateway.until_ready(number)
            # Without overlap the backend unloads the old version before the gateway knows of the new one.
            backend.unload(number - 1)
            await gateway.until_ready(number)
            seen = len(backend.predicts)
            await backend.until(lambda seen=seen: len(backend.predicts) > seen + 20)  # type: ignore[misc]
        stop.set()
        answered = await clients
        assert set(answered) == {1, 2, 3, 4, 5}


async def test_a_batch_meets_a_swap() -> None:
    async with serving_gateway(stream_window=2) as (gateway, backend):
        backend.versions[1].gate.clear()
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(6)]
        call = gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        await backend.until(lambda: backend.running == 2)
        backend.add_version(2)
        backend.unload(1)
        backend.versions[1].gate.set()
        response = await call
        assert response.model.version == 2
        assert all(result.HasField("classification") for result in response.results)


async def test_who_names_a_number_gets_it_or_an_error() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].gate.clear()
        request = pb.ClassifyRequest(image=sample_image(), model=model_pb2.ModelSelector(version=1))
        call = gateway.classification.Classify(request)
        await backend.until(lambda: backend.running == 1)
        backend.add_version(2)
        backend.unload(1)
        backend.versions[1].gate.set()
        failed = await failure(call)
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")


async def test_a_swap_to_nothing_is_unavailable_and_does_not_wait_for_ever() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.unload(1)
        failed = await failure(gateway.classification.Classify(REQUEST, timeout=20))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
        assert await gateway.check() == NOT_SERVING


async def test_a_version_that_refuses_to_run_is_proven_again_and_rejected() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].refusal = (grpc.StatusCode.FAILED_PRECONDITION, "Could not find variable w.")
        failed = await failure(gateway.classification.Classify(REQUEST, timeout=20))
        assert failed.code is grpc.StatusCode.UNAVAILABLE
        version = await gateway.until_state(1, REJECTED)
        assert "goldens differ" in version.state_reason


async def test_the_proof_comes_before_the_first_answer() -> None:
    async with FakeBackend() as backend:
        backend.add_version(1).gate.clear()
        async with running_gateway(backend) as gateway:
            await backend.until(lambda: backend.running == 1)
            assert await versions(gateway) == {1: PROVING}
            assert await gateway.check() == NOT_SERVING
            request = pb.ClassifyRequest(image=sample_image(), model=model_pb2.ModelSelector(version=1))
            failed = await failure(gateway.classification.Classify(request))
            assert failed.reason == "MODEL_VERSION_NOT_FOUND"
            waiting = gateway.classification.Classify(REQUEST)
            backend.versions[1].gate.set()
            assert (await waiting).model.version == 1
            assert await gateway.check() == SERVING


async def test_a_version_of_the_previous_revision_is_served_by_its_own_rule() -> None:
    """An upgrade of the gateway rejects nothing that it served before, deep gray in its goldens included."""
    spec = default_spec(32, 32)
    spec.revision = 1
    manifest = build_manifest(1, spec=spec)
    deep = encode(Image.fromarray(np.arange(0, 300, 0.5).reshape(20, 30).astype(np.uint16)), "PNG")
    pixels = transform(deep, spec)
    assert (pixels != transform(deep, default_spec(32, 32))).any()
    manifest.goldens[0].image = deep
    manifest.goldens[0].pixels_sha256 = pixels_digest(pixels)
    manifest.goldens[0].probabilities[:] = fake_outputs(pixels[np.newaxis], 1, 4)["probabilities"][0].tolist()
    async with FakeBackend() as backend:
        backend.add_version(1, manifest)
        backend.add_version(2)
        async with running_gateway(backend) as gateway:
            await gateway.until_ready(1)
            await gateway.until_ready(2)
            request = pb.ClassifyRequest(image=deep, model=model_pb2.ModelSelector(version=1))
            answer = await gateway.classification.Classify(request)
            assert answer.model.version == 1


async def test_the_backend_goes_and_comes_back() -> None:
    async with serving_gateway() as (gateway, backend):
        assert [await gateway.check(service) for service in SERVICES] == [SERVING, SERVING]
        await backend.stop()
        for service in SERVICES:
            await gateway.until_health(NOT_SERVING, service)
        failed = await failure(gateway.classification.Classify(REQUEST))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
        assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        assert await gateway.check("neurogate.v1.ModelService") == SERVING
        assert await versions(gateway) == {1: LOADING}
        backend.predicts.clear()
        await backend.start()
        await gateway.until_health(SERVING)
        # It may be another server, so the version is proven again.
        assert backend.predicts == [1] * 4
        assert (await gateway.classification.Classify(REQUEST)).model.version == 1


async def test_the_backend_goes_during_a_call() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].gate.clear()
        call = gateway.classification.Classify(REQUEST)
        await backend.until(lambda: backend.running == 1)
        await backend.stop()
        failed = await failure(call)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")


async def test_the_gateway_starts_before_the_backend() -> None:
    backend = FakeBackend()
    await backend.start()
    await backend.stop()
    backend.add_version(1)
    async with running_gateway(backend) as gateway:
        failed = await failure(gateway.classification.Classify(REQUEST))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
        assert await gateway.check() == NOT_SERVING
        async with backend:
            await gateway.until_health(SERVING)


async def test_health_watch_follows_and_ends_when_the_gateway_drains() -> None:
    async with serving_gateway() as (gateway, backend):
        watch = gateway.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]))
        assert (await watch.read()).status == SERVING
        failed = await failure(gateway.health.Check(health_pb2.HealthCheckRequest(service="x")))
        assert failed.code is grpc.StatusCode.NOT_FOUND
        unknown = gateway.health.Watch(health_pb2.HealthCheckRequest(service="x"))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        backend.unload(1)
        assert (await watch.read()).status == NOT_SERVING
        backend.add_version(2)
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(gateway.gateway.stop())
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await unknown.read() is grpc.aio.EOF
        await stopping


async def test_a_health_watch_that_ends_cuts_no_other_off() -> None:
    async with serving_gateway() as (gateway, backend):
        first, second = (gateway.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        for watch in (first, second):
            assert (await watch.read()).status == SERVING
        first.cancel()
        backend.unload(1)
        assert (await second.read()).status == NOT_SERVING
        second.cancel()


async def test_health_stays_serving_while_calls_wait_for_the_next_version() -> None:
    async with serving_gateway() as (gateway, backend):
        told = []

        async def watch() -> None:
            async for response in gateway.health.Watch(health_pb2.HealthCheckRequest()):
                told.append(response.status)  # noqa: PERF401 - it is looked at while the stream goes on

        watching = asyncio.create_task(watch())
        backend.add_version(2).gate.clear()
        backend.unload(1)
        call = gateway.classification.Classify(REQUEST)
        await backend.until(lambda: backend.running == 1)
        assert await gateway.check() == SERVING
        backend.versions[2].gate.set()
        assert (await call).model.version == 2
        watching.cancel()
        assert told == [SERVING]


async def test_listing_pages_newest_first() -> None:
    async with FakeBackend() as backend:
        for number in range(1, 8):
            backend.add_version(number)
        async with running_gateway(backend) as gateway:
            await gateway.until_ready(1)
            seen: list[int] = []
            token = ""
            while True:
                request = model_pb2.ListModelVersionsRequest(page_size=3, page_token=token)
                response = await gateway.models.ListModelVersions(request)
                seen += [version.version for version in response.versions]
                token = response.next_page_token
                if not token:
                    break
                if seen == [7, 6, 5]:
                    backend.add_version(8)
                    await gateway.until_ready(8)
            assert seen == [7, 6, 5, 4, 3, 2, 1]
            everything = await gateway.models.ListModelVersions(model_pb2.ListModelVersionsRequest())
            assert [version.version for version in everything.versions] == list(range(8, 0, -1))
            first = everything.versions[0]
            assert (first.state, list(first.labels)) == (READY, ["latest", "stable"])
            assert not first.manifest.goldens
            assert not first.manifest.files
            assert first.manifest.classes[0].id == "glioma"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (model_pb2.ListModelVersionsRequest(page_size=-1), "PAGE_INVALID"),
        (model_pb2.ListModelVersionsRequest(page_token="x"), "PAGE_INVALID"),
        (
            model_pb2.ListModelVersionsRequest(page_token="dmVyc2lvbnM6ZTNiMGM0NDI5OGZjMWMxNDow"),
            "PAGE_INVALID",
        ),
        (model_pb2.ListModelVersionsRequest(page_token="é" * 1000), "PAGE_INVALID"),
        (model_pb2.ListModelVersionsRequest(model="x"), "MODEL_NOT_FOUND"),
        (model_pb2.GetModelVersionRequest(model="x", version=1), "MODEL_NOT_FOUND"),
        (model_pb2.GetModelVersionRequest(), "MODEL_SELECTOR_INVALID"),
        (model_pb2.GetModelVersionRequest(version=-1), "MODEL_SELECTOR_INVALID"),
        (model_pb2.GetModelVersionRequest(version=9), "MODEL_VERSION_NOT_FOUND"),
    ],
)
async def test_bad_model_requests(request_: Message, reason: str) -> None:
    async with serving_gateway() as (gateway, _):
        method = type(request_).__name__.removesuffix("Request")
        failed = await failure(getattr(gateway.models, method)(request_))
        assert failed.reason == reason


async def test_the_whole_manifest_of_one_version() -> None:
    async with FakeBackend() as backend:
        spec = default_spec(48, 24)
        manifest = build_manifest(1, spec=spec)
        backend.add_version(1, manifest)
        async with running_gateway(backend) as gateway:
            await gateway.until_ready(1)
            version = (
                await gateway.models.GetModelVersion(model_pb2.GetModelVersionRequest(version=1))
            ).version
            assert version.manifest == manifest
            assert (version.model, version.version, version.state) == ("brain_tumor", 1, READY)
            response = await gateway.classification.Classify(REQUEST)
            assert response.model.manifest_digest == version.manifest_digest
            assert version.state_time.seconds > 1_600_000_000


async def test_a_restart_between_two_polls_is_noticed() -> None:
    async with serving_gateway(poll_interval_seconds=5) as (gateway, backend):
        await backend.stop()
        await gateway.until_connected(False)
        backend.add_version(1, build_manifest(1, classes=(("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"))))
        await backend.start()
        await gateway.until_ready(1)
        response = await gateway.classification.Classify(REQUEST)
        assert {score.class_id for score in response.classification.scores} == {"a", "b", "c", "d"}


async def test_a_call_by_label_that_meets_two_unloadings_may_be_tried_again() -> None:
    async with serving_gateway() as (gateway, backend):
        for number in (1, 2):
            backend.add_version(number)
            await gateway.until_ready(number)
            backend.versions[number].gate.clear()
        backend.unload(1)
        call = gateway.classification.Classify(REQUEST)
        await backend.until(lambda: backend.running == 1)
        backend.add_version(3)
        backend.unload(2)
        await gateway.until_ready(3)
        backend.versions[3].gate.clear()
        backend.predicts.clear()
        backend.versions[2].gate.set()
        await backend.until(lambda: backend.predicts == [3])
        backend.unload(3)
        backend.versions[3].gate.set()
        failed = await failure(call)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")


async def test_a_gateway_without_a_release_says_so() -> None:
    async with serving_gateway() as (gateway, _):
        for name in ("PromoteModelVersion", "RollbackModel", "SetTrafficSplit", "ListReleaseChanges"):
            failed = await failure(getattr(gateway.models, name)(getattr(model_pb2, f"{name}Request")()))
            assert (failed.code, failed.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "RELEASE_NOT_MANAGED",
            )
