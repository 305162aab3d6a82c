"""Every way in which the gateway refuses, as one tree of exceptions.

    GatewayError
    ├── InvalidArgumentError    INVALID_ARGUMENT     the request can never succeed as it is
    ├── NotFoundError           NOT_FOUND            it names something that is not here
    ├── PreconditionError       FAILED_PRECONDITION  it names something that may not be used
    ├── AbortedError            ABORTED              it met another change; read again, then decide again
    ├── ExhaustedError          RESOURCE_EXHAUSTED   too much at once; RetryInfo may say when to return
    ├── DeadlineTooShortError   DEADLINE_EXCEEDED    too late, or about to be
    ├── CallCancelledError      CANCELLED            the caller has gone
    ├── UnavailableError        UNAVAILABLE          the only status that is for automatic retry
    └── InternalError           INTERNAL             not the caller's fault; the log has the details

A leaf carries one reason of error.proto, its branch the status. `TABLE` is put together from the leaves, and
held to error.proto and docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from neurogate.v1 import error_pb2

DOMAIN: Final = "neurogate"
_PREFIX: Final = "ERROR_REASON_"
_LONGEST_TEXT: Final = 256
"""Messages travel in trailers, up to three times and percent-encoded, and peers limit those to 8 KiB."""


class GatewayError(Exception):
    """A refusal with a status, a reason and what a program needs to act on it.

    Attributes:
        code: google.rpc.Code of the status.
        reason: neurogate.v1.ErrorReason.
        message: For people; names what was wrong and what would be right.
        field: Path of the offending request field, for BadRequest.
        resource: Type and name of the missing thing, for ResourceInfo.
        retry_after: Seconds after which to try again, for RetryInfo.
        metadata: For ErrorInfo.
    """

    code: ClassVar[code_pb2.Code]
    reason: ClassVar[error_pb2.ErrorReason]
    usual_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = cut(message)
        self.field = field
        self.resource = resource and (resource[0], cut(resource[1]))
        self.retry_after = self.usual_retry_after if retry_after is None else retry_after
        self.metadata = {key: cut(value) for key, value in (metadata or {}).items()}

    @classmethod
    def reason_name(cls) -> str:
        """The reason as ErrorInfo has it, e.g. "IMAGE_EMPTY"."""
        return error_pb2.ErrorReason.Name(cls.reason).removeprefix(_PREFIX)

    def to_status(self) -> status_pb2.Status:
        """The error as google.rpc.Status, ErrorInfo first."""
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason_name(), domain=DOMAIN, metadata=self.metadata)
        ]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.resource is not None:
            kind, name = self.resource
            details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(max(1, round(self.retry_after * 1000)))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code, message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


class InvalidArgumentError(GatewayError):
    """The request can never succeed as it is."""

    code = code_pb2.INVALID_ARGUMENT


class ImageEmptyError(InvalidArgumentError):
    """The image has no bytes."""

    reason = error_pb2.ERROR_REASON_IMAGE_EMPTY


class ImageTooLargeError(InvalidArgumentError):
    """The encoded image is larger than the gateway's limit."""

    reason = error_pb2.ERROR_REASON_IMAGE_TOO_LARGE


class ImageTooManyPixelsError(InvalidArgumentError):
    """The header promises more pixels than the version's transform accepts."""

    reason = error_pb2.ERROR_REASON_IMAGE_TOO_MANY_PIXELS


class ImageFormatUnsupportedError(InvalidArgumentError):
    """Not an image, or of a format that the version does not accept."""

    reason = error_pb2.ERROR_REASON_IMAGE_FORMAT_UNSUPPORTED


class ImageCorruptError(InvalidArgumentError):
    """The image is truncated or damaged."""

    reason = error_pb2.ERROR_REASON_IMAGE_CORRUPT


class FrameRequiredError(InvalidArgumentError):
    """The DICOM file has several frames, and none is named."""

    reason = error_pb2.ERROR_REASON_FRAME_REQUIRED


