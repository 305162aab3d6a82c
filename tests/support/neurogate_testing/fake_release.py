"""The release of a fake gateway, in memory: labels, split, gate, audit record, and who watches."""

# The methods of a servicer are named by the contract.
# ruff: noqa: N802

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from neurogate.v1 import model_pb2 as pb

from neurogate_testing.fake_status import once, refuse


def gate_report(number: int, *, accepted: bool = True, stable: int = 1) -> pb.GateReport:
    """A verdict as the gate would give it: one overall rule and one per class."""
    report = pb.GateReport(
        accepted=accepted, version=number, stable_version=stable, latency_p99_ms=21.5,
        time={"seconds": 1_700_000_100}, policy_digest="a" * 64, images_digest="b" * 64,
    )  # fmt: skip
    recall = 0.91 if accepted else 0.62
    for rule, passed, value, limit, words in (
        ("min_accuracy", True, 0.93, 0.9, "accuracy"),
        ("recall_floor.glioma", accepted, recall, 0.8, "recall of glioma"),
    ):
        message = f"{words} {value:.1%}, at least {limit:.1%}"
        report.findings.add(rule=rule, passed=passed, value=value, limit=limit, message=message)
    for metrics, accuracy in ((report.candidate, 0.93), (report.stable, 0.9125)):
        metrics.support, metrics.accuracy, metrics.macro_f1, metrics.ece = (
            400,
            accuracy,
            accuracy - 0.01,
            0.02,
        )
        metrics.accuracy_ci_low, metrics.accuracy_ci_high = accuracy - 0.03, accuracy + 0.02
        for class_id in ("glioma", "meningioma", "notumor", "pituitary"):
            metrics.per_class.add(class_id=class_id, support=100, precision=0.9, recall=accuracy, f1=0.9)
    return report


