"""A version is published while callers classify without pause: nobody fails, nobody doubts who answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from neurogate_client import Client
from neurogate_client.errors import ModelRetiredError
from neurogate_testing import images
from neurogate_testing.stack import Stack, publish_copy

CALLERS = 4


def test_callers_see_a_new_version_without_a_failed_call(own_stack: Stack) -> None:
    """Callers go on until each has seen the second new version, whose arrival unloads the first one."""
    answers: list[list[tuple[int, str, tuple[float, ...]]]] = [[] for _ in range(CALLERS)]
    failures: list[BaseException] = []
    newest = 3
    stop = threading.Event()
    started = threading.Barrier(CALLERS + 1)

    def call(caller: int) -> None:
        image = images.brain_slice(caller)
        try:
            with Client(own_stack.target) as client:
                client.classify(image)
                started.wait()
                while not stop.is_set():
                    answer = client.classify(image)
                    scores = tuple(score.probability for score in answer.scores)
                    answers[caller].append((answer.model.version, answer.model.manifest_digest, scores))
                    if answer.model.version == newest:
                        return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to fail with it
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=call, args=[number]) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    started.wait()
    digests: dict[int, str] = {}
    try:
        with Client(own_stack.target) as client:
            digests[1] = client.get_model_version(1).manifest_digest
            for expected in range(2, newest + 1):
                assert publish_copy(own_stack.repository, of=1) == expected
                digests[expected] = own_stack.wait_until_serving(client, expected).manifest_digest
        for thread in threads:
            thread.join(timeout=60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    for caller in range(CALLERS):
        versions = [version for version, _, _ in answers[caller]]
        assert versions == sorted(versions), "an older version answered after a newer one"
        assert versions[-1] == newest
        assert {(version, digest) for version, digest, _ in answers[caller]} <= set(digests.items())
        assert len({scores for _, _, scores in answers[caller]}) == 1, "the copies are the same model"


@pytest.mark.parametrize("publications", [1, 2])
def test_a_stream_ends_with_the_version_that_it_began_with(own_stack: Stack, publications: int) -> None:
    """One publication leaves the version of a stream loaded, two unload it, and then the stream says so."""
    published = threading.Event()

    def requests() -> Iterator[tuple[str, bytes]]:
        yield "before", images.brain_slice()
        published.wait(timeout=120)
        yield "after", images.brain_slice()

    with Client(own_stack.target) as client:
        results = client.stream_classify(requests(), timeout=180)
        before = next(results)
        assert before.unwrap().model.version == 1
        for version in range(2, 2 + publications):
            assert publish_copy(own_stack.repository, of=1) == version
            own_stack.wait_until_serving(client, version)
        if publications == 2:
            own_stack.wait_until_retired(client, 1)
        published.set()
        if publications == 1:
            assert [(after.key, after.unwrap().model.version) for after in results] == [("after", 1)]
        else:
            with pytest.raises(ModelRetiredError):
                list(results)
        assert client.classify(images.brain_slice()).model.version == 1 + publications
