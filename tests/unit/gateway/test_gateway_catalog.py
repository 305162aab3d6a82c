"""The catalog poll by poll, against a backend that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import model_pb2
from neurogate_gateway.admission import Deadline
from neurogate_gateway.backend import BackendVersion, VersionUnloadedError
from neurogate_gateway.catalog import LOADING, READY, REJECTED, RETIRED, Catalog
from neurogate_gateway.errors import (
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    ModelNotReadyError,
    ModelSelectorInvalidError,
)
from neurogate_gateway.transforms import TransformPool
from neurogate_gateway.wire import Outputs, Pixels
from neurogate_serving.manifest import serialize_manifest
from neurogate_testing.fake_backend import build_manifest, fake_outputs

States = tfs_pb2.ModelVersionStatus
AVAILABLE = States.STATE_AVAILABLE
UNREACHABLE = BackendUnavailableError("gone")
TIMEOUT = DeadlineTooShortError("slow")


class ScriptedBackend:
    """Says what the test tells it to say next."""

    def __init__(self) -> None:
        self.listed: list[BackendVersion] | GatewayError = []
        self.described: list[int] = []
        self.unloaded: set[int] = set()

    def list_versions(self, *numbers: int, state: States.State = AVAILABLE, error: str = "") -> None:
        self.listed = [BackendVersion(number, state, error) for number in numbers]

    async def versions(self, model: str, *, seconds: float) -> list[BackendVersion]:
        if isinstance(self.listed, GatewayError):
            raise self.listed
        return self.listed

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        self.described.append(version)
        if version in self.unloaded:
            raise VersionUnloadedError
        return serialize_manifest(build_manifest(version))

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        outputs = fake_outputs(pixels[np.newaxis], version)
        return Outputs(outputs["probabilities"][0], float(outputs["ood_score"][0]))


class World:
    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.pool = TransformPool(1)
        self.told: list[bool] = []
        self.catalog = Catalog(
            self.backend,
            self.pool,
            model="brain_tumor",
            poll_interval=1,
            proof_timeout=5,
            swap_wait=5,
            on_change=lambda: self.told.append(self.catalog.serving),
        )

    async def poll(self, *numbers: int, state: States.State = AVAILABLE, error: str = "") -> None:
        """One poll that sees these versions, and the proofs that follow from it."""
        self.backend.list_versions(*numbers, state=state, error=error)
        await self.catalog._poll()
        await self.proofs()

    async def miss(self, error: GatewayError) -> None:
        """One poll that fails."""
        self.backend.listed = error
        await self.catalog._poll()

    async def proofs(self) -> None:
        while proofs := [entry.proof for entry in self.catalog.entries() if entry.proof]:
            await asyncio.wait(proofs)

    def states(self) -> dict[int, int]:
        return {entry.number: entry.state for entry in self.catalog.entries()}

    async def stable(self, seconds: float = 5) -> int:
        version, _ = await self.catalog.resolve(model_pb2.ModelSelector(), Deadline.after(seconds))
        return version.number


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.pool.close()


async def test_available_versions_become_ready(world: World) -> None:
    await world.poll(1, 2)
    assert world.states() == {2: READY, 1: READY}
    assert world.backend.described == [2, 1]
    assert await world.stable() == 2
    await world.poll(1, 2)
    assert world.backend.described == [2, 1]


async def test_versions_that_leave_are_retired_and_proven_again_when_they_return(world: World) -> None:
    await world.poll(1, 2)
    await world.poll(1)
    assert world.states() == {2: RETIRED, 1: READY}
    assert await world.stable() == 1
    await world.poll(1, 2)
    assert world.backend.described == [2, 1, 2]
    assert await world.stable() == 2


@pytest.mark.parametrize("state", [States.STATE_START, States.STATE_LOADING])
async def test_a_version_that_is_loaded_anew_unseen_is_proven_again(
    world: World, state: States.State
) -> None:
    await world.poll(1)
    await world.poll(1, state=state)
    assert world.states() == {1: LOADING}
    await world.poll(1)
    assert world.states() == {1: READY}
    assert world.backend.described == [1, 1]


@pytest.mark.parametrize("state", [States.STATE_UNLOADING, States.STATE_END])
async def test_unloading_retires(world: World, state: States.State) -> None:
    await world.poll(1)
    await world.poll(1, state=state)
    assert world.states() == {1: RETIRED}


async def test_a_failed_load_is_rejected_and_stays_so(world: World) -> None:
    for _ in range(2):
        await world.poll(1, state=States.STATE_END, error="NOT_FOUND: no file in /models/m/1: sorry")
        [entry] = world.catalog.entries()
        assert entry.state == REJECTED
        assert entry.reason == "the model server could not load it: NOT_FOUND: no file in (path): sorry"


async def test_an_unreachable_server_is_lost_at_once(world: World) -> None:
    await world.poll(1)
    await world.miss(UNREACHABLE)
    assert (world.catalog.connected, world.catalog.serving) == (False, False)
    with pytest.raises(BackendUnavailableError):
        await world.stable()
    await world.poll(1)
    assert world.backend.described == [1, 1]
    assert await world.stable() == 1


async def test_a_slow_server_is_lost_at_the_third_miss(world: World) -> None:
    await world.poll(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
        assert await world.stable() == 1
    await world.miss(TIMEOUT)
    assert not world.catalog.serving
    await world.poll(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
    await world.poll(1)
    for _ in range(2):
        await world.miss(TIMEOUT)
    assert world.catalog.serving


async def test_nothing_to_wait_for_is_told_at_once(world: World) -> None:
    await world.poll()
    with pytest.raises(ModelNotReadyError):
        await world.stable(seconds=1000)
    await world.poll(1, state=States.STATE_LOADING)
    with pytest.raises(ModelNotReadyError):
        await world.stable(seconds=1000)


async def test_waiting_ends_with_the_deadline(world: World) -> None:
    with pytest.raises(BackendUnavailableError):
        # Nothing was polled yet, so there is something to wait for, but no time.
        await world.stable(seconds=0)


async def test_a_call_waits_for_the_poll_that_follows_an_unloading(world: World) -> None:
    await world.poll(1)
    version, _ = await world.catalog.resolve(model_pb2.ModelSelector(), Deadline.after(5))
    world.catalog.unloaded(version)
    assert world.catalog.serving
    waiting = asyncio.create_task(world.stable())
    await asyncio.sleep(0)
    await world.poll(2)
    assert await waiting == 2
    assert False not in world.told[world.told.index(True) :]


async def test_news_of_an_older_proof_do_not_touch_the_newer(world: World) -> None:
    await world.poll(1)
    version, _ = await world.catalog.resolve(model_pb2.ModelSelector(), Deadline.after(5))
    await world.poll()
    await world.poll(1)
    world.catalog.unloaded(version)
    assert world.states() == {1: READY}


async def test_a_version_that_is_gone_during_its_proof_is_tried_again(world: World) -> None:
    world.backend.unloaded.add(1)
    await world.poll(1)
    assert world.states() == {1: LOADING}
    world.backend.unloaded.clear()
    await world.poll(1)
    assert world.states() == {1: READY}


async def test_one_broken_poll_does_not_end_the_polling(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0
    done = asyncio.Event()

    async def poll() -> None:
        nonlocal polls
        polls += 1
        world.catalog._wake.set()
        await asyncio.sleep(0)
        if polls == 3:
            done.set()
        raise ZeroDivisionError

    monkeypatch.setattr(world.catalog, "_poll", poll)
    running = asyncio.create_task(world.catalog.run())
    await done.wait()
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(
    "selector",
    [
        model_pb2.ModelSelector(version=0),
        model_pb2.ModelSelector(version=-3),
        model_pb2.ModelSelector(label=""),
    ],
)
async def test_selectors_that_mean_nothing(world: World, selector: model_pb2.ModelSelector) -> None:
    with pytest.raises(ModelSelectorInvalidError):
        await world.catalog.resolve(selector, Deadline.after(5))
