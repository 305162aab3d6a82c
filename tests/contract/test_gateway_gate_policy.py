"""A retraining's own gate policy over gRPC: refused at the edge, judged beside the gateway's, and kept to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.errors import EvaluationImpossibleError, GateRefusedError
from neurogate_gateway.release.controller import CandidateJudge
from neurogate_gateway.release.promotion import ChangeRequest
from neurogate_testing.fake_backend import CLASSES, sample_image
from neurogate_testing.gateway_harness import failure
from neurogate_testing.launching import Home
from neurogate_testing.releases import Released, publish_fake, released_gateway, until_judged

IMPOSSIBLE = "[gate]\nmax_latency_p99_ms = 0\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A base run, and a trainer that publishes what the fake model server can serve."""
    home = Home(tmp_path)
    home.script(then="serve")
    return home


def settings(home: Home, **changes: Any) -> dict[str, Any]:
    """A gateway that trains, and whose own policy accepts everything."""
    for number in range(len(CLASSES)):
        path = home.path / "sealed" / CLASSES[number][0] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample_image(number))
    (home.path / "policy.toml").write_text(
        "[gate]\nmin_accuracy = 0\nmin_recall = 0\nmax_ece = 1\nmax_regression = 1\n"
        "max_latency_p99_ms = 60000\n"
    )
    return {
        "evaluation_data": str(home.path / "sealed"),
        "policy": str(home.path / "policy.toml"),
        "data_dir": str(home.path / "records"),
        "runs_dir": str(home.runs_dir),
        "base_run": str(home.base_run),
        "trainer_command": str(home.trainer),
        "min_examples_per_class": 0,
        **changes,
    }


def own(text: str) -> Callable[[manifest_pb2.ModelManifest], None]:
    """Puts a gate policy into a manifest, as the trainer does."""

    def change(manifest: manifest_pb2.ModelManifest) -> None:
        manifest.lineage.gate_policy = text

    return change


def start(at: Released, policy: str, request_id: str = "", **spec: Any) -> Any:
    asked = pb.RetrainingSpec(from_scratch=True, gate_policy=policy, **spec)
    return at.gateway.training.StartRetraining(pb.StartRetrainingRequest(spec=asked, request_id=request_id))


async def ended(at: Released, retraining_id: str) -> pb.Retraining:
    """The retraining as it ended, seen by watching."""
    watch: AsyncIterator[pb.WatchRetrainingResponse] = at.gateway.training.WatchRetraining(
        pb.WatchRetrainingRequest(retraining_id=retraining_id)
    )
    last = [response.event async for response in watch][-1]
    return last.state_change.retraining


async def judging(at: Released) -> CandidateJudge:
    """What a gateway in mode gated does with candidates by itself, once all are READY."""
    release_module = at.gateway.gateway.release_module
    assert release_module.controller is not None
    assert release_module.service is not None
    for version in (await at.release()).labels.values():
        await at.gateway.until_ready(version)
    return CandidateJudge(
        release_module.controller, at.gateway.gateway.pool, release_module.service, promote=True
    )


async def judged_for_promotion(at: Released) -> float | None:
    """Does it once, and to its end."""
    return await (await judging(at))._judge()


async def test_a_policy_that_cannot_be_used_starts_nothing(home: Home) -> None:
    wrong = {
        "[gate": "not TOML",
        "[guards]\nwindow = 5": "unknown key guards; known: gate",
        "[gate.recall]\nliver = 1": "gate.recall.liver is none of the version's classes: glioma, ",
        "[gate]\nresamples = 1001": "gate.resamples is 1001, expected at most 1000, as the gateway",
        f"[gate.recall]\n{'x' * 4000} = 1": "gate.recall.xxx",
    }
    async with released_gateway(home.repository, **settings(home)) as at:
        for policy, message in wrong.items():
            refused = await failure(start(at, policy))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "GATE_POLICY_INVALID")
            assert message in refused.message
        listed = await at.gateway.training.ListRetrainings(pb.ListRetrainingsRequest())
        assert not listed.retrainings


async def test_a_gateway_without_a_release_has_no_gate(home: Home) -> None:
    data = settings(home, release_mode="latest", policy="", evaluation_data="")
    async with released_gateway(home.repository, **data) as at:
        await at.gateway.until_ready(1)
        assert (await failure(start(at, IMPOSSIBLE))).reason == "RELEASE_NOT_MANAGED"