class FrameOutOfRangeError(InvalidArgumentError):
    """frame is negative, or the image has fewer."""

    reason = error_pb2.ERROR_REASON_FRAME_OUT_OF_RANGE


class NotMagneticResonanceError(InvalidArgumentError):
    """The DICOM object is no MR image."""

    reason = error_pb2.ERROR_REASON_NOT_MAGNETIC_RESONANCE


class BurnedInAnnotationError(InvalidArgumentError):
    """The DICOM file says that a person's data are drawn into its pixels."""

    reason = error_pb2.ERROR_REASON_BURNED_IN_ANNOTATION


class DecoderLimitExceededError(InvalidArgumentError):
    """Decoding takes more memory or time than an image is given."""

    reason = error_pb2.ERROR_REASON_DECODER_LIMIT_EXCEEDED


class TopKOutOfRangeError(InvalidArgumentError):
    """top_k is negative or larger than the number of classes."""

    reason = error_pb2.ERROR_REASON_TOP_K_OUT_OF_RANGE


class RequestIdInvalidError(InvalidArgumentError):
    """request_id is too long or not printable ASCII."""

    reason = error_pb2.ERROR_REASON_REQUEST_ID_INVALID


class KeyInvalidError(InvalidArgumentError):
    """A stream's key is too long."""

    reason = error_pb2.ERROR_REASON_KEY_INVALID


class BatchEmptyError(InvalidArgumentError):
    """The batch has no items."""

    reason = error_pb2.ERROR_REASON_BATCH_EMPTY


class BatchTooLargeError(InvalidArgumentError):
    """The batch has more items than the gateway's limit."""

    reason = error_pb2.ERROR_REASON_BATCH_TOO_LARGE


class StreamConfigNotFirstError(InvalidArgumentError):
    """A stream carried its configuration after the first message."""

    reason = error_pb2.ERROR_REASON_STREAM_CONFIG_NOT_FIRST


class PageInvalidError(InvalidArgumentError):
    """page_size is negative or page_token is not one of ours."""

    reason = error_pb2.ERROR_REASON_PAGE_INVALID


class ModelSelectorInvalidError(InvalidArgumentError):
    """A model selector names a version below 1 or an empty label."""

    reason = error_pb2.ERROR_REASON_MODEL_SELECTOR_INVALID


class ClassNotFoundError(InvalidArgumentError):
    """class_id is not a class of the version."""

    reason = error_pb2.ERROR_REASON_CLASS_NOT_FOUND


class OverlayInvalidError(InvalidArgumentError):
    """An overlay option is out of its range."""

    reason = error_pb2.ERROR_REASON_OVERLAY_INVALID


class RequestMalformedError(InvalidArgumentError):
    """The request's bytes are not the message that the method takes."""

    reason = error_pb2.ERROR_REASON_REQUEST_MALFORMED


class NotFoundError(GatewayError):
    """The request names something that is not here."""

    code = code_pb2.NOT_FOUND


class ModelNotFoundError(NotFoundError):
    """No model of that name is served here."""

    reason = error_pb2.ERROR_REASON_MODEL_NOT_FOUND


class ModelVersionNotFoundError(NotFoundError):
    """The model has no such version that may answer."""

    reason = error_pb2.ERROR_REASON_MODEL_VERSION_NOT_FOUND


class ModelLabelNotFoundError(NotFoundError):
    """The model has no such label."""

    reason = error_pb2.ERROR_REASON_MODEL_LABEL_NOT_FOUND


class PreconditionError(GatewayError):
    """The request names something that may not be used."""

    code = code_pb2.FAILED_PRECONDITION


class ModelVersionRejectedError(PreconditionError):
    """The version was refused by the model server or by the gateway."""

    reason = error_pb2.ERROR_REASON_MODEL_VERSION_REJECTED


class BackendForeignError(PreconditionError):
    """Every model server that can be reached is somebody else's."""

    reason = error_pb2.ERROR_REASON_BACKEND_FOREIGN


