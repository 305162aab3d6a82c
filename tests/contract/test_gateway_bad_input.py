"""Bad input through every RPC: the documented status and reason, and the gateway goes on serving."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.rpc import interceptor as interceptors
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import (
    Failure,
    Harness,
    failure,
    failure_of,
    running_gateway,
    serving_gateway,
    stream_of,
)
from PIL import Image

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
LIMIT = 64 * 1024


def bomb() -> bytes:
    """A few bytes whose header promises 60,000 x 60,000 pixels."""
    image = bytearray(sample_image(size=(8, 8)))
    image[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(image)


def cut() -> bytes:
    image = sample_image(size=(128, 128), kind="JPEG")
    return image[: len(image) // 2]


BAD_IMAGES = {
    "empty": (b"", "IMAGE_EMPTY"),
    "too large": (bytes(LIMIT + 1), "IMAGE_TOO_LARGE"),
    "bomb": (bomb(), "IMAGE_TOO_MANY_PIXELS"),
    "text": (b"This is not an image.", "IMAGE_FORMAT_UNSUPPORTED"),
    "zeros": (bytes(1000), "IMAGE_FORMAT_UNSUPPORTED"),
    "html": (b"<!doctype html><html></html>", "IMAGE_FORMAT_UNSUPPORTED"),
    "pdf": (b"%PDF-1.7 ...", "IMAGE_FORMAT_UNSUPPORTED"),
    "zip": (b"PK\x03\x04" + bytes(60), "IMAGE_FORMAT_UNSUPPORTED"),
    "truncated": (cut(), "IMAGE_CORRUPT"),
    "header only": (sample_image()[:24], "IMAGE_CORRUPT"),
}


async def refusal(
    gateway: Harness, rpc: str, image: bytes, selector: model_pb2.ModelSelector, **fields: Any
) -> Failure:
    """How an RPC refuses an image or a request's fields, as a whole or for the image alone."""
    stub = gateway.classification
    try:
        if rpc == "BatchClassify":
            items = [pb.BatchClassifyItem(image=image), pb.BatchClassifyItem(image=sample_image())]
            request = pb.BatchClassifyRequest(items=items, model=selector, **fields)
            bad, good = (await stub.BatchClassify(request)).results
        elif rpc == "StreamClassify":
            config = pb.StreamClassifyConfig(model=selector, **fields)
            requests = [pb.StreamClassifyRequest(config=config)]
            # A refusal of the whole stream ends it: gRPC makes INTERNAL of a write that meets the end.
            if not fields and selector == model_pb2.ModelSelector():
                requests += [pb.StreamClassifyRequest(image=each) for each in (image, sample_image())]
            bad, good = await stream_of(gateway, requests)
        else:
            request = getattr(pb, f"{rpc}Request")(image=image, model=selector, **fields)
            return await failure(getattr(stub, rpc)(request))
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    assert good.HasField("classification")
    return failure_of(bad.error)


RPCS = ["Classify", "BatchClassify", "StreamClassify", "Explain"]
SINGLE = pb.ClassifyRequest(image=sample_image())


@pytest.mark.parametrize("rpc", RPCS)
async def test_bad_images(rpc: str) -> None:
    async with serving_gateway(max_image_bytes=LIMIT) as (gateway, backend):
        for name, (image, reason) in BAD_IMAGES.items():
            failed = await refusal(gateway, rpc, image, model_pb2.ModelSelector())
            assert (failed.code, failed.reason) == (INVALID, reason), name
            [violation] = failed.details["BadRequest"].field_violations
            assert violation.field == "image"
            assert "Traceback" not in failed.message
            assert "/" not in failed.message.replace("image/", "")
        backend.predicts.clear()
        assert (await gateway.classification.Classify(SINGLE)).model.version == 1


