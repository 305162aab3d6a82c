"""A model server that hangs is told from one that is busy."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate_gateway.backends.backend_metrics import VersionMetrics
from neurogate_gateway.backends.concurrency import CallKind, ConcurrencyLimit
from neurogate_gateway.backends.pool import BackendPrediction
from neurogate_gateway.backends.tfserving import BackendVersion
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import BackendUnavailableError, DeadlineTooShortError
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.metrics import Metrics
from neurogate_testing.scripted_backend import ScriptedBackend, ScriptedPool, transforms

AVAILABLE = tfs_pb2.ModelVersionStatus.STATE_AVAILABLE
__all__ = ["transforms"]

PIXELS = np.zeros((32, 32, 3), np.uint8)
SLOW = DeadlineTooShortError("slow")


class World(ScriptedPool):
    """Model servers that have version 1."""

    def __init__(self, transforms: TransformPool, count: int) -> None:
        super().__init__(transforms, count)
        for server in self.servers:
            server.list_versions(1)

    @property
    def version(self) -> ServedVersion:
        version = self.pool.ready(1)
        assert version is not None
        return version

    async def predict(self) -> BackendPrediction | None:
        deadline = Deadline.after(20)
        return await self.pool.predict(
            self.version, PIXELS, CallKind.SINGLE, gradcam=False, deadline=deadline
        )


async def ready(transforms: TransformPool, count: int) -> World:
    world = World(transforms, count)
    for each in world.endpoints:
        await world.poll(each)
    return world


async def until_begun(server: ScriptedBackend, number: int) -> None:
    while server.begun < number:  # noqa: ASYNC110 - it lets the others run, and they are quick
        await asyncio.sleep(0)


async def test_doubt_gives_the_next_polls_more_time(transforms: TransformPool) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    server.listed = SLOW
    for _ in range(2):
        await only.poll()
        assert only.misses
    server.list_versions(1)
    await only.poll()
    assert not only.misses
    assert [round(seconds) for seconds in server.poll_seconds] == [1, 1, 2, 2]


async def test_a_server_that_answers_predictions_is_never_lost(transforms: TransformPool) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    versions = server.versions

    async def busy(model: str, *, seconds: float) -> list[BackendVersion]:
        await world.predict()
        return await versions(model, seconds=seconds)

    server.versions = busy  # type: ignore[method-assign]
    server.listed = SLOW
    for _ in range(10):
        await only.poll()
    assert world.pool.ready(1) is not None
    assert not only.misses


async def test_an_answer_from_before_the_connection_ended_says_nothing(transforms: TransformPool) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    versions = server.versions

    async def late(model: str, *, seconds: float) -> list[BackendVersion]:
        answer = await versions(model, seconds=seconds)
        only.lose("the connection ended")
        return answer

    server.versions = late  # type: ignore[method-assign]
    await only.poll()
    assert not only.connected
    assert not only.entries[1].loaded
    assert world.pool.ready(1) is None
    assert only.looking
    server.versions = versions  # type: ignore[method-assign]
    await world.poll(only)
    assert world.pool.ready(1) is not None


async def test_retired_versions_are_forgotten_beyond_a_number_and_come_back(
    transforms: TransformPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurogate_gateway.backends.status._MOST_RETIRED", 2)
    world = await ready(transforms, 2)
    pool, told = world.pool, Counter[int]()
    pool.version_changed.add(lambda view: told.update([view.number]))
    for number in range(2, 8):
        for server, each in zip(world.servers, world.endpoints, strict=True):
            server.list_versions(number)
            await world.poll(each)
    assert [view.number for view in pool.versions()] == [7, 6, 5]
    assert pool.view(1) is None
    assert [sorted(each.entries) for each in world.endpoints] == [[5, 6, 7]] * 2
    before = told.copy()
    ended = BackendVersion(2, tfs_pb2.ModelVersionStatus.STATE_END, "")
    for server, each in zip(world.servers, world.endpoints, strict=True):
        # TensorFlow Serving goes on naming what it has unloaded.
        server.listed = [BackendVersion(7, AVAILABLE), ended]
        await world.poll(each)
    assert told == before
    assert pool.view(2) is None
    [server, _], [first, _] = world.servers, world.endpoints
    server.list_versions(2)
    await world.poll(first)
    assert pool.ready(2) is not None


async def test_what_was_seen_does_not_change(transforms: TransformPool) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    seen = world.pool.snapshot
    server.list_versions(2)
    await world.poll(only)
    assert (seen.ready(1), seen.ready(2), seen.view(2)) == (seen.served[1], None, None)
    now = world.pool.snapshot
    assert now.ready(1) is None
    assert [view.number for view in now.versions] == [2, 1]
    assert now.view(1) is not None


async def test_rejections_that_are_over_are_counted_and_forgotten(transforms: TransformPool) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    measures = VersionMetrics(Metrics(), world.pool)
    for number in range(2, 30):
        broken = BackendVersion(number, tfs_pb2.ModelVersionStatus.STATE_END, "broken")
        server.listed = [BackendVersion(1, AVAILABLE), broken]
        await world.poll(only)
        await world.poll(only)
        assert list(measures._counted) == [number]
    server.list_versions(1)
    await world.poll(only)
    assert measures._counted == {}


async def test_what_is_running_on_a_server_that_is_taken_out_is_answered_there(
    transforms: TransformPool,
) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    server.gate.clear()
    call = asyncio.create_task(world.predict())
    await until_begun(server, server.begun + 1)
    world.pool.set_addresses([only.address])
    world.pool.set_addresses([])
    server.gate.set()
    assert await call is not None


async def test_the_doubtful_come_last(transforms: TransformPool) -> None:
    world = await ready(transforms, 3)
    for server in world.servers:
        server.begun = 0
    world.servers[0].listed = SLOW
    await world.endpoints[0].poll()
    for _ in range(6):
        await world.predict()
    assert [server.begun for server in world.servers] == [0, 3, 3]
    for server, each in zip(world.servers[1:], world.endpoints[1:], strict=True):
        server.listed = SLOW
        await each.poll()
    # None is without doubt now, and any may still answer.
    for _ in range(3):
        await world.predict()
    assert sum(server.begun for server in world.servers) == 9


async def test_who_waits_for_a_place_waits_elsewhere_when_doubt_comes_and_goes(
    transforms: TransformPool,
) -> None:
    world = await ready(transforms, 2)
    first, second = world.endpoints
    for server, each in zip(world.servers, world.endpoints, strict=True):
        server.gate.clear()
        server.begun = 0
        each.slots.limit = ConcurrencyLimit(fixed=2)
    calls = [asyncio.create_task(world.predict()) for _ in range(8)]

    async def until_waiting(counts: list[int]) -> None:
        async with asyncio.timeout(10):
            while [each.slots.waiting for each in world.endpoints] != counts:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)

    await until_waiting([4, 4])
    world.servers[0].listed = SLOW
    await first.poll()
    # The two at the first server were abandoned, and come before those who waited.
    await until_waiting([0, 6])
    world.servers[0].list_versions(1)
    await first.poll()
    await until_waiting([4, 6])
    for server in world.servers:
        server.gate.set()
    assert None not in [await call for call in calls]
    assert len(second.slots.calls) == 0


async def test_without_others_who_waits_goes_on_waiting_until_the_server_is_lost(
    transforms: TransformPool,
) -> None:
    world = await ready(transforms, 1)
    [server], [only] = world.servers, world.endpoints
    server.gate.clear()
    waiting = asyncio.create_task(world.predict())
    await until_begun(server, 5)
    server.listed = SLOW
    for _ in range(2):
        await only.poll()
        assert not waiting.done()
    await only.poll()
    with pytest.raises(BackendUnavailableError) as caught:
        await waiting
    assert caught.value.retry_after is not None
    assert not world.pool.connected


async def test_a_version_that_is_forgotten_as_its_turn_comes_gives_the_place_back(
    transforms: TransformPool,
) -> None:
    world = await ready(transforms, 1)
    [only] = world.endpoints
    version, slots = world.version, only.slots
    taken = 0
    while slots.enter(CallKind.SINGLE):
        taken += 1
    waiting = asyncio.create_task(world.predict())
    while not slots.waiting:  # noqa: ASYNC110 - it lets the other run
        await asyncio.sleep(0)
    slots.leave(CallKind.SINGLE)
    only.forget(version.number)
    world.pool.changed()
    assert await waiting is None
    for _ in range(taken - 1):
        slots.leave(CallKind.SINGLE)
    await slots.idle()
