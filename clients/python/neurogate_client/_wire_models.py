"""Between ModelService's messages and what callers see."""

from __future__ import annotations

from neurogate.v1 import model_pb2

from ._wire_common import named, time_of
from .errors import UnexpectedError
from .results_models import (
    BackendVersion,
    ChangedRelease,
    GateFinding,
    GateReport,
    GuardState,
    ModelVersion,
    Release,
    ReleaseAction,
    ReleaseChange,
    ReleaseMode,
    ShadowAgreement,
    VersionsEvent,
    VersionState,
)


def model_version(message: model_pb2.ModelVersion) -> ModelVersion:
    """One version of the catalog."""
    return ModelVersion(
        model=message.model,
        version=message.version,
        state=named(VersionState, message, "state"),
        state_reason=message.state_reason,
        labels=tuple(message.labels),
        state_time=time_of(message, "state_time", f"version {message.version}"),
        manifest_digest=message.manifest_digest,
        manifest=message.manifest if message.HasField("manifest") else None,
        backends=tuple(
            BackendVersion(
                each.address,
                named(VersionState, each, "state"),
                each.state_reason,
                time_of(each, "state_time"),
            )
            for each in message.backends
        ),
        gate=gate_report(message.gate) if message.HasField("gate") else None,
    )


def gate_report(message: model_pb2.GateReport) -> GateReport:
    """The gate's verdict."""
    return GateReport(
        accepted=message.accepted,
        findings=tuple(
            GateFinding(each.rule, each.passed, each.value, each.limit, each.message)
            for each in message.findings
        ),
        candidate=message.candidate if message.HasField("candidate") else None,
        stable=message.stable if message.HasField("stable") else None,
        version=message.version,
        stable_version=message.stable_version,
        time=time_of(message, "time"),
        policy_digest=message.policy_digest,
        images_digest=message.images_digest,
        latency_p99_ms=message.latency_p99_ms,
    )


def release(message: model_pb2.Release) -> Release:
    """The release as it is."""
    return Release(
        model=message.model,
        etag=message.etag,
        mode=named(ReleaseMode, message, "mode"),
        labels=dict(message.labels),
        canary_percent=message.canary_percent,
        shadow=_shadow(message.shadow) if message.HasField("shadow") else None,
        guards=tuple(
            GuardState(
                name=each.name,
                version=each.version,
                value=each.value,
                limit=each.limit,
                breaches=each.breaches,
                breaches_to_fire=each.breaches_to_fire,
                images=each.images,
            )
            for each in message.guards
        ),
        last_change=release_change(message.last_change) if message.HasField("last_change") else None,
    )


def _shadow(message: model_pb2.ShadowAgreement) -> ShadowAgreement:
    size = len(message.class_ids)
    if len(message.counts) not in {0, size * size}:
        raise UnexpectedError(f"an agreement matrix of {size} classes came with {len(message.counts)} counts")
    counts = message.counts or [0] * (size * size)
    return ShadowAgreement(
        stable_version=message.stable_version,
        shadow_version=message.shadow_version,
        class_ids=tuple(message.class_ids),
        counts=tuple(tuple(counts[row * size : (row + 1) * size]) for row in range(size)),
        mean_probability_shift=message.mean_probability_shift,
        compared=message.compared,
        dropped=message.dropped,
        failed=message.failed,
    )


def release_change(message: model_pb2.ReleaseChange) -> ReleaseChange:
    """One line of the audit record."""
    return ReleaseChange(
        sequence=message.sequence,
        time=time_of(message, "time"),
        actor=message.actor,
        action=named(ReleaseAction, message, "action"),
        labels_before=dict(message.labels_before),
        labels_after=dict(message.labels_after),
        canary_percent=message.canary_percent,
        reason=message.reason,
        forced=message.forced,
        gate=gate_report(message.gate) if message.HasField("gate") else None,
        request_id=message.request_id,
    )


def changed(
    message: model_pb2.PromoteModelVersionResponse
    | model_pb2.RollbackModelResponse
    | model_pb2.SetTrafficSplitResponse,
) -> ChangedRelease:
    """The release after a change."""
    change = release_change(message.change) if message.HasField("change") else None
    return ChangedRelease(release(message.release), change)


def versions_event(message: model_pb2.WatchModelVersionsResponse) -> VersionsEvent | None:
    """One response of a watch; None for a kind of event that this client is too old to know."""
    if message.WhichOneof("event") == "version":
        return VersionsEvent(version=model_version(message.version), snapshot=message.snapshot)
    if message.WhichOneof("event") == "release":
        return VersionsEvent(release=release(message.release), snapshot=message.snapshot)
    return None