BAD_FIELDS: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"model": model_pb2.ModelSelector(label="nope")}, NOT_FOUND, "MODEL_LABEL_NOT_FOUND"),
    ({"model": model_pb2.ModelSelector(label="")}, INVALID, "MODEL_SELECTOR_INVALID"),
    ({"model": model_pb2.ModelSelector(version=2)}, NOT_FOUND, "MODEL_VERSION_NOT_FOUND"),
    ({"model": model_pb2.ModelSelector(version=2**63 - 1)}, NOT_FOUND, "MODEL_VERSION_NOT_FOUND"),
    ({"model": model_pb2.ModelSelector(version=0)}, INVALID, "MODEL_SELECTOR_INVALID"),
    ({"model": model_pb2.ModelSelector(version=-1)}, INVALID, "MODEL_SELECTOR_INVALID"),
    ({"model": model_pb2.ModelSelector(name="liver")}, NOT_FOUND, "MODEL_NOT_FOUND"),
    ({"request_id": "x" * 129}, INVALID, "REQUEST_ID_INVALID"),
    ({"request_id": "line\nbreak"}, INVALID, "REQUEST_ID_INVALID"),
    ({"request_id": "zürich"}, INVALID, "REQUEST_ID_INVALID"),
    *(({"top_k": top_k}, INVALID, "TOP_K_OUT_OF_RANGE") for top_k in (-1, -(2**31), 5, 2**31 - 1)),
]


@pytest.mark.parametrize("rpc", RPCS)
async def test_bad_fields(rpc: str) -> None:
    async with serving_gateway() as (gateway, backend):
        for fields, code, reason in BAD_FIELDS:
            if rpc == "Explain" and "top_k" in fields:
                continue
            selector = fields.get("model", model_pb2.ModelSelector())
            others = {name: value for name, value in fields.items() if name != "model"}
            failed = await refusal(gateway, rpc, sample_image(), selector, **others)
            assert (failed.code, failed.reason) == (code, reason), fields
        assert backend.predicts == []


async def test_bad_batches() -> None:
    async with serving_gateway(max_batch_items=3) as (gateway, _):
        batch = gateway.classification.BatchClassify
        assert (await failure(batch(pb.BatchClassifyRequest()))).reason == "BATCH_EMPTY"
        failed = await failure(batch(pb.BatchClassifyRequest(items=[pb.BatchClassifyItem()] * 4)))
        assert (failed.code, failed.reason) == (INVALID, "BATCH_TOO_LARGE")
        assert failed.metadata == {"max_batch_items": "3"}
        assert len((await batch(pb.BatchClassifyRequest(items=[pb.BatchClassifyItem()] * 3))).results) == 3


async def test_a_batch_of_millions_is_refused_without_being_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(decode: Any, raw: bytes) -> Any:
        raise AssertionError(f"{len(raw)} bytes were parsed")

    async with serving_gateway() as (gateway, _):
        method = gateway.channel.unary_unary("/neurogate.v1.ClassificationService/BatchClassify")
        monkeypatch.setattr(interceptors, "_decode", parse)
        failed = await failure(method(b"\n\x00" * 2**23))
        assert (failed.code, failed.reason) == (INVALID, "BATCH_TOO_LARGE")
        failed = await failure(method(b"\x12\x00" * 2**23))
        assert (failed.code, failed.reason) == (INVALID, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"class_id": "liver"}, "CLASS_NOT_FOUND", "class_id"),
        ({"overlay": pb.OverlayOptions(alpha=1.5)}, "OVERLAY_INVALID", "overlay.alpha"),
        ({"overlay": pb.OverlayOptions(max_side=63)}, "OVERLAY_INVALID", "overlay.max_side"),
        ({"overlay": pb.OverlayOptions(color_map=77)}, "OVERLAY_INVALID", "overlay.color_map"),  # type: ignore[arg-type]
    ],
)
async def test_bad_explain_options(fields: dict[str, Any], reason: str, field: str) -> None:
    async with serving_gateway() as (gateway, backend):
        failed = await failure(
            gateway.classification.Explain(pb.ExplainRequest(image=sample_image(), **fields))
        )
        assert (failed.code, failed.reason) == (INVALID, reason)
        assert failed.details["BadRequest"].field_violations[0].field == field
        assert backend.predicts == []


async def test_too_large_is_told_up_to_twice_the_limit() -> None:
    async with serving_gateway(max_image_bytes=2**20) as (gateway, _):
        failed = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=bytes(2 * 2**20))))
        assert (failed.code, failed.reason) == (INVALID, "IMAGE_TOO_LARGE")
        assert failed.metadata == {"size_bytes": str(2 * 2**20), "max_image_bytes": str(2**20)}
        assert (await gateway.classification.Classify(SINGLE)).model.version == 1


