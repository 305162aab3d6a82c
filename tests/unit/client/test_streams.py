from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate_client import Client, NeurogateError, _calls, _streams, enum_name, errors
from neurogate_client._streams import Limits, StreamCall
from neurogate_testing.fake_gateway import CLASSES, FakeGateway, version
from neurogate_testing.fake_status import refusal
from neurogate_testing.fake_training import success


def images(count: int) -> Iterator[tuple[int, bytes]]:
    for number in range(count):
        yield number, CLASSES[number % 4].encode()


def test_every_image_is_answered_once_and_in_order(client: Any) -> None:
    results = list(client.stream_classify(images(300), top_k=1, request_id="s"))
    assert [each.key for each in results] == list(range(300))
    assert [each.unwrap().top.class_id for each in results] == [CLASSES[n % 4] for n in range(300)]
    assert {len(each.unwrap().scores) for each in results} == {1}
    assert {each.unwrap().request_id for each in results} == {"s"}


def test_an_empty_stream(client: Any, gateway: FakeGateway) -> None:
    assert list(client.stream_classify([])) == []
    assert gateway.script.calls == ["StreamClassify"]


def test_nothing_is_called_before_the_first_step(gateway: FakeGateway) -> None:
    with Client(gateway.address) as client:
        client.stream_classify(images(3)).close()
    assert gateway.script.calls == []


