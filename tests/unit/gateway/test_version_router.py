"""The router, poll by poll, against a backend that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import model_pb2
from neurogate_gateway.backends import versions as entries
from neurogate_gateway.backends.tfserving import (
    BackendFaultError,
    BackendVersion,
    VersionUnloadedError,
)
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.backends.versions import LOADING, PROVING, READY, REJECTED, RETIRED
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.release.router import Routing, VersionLostError, VersionRouter
from neurogate_testing.fake_backend import build_manifest
from neurogate_testing.refusals import refused
from neurogate_testing.scripted_backend import ScriptedPool, transforms

__all__ = ["transforms"]

States = tfs_pb2.ModelVersionStatus
AVAILABLE = States.STATE_AVAILABLE
UNREACHABLE = BackendUnavailableError("gone")
TIMEOUT = DeadlineTooShortError("slow")


class World(ScriptedPool):
    def __init__(self, transforms: TransformPool, *, swap_wait: float = 5) -> None:
        super().__init__(transforms)
        [self.backend], [self.endpoint] = self.servers, self.endpoints
        self.told: list[bool] = []
        self.router = VersionRouter(
            self.pool,
            model="brain_tumor",
            swap_wait=swap_wait,
            on_change=lambda: self.told.append(self.router.serving),
        )

    def entries(self) -> list[entries.EndpointVersion]:
        return [self.endpoint.entries[number] for number in sorted(self.endpoint.entries, reverse=True)]

    async def see(self, *numbers: int, state: States.State = AVAILABLE, error: str = "") -> None:
        """One poll that sees these versions, and the verifications that follow from it."""
        self.backend.list_versions(*numbers, state=state, error=error)
        await self.poll(self.endpoint)

    async def miss(self, error: GatewayError) -> None:
        """One poll that fails."""
        self.backend.listed = error
        await self.endpoint.poll()

    def states(self) -> dict[int, int]:
        return {entry.number: entry.state for entry in self.entries()}

    async def stable(self, seconds: float = 5) -> int:
        version, _ = await self.router.resolve(model_pb2.ModelSelector(), Deadline.after(seconds))
        return version.number


@pytest.fixture
async def world(transforms: TransformPool) -> World:
    return World(transforms)


async def test_versions_that_leave_are_retired_and_verified_again_when_they_return(world: World) -> None:
    for _ in range(2):
        await world.see(1, 2)
        assert world.states() == {2: READY, 1: READY}
        # The newest first, and once.
        assert world.backend.described == [2, 1]
        assert await world.stable() == 2
    await world.see(1)
    assert world.states() == {2: RETIRED, 1: READY}
    assert await world.stable() == 1
    await world.see(1, 2)
    assert world.backend.described == [2, 1, 2]
    assert await world.stable() == 2


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (States.STATE_START, LOADING),
        (States.STATE_LOADING, LOADING),
        (States.STATE_UNLOADING, RETIRED),
        (States.STATE_END, RETIRED),
    ],
)
async def test_a_version_that_is_loaded_anew_is_verified_again(
    world: World, seen: States.State, state: int
) -> None:
    await world.see(1)
    await world.see(1, state=seen)
    assert world.states() == {1: state}
    await world.see(1)
    assert world.states() == {1: READY}
    assert world.backend.described == [1, 1]


async def test_an_unreachable_server_is_lost_at_the_second_miss(world: World) -> None:
    await world.see(1)
    await world.miss(UNREACHABLE)
    assert world.router.serving
    assert await world.stable() == 1
    await world.miss(UNREACHABLE)
    assert (world.pool.connected, world.router.serving) == (False, False)
    with pytest.raises(BackendUnavailableError):
        await world.stable()
    await world.see(1)
    assert world.backend.described == [1, 1]
    assert await world.stable() == 1


async def test_a_slow_server_is_lost_at_the_third_miss(world: World) -> None:
    await world.see(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
        assert await world.stable() == 1
    await world.miss(TIMEOUT)
    assert not world.router.serving
    await world.see(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
    await world.see(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
    assert world.router.serving


async def test_nothing_to_wait_for_is_told_at_once(world: World) -> None:
    await world.see()
    with refused("MODEL_NOT_READY"):
        await world.stable(seconds=1000)
    await world.see(1, state=States.STATE_LOADING)
    with refused("MODEL_NOT_READY"):
        await world.stable(seconds=1000)


async def test_waiting_ends_with_the_deadline(world: World) -> None:
    with pytest.raises(BackendUnavailableError):
        # Nothing was polled yet, so there is something to wait for, but no time.
        await world.stable(seconds=0)


async def test_a_call_waits_for_the_poll_that_follows_an_unloading(world: World) -> None:
    await world.see(1)
    [entry] = world.entries()
    world.endpoint.unloaded(entry, entry.times_ready)
    assert world.router.serving
    waiting = asyncio.create_task(world.stable())
    await asyncio.sleep(0)
    await world.see(2)
    assert await waiting == 2
    assert False not in world.told[world.told.index(True) :]


async def test_news_of_an_older_proof_do_not_touch_the_newer(world: World) -> None:
    await world.see(1)
    [entry] = world.entries()
    proofs = entry.times_ready
    await world.see()
    await world.see(1)
    world.endpoint.unloaded(entry, proofs)
    assert world.states() == {1: READY}


OTHER_CLASSES = (("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"))
FAULT = BackendFaultError("the model server refused the call with INTERNAL")
OVERLOADED = OverloadedError("full")


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.pool.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def chosen(world: World) -> ServedVersion:
    version, _ = await world.router.resolve(model_pb2.ModelSelector(), Deadline.after(5))
    return version


async def test_a_version_that_was_chosen_is_confirmed_or_not(world: World) -> None:
    await world.see(1)
    version = await chosen(world)
    await world.router.confirm(version, Deadline.after(5))
    await world.see(1, state=States.STATE_LOADING)
    waiting = asyncio.create_task(world.router.confirm(version, Deadline.after(5)))
    await world.see(1)
    await waiting
    world.backend.manifests[1] = build_manifest(1, classes=OTHER_CLASSES)
    await world.see(1, state=States.STATE_LOADING)
    waiting = asyncio.create_task(world.router.confirm(version, Deadline.after(5)))
    await world.see(1)
    with pytest.raises(VersionUnloadedError):
        await waiting
    await world.see()
    with pytest.raises(VersionUnloadedError):
        await world.router.confirm(version, Deadline.after(5))


async def test_a_version_that_stays_away_is_lost(transforms: TransformPool) -> None:
    world = World(transforms, swap_wait=0)
    await world.see(1)
    version = await chosen(world)
    for _ in range(2):
        await world.miss(UNREACHABLE)
    with pytest.raises(VersionLostError):
        await world.router.confirm(version, Deadline.after(5))


async def test_goldens_are_replayed_one_after_another_until_the_proof_is_stopped(world: World) -> None:
    await world.see(1)
    assert world.backend.most_predicting == 1
    world.backend.gate.clear()
    world.backend.began.clear()
    world.backend.list_versions(1, 2)
    await world.endpoint.poll()
    await world.backend.began.wait()
    [proof] = [entry.verification for entry in world.entries() if entry.verification]
    world.backend.list_versions(1)
    await world.endpoint.poll()
    await asyncio.wait([proof])
    # The one that was sent goes on, as it would in the server; no other follows it.
    assert world.backend.predicting == 1
    begun = world.backend.most_predicting
    world.backend.gate.set()
    await world.endpoint.slots.idle()
    assert (world.backend.predicting, world.backend.most_predicting) == (0, begun)
    assert world.states() == {2: RETIRED, 1: READY}


@pytest.mark.parametrize("error", [FAULT, MemoryError(), VersionUnloadedError()])
async def test_a_passing_fault_does_not_reject(world: World, error: Exception) -> None:
    world.backend.failure = error
    await world.see(1)
    [entry] = world.entries()
    assert entry.state == LOADING
    assert entry.reason.startswith("the proof was interrupted: ")
    world.backend.failure = None
    await world.see(1)
    assert (entry.state, entry.reason) == (READY, "")


async def test_faults_without_end_reject(world: World) -> None:
    world.backend.failure = FAULT
    for _ in range(3):
        await world.see(1)
        [entry] = world.entries()
        entry._not_before = 0
    assert entry.state == REJECTED
    assert "INTERNAL" in entry.reason


async def test_an_overloaded_server_never_rejects_but_is_asked_less_and_less(world: World) -> None:
    world.backend.failure = OVERLOADED
    await world.see(1)
    [entry] = world.entries()
    pauses = []
    for _ in range(8):
        assert entry.state == LOADING
        pauses.append(entry._not_before - time.monotonic())
        entry._not_before = 0
        await world.see(1)
    assert pauses[0] <= 0 < pauses[1] < pauses[3]
    assert max(pauses) <= entries._LONGEST_PAUSE_SECONDS
    described = len(world.backend.described)
    await world.see(1)
    assert len(world.backend.described) == described


async def test_health_stops_serving_when_calls_stop_waiting(transforms: TransformPool) -> None:
    world = World(transforms, swap_wait=0)
    await world.see(1)
    assert world.router.serving
    world.backend.gate.clear()
    world.backend.list_versions(2)
    await world.endpoint.poll()
    assert world.states() == {2: PROVING, 1: RETIRED}
    assert not world.router.serving


async def test_a_call_waits_for_a_version_that_is_loaded_in_the_place_of_the_one_that_went(
    world: World,
) -> None:
    await world.see(1)
    world.backend.listed = [
        BackendVersion(1, States.STATE_END),
        BackendVersion(2, States.STATE_LOADING),
    ]
    await world.endpoint.poll()
    assert world.states() == {2: LOADING, 1: RETIRED}
    assert world.router.serving
    waiting = asyncio.create_task(world.stable())
    await asyncio.sleep(0)
    await world.see(2)
    assert await waiting == 2


@pytest.mark.parametrize("seen", [False, True])
async def test_a_call_waits_where_another_gateway_was_the_first_to_see_the_new_version(
    world: World, seen: bool
) -> None:
    world.router.set_routing(Routing({"stable": 1}))
    await world.see(1)
    assert world.router.serving
    if seen:
        world.backend.listed = [
            BackendVersion(1, States.STATE_AVAILABLE),
            BackendVersion(2, States.STATE_LOADING),
        ]
        await world.endpoint.poll()
    world.router.set_routing(Routing({"stable": 2}))
    waiting = asyncio.create_task(world.stable())
    await asyncio.sleep(0)
    await world.see(1, 2)
    assert await waiting == 2
    assert world.told == [True]


async def test_what_went_is_still_shown(world: World) -> None:
    await world.see(1)
    version = await chosen(world)
    await world.see()
    [entry] = world.entries()
    assert entry.version is version
    assert not world.router.current(version)
    with refused("MODEL_VERSION_NOT_FOUND"):
        await world.router.resolve(model_pb2.ModelSelector(version=1), Deadline.after(5))


async def test_who_names_a_number_waits_while_its_server_comes_back(world: World) -> None:
    one = model_pb2.ModelSelector(version=1)
    await world.see(1)
    for _ in range(2):
        await world.miss(UNREACHABLE)
    with pytest.raises(BackendUnavailableError):
        await world.router.resolve(one, Deadline.after(5))
    world.backend.gate.clear()
    world.backend.list_versions(1)
    await world.endpoint.poll()
    assert world.states() == {1: PROVING}
    waiting = asyncio.create_task(world.router.resolve(one, Deadline.after(5)))
    with refused("MODEL_NOT_READY"):
        await world.router.resolve(one, Deadline.after(0))
    world.backend.gate.set()
    version, label = await waiting
    assert (version.number, label) == (1, "")


@pytest.mark.parametrize(("error", "misses"), [(UNREACHABLE, 2), (TIMEOUT, 3), (FAULT, 3)])
async def test_a_server_that_was_never_there_is_told_once(
    world: World, error: GatewayError, misses: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "neurogate_gateway")
    for number in range(1, 8):
        await world.miss(error)
        assert caplog.messages.count("backend_unreachable") == (number >= misses)


async def test_polls_that_break_count_as_misses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.see(1)

    async def versions(*_: object, **__: object) -> None:
        world.endpoint._wake.set()
        await asyncio.sleep(0)
        raise ZeroDivisionError

    monkeypatch.setattr(world.backend, "versions", versions)
    async with running(world):
        while world.pool.connected:
            await world.pool.next_change.wait()
    assert not world.router.serving


async def test_reasons_are_cut(world: World) -> None:
    manifest = build_manifest(1)
    manifest.goldens[0].name = "x" * 10_000
    manifest.goldens[0].pixels_sha256 = "0" * 64
    world.backend.manifests[1] = manifest
    await world.see(1)
    [entry] = world.entries()
    assert entry.state == REJECTED
    assert len(entry.reason) < 300
