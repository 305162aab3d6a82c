"""Versions that come while requests run, and the first answer after everything was started anew."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from neurogate.tfs.v1 import tfs_pb2
from neurogate_serving.manifest import read_manifest
from neurogate_serving.repository import ModelRepository

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.generator import Load
from neurogate_bench.machine import ROOT
from neurogate_bench.scenarios.limits import capacity
from neurogate_bench.stats import percentile
from neurogate_bench.systems import Contender, Models

_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


class Publisher(threading.Thread):
    """Publishes copies of a version at intervals, and notes when each was published and became AVAILABLE."""

    def __init__(self, models: Models, repository: Path, address: str, *, count: int, every: float) -> None:
        super().__init__(daemon=True)
        self._models, self._repository, self._address = models, ModelRepository(repository), address
        self._count, self._every = count, every
        self.published: dict[int, float] = {}
        self.available: dict[int, float] = {}
        self.failure: Exception | None = None

    def publish(self) -> int:
        """One more version, a copy of the prepared one."""
        model, source = self._models.model, self._models.optimised / "1"
        with self._repository.staging(model, f"copy-{len(self.published) + 1}") as staged:
            shutil.copytree(source, staged, dirs_exist_ok=True)
            version = self._repository.publish(model, staged, read_manifest(source)).version
        self.published[version] = time.monotonic()
        return version

    def run(self) -> None:
        """Publishes until `count` are out; waits for each to be AVAILABLE."""
        try:
            for _ in range(self._count):
                begin = time.monotonic()
                time.sleep(self._every)
                self._await_available(self.publish(), begin + self._every + 30)
        except Exception as error:  # noqa: BLE001 - handed to the scenario, which fails by it
            self.failure = error

    def _await_available(self, version: int, deadline: float) -> None:
        request = tfs_pb2.GetModelStatusRequest(model_spec=tfs_pb2.ModelSpec(name=self._models.model))
        with grpc.insecure_channel(self._address) as channel:
            status = channel.unary_unary(
                _STATUS,
                request_serializer=tfs_pb2.GetModelStatusRequest.SerializeToString,
                response_deserializer=tfs_pb2.GetModelStatusResponse.FromString,
            )
            while time.monotonic() < deadline:
                states = {
                    entry.version: entry.state for entry in status(request, timeout=5).model_version_status
                }
                if states.get(version) == tfs_pb2.ModelVersionStatus.STATE_AVAILABLE:
                    self.available[version] = time.monotonic()
                    return
                time.sleep(0.02)
        raise TimeoutError(f"version {version} did not become AVAILABLE")


def swap(context: Context, settings: Mapping[str, Any]) -> None:
    """New versions under steady load: nobody may notice more than a little time."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    repository = ROOT / "build" / "bench" / "swap"
    shutil.rmtree(repository, ignore_errors=True)
    first = Publisher(models, repository, "", count=1, every=0)
    first.publish()
    flags = ["--tensorflow_intra_op_parallelism=1", "--file_system_poll_wait_seconds=1"]
    model_server, address = systems.start_model_server(
        "swap-server", models, repository / models.model, flags
    )
    with model_server:
        gateway, listening = systems.start_gateway(context.model, address)
        with gateway:
            record.commands.update({"model server": model_server.command, "gateway": gateway.command})
            job = {"call": "classify", "target": listening, "expected": expected}
            contender = Contender("gateway", job, [gateway, model_server])
            context.load(contender, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
            rate = settings["share"] * capacity(context, contender, 3)
            begun = time.monotonic()
            publisher = Publisher(
                models, repository, address, count=settings["swaps"], every=settings["every"]
            )
            publisher.published.update(first.published)
            publisher.start()
            load = _load_until_published(context, contender, publisher, rate, settings)
            if publisher.failure:
                raise publisher.failure
            record.add("gateway", "memory after", "MiB", gateway.resident_mib())
            record.add("model server", "memory after", "MiB", model_server.resident_mib())
    _judge_swap(context, publisher, load, begun + settings["every"])
    record.add("gateway", "rate", "images/s", rate)


def _load_until_published(
    context: Context, contender: Contender, publisher: Publisher, rate: float, settings: Mapping[str, Any]
) -> Load:
    """Sends until every version has been out for an interval, however long the machine takes to load them."""
    stop = ROOT / "build" / "bench" / "swap" / "enough"
    longest = 60 + 10 * settings["swaps"] * settings["every"]
    job = context.job(contender, mode="open", rate=rate, seconds=longest, stop_file=str(stop))
    with context.watched(contender) as observe:
        used = context.generator.begin(job)
        publisher.join(timeout=longest - settings["every"])
        time.sleep(settings["every"])
        stop.touch()
        load = context.generator.finish(used)
        observe(load)
    return load


def _judge_swap(context: Context, publisher: Publisher, load: Load, steady_until: float) -> None:
    record = context.record
    pairs = list(zip(load.finished, load.latencies_ms, strict=True))
    steady = percentile([taken for finished, taken in pairs if finished < steady_until], 99)
    swapping = percentile([taken for finished, taken in pairs if finished >= steady_until], 99)
    record.add("gateway", "p99 before the swaps", "ms", steady)
    record.add("gateway", "p99 during the swaps", "ms", swapping)
    record.add("gateway", "p99, during / before", "", swapping / steady)
    record.add("gateway", "errors", "requests", load.requests - load.answered)
    changes = [version for version in publisher.available if version in load.first_seen]
    for version in changes:
        seen = load.first_seen[version]
        record.add("gateway", "published to first answer", "s", seen - publisher.published[version])
        record.add("gateway", "AVAILABLE to first answer", "s", seen - publisher.available[version])
    record.details["answers by version"] = {
        str(version): count for version, count in sorted(load.versions.items())
    }
    record.judge("failed requests", "<=", 0, load.requests - load.answered)
    record.judge("versions that were seen to take over", ">=", len(publisher.available), len(changes))
    if changes:
        slowest = record.figure("gateway", "AVAILABLE to first answer")["max"]
        record.judge("AVAILABLE to first answer, slowest", "<=", 3, slowest, "s")
    record.judge("p99, during / before", "<=", 2, swapping / steady)
    timeline = sorted((round(finished - steady_until, 3), round(taken, 2)) for finished, taken in pairs)
    record.details["timeline"] = timeline[:: max(1, len(timeline) // 1500)]
    record.details["published"] = [
        round(moment - steady_until, 2) for moment in publisher.published.values()
    ][1:]


def cold_start(context: Context, settings: Mapping[str, Any]) -> None:
    """Model server and gateway from nothing: when they are ready, and what the first caller pays."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    flags = ["--tensorflow_intra_op_parallelism=1"]
    for run in range(settings["runs"]):
        began = time.monotonic()
        server, address = systems.start_model_server("cold-server", models, models.optimised, flags)
        with server:
            record.add("model server", "start to AVAILABLE", "s", time.monotonic() - began)
            began = time.monotonic()
            gateway, listening = systems.start_gateway(context.model, address)
            with gateway:
                record.add("gateway", "start to serving", "s", time.monotonic() - began)
                job = {"call": "classify", "target": listening, "expected": expected}
                contender = Contender("gateway", job, [gateway, server])
                load, _ = context.load(contender, mode="closed", concurrency=1, seconds=settings["seconds"])
                usual = load.latency(50)
                record.add("gateway", "first answer", "ms", load.latencies_ms[0])
                record.add("gateway", "usual answer (p50)", "ms", usual)
                record.add("gateway", "first / usual", "", load.latencies_ms[0] / usual)
        context.step(run, settings["runs"])
