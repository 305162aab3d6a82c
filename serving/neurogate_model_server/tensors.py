"""Tensors on the wire and in memory, by the rules of TensorFlow's `Tensor::FromProto` and `AsProtoField`.

Those are laxer than `tf.make_ndarray`: too few values are filled up with the last one, none at all are zeros,
surplus ones are dropped, and values in a field that does not belong to the type are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from .errors import invalid_argument
from .tensorflow_runtime import Array
from .wire import read_varint, write_varint

_MAX_INT64: Final = 2**63 - 1
_MAX_DIMENSIONS: Final = 64  # NumPy's limit; TensorFlow's is 254
_PHYSICAL_MEMORY: Final = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MalformedTensorError(ValueError):
    """A `TensorProto` that does not describe a tensor."""


@dataclass(frozen=True)
class _Kind:
    """How one element type is laid out.

    Attributes:
        number: TensorFlow's of the type.
        numpy: NumPy's name of it.
        field: The field that carries its values.
        carrier: The type of one value in the field, where it is not that of an element: bits of 16-bit
            floats, halves of complex numbers.
    """

    number: int
    numpy: np.dtype[Any]
    field: str
    carrier: type[Any] | None = None

    @property
    def is_string(self) -> bool:
        """Whether elements are byte strings."""
        return self.field == "string_val"


_TYPES: Final = (
    _Kind(types_pb2.DT_FLOAT, np.dtype(np.float32), "float_val"),
    _Kind(types_pb2.DT_DOUBLE, np.dtype(np.float64), "double_val"),
    _Kind(types_pb2.DT_INT8, np.dtype(np.int8), "int_val"),
    _Kind(types_pb2.DT_INT16, np.dtype(np.int16), "int_val"),
    _Kind(types_pb2.DT_INT32, np.dtype(np.int32), "int_val"),
    _Kind(types_pb2.DT_INT64, np.dtype(np.int64), "int64_val"),
    _Kind(types_pb2.DT_UINT8, np.dtype(np.uint8), "int_val"),
    _Kind(types_pb2.DT_UINT16, np.dtype(np.uint16), "int_val"),
    _Kind(types_pb2.DT_UINT32, np.dtype(np.uint32), "uint32_val"),
    _Kind(types_pb2.DT_UINT64, np.dtype(np.uint64), "uint64_val"),
    _Kind(types_pb2.DT_BOOL, np.dtype(np.bool_), "bool_val"),
    _Kind(types_pb2.DT_HALF, np.dtype(np.float16), "half_val", np.uint16),
    _Kind(types_pb2.DT_BFLOAT16, np.dtype(ml_dtypes.bfloat16), "half_val", np.uint16),
    _Kind(types_pb2.DT_COMPLEX64, np.dtype(np.complex64), "scomplex_val", np.float32),
    _Kind(types_pb2.DT_COMPLEX128, np.dtype(np.complex128), "dcomplex_val", np.float64),
    _Kind(types_pb2.DT_STRING, np.dtype(object), "string_val"),
)
_BY_NUMBER: Final = {kind.number: kind for kind in _TYPES}
_BY_NUMPY: Final = {kind.numpy: kind for kind in _TYPES}


def decode(proto: tensor_pb2.TensorProto) -> Array:
    """The tensor that `proto` describes; strings as an object array of bytes.

    The array may share memory with `proto` and be read-only.

    Raises:
        MalformedTensorError: The shape, the type or the length of the content is impossible.
    """
    shape, count = _shape(proto)
    kind = _BY_NUMBER.get(proto.dtype)
    if kind is None:
        raise MalformedTensorError(f"element type {proto.dtype} is not supported")
    if count * kind.numpy.itemsize > _PHYSICAL_MEMORY:
        raise MalformedTensorError(f"{count} elements do not fit into memory")
    if count == 0:
        return np.empty(shape, kind.numpy)
    try:
        flat = _from_content(proto, kind, count) if proto.tensor_content else _from_field(proto, kind, count)
    except MemoryError:
        raise MalformedTensorError(f"{count} elements do not fit into memory") from None
    return flat.reshape(shape)


def decode_input(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """Like `decode`, for the input of a signature: failures become the status that the server sends."""
    try:
        return decode(proto)
    except MalformedTensorError:
        raise invalid_argument(f"tensor parsing error: {alias}") from None


def _shape(proto: tensor_pb2.TensorProto) -> tuple[tuple[int, ...], int]:
    sizes = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank and sizes:
        raise MalformedTensorError("a shape of unknown rank with dimensions")
    if len(sizes) > _MAX_DIMENSIONS:
        raise MalformedTensorError(f"{len(sizes)} dimensions, more than {_MAX_DIMENSIONS}")
    count = 1
    for size in sizes:
        count *= size
        if size < 0 or count > _MAX_INT64:
            raise MalformedTensorError("a negative dimension, or more elements than there are numbers")
    return tuple(sizes), count


def _from_content(proto: tensor_pb2.TensorProto, kind: _Kind, count: int) -> Array:
    content = proto.tensor_content
    if kind.is_string:
        return _split_strings(content, count)
    if len(content) != count * kind.numpy.itemsize:
        raise MalformedTensorError(f"{len(content)} bytes for {count} elements")
    return np.frombuffer(content, kind.numpy)


def _split_strings(content: bytes, count: int) -> Array:
    """Strings from their packed form: all lengths as varints of 32 bits, then all bytes."""
    lengths: list[int] = []
    position = 0
    while len(lengths) < count:
        try:
            length, end = read_varint(content, position)
        except (EOFError, ValueError):
            raise MalformedTensorError("the lengths of the strings are cut short") from None
        if end - position > 5:
            raise MalformedTensorError("a length of more than 32 bits")
        lengths.append(length)
        position = end
    if position + sum(lengths) != len(content):
        raise MalformedTensorError("the bytes of the strings do not add up")
    strings = np.empty(count, object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings


def _from_field(proto: tensor_pb2.TensorProto, kind: _Kind, count: int) -> Array:
    values = getattr(proto, kind.field)
    if kind.is_string:
        strings = np.empty(count, object)
        present = min(len(values), count)
        strings[:present] = values[:present]
        strings[present:] = values[-1] if values else b""
        return strings
    given = _elements(values, kind)
    if given.size == count:
        return given
    flat = np.zeros(count, kind.numpy)
    if given.size:
        present = min(given.size, count)
        flat[:present] = given[:present]
        flat[present:] = given[-1]
    return flat


def _elements(values: Sequence[float], kind: _Kind) -> Array:
    if kind.carrier is None:
        # Through 64 bits, so that a number out of range wraps around as a C++ cast does.
        wide = np.array(values, np.int64) if kind.field == "int_val" else np.array(values, kind.numpy)
        return wide.astype(kind.numpy, copy=False)
    if kind.numpy.kind == "c":
        pairs = len(values) // 2
        return np.array(values[: 2 * pairs], kind.carrier).view(kind.numpy)
    return np.array(values, np.int64).astype(kind.carrier).view(kind.numpy)


def encode(array: Array, proto: tensor_pb2.TensorProto, *, as_content: bool) -> None:
    """Writes a result into `proto`: every value in its typed field, or all as packed bytes."""
    kind = _BY_NUMPY.get(array.dtype)
    if kind is None:
        raise invalid_argument(f"results of type {array.dtype} are not supported")
    proto.dtype = kind.number
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).reshape(-1)
    if as_content:
        if kind.is_string:
            proto.tensor_content = b"".join((*(write_varint(len(string)) for string in flat), *flat))
        else:
            proto.tensor_content = flat.tobytes()
        return
    if kind.carrier is not None:
        flat = flat.view(kind.carrier)
    getattr(proto, kind.field).extend(flat.tolist())
