"""The gate: may a version become "stable"? It measures a version on the sealed images and judges the result.

The images take the way of callers' images. The verdict depends on the measurement and the policy alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final

import numpy as np
from google.rpc import code_pb2
from neurogate.v1 import error_pb2, manifest_pb2, model_pb2
from neurogate_core.evaluation import Measured, evaluation_metrics, resampled_mean

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import EvaluationImpossibleError, GatewayError, OverloadedError
from neurogate_gateway.inference.pipeline import InferencePipeline, Prediction
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import Signal

from .policy import GatePolicy, Policy
from .sealed_images import Fingerprint, ImagesError, SealedImage, SealedImages, fingerprint, load_images

_REMEMBERED: Final = 8
_REPORTS_REMEMBERED: Final = 100
"""As many versions as are listed at once."""
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 1.0
"""For which an image waits behind callers: a gateway that is always busy comes to a verdict too, slowly."""


class Evaluator:
    """Asks every version once about the sealed images, however often the gate is asked about it."""

    def __init__(
        self,
        source: Path,
        versions: BackendPool,
        background: InferencePipeline,
        policy: Policy,
        *,
        seconds: float,
    ) -> None:
        """Looks at nothing yet.

        Args:
            source: Folder of class folders, or list of images; read anew when it has changed.
            versions: Which are READY.
            background: Asks them.
            policy: What the gate wants of every version.
            seconds: Time for each image.
        """
        self._source = source
        self._versions = versions
        self._background = background
        self.policy = policy
        self._seconds = seconds
        self._images: tuple[Fingerprint, SealedImages] | None = None
        self._known: OrderedDict[tuple[str, str], asyncio.Task[Measured]] = OrderedDict()
        self._verdicts: OrderedDict[tuple[str, str, str, str], model_pb2.GateReport] = OrderedDict()
        self._reports: OrderedDict[int, model_pb2.GateReport] = OrderedDict()
        self.reported: Signal[[int]] = Signal()
        """Told the number of every version that the gate has judged by its own policy."""

    def last_report(self, version: int) -> model_pb2.GateReport | None:
        """The last verdict by the gate's own policy; None when it was not asked, or long ago."""
        return self._reports.get(version)

    async def evaluate(
        self, number: int, stable: int | None, policy: Policy | None = None
    ) -> model_pb2.GateReport:
        """The gate's verdict on a version.

        Args:
            number: The version.
            stable: The one that it is compared with; None for none.
            policy: Another one than the gate's own; its verdict is not the version's last report.

        Raises:
            GatewayError (MODEL_VERSION_NOT_READY): One of them is not READY.
            EvaluationImpossibleError: The images cannot be used for it.
            GatewayError: The model servers cannot answer.
        """
        images = await self._sealed()
        version, other = self._ready(number), None if stable in {None, number} else self._ready(stable or 0)
        asked = policy or self.policy
        key = (version.digest, other.digest if other is not None else "", images.truth, asked.digest)
        report = self._verdicts.get(key)
        if report is None:
            candidate = await self._measured(version, images)
            before = await self._measured(other, images) if other is not None else None
            report = await asyncio.to_thread(judge, candidate, before, asked)
            report.time.GetCurrentTime()
            self._verdicts[key] = report
            log(logging.INFO, "gate", version=number, accepted=report.accepted, stable=stable or 0)
        while len(self._verdicts) > _REMEMBERED:
            self._verdicts.popitem(last=False)
        if policy is None and self._reports.get(number) is not report:
            self._reports[number] = report
            self._reports.move_to_end(number)
            while len(self._reports) > _REPORTS_REMEMBERED:
                self._reports.popitem(last=False)
            self.reported.emit(number)
        return report

    async def close(self) -> None:
        """Ends what is running."""
        for task in self._known.values():
            task.cancel()
        if self._known:
            await asyncio.wait(self._known.values())

    async def _sealed(self) -> SealedImages:
        """The images, read anew only where something has changed."""
        try:
            seen = await asyncio.to_thread(fingerprint, self._source)
            if self._images is None or self._images[0] != seen:
                self._images = (seen, await asyncio.to_thread(load_images, self._source))
        except ImagesError as error:
            raise _unusable(error) from error
        return self._images[1]

    def _ready(self, number: int) -> ServedVersion:
        version = self._versions.ready(number)
        if version is None:
            raise GatewayError(
                error_pb2.ERROR_REASON_MODEL_VERSION_NOT_READY,
                f"version {number} is not READY, so it cannot be evaluated",
            )
        return version

    async def _measured(self, version: ServedVersion, images: SealedImages) -> Measured:
        key = (version.digest, images.truth)
        task = self._known.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._known[key] = asyncio.create_task(self._measure(version, images))
            task.add_done_callback(_look_at)
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED and next(iter(self._known.values())).done():
            self._known.popitem(last=False)
        # Other callers may wait for it too, so cancelling one does not end it.
        return await asyncio.shield(task)

    async def _measure(self, version: ServedVersion, images: SealedImages) -> Measured:
        class_ids = version.class_ids
        unknown = {image.class_id for image in images.images}.difference(class_ids)
        if unknown:
            raise EvaluationImpossibleError(
                f"the evaluation images have classes that version {version.number} has not: "
                f"{', '.join(sorted(unknown))}"
            )
        start = time.monotonic()
        localisation = version.manifest.localisation
        rows, latency = [], []
        for image in images.images:
            answer, milliseconds = await self._ask(version, image)
            rows.append(answer.outputs.probabilities)
            latency.append(milliseconds)
        seconds = round(time.monotonic() - start, 3)
        log(logging.INFO, "evaluated", version=version.number, images=len(rows), seconds=seconds)
        return Measured(
            version=version.number,
            digest=version.digest,
            images_digest=images.digest,
            class_ids=tuple(class_ids),
            labels=np.array([class_ids.index(image.class_id) for image in images.images]),
            probabilities=np.stack(rows),
            latency_ms=np.array(latency),
            pointing=localisation.pointing.value if localisation.HasField("pointing") else None,
        )

    async def _ask(self, version: ServedVersion, image: SealedImage) -> tuple[Prediction, float]:
        try:
            content = await asyncio.to_thread(image.read)
        except ImagesError as error:
            raise _unusable(error) from error
        failures, came = 0, time.monotonic()
        while True:
            pressing = time.monotonic() - came >= _PATIENCE_SECONDS
            begun = time.perf_counter()
            try:
                answer = await self._background.classify_in_background(
                    version.number, content, seconds=self._seconds, pressing=pressing
                )
            except OverloadedError as error:
                await asyncio.sleep(error.retry_after or _PAUSE_SECONDS)
            except GatewayError as error:
                if error.code == code_pb2.INVALID_ARGUMENT:
                    refused = ImagesError(
                        f"version {version.number} refuses an image: {error.message}", image.path
                    )
                    raise _unusable(refused) from error
                if error.code not in {code_pb2.UNAVAILABLE, code_pb2.DEADLINE_EXCEEDED}:
                    raise
                failures += 1
                if failures >= _ATTEMPTS:
                    raise _interrupted(version, error) from error
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if answer.resolved.version.digest != version.digest:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_MODEL_VERSION_NOT_READY,
                        f"version {version.number} is another one by now",
                    )
                return answer, (time.perf_counter() - begun) * 1000