async def test_a_hundred_megabytes_are_refused_by_grpc() -> None:
    async with serving_gateway() as (gateway, _):
        huge = await failure(gateway.classification.Classify(pb.ClassifyRequest(image=bytes(100 * 2**20))))
        assert (huge.code, huge.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
        assert (await gateway.classification.Classify(SINGLE)).model.version == 1


@pytest.mark.parametrize("method", ["Classify", "BatchClassify", "Explain"])
async def test_bytes_that_are_no_message(method: str) -> None:
    async with serving_gateway() as (gateway, _):
        call = gateway.channel.unary_unary(f"/neurogate.v1.ClassificationService/{method}")
        failed = await failure(call(b"\xff\xff\xff\xff"))
        assert (failed.code, failed.reason) == (INVALID, "REQUEST_MALFORMED")


async def test_methods_that_do_not_exist() -> None:
    async with serving_gateway() as (gateway, _):
        for path in ("/neurogate.v1.ClassificationService/Diagnose", "/other.Service/Do", "/x"):
            failed = await failure(gateway.channel.unary_unary(path)(b""))
            assert failed.code is grpc.StatusCode.UNIMPLEMENTED


async def test_hostile_text_comes_back_cut() -> None:
    async with serving_gateway() as (gateway, _):
        selector = model_pb2.ModelSelector(label="\U0001f9e0" * 100_000)
        failed = await failure(
            gateway.classification.Classify(pb.ClassifyRequest(image=sample_image(), model=selector))
        )
        assert failed.reason == "MODEL_LABEL_NOT_FOUND"
        assert len(failed.message) < 300


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs | {"probabilities": np.full((1, 4), np.nan, np.float32)},
        lambda outputs: outputs | {"probabilities": np.full((1, 4), 1.5, np.float32)},
        lambda outputs: outputs | {"probabilities": np.full((4,), 0.25, np.float32)},
        lambda outputs: {"ood_score": outputs["ood_score"]},
        lambda outputs: None,
    ],
)
async def test_answers_of_the_backend_that_make_no_sense(change: Any) -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].change = change
        failed = await failure(gateway.classification.Classify(SINGLE))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID")
        assert failed.metadata["request_id"]
        backend.versions[1].change = lambda outputs: outputs
        assert (await gateway.classification.Classify(SINGLE)).model.version == 1


@pytest.mark.parametrize(
    ("code", "told", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID"),
        (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID"),
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, "BACKEND_ANSWER_INVALID"),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
        (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"),
    ],
)
async def test_refusals_of_the_backend(code: grpc.StatusCode, told: grpc.StatusCode, reason: str) -> None:
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].refusal = (code, "secret: /models/brain_tumor/1")
        failed = await failure(gateway.classification.Classify(SINGLE))
        assert (failed.code, failed.reason) == (told, reason)
        assert "secret" not in str(failed)


async def test_a_defect_is_told_by_request_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_gateway() as (gateway, _):

        def defect(*_: object) -> None:
            raise ZeroDivisionError("inner life")

        gateway.gateway.router.check_model = defect  # type: ignore[method-assign,assignment]
        failed = await failure(
            gateway.classification.Classify(pb.ClassifyRequest(image=sample_image(), request_id="id-7"))
        )
        assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert failed.metadata == {"request_id": "id-7"}
        assert "inner life" not in str(failed)
        [record] = [record for record in caplog.records if record.getMessage() == "defect"]
        assert record.exc_info is not None
        assert record.fields["request_id"] == "id-7"  # type: ignore[attr-defined]


async def test_a_defect_at_one_image_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_gateway() as (gateway, _):
        pool = gateway.gateway._transforms
        real = pool.run

        async def run(image: bytes, spec: Any, frame: int) -> Any:
            if image == b"defect":
                raise MemoryError
            return await real(image, spec, frame)

        monkeypatch.setattr(pool, "run", run)
        items = [pb.BatchClassifyItem(image=image) for image in (sample_image(), b"defect", sample_image())]
        response = await gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        assert [result.WhichOneof("result") for result in response.results] == [
            "classification",
            "error",
            "classification",
        ]
        failed = failure_of(response.results[1].error)
        assert (failed.reason, list(failed.metadata)) == ("INTERNAL", ["request_id"])


async def test_nothing_is_ready() -> None:
    async with FakeBackend() as backend, running_gateway(backend) as gateway:
        await gateway.until_connected(True)
        failed = await failure(gateway.classification.Classify(SINGLE))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
        assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0


async def test_images_of_every_kind_are_accepted() -> None:
    kinds = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"]
    async with serving_gateway() as (gateway, _):
        for kind in kinds:
            request = pb.ClassifyRequest(image=sample_image(kind=kind))
            assert (await gateway.classification.Classify(request)).model.version == 1
    assert set(kinds) <= set(Image.registered_extensions().values())
