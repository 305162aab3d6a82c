"""DICOM files in every call that takes an image, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import training_pb2
from neurogate_core.preprocessing.dicom import close_decoders, decode_dicom, is_dicom
from neurogate_gateway.inference import preprocessing as transforms
from neurogate_testing.dicom_files import dicom_file, gradient
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.gateway_harness import Harness, failure, failure_of, serving_gateway, stream_of
from PIL import Image

SECRET = "ZZSECRET"
WINDOW: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 4000}
IDENTITY = dict.fromkeys(("PatientName", "PatientID", "InstitutionName", "AccessionNumber"), SECRET)


def mr(rows: int = 48, columns: int = 64, **elements: Any) -> bytes:
    return dicom_file(gradient(rows, columns), **WINDOW, **IDENTITY, **elements)


def frames(number: int) -> bytes:
    stored = np.stack([np.roll(gradient(48, 64), 7 * frame, 0) for frame in range(number)])
    return dicom_file(stored, **WINDOW, **IDENTITY)


def png(data: bytes, frame: int = 0) -> bytes:
    file = io.BytesIO()
    levels = decode_dicom(data, frame, max_pixels=10**6, max_side=10**4)[0]
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


async def every_way(gateway: Harness, image: bytes, frame: int = 0) -> list[Any]:
    """The scores of an image by each call that classifies, or the failure, and the picture by Explain."""

    def told(result: Any) -> Any:
        if result.HasField("error"):
            return failure_of(result.error)
        return list(result.classification.scores)

    calls = gateway.classification
    item = pb.BatchClassifyItem(image=image, frame=frame)
    batch = await calls.BatchClassify(pb.BatchClassifyRequest(items=[item]))
    [streamed] = await stream_of(gateway, [pb.StreamClassifyRequest(image=image, frame=frame)])
    found = [told(batch.results[0]), told(streamed)]
    request: Any = pb.ClassifyRequest(image=image, frame=frame)
    try:
        found.append(list((await calls.Classify(request)).classification.scores))
    except grpc.aio.AioRpcError as error:
        found.append(failure_of(error))
    try:
        explained = await calls.Explain(pb.ExplainRequest(image=image, frame=frame))
        found.append((list(explained.classification.scores), explained.overlay_png))
    except grpc.aio.AioRpcError as error:
        found.append(failure_of(error))
    return found


async def test_a_dicom_file_is_answered_as_its_picture_is() -> None:
    async with serving_gateway() as (gateway, _):
        for data, frame in ((mr(), 0), (mr(), 1), (frames(3), 2)):
            assert await every_way(gateway, data, frame) == await every_way(gateway, png(data, frame))


REFUSALS = [
    (frames(3), 0, "FRAME_REQUIRED", "3 frames", "frame"),
    (frames(3), 4, "FRAME_OUT_OF_RANGE", "the file has 3", "frame"),
    (frames(3), -1, "FRAME_OUT_OF_RANGE", "frames count from 1", "frame"),
    (sample_image(), 2, "FRAME_OUT_OF_RANGE", "only the first is read", "frame"),
    (mr(Modality="CT"), 0, "NOT_MAGNETIC_RESONANCE", "modality is CT", "image"),
    (mr(BurnedInAnnotation="YES"), 0, "BURNED_IN_ANNOTATION", "BurnedInAnnotation is YES", "image"),
    (mr()[:-100], 0, "IMAGE_CORRUPT", "cannot be decoded", "image"),
]


async def test_refusals_have_their_reason_in_every_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving_gateway() as (gateway, _):
        for image, frame, reason, message, field in REFUSALS:
            for failed in await every_way(gateway, image, frame):
                assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
                assert message in failed.message
                assert failed.details["BadRequest"].field_violations[0].field == field
                assert SECRET not in str(failed)
    assert SECRET not in caplog.text


async def test_burned_in_annotation_can_be_allowed() -> None:
    async with serving_gateway(allow_burned_in_annotation=True) as (gateway, _):
        data = mr(BurnedInAnnotation="YES")
        assert await every_way(gateway, data) == await every_way(gateway, png(mr()))


async def test_nothing_of_the_file_is_kept_but_its_picture(tmp_path: Path) -> None:
    async with serving_gateway(data_dir=str(tmp_path), prediction_image_days=1) as (gateway, _):
        data = frames(2)

        async def send() -> Any:
            yield training_pb2.UploadExamplesRequest(
                class_id="glioma", data=data[:1000], frame=2, more=True, name="slice"
            )
            yield training_pb2.UploadExamplesRequest(data=data[1000:])

        [response] = [each async for each in gateway.training.UploadExamples(send())]
        kept = response.example.example_id
        stored = (tmp_path / "images" / kept[:2] / kept[2:]).read_bytes()
        np.testing.assert_array_equal(Image.open(io.BytesIO(stored)), Image.open(io.BytesIO(png(data, 2))))
        page = await gateway.training.ListExamples(training_pb2.ListExamplesRequest(thumbnails=True))
        [example] = page.examples
        assert (example.width, example.height) == (64, 48)
        assert (example.attributes["Modality"], SECRET in str(example)) == ("MR", False)
        assert example.sent_sha256 == hashlib.sha256(data).hexdigest()
        assert Image.open(io.BytesIO(example.thumbnail)).size == (64, 48)

        answer = await gateway.classification.Classify(pb.ClassifyRequest(image=data, frame=1))
        feedback = training_pb2.SubmitFeedbackRequest(
            prediction_id=answer.classification.prediction_id, class_id="meningioma"
        )
        kept = (await gateway.training.SubmitFeedback(feedback)).example_id
        stored = (tmp_path / "images" / kept[:2] / kept[2:]).read_bytes()
        np.testing.assert_array_equal(Image.open(io.BytesIO(stored)), Image.open(io.BytesIO(png(data, 1))))
        [example, _] = (await gateway.training.ListExamples(training_pb2.ListExamplesRequest())).examples
        assert (example.example_id, example.attributes["Modality"]) == (kept, "MR")
    assert not _files_with(tmp_path, SECRET.encode())


def _files_with(folder: Path, content: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if content in path.read_bytes()]


class SlowDecoders:
    """In place of the transform's decoding: DICOM files take until `release` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        real = transforms.decode

        def decode(image: bytes, *arguments: Any, **options: Any) -> Any:
            if is_dicom(image):
                assert self.release.wait(60)
            return real(image, *arguments, **options)

        monkeypatch.setattr(transforms, "decode", decode)


