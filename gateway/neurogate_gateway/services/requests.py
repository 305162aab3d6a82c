"""What every servicer checks and derives from a request."""

from __future__ import annotations

from typing import Final

import grpc.aio

from neurogate_gateway.admission import Deadline
from neurogate_gateway.errors import RequestIdInvalidError
from neurogate_gateway.telemetry import call_record

_LONGEST_REQUEST_ID: Final = 128

Context = grpc.aio.ServicerContext[object, object]


def take_request_id(request_id: str, *, field: str = "request_id") -> str:
    """The caller's request_id, checked and noted for the log.

    Raises:
        RequestIdInvalidError: It is too long, or not printable ASCII.
    """
    if len(request_id) > _LONGEST_REQUEST_ID:
        raise RequestIdInvalidError(
            f"request_id has {len(request_id)} characters, the limit is {_LONGEST_REQUEST_ID}", field=field
        )
    if not (request_id.isascii() and (not request_id or request_id.isprintable())):
        raise RequestIdInvalidError("request_id has characters that are not printable ASCII", field=field)
    call_record().request_id = request_id
    return request_id


def deadline_of(context: Context, default_seconds: float) -> Deadline:
    """The call's own deadline, or the default where it brings none."""
    remaining = context.time_remaining()
    return Deadline.after(default_seconds if remaining is None else remaining)
