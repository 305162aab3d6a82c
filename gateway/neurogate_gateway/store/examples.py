"""Labelled images: bytes in the image store, a row each, both durable before anybody is told so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.errors import GatewayError

from .blobs import ImageStore
from .database import Database
from .run import timestamp
from .schema import examples


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewExample:
    """One labelled image that has been checked.

    Attributes:
        example_id: Hex SHA-256 of `data`.
        data: What is to be kept of the image; see `neurogate_core.preprocessing.privacy`.
        sent_sha256: Hex SHA-256 of the image as it was sent.
        class_id: Its class.
        group: Of images that a split must not tear apart; may be empty.
        source: "UPLOAD" or "FEEDBACK".
        width: Of the image as it is shown, in pixels.
        height: The same.
        prediction_id: That feedback corrected; may be empty.
        actor: Who sent it.
        attributes: What is kept of a DICOM file's header, by keyword.
    """

    example_id: str
    data: bytes
    sent_sha256: str
    class_id: str
    group: str = ""
    source: str = "UPLOAD"
    width: int
    height: int
    prediction_id: str = ""
    actor: str
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One that is kept; `number` is its order of arrival."""

    number: int
    example_id: str
    class_id: str
    source: str
    create_time: datetime
    width: int
    height: int
    size_bytes: int
    prediction_id: str
    group: str
    actor: str
    sent_sha256: str
    attributes: Mapping[str, str]

    def message(self, thumbnail: bytes = b"") -> training_pb2.Example:
        """The example as callers see it."""
        return training_pb2.Example(
            example_id=self.example_id,
            class_id=self.class_id,
            source=next(value for value, name in SOURCES.items() if name == self.source),
            create_time=timestamp(self.create_time),
            width=self.width,
            height=self.height,
            size_bytes=self.size_bytes,
            thumbnail=thumbnail,
            prediction_id=self.prediction_id,
            group=self.group,
            sent_sha256=self.sent_sha256,
            attributes=self.attributes,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What became of a new example: it is there; `duplicate` where it had been before."""

    example_id: str
    duplicate: bool


class ExampleStore:
    """The examples of one database and one image store."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def add(self, new: Sequence[NewExample]) -> list[Kept | GatewayError]:
        """Keeps examples for good; when this returns, no crash can lose them.

        Returns:
            For each, in order, that it is kept or why it is not: EXAMPLE_CONFLICT, EXAMPLE_STORE_FULL.

        Raises:
            RecordsUnavailableError, ExampleStoreFullError: None of them is kept.
        """
        with self._images.adding():
            full = self._images.put({example.example_id: example.data for example in new})
            with self._database.write() as connection:
                return add_rows(connection, self._database, new, full)

    def page(self, chosen: training_pb2.ExampleFilter, *, below: int | None, limit: int) -> list[Example]:
        """Examples that a filter fits, newest first.

        Args:
            chosen: The filter.
            below: Only those with a smaller `number`.
            limit: At most so many.
        """
        query = sa.select(examples).where(*example_conditions(chosen))
        if below is not None:
            query = query.where(examples.c.number < below)
        query = query.order_by(examples.c.number.desc()).limit(limit)
        with self._database.read() as connection:
            return [Example(*row) for row in connection.execute(query)]

    def totals(self, chosen: training_pb2.ExampleFilter) -> dict[str, int]:
        """Number of examples that a filter fits, by class."""
        query = (
            sa.select(examples.c.class_id, sa.func.count())
            .where(*example_conditions(chosen))
            .group_by(examples.c.class_id)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}


def add_rows(
    connection: sa.Connection,
    database: Database,
    new: Sequence[NewExample],
    refused: dict[str, Any],
) -> list[Kept | GatewayError]:
    """The rows of examples whose images are kept, in a transaction; see `ExampleStore.add`."""
    rows: dict[str, dict[str, Any]] = {}
    now = database.now(connection)
    for example in new:
        if example.example_id not in refused and example.example_id not in rows:
            rows[example.example_id] = {
                "example_id": example.example_id,
                "class_id": example.class_id,
                "source": example.source,
                "create_time": now,
                "width": example.width,
                "height": example.height,
                "size_bytes": len(example.data),
                "prediction_id": example.prediction_id,
                "group": example.group,
                "actor": example.actor,
                "sent_sha256": example.sent_sha256,
                "attributes": dict(example.attributes),
            }
    if not rows:
        return [refused[example.example_id] for example in new]
    # In one order for all, so that two gateways that add the same ones cannot wait for each other.
    values = [rows[identifier] for identifier in sorted(rows)]
    statement = database.insert_new(examples).values(values).returning(examples.c.example_id)
    fresh = set(connection.execute(statement).scalars())
    there = sa.select(examples.c.example_id, examples.c.class_id).where(examples.c.example_id.in_(rows))
    classes: dict[str, str] = {row.example_id: row.class_id for row in connection.execute(there)}
    results: list[Kept | GatewayError] = []
    for example in new:
        identifier = example.example_id
        if identifier in refused:
            results.append(refused[identifier])
        elif classes[identifier] != example.class_id:
            results.append(
                GatewayError(
                    error_pb2.ERROR_REASON_EXAMPLE_CONFLICT,
                    f"the image is kept as {classes[identifier]!r} already, not as {example.class_id!r}",
                    field="class_id",
                    resource=("example", identifier),
                    metadata={"class_id": classes[identifier]},
                )
            )
        else:
            results.append(Kept(identifier, duplicate=identifier not in fresh))
            # A second one of the same batch finds the first.
            fresh.discard(identifier)
    return results


SOURCES: Final = {
    training_pb2.EXAMPLE_SOURCE_UPLOAD: "UPLOAD",
    training_pb2.EXAMPLE_SOURCE_FEEDBACK: "FEEDBACK",
}
_MOST_CLASSES: Final = 1000


def check_filter(chosen: training_pb2.ExampleFilter, *, field: str) -> None:
    """Refuses a filter that no example can fit, or that cannot be read.

    Raises:
        GatewayError (FILTER_INVALID): It is one.
    """
    if chosen.source not in {training_pb2.EXAMPLE_SOURCE_UNSPECIFIED, *SOURCES}:
        raise GatewayError(
            error_pb2.ERROR_REASON_FILTER_INVALID,
            f"source {chosen.source} is unknown",
            field=f"{field}.source",
        )
    if len(chosen.class_ids) > _MOST_CLASSES:
        raise GatewayError(
            error_pb2.ERROR_REASON_FILTER_INVALID,
            f"there are more than {_MOST_CLASSES} class_ids",
            field=f"{field}.class_ids",
        )
    if any(not class_id or not class_id.isprintable() for class_id in chosen.class_ids):
        raise GatewayError(
            error_pb2.ERROR_REASON_FILTER_INVALID,
            "a class_id is empty or not printable",
            field=f"{field}.class_ids",
        )
    moments = []
    for name in ("from_time", "to_time"):
        if chosen.HasField(name):
            try:
                moments.append(getattr(chosen, name).ToDatetime(UTC))
            except ValueError:
                raise GatewayError(
                    error_pb2.ERROR_REASON_FILTER_INVALID, f"{name} is no moment", field=f"{field}.{name}"
                ) from None
    if len(moments) == 2 and moments[0] >= moments[1]:
        raise GatewayError(
            error_pb2.ERROR_REASON_FILTER_INVALID, "from_time is not before to_time", field=f"{field}.to_time"
        )


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
