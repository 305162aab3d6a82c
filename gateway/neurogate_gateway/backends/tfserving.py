"""TensorFlow Serving as the gateway calls it: the client, and the messages that it writes and checks.

It speaks TensorFlow Serving's gRPC API through the project's own wire-compatible messages, so that no
TensorFlow is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf import empty_pb2, unknown_fields
from google.protobuf.message import DecodeError, Message
from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import (
    BackendAnswerInvalidError,
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.observability.logging import log

_PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
_RELOAD: Final = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
OVERLOAD_RETRY_SECONDS: Final = 0.2
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


Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
_M = TypeVar("_M", bound=Message)
_FILLING: Final = b"\xff"
"""In the place of pixels: no UTF-8 text has it, and no length ends with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """What a version says about one image; all values are finite.

    Attributes:
        probabilities: f32 [classes], 0 to 1.
        ood_score: Larger is farther from the training data.
        gradcam: f32 [h, w, classes], 0 or more; None when it was not asked for.
    """

    probabilities: Floats
    ood_score: float
    gradcam: Floats | None = None


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

    To a caller that is the same as unloaded: the version must be verified again before it answers.
    """


class BackendFaultError(BackendAnswerInvalidError):
    """Something broke in the model server, which says nothing about the version that was asked."""


class ServerFullError(OverloadedError):
    """The model server had no thread for the call, which therefore had no effect: it may be sent again."""


class ReloadRefusedError(Exception):
    """The model server does not take a configuration over; the message has its status and its own words."""


class TensorFlowServing:
    """A TensorFlow Serving model server, real or embedded, behind one channel.

    Every method that asks something may raise `BackendUnavailableError`, `DeadlineTooShortError`,
    `ServerFullError`, `OverloadedError` (the server lacks something else) and `BackendAnswerInvalidError` (it
    refused, or its answer makes no sense).
    """

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
        """Waits until the present connection has ended: what answers after that may be another server."""
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
        """The version's serialized manifest, from its signature "describe". Raises `VersionUnloadedError`."""
        request = describe_request(model, version).SerializeToString()
        return read_manifest(await self._call(self._predict, request, seconds))

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image, uint8 [height, width, 3], by this version alone. Raises `VersionUnloadedError`."""
        request = predict_images_request(model, version, pixels, gradcam=gradcam)
        answer = await self._call(self._predict, request, seconds)
        return read_outputs(answer, version, classes=classes, gradcam=gradcam)

    async def reload(self, config: tfs_pb2.ModelServerConfig) -> None:
        """Has the server take a configuration over, however long that takes. Raises `ReloadRefusedError`."""
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
            return kind("the model server is overloaded", retry_after=OVERLOAD_RETRY_SECONDS)
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


def predict_images_request(model: str, version: int, pixels: Pixels, *, gradcam: bool) -> bytes:
    """The call for one image, uint8 [height, width, 3] without gaps: a quarter of the bytes of floats.

    Put together from bytes, because a message that is built copies the pixels thrice, each time into memory
    fresh from the system.
    """
    before, after = _around_pixels(model, version, pixels.shape, gradcam)
    return b"".join((before, pixels.data, after))


def read_outputs(answer: bytes, version: int, *, classes: int, gradcam: bool) -> Outputs:
    """The outputs for one image, checked against what the version promises.

    Raises:
        BackendAnswerInvalidError: Another version answered, or an output is missing or makes no sense.
    """
    response = _parse(tfs_pb2.PredictResponse, answer)
    if response.model_spec.version.value != version:
        raise BackendAnswerInvalidError(
            f"version {version} was asked, version {response.model_spec.version.value} answered"
        )
    probabilities = _floats(response, "probabilities", (1, classes))[0]
    if (probabilities < 0).any() or (probabilities > 1 + 1e-6).any():
        raise BackendAnswerInvalidError('"probabilities" holds values outside of 0 to 1')
    ood_score = float(_floats(response, "ood_score", (1,))[0])
    maps = None
    if gradcam:
        maps = _floats(response, "gradcam", (1, None, None, classes))[0]
        if (maps < 0).any():
            raise BackendAnswerInvalidError('"gradcam" holds values below 0')
    return Outputs(np.minimum(probabilities, np.float32(1)), ood_score, maps)


def describe_request(model: str, version: int) -> tfs_pb2.PredictRequest:
    """The call for a version's manifest, by its signature "describe"."""
    request = _predict_request(model, version, ["manifest"])
    request.model_spec.signature_name = "describe"
    tensor = request.inputs["index"]
    tensor.dtype = tfs_pb2.DATA_TYPE_INT32
    tensor.tensor_shape.dim.add(size=1)
    tensor.int_val.append(0)
    return request


