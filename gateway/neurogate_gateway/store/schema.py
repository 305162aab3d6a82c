"""The tables. `migrations` builds them step by step; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

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


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - as SQLAlchemy takes them
    """A column that always has a value."""
    return sa.Column(name, kind, nullable=False, **options)


_Serial: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is called INTEGER."""

predictions: Final = sa.Table(
    "predictions",
    metadata,
    sa.Column("number", _Serial, primary_key=True, comment="Order of arrival; retention by size goes by it."),
    _column("prediction_id", sa.String(32), unique=True),
    _column("create_time", UtcTime),
    _column("model", sa.Text),
    _column("version", sa.BigInteger),
    _column("label", sa.Text, comment="By which the version was chosen; may be empty."),
    _column("manifest_digest", sa.String(64)),
    _column("transform_revision", sa.Integer),
    _column("image_digest", sa.String(64)),
    _column("image_kept", sa.Boolean),
    _column("class_id", sa.Text, comment="The most probable class."),
    _column("scores", sa.JSON, comment="Probability by class_id."),
    _column("verdict", sa.String(32)),
    _column("ood_score", sa.Float),
    _column("queue_seconds", sa.Float),
    _column("transform_seconds", sa.Float),
    _column("predict_seconds", sa.Float),
    _column("total_seconds", sa.Float),
    _column("caller", sa.Text),
    _column("attributes", sa.JSON, server_default="{}", comment="Of a DICOM file, by keyword."),
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
    _column("example_id", sa.String(64), unique=True, comment="Hex SHA-256 of the image's bytes."),
    _column("class_id", sa.Text, index=True),
    _column("source", sa.String(16)),
    _column("create_time", UtcTime, index=True),
    _column("width", sa.Integer),
    _column("height", sa.Integer),
    _column("size_bytes", sa.BigInteger),
    _column("prediction_id", sa.String(32), comment="That feedback corrected; may be empty."),
    _column("group", sa.Text),
    _column("actor", sa.Text),
    _column("sent_sha256", sa.String(64), server_default="", comment="Hex SHA-256 of what was sent."),
    _column("attributes", sa.JSON, server_default="{}", comment="Of a DICOM file, by keyword."),
    sa.CheckConstraint("source IN ('UPLOAD', 'FEEDBACK')", name="source"),
)

feedback: Final = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.Text, unique=True, comment="The caller's; NULL where there was none."),
    _column("request_digest", sa.String(64), comment="Of what was asked under request_id."),
    _column("prediction_id", sa.String(32), index=True),
    _column("class_id", sa.Text, comment="The right class; empty where it is no MRI."),
    _column("not_mri", sa.Boolean),
    _column("confirmed", sa.Boolean),
    _column("example_id", sa.String(64), comment="What it turned into; may be empty."),
    _column("comment", sa.Text),
    _column("create_time", UtcTime),
    _column("actor", sa.Text),
)

_states: Final = ", ".join(f"'{state}'" for state in RunState)

runs: Final = sa.Table(
    "runs",
    metadata,
    sa.Column("number", _Serial, primary_key=True, comment="Order of arrival; queue and pages go by it."),
    _column("run_id", sa.String(32), unique=True),
    sa.Column("request_id", sa.Text, unique=True, comment="The caller's; NULL where there was none."),
    _column("request_digest", sa.String(64), comment="Of what was asked under request_id."),
    _column("state", sa.Enum(RunState, native_enum=False, length=16), index=True),
    _column("spec", Serialized(training_pb2.RetrainingSpec), comment="neurogate.v1.RetrainingSpec."),
    _column("launcher", sa.Text),
    _column("create_time", UtcTime),
    sa.Column("start_time", UtcTime),
    sa.Column("end_time", UtcTime),
    _column("last_sequence", sa.BigInteger, comment="Of its events."),
    _column("trainer_sequence", sa.BigInteger, comment="Of the trainer's events, relayed."),
    _column("version", sa.BigInteger, comment="That came out; 0 for none."),
    sa.Column("gate", Serialized(model_pb2.GateReport), comment="neurogate.v1.GateReport."),
    _column("error", sa.Text),
    _column("actor", sa.Text),
    _column("examples_digest", sa.String(64)),
    _column("examples_by_class", sa.JSON),
    _column("handle", sa.Text, comment="The launcher's, to find the trainer again."),
    _column("owner", sa.Text, comment="The gateway that looks after it; empty for none."),
    sa.Column("lease_time", UtcTime, comment="Until when the owner is taken for alive."),
    _column("cancel_requested", sa.Boolean),
    _column("cancel_reason", sa.Text),
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
    _column("create_time", UtcTime),
    _column("kind", sa.String(16), comment="Field of the oneof in RetrainingEvent."),
    _column("event", Serialized(training_pb2.RetrainingEvent), comment="neurogate.v1.RetrainingEvent."),
    sa.UniqueConstraint("run_id", "trainer_sequence"),
)

audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("number", _Serial, primary_key=True),
    _column("create_time", UtcTime, index=True),
    _column("actor", sa.Text),
    _column("action", sa.String(32)),
    _column("subject", sa.Text, comment="Identifier of what was acted on."),
    _column("details", sa.JSON),
)
