"""What the client returns about model versions and the release: which exist, which answer, who gets them.

`ModelVersion.manifest` and the metrics of a `GateReport` are protobuf messages of `manifest.proto`, a
document with a contract of its own.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from neurogate.v1 import manifest_pb2


class VersionState(enum.StrEnum):
    """Where a version stands with the gateway."""

    LOADING = "LOADING"
    PROVING = "PROVING"
    READY = "READY"
    REJECTED = "REJECTED"
    RETIRED = "RETIRED"
    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""


class ReleaseMode(enum.StrEnum):
    """How versions become "stable"."""

    LATEST = "LATEST"
    """The highest READY version is "stable", as in plain TensorFlow Serving; no call changes that."""
    MANUAL = "MANUAL"
    """A person promotes; the gate advises."""
    GATED = "GATED"
    """A candidate that passes the gate is promoted by the gateway; a person may as well."""
    UNKNOWN = "UNKNOWN"
    """A mode that this client is too old to know."""


class ReleaseAction(enum.StrEnum):
    """What a change of the release did."""

    CANDIDATE = "CANDIDATE"
    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    SET_TRAFFIC = "SET_TRAFFIC"
    GUARD = "GUARD"
    RETIRE = "RETIRE"
    UNKNOWN = "UNKNOWN"
    """An action that this client is too old to know."""


@dataclass(frozen=True, slots=True)
class GateFinding:
    """One rule of the gate, kept or broken.

    Attributes:
        rule: e.g. "min_accuracy" or "recall_floor.glioma"; with "gate_policy." before it where the
            retraining's own policy asks for it.
        passed: whether it is kept.
        value: what was found.
        limit: what the policy asks for.
        message: the same for people.
    """

    rule: str
    passed: bool
    value: float
    limit: float
    message: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate makes of a version.

    Attributes:
        accepted: whether it may become "stable".
        findings: every rule with its figures, passed or not.
        candidate: the version judged, through the production path.
        stable: "stable" on the same images; None where there was none.
        version: version judged.
        stable_version: version that it was compared with; 0 for none.
        time: when (UTC).
        policy_digest: hex SHA-256 of the policy.
        images_digest: hex SHA-256 over the sorted digests of the evaluation images.
        latency_p99_ms: 99th percentile of the version's latency through the gateway, in milliseconds.
    """

    accepted: bool
    findings: tuple[GateFinding, ...]
    candidate: manifest_pb2.EvaluationMetrics | None = field(repr=False, hash=False)
    stable: manifest_pb2.EvaluationMetrics | None = field(repr=False, hash=False)
    version: int
    stable_version: int
    time: dt.datetime | None
    policy_digest: str
    images_digest: str
    latency_p99_ms: float

    @property
    def broken(self) -> tuple[GateFinding, ...]:
        """The rules that the version does not keep."""
        return tuple(each for each in self.findings if not each.passed)


