"""What can go wrong, as exceptions that a program can act on.

Catch the branch that says what to do; `BY_REASON` has the exception of each reason:

    NeurogateError
    ├── InvalidRequestError            INVALID_ARGUMENT: the call itself has to change
    │   ├── ImageError                 this image has no answer; others may have
    │   │   ├── ImageEmptyError
    │   │   ├── ImageTooLargeError
    │   │   ├── ImageFormatError
    │   │   ├── ImageCorruptError
    │   │   └── ImageUnreadableError   the file could not be read here; nothing was sent
    │   ├── InvalidOptionError
    │   └── BatchSizeError
    ├── ModelError                     no version can answer as asked
    │   ├── ModelNotFoundError         NOT_FOUND
    │   ├── ModelRejectedError         FAILED_PRECONDITION
    │   └── BackendForeignError        FAILED_PRECONDITION
    ├── ReleaseError                   FAILED_PRECONDITION
    │   └── GateRefusedError
    ├── ReleaseChangedError            ABORTED: read the release again, then decide again
    ├── TrainingError                  FAILED_PRECONDITION
    ├── RecordNotFoundError            NOT_FOUND
    ├── UnavailableError               UNAVAILABLE: try again later (unary calls already were)
    │   ├── ModelNotReadyError
    │   ├── BackendUnavailableError
    │   ├── ModelRetiredError          begin the stream anew
    │   ├── ShuttingDownError
    │   └── GatewayUnreachableError    nothing that speaks for a gateway answered
    ├── OverloadedError                RESOURCE_EXHAUSTED: wait `retry_after` seconds
    ├── MessageTooLargeError           RESOURCE_EXHAUSTED: a message beyond the gateway's limit for messages
    ├── DeadlineExceededError          DEADLINE_EXCEEDED
    ├── CallCancelledError             CANCELLED: or the client was closed
    ├── AccessDeniedError              UNAUTHENTICATED, PERMISSION_DENIED: a proxy in between refused
    ├── InternalError                  INTERNAL
    └── UnexpectedError                any other status, or an answer that breaks the contract

Every one carries `code`, `reason`, `message`, `metadata`, `retry_after` and `field_violations`. A reason that
is newer than this client becomes the general exception of its status.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

_DOMAIN = "neurogate"
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a refused request: its path, e.g. "top_k", and what would be right."""

    field: str
    description: str


class NeurogateError(Exception):
    """A call, or one image of a call, that has no answer.

    Attributes:
        code: canonical status.
        reason: `ErrorInfo.reason`, e.g. "IMAGE_CORRUPT" (`error.proto` lists them); empty when the sender
            gave none.
        message: one sentence for people.
        metadata: `ErrorInfo.metadata`, e.g. the limit that was passed and the value found.
        retry_after: seconds to wait before the next attempt, where the gateway named a time.
        field_violations: fields of the request that were refused.
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.field_violations = field_violations

    def __str__(self) -> str:
        return f"{self.message} [{self.code.name}{' ' + self.reason if self.reason else ''}]"


class InvalidRequestError(NeurogateError):
    """The request was refused for what it says; the same request will be refused again."""

    default_code = StatusCode.INVALID_ARGUMENT


class ImageError(InvalidRequestError):
    """The image cannot be classified."""


class ImageEmptyError(ImageError):
    """The image has no bytes."""


class ImageTooLargeError(ImageError):
    """The encoded image has too many bytes, or its header promises too many pixels."""


class ImageFormatError(ImageError):
    """The bytes are no image, or of a format that the version does not accept."""


class ImageCorruptError(ImageError):
    """The image is truncated or damaged."""


class ImageUnreadableError(ImageError):
    """The file could not be read on this side; nothing was sent. `__cause__` is the `OSError`.

    Its reason, IMAGE_UNREADABLE, is the client's own.
    """


class InvalidOptionError(InvalidRequestError):
    """An option of the call (top_k, version, class, overlay, …) is not acceptable."""


class BatchSizeError(InvalidRequestError):
    """The batch is empty, or larger than one call may be."""


class ModelError(NeurogateError):
    """No version can answer as asked."""


class ModelNotFoundError(ModelError):
    """No such model, version or label."""

    default_code = StatusCode.NOT_FOUND


class ModelRejectedError(ModelError):
    """The gateway rejected the version because its verification failed."""

    default_code = StatusCode.FAILED_PRECONDITION


class BackendForeignError(ModelError):
    """The model servers behind the gateway are not its own; an operator has to mend the addresses."""

    default_code = StatusCode.FAILED_PRECONDITION


class ReleaseError(NeurogateError):
    """The release is not in a state that allows this change."""

    default_code = StatusCode.FAILED_PRECONDITION


class GateRefusedError(ReleaseError):
    """The gate refuses the version; the message and the metadata name the rules that it breaks."""


class ReleaseChangedError(NeurogateError):
    """Somebody else changed the release meanwhile; read it again, then decide again."""

    default_code = StatusCode.ABORTED


class TrainingError(NeurogateError):
    """Examples or retrainings are not in a state that allows this call."""

    default_code = StatusCode.FAILED_PRECONDITION


class RecordNotFoundError(NeurogateError):
    """There is no such prediction, example, retraining or base version."""

    default_code = StatusCode.NOT_FOUND


class UnavailableError(NeurogateError):
    """The service cannot answer now and may later. Unary calls were retried before this was raised."""

    default_code = StatusCode.UNAVAILABLE


class ModelNotReadyError(UnavailableError):
    """No version of the model is READY yet."""


class ModelRetiredError(UnavailableError):
    """The version that a stream began with was unloaded; a new stream gets the label's next one."""