class AbortedError(GatewayError):
    """The request met another change."""

    code = code_pb2.ABORTED


class ExhaustedError(GatewayError):
    """Too much at once."""

    code = code_pb2.RESOURCE_EXHAUSTED


class OverloadedError(ExhaustedError):
    """More work is in flight than the gateway admits."""

    reason = error_pb2.ERROR_REASON_OVERLOADED


class DeadlineTooShortError(GatewayError):
    """The call's deadline passed, or is too near for an answer."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = error_pb2.ERROR_REASON_DEADLINE_TOO_SHORT


class CallCancelledError(GatewayError):
    """The caller has gone."""

    code = code_pb2.CANCELLED
    reason = error_pb2.ERROR_REASON_CALL_CANCELLED


class UnavailableError(GatewayError):
    """Not now, but the same request may succeed later or elsewhere."""

    code = code_pb2.UNAVAILABLE


class ModelNotReadyError(UnavailableError):
    """No version of the model is READY yet."""

    usual_retry_after = 0.5
    reason = error_pb2.ERROR_REASON_MODEL_NOT_READY


class BackendUnavailableError(UnavailableError):
    """No model server can be reached."""

    usual_retry_after = 0.5
    reason = error_pb2.ERROR_REASON_BACKEND_UNAVAILABLE


class VersionLostError(BackendUnavailableError):
    """The version that was chosen cannot be reached, and may be another one when it can."""


class ModelVersionRetiredError(UnavailableError):
    """The version that a stream began with was unloaded."""

    reason = error_pb2.ERROR_REASON_MODEL_VERSION_RETIRED


class ShuttingDownError(UnavailableError):
    """The gateway is shutting down."""

    reason = error_pb2.ERROR_REASON_SHUTTING_DOWN


class InternalError(GatewayError):
    """A defect of the gateway; the log has the details under the request_id."""

    code = code_pb2.INTERNAL
    reason = error_pb2.ERROR_REASON_INTERNAL


class BackendAnswerInvalidError(InternalError):
    """The model server answered with something that the version's manifest does not allow."""

    reason = error_pb2.ERROR_REASON_BACKEND_ANSWER_INVALID


def cut(text: str) -> str:
    """The text, no longer than what fits into an error."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


class RoutingKeyInvalidError(InvalidArgumentError):
    """Routing_key is longer than 128 characters or not printable ASCII."""

    reason = error_pb2.ERROR_REASON_ROUTING_KEY_INVALID


class EtagMismatchError(AbortedError):
    """The release has changed since the caller saw it; read it again."""

    reason = error_pb2.ERROR_REASON_ETAG_MISMATCH


class RequestIdReusedError(InvalidArgumentError):
    """The request_id belongs to an earlier call that asked for something else."""

    reason = error_pb2.ERROR_REASON_REQUEST_ID_REUSED


class GateRefusedError(PreconditionError):
    """The gate refuses the version; the metadata names the rules that it breaks."""

    reason = error_pb2.ERROR_REASON_GATE_REFUSED


class NothingToRollBackError(PreconditionError):
    """There is no "previous" version to go back to."""

    reason = error_pb2.ERROR_REASON_NOTHING_TO_ROLL_BACK


class ReleaseNotManagedError(PreconditionError):
    """This gateway does not manage the release (mode "latest", or no repository)."""

    reason = error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED


class TrafficSplitInvalidError(InvalidArgumentError):
    """A share is out of its range, or does not fit the versions named."""

    reason = error_pb2.ERROR_REASON_TRAFFIC_SPLIT_INVALID


class ModelVersionNotReadyError(PreconditionError):
    """The version exists but is not READY, so that nobody can be moved to it."""

    reason = error_pb2.ERROR_REASON_MODEL_VERSION_NOT_READY


class ChangeReasonInvalidError(InvalidArgumentError):
    """The reason given for a change is too long or not printable."""

    reason = error_pb2.ERROR_REASON_CHANGE_REASON_INVALID


class ReleaseUnavailableError(UnavailableError):
    """The release cannot be read or written now."""

    usual_retry_after = 1.0
    reason = error_pb2.ERROR_REASON_RELEASE_UNAVAILABLE


class EvaluationImpossibleError(PreconditionError):
    """The gateway has no evaluation images, or none that fit the version."""

    reason = error_pb2.ERROR_REASON_EVALUATION_IMPOSSIBLE


class ResumeTokenInvalidError(InvalidArgumentError):
    """The resume_token was not issued by this service."""

    reason = error_pb2.ERROR_REASON_RESUME_TOKEN_INVALID


class RecordsDisabledError(PreconditionError):
    """This gateway keeps no records, so it takes no examples and starts no retraining."""

    reason = error_pb2.ERROR_REASON_RECORDS_DISABLED


class RecordsUnavailableError(UnavailableError):
    """The records cannot be read or written now."""

    reason = error_pb2.ERROR_REASON_RECORDS_UNAVAILABLE


class UploadSequenceInvalidError(InvalidArgumentError):
    """An upload's messages are out of order: image and chunks mixed, or a chunk too many."""

    reason = error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID


