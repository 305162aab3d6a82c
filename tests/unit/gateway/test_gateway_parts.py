"""Smaller parts: logs, the transform transforms, the backend adapter's decoding, the deadline margin."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import classification_pb2, error_pb2, model_pb2
from neurogate_core.preprocessing.transform import Decoded, default_spec
from neurogate_gateway.backends.discovery import discover
from neurogate_gateway.backends.pool import DEADLINE_MARGIN_SECONDS, BackendPool
from neurogate_gateway.backends.tfserving import (
    Outputs,
    _floats,
    _single_string,
    predict_images_request,
    read_statuses,
)
from neurogate_gateway.backends.verification import ServedVersion, VersionVerifier
from neurogate_gateway.backends.versions import READY, EndpointVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    BackendAnswerInvalidError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.inference import preprocessing
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.pipeline import InferencePipeline
from neurogate_gateway.inference.preprocessing import Submitted, TransformPool
from neurogate_gateway.observability.logging import (
    CallRecord,
    RefusalLog,
    configure_logging,
    current_call,
    log,
)
from neurogate_gateway.release.router import VersionRouter
from neurogate_gateway.rpc.interceptor import check_identifiers
from neurogate_testing.fake_backend import build_manifest, sample_image
from neurogate_testing.refusals import refused
from PIL import Image


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), logging.getLogger("neurogate_gateway")
    before = (root.handlers[:], root.level, own.level)
    out = io.StringIO()
    configure_logging("info", out)
    yield out
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_lines_are_json_objects(stream: io.StringIO) -> None:
    log(logging.INFO, "something", number=1, text='quotes " and\nlines', thing=object)
    log(logging.DEBUG, "hidden")
    logging.getLogger("library").warning("hello %s", "there")
    [own, foreign] = lines(stream)
    assert (own["event"], own["level"], own["number"]) == ("something", "info", 1)
    assert own["text"] == 'quotes " and\nlines'
    assert (foreign["event"], foreign["logger"]) == ("hello there", "library")


def test_stack_traces_stay_on_one_line(stream: io.StringIO) -> None:
    log(logging.ERROR, "defect", error=ZeroDivisionError("x"))
    [line] = lines(stream)
    assert "ZeroDivisionError: x" in line["stack"]


def test_no_control_character_reaches_the_terminal(stream: io.StringIO) -> None:
    log(logging.INFO, "x", text="\x1b[2J \x9b31m \u2028")
    assert stream.getvalue().strip().isprintable()


async def test_refusals_are_counted_and_none_is_lost(stream: io.StringIO) -> None:
    refusals = RefusalLog()
    refusals.note(OverloadedError("full"))
    assert [(line["reason"], line["count"]) for line in lines(stream)] == [("OVERLOADED", 1)]
    for error in (
        OverloadedError("full"),
        OverloadedError("full"),
        GatewayError(error_pb2.ERROR_REASON_SHUTTING_DOWN, "bye"),
    ):
        refusals.note(error)
    assert len(lines(stream)) == 1
    refusals.flush()
    told = [(line["reason"], line["count"]) for line in lines(stream)[1:]]
    assert told == [("OVERLOADED", 2), ("SHUTTING_DOWN", 1)]
    refusals.flush()
    assert len(lines(stream)) == 3


@pytest.mark.parametrize("request_id", ["", "a", "x" * 128, "spaces and ~!@#"])
def test_request_ids(request_id: str) -> None:
    token = current_call.set(CallRecord("m"))
    check_identifiers(classification_pb2.ClassifyRequest(request_id=request_id))
    assert current_call.get().request_id == request_id
    current_call.reset(token)


async def test_the_pool_refuses_with_the_transforms_reason() -> None:
    transforms = TransformPool(1)
    with refused("IMAGE_FORMAT_UNSUPPORTED"):
        await transforms.run(b"hello", default_spec())
    with refused("IMAGE_CORRUPT"):
        await transforms.run(sample_image()[:40], default_spec())
    transforms.close()


async def test_what_is_cancelled_before_its_turn_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bytes] = []
    running, release = threading.Event(), threading.Event()

    def decode(image: bytes, *_: object, **__: object) -> Decoded:
        begun.append(image)
        running.set()
        assert release.wait(10)
        return Decoded(Image.new("L", (1, 1)), {})

    monkeypatch.setattr(preprocessing, "decode", decode)
    transforms = TransformPool(1)
    first = asyncio.create_task(transforms.run(b"first", default_spec()))
    await asyncio.to_thread(running.wait, 10)
    second = asyncio.create_task(transforms.run(b"second", default_spec()))
    third = asyncio.create_task(transforms.run(b"third", default_spec()))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    release.set()
    assert (await first).pixels.shape == (224, 224, 3)
    assert (await third).queue_seconds > 0
    assert begun == [b"first", b"third"]
    transforms.close()


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


class StubBackend:
    """Remembers how long it was given."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def predict(self, *_: object, seconds: float, **__: object) -> Outputs:
        self.seconds.append(seconds)
        return Outputs(np.full(4, 0.25, np.float32), 0.0)


async def test_the_backend_gets_what_is_left_less_a_margin() -> None:
    backend, transforms = StubBackend(), TransformPool(1)
    verifier = VersionVerifier(transforms.pixels, None, model="brain_tumor", seconds_per_call=5)
    pool = BackendPool(discover("a:1"), lambda _: backend, verifier, poll_interval=1)  # type: ignore[arg-type,return-value]
    endpoint = pool.endpoint("a:1")
    endpoint.connected = True
    version = ServedVersion("brain_tumor", 1, build_manifest(1), "d")
    endpoint.entries[1] = EndpointVersion(1, READY, 0.0, version=version)
    pool.changed()
    pipeline = InferencePipeline(
        admission=Admission(
            max_image_bytes=10**6, max_in_flight=2, max_bulk_calls=1, max_watches=1, min_deadline=0
        ),
        backends=pool,
        router=VersionRouter(pool, model="brain_tumor", swap_wait=1),
        transforms=transforms,
        image_timeout=30,
        window=2,
    )
    deadline = Deadline.after(20)
    selector = model_pb2.ModelSelector()
    await pipeline.classify(Submitted(sample_image()), selector, top_k=0, deadline=deadline)
    assert deadline.remaining() <= backend.seconds[0] + DEADLINE_MARGIN_SECONDS <= 20
    with pytest.raises(DeadlineTooShortError):
        await pipeline.classify(
            Submitted(sample_image()),
            selector,
            top_k=0,
            deadline=Deadline.after(DEADLINE_MARGIN_SECONDS / 2),
        )
    assert len(backend.seconds) == 1
    transforms.close()
