"""Protobuf's wire format, where the ready-made parser and writer are not enough."""

from __future__ import annotations

from collections.abc import Iterator


def write_varint(value: int) -> bytes:
    """A number from 0 as protobuf writes it."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """A number, and where it ends.

    Raises:
        EOFError: The data end within it.
        ValueError: It has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise EOFError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")


def write_field(number: int, payload: bytes) -> bytes:
    """A field of bytes, text or a serialized message."""
    return write_varint(number << 3 | 2) + write_varint(len(payload)) + payload


def submessages(data: memoryview, number: int) -> list[memoryview]:
    """The serialized messages in the field `number` of a message that parses, in order and without a copy.

    Raises:
        ValueError: The message has groups, which nobody writes any more.
    """
    return [data[start:end] for tag, start, end in _fields(data) if tag == number << 3 | 2]


def is_cut_short(data: bytes) -> bool:
    """Whether a message that does not parse ends too early, rather than being no message at all.

    Only the outermost level is looked at: a field that runs past the end is cut short.
    """
    try:
        for _ in _fields(data):
            pass
    except EOFError:
        return True
    except ValueError:
        pass
    return False


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Tag, beginning and end of each field; raises as `read_varint`."""
    position = 0
    while position < len(data):
        tag, start = read_varint(data, position)
        kind = tag & 7
        if kind not in (0, 1, 2, 5) or not tag >> 3:
            raise ValueError("not a sequence of plain fields")
        if kind == 2:
            length, start = read_varint(data, start)
            position = start + length
        elif kind == 0:
            _, position = read_varint(data, start)
        else:
            position = start + (8 if kind == 1 else 4)
        if position > len(data):
            raise EOFError
        yield tag, start, position