@pytest.mark.parametrize("promote", [False, True])
async def test_no_gateway_promotes_what_its_own_policy_refuses(home: Home, promote: bool) -> None:
    data = settings(home, release_mode="gated")
    async with released_gateway(home.repository, **data) as at:
        queued = (await start(at, IMPOSSIBLE, promote=promote)).retraining
        run = await ended(at, queued.retraining_id)
        assert (run.state, run.version) == (pb.RETRAINING_STATE_REFUSED, 2)
        broken = [finding for finding in run.gate.findings if not finding.passed]
        assert [finding.rule for finding in broken] == ["gate_policy.max_latency_p99_ms"]
        assert broken[0].message.endswith("by the retraining's own gate policy")
        # What the version shows is the gateway's own verdict.
        last = await until_judged(at, 2)
        assert last.accepted
        assert not [finding for finding in last.findings if finding.rule.startswith("gate_policy.")]
        assert dict((await at.release()).labels) == {"stable": 1, "candidate": 2}
    # Neither after a restart, nor where nothing is known of the retraining.
    without_records = {name: data[name] for name in ("evaluation_data", "policy", "release_mode")}
    for again in (data, without_records):
        async with released_gateway(home.repository, **again) as at:
            assert (await until_judged(at, 2)).accepted
            assert await judged_for_promotion(at) is None
            assert dict((await at.release()).labels) == {"stable": 1, "candidate": 2}
    async with released_gateway(home.repository, **without_records) as at:
        await until_judged(at, 2)
        publish_fake(home.repository)
        await at.until_labels(stable=3, previous=1)
        # A person may.
        assert not (await at.promote(2)).change.forced


async def test_what_both_policies_accept_is_promoted(home: Home) -> None:
    async with released_gateway(home.repository, **settings(home)) as at:
        queued = (await start(at, "[gate]\nmax_latency_p99_ms = 50000", promote=True)).retraining
        run = await ended(at, queued.retraining_id)
        assert (run.state, run.gate.accepted) == (pb.RETRAINING_STATE_SUCCEEDED, True)
        assert run.gate.findings[-1].rule == "gate_policy.max_latency_p99_ms"
        release = await at.release()
        assert (release.labels["stable"], release.last_change.gate.findings) == (2, run.gate.findings)


async def test_the_release_as_a_retraining_uses_it(home: Home) -> None:
    async with released_gateway(home.repository, **settings(home)) as at:
        service = at.gateway.gateway.release_module.service
        assert service is not None
        waiting = asyncio.create_task(service.until_ready(2, seconds=30))
        publish_fake(home.repository)
        await waiting
        assert (await service.evaluate(2)).accepted
        assert not (await service.evaluate(2, IMPOSSIBLE)).accepted
        # As many as the gateway draws, which asks for nothing more.
        more = await service.evaluate(2, "[gate]\nresamples = 100000")
        assert more == await service.evaluate(2)
        asked = ChangeRequest(actor="tester", request_id="r-1")
        with pytest.raises(GateRefusedError, match="own gate policy"):
            await service.promote(2, asked, extra_policy=IMPOSSIBLE)
        with pytest.raises(
            EvaluationImpossibleError, match="gate policy of its own that cannot be used: not TOML"
        ):
            await service.evaluate(2, "[gate")
        evaluator, service._evaluator = service._evaluator, None
        # Without images nobody knows.
        with pytest.raises(EvaluationImpossibleError, match="no evaluation images"):
            await service.promote(2, asked, extra_policy=IMPOSSIBLE)
        service._evaluator = evaluator
        assert not (await service.promote(2, asked, extra_policy="[gate]\nmin_accuracy = 0")).change.forced
        assert (await at.release()).labels["stable"] == 2


async def test_a_policy_that_cannot_be_read_promotes_no_version(home: Home) -> None:
    async with released_gateway(home.repository, **settings(home)) as at:
        publish_fake(home.repository, own("[gate]\nmin_novelty = 3"))
        await at.until_labels(stable=1, candidate=2)
        candidates = await judging(at)
        assert await candidates._judge() is None
        # It stays as it is, so nobody asks again.
        candidates._service = None  # type: ignore[assignment]
        assert await candidates._judge() is None
        assert dict((await at.release()).labels) == {"stable": 1, "candidate": 2}
        publish_fake(home.repository)
        await at.until_labels(stable=1, candidate=3)
        assert await judged_for_promotion(at) is None
        assert dict((await at.release()).labels) == {"stable": 3, "previous": 1}


async def test_an_evaluation_shows_the_findings_of_both_policies(home: Home) -> None:
    async with released_gateway(home.repository, **settings(home)) as at:
        publish_fake(home.repository, own(IMPOSSIBLE))
        await at.gateway.until_ready(2)
        request = model_pb2.EvaluateModelVersionRequest(version=2)
        report = (await at.gateway.models.EvaluateModelVersion(request)).report
        broken = [finding.rule for finding in report.findings if not finding.passed]
        assert (report.accepted, broken) == (False, ["gate_policy.max_latency_p99_ms"])
        assert (await until_judged(at, 2)).accepted
        # A person may.
        assert not (await at.promote(2)).change.forced
