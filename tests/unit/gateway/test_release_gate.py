"""The gate: how versions are measured behind all callers, and every rule by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from neurogate.v1 import classification_pb2, error_pb2, model_pb2
from neurogate_core.evaluation import Measured
from neurogate_gateway.backends.tfserving import Outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import (
    BackendUnavailableError,
    EvaluationImpossibleError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.inference.pipeline import Prediction, ResolvedVersion
from neurogate_gateway.release import gate
from neurogate_gateway.release.gate import Evaluator, broken_rules, judge, merge_reports
from neurogate_gateway.release.policy import GatePolicy, GuardPolicy, Policy, parse_extra_policy
from neurogate_testing.fake_backend import build_manifest
from neurogate_testing.refusals import refused
from neurogate_testing.sealed_images import CLASSES, sealed_folder, write_list

LENIENT = Policy(gate=GatePolicy(min_recall=0, max_ece=1, max_regression=1))
GATEWAYS = Policy(
    gate=GatePolicy(
        min_accuracy=0.8, min_recall=0.6, recall={"glioma": 0.9, "notumor": 0.5}, max_regression=1
    ),
    guards=GuardPolicy(window=50),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sealed_folder(tmp_path)


class FakeRunner:
    """Knows the right class from the bytes, and fails as a test says."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.busy = False
        self.served = {
            number: ServedVersion("m", number, build_manifest(number), f"d{number}") for number in (1, 2)
        }
        self.failures: Iterator[GatewayError | None] = iter(())
        self.before: Callable[[], Awaitable[object]] | None = None

    def ready(self, number: int) -> ServedVersion | None:
        return self.served.get(number)

    async def classify_in_background(
        self, number: int, image: bytes, *, seconds: float, pressing: bool = False
    ) -> Prediction:
        if self.before is not None:
            await self.before()
        self.asked.append(number)
        if self.busy and not pressing:
            raise OverloadedError("busy", retry_after=0.001)
        if failure := next(self.failures, None):
            raise failure
        probabilities = np.full(4, 0.01, dtype=np.float32)
        probabilities[CLASSES.index(image.decode().split()[0])] = 0.97
        choice = ResolvedVersion(self.served[number], "", 0)
        return Prediction(choice, Outputs(probabilities, 0.0, None), classification_pb2.Classification())


def evaluator(folder: Path, runner: FakeRunner) -> Evaluator:
    return Evaluator(folder, runner, runner, LENIENT, seconds=5)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_PAUSE_SECONDS", 0)


