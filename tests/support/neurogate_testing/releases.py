"""A repository of fake versions, and fake model servers that load from it what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_core.manifest import read_manifest
from neurogate_core.model_config import read_config
from neurogate_core.repository import ModelRepository

from .fake_backend import FakeBackend, State, build_manifest
from .gateway_harness import Harness, running_gateway

MODEL = "brain_tumor"


def publish_fake(root: Path, change: Callable[[manifest_pb2.ModelManifest], None] = lambda _: None) -> int:
    """Publishes the next version, which a fake backend can serve."""
    repository = ModelRepository(root)
    number = max(repository.versions(MODEL), default=0) + 1
    manifest = build_manifest(number)
    change(manifest)
    with repository.staging(MODEL, f"run-{number}") as staged:
        (staged / "saved_model.pb").write_bytes(b"graph %d" % number)
        assert repository.publish(MODEL, staged, manifest).version == number
    return number


class ManagedBackend(FakeBackend):
    """Loads what its configuration names and takes labels as TensorFlow Serving does by default."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.repository = ModelRepository(root)
        self.labels: dict[str, int] = {}
        self.refused: list[str] = []
        """Why configurations were refused."""
        self.unloadable: set[int] = set()
        """Versions that fail to load."""
        self.slow: set[int] = set()
        """Versions that load for as long as they are in it."""
        self.reloads_answered = asyncio.Event()
        """Configurations wait until it is set, as it is from the beginning."""
        self.reloads_answered.set()

    def configure(self, config: tfs_pb2.ModelServerConfig) -> None:
        """What a server does at its start, with labels allowed for versions that it loads."""
        entry = next(entry for entry in config.model_config_list.config if entry.name == MODEL)
        self._load(entry)
        self.labels = dict(entry.version_labels)

    def _available(self, number: int) -> bool:
        version = self.versions.get(number)
        return version is not None and version.state == State.STATE_AVAILABLE

    def _load(self, entry: tfs_pb2.ModelConfig) -> None:
        policy = entry.model_version_policy
        published = self.repository.versions(MODEL)
        if policy.HasField("specific"):
            wanted = [number for number in policy.specific.versions if number in published]
        else:
            wanted = published[-1:]
        for number in wanted:
            if number in self.unloadable:
                self.break_version(number)
            elif not self._available(number):
                manifest = read_manifest(self.repository.path(MODEL, number))
                state = State.STATE_LOADING if number in self.slow else State.STATE_AVAILABLE
                self.add_version(number, manifest, state=state)
        if any(self._available(number) for number in wanted):
            for number in self.versions.keys() - set(wanted):
                self.versions[number].state = State.STATE_END

    async def _reload(
        self, request: tfs_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tfs_pb2.ReloadConfigResponse:
        self.reloads.append(request.config)
        await self._advanced()
        await self.reloads_answered.wait()
        entry = next(entry for entry in request.config.model_config_list.config if entry.name == MODEL)
        for label, number in entry.version_labels.items():
            if not self._available(number):
                text = f"Request to assign label {label} to version {number}, which is not available"
                self.refused.append(text)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        self.labels = dict(entry.version_labels)
        self._load(entry)
        await self._advanced()
        return tfs_pb2.ReloadConfigResponse(status=tfs_pb2.StatusProto())


@dataclasses.dataclass
class Released:
    """A gateway that manages the release, its model server and its repository."""

    root: Path
    gateway: Harness
    backend: ManagedBackend

    async def release(self) -> model_pb2.Release:
        """The release now."""
        return (await self.gateway.models.GetRelease(model_pb2.GetReleaseRequest())).release

    async def until(
        self, condition: Callable[[model_pb2.Release], bool], models: Any = None
    ) -> model_pb2.Release:
        """Waits, by watching, until the release is as it should be."""
        watch = (models or self.gateway.models).WatchModelVersions(model_pb2.WatchModelVersionsRequest())
        try:
            async for event in watch:
                if event.HasField("release") and condition(event.release):
                    return event.release
        finally:
            watch.cancel()
        raise AssertionError("the stream ended before the release was as it should be")

    async def until_labels(self, models: Any = None, **labels: int) -> model_pb2.Release:
        """Waits until the labels are exactly these."""
        return await self.until(lambda release: dict(release.labels) == labels, models)

    async def until_told(self, **labels: int) -> None:
        """Waits until the model server has exactly these labels."""
        await self.backend.until(lambda: self.backend.labels == labels)

    async def promote(self, version: int, **fields: Any) -> model_pb2.PromoteModelVersionResponse:
        request = model_pb2.PromoteModelVersionRequest(version=version, **fields)
        response: model_pb2.PromoteModelVersionResponse = await self.gateway.models.PromoteModelVersion(
            request
        )
        return response


@contextlib.asynccontextmanager
async def released_gateway(root: Path, versions: int = 1, **changes: Any) -> AsyncIterator[Released]:
    """A gateway over a repository; version 1 is "stable", the others are published after it."""
    if not ModelRepository(root).versions(MODEL):
        publish_fake(root)
    async with ManagedBackend(root) as backend:
        config = root / "models.config"
        if config.exists():
            backend.configure(read_config(config))
        else:
            backend.add_version(1, read_manifest(backend.repository.path(MODEL, 1)))
        settings = {"repository": str(root), "retire_after_seconds": 3600.0, **changes}
        async with running_gateway(backend, **settings) as gateway:
            released = Released(root, gateway, backend)
            if settings.get("release_mode") != "latest":
                await released.until(lambda release: "stable" in release.labels)
            for number in range(2, versions + 1):
                assert publish_fake(root) == number
                await gateway.until_ready(number)
            yield released


async def until_judged(at: Released, version: int) -> model_pb2.GateReport:
    """The report that comes by itself, seen by watching."""
    watch = at.gateway.models.WatchModelVersions(model_pb2.WatchModelVersionsRequest())
    try:
        async for event in watch:
            if event.version.version == version and event.version.HasField("gate"):
                return event.version.gate
    finally:
        watch.cancel()
    raise AssertionError("the stream ended before the gate was asked")
