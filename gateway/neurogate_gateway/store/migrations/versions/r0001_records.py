"""The tables of predictions, examples, feedback, retrainings, their events, and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from neurogate_gateway.store.schema import UtcTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="Identifier of what was acted on."),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_create_time"), "audit", ["create_time"], unique=False)
    op.create_table(
        "examples",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Order of arrival; pages go by it.",
        ),
        sa.Column(
            "example_id", sa.String(length=64), nullable=False, comment="Hex SHA-256 of the image's bytes."
        ),
        sa.Column("class_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "prediction_id",
            sa.String(length=32),
            nullable=False,
            comment="That feedback corrected; may be empty.",
        ),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("source IN ('UPLOAD', 'FEEDBACK')", name=op.f("ck_examples_source")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_examples")),
        sa.UniqueConstraint("example_id", name=op.f("uq_examples_example_id")),
    )
    op.create_index(op.f("ix_examples_class_id"), "examples", ["class_id"], unique=False)
    op.create_index(op.f("ix_examples_create_time"), "examples", ["create_time"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True, comment="The caller's; NULL where there was none."),
        sa.Column(
            "request_digest",
            sa.String(length=64),
            nullable=False,
            comment="Of what was asked under request_id.",
        ),
        sa.Column("prediction_id", sa.String(length=32), nullable=False),
        sa.Column(
            "class_id", sa.Text(), nullable=False, comment="The right class; empty where it is no MRI."
        ),
        sa.Column("not_mri", sa.Boolean(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column(
            "example_id", sa.String(length=64), nullable=False, comment="What it turned into; may be empty."
        ),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("request_id", name=op.f("uq_feedback_request_id")),
    )
    op.create_index(op.f("ix_feedback_prediction_id"), "feedback", ["prediction_id"], unique=False)
    op.create_table(
        "predictions",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Order of arrival; retention by size goes by it.",
        ),
        sa.Column("prediction_id", sa.String(length=32), nullable=False),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column(
            "label", sa.Text(), nullable=False, comment="By which the version was chosen; may be empty."
        ),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("transform_revision", sa.Integer(), nullable=False),
        sa.Column("image_digest", sa.String(length=64), nullable=False),
        sa.Column("image_kept", sa.Boolean(), nullable=False),
        sa.Column("class_id", sa.Text(), nullable=False, comment="The most probable class."),
        sa.Column("scores", sa.JSON(), nullable=False, comment="Probability by class_id."),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("ood_score", sa.Float(), nullable=False),
        sa.Column("queue_seconds", sa.Float(), nullable=False),
        sa.Column("transform_seconds", sa.Float(), nullable=False),
        sa.Column("predict_seconds", sa.Float(), nullable=False),
        sa.Column("total_seconds", sa.Float(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_predictions")),
        sa.UniqueConstraint("prediction_id", name=op.f("uq_predictions_prediction_id")),
    )
    op.create_index(
        op.f("ix_predictions_image_digest"),
        "predictions",
        ["image_digest"],
        unique=False,
        sqlite_where=sa.text("image_kept"),
        postgresql_where=sa.text("image_kept"),
    )
    op.create_table(
        "runs",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="Order of arrival; queue and pages go by it.",
        ),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True, comment="The caller's; NULL where there was none."),
        sa.Column(
            "request_digest",
            sa.String(length=64),
            nullable=False,
            comment="Of what was asked under request_id.",
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False, comment="neurogate.v1.RetrainingSpec."),
        sa.Column("launcher", sa.Text(), nullable=False),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column("start_time", UtcTime(), nullable=True),
        sa.Column("end_time", UtcTime(), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False, comment="Of its events."),
        sa.Column(
            "trainer_sequence", sa.BigInteger(), nullable=False, comment="Of the trainer's events, relayed."
        ),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="That came out; 0 for none."),
        sa.Column("gate", sa.LargeBinary(), nullable=True, comment="neurogate.v1.GateReport."),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("examples_digest", sa.String(length=64), nullable=False),
        sa.Column("examples_by_class", sa.JSON(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=False, comment="The launcher's, to find the trainer again."),
        sa.Column(
            "owner", sa.Text(), nullable=False, comment="The gateway that looks after it; empty for none."
        ),
        sa.Column("lease_time", UtcTime(), nullable=True, comment="Until when the owner is taken for alive."),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("cancel_reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('QUEUED', 'RUNNING', 'EVALUATING', 'PUBLISHING', "
            "'SUCCEEDED', 'REFUSED', 'FAILED', 'CANCELLED')",
            name=op.f("ck_runs_state"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_runs")),
        sa.UniqueConstraint("request_id", name=op.f("uq_runs_request_id")),
        sa.UniqueConstraint("run_id", name=op.f("uq_runs_run_id")),
    )
    op.create_index(op.f("ix_runs_state"), "runs", ["state"], unique=False)
    op.create_table(
        "events",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger(), autoincrement=False, nullable=False, comment="1, 2, 3, … per run."
        ),
        sa.Column(
            "trainer_sequence",
            sa.BigInteger(),
            nullable=True,
            comment="Of the trainer's event; NULL for the gateway's.",
        ),
        sa.Column("create_time", UtcTime(), nullable=False),
        sa.Column(
            "kind", sa.String(length=16), nullable=False, comment="Field of the oneof in RetrainingEvent."
        ),
        sa.Column("event", sa.LargeBinary(), nullable=False, comment="neurogate.v1.RetrainingEvent."),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_events_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "sequence", name=op.f("pk_events")),
        sa.UniqueConstraint("run_id", "trainer_sequence", name=op.f("uq_events_run_id_trainer_sequence")),
    )
    op.create_table(
        "run_examples",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("example_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["example_id"], ["examples.example_id"], name=op.f("fk_run_examples_example_id_examples")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_run_examples_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "example_id", name=op.f("pk_run_examples")),
    )
