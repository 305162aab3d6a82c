"""Counts a message's fields before it is parsed.

Parsing makes an object of every element of a repeated field, and an element may be two bytes: a message
within all size limits can become millions of objects and stop the loop for seconds. Counting stops at the
limit.
"""

from __future__ import annotations

from typing import Final

from neurogate.v1 import error_pb2

from neurogate_gateway.errors import GatewayError

_OTHER_FIELDS: Final = 64
"""Far more than the contract has, so that newer callers' fields pass."""


def limit_repeated(raw: bytes, field: int, max_elements: int) -> None:
    """Refuses a serialized message with too many elements of one repeated field.

    Args:
        raw: The message.
        field: Number of the field.
        max_elements: How many are accepted.

    Raises:
        GatewayError (BATCH_TOO_LARGE): There are more.
        GatewayError (REQUEST_MALFORMED): The bytes are no message of proto3, or have too many other fields.
    """
    position, items, others = 0, 0, 0
    try:
        while position < len(raw):
            tag, position = _varint(raw, position)
            match tag & 7:
                case 0:
                    _, position = _varint(raw, position)
                case 1:
                    position += 8
                case 2:
                    length, position = _varint(raw, position)
                    position += length
                case 5:
                    position += 4
                case _:
                    raise _malformed("the request has groups, which no message of proto3 has")
            if tag >> 3 == field:
                items += 1
            else:
                others += 1
            if items > max_elements:
                raise GatewayError(
                    error_pb2.ERROR_REASON_BATCH_TOO_LARGE,
                    f"the batch has more items than the limit of {max_elements}",
                    field="items",
                    metadata={"max_batch_items": str(max_elements)},
                )
            if others > _OTHER_FIELDS:
                raise _malformed(f"the request has more than {_OTHER_FIELDS} fields beside its items")
    except IndexError:
        raise _malformed("the request ends in the middle of a field") from None


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _malformed("a number in the request is longer than any can be")


def _malformed(message: str) -> GatewayError:
    return GatewayError(error_pb2.ERROR_REASON_REQUEST_MALFORMED, message)
