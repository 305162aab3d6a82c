"""Several model servers: calls go where the version is READY, and around whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_gateway.backends import endpoint
from neurogate_gateway.backends import pool as pools
from neurogate_gateway.backends.tfserving import ReloadRefusedError
from neurogate_gateway.errors import BackendUnavailableError
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.gateway_harness import Harness, failure, running_gateway, serving_gateway

LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED
REQUEST = pb.ClassifyRequest(image=sample_image())
OTHER_CLASSES = (("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"))


@contextlib.asynccontextmanager
async def two_servers(**changes: object) -> AsyncIterator[tuple[Harness, FakeBackend, FakeBackend]]:
    """A gateway before two model servers, version 1 READY on both."""
    async with FakeBackend() as first, FakeBackend() as second:
        first.add_version(1)
        second.add_version(1)
        async with running_gateway(first, second, **changes) as gateway:
            for backend in (first, second):
                await gateway.until_there(backend, 1, READY)
                backend.predicts.clear()
            yield gateway, first, second


async def classify(gateway: Harness) -> pb.ClassifyResponse:
    response: pb.ClassifyResponse = await gateway.classification.Classify(REQUEST, timeout=20)
    return response


@contextlib.asynccontextmanager
async def steady_callers(gateway: Harness, count: int = 8) -> AsyncIterator[list[int]]:
    """Callers who classify one image after another; every call has to succeed."""
    answered: list[int] = []
    stop = asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            answered.append((await classify(gateway)).model.version)

    async with asyncio.TaskGroup() as callers:
        for _ in range(count):
            callers.create_task(caller())
        try:
            yield answered
        finally:
            stop.set()


async def test_calls_go_round() -> None:
    async with two_servers() as (gateway, first, second):
        for _ in range(10):
            await classify(gateway)
        assert (len(first.predicts), len(second.predicts)) == (5, 5)


async def test_calls_go_where_the_version_is_ready() -> None:
    async with two_servers() as (gateway, first, second):
        second.add_version(2)
        await gateway.until_ready(2)
        second.predicts.clear()
        for _ in range(4):
            assert (await classify(gateway)).model.version == 2
        assert (first.predicts, second.predicts) == ([], [2] * 4)


async def test_a_server_that_vanishes_fails_no_request() -> None:
    async with two_servers() as (gateway, first, second), steady_callers(gateway) as answered:
        await second.until(lambda: len(second.predicts) > 20)
        await first.stop()
        await gateway.until_there(first, 1, LOADING)
        seen = len(answered)
        await second.until(lambda: len(answered) > seen + 20)
        await first.start()
        await gateway.until_there(first, 1, READY)
        seen = len(first.predicts)
        await first.until(lambda: len(first.predicts) > seen + 20)
    assert set(answered) == {1}


async def test_a_version_that_one_server_unloads_is_answered_by_the_other() -> None:
    async with two_servers(poll_interval_seconds=5) as (gateway, first, second):
        first.unload(1)
        numbered = pb.ClassifyRequest(image=sample_image(), model=model_pb2.ModelSelector(version=1))
        for request in (REQUEST, numbered) * 2:
            assert (await gateway.classification.Classify(request)).model.version == 1
        await gateway.until_there(first, 1, RETIRED)
        assert (await gateway.until_state(1, READY)).backends[0].address in {first.address, second.address}


async def test_only_one_further_attempt_is_made() -> None:
    async with two_servers(poll_interval_seconds=5) as (gateway, first, second):
        for backend in (first, second):
            backend.versions[1].refusal = (grpc.StatusCode.UNAVAILABLE, "queue full")
        failed = await failure(gateway.classification.Classify(REQUEST))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
        assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        assert len(first.predicts) + len(second.predicts) == 2


async def test_a_server_that_answers_nothing_any_more_is_left() -> None:
    async with two_servers() as (gateway, first, _):
        first.versions[1].gate.clear()
        calls = [asyncio.create_task(classify(gateway)) for _ in range(4)]
        await first.until(lambda: first.running == 2)
        first.polls_answered.clear()
        assert {(await call).model.version for call in calls} == {1}
        # It is in doubt now, so nobody else is sent there.
        before = len(first.predicts)
        for _ in range(4):
            await classify(gateway)
        assert len(first.predicts) == before
        first.versions[1].gate.set()
        first.polls_answered.set()
        await gateway.until_there(first, 1, READY)


async def test_a_server_whose_predictions_hang_has_to_prove_itself_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "_STALL_SECONDS", 2.0)
    async with two_servers() as (gateway, first, _):
        first.versions[1].gate.clear()
        calls = [asyncio.create_task(classify(gateway)) for _ in range(4)]
        await first.until(lambda: first.running == 2)
        assert {(await call).model.version for call in calls} == {1}
        reason = await gateway.until_there(first, 1, model_pb2.MODEL_VERSION_STATE_PROVING)
        assert reason == "the model server does not answer predictions"
        # The first golden, beside the two that nobody waits for any more.
        await first.until(lambda: first.running == 3)
        first.versions[1].gate.set()
        await gateway.until_there(first, 1, READY)


async def test_without_others_a_slow_prediction_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_STALL_SECONDS", 0.0)
    async with serving_gateway() as (gateway, backend):
        backend.versions[1].gate.clear()
        call = asyncio.create_task(classify(gateway))
        polls = backend.polls
        await backend.until(lambda: backend.running == 1 and backend.polls > polls + 3)
        backend.versions[1].gate.set()
        assert (await call).model.version == 1


async def test_one_number_means_one_model() -> None:
    async with two_servers() as (gateway, first, second):
        second.unload(1)
        await gateway.until_there(second, 1, RETIRED)
        second.add_version(1, build_manifest(1, classes=OTHER_CLASSES))
        reason = await gateway.until_there(second, 1, REJECTED)
        assert f"the model server at {first.address} already serves another version 1" in reason
        first.predicts.clear()
        second.predicts.clear()
        for _ in range(6):
            assert (await classify(gateway)).classification.scores[0].class_id not in "abcd"
        assert (len(first.predicts), second.predicts) == (6, [])
        version = await gateway.until_state(1, READY)
        assert {there.address: there.state for there in version.backends} == {
            first.address: READY,
            second.address: REJECTED,
        }


async def test_two_servers_that_differ_from_the_beginning_never_both_serve() -> None:
    async with FakeBackend() as first, FakeBackend() as second:
        first.add_version(1).gate.clear()
        second.add_version(1, build_manifest(1, classes=OTHER_CLASSES)).gate.clear()
        async with running_gateway(first, second) as gateway:
            for backend in (first, second):
                await backend.until(lambda backend=backend: backend.running == 1)
            first.versions[1].gate.set()
            second.versions[1].gate.set()
            # Neither can be READY before its proof has ended, and both end at about the same time.
            await gateway.until_state(1, READY)
            pool = gateway.gateway.pool
            while sorted(there.state for there in pool.view(1).backends) != [READY, REJECTED]:
                await pool.next_change.wait()
            digests = {(await classify(gateway)).model.manifest_digest for _ in range(6)}
            assert len(digests) == 1


async def test_configurations_go_to_every_server() -> None:
    config = tfs_pb2.ModelServerConfig(
        model_config_list=tfs_pb2.ModelConfigList(
            config=[tfs_pb2.ModelConfig(name="brain_tumor", base_path="/m", version_labels={"stable": 1})]
        )
    )
    async with two_servers() as (gateway, first, second):
        pool = gateway.gateway.pool
        assert await pool.reload(config) == {first.address: None, second.address: None}
        assert first.reloads == second.reloads == [config]
        second.reload_refusal = (grpc.StatusCode.FAILED_PRECONDITION, "Request to assign label …")
        results = await pool.reload(config)
        assert results[first.address] is None
        assert isinstance(results[second.address], ReloadRefusedError)
        assert str(results[second.address]).startswith("FAILED_PRECONDITION: Request to assign label")
        await first.stop()
        results = await pool.reload(config, addresses=[first.address, "127.0.0.1:1"])
        assert [type(result) for result in results.values()] == [BackendUnavailableError] * 2


async def test_connections_and_changes_are_told() -> None:
    async with two_servers() as (gateway, first, second):
        pool = gateway.gateway.pool
        connections: list[tuple[str, bool]] = []
        changes: list[tuple[int, int]] = []

        def broken(_: object) -> None:
            raise ZeroDivisionError

        pool.version_changed.add(broken)
        end = pool.connection_changed.add(lambda address, there: connections.append((address, there)))
        pool.version_changed.add(lambda view: changes.append((view.number, view.state)))
        await second.stop()
        await gateway.until_there(second, 1, LOADING)
        await second.start()
        await gateway.until_there(second, 1, READY)
        assert connections == [(second.address, False), (second.address, True)]
        assert set(changes) == {(1, READY)}
        end()
        await first.stop()
        await second.stop()
        await gateway.until_connected(False)
        assert len(connections) == 2
        assert changes[-1] == (1, LOADING)
        assert dict(pool.backends) == {first.address: False, second.address: False}


async def test_a_server_that_leaves_finishes_what_it_has_begun() -> None:
    async with two_servers() as (gateway, first, second):
        pool = gateway.gateway.pool
        first.versions[1].gate.clear()
        calls = [asyncio.create_task(classify(gateway)) for _ in range(4)]
        await first.until(lambda: first.running == 2)
        await second.until(lambda: len(second.predicts) == 2)
        pool.set_addresses([second.address])
        assert list(pool.backends) == [second.address]
        before = len(second.predicts)
        for _ in range(4):
            await classify(gateway)
        assert len(second.predicts) == before + 4
        first.versions[1].gate.set()
        assert {(await call).model.version for call in calls} == {1}
        version = await gateway.until_state(1, READY)
        assert [there.address for there in version.backends] == [second.address]


async def test_what_a_server_that_left_does_not_answer_is_answered_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "_LAST_ANSWERS_SECONDS", 0.1)
    async with two_servers() as (gateway, first, second):
        first.versions[1].gate.clear()
        calls = [asyncio.create_task(classify(gateway)) for _ in range(4)]
        await first.until(lambda: first.running == 2)
        gateway.gateway.pool.set_addresses([second.address])
        assert {(await call).model.version for call in calls} == {1}


async def test_a_version_that_left_with_its_server_is_retired() -> None:
    async with two_servers() as (gateway, first, second):
        first.add_version(2)
        await gateway.until_ready(2)
        gateway.gateway.pool.set_addresses([second.address])
        version = await gateway.until_state(2, RETIRED)
        assert (list(version.backends), bool(version.manifest_digest)) == ([], True)
        assert (await classify(gateway)).model.version == 1


async def test_a_name_leads_to_its_servers() -> None:
    async with FakeBackend() as backend:
        backend.add_version(1)
        async with running_gateway(f"dns:///localhost:{backend.port}") as gateway:
            await gateway.until_ready(1)
            assert (await classify(gateway)).model.version == 1
            assert backend.address in gateway.gateway.pool.backends
