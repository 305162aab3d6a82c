"""The gate over gRPC: evaluation through the production path, refusals, force, and promotion by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from neurogate.v1 import model_pb2
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_gateway.errors import EvaluationImpossibleError
from neurogate_gateway.release import controller
from neurogate_gateway.release.controller import NothingDueError
from neurogate_testing.fake_backend import CLASSES, fake_outputs, sample_image
from neurogate_testing.gateway_harness import failure
from neurogate_testing.releases import Released, publish_fake, released_gateway, until_judged

IMAGES = 24


def sealed_images(folder: Path, *, right_for: int) -> list[tuple[Path, str]]:
    """Images that one version of the fake classifies without a mistake."""
    images = []
    for seed in range(IMAGES):
        content = sample_image(seed)
        pixels = transform(content, default_spec(32, 32))[np.newaxis]
        answer = int(fake_outputs(pixels, right_for)["probabilities"][0].argmax())
        path = folder / CLASSES[answer][0] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        images.append((path, CLASSES[answer][0]))
    return images


def policy(path: Path, **gate: float) -> str:
    defaults = {
        "min_accuracy": 0.9,
        "min_recall": 0.0,
        "max_ece": 1.0,
        "max_regression": 1.0,
        "max_latency_p99_ms": 60000,
    }
    lines = [f"{key} = {value}" for key, value in {**defaults, **gate}.items()]
    path.write_text("[gate]\n" + "\n".join(lines) + "\n")
    return str(path)


def settings(tmp_path: Path, *, right_for: int, **gate: float) -> dict[str, str]:
    sealed_images(tmp_path / "sealed", right_for=right_for)
    return {
        "evaluation_data": str(tmp_path / "sealed"),
        "policy": policy(tmp_path / "policy.toml", **gate),
    }


async def evaluate(at: Released, version: int) -> model_pb2.GateReport:
    request = model_pb2.EvaluateModelVersionRequest(version=version)
    response: model_pb2.EvaluateModelVersionResponse = await at.gateway.models.EvaluateModelVersion(request)
    return response.report


async def test_a_good_candidate_is_judged_by_itself_and_waits_for_a_person(tmp_path: Path) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, **settings(tmp_path, right_for=2)) as at:
        report = await until_judged(at, 2)
        assert report.accepted
        assert (report.candidate.support, report.candidate.accuracy) == (IMAGES, 1.0)
        assert report.stable_version == 1
        assert report.stable.accuracy < 1.0
        assert report.latency_p99_ms > 0
        assert report.time.seconds > 1_600_000_000
        # Once measured, the images are not asked again.
        asked = len(at.backend.predicts)
        again = await evaluate(at, 2)
        assert (again.findings, again.candidate) == (report.findings, report.candidate)
        assert len(at.backend.predicts) == asked
        assert (await at.release()).labels["stable"] == 1
        change = (await at.promote(2)).change
        assert change.gate.accepted
        assert not change.forced


async def test_a_bad_candidate_is_refused_unless_somebody_overrules(tmp_path: Path) -> None:
    root = tmp_path / "models"
    data = settings(tmp_path, right_for=1, min_accuracy=0.99, max_latency_p99_ms=0)
    async with released_gateway(root, 2, **data) as at:
        failed = await failure(at.promote(2))
        assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GATE_REFUSED")
        assert failed.metadata["rules"] == "min_accuracy,max_latency_p99_ms"
        assert "accuracy is" in failed.message
        assert (await at.release()).labels["stable"] == 1
        change = (await at.promote(2, force=True, reason="an experiment")).change
        assert change.forced
        assert not change.gate.accepted
        assert [finding.rule for finding in change.gate.findings if not finding.passed] == [
            "min_accuracy",
            "max_latency_p99_ms",
        ]
        listed = await at.gateway.models.ListReleaseChanges(model_pb2.ListReleaseChangesRequest(page_size=1))
        assert listed.changes[0] == change


async def test_the_gate_is_not_asked_about_the_stable_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, **settings(tmp_path, right_for=2)) as at:
        await at.promote(2, force=True)
        evaluator = at.gateway.gateway.release_module._evaluator
        assert evaluator is not None

        async def asked(number: int, stable: int | None) -> model_pb2.GateReport:
            raise EvaluationImpossibleError(f"version {number} need not be measured against {stable}")

        monkeypatch.setattr(evaluator, "evaluate", asked)
        for force in (False, True):
            assert not (await at.promote(2, force=force)).HasField("change")
        # As another gateway makes another version "stable" that this one has not seen yet.
        release_controller = at.gateway.gateway.release_module.controller
        assert release_controller is not None
        monkeypatch.setattr(release_controller, "_take", lambda *_: None)
        release_controller.release = dataclasses.replace(
            release_controller.release,
            state=dataclasses.replace(release_controller.release.state, labels={"stable": 1, "previous": 2}),
        )
        assert (await failure(at.promote(1))).reason == "ETAG_MISMATCH"


async def test_a_forced_promotion_without_a_verdict_is_recorded_as_forced(tmp_path: Path) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, **settings(tmp_path, right_for=2)) as at:
        evaluator = at.gateway.gateway.release_module._evaluator
        assert evaluator is not None
        await until_judged(at, 2)
        # As if it had not been asked yet.
        evaluator._reports.clear()
        change = (await at.promote(2, force=True)).change
        assert change.forced
        assert not change.HasField("gate")


def overtake(at: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has version 2 promoted by force whenever the gate has measured a version, before that goes on."""
    evaluator = at.gateway.gateway.release_module._evaluator
    assert evaluator is not None
    evaluate = evaluator.evaluate

    async def overtaken(number: int, stable: int | None) -> model_pb2.GateReport:
        report = await evaluate(number, stable)
        await at.promote(2, force=True)
        return report

    monkeypatch.setattr(evaluator, "evaluate", overtaken)


