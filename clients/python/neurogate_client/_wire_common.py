"""Times and enumerations of the contract, for everything that reads its messages."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any, TypeVar

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message

from .errors import UnexpectedError

E = TypeVar("E", bound=enum.StrEnum)


def named(kind: type[E], message: Message, field: str) -> E:
    """The member of `kind` for an enumeration's field; UNKNOWN for unset and for newer values."""
    described = message.DESCRIPTOR.fields_by_name[field].enum_type
    if described is None:
        raise TypeError(f"{field} is no enumeration")
    value = described.values_by_number.get(getattr(message, field))
    # Names are RELEASE_MODE_LATEST, and the value 0 is RELEASE_MODE_UNSPECIFIED.
    prefix = described.values_by_number[0].name.removesuffix("UNSPECIFIED")
    short = value.name.removeprefix(prefix) if value is not None else ""
    return kind(short) if short in kind.__members__ else kind("UNKNOWN")


def time_of(message: Any, field: str, whose: str = "an answer") -> dt.datetime | None:  # noqa: ANN401 - any message with such a field
    """A field of time (UTC); None when it is unset.

    Raises:
        UnexpectedError: a time beyond the calendar.
    """
    if not message.HasField(field):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError) as error:
        raise UnexpectedError(f"{whose} has a time beyond the calendar: {error}") from error
