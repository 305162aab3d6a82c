"""When a thread of the server is taken, refused and free again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import grpc
import pytest
from neurogate_model_server.errors import ServingError
from neurogate_model_server.services import ThreadLimit


class Call:
    """What the limit knows of a call."""

    def __init__(self, *, over: bool = False) -> None:
        self._over = over
        self._callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return not self._over

    def end(self) -> None:
        for callback in self._callbacks:
            callback()


def is_refused(limit: ThreadLimit) -> bool:
    """Whether a call is refused now; one that is not leaves no trace."""
    with contextlib.suppress(ServingError), limit.hold(Call(over=True)):
        return False
    return True


def test_the_refusal_is_the_real_servers() -> None:
    with pytest.raises(ServingError) as caught, ThreadLimit(1).hold(Call()):
        pass
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.message == "Server Threadpool Exhausted"


@pytest.mark.parametrize(("threads", "at_once"), [(1, 0), (2, 1), (4, 3), (64, 63)])
def test_one_call_fewer_than_threads_runs_at_once(threads: int, at_once: int) -> None:
    limit = ThreadLimit(threads)
    held = [limit.hold(Call(over=True)) for _ in range(at_once)]
    for each in held:
        assert not is_refused(limit)
        each.__enter__()
    assert is_refused(limit)
    for each in held:
        each.__exit__(None, None, None)
        assert not is_refused(limit)


def test_a_negative_number_is_no_limit() -> None:
    limit = ThreadLimit(-1)
    held = [limit.hold(Call()) for _ in range(1000)]
    for each in held:
        each.__enter__()
    assert not is_refused(limit)


def test_a_thread_is_free_when_the_answer_is_out() -> None:
    limit, call = ThreadLimit(2), Call()
    with limit.hold(call):
        pass
    assert is_refused(limit)
    call.end()
    assert not is_refused(limit)


def test_a_cancelled_call_keeps_its_thread_until_it_has_run_to_its_end() -> None:
    limit, call = ThreadLimit(2), Call()
    with limit.hold(call):
        call.end()
        assert is_refused(limit)
    assert not is_refused(limit)


def test_a_call_that_fails_gives_its_thread_back() -> None:
    limit, call = ThreadLimit(2), Call()
    with pytest.raises(ValueError, match="of its own"), limit.hold(call):
        raise ValueError("of its own")
    call.end()
    assert not is_refused(limit)
