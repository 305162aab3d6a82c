import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from neurogate.v1 import manifest_pb2 as _manifest_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelVersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_VERSION_STATE_UNSPECIFIED: _ClassVar[ModelVersionState]
    MODEL_VERSION_STATE_LOADING: _ClassVar[ModelVersionState]
    MODEL_VERSION_STATE_PROVING: _ClassVar[ModelVersionState]
    MODEL_VERSION_STATE_READY: _ClassVar[ModelVersionState]
    MODEL_VERSION_STATE_REJECTED: _ClassVar[ModelVersionState]
    MODEL_VERSION_STATE_RETIRED: _ClassVar[ModelVersionState]

class ReleaseMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_MODE_UNSPECIFIED: _ClassVar[ReleaseMode]
    RELEASE_MODE_LATEST: _ClassVar[ReleaseMode]
    RELEASE_MODE_MANUAL: _ClassVar[ReleaseMode]
    RELEASE_MODE_GATED: _ClassVar[ReleaseMode]

class ReleaseAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_ACTION_UNSPECIFIED: _ClassVar[ReleaseAction]
    RELEASE_ACTION_CANDIDATE: _ClassVar[ReleaseAction]
    RELEASE_ACTION_PROMOTE: _ClassVar[ReleaseAction]
    RELEASE_ACTION_ROLLBACK: _ClassVar[ReleaseAction]
    RELEASE_ACTION_SET_TRAFFIC: _ClassVar[ReleaseAction]
    RELEASE_ACTION_GUARD: _ClassVar[ReleaseAction]
    RELEASE_ACTION_RETIRE: _ClassVar[ReleaseAction]
MODEL_VERSION_STATE_UNSPECIFIED: ModelVersionState
MODEL_VERSION_STATE_LOADING: ModelVersionState
MODEL_VERSION_STATE_PROVING: ModelVersionState
MODEL_VERSION_STATE_READY: ModelVersionState
MODEL_VERSION_STATE_REJECTED: ModelVersionState
MODEL_VERSION_STATE_RETIRED: ModelVersionState
RELEASE_MODE_UNSPECIFIED: ReleaseMode
RELEASE_MODE_LATEST: ReleaseMode
RELEASE_MODE_MANUAL: ReleaseMode
RELEASE_MODE_GATED: ReleaseMode
RELEASE_ACTION_UNSPECIFIED: ReleaseAction
RELEASE_ACTION_CANDIDATE: ReleaseAction
RELEASE_ACTION_PROMOTE: ReleaseAction
RELEASE_ACTION_ROLLBACK: ReleaseAction
RELEASE_ACTION_SET_TRAFFIC: ReleaseAction
RELEASE_ACTION_GUARD: ReleaseAction
RELEASE_ACTION_RETIRE: ReleaseAction

class ModelSelector(_message.Message):
    __slots__ = ("name", "version", "label")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    label: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class ModelVersionRef(_message.Message):
    __slots__ = ("name", "version", "label", "manifest_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    label: str
    manifest_digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "state", "state_reason", "labels", "state_time", "manifest_digest", "manifest", "backends", "gate")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    state: ModelVersionState
    state_reason: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    state_time: _timestamp_pb2.Timestamp
    manifest_digest: str
    manifest: _manifest_pb2.ModelManifest
    backends: _containers.RepeatedCompositeFieldContainer[BackendVersion]
    gate: GateReport
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[_Union[ModelVersionState, str]] = ..., state_reason: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., manifest_digest: _Optional[str] = ..., manifest: _Optional[_Union[_manifest_pb2.ModelManifest, _Mapping]] = ..., backends: _Optional[_Iterable[_Union[BackendVersion, _Mapping]]] = ..., gate: _Optional[_Union[GateReport, _Mapping]] = ...) -> None: ...

