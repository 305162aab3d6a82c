"""The release in real processes: labels outlive everything, gateways agree, callers notice nothing."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from neurogate.v1 import classification_pb2, classification_pb2_grpc
from neurogate_client import Client
from neurogate_testing import images
from neurogate_testing.processes import running
from neurogate_testing.release_stack import eventually, labels_of, release_stack, until_ready
from neurogate_testing.stack import publish_copy

CALLERS = 4


@pytest.fixture
def root(toy_repository: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(toy_repository, copy)
    return copy


def test_labels_survive_a_restart_of_everything(root: Path) -> None:
    with release_stack(root) as stack, Client(stack.targets[0]) as client:
        assert labels_of(client) == {"stable": 1}
        assert publish_copy(root, of=1) == 2
        until_ready(client, 2)
        assert labels_of(client) == {"stable": 1, "candidate": 2}
        client.promote(2, reason="newer")
        assert client.classify(images.brain_slice()).model.version == 2
        client.rollback(reason="the older one was better")
        # Whoever calls TensorFlow Serving directly follows.
        eventually(lambda: stack.labelled("stable") == [1] and stack.labelled("previous") == [2])
    with release_stack(root) as stack, Client(stack.targets[0]) as client:
        assert labels_of(client) == {"stable": 1, "previous": 2}
        assert stack.labelled("stable") == [1]
        assert stack.labelled("previous") == [2]
        assert client.classify(images.brain_slice()).model.version == 1
        until_ready(client, 2)
        assert client.rollback().release.labels == {"stable": 2, "previous": 1}
        assert client.classify(images.brain_slice()).model.version == 2
        changes = client.list_release_changes()
        assert [change.sequence for change in changes] == list(range(len(changes), 0, -1))


@contextlib.contextmanager
def callers(targets: list[str]) -> Iterator[list[set[int]]]:
    """Clients without pause, spread over the gateways: which versions have answered each. None may fail."""
    failures: list[BaseException] = []
    answered: list[set[int]] = [set() for _ in range(CALLERS)]
    stop = threading.Event()
    begun = threading.Barrier(CALLERS + 1)

    def call(number: int) -> None:
        try:
            # Bare, since the client would hide a failure by another attempt.
            options = [("grpc.enable_retries", 0)]
            with grpc.insecure_channel(targets[number % len(targets)], options=options) as channel:
                classify = classification_pb2_grpc.ClassificationServiceStub(channel).Classify
                request = classification_pb2.ClassifyRequest(image=images.brain_slice(number))
                classify(request, timeout=30)
                begun.wait(timeout=60)
                while not stop.is_set():
                    answered[number].add(classify(request, timeout=30).model.version)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to fail with it
            failures.append(error)
            begun.abort()

    threads = [threading.Thread(target=call, args=[number]) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        begun.wait(timeout=60)
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures


def test_callers_notice_no_promotion_and_no_rollback(root: Path) -> None:
    with contextlib.ExitStack() as opened:
        stack = opened.enter_context(release_stack(root, servers=2, gateways=2))
        first, second = (opened.enter_context(Client(target)) for target in stack.targets)
        answered = opened.enter_context(callers(stack.targets))
        for version in (2, 3):
            assert publish_copy(root, of=1) == version
            until_ready(first, version)
            until_ready(second, version)
            first.promote(version)
            eventually(lambda version=version: labels_of(second)["stable"] == version)
            second.rollback()
            eventually(lambda version=version: labels_of(first)["stable"] == version - 1)
            first.rollback()
            assert first.classify(images.brain_slice()).model.version == version
            eventually(lambda version=version: stack.labelled("stable") == [version, version])
        eventually(lambda: all(3 in versions for versions in answered))


def test_a_model_server_that_is_killed_comes_back_with_its_labels(root: Path) -> None:
    """Promoted while it was away, and it started from what the gateways had written meanwhile."""
    with contextlib.ExitStack() as opened:
        stack = opened.enter_context(release_stack(root, servers=2, gateways=2))
        client = opened.enter_context(Client(stack.targets[0]))
        assert publish_copy(root, of=1) == 2
        for target in stack.targets:
            until_ready(opened.enter_context(Client(target)), 2)
        with callers(stack.targets) as answered:
            stack.servers[0].stop(signal.SIGKILL)
            client.promote(2)
            assert client.classify(images.brain_slice()).model.version == 2
            eventually(lambda: stack.labelled("stable") == [None, 2])
            opened.enter_context(running(stack.servers[0].command))
            eventually(lambda: stack.labelled("stable") == [2, 2])
            eventually(lambda: stack.labelled("previous") == [1, 1])
            until_ready(client, 2)
            eventually(lambda: all(2 in versions for versions in answered))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
