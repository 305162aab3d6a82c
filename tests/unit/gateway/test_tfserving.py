"""TensorFlow Serving's messages: what is written, and what is accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from neurogate.tfs.v1 import tfs_pb2
from neurogate_gateway.backends.tfserving import (
    _floats,
    _single_string,
    predict_images_request,
    read_statuses,
)
from neurogate_gateway.errors import (
    BackendAnswerInvalidError,
)


@pytest.mark.parametrize("gradcam", [False, True])
@pytest.mark.parametrize("version", [1, 2**63 - 1])
@pytest.mark.parametrize("shape", [(1, 1, 3), (224, 200, 3)])
def test_a_call_for_an_image(shape: tuple[int, ...], version: int, gradcam: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    wanted = ["probabilities", "ood_score", *(["gradcam"] if gradcam else [])]
    expected = tfs_pb2.PredictRequest(output_filter=wanted)
    expected.model_spec.name = "modèle"
    expected.model_spec.version.value = version
    tensor = expected.inputs["images"]
    tensor.dtype = tfs_pb2.DATA_TYPE_UINT8
    for size in (1, *shape):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = pixels.tobytes()
    for _ in range(2):
        call = predict_images_request("modèle", version, pixels, gradcam=gradcam)
        assert tfs_pb2.PredictRequest.FromString(call) == expected


def response(**fields: Any) -> tfs_pb2.PredictResponse:
    message = tfs_pb2.PredictResponse()
    shape = fields.pop("shape", (1, 2))
    tensor = message.outputs["x"]
    tensor.MergeFrom(tfs_pb2.Tensor(**{"dtype": tfs_pb2.DATA_TYPE_FLOAT, **fields}))
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return message


@pytest.mark.parametrize(
    "good",
    [
        response(float_val=[0.5, 2]),
        response(tensor_content=np.array([0.5, 2], "<f4").tobytes()),
        response(tensor_content=np.array([0.5, 2], "<f4").tobytes(), float_val=[9, 9]),
    ],
)
def test_floats(good: tfs_pb2.PredictResponse) -> None:
    values = _floats(good, "x", (1, 2))
    assert values.dtype == np.float32
    assert values.tolist() == [[0.5, 2.0]]
    assert _floats(good, "x", (1, None)).shape == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        tfs_pb2.PredictResponse(),
        response(),
        response(float_val=[1]),
        response(float_val=[1, 2, 3]),
        response(float_val=[1, 2], dtype=tfs_pb2.DATA_TYPE_DOUBLE),
        response(float_val=[1, 2], shape=(2,)),
        response(float_val=[1, 2], shape=(2, 1)),
        response(float_val=[1, 2], shape=(1, -1)),
        response(tensor_content=b"1234567"),
        response(tensor_content=b"12345"),
        response(float_val=[1, float("nan")]),
        response(float_val=[1, float("-inf")]),
    ],
)
def test_floats_that_are_not_what_was_asked(wrong: tfs_pb2.PredictResponse) -> None:
    with pytest.raises(BackendAnswerInvalidError):
        _floats(wrong, "x", (1, 2))


def test_no_size_may_be_zero_or_less() -> None:
    for shape in ((1, 0, 3), (1, -2, -3)):
        with pytest.raises(BackendAnswerInvalidError):
            _floats(response(float_val=[1] * 6, shape=shape), "x", (1, None, None))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 70_000])
def test_a_string_in_tensor_content(size: int) -> None:
    length, prefix = size, b""
    while length >= 0x80:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    content = prefix + bytes([length]) + b"x" * size
    assert _single_string(content) == b"x" * size
    for wrong in (content + b"x", content[:-1] if size else b"", b"\xff" * 20):
        with pytest.raises(BackendAnswerInvalidError):
            _single_string(wrong)


def test_statuses_with_a_text_that_is_not_utf8() -> None:
    good = tfs_pb2.GetModelStatusResponse()
    good.model_version_status.add(version=8, state=tfs_pb2.ModelVersionStatus.STATE_AVAILABLE)
    good.model_version_status.add(version=-4, state=tfs_pb2.ModelVersionStatus.STATE_END)
    failed = good.model_version_status.add(version=7, state=tfs_pb2.ModelVersionStatus.STATE_END)
    failed.status.error_code, failed.status.error_message = 3, "Failed to parse warmup record: XY"
    raw = good.SerializeToString().replace(b"XY", b"\xff\xfe")
    with pytest.raises(DecodeError):
        tfs_pb2.GetModelStatusResponse.FromString(raw)
    read = read_statuses(raw)
    assert [entry.version for entry in read.model_version_status] == [8, -4, 7]
    assert [entry.state for entry in read.model_version_status] == [30, 50, 50]
    assert read.model_version_status[2].status.error_code == 3
    assert read.model_version_status[2].status.error_message == "Failed to parse warmup record: \ufffd\ufffd"
    with pytest.raises(BackendAnswerInvalidError):
        read_statuses(b"\xff\xff\xff")
