"""Alembic's entry: runs the migrations in the transaction that `database` has begun."""

from __future__ import annotations

from alembic import context
from neurogate_gateway.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can undo a table as PostgreSQL can, so a migration that is killed has never been.
    transactional_ddl=True,
)
context.run_migrations()