class BackendUnavailableError(UnavailableError):
    """The gateway cannot reach its model server."""


class ShuttingDownError(UnavailableError):
    """The gateway is shutting down."""


class GatewayUnreachableError(UnavailableError):
    """No gateway answered at the target: nothing listens there, or the connection broke."""


class OverloadedError(NeurogateError):
    """The gateway has more work than it admits; wait `retry_after` seconds, then send less at a time."""

    default_code = StatusCode.RESOURCE_EXHAUSTED


class MessageTooLargeError(NeurogateError):
    """A message is beyond the limit for messages of this client or of the gateway."""

    default_code = StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceededError(NeurogateError):
    """No answer within the timeout."""

    default_code = StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(NeurogateError):
    """The call was cancelled, or its client closed, before the answer came."""

    default_code = StatusCode.CANCELLED


class AccessDeniedError(NeurogateError):
    """Something between here and the gateway wants credentials, or others."""

    default_code = StatusCode.PERMISSION_DENIED


class InternalError(NeurogateError):
    """A defect on the gateway's side; its log has the details under the request_id."""

    default_code = StatusCode.INTERNAL


class UnexpectedError(NeurogateError):
    """A status that the contract does not foresee, or an answer that breaks it."""


_REASONS: dict[type[NeurogateError], str] = {
    InvalidRequestError: "REQUEST_MALFORMED",
    ImageEmptyError: "IMAGE_EMPTY",
    ImageTooLargeError: "IMAGE_TOO_LARGE IMAGE_TOO_MANY_PIXELS DECODER_LIMIT_EXCEEDED",
    ImageFormatError: "IMAGE_FORMAT_UNSUPPORTED NOT_MAGNETIC_RESONANCE BURNED_IN_ANNOTATION",
    ImageCorruptError: "IMAGE_CORRUPT",
    InvalidOptionError: (
        "TOP_K_OUT_OF_RANGE FRAME_REQUIRED FRAME_OUT_OF_RANGE REQUEST_ID_INVALID KEY_INVALID "
        "STREAM_CONFIG_NOT_FIRST PAGE_INVALID MODEL_SELECTOR_INVALID CLASS_NOT_FOUND OVERLAY_INVALID "
        "ROUTING_KEY_INVALID REQUEST_ID_REUSED TRAFFIC_SPLIT_INVALID CHANGE_REASON_INVALID "
        "RESUME_TOKEN_INVALID UPLOAD_SEQUENCE_INVALID EXAMPLE_DIGEST_MISMATCH FEEDBACK_INVALID "
        "FILTER_INVALID HYPERPARAMETER_INVALID EXAMPLE_NAME_INVALID GATE_POLICY_INVALID"
    ),
    BatchSizeError: "BATCH_EMPTY BATCH_TOO_LARGE",
    ModelNotFoundError: "MODEL_NOT_FOUND MODEL_VERSION_NOT_FOUND MODEL_LABEL_NOT_FOUND",
    ModelRejectedError: "MODEL_VERSION_REJECTED",
    BackendForeignError: "BACKEND_FOREIGN",
    ReleaseError: "NOTHING_TO_ROLL_BACK RELEASE_NOT_MANAGED MODEL_VERSION_NOT_READY EVALUATION_IMPOSSIBLE",
    GateRefusedError: "GATE_REFUSED",
    ReleaseChangedError: "ETAG_MISMATCH",
    TrainingError: (
        "RECORDS_DISABLED EXAMPLE_CONFLICT EXAMPLES_TOO_FEW RETRAINING_ENDED LAUNCHER_NOT_CONFIGURED"
    ),
    RecordNotFoundError: (
        "EXAMPLE_NOT_FOUND PREDICTION_NOT_FOUND BASE_VERSION_NOT_FOUND RETRAINING_NOT_FOUND"
    ),
    UnavailableError: "RELEASE_UNAVAILABLE RECORDS_UNAVAILABLE",
    ModelNotReadyError: "MODEL_NOT_READY",
    ModelRetiredError: "MODEL_VERSION_RETIRED",
    BackendUnavailableError: "BACKEND_UNAVAILABLE",
    ShuttingDownError: "SHUTTING_DOWN",
    OverloadedError: "OVERLOADED RETRAINING_QUEUE_FULL EXAMPLE_STORE_FULL",
    DeadlineExceededError: "DEADLINE_TOO_SHORT",
    CallCancelledError: "CALL_CANCELLED",
    InternalError: "BACKEND_ANSWER_INVALID INTERNAL",
}

