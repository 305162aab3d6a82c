"""grpc.health.v1, by what the router says.

"" and the classification service are SERVING while a call by default would be answered: a version is proven
and the model server can be reached. The model service only reads the router, and the training service is
beside it, so both are SERVING for as long as the gateway takes calls. Watch streams end when the gateway
drains, so that they do not hold it up.

Not the servicer of grpcio-health-checking: with several watchers of one service, the first that leaves cuts
the others off from every later change (seen in 1.81, https://github.com/grpc/grpc/pull/43403 is to mend it),
and its watches have no end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

CLASSIFICATION: Final = "neurogate.v1.ClassificationService"
MODEL: Final = "neurogate.v1.ModelService"
TRAINING: Final = "neurogate.v1.TrainingService"

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers health checks, and watches them."""

    def __init__(self) -> None:
        self._status: dict[str, int] = {
            "": _NOT_SERVING,
            CLASSIFICATION: _NOT_SERVING,
            MODEL: _SERVING,
            TRAINING: _SERVING,
        }
        self._changed = asyncio.Event()
        self._closed = False

    def set_serving(self, serving: bool) -> None:
        """Takes over whether calls by default can be answered; nothing changes any more after `close`."""
        if not self._closed:
            self._update({"": serving, CLASSIFICATION: serving})

    def close(self) -> None:
        """Everything is NOT_SERVING from now on; watchers are told and their streams end."""
        self._closed = True
        self._update(dict.fromkeys(self._status, False))

    def _update(self, serving: dict[str, bool]) -> None:
        changes = {name: _SERVING if value else _NOT_SERVING for name, value in serving.items()}
        if self._closed or any(self._status[name] != status for name, status in changes.items()):
            self._status.update(changes)
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service now."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the protocol's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,  # noqa: ARG002 - the protocol passes it
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one service now and at every change."""
        sent = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _UNKNOWN)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
                # Sending may have taken long enough for another change.
            elif self._closed:
                return
            else:
                await changed.wait()
