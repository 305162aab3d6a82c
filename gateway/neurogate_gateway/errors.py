"""How the gateway refuses: one exception, whose reason decides its status.

The reasons are those of error.proto, where each has its status and its usual RetryInfo as options.
A reason has a class of its own only where some code catches it by type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypedDict, Unpack, cast

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from neurogate.v1 import error_pb2

DOMAIN: Final = "neurogate"
_PREFIX: Final = "ERROR_REASON_"
_MAX_TEXT: Final = 256
"""Messages travel in trailers, up to three times and percent-encoded, and peers limit those to 8 KiB."""


def _options(name: str) -> dict[int, int]:
    """An option of error.proto by the reason's number."""
    field: Any = error_pb2.DESCRIPTOR.extensions_by_name[name]
    values = error_pb2.ErrorReason.DESCRIPTOR.values
    return {value.number: value.GetOptions().Extensions[field] for value in values}


_STATUS: Final = _options("status")
_RETRY_AFTER_MS: Final = _options("retry_after_ms")


class Details(TypedDict, total=False):
    """What an error may carry beside its reason and its message; see `GatewayError`."""

    field: str
    resource: tuple[str, str] | None
    retry_after: float | None
    metadata: Mapping[str, str] | None


class GatewayError(Exception):
    """A refusal with a reason and what a program needs to act on it.

    Attributes:
        reason: neurogate.v1.ErrorReason.
        code: google.rpc.Code of the status, by the reason.
        message: For people; names what was wrong and what would be right.
        field: Path of the offending request field, for BadRequest.
        resource: Type and name of the missing thing, for ResourceInfo.
        retry_after: Seconds after which to try again, for RetryInfo; where none is given, the reason's own.
        metadata: For ErrorInfo.
    """

    def __init__(
        self,
        reason: error_pb2.ErrorReason,
        message: str,
        *,
        field: str = "",
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = _STATUS[reason]
        self.message = cut(message)
        self.field = field
        self.resource = resource and (resource[0], cut(resource[1]))
        self.retry_after = retry_after or _RETRY_AFTER_MS[reason] / 1000 or None
        self.metadata = {key: cut(value) for key, value in (metadata or {}).items()}

    def reason_name(self) -> str:
        """The reason as ErrorInfo has it, e.g. "IMAGE_EMPTY"."""
        return error_pb2.ErrorReason.Name(self.reason).removeprefix(_PREFIX)

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


def reason_of(name: str) -> error_pb2.ErrorReason:
    """The reason that ErrorInfo calls `name`, e.g. "IMAGE_EMPTY".

    Raises:
        ValueError: error.proto has no such reason.
    """
    return cast("error_pb2.ErrorReason", error_pb2.ErrorReason.Value(_PREFIX + name))


def cut(text: str) -> str:
    """The text, no longer than what fits into an error."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


class _CaughtError(GatewayError):
    """A reason that is caught by type."""

    own_reason: ClassVar[error_pb2.ErrorReason]

    def __init__(self, message: str, **details: Unpack[Details]) -> None:
        super().__init__(self.own_reason, message, **details)


class OverloadedError(_CaughtError):
    """More work is in flight than the gateway admits."""

    own_reason = error_pb2.ERROR_REASON_OVERLOADED


class DeadlineTooShortError(_CaughtError):
    """The call's deadline passed, or is too near for an answer."""

    own_reason = error_pb2.ERROR_REASON_DEADLINE_TOO_SHORT


class BackendUnavailableError(_CaughtError):
    """No model server can be reached."""

    own_reason = error_pb2.ERROR_REASON_BACKEND_UNAVAILABLE


class VersionLostError(BackendUnavailableError):
    """The version that was chosen cannot be reached, and may be another one when it can."""


class InternalError(_CaughtError):
    """A defect of the gateway; the log has the details under the request_id."""

    own_reason = error_pb2.ERROR_REASON_INTERNAL


class BackendAnswerInvalidError(InternalError):
    """The model server answered with something that the version's manifest does not allow."""

    own_reason = error_pb2.ERROR_REASON_BACKEND_ANSWER_INVALID


class EtagMismatchError(_CaughtError):
    """The release has changed since the caller saw it."""

    own_reason = error_pb2.ERROR_REASON_ETAG_MISMATCH


class GateRefusedError(_CaughtError):
    """The gate refuses the version; the metadata names the rules that it breaks."""

    own_reason = error_pb2.ERROR_REASON_GATE_REFUSED


class ReleaseUnavailableError(_CaughtError):
    """The release cannot be read or written now."""

    own_reason = error_pb2.ERROR_REASON_RELEASE_UNAVAILABLE


class EvaluationImpossibleError(_CaughtError):
    """The gateway has no evaluation images, or none that fit the version."""

    own_reason = error_pb2.ERROR_REASON_EVALUATION_IMPOSSIBLE


class RecordsUnavailableError(_CaughtError):
    """The records cannot be read or written now."""

    own_reason = error_pb2.ERROR_REASON_RECORDS_UNAVAILABLE
