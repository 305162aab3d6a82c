"""Errors as the gateway gives them, for fakes."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2


def status(
    code: grpc.StatusCode, reason: str, message: str, *, retry_after: float | None = None, **metadata: str
) -> status_pb2.Status:
    """A status with the details that the gateway gives its errors."""
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="neurogate", metadata=metadata)]
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def abort(context: grpc.ServicerContext, error: status_pb2.Status) -> None:
    """Ends a call as the gateway does: status, message, and the details in the trailers."""
    context.set_trailing_metadata((("grpc-status-details-bin", error.SerializeToString()),))
    code = next(each for each in grpc.StatusCode if each.value[0] == error.code)
    context.abort(code, error.message)
