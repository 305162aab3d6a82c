"""A version as the contract has it."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from neurogate.v1 import model_pb2

from .catalog import Catalog
from .views import VersionView


def version_message(
    catalog: Catalog, view: VersionView, gate: model_pb2.GateReport | None, *, whole: bool = False
) -> model_pb2.ModelVersion:
    """A version as the contract has it.

    Args:
        catalog: Knows its labels.
        view: Where it stands.
        gate: The gate's last verdict on it; None when it was not asked yet.
        whole: With the manifest's large parts, goldens and files.
    """
    version = model_pb2.ModelVersion(
        model=catalog.model,
        version=view.number,
        state=view.state,
        state_reason=view.reason,
        labels=catalog.labels_of(view.number),
        state_time=_time(view.since),
        backends=[
            model_pb2.BackendVersion(
                address=there.address,
                state=there.state,
                state_reason=there.reason,
                state_time=_time(there.since),
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


def _time(unix: float) -> timestamp_pb2.Timestamp:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(round(unix * 1000))
    return time
