"""The gate: every rule by itself, all of them at once, and the policy file behind them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from neurogate.v1 import model_pb2
from neurogate_core.evaluation import Measured
from neurogate_gateway.release.gate import broken_rules, judge, with_own
from neurogate_gateway.release.policy import (
    GatePolicy,
    GuardPolicy,
    Policy,
    PolicyError,
    own_policy,
    parse_policy,
    read_policy,
)

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


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
    [(None, 0.0, None), (0.1, 0.0, None), (0.9, 0.9, False), (0.89, 0.9, True), (float("nan"), 0.1, True)],
)
def test_explanations_have_to_point_where_that_is_asked(
    pointing: float | None, asked: float, refused: bool | None
) -> None:
    candidate = dataclasses.replace(measured(4), pointing=pointing)
    report = judge(candidate, None, Policy(gate=GatePolicy(min_pointing=asked)))
    found = [finding for finding in report.findings if finding.rule == "min_pointing"]
    assert [not finding.passed for finding in found] == ([] if refused is None else [refused])
    assert broken_rules(report) == (["min_pointing"] if refused else [])


def test_a_version_that_does_not_say_where_it_points_is_refused_with_the_reason() -> None:
    report = judge(measured(4), None, parse_policy("[gate]\nmin_pointing = 0.9"))
    (finding,) = [each for each in report.findings if not each.passed]
    assert (finding.rule, finding.limit) == ("min_pointing", 0.9)
    assert "no masks, or it is older than the measurement; at least 0.9000 is asked for" in finding.message


def test_every_reason_is_listed() -> None:
    policy = GatePolicy(min_accuracy=0.99, min_recall=0.99, max_ece=0.001, max_latency_p99_ms=1)
    report = judge(measured(200), measured(0, version=1), Policy(gate=policy))
    assert not report.accepted
    assert broken_rules(report) == [finding.rule for finding in report.findings]


def test_a_class_without_images_is_a_refusal_unless_nothing_is_asked_of_it() -> None:
    whole = measured()
    some = whole.labels != 0
    partial = Measured(
        version=2,
        digest="2",
        images_digest="images",
        class_ids=CLASSES,
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


def test_a_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        "[gate]\nmin_accuracy = 0.9\nresamples = 500\n[gate.recall]\nglioma = 0.95\n"
        "[guards]\nwindow = 50\nmax_error_rate = 0\n"
    )
    policy = read_policy(path)
    assert (policy.gate.min_accuracy, policy.gate.resamples) == (0.9, 500)
    assert policy.gate.recall == {"glioma": 0.95}
    assert (policy.guards.window, policy.guards.max_error_rate) == (50, 0)
    assert policy.gate.max_ece == GatePolicy().max_ece
    assert policy.digest != Policy().digest
    assert parse_policy("") == Policy()
    # What the gate does not ask does not change its digest.
    assert parse_policy("[guards]\nwindow = 7").digest == Policy().digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nmin_acuracy = 1", "unknown key gate.min_acuracy; did you mean gate.min_accuracy?"),
        ("[gates]", "unknown key gates; did you mean gate?"),
        ("xyz = 1", "unknown key xyz; known: gate, guards"),
        ("[guards]\nwindow = 20.5", "guards.window is 20.5, expected a whole number"),
        ("[guards]\nwindow = true", "guards.window is True, expected a number"),
        ("[gate]\nmin_accuracy = 1.5", "gate.min_accuracy is 1.5, expected 0 to 1"),
        ("[gate]\nmin_accuracy = nan", "gate.min_accuracy is nan, expected a number"),
        ('[gate]\nmin_accuracy = "0.5"', "gate.min_accuracy is '0.5', expected a number"),
        ("gate = 3", "gate is 3, expected a table"),
        ("[gate]\nrecall = 0.5", "gate.recall is 0.5, expected a table"),
        ("[gate.recall]\nglioma = 2", "gate.recall.glioma is 2, expected 0 to 1"),
        ("[gate", "not TOML"),
        ("a=" + "[" * 5000, "not TOML"),
        ("a=" + "9" * 5000, "not TOML"),
        ("[gate]\nmin_accuracy = inf", "gate.min_accuracy is inf, expected 0 to 1"),
        (f"[gate]\nmin_accuracy = 1{'0' * 400}", f"gate.min_accuracy is 1{'0' * 58}…, expected 0 to 1"),
        (
            f"[gate]\nmin_accuracy = 0x{'f' * 4000}",
            "gate.min_accuracy is too long to be shown, expected 0 to 1",
        ),
        (f"[gate]\n{'x' * 100} = 1", f"unknown key gate.{'x' * 59}…; known: min_accuracy, "),
        ('[gate]\n"a\\nb" = 1', r"unknown key gate.'a\nb'; known"),
    ],
)
def test_a_policy_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as error:
        read_policy(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError):
        read_policy(tmp_path / "bytes.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(PolicyError, match="larger"):
        read_policy(tmp_path / "huge.toml")


GATEWAYS = Policy(
    gate=GatePolicy(
        min_accuracy=0.8, min_recall=0.6, recall={"glioma": 0.9, "notumor": 0.5}, max_regression=1
    ),
    guards=GuardPolicy(window=50),
)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("[gate]\nmin_accuracy = 0.95", {"min_accuracy": 0.95}),
        ("[gate.recall]\nnotumor = 0.7", {"recall": {"glioma": 0.9, "notumor": 0.7}}),
        # For every class, so what the gateway says of single ones is not in its way.
        ("[gate]\nmin_recall = 0.95", {"min_recall": 0.95, "recall": {}}),
        (
            "[gate]\nmin_recall = 0.95\n[gate.recall]\nglioma = 0.99",
            {"min_recall": 0.95, "recall": {"glioma": 0.99}},
        ),
    ],
)
def test_what_a_policy_of_its_own_does_not_name_is_as_the_gateway_has_it(
    text: str, gate: dict[str, object]
) -> None:
    own = own_policy(text, GATEWAYS)
    assert own.gate == dataclasses.replace(GATEWAYS.gate, **gate)
    assert own.digest != GATEWAYS.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[guards]\nwindow = 7", "unknown key guards; known: gate"),
        ("min_accuracy = 0.9", "unknown key min_accuracy; known: gate"),
        ("[gate]\nmin_acuracy = 1", "unknown key gate.min_acuracy; did you mean gate.min_accuracy?"),
        ("[gate]\nresamples = 1", "gate.resamples is 1, expected 100 to 100000"),
        (" \n# nothing", "it asks for nothing, expected a table [gate] with a key, as in min_accuracy = 0.9"),
        ("[gate]", "it asks for nothing"),
        ("[gate.recall]", "it asks for nothing"),
        ("[gate]\nmin_accuracy = 1\n" + "#" * 4096, "it has 4120 characters, expected at most 4096"),
        ("{}", "not TOML"),
    ],
)
def test_a_policy_of_its_own_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as error:
        own_policy(text, GATEWAYS)
    assert message in str(error.value)


def test_two_policies_are_judged_and_either_refuses() -> None:
    good = judge(measured(20), None, GATEWAYS)
    bad = judge(measured(100), None, GATEWAYS)

    def under(wrong: int, text: str) -> model_pb2.GateReport:
        return judge(measured(wrong), None, own_policy(text, GATEWAYS))

    lax, strict = "[gate]\nmin_accuracy = 0.1", "[gate]\nmin_accuracy = 0.99\nmax_ece = 0.9"
    kept = with_own(good, under(20, lax))
    assert kept.accepted
    assert [finding.rule for finding in kept.findings] == [
        *(finding.rule for finding in good.findings),
        "gate_policy.min_accuracy",
    ]
    broken = with_own(good, under(20, strict))
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
    assert not with_own(bad, under(100, lax)).accepted
    assert good == judge(measured(20), None, GATEWAYS)


def test_what_only_looks_the_same_is_listed_by_both_policies() -> None:
    def report(*, passed: bool) -> model_pb2.GateReport:
        finding = model_pb2.GateFinding(rule="max_regression", passed=passed, limit=-0.05, message="-0.0500")
        return model_pb2.GateReport(accepted=passed, findings=[finding])

    both = with_own(report(passed=True), report(passed=False))
    assert (both.accepted, broken_rules(both)) == (False, ["gate_policy.max_regression"])
    assert len(with_own(report(passed=True), report(passed=True)).findings) == 1
