"""Requests of any message type: whole, strange, and broken on the wire.

Made from descriptors alone, so a message or a field that is added is fuzzed without a change here. A request
is a function of random numbers and of what earlier answers held: identifiers and page tokens come back in
requests, so that what needs an identifier is reached too.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from .wire_mutations import MUTATIONS

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
            data = self._rng.choice(MUTATIONS)(self._rng, data, descriptor)
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