BY_REASON = {reason: kind for kind, reasons in _REASONS.items() for reason in reasons.split()}
"""The exception of each reason in `error.proto`."""

_BY_CODE: dict[StatusCode, type[NeurogateError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    StatusCode.NOT_FOUND: ModelNotFoundError,
    StatusCode.FAILED_PRECONDITION: ModelError,
    StatusCode.ABORTED: ReleaseChangedError,
    StatusCode.UNAVAILABLE: UnavailableError,
    StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.CANCELLED: CallCancelledError,
    StatusCode.UNAUTHENTICATED: AccessDeniedError,
    StatusCode.PERMISSION_DENIED: AccessDeniedError,
    StatusCode.INTERNAL: InternalError,
}

_CODES = {code.value[0]: code for code in StatusCode}


def from_status(status: status_pb2.Status) -> NeurogateError:
    """The exception for a `google.rpc.Status`, as one image of a batch or stream carries it."""
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    has_retry = False
    for detail in status.details:
        # A detail that cannot be read is none; the status itself still says what happened.
        with contextlib.suppress(DecodeError):
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Is(retry.DESCRIPTOR):
                has_retry = detail.Unpack(retry)
            elif detail.Is(bad.DESCRIPTOR):
                detail.Unpack(bad)
    reason = info.reason if info.domain == _DOMAIN else ""
    kind = BY_REASON.get(reason) or _BY_CODE.get(code, UnexpectedError)
    delay = retry.retry_delay
    return kind(
        status.message,
        code=code,
        reason=reason,
        metadata=info.metadata,
        # Not by a timedelta, which cannot hold every duration.
        retry_after=delay.seconds + delay.nanos / 1e9 if has_retry else None,
        field_violations=tuple(FieldViolation(each.field, each.description) for each in bad.field_violations),
    )


def from_rpc_error(error: grpc.RpcError, target: str) -> NeurogateError:
    """The exception for a failed call; `target` is named where no gateway has spoken."""
    code = error.code()
    text = error.details() or ""
    status = _details(error)
    if status is not None and status.code == code.value[0]:
        return from_status(status)
    if code is StatusCode.UNAVAILABLE:
        return GatewayUnreachableError(f"no gateway answers at {target}: {text}")
    if code is StatusCode.UNIMPLEMENTED:
        return UnexpectedError(
            f"what answers at {target} is no Neurogate gateway, or too old for this call (a gateway listens "
            "on port 50051 unless told otherwise; 8500 is the model server's)",
            code=code,
        )
    if code is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"no answer from {target} within the timeout")
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return MessageTooLargeError(
            f"a message is too large for the gateway at {target} or for this client (max_image_bytes): {text}"
        )
    return _BY_CODE.get(code, UnexpectedError)(text or code.name, code=code)


def _details(error: grpc.RpcError) -> status_pb2.Status | None:
    # The two flavours of gRPC have types of their own for metadata; both are pairs.
    pairs = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in pairs:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