async def test_slow_files_hold_up_no_other_image(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowDecoders(monkeypatch)
    async with serving_gateway(max_in_flight=16, transform_threads=1) as (gateway, _):
        calls = gateway.classification
        # A quarter of the slots is theirs; which of the calls get them nobody knows.
        waiting = [asyncio.ensure_future(calls.Classify(pb.ClassifyRequest(image=mr()))) for _ in range(7)]
        refused, admitted = set[Any](), set[Any](waiting)
        while len(refused) < 3:
            done, admitted = await asyncio.wait(admitted, return_when=asyncio.FIRST_COMPLETED)
            refused |= done
        for call in refused:
            failed = await failure(call)
            assert (failed.reason, "RetryInfo" in failed.details) == ("OVERLOADED", True)
        await calls.Classify(pb.ClassifyRequest(image=sample_image()))
        slow.release.set()
        assert all(answer.classification.scores for answer in await asyncio.gather(*admitted))
        await calls.Classify(pb.ClassifyRequest(image=mr()))


async def test_the_callers_deadline_holds_while_a_file_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowDecoders(monkeypatch)
    async with serving_gateway() as (gateway, _):
        late = gateway.classification.Classify(pb.ClassifyRequest(image=mr()), timeout=0.3)
        assert (await failure(late)).code == grpc.StatusCode.DEADLINE_EXCEEDED
        slow.release.set()
        await gateway.classification.Classify(pb.ClassifyRequest(image=mr()))


async def test_a_decoder_that_dies_costs_one_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'neurogate_core.preprocessing.dicom.child' in sys.orig_argv:\n"
        "    from neurogate_core.preprocessing.dicom import reader\n"
        "    real = reader._size\n"
        "    reader._size = lambda d: os.kill(os.getpid(), signal.SIGSEGV) if d.Columns == 9 else real(d)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    close_decoders()
    async with serving_gateway() as (gateway, _):
        items = [pb.BatchClassifyItem(image=mr(48, columns)) for columns in (64, 9, 63, 9, 62)]
        response = await gateway.classification.BatchClassify(pb.BatchClassifyRequest(items=items))
        told = [
            failure_of(result.error).reason if result.HasField("error") else "" for result in response.results
        ]
        assert told == ["", "IMAGE_CORRUPT", "", "IMAGE_CORRUPT", ""]