async def test_a_verdict_against_an_older_stable_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 3, **settings(tmp_path, right_for=3)) as at:
        await until_judged(at, 3)
        overtake(at, monkeypatch)
        failed = await failure(at.promote(3))
        assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
        assert (await at.release()).labels["stable"] == 2
        monkeypatch.undo()
        assert (await at.promote(3)).change.gate.stable_version == 2


async def test_promoting_what_became_stable_meanwhile_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, 2, **settings(tmp_path, right_for=2)) as at:
        await until_judged(at, 2)
        overtake(at, monkeypatch)
        done = await at.promote(2)
        assert not done.HasField("change")
        assert dict(done.release.labels) == {"stable": 2, "previous": 1}


async def test_in_mode_gated_the_gate_promotes(tmp_path: Path) -> None:
    root = tmp_path / "models"
    data = settings(tmp_path, right_for=3)
    async with released_gateway(root, release_mode="gated", **data) as at:
        publish_fake(root)
        refused = await until_judged(at, 2)
        assert not refused.accepted
        assert (await at.release()).labels["stable"] == 1
        publish_fake(root)
        release = await at.until_labels(stable=3, previous=1)
        assert release.mode == model_pb2.RELEASE_MODE_GATED
        assert (release.last_change.actor, release.last_change.gate.accepted) == ("gateway", True)


async def test_a_candidate_that_went_while_it_was_judged_is_promoted_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, release_mode="gated", **settings(tmp_path, right_for=2)) as at:
        service, release_controller = (
            at.gateway.gateway.release_module.service,
            at.gateway.gateway.release_module.controller,
        )
        assert service is not None
        assert release_controller is not None
        evaluate, change = service.evaluate, release_controller.change
        nothing_due = asyncio.Event()
        is_gone = False

        async def gone(version: int, extra_policy: str = "") -> model_pb2.GateReport:
            nonlocal is_gone
            report = await evaluate(version, extra_policy)
            if not is_gone:
                # Nor does it come back at once, though the model server is told to load it.
                at.backend.reloads_answered.clear()
                at.backend.unload(version)
                await at.gateway.until_state(version, model_pb2.MODEL_VERSION_STATE_RETIRED)
                is_gone = True
            return report

        async def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                return await change(*args, **kwargs)
            except NothingDueError:
                if is_gone:
                    nothing_due.set()
                raise

        monkeypatch.setattr(service, "evaluate", gone)
        monkeypatch.setattr(release_controller, "change", noted)
        publish_fake(root)
        async with asyncio.timeout(60):
            await nothing_due.wait()
        assert dict((await at.release()).labels) == {"stable": 1, "candidate": 2}
        at.backend.reloads_answered.set()
        await at.until_labels(stable=2, previous=1)


async def test_a_version_that_was_rolled_back_is_not_promoted_again(tmp_path: Path) -> None:
    root = tmp_path / "models"
    async with released_gateway(root, release_mode="gated", **settings(tmp_path, right_for=2)) as at:
        publish_fake(root)
        await at.until_labels(stable=2, previous=1)
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        assert publish_fake(root) == 3
        await until_judged(at, 3)
        assert dict((await at.release()).labels) == {"stable": 1, "previous": 2, "candidate": 3}


async def failure_of_evaluation(at: Released) -> str:
    request = model_pb2.EvaluateModelVersionRequest(version=2)
    return (await failure(at.gateway.models.EvaluateModelVersion(request))).reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "glioma").rename(folder / "liver"),
        lambda folder: [path.write_bytes(b"no image") for path in folder.rglob("*.png")],
        lambda folder: [path.unlink() for path in folder.rglob("*.png")],
        lambda folder: folder.rename(folder.with_name("gone")),
    ],
    ids=["unknown class", "no images", "empty", "gone"],
)
async def test_images_that_cannot_be_used_are_no_verdict(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    data = settings(tmp_path, right_for=2)
    spoil(tmp_path / "sealed")
    async with released_gateway(tmp_path / "models", 2, **data) as at:
        assert await failure_of_evaluation(at) == "EVALUATION_IMPOSSIBLE"
        failed = await failure(at.promote(2))
        assert failed.reason == "EVALUATION_IMPOSSIBLE"
        assert str(tmp_path) not in failed.message
        assert (await at.promote(2, force=True)).release.labels["stable"] == 2


async def test_images_that_are_repaired_lead_to_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_REPAIRED_SECONDS", 0.05)
    data = settings(tmp_path, right_for=2)
    sealed = tmp_path / "sealed"
    sealed.rename(tmp_path / "gone")
    async with released_gateway(tmp_path / "models", 2, release_mode="gated", **data) as at:
        assert await failure_of_evaluation(at) == "EVALUATION_IMPOSSIBLE"
        (tmp_path / "gone").rename(sealed)
        await at.until_labels(stable=2, previous=1)
