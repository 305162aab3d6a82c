"""Protobuf's wire format, where the ready-made parsers are not enough."""

from __future__ import annotations

from .errors import ServingError


def is_cut_short(data: bytes) -> bool:
    """Whether a message that does not parse ends too early, rather than being no message at all.

    The real server reads a model file as a stream, so it reports the end of the file for the one and damage
    for the other. Only the outermost level is looked at: a field that runs past the end is cut short.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag is None:
            return position >= len(data)
        wire_type = tag & 7
        if tag >> 3 == 0 or wire_type not in (0, 1, 2, 5):
            return False
        if wire_type == 0:
            value, position = _varint(data, position)
            if value is None:
                return position >= len(data)
        elif wire_type == 2:
            length, position = _varint(data, position)
            if length is None:
                return position >= len(data)
            position += length
        else:
            position += 8 if wire_type == 1 else 4
    return position > len(data)


def _varint(data: bytes | memoryview, position: int) -> tuple[int | None, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None, position
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return None, position


def submessages(data: memoryview, number: int) -> list[memoryview]:
    """The serialized messages in the field `number` of a message that parses, in order and without a copy.

    Raises:
        ValueError: The message has groups, which nobody writes any more.
    """
    found = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag is None or tag & 7 not in (0, 1, 2, 5):
            raise ValueError("not a sequence of plain fields")
        if tag & 7 == 0:
            _, position = _varint(data, position)
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            end = position + (length or 0)
            if tag >> 3 == number:
                found.append(data[position:end])
            position = end
        else:
            position += 8 if tag & 7 == 1 else 4
    return found


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _length(len(payload)) + payload


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def status_proto(error: ServingError | None) -> bytes:
    """A serialized `StatusProto`, whose text need not be UTF-8.

    The real server puts the raw bytes of a broken warm-up record into it; Python's would refuse.
    """
    if error is None:
        return b""
    text = error.message_bytes
    return bytes([1 << 3]) + _length(error.number) + (_field(2, text) if text else b"")


def version_status(serialized: bytes, status: bytes) -> bytes:
    """A `model_version_status` field of GetModelStatusResponse: a serialized message plus its status."""
    return _field(1, serialized + _field(3, status))