@dataclass(frozen=True, slots=True)
class BackendVersion:
    """One version on one model server.

    Attributes:
        address: the model server, HOST:PORT.
        state: where the version stands there.
        state_reason: for REJECTED, what was wrong.
        state_time: when the state last changed (UTC).
    """

    address: str
    state: VersionState
    state_reason: str
    state_time: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ModelServer:
    """One model server as the gateway sees it.

    Attributes:
        address: HOST:PORT.
        connected: whether it can be reached.
        foreign_reason: why it is taken for somebody else's and told nothing; empty for the gateway's own.
    """

    address: str
    connected: bool
    foreign_reason: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version as the gateway sees it.

    Attributes:
        model: model name.
        version: version number.
        state: where it stands; with several model servers, the best of theirs.
        state_reason: for REJECTED, what was wrong.
        labels: labels that point to it, sorted.
        state_time: when the state last changed (UTC).
        manifest_digest: hex SHA-256; empty before the manifest was read.
        manifest: the manifest, in lists without `goldens` and `files`; None before it was read.
        backends: the same for each model server.
        gate: the gate's last verdict; None when it was not asked yet.
    """

    model: str
    version: int
    state: VersionState
    state_reason: str
    labels: tuple[str, ...]
    state_time: dt.datetime | None
    manifest_digest: str
    manifest: manifest_pb2.ModelManifest | None = field(repr=False, hash=False)
    backends: tuple[BackendVersion, ...] = ()
    gate: GateReport | None = None


@dataclass(frozen=True, slots=True)
class ShadowAgreement:
    """How often "stable" and the shadow agree on the same images since the shadow was set.

    Attributes:
        stable_version: the version that answered the callers.
        shadow_version: the version that got the copies.
        class_ids: class identifiers, in the order of rows and columns.
        counts: images by stable's class (row) and the shadow's (column).
        mean_probability_shift: mean of |p_stable - p_shadow| of stable's top class, 0 to 1.
        compared: copies that were compared.
        dropped: copies that were dropped so that callers do not wait.
        failed: copies that the shadow failed on.
    """

    stable_version: int
    shadow_version: int
    class_ids: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mean_probability_shift: float
    compared: int
    dropped: int
    failed: int

    @property
    def agreement(self) -> float | None:
        """Share of the compared images with the same class, 0 to 1; None when none was compared."""
        same = sum(row[number] for number, row in enumerate(self.counts))
        total = sum(map(sum, self.counts))
        return same / total if total else None


@dataclass(frozen=True, slots=True)
class GuardState:
    """One live guard: what it watches, and how near it is to firing.

    Attributes:
        name: "error_rate", "latency", "abstention_rate" or "probability_shift".
        version: version that is watched.
        value: what was seen over the window.
        limit: above this the guard counts a breach.
        breaches: breaches in a row.
        breaches_to_fire: breaches in a row at which the gateway rolls back.
        images: images in the window.
    """

    name: str
    version: int
    value: float
    limit: float
    breaches: int
    breaches_to_fire: int
    images: int


@dataclass(frozen=True, slots=True)
class ReleaseChange:
    """One line of the audit record.

    Attributes:
        sequence: 1, 2, 3, … without gaps.
        time: when (UTC).
        actor: the peer's identity, or "gateway" for what it did by itself.
        action: what.
        labels_before, labels_after: version by label.
        canary_percent: canary share after, in percent.
        reason: why, as the caller or the gateway said.
        forced: whether the gate was overruled: it had refused, or nobody waited for its verdict.
        gate: what the gate had said; None where it was not asked.
        request_id: the call's identifier.
    """

    sequence: int
    time: dt.datetime | None
    actor: str
    action: ReleaseAction
    labels_before: Mapping[str, int] = field(hash=False)
    labels_after: Mapping[str, int] = field(hash=False)
    canary_percent: float
    reason: str
    forced: bool
    gate: GateReport | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """Which version callers get.

    Attributes:
        model: model name.
        etag: changes with every change; give it to a change to change only what was seen.
        mode: how versions become "stable".
        labels: version by label: "stable", "previous", "canary", "candidate", "shadow".
        canary_percent: share of the callers of "stable" that get "canary" instead, in percent.
        shadow: what the shadow has seen; None without one.
        guards: what the live guards see.
        last_change: None before the first.
    """

    model: str
    etag: str
    mode: ReleaseMode
    labels: Mapping[str, int] = field(hash=False)
    canary_percent: float
    shadow: ShadowAgreement | None
    guards: tuple[GuardState, ...]
    last_change: ReleaseChange | None

    @property
    def stable(self) -> int | None:
        """The version that callers get, where there is one."""
        return self.labels.get("stable")


@dataclass(frozen=True, slots=True)
class ChangedRelease:
    """The release after a change.

    Attributes:
        release: what callers get from now on.
        change: as it was recorded; None where all was so already, so that nothing was changed.
    """

    release: Release
    change: ReleaseChange | None


@dataclass(frozen=True, slots=True)
class VersionsEvent:
    """One thing as it is now: exactly one of `version` and `release` is set.

    Attributes:
        version: a version, with its manifest's summary.
        release: labels, split, shadow and guards.
        snapshot: whether this belongs to the present state that a watch begins with.
    """

    version: ModelVersion | None = None
    release: Release | None = None
    snapshot: bool = False
