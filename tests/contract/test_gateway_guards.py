"""Shadow and guards with real traffic over fake model servers."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path

import grpc
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_testing.fake_backend import FakeVersion, sample_image
from neurogate_testing.releases import Released, publish_fake, released_gateway

GUARD = model_pb2.RELEASE_ACTION_GUARD


def policy(folder: Path, **guards: float) -> str:
    defaults = {"window": 5, "breaches_to_fire": 2, "max_abstention_rate": 1, "max_probability_shift": 1}
    lines = [f"{key} = {value}" for key, value in {**defaults, **guards}.items()]
    path = folder / "policy.toml"
    path.write_text("[guards]\n" + "\n".join(lines) + "\n")
    return str(path)


async def classify(at: Released, seed: int = 0, **fields: str) -> int:
    """The version that answered one image, 0 for a failure."""
    try:
        request = pb.ClassifyRequest(image=sample_image(seed), **fields)
        return (await at.gateway.classification.Classify(request)).model.version
    except grpc.aio.AioRpcError:
        return 0


async def split(at: Released, **fields: float) -> None:
    await at.gateway.models.SetTrafficSplit(model_pb2.SetTrafficSplitRequest(**fields))  # type: ignore[arg-type]


async def traffic_until(at: Released, action: int) -> model_pb2.Release:
    """Callers go on until the release was changed in some way."""
    for seed in range(500):
        await classify(at, seed, request_id=f"r-{seed}")
        release = await at.release()
        if release.last_change.action == action:
            return release
    raise AssertionError(f"nothing happened: {release}")


def breaks(version: FakeVersion) -> None:
    version.refusal = (grpc.StatusCode.INTERNAL, "out of order")


def changes_its_mind(version: FakeVersion) -> None:
    def certain(outputs: dict[str, object]) -> dict[str, object]:
        outputs["probabilities"] = outputs["probabilities"] * 0  # type: ignore[operator]
        outputs["probabilities"][:, 3] = 1.0  # type: ignore[index]
        return outputs

    version.change = certain  # type: ignore[assignment]


async def test_the_shadow_sees_copies_and_nobody_sees_the_shadow(tmp_path: Path) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, metrics_address="127.0.0.1:0") as at:
        await split(at, shadow_version=2)
        for seed in range(12):
            assert await classify(at, seed) == 1
        release = await at.release()
        while release.shadow.compared + release.shadow.failed + release.shadow.dropped < 12:
            seen = len(at.backend.predicts)
            await classify(at, seen)
            release = await at.release()
        shadow = release.shadow
        assert (shadow.stable_version, shadow.shadow_version) == (1, 2)
        assert list(shadow.class_ids) == ["glioma", "meningioma", "notumor", "pituitary"]
        assert sum(shadow.counts) == shadow.compared > 0
        # The fake's versions name neighbouring classes.
        assert sum(shadow.counts[index * 5] for index in range(4)) == 0
        assert 0 < shadow.mean_probability_shift <= 1
        await split(at)
        assert not (await at.release()).HasField("shadow")


async def test_a_shadow_that_fails_is_counted_and_harms_nobody(tmp_path: Path) -> None:
    async with released_gateway(tmp_path / "models", 2) as at:
        breaks(at.backend.versions[2])
        await split(at, shadow_version=2)
        while (await at.release()).shadow.failed < 3:
            assert await classify(at) == 1


async def test_a_shadow_that_hangs_makes_nobody_wait(tmp_path: Path) -> None:
    async with released_gateway(tmp_path / "models", 2) as at:
        at.backend.versions[2].gate.clear()
        await split(at, shadow_version=2)
        while (await at.release()).shadow.dropped < 5:
            assert await classify(at) == 1
        at.backend.versions[2].gate.set()
        while (await at.release()).shadow.compared < 3:
            assert await classify(at) == 1


@pytest.mark.parametrize(
    ("spoil", "guard", "limits"),
    [
        (breaks, "error_rate", {}),
        (changes_its_mind, "probability_shift", {"max_probability_shift": 0.3}),
    ],
)
async def test_a_guard_ends_a_canary(
    tmp_path: Path, spoil: object, guard: str, limits: dict[str, float]
) -> None:
    assert callable(spoil)
    data = policy(tmp_path, **limits)
    async with released_gateway(tmp_path / "models", 2, policy=data) as at:
        await split(at, canary_version=2, canary_percent=50)
        states = (await at.release()).guards
        assert {(state.name, state.version, state.breaches) for state in states} == {
            (name, 2, 0) for name in ("error_rate", "latency", "abstention_rate", "probability_shift")
        }
        for seed in range(40):
            await classify(at, seed, request_id=f"before-{seed}")
        assert (await at.release()).labels["canary"] == 2
        spoil(at.backend.versions[2])
        opened = asyncio.Event()

        def breached(seen: model_pb2.Release) -> bool:
            opened.set()
            return any(state.breaches == 1 for state in seen.guards)

        watching = asyncio.create_task(at.until(breached))
        await opened.wait()
        release = await traffic_until(at, GUARD)
        # Whoever watches has seen it come.
        assert {state.name for state in (await watching).guards if state.breaches} == {guard}
        assert dict(release.labels) == {"stable": 1, "candidate": 2}
        assert (release.canary_percent, release.last_change.actor) == (0, "gateway")
        assert re.search(
            rf"guard {guard}: version 2 had [\d.]+ over the last 5 images", release.last_change.reason
        )
        assert not release.guards
        assert await classify(at, 1) == 1


async def test_a_guard_rolls_a_promotion_back(tmp_path: Path) -> None:
    async with released_gateway(tmp_path / "models", 2, policy=policy(tmp_path)) as at:
        await at.promote(2)
        for seed in range(20):
            assert await classify(at, seed) == 2
        breaks(at.backend.versions[2])
        release = await traffic_until(at, GUARD)
        assert dict(release.labels) == {"stable": 1, "previous": 2}
        assert "guard error_rate: version 2 had 1 " in release.last_change.reason
        assert await classify(at) == 1
        # What went back is trusted: it is not watched, and nothing goes forth and back.
        assert not release.guards


async def test_guards_begin_anew_when_a_versions_role_changes(tmp_path: Path) -> None:
    async with released_gateway(tmp_path / "models", 2, policy=policy(tmp_path)) as at:
        await at.promote(2)
        for seed in range(7):
            await classify(at, seed)
        assert {state.images for state in (await at.release()).guards} == {2}
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        await split(at, canary_version=2, canary_percent=50)
        assert {(state.version, state.images) for state in (await at.release()).guards} == {(2, 0)}
        await classify(at, 0, routing_key="a")
        await classify(at, 0, routing_key="b")
        # A larger share is the same canary.
        seen = {state.images for state in (await at.release()).guards}
        await split(at, canary_version=2, canary_percent=60)
        assert {state.images for state in (await at.release()).guards} == seen


async def test_overload_and_broken_images_fire_no_guard(tmp_path: Path) -> None:
    async with released_gateway(tmp_path / "models", 2, policy=policy(tmp_path)) as at:
        await at.promote(2)
        at.backend.versions[2].refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        for seed in range(30):
            assert await classify(at, seed) == 0
        broken = pb.ClassifyRequest(image=b"no image")
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError):
                await at.gateway.classification.Classify(broken)
        release = await at.release()
        assert (release.labels["stable"], [state.breaches for state in release.guards]) == (2, [0, 0, 0, 0])


async def test_after_its_time_a_promotion_is_not_watched(tmp_path: Path) -> None:
    data = policy(tmp_path, watch_seconds=0)
    async with released_gateway(tmp_path / "models", 2, policy=data) as at:
        await at.promote(2)
        assert not (await at.release()).guards


async def test_metrics_tell_of_the_release(tmp_path: Path) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, metrics_address="127.0.0.1:0") as at:
        await at.promote(2)
        publish_fake(root)
        await at.gateway.until_ready(3)
        await split(at, canary_version=3, canary_percent=25, shadow_version=1)
        await classify(at)
        port = at.gateway.gateway.metrics.port  # type: ignore[attr-defined]
        text = await asyncio.to_thread(read, f"http://127.0.0.1:{port}/metrics")
        for line in (
            'neurogate_release_version{label="stable"} 2.0',
            'neurogate_release_version{label="canary"} 3.0',
            "neurogate_canary_percent 25.0",
            'neurogate_release_changes_total{action="promote"} 1.0',
            'neurogate_guard_value{guard="error_rate",version="3"} 0.0',
        ):
            assert line in text


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
        return text