def _unusable(error: ImagesError) -> EvaluationImpossibleError:
    log(logging.ERROR, "evaluation_images_unusable", message=str(error))
    return EvaluationImpossibleError(
        f"the evaluation images cannot be used: {error.message}; the gateway's log names the file"
    )


def _interrupted(version: ServedVersion, error: GatewayError) -> GatewayError:
    return GatewayError(
        error.reason, f"the evaluation of version {version.number} was interrupted: {error.message}"
    )


def _look_at(task: asyncio.Task[Measured]) -> None:
    # The callers that wait get the error; without this, asyncio warns when none does.
    if not task.cancelled():
        task.exception()


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


def merge_reports(report: model_pb2.GateReport, extra: model_pb2.GateReport) -> model_pb2.GateReport:
    """The verdict of the gateway's policy and of a retraining's own together: either may refuse.

    Args:
        report: Under the gateway's policy.
        extra: Under the retraining's own policy.

    Returns:
        The gateway's report with the findings of the other one behind its own, those left out that ask for
        the same and find the same.
    """
    both = model_pb2.GateReport()
    both.CopyFrom(report)
    asked = {_key(finding) for finding in report.findings}
    for finding in extra.findings:
        if _key(finding) not in asked:
            both.findings.append(finding)
            both.findings[-1].rule = f"gate_policy.{finding.rule}"
            both.findings[-1].message += ", by the retraining's own gate policy"
    both.accepted = report.accepted and extra.accepted
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
        rule = f"recall_floor.{each.class_id}"
        if each.support:
            findings.append(_at_least(rule, f"recall of {each.class_id}", each.recall, limit))
        elif limit > 0:
            message = f"no evaluation image is of class {each.class_id}, so its recall is not known"
            findings.append(_broken(rule, limit, message))
    known = {each.class_id for each in metrics.per_class}
    findings += [
        _broken(f"recall_floor.{name}", limit, f"the policy names {name}, which is no class of this version")
        for name, limit in policy.recall.items()
        if name not in known
    ]
    return findings


def _pointing(candidate: Measured, limit: float) -> model_pb2.GateFinding:
    if candidate.pointing is None:
        message = (
            "its manifest does not say how often its explanations point at the lesion: its test images have "
            f"no masks, or it is older than the measurement; at least {limit:.4f} is asked for"
        )
        return _broken("min_pointing", limit, message)
    name = "share of right answers whose explanation points at the lesion, by its manifest,"
    return _at_least("min_pointing", name, candidate.pointing, limit)


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
    message = f"{name} is {value:.4f}, at least {limit:.4f} is asked for"
    # Written so that NaN does not pass.
    return model_pb2.GateFinding(rule=rule, passed=value >= limit, value=value, limit=limit, message=message)


def _at_most(rule: str, name: str, value: float, limit: float) -> model_pb2.GateFinding:
    message = f"{name} is {value:.4f}, at most {limit:.4f} is accepted"
    return model_pb2.GateFinding(rule=rule, passed=value <= limit, value=value, limit=limit, message=message)


def _broken(rule: str, limit: float, message: str) -> model_pb2.GateFinding:
    return model_pb2.GateFinding(rule=rule, passed=False, limit=limit, message=message)