@dataclass
class FakeRelease:
    """State of the release; a test sets it, or changes it by calls."""

    labels: dict[str, int] = field(default_factory=lambda: {"stable": 1})
    mode: str = "MANUAL"
    canary_percent: float = 0.0
    agreement: pb.ShadowAgreement | None = None
    guards: list[pb.GuardState] = field(default_factory=list)
    reports: dict[int, pb.GateReport] = field(default_factory=dict)
    """What the gate says of a version; accepted where nothing is set."""
    changes: list[pb.ReleaseChange] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """The next watches break after so many responses each."""
    forgetful: bool = False
    """Whether resume tokens of earlier watches are refused, as by another gateway."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.events: list[pb.WatchModelVersionsResponse] = []

    def message(self) -> pb.Release:
        """The release as GetRelease tells it."""
        release = pb.Release(
            model="brain_tumor",
            etag=f"e{len(self.changes)}",
            mode=f"RELEASE_MODE_{self.mode}",
            labels=self.labels,
            canary_percent=self.canary_percent,
            shadow=self.agreement,
            guards=self.guards,
        )
        if self.changes:
            release.last_change.CopyFrom(self.changes[-1])
        return release

    def announce(self, **event: Message) -> None:
        """Tells everyone who watches: `version=` or `release=`."""
        with self.changed:
            token = f"t{len(self.events) + 1}"
            self.events.append(pb.WatchModelVersionsResponse(**event, resume_token=token))
            self.changed.notify_all()

    def record(self, action: str, before: dict[str, int], request: Any, **more: Any) -> pb.ReleaseChange:
        """Adds a line to the audit record and announces the release."""
        change = pb.ReleaseChange(
            sequence=len(self.changes) + 1,
            actor="ipv4:127.0.0.1",
            action=f"RELEASE_ACTION_{action}",
            labels_before=before,
            labels_after=self.labels,
            canary_percent=self.canary_percent,
            reason=request.reason,
            request_id=request.request_id,
            **more,
        )
        change.time.FromSeconds(1_700_000_000 + len(self.changes))
        self.changes.append(change)
        self.announce(release=self.message())
        return change


class ReleaseMethods:
    """ModelService's methods of the release, for the fake's servicer."""

    script: Any
    enter: Callable[..., None]

    def GetRelease(self, request, context):
        self.enter("GetRelease", request, context)
        return pb.GetReleaseResponse(release=self.script.release.message())

    def PromoteModelVersion(self, request, context):
        self.enter("PromoteModelVersion", request, context)
        release = self.script.release

        def change() -> Message:
            self._known(request.version, context)
            before = dict(release.labels)
            if request.version == before["stable"]:
                return pb.PromoteModelVersionResponse(release=release.message())
            report = release.reports.get(request.version) or gate_report(request.version)
            if not report.accepted and not request.force:
                broken = ",".join(each.rule for each in report.findings if not each.passed)
                refusal = f"the gate refuses version {request.version}: {broken}"
                refuse(context, "GATE_REFUSED", refusal, rules=broken)
            release.labels = {**before, "stable": request.version, "previous": before["stable"]}
            release.labels.pop("candidate", None)
            made = release.record("PROMOTE", before, request, forced=not report.accepted, gate=report)
            return pb.PromoteModelVersionResponse(release=release.message(), change=made)

        return self._once(request, context, change)

    def RollbackModel(self, request, context):
        self.enter("RollbackModel", request, context)
        release = self.script.release

        def change() -> Message:
            before = dict(release.labels)
            if "previous" not in before:
                refuse(context, "NOTHING_TO_ROLL_BACK", 'there is no "previous" version')
            release.labels = {**before, "stable": before["previous"], "previous": before["stable"]}
            made = release.record("ROLLBACK", before, request)
            return pb.RollbackModelResponse(release=release.message(), change=made)

        return self._once(request, context, change)

    def SetTrafficSplit(self, request, context):
        self.enter("SetTrafficSplit", request, context)
        release = self.script.release

        def change() -> Message:
            if bool(request.canary_version) != (0 < request.canary_percent <= 100):
                refuse(context, "TRAFFIC_SPLIT_INVALID", "a canary wants a version and a share")
            before, percent = dict(release.labels), release.canary_percent
            for label, number in (("canary", request.canary_version), ("shadow", request.shadow_version)):
                release.labels.pop(label, None)
                if number:
                    self._known(number, context)
                    release.labels[label] = number
            release.canary_percent = request.canary_percent
            if not request.shadow_version:
                release.agreement = None
            elif before.get("shadow") != request.shadow_version:
                release.agreement = pb.ShadowAgreement(
                    stable_version=release.labels["stable"], shadow_version=request.shadow_version
                )
            if (release.labels, release.canary_percent) == (before, percent):
                return pb.SetTrafficSplitResponse(release=release.message())
            made = release.record("SET_TRAFFIC", before, request)
            return pb.SetTrafficSplitResponse(release=release.message(), change=made)

        return self._once(request, context, change)

    def EvaluateModelVersion(self, request, context):
        self.enter("EvaluateModelVersion", request, context)
        self._known(request.version, context)
        report = self.script.release.reports.get(request.version) or gate_report(request.version)
        return pb.EvaluateModelVersionResponse(report=report)

    def ListReleaseChanges(self, request, context):
        self.enter("ListReleaseChanges", request, context)
        listed = self.script.release.changes[::-1]
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 50, self.script.page_size)
        token = str(end) if end < len(listed) else ""
        return pb.ListReleaseChangesResponse(changes=listed[start:end], next_page_token=token)

    def WatchModelVersions(self, request, context) -> Iterator[pb.WatchModelVersionsResponse]:
        self.enter("WatchModelVersions", request, context)
        release = self.script.release
        left = release.cut_after.pop(0) if release.cut_after else None
        yield from itertools.islice(self._events(request, context), left)
        if left is not None:
            refuse(context, "SHUTTING_DOWN", "the gateway stops")

    def _events(self, request, context) -> Iterator[pb.WatchModelVersionsResponse]:
        release = self.script.release
        with release.changed:
            place = len(release.events)
        if request.resume_token:
            if release.forgetful:
                refuse(context, "RESUME_TOKEN_INVALID", "not a token of mine")
            place = int(request.resume_token[1:])
        else:
            for each in self.script.versions:
                yield pb.WatchModelVersionsResponse(version=each, resume_token=f"t{place}", snapshot=True)
            yield pb.WatchModelVersionsResponse(
                release=release.message(), resume_token=f"t{place}", snapshot=True
            )
        while context.is_active():
            with release.changed:
                if not (fresh := release.events[place:]):
                    release.changed.wait(0.05)
            place += len(fresh)
            yield from fresh
            if self.script.stopping.is_set():
                return

    def _known(self, number: int, context: grpc.ServicerContext) -> None:
        if number not in {each.version for each in self.script.versions}:
            refuse(context, "MODEL_VERSION_NOT_FOUND", f"no version {number}")

    def _once(self, request: Any, context: grpc.ServicerContext, change: Callable[[], Message]) -> Message:
        def make() -> Message:
            release = self.script.release
            if release.mode == "LATEST":
                refuse(context, "RELEASE_NOT_MANAGED", "this gateway does not manage the release")
            if request.etag and request.etag != release.message().etag:
                refuse(context, "ETAG_MISMATCH", "the release has changed")
            return change()

        return once(self.script, request, context, make)
