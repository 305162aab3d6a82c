"""How changes of the release are refused; leaves of the tree in `errors`."""

from __future__ import annotations

from neurogate.v1 import error_pb2

from .errors import AbortedError, InvalidArgumentError, PreconditionError, UnavailableError


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
