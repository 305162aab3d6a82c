"""The model server as the gateway needs it, and TensorFlow Serving as such a model server.

`Backend` is the port that catalog, proof and classifier speak to. `TensorFlowServing` speaks TensorFlow
Serving's gRPC API through the project's own wire-compatible messages, so that no TensorFlow is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf import empty_pb2, unknown_fields
from google.protobuf.message import DecodeError, Message
from neurogate.tfs.v1 import tfs_pb2

from .errors import (
    BackendAnswerInvalidError,
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from .telemetry import log

_PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
_OVERLOAD_RETRY_SECONDS: Final = 0.2

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
_M = TypeVar("_M", bound=Message)
_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class BackendVersion:
    """One version as the model server reports it."""

    number: int
    state: tfs_pb2.ModelVersionStatus.State
    error: str = ""
    """Why it failed to load; empty when it did not fail."""


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


class VersionUnloadedError(Exception):
    """The model server has not, or no longer, loaded the version that was asked."""


class VersionRefusedError(VersionUnloadedError):
    """The model server has the version but refuses to run it as asked.

    To a caller that is the same as unloaded: the version must be proven again before it answers.
    """


class Backend(Protocol):
    """A model server.

    Every method may raise `BackendUnavailableError`, `DeadlineTooShortError`, `OverloadedError` (it is full)
    and `BackendAnswerInvalidError` (it refused, or its answer makes no sense).
    """

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """Every version of the model that the server has seen; empty for an unknown model."""

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        """The version's serialized manifest. Raises `VersionUnloadedError`."""

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image, uint8 [height, width, 3]. Raises `VersionUnloadedError`."""


class TensorFlowServing:
    """A TensorFlow Serving model server, real or embedded, behind one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                # Whatever the gateway let in must pass here.
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # A model server that comes back is noticed within a second.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 1_000),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                # Finds dead connections. The catalog's polls keep data flowing, so that pings are sent only
                # when nothing comes back, and the server's limit on idle pings is never met.
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                # A proxy in the environment is for the web, not for the neighbour.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        # Without deserializers, so that an undecodable answer is this module's error and not gRPC's.
        self._predict: _Method = self._channel.unary_unary(_PREDICT)
        self._status: _Method = self._channel.unary_unary(_STATUS)

    async def close(self) -> None:
        """Closes the channel and cancels what is still running on it."""
        await self._channel.close()

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        """Every version of the model that the server has seen; empty for an unknown model."""
        request = tfs_pb2.GetModelStatusRequest(model_spec=tfs_pb2.ModelSpec(name=model))
        try:
            answer = await self._call(self._status, request, seconds)
        except VersionUnloadedError:
            return []
        response = _read_statuses(answer)
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
        request = _predict_request(model, version, ["manifest"])
        request.model_spec.signature_name = "describe"
        index = tfs_pb2.Tensor(dtype=tfs_pb2.DATA_TYPE_INT32, int_val=[0])
        index.tensor_shape.dim.add(size=1)
        request.inputs["index"].CopyFrom(index)
        response = _parse(tfs_pb2.PredictResponse, await self._call(self._predict, request, seconds))
        manifest = response.outputs.get("manifest")
        if manifest is None or manifest.dtype != tfs_pb2.DATA_TYPE_STRING:
            raise BackendAnswerInvalidError('signature "describe" does not answer with a string "manifest"')
        if len(manifest.string_val) == 1:
            return bytes(manifest.string_val[0])
        return _single_string(manifest.tensor_content)

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image through "serving_default" of exactly this version."""
        request = predict_images_request(model, version, pixels, gradcam=gradcam)
        response = _parse(tfs_pb2.PredictResponse, await self._call(self._predict, request, seconds))
        return read_outputs(response, version, classes=classes, gradcam=gradcam)

    async def _call(self, method: _Method, request: Message, seconds: float) -> bytes:
        if seconds <= 0:
            raise DeadlineTooShortError("no time is left for the model server")
        try:
            return await method(request.SerializeToString(), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from error


def predict_images_request(
    model: str, version: int, pixels: Pixels, *, gradcam: bool
) -> tfs_pb2.PredictRequest:
    """The call for one image, uint8 [height, width, 3]: a quarter of the bytes that floats would take."""
    wanted = ["probabilities", "ood_score", *(["gradcam"] if gradcam else [])]
    request = _predict_request(model, version, wanted)
    tensor = request.inputs["images"]
    tensor.dtype = tfs_pb2.DATA_TYPE_UINT8
    for size in (1, *pixels.shape):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = pixels.tobytes()
    return request


def read_outputs(response: tfs_pb2.PredictResponse, version: int, *, classes: int, gradcam: bool) -> Outputs:
    """The outputs for one image, checked against what the version promises.

    Raises:
        BackendAnswerInvalidError: Another version answered, or an output is missing or makes no sense.
    """
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


def _predict_request(model: str, version: int, outputs: Sequence[str]) -> tfs_pb2.PredictRequest:
    request = tfs_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.version.value = version
    return request


def _translate(error: grpc.aio.AioRpcError) -> GatewayError | VersionUnloadedError:
    """What a failed call to the model server means here; its own text goes to the log, not to callers."""
    code, text = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return VersionUnloadedError("the model server has not loaded it")
        case grpc.StatusCode.FAILED_PRECONDITION:
            log(logging.WARNING, "backend_refused", code=code.name, message=text)
            return VersionRefusedError("the model server refused the call with FAILED_PRECONDITION")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.ABORTED:
            # CANCELLED is the server's doing here: a cancellation of ours is asyncio.CancelledError.
            return BackendUnavailableError("the model server cannot be reached or is not ready")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineTooShortError("the model server did not answer before the deadline")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OverloadedError("the model server is overloaded", retry_after=_OVERLOAD_RETRY_SECONDS)
        case _:
            log(logging.WARNING, "backend_refused", code=code.name, message=text)
            return BackendAnswerInvalidError(
                f"the model server refused the call with {code.name}", metadata={"backend_code": code.name}
            )


def _parse(kind: type[_M], answer: bytes) -> _M:
    try:
        return kind.FromString(answer)
    except DecodeError as error:
        raise BackendAnswerInvalidError("the model server's answer is not a protobuf message") from error


def _read_statuses(answer: bytes) -> tfs_pb2.GetModelStatusResponse:
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


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and raw value of every field: an int of a varint, the bytes of a string or message."""
    # The stub of the class lacks __iter__, which its documentation shows.
    for field in unknown_fields.UnknownFieldSet(_parse(empty_pb2.Empty, message)):  # type: ignore[attr-defined]
        yield field.field_number, field.data


def _code_name(number: int) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code.name
    return f"code {number}"


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
    expected = 1
    for size in sizes:
        expected *= size
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
