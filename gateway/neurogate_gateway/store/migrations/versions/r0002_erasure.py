"""No names of files; what was learned from an example is known after it was erased, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Forgets names, and lets go of the key that would keep examples from being erased."""
    op.drop_column("examples", "name")
    op.add_column(
        "examples",
        sa.Column(
            "sent_sha256",
            sa.String(length=64),
            nullable=False,
            server_default="",
            comment="Hex SHA-256 of what was sent.",
        ),
    )
    for table in ("examples", "predictions"):
        op.add_column(
            table,
            sa.Column(
                "attributes",
                sa.JSON(),
                nullable=False,
                server_default="{}",
                comment="Of a DICOM file, by keyword.",
            ),
        )
    # Until now that was what is kept.
    op.execute("UPDATE examples SET sent_sha256 = example_id")
    with op.batch_alter_table("run_examples") as batch:
        batch.drop_constraint("fk_run_examples_example_id_examples", type_="foreignkey")
    op.create_index("ix_run_examples_example_id", "run_examples", ["example_id"], unique=False)