class ExampleDigestMismatchError(InvalidArgumentError):
    """An example's bytes do not have the digest that the caller gave."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_DIGEST_MISMATCH


class ExampleConflictError(PreconditionError):
    """The image is kept under another class already."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_CONFLICT


class ExampleNotFoundError(NotFoundError):
    """There is no example of that id, or it was erased."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND


class PredictionNotFoundError(NotFoundError):
    """There is no prediction of that id, or it is not kept any longer."""

    reason = error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND


class FeedbackInvalidError(InvalidArgumentError):
    """Feedback names both a class and "not an MRI", or neither."""

    reason = error_pb2.ERROR_REASON_FEEDBACK_INVALID


class FilterInvalidError(InvalidArgumentError):
    """A filter does not make sense."""

    reason = error_pb2.ERROR_REASON_FILTER_INVALID


class ExamplesTooFewError(PreconditionError):
    """A class has fewer examples than a retraining needs; the metadata counts them."""

    reason = error_pb2.ERROR_REASON_EXAMPLES_TOO_FEW


class HyperparameterInvalidError(InvalidArgumentError):
    """A hyper-parameter is unknown or out of its range."""

    reason = error_pb2.ERROR_REASON_HYPERPARAMETER_INVALID


class BaseVersionNotFoundError(NotFoundError):
    """The version that a retraining was to start from is not in the repository."""

    reason = error_pb2.ERROR_REASON_BASE_VERSION_NOT_FOUND


class RetrainingNotFoundError(NotFoundError):
    """There is no retraining of that id."""

    reason = error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND


class RetrainingEndedError(PreconditionError):
    """The retraining has ended."""

    reason = error_pb2.ERROR_REASON_RETRAINING_ENDED


class LauncherNotConfiguredError(PreconditionError):
    """The launcher is not configured on this gateway."""

    reason = error_pb2.ERROR_REASON_LAUNCHER_NOT_CONFIGURED


class RetrainingQueueFullError(ExhaustedError):
    """Too many retrainings wait already."""

    reason = error_pb2.ERROR_REASON_RETRAINING_QUEUE_FULL


class ExampleNameInvalidError(InvalidArgumentError):
    """The group of an example is too long or not printable."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_NAME_INVALID


class ExampleStoreFullError(ExhaustedError):
    """The store of images is full."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_STORE_FULL


class GatePolicyInvalidError(InvalidArgumentError):
    """A retraining's gate policy is not TOML, or has a key or a value that is not right."""

    reason = error_pb2.ERROR_REASON_GATE_POLICY_INVALID


TABLE: Final[Mapping[str, type[GatewayError]]] = {
    leaf.reason_name(): leaf
    for leaf in tuple(globals().values())
    if isinstance(leaf, type) and issubclass(leaf, GatewayError) and "reason" in vars(leaf)
}
"""Exception, and by it the status, of every reason that the contract names."""
