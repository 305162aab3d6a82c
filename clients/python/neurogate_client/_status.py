"""From a gRPC status to the exception that says the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from . import errors
from .errors import FieldViolation, NeurogateError

DOMAIN = "neurogate"
"""`ErrorInfo.domain` of the gateway's own errors."""

_DETAILS_KEY = "grpc-status-details-bin"

# Every value of ErrorReason, without its prefix; a test compares with error.proto.
BY_REASON: dict[str, type[NeurogateError]] = {
    "IMAGE_EMPTY": errors.ImageEmptyError,
    "IMAGE_TOO_LARGE": errors.ImageTooLargeError,
    "IMAGE_TOO_MANY_PIXELS": errors.ImageTooLargeError,
    "IMAGE_FORMAT_UNSUPPORTED": errors.ImageFormatError,
    "IMAGE_CORRUPT": errors.ImageCorruptError,
    "NOT_MAGNETIC_RESONANCE": errors.ImageFormatError,
    "BURNED_IN_ANNOTATION": errors.ImageFormatError,
    "DECODER_LIMIT_EXCEEDED": errors.ImageTooLargeError,
    "TOP_K_OUT_OF_RANGE": errors.InvalidOptionError,
    "FRAME_REQUIRED": errors.InvalidOptionError,
    "FRAME_OUT_OF_RANGE": errors.InvalidOptionError,
    "REQUEST_ID_INVALID": errors.InvalidOptionError,
    "KEY_INVALID": errors.InvalidOptionError,
    "BATCH_EMPTY": errors.BatchSizeError,
    "BATCH_TOO_LARGE": errors.BatchSizeError,
    "REQUEST_MALFORMED": errors.InvalidRequestError,
    "STREAM_CONFIG_NOT_FIRST": errors.InvalidOptionError,
    "MODEL_NOT_FOUND": errors.ModelNotFoundError,
    "MODEL_VERSION_NOT_FOUND": errors.ModelNotFoundError,
    "MODEL_LABEL_NOT_FOUND": errors.ModelNotFoundError,
    "MODEL_VERSION_REJECTED": errors.ModelRejectedError,
    "BACKEND_FOREIGN": errors.BackendForeignError,
    "MODEL_NOT_READY": errors.ModelNotReadyError,
    "MODEL_VERSION_RETIRED": errors.ModelRetiredError,
    "BACKEND_UNAVAILABLE": errors.BackendUnavailableError,
    "OVERLOADED": errors.OverloadedError,
    "DEADLINE_TOO_SHORT": errors.DeadlineExceededError,
    "CALL_CANCELLED": errors.CallCancelledError,
    "SHUTTING_DOWN": errors.ShuttingDownError,
    "BACKEND_ANSWER_INVALID": errors.InternalError,
    "INTERNAL": errors.InternalError,
    "PAGE_INVALID": errors.InvalidOptionError,
    "MODEL_SELECTOR_INVALID": errors.InvalidOptionError,
    "CLASS_NOT_FOUND": errors.InvalidOptionError,
    "OVERLAY_INVALID": errors.InvalidOptionError,
    "ROUTING_KEY_INVALID": errors.InvalidOptionError,
    "ETAG_MISMATCH": errors.ReleaseChangedError,
    "REQUEST_ID_REUSED": errors.InvalidOptionError,
    "GATE_REFUSED": errors.GateRefusedError,
    "NOTHING_TO_ROLL_BACK": errors.ReleaseError,
    "RELEASE_NOT_MANAGED": errors.ReleaseError,
    "TRAFFIC_SPLIT_INVALID": errors.InvalidOptionError,
    "MODEL_VERSION_NOT_READY": errors.ReleaseError,
    "CHANGE_REASON_INVALID": errors.InvalidOptionError,
    "RELEASE_UNAVAILABLE": errors.UnavailableError,
    "EVALUATION_IMPOSSIBLE": errors.ReleaseError,
    "RESUME_TOKEN_INVALID": errors.InvalidOptionError,
    "RECORDS_DISABLED": errors.TrainingError,
    "RECORDS_UNAVAILABLE": errors.UnavailableError,
    "UPLOAD_SEQUENCE_INVALID": errors.InvalidOptionError,
    "EXAMPLE_DIGEST_MISMATCH": errors.InvalidOptionError,
    "EXAMPLE_CONFLICT": errors.TrainingError,
    "EXAMPLE_NOT_FOUND": errors.RecordNotFoundError,
    "PREDICTION_NOT_FOUND": errors.RecordNotFoundError,
    "FEEDBACK_INVALID": errors.InvalidOptionError,
    "FILTER_INVALID": errors.InvalidOptionError,
    "EXAMPLES_TOO_FEW": errors.TrainingError,
    "HYPERPARAMETER_INVALID": errors.InvalidOptionError,
    "BASE_VERSION_NOT_FOUND": errors.RecordNotFoundError,
    "RETRAINING_NOT_FOUND": errors.RecordNotFoundError,
    "RETRAINING_ENDED": errors.TrainingError,
    "LAUNCHER_NOT_CONFIGURED": errors.TrainingError,
    "RETRAINING_QUEUE_FULL": errors.OverloadedError,
    "EXAMPLE_NAME_INVALID": errors.InvalidOptionError,
    "EXAMPLE_STORE_FULL": errors.OverloadedError,
    "GATE_POLICY_INVALID": errors.InvalidOptionError,
}

_BY_CODE: dict[StatusCode, type[NeurogateError]] = {
    StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    StatusCode.NOT_FOUND: errors.ModelNotFoundError,
    StatusCode.FAILED_PRECONDITION: errors.ModelError,
    StatusCode.ABORTED: errors.ReleaseChangedError,
    StatusCode.UNAVAILABLE: errors.UnavailableError,
    StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    StatusCode.CANCELLED: errors.CallCancelledError,
    StatusCode.UNAUTHENTICATED: errors.AccessDeniedError,
    StatusCode.PERMISSION_DENIED: errors.AccessDeniedError,
    StatusCode.INTERNAL: errors.InternalError,
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
    reason = info.reason if info.domain == DOMAIN else ""
    kind = BY_REASON.get(reason) or _BY_CODE.get(code, errors.UnexpectedError)
    return kind(
        status.message,
        code=code,
        reason=reason,
        metadata=info.metadata,
        retry_after=seconds(retry.retry_delay) if has_retry else None,
        field_violations=tuple(FieldViolation(each.field, each.description) for each in bad.field_violations),
    )


def seconds(duration: duration_pb2.Duration) -> float:
    """A duration as seconds; also one that a `timedelta` cannot hold."""
    return duration.seconds + duration.nanos / 1e9


def from_rpc_error(error: grpc.RpcError, target: str) -> NeurogateError:
    """The exception for a failed call; `target` is named where no gateway has spoken."""
    code = error.code()
    text = error.details() or ""
    status = _details(error)
    if status is not None and status.code == code.value[0]:
        return from_status(status)
    if code is StatusCode.UNAVAILABLE:
        return errors.GatewayUnreachableError(f"no gateway answers at {target}: {text}")
    if code is StatusCode.UNIMPLEMENTED:
        return errors.UnexpectedError(
            f"what answers at {target} is no Neurogate gateway, or too old for this call (a gateway listens "
            "on port 50051 unless told otherwise; 8500 is the model server's)",
            code=code,
        )
    if code is StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(f"no answer from {target} within the timeout")
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return errors.MessageTooLargeError(
            f"a message is too large for the gateway at {target} or for this client (max_image_bytes): {text}"
        )
    return _BY_CODE.get(code, errors.UnexpectedError)(text or code.name, code=code)


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
