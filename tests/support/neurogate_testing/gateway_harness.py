"""A gateway inside the test's own loop, on a real socket, with stubs to call it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from typing import Any
from unittest import mock

import grpc
import grpc.aio
import neurogate_gateway.app
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from neurogate.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    training_pb2_grpc,
)
from neurogate_gateway.app import Gateway
from neurogate_gateway.settings import Settings

from .fake_backend import FakeBackend

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclasses.dataclass
class Harness:
    """The gateway and everything to call it with."""

    gateway: Gateway
    settings: Settings
    channel: grpc.aio.Channel
    classification: Any
    models: Any
    health: Any
    training: Any

    async def until_ready(self, version: int) -> None:
        """Waits until a version is READY."""
        await self.until_state(version, model_pb2.MODEL_VERSION_STATE_READY)

    async def until_state(self, version: int, state: model_pb2.ModelVersionState) -> model_pb2.ModelVersion:
        """Waits until a version has a state, and returns it."""
        while True:
            changed = self.gateway.pool.next_change
            view = self.gateway.pool.view(version)
            if view is not None and view.state == state:
                request = model_pb2.GetModelVersionRequest(version=version)
                return (await self.models.GetModelVersion(request)).version
            await changed.wait()

    async def until_there(
        self, backend: FakeBackend, version: int, state: model_pb2.ModelVersionState
    ) -> str:
        """Waits until a version has a state on one model server, and returns the reason."""
        pool = self.gateway.pool
        while True:
            changed = pool.next_change
            view = pool.view(version)
            for there in view.backends if view is not None else ():
                if (there.address, there.state) == (backend.address, state):
                    return there.reason
            await changed.wait()

    async def until_connected(self, connected: bool) -> None:
        """Waits until the gateway can, or cannot, reach any model server."""
        while self.gateway.pool.connected is not connected:
            await self.gateway.pool.next_change.wait()

    async def check(self, service: str = "") -> int:
        """One health check."""
        return (await self.health.Check(health_pb2.HealthCheckRequest(service=service))).status

    async def until_health(self, status: int, service: str = "") -> None:
        """Waits for a health status by watching."""
        watch = self.health.Watch(health_pb2.HealthCheckRequest(service=service))
        async for response in watch:
            if response.status == status:
                break
        watch.cancel()


@contextlib.asynccontextmanager
async def running_gateway(*backends: FakeBackend | str, **changes: Any) -> AsyncIterator[Harness]:
    """A gateway in front of some backends; `changes` are settings."""
    settings = Settings(
        **{
            "listen": "127.0.0.1:0",
            "backend_address": ",".join(
                backend if isinstance(backend, str) else backend.address for backend in backends
            ),
            "poll_interval_seconds": 0.05,
            "drain_seconds": 0.0,
            **changes,
        }
    )
    gateway = Gateway(settings)
    await gateway.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
            yield Harness(
                gateway,
                settings,
                channel,
                classification_pb2_grpc.ClassificationServiceStub(channel),
                model_pb2_grpc.ModelServiceStub(channel),
                health_pb2_grpc.HealthStub(channel),
                training_pb2_grpc.TrainingServiceStub(channel),
            )
    finally:
        # The pause is for clients that are still calling; here there are none.
        with mock.patch.object(neurogate_gateway.app, "_NOTICE_SECONDS", 0):
            async with asyncio.timeout(30):
                await gateway.stop()


@contextlib.asynccontextmanager
async def serving_gateway(**changes: Any) -> AsyncIterator[tuple[Harness, FakeBackend]]:
    """A gateway that serves version 1 of a fake backend."""
    async with FakeBackend() as backend:
        backend.add_version(1)
        async with running_gateway(backend, **changes) as harness:
            await harness.until_ready(1)
            backend.predicts.clear()
            backend.deadlines.clear()
            backend.filters.clear()
            yield harness, backend


@dataclasses.dataclass
class Failure:
    """A failed call, or a failed item of a call, as a program sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    details: dict[str, Any]


def failure_of(error: grpc.aio.AioRpcError | status_pb2.Status) -> Failure:
    """Status and details; a call without google.rpc details has the reason ""."""
    if isinstance(error, status_pb2.Status):
        status = error
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    else:
        code = error.code()
        status = status_pb2.Status(message=error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status.ParseFromString(value)
                assert (status.code, status.message) == (code.value[0], error.details())
    details: dict[str, Any] = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        message = kind()
        assert packed.Unpack(message)
        details[kind.DESCRIPTOR.name] = message
    info = details.get("ErrorInfo", error_details_pb2.ErrorInfo())
    if "ErrorInfo" in details:
        assert info.domain == "neurogate"
    return Failure(code, info.reason, status.message, dict(info.metadata), details)


async def failure(call: Any) -> Failure:
    """The failure of a call that must fail."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    raise AssertionError(f"the call succeeded: {response}")


async def stream_of(
    harness: Harness,
    requests: Iterable[classification_pb2.StreamClassifyRequest],
    **call: Any,
) -> list[classification_pb2.StreamClassifyResponse]:
    """All answers to a stream of requests."""

    async def send() -> AsyncIterator[classification_pb2.StreamClassifyRequest]:
        for request in requests:
            yield request

    return [response async for response in harness.classification.StreamClassify(send(), **call)]
