import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from neurogate.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExampleSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXAMPLE_SOURCE_UNSPECIFIED: _ClassVar[ExampleSource]
    EXAMPLE_SOURCE_UPLOAD: _ClassVar[ExampleSource]
    EXAMPLE_SOURCE_FEEDBACK: _ClassVar[ExampleSource]

class RetrainingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETRAINING_STATE_UNSPECIFIED: _ClassVar[RetrainingState]
    RETRAINING_STATE_QUEUED: _ClassVar[RetrainingState]
    RETRAINING_STATE_RUNNING: _ClassVar[RetrainingState]
    RETRAINING_STATE_EVALUATING: _ClassVar[RetrainingState]
    RETRAINING_STATE_PUBLISHING: _ClassVar[RetrainingState]
    RETRAINING_STATE_SUCCEEDED: _ClassVar[RetrainingState]
    RETRAINING_STATE_REFUSED: _ClassVar[RetrainingState]
    RETRAINING_STATE_FAILED: _ClassVar[RetrainingState]
    RETRAINING_STATE_CANCELLED: _ClassVar[RetrainingState]
EXAMPLE_SOURCE_UNSPECIFIED: ExampleSource
EXAMPLE_SOURCE_UPLOAD: ExampleSource
EXAMPLE_SOURCE_FEEDBACK: ExampleSource
RETRAINING_STATE_UNSPECIFIED: RetrainingState
RETRAINING_STATE_QUEUED: RetrainingState
RETRAINING_STATE_RUNNING: RetrainingState
RETRAINING_STATE_EVALUATING: RetrainingState
RETRAINING_STATE_PUBLISHING: RetrainingState
RETRAINING_STATE_SUCCEEDED: RetrainingState
RETRAINING_STATE_REFUSED: RetrainingState
RETRAINING_STATE_FAILED: RetrainingState
RETRAINING_STATE_CANCELLED: RetrainingState

class UploadExamplesRequest(_message.Message):
    __slots__ = ("key", "class_id", "data", "more", "name", "sha256", "group", "frame")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    key: str
    class_id: str
    data: bytes
    more: bool
    name: str
    sha256: str
    group: str
    frame: int
    def __init__(self, key: _Optional[str] = ..., class_id: _Optional[str] = ..., data: _Optional[bytes] = ..., more: bool = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., group: _Optional[str] = ..., frame: _Optional[int] = ...) -> None: ...

