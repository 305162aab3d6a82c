"""Metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from typing import Any

import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.app import Gateway
from neurogate_gateway.observability.metrics import PrometheusMetrics, serve_metrics
from neurogate_gateway.settings import PortUnavailableError, Settings
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.gateway_harness import Harness, failure, running_gateway, serving_gateway
from prometheus_client.parser import text_string_to_metric_families

IMAGE = sample_image()
READY = model_pb2.MODEL_VERSION_STATE_READY
METRICS = {"metrics_address": "127.0.0.1:0"}


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        return str(response.read().decode())


class Found:
    """What was read."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        [value] = [sample.value for sample in self.samples if (sample.name, sample.labels) == (name, labels)]
        return float(value)


async def read(gateway: Harness) -> Found:
    metrics = gateway.gateway.metrics
    assert isinstance(metrics, PrometheusMetrics)
    return Found(await asyncio.to_thread(get, metrics.port))


async def classify(gateway: Harness, **fields: Any) -> None:
    await gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE, **fields))


CLASSIFY = "ClassificationService/Classify"


async def test_calls_and_images_are_counted() -> None:
    async with serving_gateway(**METRICS) as (gateway, backend):
        for _ in range(3):
            await classify(gateway)
        await classify(gateway, model=model_pb2.ModelSelector(version=1))
        await failure(gateway.classification.Classify(pb.ClassifyRequest()))
        items = [pb.BatchClassifyItem(image=image) for image in (IMAGE, b"no image")]
        await gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        backend.versions[1].change = lambda _: {}
        await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE)))
        found = await read(gateway)
    assert found.value("neurogate_requests_total", method=CLASSIFY, code="OK") == 4
    assert found.value("neurogate_requests_total", method=CLASSIFY, code="INVALID_ARGUMENT") == 1
    assert (
        found.value("neurogate_requests_total", method="ClassificationService/BatchClassify", code="OK") == 1
    )
    assert found.value("neurogate_request_seconds_count", method=CLASSIFY) == 6
    assert found.value("neurogate_refusals_total", reason="IMAGE_EMPTY") == 1
    assert found.value("neurogate_images_total", version="1", label="stable", verdict="CONFIDENT") == 4
    assert found.value("neurogate_images_total", version="1", label="", verdict="CONFIDENT") == 1
    assert found.value("neurogate_image_seconds_count", version="1") == 5
    assert (
        found.value(
            "neurogate_image_failures_total", version="1", label="stable", reason="BACKEND_ANSWER_INVALID"
        )
        == 1
    )
    assert found.value("neurogate_images_in_flight") == 0
    assert found.value("process_resident_memory_bytes") > 0


async def test_what_is_in_flight_is_shown() -> None:
    async with serving_gateway(max_in_flight=2, **METRICS) as (gateway, backend):
        backend.versions[1].gate.clear()
        calls = [asyncio.create_task(classify(gateway)) for _ in range(2)]
        await backend.until(lambda: backend.running == 2)
        await failure(gateway.classification.Classify(pb.ClassifyRequest(image=IMAGE)))
        found = await read(gateway)
        assert found.value("neurogate_images_in_flight") == 2
        assert found.value("neurogate_refusals_total", reason="OVERLOADED") == 1
        backend.versions[1].gate.set()
        await asyncio.gather(*calls)


async def test_versions_and_model_servers_are_shown() -> None:
    async with FakeBackend() as first, FakeBackend() as second:
        for backend in (first, second):
            backend.add_version(1)
        manifest = build_manifest(2)
        manifest.goldens[0].probabilities[:] = [0.25] * 4
        first.add_version(2, manifest)
        async with running_gateway(first, second, **METRICS) as gateway:
            for backend in (first, second):
                await gateway.until_there(backend, 1, READY)
            await gateway.until_state(2, model_pb2.MODEL_VERSION_STATE_REJECTED)
            await second.stop()
            while gateway.gateway.pool.backends[second.address]:
                await gateway.gateway.pool.next_change.wait()
            found = await read(gateway)
    assert found.value("neurogate_backend_up", backend=first.address) == 1
    assert found.value("neurogate_backend_up", backend=second.address) == 0
    assert found.value("neurogate_versions", backend=first.address, state="READY") == 1
    assert found.value("neurogate_versions", backend=first.address, state="REJECTED") == 1
    assert found.value("neurogate_versions", backend=second.address, state="LOADING") == 1
    assert found.value("neurogate_versions_rejected_total", kind="goldens_differ") == 1


async def test_made_up_methods_make_no_metrics() -> None:
    async with serving_gateway(**METRICS) as (gateway, _):
        gateway.gateway._interceptor.drain()
        await failure(gateway.channel.unary_unary("/neurogate.v1.Made/Up")(b""))
        found = await read(gateway)
    assert not [sample for sample in found.samples if "Made/Up" in str(sample.labels)]


async def test_an_address_is_taken_until_the_gateway_ends() -> None:
    async with serving_gateway(**METRICS) as (gateway, _):
        metrics = gateway.gateway.metrics
        assert isinstance(metrics, PrometheusMetrics)
        address = f"127.0.0.1:{metrics.port}"
        with pytest.raises(PortUnavailableError, match=f"cannot serve metrics on {address}"):
            Gateway(Settings(listen="127.0.0.1:0", metrics_address=address))
    again = PrometheusMetrics("127.0.0.1", metrics.port)
    assert "process_cpu_seconds_total" in await asyncio.to_thread(get, again.port)
    again.close()


def test_without_an_address_everything_can_be_counted_and_nothing_is() -> None:
    metrics = serve_metrics("")
    assert not metrics.enabled
    metrics.counter("a_total", "A.", "b").labels("c").inc()
    metrics.histogram("a_seconds", "A.").observe(1)
    metrics.gauge("a", "A.", lambda: pytest.fail("it was read"))
    metrics.close()


async def test_without_an_address_prometheus_is_not_imported() -> None:
    script = "import neurogate_gateway.app, sys; print('prometheus_client' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.strip() == b"False"
