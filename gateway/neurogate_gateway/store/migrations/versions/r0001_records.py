"""The tables of predictions, examples, feedback, retrainings, their events, and the audit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from neurogate_gateway.store.schema import UtcTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes them; constraints and indexes get their names by the schema's naming convention."""
    op.create_table(
        "audit",
        _number(None),
        _column("create_time", UtcTime, index=True),
        _column("actor", sa.Text),
        _column("action", sa.String(32)),
        _column("subject", sa.Text, comment="Identifier of what was acted on."),
        _column("details", sa.JSON),
    )
    op.create_table(
        "examples",
        _number("Order of arrival; pages go by it."),
        _column("example_id", sa.String(64), unique=True, comment="Hex SHA-256 of the image's bytes."),
        _column("class_id", sa.Text, index=True),
        _column("name", sa.Text),
        _column("source", sa.String(16)),
        _column("create_time", UtcTime, index=True),
        _column("width", sa.Integer),
        _column("height", sa.Integer),
        _column("size_bytes", sa.BigInteger),
        _column("prediction_id", sa.String(32), comment="That feedback corrected; may be empty."),
        _column("group", sa.Text),
        _column("actor", sa.Text),
        sa.CheckConstraint("source IN ('UPLOAD', 'FEEDBACK')", name="source"),
    )
    op.create_table(
        "feedback",
        _column("feedback_id", sa.String(32), primary_key=True),
        *_request(),
        _column("prediction_id", sa.String(32), index=True),
        _column("class_id", sa.Text, comment="The right class; empty where it is no MRI."),
        _column("not_mri", sa.Boolean),
        _column("confirmed", sa.Boolean),
        _column("example_id", sa.String(64), comment="What it turned into; may be empty."),
        _column("comment", sa.Text),
        _column("create_time", UtcTime),
        _column("actor", sa.Text),
    )
    op.create_table(
        "predictions",
        _number("Order of arrival; retention by size goes by it."),
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
        *(_column(name, sa.Float) for name in ("ood_score", "queue_seconds", "transform_seconds")),
        *(_column(name, sa.Float) for name in ("predict_seconds", "total_seconds")),
        _column("caller", sa.Text),
    )
    kept = sa.text("image_kept")
    name = op.f("ix_predictions_image_digest")
    op.create_index(name, "predictions", ["image_digest"], sqlite_where=kept, postgresql_where=kept)
    states = "'QUEUED', 'RUNNING', 'EVALUATING', 'PUBLISHING', 'SUCCEEDED', 'REFUSED', 'FAILED', 'CANCELLED'"
    op.create_table(
        "runs",
        _number("Order of arrival; queue and pages go by it."),
        _column("run_id", sa.String(32), unique=True),
        *_request(),
        _column("state", sa.String(16), index=True),
        _column("spec", sa.LargeBinary, comment="neurogate.v1.RetrainingSpec."),
        _column("launcher", sa.Text),
        _column("create_time", UtcTime),
        sa.Column("start_time", UtcTime),
        sa.Column("end_time", UtcTime),
        _column("last_sequence", sa.BigInteger, comment="Of its events."),
        _column("trainer_sequence", sa.BigInteger, comment="Of the trainer's events, relayed."),
        _column("version", sa.BigInteger, comment="That came out; 0 for none."),
        sa.Column("gate", sa.LargeBinary, comment="neurogate.v1.GateReport."),
        _column("error", sa.Text),
        _column("actor", sa.Text),
        _column("examples_digest", sa.String(64)),
        _column("examples_by_class", sa.JSON),
        _column("handle", sa.Text, comment="The launcher's, to find the trainer again."),
        _column("owner", sa.Text, comment="The gateway that looks after it; empty for none."),
        sa.Column("lease_time", UtcTime, comment="Until when the owner is taken for alive."),
        _column("cancel_requested", sa.Boolean),
        _column("cancel_reason", sa.Text),
        sa.CheckConstraint(f"state IN ({states})", name="state"),
    )
    sequence = {"autoincrement": False, "comment": "1, 2, 3, … per run."}
    op.create_table(
        "events",
        sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
        _column("sequence", sa.BigInteger, primary_key=True, **sequence),
        sa.Column(
            "trainer_sequence", sa.BigInteger, comment="Of the trainer's event; NULL for the gateway's."
        ),
        _column("create_time", UtcTime),
        _column("kind", sa.String(16), comment="Field of the oneof in RetrainingEvent."),
        _column("event", sa.LargeBinary, comment="neurogate.v1.RetrainingEvent."),
        sa.UniqueConstraint("run_id", "trainer_sequence"),
    )
    op.create_table(
        "run_examples",
        sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("example_id", sa.String(64), sa.ForeignKey("examples.example_id"), primary_key=True),
    )


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - as SQLAlchemy takes them
    return sa.Column(name, kind, nullable=False, **options)


def _number(comment: str | None) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("number", kind, primary_key=True, comment=comment)


def _request() -> list[sa.Column[Any]]:
    comment = "Of what was asked under request_id."
    return [
        sa.Column("request_id", sa.Text, unique=True, comment="The caller's; NULL where there was none."),
        _column("request_digest", sa.String(64), comment=comment),
    ]
