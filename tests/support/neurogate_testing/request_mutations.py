"""Requests of any message type: whole, strange, and broken on the wire.

Made from descriptors alone, so a message or a field that is added is fuzzed without a change here. A request
is a function of random numbers and of what earlier answers held: identifiers and page tokens come back in
requests, so that what needs an identifier is reached too.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_MOST_KNOWN: Final = 100
_DEEPEST: Final = 6
_TEXTS: Final = (
    "",
    "\0",
    " ",
    "a\nb",
    "\u202e\U0001f9e0",
    "../../etc/passwd",
    "%s%n{0}",
    "'; DROP TABLE examples; --",
    "-1",
    "9" * 30,
    "x" * 129,
    "y" * 5000,
    "[gate]\nmin_accuracy = 0.5\n",
    "[gate\n",
)
_WHOLE: Final = (
    0,
    1,
    2,
    3,
    7,
    50,
    -1,
    -2,
    255,
    65_536,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
_REAL: Final = (0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 1e-30, 1e38, 1e308, float("nan"), float("inf"), float("-inf"))
_SIGNED_32: Final = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SFIXED32,
    FieldDescriptor.TYPE_ENUM,
}
_UNSIGNED_32: Final = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32}
_UNSIGNED_64: Final = {FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64}


class Vocabulary:
    """Values that mean something, by the name of a field: given ones, and what answers held."""

    def __init__(self, given: dict[str, list[Any]]) -> None:
        self._known = {name: collections.deque(values, _MOST_KNOWN) for name, values in given.items()}

    def learn(self, message: Message) -> None:
        """Takes the texts and numbers of an answer."""
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                if field.message_type.GetOptions().map_entry:
                    continue
                for each in value if field.is_repeated else (value,):
                    self.learn(each)
            elif not field.is_repeated and isinstance(value, str | int) and value:
                known = self._known.setdefault(
                    field.name.removeprefix("next_"), collections.deque(maxlen=_MOST_KNOWN)
                )
                if value not in known:
                    known.append(value)

    def choices(self, name: str) -> list[Any]:
        """What a field of this name may mean, oldest first."""
        return list(self._known.get(name, ()))


class RequestMaker:
    """Makes requests from random numbers and a vocabulary."""

    def __init__(self, rng: random.Random, vocabulary: Vocabulary) -> None:
        self._rng = rng
        self._vocabulary = vocabulary

    def serialized(self, descriptor: Descriptor) -> bytes:
        """One request as bytes: half of them are whole messages, the others are broken on the wire."""
        data = self.message(descriptor, self._rng.choice((0.0, 0.0, 0.1, 0.5))).SerializeToString()
        for _ in range(self._rng.choice((0, 0, 0, 1, 1, 3))):
            data = self._rng.choice(_MUTATIONS)(self._rng, data, descriptor)
        return data

    def message(self, descriptor: Descriptor, strange: float, depth: int = 0) -> Message:
        """A message with some, none or all of its fields.

        Args:
            descriptor: Its type.
            strange: Share of the fields whose values mean nothing.
            depth: How many messages it is inside of.
        """
        message = message_factory.GetMessageClass(descriptor)()
        share = self._rng.choice((0.3, 0.6, 1.0)) if depth else self._rng.choice((0.0, 0.4, 0.7, 1.0, 1.0))
        for field in descriptor.fields:
            if self._rng.random() < share and depth < _DEEPEST:
                self._set(message, field, strange, depth)
        return message

    def _set(self, message: Message, field: FieldDescriptor, strange: float, depth: int) -> None:
        if field.is_repeated:
            for _ in range(self._rng.choice((0, 1, 1, 2, 3, 20))):
                self._add(getattr(message, field.name), field, strange, depth)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = self.message(field.message_type, strange, depth + 1)
            getattr(message, field.name).CopyFrom(inner)
        elif (value := self._value(field, strange)) is not None:
            setattr(message, field.name, value)

    def _add(self, container: Any, field: FieldDescriptor, strange: float, depth: int) -> None:
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            if (value := self._value(field, strange)) is not None:
                container.append(value)
        elif field.message_type.GetOptions().map_entry:
            entry = self.message(field.message_type, strange, depth + 1)
            if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE:
                container[entry.key].CopyFrom(entry.value)  # type: ignore[attr-defined]
            else:
                container[entry.key] = entry.value  # type: ignore[attr-defined]
        else:
            container.add().CopyFrom(self.message(field.message_type, strange, depth + 1))

    def _value(self, field: FieldDescriptor, strange: float) -> Any:
        """A value, or None where nothing is known that would mean something."""
        if self._rng.random() < strange:
            return self._strange(field)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._rng.random() < 0.5
        if field.type == FieldDescriptor.TYPE_ENUM:
            return self._rng.choice(field.enum_type.values).number
        known = [value for value in self._vocabulary.choices(field.name) if _is_of_type(field, value)]
        return _fitting(field, self._rng.choice(known)) if known else None

    def _strange(self, field: FieldDescriptor) -> Any:
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return True
            case FieldDescriptor.TYPE_STRING:
                return self._rng.choice(_TEXTS)
            case FieldDescriptor.TYPE_BYTES:
                return self._rng.randbytes(self._rng.choice((0, 1, 16, 300)))
            case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
                return self._rng.choice(_REAL)
        return _fitting(field, self._rng.choice(_WHOLE))


def _is_of_type(field: FieldDescriptor, value: Any) -> bool:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return isinstance(value, str)
        case FieldDescriptor.TYPE_BYTES:
            return isinstance(value, bytes)
    return isinstance(value, int | float)


def _fitting(field: FieldDescriptor, value: Any) -> Any:
    """The value, cut to the range of a number's type."""
    if isinstance(value, str | bytes):
        return value
    if field.type in {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}:
        return float(value)
    bits = 32 if field.type in _SIGNED_32 | _UNSIGNED_32 else 64
    whole = int(value) % 2**bits
    unsigned = field.type in _UNSIGNED_32 | _UNSIGNED_64
    return whole if unsigned or whole < 2 ** (bits - 1) else whole - 2**bits


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def _framed(number: int, content: bytes) -> bytes:
    return _key(number, 2) + varint(len(content)) + content


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
        varint(rng.getrandbits(64)),
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
    return data + b"".join(_framed(rng.randrange(100, 2**29), b"?") for _ in range(rng.choice((1, 60, 2000))))


