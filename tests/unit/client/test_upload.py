from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from neurogate_client import LabelledImage, UploadResult, _streams, aio, errors
from neurogate_client._upload import CHUNK_BYTES
from neurogate_testing.fake_gateway import FakeGateway
from neurogate_testing.fake_status import refusal


def numbered(count: int) -> Iterator[LabelledImage]:
    for number in range(count):
        yield LabelledImage(image=b"glioma %d" % number, class_id="glioma", key=number)


def test_each_image_has_a_result(client: Any, gateway: FakeGateway) -> None:
    images = [
        LabelledImage(image=b"glioma 1", class_id="glioma", key="a", group="patient 7"),
        LabelledImage(image=b"glioma 1", class_id="glioma", key="b"),
        LabelledImage(image=b"glioma 1", class_id="notumor", key="c"),
        LabelledImage(image=b"corrupt", class_id="glioma", key="d"),
        LabelledImage(image=b"x", class_id="flu", key=("any", "thing")),
        LabelledImage(image=b"", class_id="glioma", key="e"),
        LabelledImage(image=Path("/no/such/file.jpg"), class_id="glioma", key="f"),
    ]
    results = {each.key: each for each in client.upload_examples(images)}
    assert {key: each.error and each.error.reason for key, each in results.items()} == {
        "a": None,
        "b": None,
        "c": "EXAMPLE_CONFLICT",
        "d": "IMAGE_CORRUPT",
        ("any", "thing"): "CLASS_NOT_FOUND",
        "e": "IMAGE_EMPTY",
        "f": "IMAGE_UNREADABLE",
    }
    assert (results["a"].duplicate, results["b"].duplicate) == (False, True)
    assert list(client.upload_examples([])) == []
    (kept,) = gateway.script.training.examples.values()
    assert kept.example_id == results["a"].example_id
    assert (kept.name, kept.group) == ("", "patient 7")


def test_a_large_image_goes_in_chunks(client: Any, gateway: FakeGateway) -> None:
    sizes = [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5]
    images = [LabelledImage(image=b"g" * size, class_id="glioma") for size in sizes]
    assert [each.error for each in client.upload_examples(images)] == [None] * 4
    training = gateway.script.training
    assert [each.size_bytes for each in training.examples.values()] == sizes
    assert training.largest_message < CHUNK_BYTES + 1024


@pytest.mark.parametrize("keeps_more", [False, True], ids=["before it was kept", "after it was kept"])
def test_a_cut_connection_loses_and_doubles_nothing(
    client: Any, gateway: FakeGateway, keeps_more: bool
) -> None:
    training = gateway.script.training
    training.cut_after = [0, 7, 1, 40, 0]
    training.lose_last_answer = keeps_more
    results = list(client.upload_examples(numbered(300), window=16))
    assert sorted(each.key for each in results) == list(range(300))
    assert all(each.error is None for each in results)
    assert len(training.examples) == 300
    assert training.uploads == 6
    # What is called a duplicate is only what had been kept with its answer lost; one image lost it twice.
    doubled = [each for each in results if each.duplicate]
    assert len(doubled) == (4 if keeps_more else 0)
    assert all(each.resent for each in doubled)


def test_a_gateway_that_stays_away_ends_the_upload(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [refusal("SHUTTING_DOWN", "gone")] * 50
    with pytest.raises(errors.ShuttingDownError):
        list(client.upload_examples(numbered(5), patience=0.5))


IDLE = refusal("DEADLINE_TOO_SHORT", "no message came for 30 s")


def test_a_slow_source_outlives_the_gateways_patience(client: Any, gateway: FakeGateway) -> None:
    training = gateway.script.training
    training.cut_after, training.cut_with = [5], IDLE

    def source() -> Iterator[LabelledImage]:
        images = numbered(10)
        yield from itertools.islice(images, 5)
        assert training.ended.wait(10)
        yield from images

    assert sorted(each.key for each in client.upload_examples(source())) == list(range(10))
    assert (training.uploads, len(training.examples)) == (2, 10)


def test_an_image_that_is_read_while_the_connection_breaks_has_one_result(
    client: Any, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = gateway.script.training
    training.cut_after, training.cut_with = [1], IDLE
    load, reads = _streams.load_image, itertools.count()

    def read(image: bytes, limit: int) -> bytes:
        if image != b"glioma 1":
            return load(image, limit)
        assert next(reads) or training.ended.wait(10)
        raise errors.ImageCorruptError("cut off")

    monkeypatch.setattr(_streams, "load_image", read)
    results = list(client.upload_examples(numbered(3)))
    assert sorted((each.key, each.error is None) for each in results) == [(0, True), (1, False), (2, True)]


def test_an_upload_that_gets_nowhere_is_given_up(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [IDLE] * 5
    with pytest.raises(errors.DeadlineExceededError, match="no message came"):
        list(client.upload_examples(numbered(3)))


def test_other_refusals_are_not_tried_again(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [refusal("RECORDS_DISABLED", "no records")]
    with pytest.raises(errors.TrainingError, match="no records"):
        list(client.upload_examples(numbered(5)))
    assert gateway.script.training.uploads == 1


def test_the_source_is_read_no_further_than_the_window(client: Any, gateway: FakeGateway) -> None:
    read = itertools.count()
    last = -1

    def source() -> Iterator[LabelledImage]:
        nonlocal last
        for number in itertools.count():
            last = next(read)
            yield LabelledImage(image=b"glioma %d" % number, class_id="glioma", key=number)

    results = client.upload_examples(source(), window=4)
    for taken in range(20):
        assert next(results).error is None
        assert last <= taken + 4 + 1
    results.close()
    assert gateway.script.cancelled.wait(10)


def test_what_the_source_raises_comes_after_the_results_before(client: Any) -> None:
    def source() -> Iterator[Any]:
        yield from numbered(3)
        raise OSError("the disk is gone")

    results = client.upload_examples(source())
    assert sorted(next(results).key for _ in range(3)) == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    with pytest.raises(TypeError, match="takes LabelledImage, not tuple"):
        list(client.upload_examples([("k", b"glioma")]))
    with pytest.raises(TypeError, match="an image is bytes or a path, not int"):
        list(client.upload_examples([LabelledImage(image=7, class_id="glioma")]))


def test_a_silent_gateway_is_given_up(client: Any, gateway: FakeGateway) -> None:
    gateway.script.gate.clear()
    with pytest.raises(errors.DeadlineExceededError, match="images waiting"):
        list(client.upload_examples(numbered(3), idle_timeout=0.5))


def test_settings_that_cannot_work(client: Any) -> None:
    for settings in ({"window": 0}, {"patience": 0}, {"idle_timeout": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
            list(client.upload_examples(numbered(1), **settings))


async def test_an_asynchronous_source(gateway: FakeGateway) -> None:
    async def source() -> Any:
        for each in numbered(40):
            yield each

    gateway.script.training.cut_after = [9]
    async with aio.Client(gateway.address) as client:
        results = [each async for each in client.upload_examples(source())]
    assert sorted(each.key for each in results) == list(range(40))
    assert isinstance(results[0], UploadResult)
    assert len(gateway.script.training.examples) == 40
