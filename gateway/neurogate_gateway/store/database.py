"""The connection to the database, its transactions, and the schema's migrations.

SQLite is used in WAL mode with every commit on disk before it returns (synchronous=FULL), since a commit is
what makes an acknowledgement true. Writers take SQLite's one write lock when they begin, not when they first
write, so that what they have read stays true. On PostgreSQL the same is asked for by name (`exclusive`).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from neurogate.v1 import error_pb2
from neurogate_core.files import locked
from sqlalchemy.dialects import postgresql, sqlite

from neurogate_gateway.errors import GatewayError, RecordsUnavailableError

from .errors import RecordsSetupError
from .schema import audit

_DRIVERS: Final = {"sqlite", "postgresql+psycopg"}
_BUSY_SECONDS: Final = 20.0
_WRITING: Final = "neurogate_writing"
_UNAVAILABLE: Final = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    sa.exc.TimeoutError,
)
_DISK_FULL: Final = ("database or disk is full", "No space left on device")


class Database:
    """One database of records, migrated to this version's schema.

    Args:
        url: SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`.

    Raises:
        RecordsSetupError: It cannot be opened, or a newer Neurogate has migrated it.
    """

    def __init__(self, url: str | sa.URL) -> None:
        try:
            self._url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise RecordsSetupError("the URL of the records cannot be read, expected scheme://…") from error
        self.name = self._url.render_as_string(hide_password=True)
        if self._url.drivername not in _DRIVERS or self._url.database in {None, "", ":memory:"}:
            raise RecordsSetupError(
                f"the records are at {self.name!r}, expected sqlite:///FILE or postgresql+psycopg://…/DATABASE"
            )
        self.is_postgresql = self._url.get_backend_name() == "postgresql"
        self.engine = self._make_engine()
        try:
            # One process alone turns a new SQLite file into a database; PostgreSQL's own lock is below.
            lock = Path(f"{self._url.database}.lock")
            with contextlib.nullcontext() if self.is_postgresql else locked(lock):
                self._migrate()
        except (sa.exc.DBAPIError, GatewayError, OSError) as error:
            self.engine.dispose()
            cause = error.__cause__ if isinstance(error, GatewayError) else error
            reason = cause.orig if isinstance(cause, sa.exc.DBAPIError) else cause
            raise RecordsSetupError(f"the records at {self.name} cannot be opened: {reason}") from error
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one moment and changes nothing.

        Raises:
            RecordsUnavailableError: The database cannot be read now.
        """
        with _errors_translated():
            isolation = {"isolation_level": "REPEATABLE READ"} if self.is_postgresql else {}
            with self.engine.connect().execution_options(**isolation) as connection, connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self, exclusive: str = "") -> Iterator[sa.Connection]:
        """A transaction that is on disk when the block has ended, or has never been.

        Args:
            exclusive: Writers with the same word run one after another, on SQLite all do.

        Raises:
            GatewayError (EXAMPLE_STORE_FULL): The disk is full.
            RecordsUnavailableError: The database cannot be written now.
        """
        with (
            _errors_translated(),
            self.engine.connect().execution_options(**{_WRITING: True}) as connection,
            connection.begin(),
        ):
            if exclusive and self.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_lock_number(exclusive))))
            yield connection

    def now(self, connection: sa.Connection) -> datetime:
        """The present moment by the clock that all writers of this database share."""
        if self.is_postgresql:
            moment: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            return moment.astimezone(UTC)
        return datetime.now(UTC)

    def audit(
        self, connection: sa.Connection, actor: str, action: str, subject: str, details: Mapping[str, Any]
    ) -> None:
        """Notes who did what to which subject; `details` repeat nothing of what was erased."""
        row = {"actor": actor, "action": action, "subject": subject, "details": details}
        connection.execute(sa.insert(audit).values(create_time=self.now(connection), **row))

    def insert_new(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that leaves out rows which a unique constraint forbids."""
        if self.is_postgresql:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def _make_engine(self) -> sa.Engine:
        if self.is_postgresql:
            engine = sa.create_engine(
                self._url,
                pool_size=8,
                max_overflow=0,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10},
            )
        else:
            engine = sa.create_engine(
                self._url, connect_args={"timeout": _BUSY_SECONDS}, poolclass=sa.pool.QueuePool, pool_size=8
            )
            sa.event.listen(engine, "connect", _prepare_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        # Many rows as one statement: the drivers let go of the interpreter for each statement, and to get it
        # back from a busy event loop costs more than a row.
        engine.dialect.use_insertmanyvalues_wo_returning = True
        return engine

    def _migrate(self) -> None:
        config = Config()
        folder = str(Path(__file__).with_name("migrations"))
        config.set_main_option("script_location", folder.replace("%", "%%"))
        with self.write("neurogate-migration") as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                head = ScriptDirectory.from_config(config).get_current_head()
                raise RecordsSetupError(
                    f"a newer Neurogate has migrated the records at {self.name}, so run that: {error}; the "
                    f"newest schema of this one is {head!r}"
                ) from error


def earlier_request(
    connection: sa.Connection, table: sa.Table, request_id: str, request_digest: str
) -> sa.RowMapping | None:
    """The row that the same request has made, if it has.

    Raises:
        GatewayError (REQUEST_ID_REUSED): The id belongs to another request.
    """
    if not request_id:
        return None
    query = sa.select(table).where(table.c.request_id == request_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is not None and row["request_digest"] != request_digest:
        raise GatewayError(
            error_pb2.ERROR_REASON_REQUEST_ID_REUSED,
            "the request_id belongs to an earlier request, which said something else",
            field="request_id",
        )
    return row


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver's own transactions begin too late; `_begin_sqlite` begins them.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        # What is erased is overwritten, not only taken off the list.
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextlib.contextmanager
def _errors_translated() -> Iterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        if any(text in str(error) for text in _DISK_FULL):
            raise GatewayError(
                error_pb2.ERROR_REASON_EXAMPLE_STORE_FULL, "the disk of the records is full"
            ) from error
        raise RecordsUnavailableError("the records cannot be read or written now", retry_after=1.0) from error


def _lock_number(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], signed=True)
