"""Bad input of every kind through every RPC that takes it: a documented status and reason; no harm done."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from neurogate.v1 import classification_pb2, classification_pb2_grpc, model_pb2, model_pb2_grpc
from neurogate_testing import images

MIB = 2**20
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("slice.jpg", images.brain_slice())
    return buffer.getvalue()


def _flipped(data: bytes) -> bytes:
    """The bytes with the middle third inverted: headers right, content damaged."""
    third = len(data) // 3
    return data[:third] + bytes(255 - value for value in data[third : 2 * third]) + data[2 * third :]


PNG = images.brain_slice(container="PNG")
BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "text": (b"this is a text and no image", "IMAGE_FORMAT_UNSUPPORTED"),
    "one byte": (b"\0", "IMAGE_FORMAT_UNSUPPORTED"),
    "html": (b"<!doctype html><title>404</title>", "IMAGE_FORMAT_UNSUPPORTED"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "IMAGE_FORMAT_UNSUPPORTED"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "IMAGE_FORMAT_UNSUPPORTED"),
    "zip with an image": (_zip(), "IMAGE_FORMAT_UNSUPPORTED"),
    "dicom preamble": (bytes(128) + b"DICM" + bytes(64), "IMAGE_CORRUPT"),
    "damaged png": (_flipped(PNG), "IMAGE_CORRUPT"),
    "png header only": (PNG[:33], "IMAGE_CORRUPT"),
    "larger than the limit": (PNG + bytes(17 * MIB), "IMAGE_TOO_LARGE"),
    **{f"truncated {name}": (data, "IMAGE_CORRUPT") for name, data in images.truncated().items()},
    **{f"bomb {name}": (data, "IMAGE_TOO_MANY_PIXELS") for name, data in images.bombs().items()},
}

SELECTORS: dict[str, tuple[model_pb2.ModelSelector, grpc.StatusCode, str]] = {
    "unknown label": (model_pb2.ModelSelector(label="nobody"), NOT_FOUND, "MODEL_LABEL_NOT_FOUND"),
    "empty label": (model_pb2.ModelSelector(label=""), INVALID, "MODEL_SELECTOR_INVALID"),
    "unknown version": (model_pb2.ModelSelector(version=987654321), NOT_FOUND, "MODEL_VERSION_NOT_FOUND"),
    "version zero": (model_pb2.ModelSelector(version=0), INVALID, "MODEL_SELECTOR_INVALID"),
    "negative version": (model_pb2.ModelSelector(version=-1), INVALID, "MODEL_SELECTOR_INVALID"),
    "unknown model": (model_pb2.ModelSelector(name="nothing"), NOT_FOUND, "MODEL_NOT_FOUND"),
}


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    raise AssertionError(f"no ErrorInfo in {status}")


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """The status and reason with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == caught.value.code().value[0]
    assert status.message
    info = error_info(status)
    assert info.domain == "neurogate"
    return caught.value.code(), info.reason


def item_reason(result: Any) -> tuple[int, str]:
    assert result.WhichOneof("result") == "error", result
    return result.error.code, error_info(result.error).reason


@pytest.fixture(scope="module")
def stubs(stack: Any) -> Iterator[tuple[Any, Any]]:
    with grpc.insecure_channel(
        stack.target, options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    ) as channel:
        yield (
            classification_pb2_grpc.ClassificationServiceStub(channel),
            model_pb2_grpc.ModelServiceStub(channel),
        )


