import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ColorMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_MODE_UNSPECIFIED: _ClassVar[ColorMode]
    COLOR_MODE_RGB: _ClassVar[ColorMode]
    COLOR_MODE_GRAY: _ClassVar[ColorMode]

class Resampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESAMPLING_UNSPECIFIED: _ClassVar[Resampling]
    RESAMPLING_BILINEAR: _ClassVar[Resampling]
    RESAMPLING_BICUBIC: _ClassVar[Resampling]
    RESAMPLING_BOX: _ClassVar[Resampling]
    RESAMPLING_LANCZOS: _ClassVar[Resampling]
COLOR_MODE_UNSPECIFIED: ColorMode
COLOR_MODE_RGB: ColorMode
COLOR_MODE_GRAY: ColorMode
RESAMPLING_UNSPECIFIED: Resampling
RESAMPLING_BILINEAR: Resampling
RESAMPLING_BICUBIC: Resampling
RESAMPLING_BOX: Resampling
RESAMPLING_LANCZOS: Resampling

class ModelManifest(_message.Message):
    __slots__ = ("manifest_revision", "model_name", "version", "created_at", "model_digest", "files", "classes", "transform", "calibration", "thresholds", "metrics", "lineage", "goldens", "notice", "localisation")
    MANIFEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    GOLDENS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    LOCALISATION_FIELD_NUMBER: _ClassVar[int]
    manifest_revision: int
    model_name: str
    version: int
    created_at: _timestamp_pb2.Timestamp
    model_digest: str
    files: _containers.RepeatedCompositeFieldContainer[FileDigest]
    classes: _containers.RepeatedCompositeFieldContainer[ModelClass]
    transform: TransformSpec
    calibration: Calibration
    thresholds: DecisionThresholds
    metrics: EvaluationMetrics
    lineage: Lineage
    goldens: _containers.RepeatedCompositeFieldContainer[Golden]
    notice: str
    localisation: Localisation
    def __init__(self, manifest_revision: _Optional[int] = ..., model_name: _Optional[str] = ..., version: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model_digest: _Optional[str] = ..., files: _Optional[_Iterable[_Union[FileDigest, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[ModelClass, _Mapping]]] = ..., transform: _Optional[_Union[TransformSpec, _Mapping]] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., thresholds: _Optional[_Union[DecisionThresholds, _Mapping]] = ..., metrics: _Optional[_Union[EvaluationMetrics, _Mapping]] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ..., goldens: _Optional[_Iterable[_Union[Golden, _Mapping]]] = ..., notice: _Optional[str] = ..., localisation: _Optional[_Union[Localisation, _Mapping]] = ...) -> None: ...

class FileDigest(_message.Message):
    __slots__ = ("path", "size_bytes", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    sha256: str
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ModelClass(_message.Message):
    __slots__ = ("index", "id", "display_name")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    display_name: str
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., display_name: _Optional[str] = ...) -> None: ...

class TransformSpec(_message.Message):
    __slots__ = ("revision", "width", "height", "color_mode", "resampling", "jpeg_draft", "max_pixels", "formats")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    COLOR_MODE_FIELD_NUMBER: _ClassVar[int]
    RESAMPLING_FIELD_NUMBER: _ClassVar[int]
    JPEG_DRAFT_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    width: int
    height: int
    color_mode: ColorMode
    resampling: Resampling
    jpeg_draft: bool
    max_pixels: int
    formats: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., color_mode: _Optional[_Union[ColorMode, str]] = ..., resampling: _Optional[_Union[Resampling, str]] = ..., jpeg_draft: bool = ..., max_pixels: _Optional[int] = ..., formats: _Optional[_Iterable[str]] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("temperature", "ece_before", "ece_after")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    ECE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ECE_AFTER_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    ece_before: float
    ece_after: float
    def __init__(self, temperature: _Optional[float] = ..., ece_before: _Optional[float] = ..., ece_after: _Optional[float] = ...) -> None: ...

class DecisionThresholds(_message.Message):
    __slots__ = ("abstain_below", "out_of_distribution_above", "ood_method", "target_risk")
    ABSTAIN_BELOW_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_ABOVE_FIELD_NUMBER: _ClassVar[int]
    OOD_METHOD_FIELD_NUMBER: _ClassVar[int]
    TARGET_RISK_FIELD_NUMBER: _ClassVar[int]
    abstain_below: float
    out_of_distribution_above: float
    ood_method: str
    target_risk: float
    def __init__(self, abstain_below: _Optional[float] = ..., out_of_distribution_above: _Optional[float] = ..., ood_method: _Optional[str] = ..., target_risk: _Optional[float] = ...) -> None: ...

class EvaluationMetrics(_message.Message):
    __slots__ = ("support", "accuracy", "macro_f1", "macro_roc_auc", "ece", "per_class", "accuracy_ci_low", "accuracy_ci_high", "ood_auroc")
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    MACRO_F1_FIELD_NUMBER: _ClassVar[int]
    MACRO_ROC_AUC_FIELD_NUMBER: _ClassVar[int]
    ECE_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_CI_LOW_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_CI_HIGH_FIELD_NUMBER: _ClassVar[int]
    OOD_AUROC_FIELD_NUMBER: _ClassVar[int]
    support: int
    accuracy: float
    macro_f1: float
    macro_roc_auc: float
    ece: float
    per_class: _containers.RepeatedCompositeFieldContainer[ClassMetrics]
    accuracy_ci_low: float
    accuracy_ci_high: float
    ood_auroc: float
    def __init__(self, support: _Optional[int] = ..., accuracy: _Optional[float] = ..., macro_f1: _Optional[float] = ..., macro_roc_auc: _Optional[float] = ..., ece: _Optional[float] = ..., per_class: _Optional[_Iterable[_Union[ClassMetrics, _Mapping]]] = ..., accuracy_ci_low: _Optional[float] = ..., accuracy_ci_high: _Optional[float] = ..., ood_auroc: _Optional[float] = ...) -> None: ...

class ClassMetrics(_message.Message):
    __slots__ = ("class_id", "support", "precision", "recall", "f1", "roc_auc")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    F1_FIELD_NUMBER: _ClassVar[int]
    ROC_AUC_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    support: int
    precision: float
    recall: float
    f1: float
    roc_auc: float
    def __init__(self, class_id: _Optional[str] = ..., support: _Optional[int] = ..., precision: _Optional[float] = ..., recall: _Optional[float] = ..., f1: _Optional[float] = ..., roc_auc: _Optional[float] = ...) -> None: ...

class Localisation(_message.Message):
    __slots__ = ("support", "pointing", "strict", "energy", "centre", "head_centre", "brightest_spot", "control", "control_class_id", "deletion_support", "deletion", "random_disc", "per_class")
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    POINTING_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    CENTRE_FIELD_NUMBER: _ClassVar[int]
    HEAD_CENTRE_FIELD_NUMBER: _ClassVar[int]
    BRIGHTEST_SPOT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    CONTROL_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    DELETION_SUPPORT_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DISC_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    support: int
    pointing: Estimate
    strict: Estimate
    energy: Estimate
    centre: Estimate
    head_centre: Estimate
    brightest_spot: Estimate
    control: Estimate
    control_class_id: str
    deletion_support: int
    deletion: Estimate
    random_disc: Estimate
    per_class: _containers.RepeatedCompositeFieldContainer[ClassLocalisation]
    def __init__(self, support: _Optional[int] = ..., pointing: _Optional[_Union[Estimate, _Mapping]] = ..., strict: _Optional[_Union[Estimate, _Mapping]] = ..., energy: _Optional[_Union[Estimate, _Mapping]] = ..., centre: _Optional[_Union[Estimate, _Mapping]] = ..., head_centre: _Optional[_Union[Estimate, _Mapping]] = ..., brightest_spot: _Optional[_Union[Estimate, _Mapping]] = ..., control: _Optional[_Union[Estimate, _Mapping]] = ..., control_class_id: _Optional[str] = ..., deletion_support: _Optional[int] = ..., deletion: _Optional[_Union[Estimate, _Mapping]] = ..., random_disc: _Optional[_Union[Estimate, _Mapping]] = ..., per_class: _Optional[_Iterable[_Union[ClassLocalisation, _Mapping]]] = ...) -> None: ...

class ClassLocalisation(_message.Message):
    __slots__ = ("class_id", "support", "pointing", "strict", "energy", "deletion_support", "deletion", "random_disc")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    POINTING_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    DELETION_SUPPORT_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DISC_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    support: int
    pointing: Estimate
    strict: Estimate
    energy: Estimate
    deletion_support: int
    deletion: Estimate
    random_disc: Estimate
    def __init__(self, class_id: _Optional[str] = ..., support: _Optional[int] = ..., pointing: _Optional[_Union[Estimate, _Mapping]] = ..., strict: _Optional[_Union[Estimate, _Mapping]] = ..., energy: _Optional[_Union[Estimate, _Mapping]] = ..., deletion_support: _Optional[int] = ..., deletion: _Optional[_Union[Estimate, _Mapping]] = ..., random_disc: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Lineage(_message.Message):
    __slots__ = ("run_id", "dataset", "dataset_digest", "splits", "source_commit", "base_weights", "base_weights_digest", "hyperparameters", "packages", "parent_version", "examples_digest", "gate_policy")
    class HyperparametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PackagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    BASE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    BASE_WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    PARENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GATE_POLICY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    dataset: str
    dataset_digest: str
    splits: SplitCounts
    source_commit: str
    base_weights: str
    base_weights_digest: str
    hyperparameters: _containers.ScalarMap[str, str]
    packages: _containers.ScalarMap[str, str]
    parent_version: int
    examples_digest: str
    gate_policy: str
    def __init__(self, run_id: _Optional[str] = ..., dataset: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., splits: _Optional[_Union[SplitCounts, _Mapping]] = ..., source_commit: _Optional[str] = ..., base_weights: _Optional[str] = ..., base_weights_digest: _Optional[str] = ..., hyperparameters: _Optional[_Mapping[str, str]] = ..., packages: _Optional[_Mapping[str, str]] = ..., parent_version: _Optional[int] = ..., examples_digest: _Optional[str] = ..., gate_policy: _Optional[str] = ...) -> None: ...

class SplitCounts(_message.Message):
    __slots__ = ("train", "validation", "test")
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    train: int
    validation: int
    test: int
    def __init__(self, train: _Optional[int] = ..., validation: _Optional[int] = ..., test: _Optional[int] = ...) -> None: ...

class Golden(_message.Message):
    __slots__ = ("name", "image", "pixels_sha256", "probabilities", "tolerance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PIXELS_SHA256_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    image: bytes
    pixels_sha256: str
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    tolerance: float
    def __init__(self, name: _Optional[str] = ..., image: _Optional[bytes] = ..., pixels_sha256: _Optional[str] = ..., probabilities: _Optional[_Iterable[float]] = ..., tolerance: _Optional[float] = ...) -> None: ...