def test_bad_images_are_results_in_their_place(client: Any, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(b"notumor")
    items = [
        ("a", b"glioma"),
        ("a", b"corrupt"),
        (("any", "key"), tmp_path / "missing.png"),
        (None, b""),
        ("e", tmp_path / "good.png"),
        ("f", b"not an image"),
    ]
    results = list(client.stream_classify(items))
    assert [each.key for each in results] == [key for key, _ in items]
    assert [type(each.error) for each in results] == [
        type(None),
        errors.ImageCorruptError,
        errors.ImageUnreadableError,
        errors.ImageEmptyError,
        type(None),
        errors.ImageFormatError,
    ]
    assert results[2].model is None
    assert results[5].model.version == 1
    with pytest.raises(errors.ImageUnreadableError):
        results[2].unwrap()


def test_only_unsendable_images(client: Any) -> None:
    results = list(client.stream_classify([(n, b"") for n in range(200)], window=3))
    assert [each.key for each in results] == list(range(200))


def test_out_of_order_answers_keep_their_keys(client: Any, gateway: FakeGateway) -> None:
    gateway.script.swap_pairs = True
    results = list(client.stream_classify(images(10), allow_out_of_order=True))
    assert [each.key for each in results] == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert all(each.unwrap().top.class_id == CLASSES[each.key % 4] for each in results)
    assert [each.key for each in client.stream_classify(images(10))] == list(range(10))


def test_the_source_is_read_at_most_a_window_ahead(client: Any, gateway: FakeGateway) -> None:
    taken = itertools.count()
    ahead: list[int] = []

    def source() -> Iterator[tuple[int, bytes]]:
        for number in range(100):
            ahead.append(number - delivered)
            next(taken)
            yield number, b"glioma"

    delivered = 0
    for _ in client.stream_classify(source(), window=5):
        delivered += 1
    assert delivered == next(taken) == 100
    # The count of delivered results lags behind by the one that is just being handed over.
    assert max(ahead) <= 5


def test_a_consumer_that_stops_cancels_the_call_and_frees_the_source(gateway: FakeGateway) -> None:
    with Client(gateway.address) as client:
        for result in client.stream_classify((n, b"glioma") for n in itertools.count()):
            if result.key == 10:
                break
        gc.collect()
        assert gateway.script.cancelled.wait(10)
        assert client.classify(b"notumor").top.class_id == "notumor"
    assert all(
        not thread.name.startswith("neurogate-stream") or _ends(thread) for thread in threading.enumerate()
    )


def _ends(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def test_what_the_source_raises_is_raised_after_the_answers_before_it(client: Any) -> None:
    def source() -> Iterator[tuple[int, bytes]]:
        yield from images(3)
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(each.key for each in client.stream_classify(source()))
    assert seen == [0, 1, 2]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("leave", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_source_that_ends_the_program_ends_the_stream(client: Any, leave: type[BaseException]) -> None:
    class Source(Iterator[tuple[int, bytes]]):
        def __init__(self) -> None:
            self._images = images(2)

        def __next__(self) -> tuple[int, bytes]:
            for item in self._images:
                return item
            raise leave("no such file")

    seen: list[int] = []
    with pytest.raises(leave):
        seen.extend(each.key for each in client.stream_classify(Source()))
    assert seen == [0, 1]


@pytest.mark.timeout(30)
def test_an_answer_that_cannot_be_read_ends_the_stream(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise OverflowError("a time beyond all calendars")

    monkeypatch.setattr(_calls, "parse_result", unreadable)
    with pytest.raises(errors.UnexpectedError, match=r"cannot be read: OverflowError\('a time") as caught:
        list(client.stream_classify(images(3), idle_timeout=5))
    assert isinstance(caught.value.__cause__, OverflowError)


@pytest.mark.parametrize("item", [b"glioma", ("k",), None, ["k", b"glioma"]])
def test_what_is_no_pair_is_a_mistake_of_the_caller(client: Any, item: object) -> None:
    with pytest.raises(TypeError, match=r"stream_classify takes \(key, image\) pairs"):
        list(client.stream_classify([item]))
    with pytest.raises(TypeError, match="an image is bytes or a path, not int"):
        list(client.stream_classify([("k", 3)]))


def test_a_refused_stream_raises(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [refusal("MODEL_LABEL_NOT_FOUND", "no label 'x'")]
    with pytest.raises(errors.ModelNotFoundError, match="no label 'x'"):
        list(client.stream_classify(images(3), label="x"))


def test_a_stream_that_breaks_keeps_what_was_answered_and_is_not_retried(
    client: Any, gateway: FakeGateway
) -> None:
    results = client.stream_classify(images(100), window=1)
    seen = [next(results).key]
    gateway.script.failures = [refusal("SHUTTING_DOWN", "going")]
    with pytest.raises(errors.ShuttingDownError):
        seen.extend(each.key for each in results)
    assert seen == list(range(len(seen)))
    assert len(seen) < 100
    assert gateway.script.calls == ["StreamClassify"]


def test_a_gateway_that_stops_answering(client: Any, gateway: FakeGateway) -> None:
    gateway.script.gate.clear()
    with pytest.raises(errors.DeadlineExceededError, match="for 1 s, with 2 images waiting"):
        list(client.stream_classify(images(100), window=2, idle_timeout=1))
    assert gateway.script.cancelled.wait(10)


class Answers:
    """Stands for gRPC's call: the test answers, and ends it by None."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[pb.StreamClassifyResponse | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[pb.StreamClassifyResponse]:
        return iter(self.queue.get, None)  # type: ignore[arg-type]

    def cancel(self) -> None:
        self.queue.put(None)


@contextlib.contextmanager
def scripted(source: Iterable[Any]) -> Iterator[tuple[StreamCall[Any], Iterator[Any], Answers, Any]]:
    """A running call, its requests, its answers, and the events of its consumer."""
    answers: Answers = Answers()
    started: queue.SimpleQueue[Iterator[Any]] = queue.SimpleQueue()
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def start(requests: Iterator[Any]) -> Answers:
        started.put(requests)
        return answers

    limits = Limits(target="x", max_image_bytes=9, window=9, idle_timeout=60)
    call = StreamCall[Any](source, start, pb.StreamClassifyConfig(), limits, events.put)
    requests = started.get(timeout=10)
    assert next(requests).HasField("config")
    yield call, requests, answers, events
    call.close()


def test_sending_does_not_count_as_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_streams, "time", SimpleNamespace(monotonic=lambda: now))
    with scripted([("a", b"x"), ("b", b"y")]) as (call, requests, answers, events):
        assert call.waiting() == (0, 0)
        first = next(requests)
        now += 3
        next(requests)
        assert call.waiting() == (2, 3)
        answers.queue.put(pb.StreamClassifyResponse(key=first.key))
        assert events.get(timeout=10).key == "a"
        assert call.waiting() == (1, 0)
        now += 2
        assert call.waiting() == (1, 2)


@pytest.mark.parametrize("strange", ["", "7", "-1", "²", "x", "0"])
def test_an_answer_to_nothing_breaks_the_contract(strange: str) -> None:
    with scripted([("a", b"x"), ("b", b"y")]) as (_, requests, answers, events):
        for _ in range(2):
            next(requests)
        answers.queue.put(pb.StreamClassifyResponse(key="0"))
        # With neither an answer nor an error in it.
        assert isinstance(events.get(timeout=10).error, errors.UnexpectedError)
        answers.queue.put(pb.StreamClassifyResponse(key=strange))
        assert "was not waiting" in str(events.get(timeout=10))


def test_a_slow_source_is_no_silent_gateway(client: Any) -> None:
    go_on = threading.Event()

    def source() -> Iterator[tuple[int, bytes]]:
        yield 0, b"glioma"
        go_on.wait(1.5)
        yield 1, b"glioma"

    assert [each.key for each in client.stream_classify(source(), idle_timeout=1)] == [0, 1]


def test_a_deadline_for_the_whole_stream(client: Any, gateway: FakeGateway) -> None:
    gateway.script.gate.clear()
    with pytest.raises(errors.DeadlineExceededError):
        list(client.stream_classify(images(3), timeout=0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"idle_timeout": 0}, "idle_timeout is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_settings_that_cannot_work(gateway: FakeGateway, options: dict[str, int], message: str) -> None:
    with Client(gateway.address) as client, pytest.raises(ValueError, match=message):
        client.stream_classify(images(1), **options)


def test_closing_the_client_ends_its_streams(gateway: FakeGateway) -> None:
    gateway.script.gate.clear()
    client = Client(gateway.address)
    results = client.stream_classify(images(3))
    caught: list[NeurogateError] = []

    def consume() -> None:
        try:
            list(results)
        except NeurogateError as error:
            caught.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    assert gateway.script.received.acquire(timeout=10)
    client.close()
    thread.join(10)
    assert [type(each) for each in caught] == [errors.CallCancelledError]


@pytest.fixture
def watched(gateway: FakeGateway) -> FakeGateway:
    gateway.script.versions = [version(2, labels=("candidate",)), version(1, labels=("stable",))]
    return gateway


def test_a_watch_begins_with_the_present_state_and_goes_on(client: Any, watched: FakeGateway) -> None:
    events = client.watch_model_versions()
    present = [next(events) for _ in range(3)]
    assert [each.version.version for each in present[:2]] == [2, 1]
    assert all(each.snapshot for each in present)
    assert present[2].release.labels == {"stable": 1}
    watched.script.release.announce(version=version(3, state="LOADING"))
    change = next(events)
    assert (change.version.version, enum_name(change.version, "state")) == (3, "LOADING")
    assert not change.snapshot
    events.close()
    assert watched.script.cancelled.wait(10)


def test_a_broken_watch_resumes_behind_what_was_seen(client: Any, watched: FakeGateway) -> None:
    release = watched.script.release
    release.cut_after = [4, 1]
    with contextlib.closing(client.watch_model_versions()) as events:
        for _ in range(3):
            next(events)
        for number in (3, 4, 5, 6):
            release.announce(version=version(number))
            assert next(events).version.version == number
    assert [each.resume_token for each in watched.script.requests] == ["", "t1", "t2"]


def test_another_gateway_that_does_not_know_the_token_gives_the_state_again(
    client: Any, watched: FakeGateway
) -> None:
    watched.script.release.cut_after, watched.script.release.forgetful = [3], True
    with contextlib.closing(client.watch_model_versions()) as events:
        assert [next(events).snapshot for _ in range(6)] == [True] * 6
    assert [each.resume_token for each in watched.script.requests] == ["", "t0", ""]


def test_a_watch_gives_up_after_its_patience_and_on_other_errors(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [refusal("RELEASE_UNAVAILABLE", "the disk is away")] * 50
    with pytest.raises(errors.UnavailableError, match="the disk is away"):
        next(client.watch_model_versions(patience=0.5))
    gateway.script.failures = [refusal("MODEL_NOT_FOUND", "no such model")]
    with pytest.raises(errors.ModelNotFoundError):
        next(client.watch_model_versions(model="other"))
    with pytest.raises(ValueError, match="patience is 0"):
        next(client.watch_model_versions(patience=0))
    with pytest.raises(errors.DeadlineExceededError):
        list(client.watch_model_versions(timeout=1.0))


def test_the_events_of_a_retraining_until_its_end_with_none_missed_and_none_twice(
    client: Any, gateway: FakeGateway
) -> None:
    training = gateway.script.training
    training.script = success
    client.start_retraining()
    training.cut_after = [2, 0, 3]
    events = list(client.watch_retraining("r1"))
    assert events == training.events["r1"]
    watches = [each for each in gateway.script.requests if hasattr(each, "after_sequence")]
    assert [each.after_sequence for each in watches] == [0, 2, 2, 5]
    assert [each.sequence for each in client.watch_retraining("r1", after_sequence=6)] == [7, 8]