@pytest.fixture(autouse=True)
def still_serving(stubs: tuple[Any, Any]) -> Iterator[None]:
    yield
    answer = stubs[0].Classify(
        classification_pb2.ClassifyRequest(image=images.brain_slice()), timeout=30, wait_for_ready=True
    )
    assert len(answer.classification.scores) == 4


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images(stubs: tuple[Any, Any], kind: str) -> None:
    classification, _ = stubs
    image, reason = BAD_IMAGES[kind]
    for call in (
        lambda: classification.Classify(classification_pb2.ClassifyRequest(image=image), timeout=30),
        lambda: classification.Explain(classification_pb2.ExplainRequest(image=image), timeout=30),
    ):
        assert refused(call) == (INVALID, reason)

    good = images.brain_slice()
    batch = classification.BatchClassify(
        classification_pb2.BatchClassifyRequest(
            items=[classification_pb2.BatchClassifyItem(image=data) for data in (good, image)]
        ),
        timeout=30,
    )
    assert batch.results[0].WhichOneof("result") == "classification"
    assert item_reason(batch.results[1]) == (INVALID.value[0], reason)

    stream = classification.StreamClassify(
        iter(
            classification_pb2.StreamClassifyRequest(key=key, image=data)
            for key, data in (("a", good), ("b", image), ("c", good))
        ),
        timeout=30,
    )
    answers = {answer.key: answer for answer in stream}
    assert [answers[key].WhichOneof("result") for key in "abc"] == [
        "classification",
        "error",
        "classification",
    ]
    assert item_reason(answers["b"]) == (INVALID.value[0], reason)


def test_no_bytes_at_all(stubs: tuple[Any, Any]) -> None:
    classification, _ = stubs
    expected = (INVALID, "IMAGE_EMPTY")
    assert (
        refused(lambda: classification.Classify(classification_pb2.ClassifyRequest(), timeout=30)) == expected
    )
    assert (
        refused(lambda: classification.Explain(classification_pb2.ExplainRequest(), timeout=30)) == expected
    )
    batch = classification.BatchClassify(
        classification_pb2.BatchClassifyRequest(items=[classification_pb2.BatchClassifyItem()]), timeout=30
    )
    assert item_reason(batch.results[0]) == (INVALID.value[0], "IMAGE_EMPTY")
    (answer,) = classification.StreamClassify(
        iter([classification_pb2.StreamClassifyRequest(key="empty")]), timeout=30
    )
    assert item_reason(answer) == (INVALID.value[0], "IMAGE_EMPTY")


def test_a_hundred_megabytes(stubs: tuple[Any, Any]) -> None:
    """Beyond the message limit gRPC itself refuses, before the gateway's code sees anything."""
    classification, _ = stubs
    huge = bytes(100 * MIB)
    requests = (
        lambda: classification.Classify(classification_pb2.ClassifyRequest(image=huge), timeout=60),
        lambda: classification.Explain(classification_pb2.ExplainRequest(image=huge), timeout=60),
        lambda: classification.BatchClassify(
            classification_pb2.BatchClassifyRequest(items=[classification_pb2.BatchClassifyItem(image=huge)]),
            timeout=60,
        ),
        lambda: list(
            classification.StreamClassify(
                iter([classification_pb2.StreamClassifyRequest(image=huge)]), timeout=60
            )
        ),
    )
    for request in requests:
        with pytest.raises(grpc.RpcError) as caught:
            request()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def through_every_call(
    classification: Any, without: tuple[str, ...] = (), **fields: Any
) -> dict[str, tuple[grpc.StatusCode, str]]:
    """How a good image is refused because of a field that all classifying calls have."""
    image = images.brain_slice()
    calls: dict[str, Callable[[], Any]] = {
        "Classify": lambda: classification.Classify(
            classification_pb2.ClassifyRequest(image=image, **fields), timeout=30
        ),
        "Explain": lambda: classification.Explain(
            classification_pb2.ExplainRequest(image=image, **fields), timeout=30
        ),
        "BatchClassify": lambda: classification.BatchClassify(
            classification_pb2.BatchClassifyRequest(
                items=[classification_pb2.BatchClassifyItem(image=image)], **fields
            ),
            timeout=30,
        ),
        "StreamClassify": lambda: list(
            classification.StreamClassify(
                iter(
                    [
                        classification_pb2.StreamClassifyRequest(
                            config=classification_pb2.StreamClassifyConfig(**fields), image=image
                        )
                    ]
                ),
                timeout=30,
            )
        ),
    }
    return {name: refused(call) for name, call in calls.items() if name not in without}


@pytest.mark.parametrize("kind", SELECTORS)
def test_selectors(stubs: tuple[Any, Any], kind: str) -> None:
    selector, code, reason = SELECTORS[kind]
    refusals = through_every_call(stubs[0], model=selector)
    assert refusals == dict.fromkeys(refusals, (code, reason))


