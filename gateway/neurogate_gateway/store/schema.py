"""The tables. `migrations` builds them step by step; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message
from neurogate.v1 import model_pb2, training_pb2

from .run import RunState

_M = TypeVar("_M", bound=Message)


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware moment in UTC with microseconds, on databases with time zones and without."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - the same for all
        """What the database gets; SQLite stores the clock's reading alone."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - the same for all
        """What the database gave."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Serialized(sa.types.TypeDecorator[_M], Generic[_M]):
    """A protobuf message of one type, as its bytes."""

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, kind: type[_M]) -> None:
        super().__init__()
        # By the argument's name, since SQLAlchemy caches by it.
        self.kind = kind

    def process_bind_param(self, value: _M | None, dialect: sa.Dialect) -> bytes | None:  # noqa: ARG002 - the same for all
        """What the database gets."""
        return None if value is None else value.SerializeToString()

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> _M | None:  # noqa: ARG002 - the same for all
        """What the database gave."""
        return None if value is None else self.kind.FromString(value)


metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Serial: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is called INTEGER."""

predictions: Final = sa.Table(
    "predictions",
    metadata,
    sa.Column("number", _Serial, primary_key=True, comment="Order of arrival; retention by size goes by it."),
    sa.Column("prediction_id", sa.String(32), nullable=False, unique=True),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("label", sa.Text, nullable=False, comment="By which the version was chosen; may be empty."),
    sa.Column("manifest_digest", sa.String(64), nullable=False),
    sa.Column("transform_revision", sa.Integer, nullable=False),
    sa.Column("image_digest", sa.String(64), nullable=False),
    sa.Column("image_kept", sa.Boolean, nullable=False),
    sa.Column("class_id", sa.Text, nullable=False, comment="The most probable class."),
    sa.Column("scores", sa.JSON, nullable=False, comment="Probability by class_id."),
    sa.Column("verdict", sa.String(32), nullable=False),
    sa.Column("ood_score", sa.Float, nullable=False),
    sa.Column("queue_seconds", sa.Float, nullable=False),
    sa.Column("transform_seconds", sa.Float, nullable=False),
    sa.Column("predict_seconds", sa.Float, nullable=False),
    sa.Column("total_seconds", sa.Float, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column(
        "attributes", sa.JSON, nullable=False, server_default="{}", comment="Of a DICOM file, by keyword."
    ),
)
# Of the few whose image is kept: an index of all would cost every prediction as much as the row itself.
sa.Index(
    "ix_predictions_image_digest",
    predictions.c.image_digest,
    sqlite_where=predictions.c.image_kept,
    postgresql_where=predictions.c.image_kept,
)

examples: Final = sa.Table(
    "examples",
    metadata,
    sa.Column("number", _Serial, primary_key=True, comment="Order of arrival; pages go by it."),
    sa.Column(
        "example_id",
        sa.String(64),
        nullable=False,
        unique=True,
        comment="Hex SHA-256 of the image's bytes.",
    ),
    sa.Column("class_id", sa.Text, nullable=False, index=True),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("create_time", UtcTime, nullable=False, index=True),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column(
        "prediction_id", sa.String(32), nullable=False, comment="That feedback corrected; may be empty."
    ),
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column(
        "sent_sha256",
        sa.String(64),
        nullable=False,
        server_default="",
        comment="Hex SHA-256 of what was sent.",
    ),
    sa.Column(
        "attributes", sa.JSON, nullable=False, server_default="{}", comment="Of a DICOM file, by keyword."
    ),
    sa.CheckConstraint("source IN ('UPLOAD', 'FEEDBACK')", name="source"),
)

feedback: Final = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.Text, unique=True, comment="The caller's; NULL where there was none."),
    sa.Column("request_digest", sa.String(64), nullable=False, comment="Of what was asked under request_id."),
    sa.Column("prediction_id", sa.String(32), nullable=False, index=True),
    sa.Column("class_id", sa.Text, nullable=False, comment="The right class; empty where it is no MRI."),
    sa.Column("not_mri", sa.Boolean, nullable=False),
    sa.Column("confirmed", sa.Boolean, nullable=False),
    sa.Column("example_id", sa.String(64), nullable=False, comment="What it turned into; may be empty."),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
)

_states: Final = ", ".join(f"'{state}'" for state in RunState)

runs: Final = sa.Table(
    "runs",
    metadata,
    sa.Column("number", _Serial, primary_key=True, comment="Order of arrival; queue and pages go by it."),
    sa.Column("run_id", sa.String(32), nullable=False, unique=True),
    sa.Column("request_id", sa.Text, unique=True, comment="The caller's; NULL where there was none."),
    sa.Column("request_digest", sa.String(64), nullable=False, comment="Of what was asked under request_id."),
    sa.Column("state", sa.Enum(RunState, native_enum=False, length=16), nullable=False, index=True),
    sa.Column(
        "spec",
        Serialized(training_pb2.RetrainingSpec),
        nullable=False,
        comment="neurogate.v1.RetrainingSpec.",
    ),
    sa.Column("launcher", sa.Text, nullable=False),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("start_time", UtcTime),
    sa.Column("end_time", UtcTime),
    sa.Column("last_sequence", sa.BigInteger, nullable=False, comment="Of its events."),
    sa.Column("trainer_sequence", sa.BigInteger, nullable=False, comment="Of the trainer's events, relayed."),
    sa.Column("version", sa.BigInteger, nullable=False, comment="That came out; 0 for none."),
    sa.Column("gate", Serialized(model_pb2.GateReport), comment="neurogate.v1.GateReport."),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("examples_digest", sa.String(64), nullable=False),
    sa.Column("examples_by_class", sa.JSON, nullable=False),
    sa.Column("handle", sa.Text, nullable=False, comment="The launcher's, to find the trainer again."),
    sa.Column("owner", sa.Text, nullable=False, comment="The gateway that looks after it; empty for none."),
    sa.Column("lease_time", UtcTime, comment="Until when the owner is taken for alive."),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("cancel_reason", sa.Text, nullable=False),
    sa.CheckConstraint(f"state IN ({_states})", name="state"),
)

run_examples: Final = sa.Table(
    "run_examples",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    # Of one that was erased since, too: what has learned from it stays known.
    sa.Column("example_id", sa.String(64), primary_key=True, index=True),
)

events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column(
        "sequence", sa.BigInteger, primary_key=True, autoincrement=False, comment="1, 2, 3, … per run."
    ),
    sa.Column("trainer_sequence", sa.BigInteger, comment="Of the trainer's event; NULL for the gateway's."),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False, comment="Field of the oneof in RetrainingEvent."),
    sa.Column(
        "event",
        Serialized(training_pb2.RetrainingEvent),
        nullable=False,
        comment="neurogate.v1.RetrainingEvent.",
    ),
    sa.UniqueConstraint("run_id", "trainer_sequence"),
)

audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("number", _Serial, primary_key=True),
    sa.Column("create_time", UtcTime, nullable=False, index=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text, nullable=False, comment="Identifier of what was acted on."),
    sa.Column("details", sa.JSON, nullable=False),
)
