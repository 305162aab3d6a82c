"""ExampleFilter as conditions of a query."""

from __future__ import annotations

from datetime import UTC
from typing import Final

import sqlalchemy as sa
from neurogate.v1 import training_pb2

from neurogate_gateway.training_errors import FilterInvalidError

from .schema import examples

SOURCES: Final = {
    training_pb2.EXAMPLE_SOURCE_UPLOAD: "UPLOAD",
    training_pb2.EXAMPLE_SOURCE_FEEDBACK: "FEEDBACK",
}
_MOST_CLASSES: Final = 1000


def check_filter(chosen: training_pb2.ExampleFilter, *, field: str) -> None:
    """Refuses a filter that no example can fit, or that cannot be read.

    Raises:
        FilterInvalidError: It is one.
    """
    if chosen.source not in {training_pb2.EXAMPLE_SOURCE_UNSPECIFIED, *SOURCES}:
        raise FilterInvalidError(f"source {chosen.source} is unknown", field=f"{field}.source")
    if len(chosen.class_ids) > _MOST_CLASSES:
        raise FilterInvalidError(f"there are more than {_MOST_CLASSES} class_ids", field=f"{field}.class_ids")
    if any(not class_id or not class_id.isprintable() for class_id in chosen.class_ids):
        raise FilterInvalidError("a class_id is empty or not printable", field=f"{field}.class_ids")
    moments = []
    for name in ("from_time", "to_time"):
        if chosen.HasField(name):
            try:
                moments.append(getattr(chosen, name).ToDatetime(UTC))
            except ValueError:
                raise FilterInvalidError(f"{name} is no moment", field=f"{field}.{name}") from None
    if len(moments) == 2 and moments[0] >= moments[1]:
        raise FilterInvalidError("from_time is not before to_time", field=f"{field}.to_time")


def example_conditions(chosen: training_pb2.ExampleFilter) -> list[sa.ColumnElement[bool]]:
    """Conditions on `examples` that a checked filter stands for."""
    conditions: list[sa.ColumnElement[bool]] = []
    if chosen.class_ids:
        conditions.append(examples.c.class_id.in_(sorted(set(chosen.class_ids))))
    if chosen.source in SOURCES:
        conditions.append(examples.c.source == SOURCES[chosen.source])
    if chosen.HasField("from_time"):
        conditions.append(examples.c.create_time >= chosen.from_time.ToDatetime(UTC))
    if chosen.HasField("to_time"):
        conditions.append(examples.c.create_time < chosen.to_time.ToDatetime(UTC))
    return conditions
