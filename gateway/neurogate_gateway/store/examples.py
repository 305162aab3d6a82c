"""Labelled images: bytes in the image store and a row each, both durable before a caller gets the answer.

Erasing removes the row before the file: killed in between, it leaves a file that no row names, which the next
sweep removes. Which retrainings were given an example stays known by its identifier.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from neurogate.v1 import error_pb2, training_pb2
from neurogate_core.names import images_digest

from neurogate_gateway.errors import GatewayError, RecordsUnavailableError
from neurogate_gateway.observability.logging import log

from .blobs import ImageStore
from .database import Database
from .run import LIVE, RunState, timestamp
from .schema import examples, feedback, predictions, run_examples, runs

SOURCES: Final = {
    training_pb2.EXAMPLE_SOURCE_UPLOAD: "UPLOAD",
    training_pb2.EXAMPLE_SOURCE_FEEDBACK: "FEEDBACK",
}
_MAX_CLASSES: Final = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewExample:
    """One labelled image that has been checked.

    Attributes:
        example_id: Hex SHA-256 of `data`.
        data: What is to be kept of the image; see `neurogate_core.preprocessing.privacy`.
        sent_sha256: Hex SHA-256 of the image as it was sent.
        group: Of images that a split must not tear apart; may be empty.
        width, height: Of the image as it is shown, in pixels.
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

    def row(self) -> dict[str, Any]:
        """The columns that it fills."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data = values.pop("data")
        return values | {"size_bytes": len(data), "attributes": dict(self.attributes)}


class Example(NamedTuple):
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


class Kept(NamedTuple):
    """A new example that is kept; `duplicate` where it had been before."""

    example_id: str
    duplicate: bool


class Learned(NamedTuple):
    """The published versions that learned from an example, and the retrainings without a version that do."""

    versions: list[int]
    running: list[str]


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
            RecordsUnavailableError, GatewayError (EXAMPLE_STORE_FULL): None of them is kept.
        """
        with self._images.adding():
            refused = self._images.put({example.example_id: example.data for example in new})
            with self._database.write() as connection:
                return add_rows(connection, self._database, new, refused)

    def page(self, chosen: training_pb2.ExampleFilter, *, below: int | None, limit: int) -> list[Example]:
        """Examples that a filter fits, newest first: those with a smaller `number` than `below`."""
        query = sa.select(examples).where(*example_conditions(chosen))
        if below is not None:
            query = query.where(examples.c.number < below)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(examples.c.number.desc()).limit(limit))
            return [Example(*row) for row in rows]

    def totals(self, chosen: training_pb2.ExampleFilter) -> dict[str, int]:
        """Number of examples that a filter fits, by class."""
        query = (
            sa.select(examples.c.class_id, sa.func.count())
            .where(*example_conditions(chosen))
            .group_by(examples.c.class_id)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def relabel(self, example_id: str, class_id: str, *, expected: str, reason: str, actor: str) -> Example:
        """Sets the class of an example; safe to repeat.

        `expected` is the class that it has to have before; empty where that does not matter.

        Raises:
            GatewayError (EXAMPLE_NOT_FOUND): There is none of that id.
            GatewayError (EXAMPLE_CONFLICT): It has another class than was expected.
        """
        # Exclusive, so that no new retraining counts the classes in between.
        with self._database.write("runs") as connection:
            example = _load(connection, example_id)
            if example.class_id == class_id:
                return example
            if expected not in {"", example.class_id}:
                raise GatewayError(
                    error_pb2.ERROR_REASON_EXAMPLE_CONFLICT,
                    f"the example is kept as {example.class_id!r}, not as {expected!r}",
                    field="expected_class_id",
                    resource=("example", example_id),
                    metadata={"class_id": example.class_id},
                )
            this = examples.c.example_id == example_id
            connection.execute(sa.update(examples).where(this).values(class_id=class_id))
            for run_id in _queued_with(connection, example_id):
                _count_anew(connection, run_id)
            details = {"from": example.class_id, "to": class_id, "reason": reason}
            self._database.audit(connection, actor, "UPDATE_EXAMPLE", example_id, details)
            return example._replace(class_id=class_id)

    def erase(self, example_id: str, *, reason: str, actor: str) -> Learned:
        """Erases an example.

        Raises:
            GatewayError (EXAMPLE_NOT_FOUND): There is none of that id.
        """
        with self._database.write("runs") as connection:
            _load(connection, example_id)
            connection.execute(sa.delete(examples).where(examples.c.example_id == example_id))
            for run_id in _queued_with(connection, example_id):
                given = (run_examples.c.run_id == run_id, run_examples.c.example_id == example_id)
                connection.execute(sa.delete(run_examples).where(*given))
                _count_anew(connection, run_id)
            about = feedback.c.example_id == example_id
            connection.execute(sa.update(feedback).where(about).values(example_id=""))
            learned = _learned(connection, example_id)
            details = {**learned._asdict(), "reason": reason}
            self._database.audit(connection, actor, "DELETE_EXAMPLE", example_id, details)
        remove_image(self._database, self._images, example_id)
        return learned


def add_rows(
    connection: sa.Connection,
    database: Database,
    new: Sequence[NewExample],
    refused: Mapping[str, GatewayError],
) -> list[Kept | GatewayError]:
    """The rows of examples whose images are kept, in a transaction; see `ExampleStore.add`."""
    now = database.now(connection)
    # The first of several with one image; in one order for all, so that two gateways that add the same ones
    # cannot wait for each other.
    first = {example.example_id: example for example in reversed(new) if example.example_id not in refused}
    if not first:
        return [refused[example.example_id] for example in new]
    values = [first[identifier].row() | {"create_time": now} for identifier in sorted(first)]
    statement = database.insert_new(examples).values(values).returning(examples.c.example_id)
    fresh = set(connection.execute(statement).scalars())
    there = sa.select(examples.c.example_id, examples.c.class_id).where(examples.c.example_id.in_(first))
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


def check_filter(chosen: training_pb2.ExampleFilter, *, field: str) -> None:
    """Refuses a filter that no example can fit, or that cannot be read.

    Raises:
        GatewayError (FILTER_INVALID): It is one.
    """

    def refuse(complaint: str, name: str) -> GatewayError:
        return GatewayError(error_pb2.ERROR_REASON_FILTER_INVALID, complaint, field=f"{field}.{name}")

    if chosen.source not in {training_pb2.EXAMPLE_SOURCE_UNSPECIFIED, *SOURCES}:
        raise refuse(f"source {chosen.source} is unknown", "source")
    if len(chosen.class_ids) > _MAX_CLASSES:
        raise refuse(f"there are more than {_MAX_CLASSES} class_ids", "class_ids")
    if any(not class_id or not class_id.isprintable() for class_id in chosen.class_ids):
        raise refuse("a class_id is empty or not printable", "class_ids")
    moments = []
    for name in ("from_time", "to_time"):
        if chosen.HasField(name):
            try:
                moments.append(getattr(chosen, name).ToDatetime(UTC))
            except ValueError:
                raise refuse(f"{name} is no moment", name) from None
    if len(moments) == 2 and moments[0] >= moments[1]:
        raise refuse("from_time is not before to_time", "to_time")


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


def example_counts(chosen: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The columns of `runs` that say which examples there are, by their identifiers and classes."""
    classes = dict(chosen)
    return {
        "examples_digest": images_digest(classes),
        "examples_by_class": dict(sorted(Counter(classes.values()).items())),
    }


def wanted_images(database: Database, first_digits: str) -> set[str]:
    """Digests of all images that a row needs and that begin with these digits."""
    kept = sa.select(predictions.c.image_digest).where(
        predictions.c.image_kept, predictions.c.image_digest.startswith(first_digits)
    )
    labelled = sa.select(examples.c.example_id).where(examples.c.example_id.startswith(first_digits))
    # A trainer reads its images in every epoch, erased ones too.
    in_use = (
        sa.select(run_examples.c.example_id)
        .join(runs, runs.c.run_id == run_examples.c.run_id)
        .where(runs.c.state == RunState.RUNNING, run_examples.c.example_id.startswith(first_digits))
    )
    with database.read() as connection:
        return set(connection.execute(sa.union(kept, labelled, in_use)).scalars())


def remove_image(database: Database, images: ImageStore, digest: str) -> None:
    """Removes the image of an erased row unless another row needs it.

    Only after the row's transaction: those who add images hold the store's lock while they wait for one.
    """
    try:
        images.remove(digest, lambda: digest in wanted_images(database, digest))
    except RecordsUnavailableError as error:
        # Its row is gone, so the next sweep tries again.
        log(logging.WARNING, "image_not_removed", error=error)


def _load(connection: sa.Connection, example_id: str) -> Example:
    query = sa.select(examples).where(examples.c.example_id == example_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise GatewayError(
            error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND,
            f"there is no example {example_id!r}, or it was erased",
            resource=("example", example_id),
            field="example_id",
        )
    return Example(*row)


def _queued_with(connection: sa.Connection, example_id: str) -> list[str]:
    """Retrainings that wait with the example among theirs; none begins before the transaction ends."""
    query = (
        sa.select(runs.c.run_id)
        .join(run_examples, run_examples.c.run_id == runs.c.run_id)
        .where(run_examples.c.example_id == example_id, runs.c.state == RunState.QUEUED)
        .with_for_update(of=runs)
    )
    return list(connection.execute(query).scalars())


def _count_anew(connection: sa.Connection, run_id: str) -> None:
    chosen = (
        sa.select(examples.c.example_id, examples.c.class_id)
        .join(run_examples, run_examples.c.example_id == examples.c.example_id)
        .where(run_examples.c.run_id == run_id)
    )
    values = example_counts(connection.execute(chosen).all())
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))


def _learned(connection: sa.Connection, example_id: str) -> Learned:
    given = sa.select(run_examples.c.run_id).where(run_examples.c.example_id == example_id)
    used = set(connection.execute(given).scalars())
    learned = Learned([], [])
    begun = runs.c.state.in_([state for state in LIVE if state != RunState.QUEUED])
    query = sa.select(runs.c.run_id, runs.c.version, runs.c.spec).where(sa.or_(runs.c.version != 0, begun))
    # A version is there before another one starts from it.
    for run_id, version, spec in connection.execute(query.order_by(runs.c.number)):
        if run_id not in used and spec.warm_start_version not in learned.versions:
            continue
        if version:
            learned.versions.append(version)
        else:
            learned.running.append(run_id)
    return learned
