"""A release and its changes as the contract has them."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import json_format, timestamp_pb2
from neurogate.v1 import model_pb2
from neurogate_core import release_store as store
from neurogate_core.release_store import Change, Release

from neurogate_gateway.backends.versions import VersionView

from .router import VersionRouter

_ACTIONS: Final = {
    store.CANDIDATE: model_pb2.RELEASE_ACTION_CANDIDATE,
    store.PROMOTE: model_pb2.RELEASE_ACTION_PROMOTE,
    store.ROLLBACK: model_pb2.RELEASE_ACTION_ROLLBACK,
    store.SET_TRAFFIC: model_pb2.RELEASE_ACTION_SET_TRAFFIC,
    store.GUARD: model_pb2.RELEASE_ACTION_GUARD,
    store.RETIRE: model_pb2.RELEASE_ACTION_RETIRE,
}
MODES: Final = {
    "latest": model_pb2.RELEASE_MODE_LATEST,
    "manual": model_pb2.RELEASE_MODE_MANUAL,
    "gated": model_pb2.RELEASE_MODE_GATED,
}


def release_message(model: str, release: Release, mode: str) -> model_pb2.Release:
    """A release, without what shadow and guards see."""
    message = model_pb2.Release(
        model=model,
        etag=release.etag,
        mode=MODES[mode],
        labels=dict(release.state.labels),
        canary_percent=release.state.canary_percent,
    )
    if release.last_change is not None:
        message.last_change.CopyFrom(change_message(release.last_change))
    return message


def change_message(change: Change) -> model_pb2.ReleaseChange:
    """One line of the audit record."""
    message = model_pb2.ReleaseChange(
        sequence=change.sequence,
        time=_timestamp(change.time),
        actor=change.actor,
        action=_ACTIONS[change.action],
        labels_before=dict(change.labels_before),
        labels_after=dict(change.state.labels),
        canary_percent=change.state.canary_percent,
        reason=change.reason,
        forced=change.forced,
        request_id=change.request_id,
    )
    if change.gate is not None:
        try:
            json_format.ParseDict(dict(change.gate), message.gate, ignore_unknown_fields=True)
        except json_format.ParseError:
            # The record may have been written by another release of the gateway.
            message.ClearField("gate")
    return message


def gate_json(report: model_pb2.GateReport | None) -> dict[str, Any] | None:
    """A verdict as the audit record keeps it."""
    if report is None:
        return None
    value: dict[str, Any] = json_format.MessageToDict(report, preserving_proto_field_name=True)
    return value


def _timestamp(unix: float) -> timestamp_pb2.Timestamp:
    """Unix time as the contract has it."""
    time = timestamp_pb2.Timestamp()
    time.FromMicroseconds(round(unix * 1e6))
    return time


def version_message(
    router: VersionRouter, view: VersionView, gate: model_pb2.GateReport | None, *, whole: bool = False
) -> model_pb2.ModelVersion:
    """A version as the contract has it.

    Args:
        router: Knows its labels.
        view: Where it stands.
        gate: The gate's last verdict on it; None when it was not asked yet.
        whole: With the manifest's large parts, goldens and files.
    """
    version = model_pb2.ModelVersion(
        model=router.model,
        version=view.number,
        state=view.state,
        state_reason=view.reason,
        labels=router.labels_of(view.number),
        state_time=_timestamp(view.since),
        backends=[
            model_pb2.BackendVersion(
                address=there.address,
                state=there.state,
                state_reason=there.reason,
                state_time=_timestamp(there.since),
            )
            for there in view.backends
        ],
    )
    if view.version is not None:
        version.manifest_digest = view.version.digest
        version.manifest.CopyFrom(view.version.manifest if whole else view.version.summary)
    if gate is not None:
        version.gate.CopyFrom(gate)
    return version
