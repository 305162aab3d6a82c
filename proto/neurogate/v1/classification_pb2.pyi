import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from neurogate.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CONFIDENT: _ClassVar[Verdict]
    VERDICT_ABSTAIN: _ClassVar[Verdict]
    VERDICT_OUT_OF_DISTRIBUTION: _ClassVar[Verdict]

class ColorMap(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_MAP_UNSPECIFIED: _ClassVar[ColorMap]
    COLOR_MAP_JET: _ClassVar[ColorMap]
    COLOR_MAP_VIRIDIS: _ClassVar[ColorMap]
    COLOR_MAP_INFERNO: _ClassVar[ColorMap]
VERDICT_UNSPECIFIED: Verdict
VERDICT_CONFIDENT: Verdict
VERDICT_ABSTAIN: Verdict
VERDICT_OUT_OF_DISTRIBUTION: Verdict
COLOR_MAP_UNSPECIFIED: ColorMap
COLOR_MAP_JET: ColorMap
COLOR_MAP_VIRIDIS: ColorMap
COLOR_MAP_INFERNO: ColorMap

class ClassifyRequest(_message.Message):
    __slots__ = ("image", "model", "top_k", "request_id", "routing_key", "frame")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: _model_pb2.ModelSelector
    top_k: int
    request_id: str
    routing_key: str
    frame: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[_Union[_model_pb2.ModelSelector, _Mapping]] = ..., top_k: _Optional[int] = ..., request_id: _Optional[str] = ..., routing_key: _Optional[str] = ..., frame: _Optional[int] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("classification", "model", "request_id")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    model: _model_pb2.ModelVersionRef
    request_id: str
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelVersionRef, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("scores", "verdict", "prediction_id", "ood_score", "timings")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    OOD_SCORE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[ClassScore]
    verdict: Verdict
    prediction_id: str
    ood_score: float
    timings: Timings
    def __init__(self, scores: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., prediction_id: _Optional[str] = ..., ood_score: _Optional[float] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("class_id", "display_name", "index", "probability")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    display_name: str
    index: int
    probability: float
    def __init__(self, class_id: _Optional[str] = ..., display_name: _Optional[str] = ..., index: _Optional[int] = ..., probability: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "transform", "predict")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    queue: _duration_pb2.Duration
    transform: _duration_pb2.Duration
    predict: _duration_pb2.Duration
    def __init__(self, queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., transform: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., predict: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BatchClassifyRequest(_message.Message):
    __slots__ = ("items", "model", "top_k", "request_id", "routing_key")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[BatchClassifyItem]
    model: _model_pb2.ModelSelector
    top_k: int
    request_id: str
    routing_key: str
    def __init__(self, items: _Optional[_Iterable[_Union[BatchClassifyItem, _Mapping]]] = ..., model: _Optional[_Union[_model_pb2.ModelSelector, _Mapping]] = ..., top_k: _Optional[int] = ..., request_id: _Optional[str] = ..., routing_key: _Optional[str] = ...) -> None: ...

class BatchClassifyItem(_message.Message):
    __slots__ = ("image", "frame")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    frame: int
    def __init__(self, image: _Optional[bytes] = ..., frame: _Optional[int] = ...) -> None: ...

class BatchClassifyResponse(_message.Message):
    __slots__ = ("results", "model", "request_id")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchClassifyResult]
    model: _model_pb2.ModelVersionRef
    request_id: str
    def __init__(self, results: _Optional[_Iterable[_Union[BatchClassifyResult, _Mapping]]] = ..., model: _Optional[_Union[_model_pb2.ModelVersionRef, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class BatchClassifyResult(_message.Message):
    __slots__ = ("classification", "error")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    error: _status_pb2.Status
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class StreamClassifyRequest(_message.Message):
    __slots__ = ("config", "key", "image", "frame")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    config: StreamClassifyConfig
    key: str
    image: bytes
    frame: int
    def __init__(self, config: _Optional[_Union[StreamClassifyConfig, _Mapping]] = ..., key: _Optional[str] = ..., image: _Optional[bytes] = ..., frame: _Optional[int] = ...) -> None: ...

class StreamClassifyConfig(_message.Message):
    __slots__ = ("model", "top_k", "allow_out_of_order", "request_id", "routing_key")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ALLOW_OUT_OF_ORDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelSelector
    top_k: int
    allow_out_of_order: bool
    request_id: str
    routing_key: str
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelSelector, _Mapping]] = ..., top_k: _Optional[int] = ..., allow_out_of_order: bool = ..., request_id: _Optional[str] = ..., routing_key: _Optional[str] = ...) -> None: ...

class StreamClassifyResponse(_message.Message):
    __slots__ = ("key", "classification", "error", "model")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    key: str
    classification: Classification
    error: _status_pb2.Status
    model: _model_pb2.ModelVersionRef
    def __init__(self, key: _Optional[str] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelVersionRef, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("image", "model", "class_id", "overlay", "request_id", "routing_key", "frame")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: _model_pb2.ModelSelector
    class_id: str
    overlay: OverlayOptions
    request_id: str
    routing_key: str
    frame: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[_Union[_model_pb2.ModelSelector, _Mapping]] = ..., class_id: _Optional[str] = ..., overlay: _Optional[_Union[OverlayOptions, _Mapping]] = ..., request_id: _Optional[str] = ..., routing_key: _Optional[str] = ..., frame: _Optional[int] = ...) -> None: ...

class OverlayOptions(_message.Message):
    __slots__ = ("color_map", "alpha", "max_side")
    COLOR_MAP_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    color_map: ColorMap
    alpha: float
    max_side: int
    def __init__(self, color_map: _Optional[_Union[ColorMap, str]] = ..., alpha: _Optional[float] = ..., max_side: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("classification", "class_id", "map", "overlay_png", "model", "request_id", "map_caution")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_PNG_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MAP_CAUTION_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    class_id: str
    map: ClassActivationMap
    overlay_png: bytes
    model: _model_pb2.ModelVersionRef
    request_id: str
    map_caution: str
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., class_id: _Optional[str] = ..., map: _Optional[_Union[ClassActivationMap, _Mapping]] = ..., overlay_png: _Optional[bytes] = ..., model: _Optional[_Union[_model_pb2.ModelVersionRef, _Mapping]] = ..., request_id: _Optional[str] = ..., map_caution: _Optional[str] = ...) -> None: ...

class ClassActivationMap(_message.Message):
    __slots__ = ("height", "width", "values")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...
