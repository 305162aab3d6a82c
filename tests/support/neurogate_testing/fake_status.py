"""Errors as the gateway gives them, and changes that happen once, for fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from neurogate.v1 import error_pb2


def status(
    code: grpc.StatusCode, reason: str, message: str, *, retry_after: float | None = None, **metadata: str
) -> status_pb2.Status:
    """A status with the details that the gateway gives its errors."""
    result = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="neurogate", metadata=metadata)
    result.details.add().Pack(info)
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_after * 1000))
        result.details.add().Pack(retry)
    return result


_STATUS = {
    value.name.removeprefix("ERROR_REASON_"): value.GetOptions().Extensions[error_pb2.status]
    for value in error_pb2.ErrorReason.DESCRIPTOR.values
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def refusal(
    reason: str, message: str, *, retry_after: float | None = None, **metadata: str
) -> status_pb2.Status:
    """A status with a reason of the contract, which says its code."""
    return status(_CODES[_STATUS[reason]], reason, message, retry_after=retry_after, **metadata)


def refuse(context: grpc.ServicerContext, reason: str, message: str, **metadata: str) -> None:
    """Ends a call with a reason of the contract."""
    abort(context, refusal(reason, message, **metadata))


def abort(context: grpc.ServicerContext, error: status_pb2.Status) -> None:
    """Ends a call as the gateway does: status, message, and the details in the trailers."""
    context.set_trailing_metadata((("grpc-status-details-bin", error.SerializeToString()),))
    context.abort(_CODES[error.code], error.message)


def once(script: Any, request: Any, context: grpc.ServicerContext, make: Callable[[], Any]) -> Any:
    """Makes a change, or gives its first answer again for a known request_id."""
    if request.request_id in script.first_answers:
        asked, answer = script.first_answers[request.request_id]
        if asked != request:
            refuse(context, "REQUEST_ID_REUSED", "another request had it")
        return answer
    answer = make()
    if request.request_id:
        script.first_answers[request.request_id] = (request, answer)
    if script.lose_answers:
        script.lose_answers -= 1
        refuse(context, "SHUTTING_DOWN", "lost on the way")
    return answer
