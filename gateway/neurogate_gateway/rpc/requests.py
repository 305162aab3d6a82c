"""What every servicer checks and derives from a request."""

from __future__ import annotations

from typing import Final

import grpc.aio
from neurogate.v1 import error_pb2

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import call_record

_LONGEST: Final = 128

Context = grpc.aio.ServicerContext[object, object]


def take_request_id(request_id: str, *, field: str = "request_id") -> str:
    """The caller's request_id, checked and noted for the log.

    Raises:
        GatewayError (REQUEST_ID_INVALID): It is too long, or not printable ASCII.
    """
    if complaint := _complaint("request_id", request_id):
        raise GatewayError(error_pb2.ERROR_REASON_REQUEST_ID_INVALID, complaint, field=field)
    call_record().request_id = request_id
    return request_id


def take_routing_key(routing_key: str, request_id: str, *, field: str = "routing_key") -> str:
    """What decides a caller's side of a traffic split: the routing_key, checked, else the request_id.

    Raises:
        GatewayError (ROUTING_KEY_INVALID): It is too long, or not printable ASCII.
    """
    if complaint := _complaint("routing_key", routing_key):
        raise GatewayError(error_pb2.ERROR_REASON_ROUTING_KEY_INVALID, complaint, field=field)
    return routing_key or request_id


def _complaint(name: str, value: str) -> str:
    if len(value) > _LONGEST:
        return f"{name} has {len(value)} characters, the limit is {_LONGEST}"
    if not (value.isascii() and (not value or value.isprintable())):
        return f"{name} has characters that are not printable ASCII"
    return ""


def deadline_of(context: Context, default_seconds: float) -> Deadline:
    """The call's own deadline, or the default where it brings none."""
    remaining = context.time_remaining()
    return Deadline.after(default_seconds if remaining is None else remaining)
