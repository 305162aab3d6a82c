"""The model server as the gateway needs it, and TensorFlow Serving as such a model server.

`Backend` is the port that router, verification and pipeline speak to. `TensorFlowServing` speaks TensorFlow
Serving's gRPC API through the project's own wire-compatible messages, so that no TensorFlow is imported.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import Final, Protocol

import grpc
import grpc.aio
from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import (
    BackendAnswerInvalidError,
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.observability.logging import log

from .tfs_messages import (
    Outputs,
    Pixels,
    describe_request,
    predict_images_request,
    read_manifest,
    read_outputs,
    read_statuses,
)

_PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
_RELOAD: Final = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
_OVERLOAD_RETRY_SECONDS: Final = 0.2
_NO_THREAD: Final = "Server Threadpool Exhausted"
"""With RESOURCE_EXHAUSTED: the call was not begun. The same code has other meanings with other texts."""
_TOO_LARGE: Final = re.compile(r"message larger than max|metadata size exceeds limit")
"""With RESOURCE_EXHAUSTED: the server is set up for smaller answers or headers, so no repetition helps."""
_FAULTS: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_UNREACHED: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}

_OPTIONS: Final = (
    # Whatever the gateway let in must pass here.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A model server that comes back is noticed within moments.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 300),
    # Finds servers that hang, which busy ones do not: their transport still answers. Nothing else
    # sends pings, and polls come more often, so there are some only when nothing comes back, and
    # the server's limit on idle pings is never met.
    ("grpc.keepalive_time_ms", 900),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.http2.bdp_probe", 0),
    # A proxy in the environment is for the web, not for the neighbour.
    ("grpc.enable_http_proxy", 0),
)

_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class BackendVersion:
    """One version as the model server reports it."""

    number: int
    state: tfs_pb2.ModelVersionStatus.State
    error: str = ""
    """Why it failed to load; empty when it did not fail."""


class VersionUnloadedError(Exception):
    """The model server has not, or no longer, loaded the version that was asked."""


class VersionRefusedError(VersionUnloadedError):
    """The model server has the version but refuses to run it as asked.

    To a caller that is the same as unloaded: the version must be proven again before it answers.
    """


class BackendFaultError(BackendAnswerInvalidError):
    """Something broke in the model server, which says nothing about the version that was asked."""


class ServerFullError(OverloadedError):
    """The model server had no thread for the call, which therefore had no effect: it may be sent again."""


class ReloadRefusedError(Exception):
    """The model server does not take a configuration over; the message has its status and its own words."""


class Backend(Protocol):
    """A model server.

    Every method that asks something may raise `BackendUnavailableError`, `DeadlineTooShortError`,
    `ServerFullError`, `OverloadedError` (it lacks something else) and `BackendAnswerInvalidError` (it
    refused, or its answer makes no sense).
    """

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """Every version of the model that the server has seen; empty for an unknown model."""

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        """The version's serialized manifest. Raises `VersionUnloadedError`."""

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image, uint8 [height, width, 3]. Raises `VersionUnloadedError`."""

    async def reload(self, config: tfs_pb2.ModelServerConfig) -> None:
        """Has the server take a configuration over, however long that takes. Raises `ReloadRefusedError`."""

    async def connected(self) -> None:
        """Waits until there is a connection."""

    async def disconnected(self) -> None:
        """Waits until there is none: what answers after that may be another server."""

    async def close(self) -> None:
        """Ends the connection and cancels what is still running on it."""


class TensorFlowServing:
    """A TensorFlow Serving model server, real or embedded, behind one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        # Without deserializers, so that an undecodable answer is this module's error and not gRPC's.
        self._predict: _Method = self._channel.unary_unary(_PREDICT)
        self._status: _Method = self._channel.unary_unary(_STATUS)
        self._reload: _Method = self._channel.unary_unary(_RELOAD)

    async def close(self) -> None:
        """Closes the channel and cancels what is still running on it."""
        await self._channel.close()

    async def connected(self) -> None:
        """Waits until there is a connection."""
        while (state := self._channel.get_state()) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def disconnected(self) -> None:
        """Waits until the present connection has ended."""
        if (state := self._channel.get_state()) is grpc.ChannelConnectivity.READY:
            # Once, since it may be connected anew by the time that this runs.
            await self._channel.wait_for_state_change(state)

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """Every version of the model that the server has seen; empty for an unknown model."""
        request = tfs_pb2.GetModelStatusRequest(model_spec=tfs_pb2.ModelSpec(name=model))
        try:
            # Polls repeat; the router logs what comes of them, once.
            answer = await self._call(self._status, request.SerializeToString(), seconds, level=logging.DEBUG)
        except VersionUnloadedError:
            return []
        response = read_statuses(answer)
        return [
            BackendVersion(
                entry.version,
                entry.state,
                f"{_code_name(entry.status.error_code)}: {entry.status.error_message}"
                if entry.status.error_code
                else "",
            )
            for entry in response.model_version_status
        ]

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        """The version's serialized manifest, from its signature "describe"."""
        request = describe_request(model, version).SerializeToString()
        return read_manifest(await self._call(self._predict, request, seconds))

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image through "serving_default" of exactly this version."""
        request = predict_images_request(model, version, pixels, gradcam=gradcam)
        answer = await self._call(self._predict, request, seconds)
        return read_outputs(answer, version, classes=classes, gradcam=gradcam)

    async def reload(self, config: tfs_pb2.ModelServerConfig) -> None:
        """Has the server take a configuration over; new models are loaded when this returns."""
        request = tfs_pb2.ReloadConfigRequest(config=config)
        try:
            await self._reload(request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNREACHED or error.details() == _NO_THREAD:
                raise _translate(error, logging.WARNING) from error
            raise ReloadRefusedError(f"{error.code().name}: {error.details()}") from error

    async def _call(
        self, method: _Method, request: bytes, seconds: float, *, level: int = logging.WARNING
    ) -> bytes:
        if seconds <= 0:
            raise DeadlineTooShortError("no time is left for the model server")
        try:
            return await method(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _translate(error, level) from error


def _translate(error: grpc.aio.AioRpcError, level: int) -> GatewayError | VersionUnloadedError:
    """What a failed call to the model server means here; its own text goes to the log, not to callers."""
    code, text = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return VersionUnloadedError("the model server has not loaded it")
        case grpc.StatusCode.FAILED_PRECONDITION:
            log(level, "backend_refused", code=code.name, message=text)
            return VersionRefusedError("the model server refused the call with FAILED_PRECONDITION")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.ABORTED:
            # CANCELLED is the server's doing here: a cancellation of ours is asyncio.CancelledError.
            return BackendUnavailableError("the model server cannot be reached or is not ready")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineTooShortError("the model server did not answer before the deadline")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if not _TOO_LARGE.search(text):
            kind = ServerFullError if text == _NO_THREAD else OverloadedError
            return kind("the model server is overloaded", retry_after=_OVERLOAD_RETRY_SECONDS)
        case _:
            log(level, "backend_refused", code=code.name, message=text)
            fault = BackendFaultError if code in _FAULTS else BackendAnswerInvalidError
            return fault(
                f"the model server refused the call with {code.name}", metadata={"backend_code": code.name}
            )


def _code_name(number: int) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code.name
    return f"code {number}"
