"""Nobody's name is kept: what images and uploads say about a person is in no file, log line or reply.

A gateway whose log is at "debug" is sent images with a name, a number and a day in every place that their
formats have for such words, in every call. Then all that it wrote, said and kept is searched.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc, training_pb2, training_pb2_grpc
from neurogate_gateway.observability import logging as telemetry
from neurogate_testing import identifying
from neurogate_testing.identifying import DAY, NAME, NUMBER
from neurogate_testing.launching import Home
from neurogate_testing.releases import released_gateway

FILES = identifying.files()
OTHERS = identifying.files(seed=100)
WORDS = f"{NAME} {NUMBER} {DAY}"


def broken() -> dict[str, bytes]:
    """What is refused, and says the same: cut images, other kinds, damaged headers."""
    cut = {f"{kind} cut": data[: len(data) * 2 // 3] for kind, data in FILES.items() if kind != "bmp"}
    head = {f"{kind} head": data[: max(200, data.index(b"Quill") + 60)] for kind, data in FILES.items()}
    return {
        **cut,
        **head,
        "text": WORDS.encode(),
        "text utf-16": WORDS.encode("utf-16"),
        "markup": f"<html>{WORDS}</html>".encode(),
        "pdf": b"%PDF-1.7\n" + WORDS.encode(),
        "words behind a signature": b"\x89PNG\r\n\x1a\n" + WORDS.encode() * 9,
        "words in a tiff": b"II*\0\x08\0\0\0" + WORDS.encode() * 9,
    }


class Caller:
    """Calls in every way, and notes every reply and error in full."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.asking = classification_pb2_grpc.ClassificationServiceStub(channel)
        self.training = training_pb2_grpc.TrainingServiceStub(channel)
        self.replies: list[bytes] = []

    async def one(self, call: Any) -> Any:
        try:
            reply = await call
        except grpc.aio.AioRpcError as error:
            trailing = [str(item) for item in error.trailing_metadata() or ()]
            self.replies.append(f"{error} {error.details()} {trailing}".encode())
            self.replies += [
                value for _, value in error.trailing_metadata() or () if isinstance(value, bytes)
            ]
            return None
        self.replies.append(reply.SerializeToString())
        return reply

    async def all(self, call: Any) -> list[Any]:
        found = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for reply in call:
                found.append(reply)
                # The caller's own key comes back to the caller, and nowhere else.
                reply.ClearField("key") if "key" in reply.DESCRIPTOR.fields_by_name else None
                self.replies.append(reply.SerializeToString())
        return found

    async def classify(self, image: bytes) -> pb.ClassifyResponse | None:
        item = pb.BatchClassifyItem(image=image)
        stream = [pb.StreamClassifyRequest(key=WORDS, image=image)]
        await self.one(self.asking.BatchClassify(pb.BatchClassifyRequest(items=[item])))
        await self.all(self.asking.StreamClassify(_sent(stream)))
        await self.one(self.asking.Explain(pb.ExplainRequest(image=image)))
        reply: pb.ClassifyResponse | None = await self.one(
            self.asking.Classify(pb.ClassifyRequest(image=image))
        )
        return reply

    async def upload(self, images: list[bytes]) -> list[str]:
        def requests() -> Iterator[training_pb2.UploadExamplesRequest]:
            for image in images:
                about = {"key": WORDS, "class_id": "glioma", "name": f"{WORDS}.jpg"}
                yield training_pb2.UploadExamplesRequest(data=image[:700], more=True, **about)
                yield training_pb2.UploadExamplesRequest(key=WORDS, data=image[700:])

        replies = await self.all(self.training.UploadExamples(_sent(list(requests()))))
        assert len(replies) == len(images)
        return [reply.example.example_id for reply in replies if reply.HasField("example")]

    async def retrain(self) -> None:
        """To the end of the scripted trainer's run."""
        spec = training_pb2.RetrainingSpec(from_scratch=True)
        started = await self.one(
            self.training.StartRetraining(training_pb2.StartRetrainingRequest(spec=spec))
        )
        run_id = started.retraining.retraining_id
        watch = self.training.WatchRetraining(training_pb2.WatchRetrainingRequest(retraining_id=run_id))
        last = (await self.all(watch))[-1].event.state_change.retraining
        assert last.version == 2


async def _sent(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def test_nothing_names_a_person(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = Home(tmp_path)
    home.script(then="serve")
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(telemetry._JsonFormatter())
    caplog.set_level(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    data = tmp_path / "data"
    settings = {
        "data_dir": str(data),
        "base_run": str(home.base_run),
        "trainer_command": str(home.trainer),
        "prediction_image_days": 1.0,
        "min_examples_per_class": 1,
        "log_level": "debug",
    }
    try:
        async with released_gateway(home.repository, **settings) as at:
            caller = Caller(at.gateway.channel)
            await use(caller)
    finally:
        logging.getLogger().removeHandler(handler)
    assert '"level": "debug"' in log.getvalue()
    assert list(data.glob("runs/*/examples.json"))
    assert len(list(data.glob("images/??/*"))) > len(FILES)
    found = identifying.traces_below(tmp_path)
    said = [log.getvalue().encode(), caplog.text.encode(), *caller.replies]
    found += [f"said: {trace}" for each in said for trace in identifying.traces(each)]
    assert found == []


async def use(caller: Caller) -> None:
    for image in FILES.values():
        reply = await caller.classify(image)
        assert reply is not None
        about = reply.classification.prediction_id
        feedback = training_pb2.SubmitFeedbackRequest(prediction_id=about, class_id="glioma")
        await caller.one(caller.training.SubmitFeedback(feedback))
    for image in broken().values():
        await caller.classify(image)
    kept = await caller.upload(list(OTHERS.values()))
    assert len(set(kept)) == len(FILES)
    # Of some formats the words come last, so these are whole.
    assert len(await caller.upload(list(broken().values()))) < len(FILES)
    await caller.one(caller.training.ListExamples(training_pb2.ListExamplesRequest(thumbnails=True)))
    await caller.retrain()
    wrong = training_pb2.UpdateExampleRequest(example_id=kept[0], class_id="notumor", reason="checked")
    await caller.one(caller.training.UpdateExample(wrong))
    await caller.one(caller.training.DeleteExample(training_pb2.DeleteExampleRequest(example_id=kept[1])))