@pytest.mark.parametrize("top_k", [-1, 5, 2**31 - 1, -(2**31)])
def test_top_k(stubs: tuple[Any, Any], top_k: int) -> None:
    refusals = through_every_call(stubs[0], without=("Explain",), top_k=top_k)
    assert refusals == dict.fromkeys(refusals, (INVALID, "TOP_K_OUT_OF_RANGE"))


@pytest.mark.parametrize("request_id", ["x" * 129, "zwölf", "line\nbreak", "\x7f"])
def test_request_ids(stubs: tuple[Any, Any], request_id: str) -> None:
    refusals = through_every_call(stubs[0], request_id=request_id)
    assert refusals == dict.fromkeys(refusals, (INVALID, "REQUEST_ID_INVALID"))


def test_batches(stubs: tuple[Any, Any]) -> None:
    classification, _ = stubs
    empty = classification_pb2.BatchClassifyRequest()
    item = classification_pb2.BatchClassifyItem(image=b"x")
    many = classification_pb2.BatchClassifyRequest(items=[item] * 257)
    assert refused(lambda: classification.BatchClassify(empty, timeout=30)) == (INVALID, "BATCH_EMPTY")
    assert refused(lambda: classification.BatchClassify(many, timeout=30)) == (INVALID, "BATCH_TOO_LARGE")


def test_streams(stubs: tuple[Any, Any]) -> None:
    classification, _ = stubs
    image = images.brain_slice()
    config = classification_pb2.StreamClassifyConfig(top_k=1)
    twice = [classification_pb2.StreamClassifyRequest(config=config, image=image)] * 2
    assert refused(lambda: list(classification.StreamClassify(iter(twice), timeout=30))) == (
        INVALID,
        "STREAM_CONFIG_NOT_FIRST",
    )
    (answer,) = classification.StreamClassify(
        iter([classification_pb2.StreamClassifyRequest(key="k" * 257, image=image)]), timeout=30
    )
    assert item_reason(answer) == (INVALID.value[0], "KEY_INVALID")
    assert list(classification.StreamClassify(iter([]), timeout=30)) == []


def test_explanations(stubs: tuple[Any, Any]) -> None:
    classification, _ = stubs
    image = images.brain_slice()

    def explain(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return refused(
            lambda: classification.Explain(
                classification_pb2.ExplainRequest(image=image, **fields), timeout=30
            )
        )

    assert explain(class_id="stroke") == (INVALID, "CLASS_NOT_FOUND")
    for overlay in (
        classification_pb2.OverlayOptions(alpha=1.5),
        classification_pb2.OverlayOptions(alpha=-0.1),
        classification_pb2.OverlayOptions(alpha=float("nan")),
        classification_pb2.OverlayOptions(max_side=63),
        classification_pb2.OverlayOptions(max_side=100_000),
        classification_pb2.OverlayOptions(max_side=-1),
        classification_pb2.OverlayOptions(color_map=99),  # type: ignore[arg-type]
    ):
        assert explain(overlay=overlay) == (INVALID, "OVERLAY_INVALID")


def test_model_reads(stubs: tuple[Any, Any]) -> None:
    _, model = stubs

    def listing(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return refused(
            lambda: model.ListModelVersions(model_pb2.ListModelVersionsRequest(**fields), timeout=30)
        )

    def one(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return refused(lambda: model.GetModelVersion(model_pb2.GetModelVersionRequest(**fields), timeout=30))

    assert listing(page_size=-1) == (INVALID, "PAGE_INVALID")
    assert listing(page_token="next please") == (INVALID, "PAGE_INVALID")
    assert listing(model="nothing") == (NOT_FOUND, "MODEL_NOT_FOUND")
    assert one(version=0) == (INVALID, "MODEL_SELECTOR_INVALID")
    assert one(version=987654321) == (NOT_FOUND, "MODEL_VERSION_NOT_FOUND")
    assert one(model="nothing", version=1) == (NOT_FOUND, "MODEL_NOT_FOUND")