class UploadExamplesResponse(_message.Message):
    __slots__ = ("key", "example", "error")
    KEY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    key: str
    example: UploadedExample
    error: _status_pb2.Status
    def __init__(self, key: _Optional[str] = ..., example: _Optional[_Union[UploadedExample, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class UploadedExample(_message.Message):
    __slots__ = ("example_id", "duplicate")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    duplicate: bool
    def __init__(self, example_id: _Optional[str] = ..., duplicate: bool = ...) -> None: ...

class SubmitFeedbackRequest(_message.Message):
    __slots__ = ("prediction_id", "class_id", "not_mri", "comment", "request_id")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NOT_MRI_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    class_id: str
    not_mri: bool
    comment: str
    request_id: str
    def __init__(self, prediction_id: _Optional[str] = ..., class_id: _Optional[str] = ..., not_mri: bool = ..., comment: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SubmitFeedbackResponse(_message.Message):
    __slots__ = ("feedback_id", "example_id", "confirmed")
    FEEDBACK_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    feedback_id: str
    example_id: str
    confirmed: bool
    def __init__(self, feedback_id: _Optional[str] = ..., example_id: _Optional[str] = ..., confirmed: bool = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("example_id", "class_id", "name", "source", "create_time", "width", "height", "size_bytes", "thumbnail", "prediction_id", "group", "sent_sha256", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    class_id: str
    name: str
    source: ExampleSource
    create_time: _timestamp_pb2.Timestamp
    width: int
    height: int
    size_bytes: int
    thumbnail: bytes
    prediction_id: str
    group: str
    sent_sha256: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, example_id: _Optional[str] = ..., class_id: _Optional[str] = ..., name: _Optional[str] = ..., source: _Optional[_Union[ExampleSource, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., size_bytes: _Optional[int] = ..., thumbnail: _Optional[bytes] = ..., prediction_id: _Optional[str] = ..., group: _Optional[str] = ..., sent_sha256: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ExampleFilter(_message.Message):
    __slots__ = ("class_ids", "source", "from_time", "to_time")
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FROM_TIME_FIELD_NUMBER: _ClassVar[int]
    TO_TIME_FIELD_NUMBER: _ClassVar[int]
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    source: ExampleSource
    from_time: _timestamp_pb2.Timestamp
    to_time: _timestamp_pb2.Timestamp
    def __init__(self, class_ids: _Optional[_Iterable[str]] = ..., source: _Optional[_Union[ExampleSource, str]] = ..., from_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., to_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListExamplesRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "thumbnails")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    filter: ExampleFilter
    page_size: int
    page_token: str
    thumbnails: bool
    def __init__(self, filter: _Optional[_Union[ExampleFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., thumbnails: bool = ...) -> None: ...

class ListExamplesResponse(_message.Message):
    __slots__ = ("examples", "next_page_token", "total_by_class")
    class TotalByClassEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BY_CLASS_FIELD_NUMBER: _ClassVar[int]
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    next_page_token: str
    total_by_class: _containers.ScalarMap[str, int]
    def __init__(self, examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_by_class: _Optional[_Mapping[str, int]] = ...) -> None: ...

class UpdateExampleRequest(_message.Message):
    __slots__ = ("example_id", "class_id", "expected_class_id", "reason")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    class_id: str
    expected_class_id: str
    reason: str
    def __init__(self, example_id: _Optional[str] = ..., class_id: _Optional[str] = ..., expected_class_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UpdateExampleResponse(_message.Message):
    __slots__ = ("example",)
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    example: Example
    def __init__(self, example: _Optional[_Union[Example, _Mapping]] = ...) -> None: ...

class DeleteExampleRequest(_message.Message):
    __slots__ = ("example_id", "reason")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    reason: str
    def __init__(self, example_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteExampleResponse(_message.Message):
    __slots__ = ("versions", "running_retraining_ids")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_RETRAINING_IDS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    running_retraining_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., running_retraining_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeletePredictionRequest(_message.Message):
    __slots__ = ("prediction_id", "reason")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    reason: str
    def __init__(self, prediction_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeletePredictionResponse(_message.Message):
    __slots__ = ("example_ids",)
    EXAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    example_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, example_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RetrainingSpec(_message.Message):
    __slots__ = ("warm_start_version", "from_scratch", "examples", "hyperparameters", "launcher", "promote", "gate_policy")
    class HyperparametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WARM_START_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_SCRATCH_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    GATE_POLICY_FIELD_NUMBER: _ClassVar[int]
    warm_start_version: int
    from_scratch: bool
    examples: ExampleFilter
    hyperparameters: _containers.ScalarMap[str, str]
    launcher: str
    promote: bool
    gate_policy: str
    def __init__(self, warm_start_version: _Optional[int] = ..., from_scratch: bool = ..., examples: _Optional[_Union[ExampleFilter, _Mapping]] = ..., hyperparameters: _Optional[_Mapping[str, str]] = ..., launcher: _Optional[str] = ..., promote: bool = ..., gate_policy: _Optional[str] = ...) -> None: ...

class Retraining(_message.Message):
    __slots__ = ("retraining_id", "state", "spec", "create_time", "start_time", "end_time", "last_sequence", "version", "gate", "error", "actor", "examples_by_class", "examples_digest")
    class ExamplesByClassEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RETRAINING_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_BY_CLASS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    retraining_id: str
    state: RetrainingState
    spec: RetrainingSpec
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    last_sequence: int
    version: int
    gate: _model_pb2.GateReport
    error: str
    actor: str
    examples_by_class: _containers.ScalarMap[str, int]
    examples_digest: str
    def __init__(self, retraining_id: _Optional[str] = ..., state: _Optional[_Union[RetrainingState, str]] = ..., spec: _Optional[_Union[RetrainingSpec, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_sequence: _Optional[int] = ..., version: _Optional[int] = ..., gate: _Optional[_Union[_model_pb2.GateReport, _Mapping]] = ..., error: _Optional[str] = ..., actor: _Optional[str] = ..., examples_by_class: _Optional[_Mapping[str, int]] = ..., examples_digest: _Optional[str] = ...) -> None: ...

class StartRetrainingRequest(_message.Message):
    __slots__ = ("spec", "request_id")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    spec: RetrainingSpec
    request_id: str
    def __init__(self, spec: _Optional[_Union[RetrainingSpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class StartRetrainingResponse(_message.Message):
    __slots__ = ("retraining",)
    RETRAINING_FIELD_NUMBER: _ClassVar[int]
    retraining: Retraining
    def __init__(self, retraining: _Optional[_Union[Retraining, _Mapping]] = ...) -> None: ...

class GetRetrainingRequest(_message.Message):
    __slots__ = ("retraining_id",)
    RETRAINING_ID_FIELD_NUMBER: _ClassVar[int]
    retraining_id: str
    def __init__(self, retraining_id: _Optional[str] = ...) -> None: ...

class GetRetrainingResponse(_message.Message):
    __slots__ = ("retraining",)
    RETRAINING_FIELD_NUMBER: _ClassVar[int]
    retraining: Retraining
    def __init__(self, retraining: _Optional[_Union[Retraining, _Mapping]] = ...) -> None: ...

class ListRetrainingsRequest(_message.Message):
    __slots__ = ("state", "page_size", "page_token")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    state: RetrainingState
    page_size: int
    page_token: str
    def __init__(self, state: _Optional[_Union[RetrainingState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRetrainingsResponse(_message.Message):
    __slots__ = ("retrainings", "next_page_token")
    RETRAININGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    retrainings: _containers.RepeatedCompositeFieldContainer[Retraining]
    next_page_token: str
    def __init__(self, retrainings: _Optional[_Iterable[_Union[Retraining, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRetrainingRequest(_message.Message):
    __slots__ = ("retraining_id", "after_sequence")
    RETRAINING_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    retraining_id: str
    after_sequence: int
    def __init__(self, retraining_id: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchRetrainingResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: RetrainingEvent
    def __init__(self, event: _Optional[_Union[RetrainingEvent, _Mapping]] = ...) -> None: ...

class RetrainingEvent(_message.Message):
    __slots__ = ("sequence", "time", "state_change", "phase", "progress", "log")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    state_change: RetrainingStateChange
    phase: RetrainingPhase
    progress: RetrainingProgress
    log: RetrainingLogLine
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state_change: _Optional[_Union[RetrainingStateChange, _Mapping]] = ..., phase: _Optional[_Union[RetrainingPhase, _Mapping]] = ..., progress: _Optional[_Union[RetrainingProgress, _Mapping]] = ..., log: _Optional[_Union[RetrainingLogLine, _Mapping]] = ...) -> None: ...

class RetrainingStateChange(_message.Message):
    __slots__ = ("state", "retraining")
    STATE_FIELD_NUMBER: _ClassVar[int]
    RETRAINING_FIELD_NUMBER: _ClassVar[int]
    state: RetrainingState
    retraining: Retraining
    def __init__(self, state: _Optional[_Union[RetrainingState, str]] = ..., retraining: _Optional[_Union[Retraining, _Mapping]] = ...) -> None: ...

class RetrainingPhase(_message.Message):
    __slots__ = ("name", "total", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    total: int
    unit: str
    def __init__(self, name: _Optional[str] = ..., total: _Optional[int] = ..., unit: _Optional[str] = ...) -> None: ...

class RetrainingProgress(_message.Message):
    __slots__ = ("phase", "step", "total", "epoch", "metrics", "remaining")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    phase: str
    step: int
    total: int
    epoch: int
    metrics: _containers.ScalarMap[str, float]
    remaining: _duration_pb2.Duration
    def __init__(self, phase: _Optional[str] = ..., step: _Optional[int] = ..., total: _Optional[int] = ..., epoch: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RetrainingLogLine(_message.Message):
    __slots__ = ("level", "text")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    level: str
    text: str
    def __init__(self, level: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class CancelRetrainingRequest(_message.Message):
    __slots__ = ("retraining_id", "reason")
    RETRAINING_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    retraining_id: str
    reason: str
    def __init__(self, retraining_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelRetrainingResponse(_message.Message):
    __slots__ = ("retraining",)
    RETRAINING_FIELD_NUMBER: _ClassVar[int]
    retraining: Retraining
    def __init__(self, retraining: _Optional[_Union[Retraining, _Mapping]] = ...) -> None: ...