async def test_each_version_is_asked_once(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    reports = await asyncio.gather(*(judge.evaluate(2, 1) for _ in range(3)))
    assert sorted(runner.asked) == [1] * 12 + [2] * 12
    assert reports[0].accepted
    assert reports[0].candidate.accuracy == reports[0].stable.accuracy == 1
    assert judge.last_report(2) == await judge.evaluate(2, 1)
    assert (await judge.evaluate(1, 1)).stable_version == 0
    assert len(runner.asked) == 24
    # Other bytes under the number are another version.
    runner.served[2] = ServedVersion("m", 2, build_manifest(2), "other")
    await judge.evaluate(2, None)
    assert len(runner.asked) == 36
    await judge.close()


async def test_only_the_latest_reports_are_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_REPORTS_REMEMBERED", 2)
    runner = FakeRunner()
    runner.served |= {n: ServedVersion("m", n, build_manifest(n), f"d{n}") for n in (3, 4)}
    judge = evaluator(folder, runner)
    for version in (2, 3, 2, 4):
        await judge.evaluate(version, None if version == 2 else 1)
        runner.served[2] = ServedVersion("m", 2, build_manifest(2), "other")
    assert judge.last_report(3) is None
    assert None not in [judge.last_report(version) for version in (2, 4)]
    await judge.close()


async def test_another_policy_is_another_verdict_and_not_the_last_report(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    told: list[int] = []
    judge.reported.add(told.append)
    strict = Policy(gate=GatePolicy(min_recall=0, max_ece=0, max_regression=1))
    refused = await judge.evaluate(2, 1, strict)
    assert (refused.accepted, refused.policy_digest) == (False, strict.digest)
    assert (judge.last_report(2), told) == (None, [])
    accepted = await judge.evaluate(2, 1)
    assert (accepted.accepted, accepted.policy_digest) == (True, LENIENT.digest)
    assert await judge.evaluate(2, 1, strict) is refused
    assert (judge.last_report(2), told) == (accepted, [2])
    # The images were asked about once, whatever is asked of the answers.
    assert len(runner.asked) == 24
    await judge.close()


async def test_other_images_are_asked_about_and_a_corrected_class_counts_anew(folder: Path) -> None:
    judge = evaluator(folder, FakeRunner())
    first = await judge.evaluate(2, 1)
    (folder / "glioma" / "0.png").rename(folder / "notumor" / "0.png")
    corrected = await judge.evaluate(2, 1)
    assert first.images_digest == corrected.images_digest
    assert (first.candidate.accuracy, corrected.candidate.accuracy) == (1, 11 / 12)
    assert corrected.stable.accuracy == 11 / 12
    (folder / "glioma" / "new.png").write_bytes(b"glioma new")
    more = await judge.evaluate(2, None)
    assert (first.candidate.support, more.candidate.support) == (12, 13)
    assert first.images_digest != more.images_digest


async def test_where_an_image_is_another_one_by_now_there_is_no_verdict(folder: Path) -> None:
    judge = evaluator(write_list(folder), FakeRunner())
    image = folder / "glioma" / "0.png"
    content = image.read_bytes()
    image.write_bytes(b"another")
    with pytest.raises(EvaluationImpossibleError, match="its digest differs"):
        await judge.evaluate(2, None)
    image.write_bytes(content)
    assert (await judge.evaluate(2, None)).accepted


async def test_callers_come_first_and_interruptions_are_made_good(folder: Path) -> None:
    runner = FakeRunner()
    busy = [OverloadedError("busy", retry_after=0.001)] * 50
    runner.failures = iter([*busy, BackendUnavailableError("away"), None, BackendUnavailableError("away")])
    assert (await evaluator(folder, runner).evaluate(2, None)).accepted
    assert len(runner.asked) == 12 + 52


async def test_a_gateway_that_is_always_busy_comes_to_a_verdict_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_PATIENCE_SECONDS", 0.005)
    runner = FakeRunner()
    runner.busy = True
    assert (await evaluator(folder, runner).evaluate(2, None)).accepted
    # Every image waits before it presses.
    assert len(runner.asked) >= 2 * 12


async def test_a_model_server_that_stays_away_is_no_verdict(folder: Path) -> None:
    runner = FakeRunner()
    runner.failures = iter([BackendUnavailableError("away")] * 5)
    judge = evaluator(folder, runner)
    with refused("BACKEND_UNAVAILABLE", match="interrupted: away"):
        await judge.evaluate(2, None)
    assert judge.last_report(2) is None
    # The next attempt begins anew.
    assert (await judge.evaluate(2, None)).accepted


async def test_an_image_that_the_version_refuses(folder: Path) -> None:
    runner = FakeRunner()
    runner.failures = iter([None, GatewayError(error_pb2.ERROR_REASON_IMAGE_CORRUPT, "it is broken")])
    with pytest.raises(EvaluationImpossibleError, match="refuses an image: it is broken"):
        await evaluator(folder, runner).evaluate(2, None)


async def test_versions_that_are_not_ready(folder: Path) -> None:
    judge = evaluator(folder, FakeRunner())
    for versions in ((9, None), (2, 9)):
        with refused("MODEL_VERSION_NOT_READY", match="9"):
            await judge.evaluate(*versions)


async def test_a_version_that_is_exchanged_meanwhile(folder: Path) -> None:
    runner = FakeRunner()

    async def exchange() -> None:
        runner.served[2] = ServedVersion("m", 2, build_manifest(2), "other")

    runner.before = exchange
    with refused("MODEL_VERSION_NOT_READY", match="another one by now"):
        await evaluator(folder, runner).evaluate(2, None)


async def test_a_caller_who_goes_away_ends_nothing(folder: Path) -> None:
    runner = FakeRunner()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    runner.before = wait
    judge = evaluator(folder, runner)
    impatient = asyncio.create_task(judge.evaluate(2, None))
    await begun.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    go_on.set()
    assert (await judge.evaluate(2, None)).accepted
    assert len(runner.asked) == 12


def measured(
    wrong: int = 0,
    *,
    version: int = 2,
    images: int = 400,
    confidence: float = 0.97,
    seed: int = 0,
    ms: float = 5.0,
) -> Measured:
    """Answers of which `wrong` name the next class, on images spread evenly over the classes."""
    labels = np.arange(images) % len(CLASSES)
    answers = labels.copy()
    picked = np.random.default_rng(seed).choice(images, wrong, replace=False)
    answers[picked] = (labels[picked] + 1) % len(CLASSES)
    probabilities = np.full((images, len(CLASSES)), (1 - confidence) / 3, dtype=np.float32)
    probabilities[np.arange(images), answers] = confidence
    return Measured(
        version=version,
        digest=f"{version}",
        images_digest="images",
        class_ids=CLASSES,
        labels=labels,
        probabilities=probabilities,
        latency_ms=np.full(images, ms),
    )


def test_a_good_version_passes_with_every_rule_in_the_report() -> None:
    report = judge(measured(8), measured(10, version=1, seed=1), Policy())
    assert report.accepted
    assert [finding.rule for finding in report.findings] == [
        "min_accuracy",
        *(f"recall_floor.{name}" for name in CLASSES),
        "max_ece",
        "max_latency_p99_ms",
        "max_regression",
    ]
    assert all(finding.message for finding in report.findings)
    assert (report.version, report.stable_version, report.latency_p99_ms) == (2, 1, 5.0)
    assert report.candidate.accuracy == pytest.approx(0.98)
    assert report.stable.accuracy == pytest.approx(0.975)
    assert (report.policy_digest, report.images_digest) == (Policy().digest, "images")


def test_without_a_stable_there_is_nothing_to_lose() -> None:
    report = judge(measured(), None, Policy())
    assert report.accepted
    assert (report.stable_version, report.HasField("stable")) == (0, False)
    assert "max_regression" not in {finding.rule for finding in report.findings}


@pytest.mark.parametrize(
    ("candidate", "policy", "rules"),
    [
        (measured(100), GatePolicy(min_accuracy=0.8, min_recall=0, max_ece=1), ["min_accuracy"]),
        (measured(20), GatePolicy(recall={"glioma": 0.99}), ["recall_floor.glioma"]),
        (measured(4, confidence=0.5), GatePolicy(max_ece=0.1), ["max_ece"]),
        (measured(4, ms=50), GatePolicy(max_latency_p99_ms=49), ["max_latency_p99_ms"]),
        (measured(4), GatePolicy(recall={"liver": 0.1}), ["recall_floor.liver"]),
        (measured(4), GatePolicy(min_accuracy=0.99), []),
    ],
)
def test_each_rule_by_itself(candidate: Measured, policy: GatePolicy, rules: list[str]) -> None:
    report = judge(candidate, None, Policy(gate=policy))
    assert broken_rules(report) == rules
    assert report.accepted is not bool(rules)


@pytest.mark.parametrize(
    ("pointing", "asked", "refused"),
    [
        (None, 0.0, None),
        (None, 0.9, True),
        (0.1, 0.0, None),
        (0.9, 0.9, False),
        (0.89, 0.9, True),
        (float("nan"), 0.1, True),
    ],
)
def test_explanations_have_to_point_where_that_is_asked(
    pointing: float | None, asked: float, refused: bool | None
) -> None:
    candidate = dataclasses.replace(measured(4), pointing=pointing)
    report = judge(candidate, None, Policy(gate=GatePolicy(min_pointing=asked)))
    found = [finding for finding in report.findings if finding.rule == "min_pointing"]
    assert [not finding.passed for finding in found] == ([] if refused is None else [refused])
    assert broken_rules(report) == (["min_pointing"] if refused else [])
    if pointing is None and asked:
        assert (
            "no masks, or it is older than the measurement; at least 0.9000 is asked for" in found[0].message
        )


def test_every_reason_is_listed() -> None:
    policy = GatePolicy(min_accuracy=0.99, min_recall=0.99, max_ece=0.001, max_latency_p99_ms=1)
    report = judge(measured(200), measured(0, version=1), Policy(gate=policy))
    assert not report.accepted
    assert broken_rules(report) == [finding.rule for finding in report.findings]


def test_a_class_without_images_is_a_refusal_unless_nothing_is_asked_of_it() -> None:
    whole = measured()
    some = whole.labels != 0
    partial = dataclasses.replace(
        whole,
        labels=whole.labels[some],
        probabilities=whole.probabilities[some],
        latency_ms=whole.latency_ms[some],
    )
    assert broken_rules(judge(partial, None, Policy())) == ["recall_floor.glioma"]
    assert judge(partial, None, Policy(gate=GatePolicy(recall={"glioma": 0}))).accepted


def test_a_regression_counts_with_its_uncertainty() -> None:
    policy = Policy(gate=GatePolicy(max_regression=0.03))
    stable = measured(10, version=1)
    # The same answers are no regression, however few images there are.
    assert judge(measured(10), stable, policy).accepted
    # Half a percent on 400 images is within the allowance, and surely so.
    assert judge(measured(12), stable, policy).accepted
    # Four percent is not.
    assert broken_rules(judge(measured(26), stable, policy)) == ["max_regression"]
    # Two percent on 40 images may be anything.
    few = judge(measured(2, images=40, seed=3), measured(1, images=40, version=1, seed=4), policy)
    assert broken_rules(few) == ["max_regression"]


def test_the_same_images_and_seed_give_the_same_verdict() -> None:
    stable = measured(10, version=1, seed=5)
    first, second = (judge(measured(14), stable, Policy()) for _ in range(2))
    assert first == second
    other = judge(measured(14), stable, Policy(gate=GatePolicy(seed=1)))
    assert other.findings[-1].value == pytest.approx(first.findings[-1].value, abs=0.01)


def test_other_images_cannot_be_compared() -> None:
    other = measured(0, version=1, images=200)
    finding = judge(measured(), other, Policy()).findings[-1]
    assert (finding.rule, finding.passed) == ("max_regression", False)
    assert "other images" in finding.message


def test_two_policies_are_judged_and_either_refuses() -> None:
    good = judge(measured(20), None, GATEWAYS)
    bad = judge(measured(100), None, GATEWAYS)

    def under(wrong: int, text: str) -> model_pb2.GateReport:
        return judge(measured(wrong), None, parse_extra_policy(text, GATEWAYS))

    lax, strict = "[gate]\nmin_accuracy = 0.1", "[gate]\nmin_accuracy = 0.99\nmax_ece = 0.9"
    kept = merge_reports(good, under(20, lax))
    assert kept.accepted
    assert [finding.rule for finding in kept.findings] == [
        *(finding.rule for finding in good.findings),
        "gate_policy.min_accuracy",
    ]
    broken = merge_reports(good, under(20, strict))
    assert not broken.accepted
    assert broken_rules(broken) == ["gate_policy.min_accuracy"]
    assert [finding.rule for finding in broken.findings[-2:]] == [
        "gate_policy.min_accuracy",
        "gate_policy.max_ece",
    ]
    assert broken.findings[-2].message == (
        "accuracy is 0.9500, at least 0.9900 is asked for, by the retraining's own gate policy"
    )
    assert (broken.policy_digest, broken.candidate) == (good.policy_digest, good.candidate)
    # Never loosened.
    assert not merge_reports(bad, under(100, lax)).accepted
    assert good == judge(measured(20), None, GATEWAYS)


def test_what_only_looks_the_same_is_listed_by_both_policies() -> None:
    def report(*, passed: bool) -> model_pb2.GateReport:
        finding = model_pb2.GateFinding(rule="max_regression", passed=passed, limit=-0.05, message="-0.0500")
        return model_pb2.GateReport(accepted=passed, findings=[finding])

    both = merge_reports(report(passed=True), report(passed=False))
    assert (both.accepted, broken_rules(both)) == (False, ["gate_policy.max_regression"])
    assert len(merge_reports(report(passed=True), report(passed=True)).findings) == 1
