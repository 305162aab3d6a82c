"""Following versions while they change, and what counts as their first answer."""

from __future__ import annotations

import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from neurogate.v1 import model_pb2, model_pb2_grpc
from neurogate_bench.load import Load
from neurogate_bench.release import ReleaseManager
from neurogate_bench.scenarios.swap import Change, first_answer

LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED


class Models(model_pb2_grpc.ModelServiceServicer):
    """Tells of the given versions' states, and keeps what it was asked to do."""

    def __init__(self, states):
        self.states, self.open, self.asked = states, threading.Event(), []

    def WatchModelVersions(self, request, context):  # noqa: N802 - the contract's name
        del request
        for number, state, reason in self.states:
            version = model_pb2.ModelVersion(version=number, state=state, state_reason=reason)
            yield model_pb2.WatchModelVersionsResponse(version=version)
        context.add_callback(self.open.set)
        self.open.wait(30)

    def PromoteModelVersion(self, request, context):  # noqa: N802
        del context
        self.asked.append(request)
        return model_pb2.PromoteModelVersionResponse()

    def RollbackModel(self, request, context):  # noqa: N802
        del context
        self.asked.append(request)
        return model_pb2.RollbackModelResponse(release=model_pb2.Release(labels={"stable": 4}))


@contextlib.contextmanager
def serving(*states):
    server, service = grpc.server(ThreadPoolExecutor(4)), Models(states)
    model_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_version_was_ready_in_its_spans_and_at_no_other_time():
    states = [(1, READY, ""), (2, LOADING, ""), (1, RETIRED, ""), (2, READY, "")]
    with serving(*states) as (_, address), ReleaseManager(address) as manager:
        manager.wait(2, seconds=10)
        assert manager.was_ready(2, 0, math.inf, slack=0)
        assert manager.was_ready(1, 0, math.inf, slack=0)
        # Long before anything was told, and of a version that never was.
        assert not manager.was_ready(2, -200, -100, slack=1)
        assert not manager.was_ready(1, 1e12, 1e12, slack=1)
        assert not manager.was_ready(3, 0, math.inf, slack=1)


@pytest.mark.parametrize(
    ("state", "seconds", "error", "message"),
    [
        ((7, REJECTED, "goldens disagree"), 10, RuntimeError, "version 7 was rejected: goldens disagree"),
        ((7, LOADING, ""), 0.01, TimeoutError, "version 7 was not READY"),
    ],
)
def test_a_version_that_will_not_come_is_not_waited_for(state, seconds, error, message):
    with (
        serving(state) as (_, address),
        ReleaseManager(address) as manager,
        pytest.raises(error, match=message),
    ):
        manager.wait(7, seconds=seconds)


def test_a_watch_that_ends_is_noticed():
    with serving() as (service, address), ReleaseManager(address) as manager:
        service.open.set()
        with pytest.raises(RuntimeError, match="the watch is over: the gateway ended it"):
            manager.wait(1, seconds=10)


def test_promotions_overrule_the_gate_and_rollbacks_say_where_they_led():
    with serving() as (service, address), ReleaseManager(address) as manager:
        called = manager.promote(5)
        version, later = manager.roll_back()
    assert service.asked[0].version == 5
    assert service.asked[0].force
    assert version == 4
    assert later >= called


def test_the_first_answer_is_of_a_call_that_began_after_the_change():
    # The first belongs to a stream that was opened long ago and keeps its version.
    load = Load(finished=[10.2, 10.4, 10.3, 10.6], opened=[1.0, 10.3, 10.1, 10.5], answered_by=[2, 2, 1, 2])
    assert first_answer(load, Change(version=2, began=9.0, called=10.0)) == 10.4
    assert first_answer(load, Change(version=3, began=9.0, called=10.0)) == math.inf
