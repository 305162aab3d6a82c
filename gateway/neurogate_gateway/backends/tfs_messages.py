"""TensorFlow Serving's messages: how calls are written, and how answers are read and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf import empty_pb2, unknown_fields
from google.protobuf.message import DecodeError, Message
from neurogate.tfs.v1 import tfs_pb2

from neurogate_gateway.errors import BackendAnswerInvalidError

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
