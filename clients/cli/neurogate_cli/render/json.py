"""Results of the client as JSON, for programs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from neurogate.v1 import manifest_pb2


def dumped(value: object, *, indent: int | None = 2) -> str:
    """A result, or a list of them, as JSON text."""
    return json.dumps(document(value), indent=indent)


def document(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    """A result as JSON has it: names as in Python, times as ISO 8601, pictures left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {name: document(each) for name, each in fields.items() if not isinstance(each, bytes)}
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, Mapping):
        return {str(name): document(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [document(each) for each in value]
    return _scalar(value)


def _message(value: Message) -> dict[str, Any]:
    found = MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, manifest_pb2.ModelManifest):
        for golden in found.get("goldens", ()):
            # Encoded pictures are of no use in JSON for people and scripts; their digests stay.
            golden.pop("image", None)
    return found


def _scalar(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
