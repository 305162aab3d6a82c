"""Model servers that say what a test tells them to say, and the pool in front of them, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import numpy as np
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import serialize_manifest
from neurogate_gateway.backends.discovery import discover
from neurogate_gateway.backends.endpoint import BackendEndpoint
from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import (
    BackendVersion,
    Outputs,
    Pixels,
    TensorFlowServing,
)
from neurogate_gateway.backends.verification import VersionVerifier
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.preprocessing import TransformPool

from .fake_model import build_manifest, fake_outputs

States = tfs_pb2.ModelVersionStatus


class ScriptedBackend:
    """One model server."""

    def __init__(self) -> None:
        self.listed: list[BackendVersion] | GatewayError = []
        """What the next polls answer."""
        self.poll_seconds: list[float] = []
        self.predict_seconds: list[float] = []
        self.described: list[int] = []
        self.manifests: dict[int, manifest_pb2.ModelManifest] = {}
        self.failure: Exception | None = None
        """What predictions raise."""
        self.gate = asyncio.Event()
        """Predictions wait until it is set, as it is from the beginning."""
        self.gate.set()
        self.began = asyncio.Event()
        self.begun = self.predicting = self.most_predicting = 0
        self.connection_ends = asyncio.Event()

    def list_versions(
        self, *numbers: int, state: States.State = States.STATE_AVAILABLE, error: str = ""
    ) -> None:
        self.listed = [BackendVersion(number, state, error) for number in numbers]

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        self.poll_seconds.append(seconds)
        if isinstance(self.listed, GatewayError):
            raise self.listed
        return self.listed

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        self.described.append(version)
        return serialize_manifest(self.manifests.get(version) or build_manifest(version))

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        self.begun += 1
        self.predict_seconds.append(seconds)
        self.predicting += 1
        self.began.set()
        self.most_predicting = max(self.most_predicting, self.predicting)
        try:
            await self.gate.wait()
        finally:
            self.predicting -= 1
        if self.failure is not None:
            raise self.failure
        outputs = fake_outputs(pixels[np.newaxis], version)
        return Outputs(outputs["probabilities"][0], float(outputs["ood_score"][0]))

    async def connected(self) -> None:
        pass

    async def disconnected(self) -> None:
        await self.connection_ends.wait()
        self.connection_ends.clear()

    async def close(self) -> None:
        pass


class ScriptedPool:
    """A pool in front of some servers, which are polled when a test says so."""

    def __init__(self, transforms: TransformPool, count: int = 1) -> None:
        self.servers = [ScriptedBackend() for _ in range(count)]
        made = iter(self.servers)
        self.pool = BackendPool(
            discover("a:1"),
            lambda _: cast("TensorFlowServing", next(made)),
            VersionVerifier(transforms.pixels, None, model="brain_tumor", seconds_per_call=5),
            poll_interval=1,
        )
        self.endpoints = [self.pool.endpoint(f"a:{number}") for number in range(1, count + 1)]

    async def poll(self, endpoint: BackendEndpoint) -> None:
        """One poll, and the verifications that follow from it."""
        await endpoint.poll()
        while running := [entry.verification for entry in endpoint.entries.values() if entry.verification]:
            await asyncio.wait(running)


@pytest.fixture
async def transforms() -> AsyncIterator[TransformPool]:
    """A thread for the transform, ended after the test."""
    made = TransformPool(1)
    yield made
    made.close()
