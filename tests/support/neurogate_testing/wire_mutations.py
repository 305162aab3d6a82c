"""Ways to break a serialized message, for `request_mutations`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import Descriptor
from neurogate_model_server.wire import write_field, write_varint


def _key(number: int, kind: int) -> bytes:
    return write_varint(number << 3 | kind)


def _place(rng: random.Random, data: bytes) -> int:
    # Lengths and keys are at the beginning, the rest is mostly content.
    return rng.randrange(min(len(data), 64) + 1) if rng.random() < 0.5 else rng.randrange(len(data) + 1)


def _number(rng: random.Random, descriptor: Descriptor) -> int:
    return rng.choice([field.number for field in descriptor.fields] or [1])


def _flip(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    changed = bytearray(data)
    for _times in range(rng.randint(1, 4)):
        if changed:
            changed[min(_place(rng, data), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.randint(1, 12)) + data[place:]


def _delete(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + rng.randint(1, 20) :]


def _cut(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    return data[: _place(rng, data)]


def _double(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    begin, end = sorted((_place(rng, data), _place(rng, data)))
    return data[:end] + data[begin:]


def _wrong_wire_type(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    content = (
        write_varint(rng.getrandbits(64)),
        rng.randbytes(8),
        b"\x03abc",
        b"",
        b"",
        rng.randbytes(4),
        b"",
        b"",
    )
    kind = rng.randrange(8)
    return data + _key(_number(rng, descriptor), kind) + content[kind]


def _unknown_fields(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    return data + b"".join(
        write_field(rng.randrange(100, 2**29), b"?") for _ in range(rng.choice((1, 60, 2000)))
    )


def _no_number(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    return data + rng.choice((b"\x00\x00", b"\x02\x01a", _key(2**29, 0) + b"\0", b"\xff" * 11))


def _repeat_field(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    number = _number(rng, descriptor)
    return data + write_field(number, rng.choice((b"", b"\n\x01a", b"\x08\x01"))) * rng.choice(
        (300, 5000, 200_000)
    )


def _packed(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    return data + write_field(_number(rng, descriptor), b"\x01" * rng.choice((300, 100_000)))


def _nested(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    content = b""
    number = _number(rng, descriptor)
    for _times in range(rng.choice((50, 120, 1000))):
        content = write_field(number, content)
    return data + content


def _groups(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    number, deep = _number(rng, descriptor), rng.choice((1, 90, 5000))
    return data + _key(number, 3) * deep + _key(number, 4) * rng.choice((0, deep))


def _bad_text(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    text = rng.choice((b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"))
    return data + write_field(_number(rng, descriptor), text)


def _huge_length(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    length = rng.choice((2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    return data + _key(_number(rng, descriptor), 2) + write_varint(length) + b"abc"


def _long_varint(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    return data + _key(_number(rng, descriptor), 0) + b"\x80" * rng.choice((5, 9, 10, 20)) + b"\x01"


MUTATIONS: Final[tuple[Callable[[random.Random, bytes, Descriptor], bytes], ...]] = (
    _flip,
    _flip,
    _flip,
    _insert,
    _delete,
    _cut,
    _double,
    _wrong_wire_type,
    _unknown_fields,
    _no_number,
    _repeat_field,
    _packed,
    _nested,
    _groups,
    _bad_text,
    _huge_length,
    _long_varint,
)
