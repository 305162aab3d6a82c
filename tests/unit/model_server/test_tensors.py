from __future__ import annotations

import contextlib

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from neurogate_model_server.errors import ServingError
from neurogate_model_server.tensors import MalformedTensorError, decode, decode_input, encode
from tensorflow.core.framework import tensor_pb2, types_pb2


def _proto(dtype: int, shape: list[int], **values: object) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


NUMBERS = [
    np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64,
    np.uint8, np.uint16, np.uint32, np.uint64, np.bool_, np.complex64, np.complex128,
]  # fmt: skip


@given(st.data(), st.booleans())
def test_what_is_encoded_decodes_to_the_same(data: st.DataObject, as_content: bool) -> None:
    dtype = data.draw(st.sampled_from(NUMBERS))
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
    proto = tensor_pb2.TensorProto()
    encode(np.asarray(array), proto, as_content=as_content)
    decoded = decode(proto)
    assert decoded.dtype == array.dtype
    assert decoded.shape == array.shape
    np.testing.assert_array_equal(decoded, array)


@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_strings_survive_with_every_byte(strings: list[bytes], as_content: bool) -> None:
    array = np.empty(len(strings), object)
    array[:] = strings
    proto = tensor_pb2.TensorProto()
    encode(array, proto, as_content=as_content)
    assert list(decode(proto)) == strings


@given(st.data())
def test_typed_fields_mean_what_tensorflow_means(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(NUMBERS))
    array = data.draw(hnp.arrays(dtype, (2, 3)))
    proto = tensor_pb2.TensorProto()
    encode(array, proto, as_content=False)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    np.testing.assert_array_equal(decode(tf.make_tensor_proto(array)), array)


def test_bfloat16_travels_as_its_bits() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    proto = tensor_pb2.TensorProto()
    encode(array, proto, as_content=False)
    assert proto.dtype == types_pb2.DT_BFLOAT16
    assert list(proto.half_val) == [0x3FC0, 0xC000]
    assert list(decode(proto)) == [1.5, -2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], [0, 0, 0]),
        ([7], [7, 7, 7]),
        ([1, 2], [1, 2, 2]),
        ([1, 2, 3, 4], [1, 2, 3]),
        ([300], [44, 44, 44]),
    ],
)
def test_too_few_values_are_filled_up_and_surplus_ones_dropped(
    values: list[int], expected: list[int]
) -> None:
    assert decode(_proto(types_pb2.DT_UINT8, [3], int_val=values)).tolist() == expected


def test_values_of_another_types_field_are_not_seen() -> None:
    assert decode(_proto(types_pb2.DT_UINT8, [2], float_val=[8.0])).tolist() == [0, 0]


def test_content_wins_over_typed_values() -> None:
    assert decode(_proto(types_pb2.DT_UINT8, [2], tensor_content=b"\1\2", int_val=[9])).tolist() == [1, 2]


def test_a_missing_shape_is_a_scalar() -> None:
    assert decode(tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64, int64_val=[5])).shape == ()


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(),
        _proto(99, [1], int_val=[1]),
        _proto(types_pb2.DT_RESOURCE, [1]),
        _proto(types_pb2.DT_UINT8, [-1, 2], int_val=[1]),
        _proto(types_pb2.DT_UINT8, [2**40, 2**40], int_val=[1]),
        _proto(types_pb2.DT_UINT8, [2**40, 2**40, 0]),
        _proto(types_pb2.DT_FLOAT, [2**50], float_val=[1]),
        _proto(types_pb2.DT_UINT8, [3], tensor_content=b"12"),
        _proto(types_pb2.DT_STRING, [2], tensor_content=b"\x01"),
        _proto(types_pb2.DT_STRING, [2], tensor_content=b"\x01\x01a"),
        _proto(types_pb2.DT_STRING, [1], tensor_content=b"\x01ab"),
        _proto(types_pb2.DT_STRING, [1], tensor_content=b"\xff\xff\xff\xff\xff\xff"),
        _proto(types_pb2.DT_UINT8, [1] * 65, int_val=[1]),
    ],
)
def test_what_describes_no_tensor_is_refused(proto: tensor_pb2.TensorProto) -> None:
    with pytest.raises(MalformedTensorError):
        decode(proto)
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        decode_input("x", proto)


def test_a_shape_of_unknown_rank_must_not_have_dimensions() -> None:
    proto = _proto(types_pb2.DT_UINT8, [1], int_val=[1])
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(MalformedTensorError):
        decode(proto)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_crash_the_decoder(data: bytes) -> None:
    proto = tensor_pb2.TensorProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # noqa: BLE001
        return
    with contextlib.suppress(MalformedTensorError):
        decode(proto)