def read_manifest(answer: bytes) -> bytes:
    """The serialized manifest in the answer of "describe".

    Raises:
        BackendAnswerInvalidError: There is no such output, or not exactly one string in it.
    """
    manifest = _parse(tfs_pb2.PredictResponse, answer).outputs.get("manifest")
    if manifest is None or manifest.dtype != tfs_pb2.DATA_TYPE_STRING:
        raise BackendAnswerInvalidError('signature "describe" does not answer with a string "manifest"')
    if len(manifest.string_val) == 1:
        return bytes(manifest.string_val[0])
    return _single_string(manifest.tensor_content)


def read_statuses(answer: bytes) -> tfs_pb2.GetModelStatusResponse:
    """The answer to GetModelStatus, even with texts that are not UTF-8.

    The real server puts the raw bytes of a broken warm-up file into the failed version's message, for as long
    as it runs. That must not hide its other versions.
    """
    with contextlib.suppress(DecodeError):
        return tfs_pb2.GetModelStatusResponse.FromString(answer)
    response = tfs_pb2.GetModelStatusResponse()
    for _, entry in _fields(answer):
        fields = dict(_fields(entry))
        status = dict(_fields(fields.get(3, b"")))
        number = fields.get(1, 0)
        response.model_version_status.add(
            version=number - 2**64 if number >= 2**63 else number,
            state=fields.get(2, 0),
            status=tfs_pb2.StatusProto(
                error_code=status.get(1, 0), error_message=status.get(2, b"").decode(errors="replace")
            ),
        )
    return response


@functools.lru_cache(maxsize=64)
def _around_pixels(model: str, version: int, shape: tuple[int, ...], gradcam: bool) -> tuple[bytes, bytes]:
    """What comes before and after the pixels in a call, which is the same for all images of a shape."""
    wanted = ["probabilities", "ood_score", *(["gradcam"] if gradcam else [])]
    request = _predict_request(model, version, wanted)
    tensor = request.inputs["images"]
    tensor.dtype = tfs_pb2.DATA_TYPE_UINT8
    for size in (1, *shape):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = _FILLING * math.prod(shape)
    message = request.SerializeToString()
    # The last, since a version's number may be written in such bytes too; nothing behind has any.
    begin = message.rindex(tensor.tensor_content)
    return message[:begin], message[begin + len(tensor.tensor_content) :]


def _predict_request(model: str, version: int, outputs: Sequence[str]) -> tfs_pb2.PredictRequest:
    request = tfs_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.version.value = version
    return request


def _parse(kind: type[_M], answer: bytes) -> _M:
    try:
        return kind.FromString(answer)
    except DecodeError as error:
        raise BackendAnswerInvalidError("the model server's answer is not a protobuf message") from error


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and raw value of every field: an int of a varint, the bytes of a string or message."""
    # The stub of the class lacks __iter__, which its documentation shows.
    for field in unknown_fields.UnknownFieldSet(_parse(empty_pb2.Empty, message)):  # type: ignore[attr-defined]
        yield field.field_number, field.data


def _floats(response: tfs_pb2.PredictResponse, name: str, shape: tuple[int | None, ...]) -> Floats:
    """A finite f32 output of the given shape, where None is any size from 1."""
    if name not in response.outputs:
        raise BackendAnswerInvalidError(f'the answer has no output "{name}"')
    tensor = response.outputs[name]
    sizes = tuple(dim.size for dim in tensor.tensor_shape.dim)
    fits = len(sizes) == len(shape) and all(
        size == want if want is not None else size >= 1 for size, want in zip(sizes, shape, strict=True)
    )
    if tensor.dtype != tfs_pb2.DATA_TYPE_FLOAT or not fits:
        raise BackendAnswerInvalidError(
            f'"{name}" is of data type {tensor.dtype} and shape {list(sizes)}, expected float of shape '
            f"{['any' if want is None else want for want in shape]}"
        )
    if tensor.tensor_content:
        content = tensor.tensor_content
        values = np.frombuffer(content, "<f4") if len(content) % 4 == 0 else np.empty(0, np.float32)
    else:
        values = np.array(tensor.float_val, dtype=np.float32)
    expected = math.prod(sizes)
    if values.size != expected:
        raise BackendAnswerInvalidError(f'"{name}" holds {values.size} values, its shape needs {expected}')
    if not np.isfinite(values).all():
        raise BackendAnswerInvalidError(f'"{name}" holds values that are not finite')
    return values.reshape(sizes).astype(np.float32, copy=False)


def _single_string(content: bytes) -> bytes:
    """The one string of a string tensor's `tensor_content`: its length as a varint, then its bytes."""
    length = shift = 0
    for position, byte in enumerate(content[:10]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if len(content) == position + 1 + length:
                return content[position + 1 :]
            break
    raise BackendAnswerInvalidError('signature "describe" does not answer with exactly one string')
