"""Predictions as the journal keeps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from neurogate.v1 import error_pb2

from neurogate_gateway.errors import GatewayError

from .blobs import ImageStore
from .database import Database
from .schema import predictions

_FORGOTTEN_AT_ONCE: Final = 1000
"""Rows of one transaction, so that whoever else writes waits for a moment only."""
_INSERTED_AT_ONCE: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPrediction:
    """What feedback needs to know of one."""

    prediction_id: str
    class_id: str
    verdict: str
    image_digest: str
    image_kept: bool
    attributes: Mapping[str, str]


class PredictionStore:
    """The predictions of one database and one image store."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def add(self, rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> None:
        """Keeps predictions, and images that are to be kept with them.

        Args:
            rows: Values of the columns.
            images: Bytes by digest; those for which there is no room are left out, and their rows say so.
        """
        if not images:
            self._insert(rows, kept=set())
            return
        with self._images.adding():
            refused = self._images.put(images)
            self._insert(rows, kept=images.keys() - refused.keys())

    def find(self, prediction_id: str) -> StoredPrediction | None:
        """One prediction, if it is kept."""
        columns = [predictions.c[field.name] for field in dataclasses.fields(StoredPrediction)]
        query = sa.select(*columns).where(predictions.c.prediction_id == prediction_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else StoredPrediction(*row)

    def forget_images(self, before: timedelta) -> None:
        """Lets go of the images of older predictions; the next sweep of the image store removes them."""
        with self._database.write() as connection:
            old = predictions.c.create_time < self._database.now(connection) - before
            connection.execute(
                sa.update(predictions).where(predictions.c.image_kept, old).values(image_kept=False)
            )

    def forget(self, before: timedelta, most: int) -> None:
        """Removes predictions that are older, and the oldest of more than `most`; a few at a time."""
        while self._forget_some(before, most):
            pass

    def _forget_some(self, before: timedelta, most: int) -> bool:
        # By number, in which they came: an index by time would cost every prediction, and this is rare.
        oldest = (
            sa.select(predictions.c.number, predictions.c.create_time)
            .order_by(predictions.c.number)
            .limit(_FORGOTTEN_AT_ONCE)
        )
        with self._database.write() as connection:
            newest = connection.execute(sa.select(sa.func.max(predictions.c.number))).scalar_one() or 0
            cutoff = self._database.now(connection) - before
            past = [
                row.number
                for row in connection.execute(oldest)
                if row.create_time < cutoff or row.number <= newest - most
            ]
            connection.execute(sa.delete(predictions).where(predictions.c.number.in_(past)))
        return len(past) == _FORGOTTEN_AT_ONCE

    def _insert(self, rows: Sequence[Mapping[str, Any]], kept: set[str]) -> None:
        told = [{**row, "image_kept": row["image_digest"] in kept} for row in rows]
        try:
            self._execute(sa.insert(predictions), told)
        except sa.exc.IntegrityError:
            # The batch came before: after an error nobody knows whether it was before the commit.
            self._execute(self._database.insert_new(predictions), told)

    def _execute(self, statement: sa.Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._database.write() as connection:
            # In small pieces, since each is prepared without a pause for the threads that answer calls.
            for start in range(0, len(rows), _INSERTED_AT_ONCE):
                connection.execute(statement, rows[start : start + _INSERTED_AT_ONCE])


def hold(connection: sa.Connection, prediction_id: str) -> bool:
    """Whether a prediction is kept; if so, nobody erases it before the transaction ends."""
    query = sa.select(predictions.c.number).where(predictions.c.prediction_id == prediction_id)
    return connection.execute(query.with_for_update()).one_or_none() is not None


def not_found(prediction_id: str) -> GatewayError:
    """What to say of a prediction that is not there."""
    return GatewayError(
        error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND,
        f"there is no prediction {prediction_id!r}, or it is no longer kept",
        resource=("prediction", prediction_id),
        field="prediction_id",
    )