def _no_number(rng: random.Random, data: bytes, _: Descriptor) -> bytes:
    return data + rng.choice((b"\x00\x00", b"\x02\x01a", _key(2**29, 0) + b"\0", b"\xff" * 11))


def _repeat_field(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    number = _number(rng, descriptor)
    return data + _framed(number, rng.choice((b"", b"\n\x01a", b"\x08\x01"))) * rng.choice(
        (300, 5000, 200_000)
    )


def _packed(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    return data + _framed(_number(rng, descriptor), b"\x01" * rng.choice((300, 100_000)))


def _nested(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    content = b""
    number = _number(rng, descriptor)
    for _times in range(rng.choice((50, 120, 1000))):
        content = _framed(number, content)
    return data + content


def _groups(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    number, deep = _number(rng, descriptor), rng.choice((1, 90, 5000))
    return data + _key(number, 3) * deep + _key(number, 4) * rng.choice((0, deep))


def _bad_text(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    text = rng.choice((b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"))
    return data + _framed(_number(rng, descriptor), text)


def _huge_length(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    length = rng.choice((2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    return data + _key(_number(rng, descriptor), 2) + varint(length) + b"abc"


def _long_varint(rng: random.Random, data: bytes, descriptor: Descriptor) -> bytes:
    return data + _key(_number(rng, descriptor), 0) + b"\x80" * rng.choice((5, 9, 10, 20)) + b"\x01"


_MUTATIONS: Final[tuple[Callable[[random.Random, bytes, Descriptor], bytes], ...]] = (
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


def statuses(message: Message) -> Iterable[Message]:
    """Every google.rpc.Status inside an answer: errors of single items."""
    if message.DESCRIPTOR.full_name == "google.rpc.Status":
        yield message
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                continue
            for each in value if field.is_repeated else (value,):
                yield from statuses(each)
