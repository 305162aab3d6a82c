"""The gate: may a version become "stable"? A pure function of what was measured and of the policy."""

from __future__ import annotations

import numpy as np
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_core.evaluation import Measured, evaluation_metrics, resampled_mean

from .policy import GatePolicy, Policy


def judge(candidate: Measured, stable: Measured | None, policy: Policy) -> model_pb2.GateReport:
    """The verdict, with every rule and its figures.

    Args:
        candidate: The version that may become "stable".
        stable: The one that is; None when there is none, or when it is the candidate itself.
        policy: What is asked for.

    Returns:
        The report, without the time at which it was made.
    """
    metrics = evaluation_metrics(candidate)
    report = model_pb2.GateReport(
        version=candidate.version,
        candidate=metrics,
        policy_digest=policy.digest,
        images_digest=candidate.images_digest,
        latency_p99_ms=candidate.latency_p99_ms,
        findings=[
            _at_least("min_accuracy", "accuracy", metrics.accuracy, policy.gate.min_accuracy),
            *_recall(metrics, policy.gate),
            _at_most("max_ece", "expected calibration error", metrics.ece, policy.gate.max_ece),
            _at_most(
                "max_latency_p99_ms",
                "99th percentile of the latency in milliseconds",
                candidate.latency_p99_ms,
                policy.gate.max_latency_p99_ms,
            ),
        ],
    )
    if policy.gate.min_pointing > 0:
        report.findings.append(_pointing(candidate, policy.gate.min_pointing))
    if stable is not None:
        report.stable_version = stable.version
        report.stable.CopyFrom(evaluation_metrics(stable))
        report.findings.append(_regression(candidate, stable, policy.gate))
    report.accepted = all(finding.passed for finding in report.findings)
    return report


def with_own(report: model_pb2.GateReport, own: model_pb2.GateReport) -> model_pb2.GateReport:
    """The verdict of the gateway's policy and of a retraining's own together: either may refuse.

    Args:
        report: Under the gateway's policy.
        own: Under the retraining's own.

    Returns:
        The gateway's report with the findings of the other one behind its own, those left out that ask for
        the same and find the same.
    """
    both = model_pb2.GateReport()
    both.CopyFrom(report)
    asked = {_key(finding) for finding in report.findings}
    for finding in own.findings:
        if _key(finding) not in asked:
            both.findings.append(finding)
            both.findings[-1].rule = f"gate_policy.{finding.rule}"
            both.findings[-1].message += ", by the retraining's own gate policy"
    both.accepted = report.accepted and own.accepted
    return both


def broken_rules(report: model_pb2.GateReport) -> list[str]:
    """Names of the rules that are not kept, in order."""
    return [finding.rule for finding in report.findings if not finding.passed]


def _key(finding: model_pb2.GateFinding) -> tuple[str, float, str, bool]:
    # With `passed`: figures in the message are rounded, and with another seed one may just be missed.
    return finding.rule, finding.limit, finding.message, finding.passed


def _recall(metrics: manifest_pb2.EvaluationMetrics, policy: GatePolicy) -> list[model_pb2.GateFinding]:
    findings = []
    for each in metrics.per_class:
        limit = policy.recall.get(each.class_id, policy.min_recall)
        rule, name = f"recall_floor.{each.class_id}", f"recall of {each.class_id}"
        if each.support:
            findings.append(_at_least(rule, name, each.recall, limit))
        elif limit > 0:
            message = f"no evaluation image is of class {each.class_id}, so its recall is not known"
            findings.append(model_pb2.GateFinding(rule=rule, passed=False, limit=limit, message=message))
    known = {each.class_id for each in metrics.per_class}
    findings += [
        model_pb2.GateFinding(
            rule=f"recall_floor.{name}",
            passed=False,
            limit=limit,
            message=f"the policy sets a recall for {name}, which is no class of this version",
        )
        for name, limit in policy.recall.items()
        if name not in known
    ]
    return findings


def _pointing(candidate: Measured, limit: float) -> model_pb2.GateFinding:
    if candidate.pointing is not None:
        name = "share of right answers whose explanation points at the lesion, by its manifest,"
        return _at_least("min_pointing", name, candidate.pointing, limit)
    message = (
        "its manifest does not say how often its explanations point at the lesion: its test images have no "
        f"masks, or it is older than the measurement; at least {limit:.4f} is asked for"
    )
    return model_pb2.GateFinding(rule="min_pointing", passed=False, limit=limit, message=message)


def _regression(candidate: Measured, stable: Measured, policy: GatePolicy) -> model_pb2.GateFinding:
    finding = model_pb2.GateFinding(rule="max_regression", limit=-policy.max_regression)
    if candidate.images_digest != stable.images_digest or len(candidate.labels) != len(stable.labels):
        finding.message = f"version {stable.version} was measured on other images"
        return finding
    # Each by its own classes: versions may order or name them differently.
    difference = candidate.correct.astype(np.float64) - stable.correct.astype(np.float64)
    low, high = resampled_mean(
        candidate.labels,
        difference,
        level=policy.confidence,
        resamples=policy.resamples,
        seed=policy.seed,
    )
    finding.value = low
    finding.passed = low >= -policy.max_regression
    finding.message = (
        f"accuracy against version {stable.version}: {difference.mean():+.4f}, "
        f"{policy.confidence:.3g} interval {low:+.4f} to {high:+.4f}; its lower end has to reach "
        f"{-policy.max_regression:+.4f}"
    )
    return finding


def _at_least(rule: str, name: str, value: float, limit: float) -> model_pb2.GateFinding:
    # Written so that NaN does not pass.
    passed = value >= limit
    message = f"{name} is {value:.4f}, at least {limit:.4f} is asked for"
    return model_pb2.GateFinding(rule=rule, passed=passed, value=value, limit=limit, message=message)


def _at_most(rule: str, name: str, value: float, limit: float) -> model_pb2.GateFinding:
    passed = value <= limit
    message = f"{name} is {value:.4f}, at most {limit:.4f} is accepted"
    return model_pb2.GateFinding(rule=rule, passed=passed, value=value, limit=limit, message=message)