class BackendVersion(_message.Message):
    __slots__ = ("address", "state", "state_reason", "state_time")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    address: str
    state: ModelVersionState
    state_reason: str
    state_time: _timestamp_pb2.Timestamp
    def __init__(self, address: _Optional[str] = ..., state: _Optional[_Union[ModelVersionState, str]] = ..., state_reason: _Optional[str] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListModelVersionsRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token", "model_servers")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_SERVERS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    next_page_token: str
    model_servers: _containers.RepeatedCompositeFieldContainer[ModelServer]
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., model_servers: _Optional[_Iterable[_Union[ModelServer, _Mapping]]] = ...) -> None: ...

class ModelServer(_message.Message):
    __slots__ = ("address", "connected", "foreign_reason")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_REASON_FIELD_NUMBER: _ClassVar[int]
    address: str
    connected: bool
    foreign_reason: str
    def __init__(self, address: _Optional[str] = ..., connected: bool = ..., foreign_reason: _Optional[str] = ...) -> None: ...

class GetModelVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class WatchModelVersionsRequest(_message.Message):
    __slots__ = ("model", "resume_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    resume_token: str
    def __init__(self, model: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchModelVersionsResponse(_message.Message):
    __slots__ = ("version", "release", "resume_token", "snapshot")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    release: Release
    resume_token: str
    snapshot: bool
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., resume_token: _Optional[str] = ..., snapshot: bool = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("model", "etag", "mode", "labels", "canary_percent", "shadow", "guards", "last_change")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    GUARDS_FIELD_NUMBER: _ClassVar[int]
    LAST_CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    etag: str
    mode: ReleaseMode
    labels: _containers.ScalarMap[str, int]
    canary_percent: float
    shadow: ShadowAgreement
    guards: _containers.RepeatedCompositeFieldContainer[GuardState]
    last_change: ReleaseChange
    def __init__(self, model: _Optional[str] = ..., etag: _Optional[str] = ..., mode: _Optional[_Union[ReleaseMode, str]] = ..., labels: _Optional[_Mapping[str, int]] = ..., canary_percent: _Optional[float] = ..., shadow: _Optional[_Union[ShadowAgreement, _Mapping]] = ..., guards: _Optional[_Iterable[_Union[GuardState, _Mapping]]] = ..., last_change: _Optional[_Union[ReleaseChange, _Mapping]] = ...) -> None: ...

class ShadowAgreement(_message.Message):
    __slots__ = ("stable_version", "shadow_version", "class_ids", "counts", "mean_probability_shift", "compared", "dropped", "failed")
    STABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHADOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    MEAN_PROBABILITY_SHIFT_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    stable_version: int
    shadow_version: int
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    counts: _containers.RepeatedScalarFieldContainer[int]
    mean_probability_shift: float
    compared: int
    dropped: int
    failed: int
    def __init__(self, stable_version: _Optional[int] = ..., shadow_version: _Optional[int] = ..., class_ids: _Optional[_Iterable[str]] = ..., counts: _Optional[_Iterable[int]] = ..., mean_probability_shift: _Optional[float] = ..., compared: _Optional[int] = ..., dropped: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class GuardState(_message.Message):
    __slots__ = ("name", "version", "value", "limit", "breaches", "breaches_to_fire", "images")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BREACHES_FIELD_NUMBER: _ClassVar[int]
    BREACHES_TO_FIRE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    value: float
    limit: float
    breaches: int
    breaches_to_fire: int
    images: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., breaches: _Optional[int] = ..., breaches_to_fire: _Optional[int] = ..., images: _Optional[int] = ...) -> None: ...

class ReleaseChange(_message.Message):
    __slots__ = ("sequence", "time", "actor", "action", "labels_before", "labels_after", "canary_percent", "reason", "forced", "gate", "request_id")
    class LabelsBeforeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsAfterEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LABELS_AFTER_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    actor: str
    action: ReleaseAction
    labels_before: _containers.ScalarMap[str, int]
    labels_after: _containers.ScalarMap[str, int]
    canary_percent: float
    reason: str
    forced: bool
    gate: GateReport
    request_id: str
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., action: _Optional[_Union[ReleaseAction, str]] = ..., labels_before: _Optional[_Mapping[str, int]] = ..., labels_after: _Optional[_Mapping[str, int]] = ..., canary_percent: _Optional[float] = ..., reason: _Optional[str] = ..., forced: bool = ..., gate: _Optional[_Union[GateReport, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GateReport(_message.Message):
    __slots__ = ("accepted", "findings", "candidate", "stable", "version", "stable_version", "time", "policy_digest", "images_digest", "latency_p99_ms")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_MS_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    findings: _containers.RepeatedCompositeFieldContainer[GateFinding]
    candidate: _manifest_pb2.EvaluationMetrics
    stable: _manifest_pb2.EvaluationMetrics
    version: int
    stable_version: int
    time: _timestamp_pb2.Timestamp
    policy_digest: str
    images_digest: str
    latency_p99_ms: float
    def __init__(self, accepted: bool = ..., findings: _Optional[_Iterable[_Union[GateFinding, _Mapping]]] = ..., candidate: _Optional[_Union[_manifest_pb2.EvaluationMetrics, _Mapping]] = ..., stable: _Optional[_Union[_manifest_pb2.EvaluationMetrics, _Mapping]] = ..., version: _Optional[int] = ..., stable_version: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., policy_digest: _Optional[str] = ..., images_digest: _Optional[str] = ..., latency_p99_ms: _Optional[float] = ...) -> None: ...

class GateFinding(_message.Message):
    __slots__ = ("rule", "passed", "value", "limit", "message")
    RULE_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    passed: bool
    value: float
    limit: float
    message: str
    def __init__(self, rule: _Optional[str] = ..., passed: bool = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class GetReleaseRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetReleaseResponse(_message.Message):
    __slots__ = ("release",)
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    release: Release
    def __init__(self, release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class PromoteModelVersionRequest(_message.Message):
    __slots__ = ("model", "version", "etag", "request_id", "reason", "force")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    etag: str
    request_id: str
    reason: str
    force: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., force: bool = ...) -> None: ...

class PromoteModelVersionResponse(_message.Message):
    __slots__ = ("release", "change")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    release: Release
    change: ReleaseChange
    def __init__(self, release: _Optional[_Union[Release, _Mapping]] = ..., change: _Optional[_Union[ReleaseChange, _Mapping]] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("model", "etag", "request_id", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    etag: str
    request_id: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackModelResponse(_message.Message):
    __slots__ = ("release", "change")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    release: Release
    change: ReleaseChange
    def __init__(self, release: _Optional[_Union[Release, _Mapping]] = ..., change: _Optional[_Union[ReleaseChange, _Mapping]] = ...) -> None: ...

class SetTrafficSplitRequest(_message.Message):
    __slots__ = ("model", "etag", "request_id", "reason", "canary_version", "canary_percent", "shadow_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    etag: str
    request_id: str
    reason: str
    canary_version: int
    canary_percent: float
    shadow_version: int
    def __init__(self, model: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., canary_version: _Optional[int] = ..., canary_percent: _Optional[float] = ..., shadow_version: _Optional[int] = ...) -> None: ...

class SetTrafficSplitResponse(_message.Message):
    __slots__ = ("release", "change")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    release: Release
    change: ReleaseChange
    def __init__(self, release: _Optional[_Union[Release, _Mapping]] = ..., change: _Optional[_Union[ReleaseChange, _Mapping]] = ...) -> None: ...

class EvaluateModelVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class EvaluateModelVersionResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: GateReport
    def __init__(self, report: _Optional[_Union[GateReport, _Mapping]] = ...) -> None: ...

class ListReleaseChangesRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReleaseChangesResponse(_message.Message):
    __slots__ = ("changes", "next_page_token")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[ReleaseChange]
    next_page_token: str
    def __init__(self, changes: _Optional[_Iterable[_Union[ReleaseChange, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
