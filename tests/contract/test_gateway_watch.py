"""Watching versions and release: the present state, every change, and going on after a cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from neurogate.v1 import model_pb2
from neurogate_gateway.release.watch import Event, WatchHub
from neurogate_testing.gateway_harness import failure, serving_gateway
from neurogate_testing.refusals import refused
from neurogate_testing.releases import publish_fake, released_gateway

READY = model_pb2.MODEL_VERSION_STATE_READY
PROVING = model_pb2.MODEL_VERSION_STATE_PROVING
REQUEST = model_pb2.WatchModelVersionsRequest


async def snapshot_of(watch: Any) -> list[Event]:
    """The events of the present state."""
    events = []
    while True:
        event = await watch.read()
        assert event.snapshot
        events.append(event)
        if event.resume_token:
            return events


async def test_the_present_state_comes_first_and_then_every_change(tmp_path: Path) -> None:
    async with released_gateway(tmp_path) as at:
        watch = at.gateway.models.WatchModelVersions(REQUEST())
        *versions, release = await snapshot_of(watch)
        assert [(event.version.version, event.version.state) for event in versions] == [(1, READY)]
        assert versions[0].version.manifest.classes
        assert not versions[0].version.manifest.goldens
        assert dict(release.release.labels) == {"stable": 1}
        publish_fake(tmp_path)
        seen: list[tuple[str, object]] = []
        while ("version", (2, READY, ("candidate", "latest"))) not in seen:
            event = await watch.read()
            assert not event.snapshot
            if event.HasField("version"):
                version = event.version
                seen.append(("version", (version.version, version.state, tuple(version.labels))))
            else:
                seen.append(("release", dict(event.release.labels)))
        assert ("release", {"stable": 1, "candidate": 2}) in seen
        assert any(kind == "version" and value[:2] == (2, PROVING) for kind, value in seen)  # type: ignore[index]
        await at.promote(2)
        changed = {}
        while "release" not in changed:
            event = await watch.read()
            changed[event.WhichOneof("event")] = event
        assert dict(changed["release"].release.labels) == {"stable": 2, "previous": 1}
        watch.cancel()


async def test_a_label_that_moves_by_itself_is_told_of_both_versions() -> None:
    async with serving_gateway() as (gateway, backend):
        watch = gateway.models.WatchModelVersions(REQUEST())
        await snapshot_of(watch)
        backend.add_version(2)
        labels: dict[int, list[str]] = {}
        release: dict[str, int] = {}
        while labels != {1: [], 2: ["latest", "stable"]} or release != {"stable": 2}:
            event = await watch.read()
            if event.HasField("version"):
                labels[event.version.version] = list(event.version.labels)
            else:
                release = dict(event.release.labels)
        watch.cancel()


async def test_a_cut_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.until_labels(stable=1, candidate=2)
        watch = at.gateway.models.WatchModelVersions(REQUEST())
        token = (await snapshot_of(watch))[-1].resume_token
        watch.cancel()
        await at.promote(2)
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        watch = at.gateway.models.WatchModelVersions(REQUEST(resume_token=token))
        stables = []
        while len(stables) < 2:
            event = await watch.read()
            assert not event.snapshot
            token = event.resume_token
            if event.HasField("release"):
                stables.append(event.release.labels["stable"])
        assert stables == [2, 1]
        watch.cancel()
        # Behind the last there is nothing until something happens.
        watch = at.gateway.models.WatchModelVersions(REQUEST(resume_token=token))
        await at.promote(2)
        assert not (await watch.read()).snapshot
        watch.cancel()
    async with released_gateway(tmp_path) as at:
        # Another process knows nothing of it.
        watch = at.gateway.models.WatchModelVersions(REQUEST(resume_token=token))
        assert (await watch.read()).snapshot
        watch.cancel()


@pytest.mark.parametrize("token", ["x", "é" * 500, "MTIzOjQ=", "=" * 8])
async def test_invalid_resume_tokens(token: str) -> None:
    async with serving_gateway() as (gateway, _):
        failed = await failure(gateway.models.WatchModelVersions(REQUEST(resume_token=token)).read())
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
        failed = await failure(gateway.models.WatchModelVersions(REQUEST(model="liver")).read())
        assert failed.reason == "MODEL_NOT_FOUND"


async def test_streams_end_when_the_gateway_drains() -> None:
    async with serving_gateway(drain_seconds=30) as (gateway, _):
        watch = gateway.models.WatchModelVersions(REQUEST())
        await snapshot_of(watch)
        stopping = asyncio.create_task(gateway.gateway.stop())
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
        await stopping


def numbered(number: int) -> Event:
    return Event(version=model_pb2.ModelVersion(version=number))


async def test_a_slow_watcher_gets_the_present_state_again() -> None:
    state = 0
    hub = WatchHub(lambda: [numbered(-1), numbered(state)], remembered=4)
    slow = hub.watch("")
    assert [(await anext(slow)).version.version for _ in range(2)] == [-1, 0]
    for state in range(1, 4):
        hub.publish(numbered(state))
    assert [(await anext(slow)).version.version for _ in range(2)] == [1, 2]
    for state in range(4, 100):
        hub.publish(numbered(state))
    events = [await anext(slow) for _ in range(2)]
    assert [(event.version.version, event.snapshot) for event in events] == [(-1, True), (99, True)]
    hub.publish(numbered(100))
    event = await anext(slow)
    assert (event.version.version, event.snapshot) == (100, False)
    assert len(hub._events) == 4


async def test_an_incomplete_present_state_cannot_be_resumed() -> None:
    hub = WatchHub(lambda: [numbered(1), numbered(2), numbered(3)])
    watch = hub.watch("")
    tokens = [(await anext(watch)).resume_token for _ in range(3)]
    assert tokens[:2] == ["", ""]
    hub.publish(numbered(4))
    assert (await anext(hub.watch(tokens[2]))).version.version == 4
    with refused("RESUME_TOKEN_INVALID"):
        await anext(hub.watch(tokens[2][:-4]))


async def test_a_closed_hub_still_tells_what_it_knows() -> None:
    hub = WatchHub(lambda: [numbered(1)])
    watch = hub.watch("")
    await anext(watch)
    hub.publish(numbered(2))
    hub.close()
    assert [event.version.version async for event in watch] == [2]
