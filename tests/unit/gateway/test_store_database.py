"""Opening the database: migrations once, newer schemas refused, errors in the gateway's words."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from neurogate_gateway.store.database import Database
from neurogate_gateway.store.errors import RecordsSetupError
from neurogate_gateway.store.schema import audit, metadata
from neurogate_gateway.store.store import Store
from neurogate_testing.refusals import refused


@pytest.fixture
def database(records_url: str) -> Iterator[Database]:
    opened = Database(records_url)
    yield opened
    opened.close()


def test_the_migrations_make_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        constraints = sa.inspect(connection).get_check_constraints("runs")
        assert [constraint["name"] for constraint in constraints] == ["ck_runs_state"]


def test_processes_that_start_at_once_all_open_it(records_url: str) -> None:
    code = "import sys; from neurogate_gateway.store.database import Database; Database(sys.argv[1]).close()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, records_url], stderr=subprocess.PIPE) for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


def test_a_newer_schema_is_refused_by_name(database: Database, records_url: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9876'")
    with pytest.raises(RecordsSetupError, match=r"'9876'.*'0002'"):
        Database(records_url)


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    row = {"actor": "a", "action": "b", "subject": "c", "details": {}}

    def fail() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(audit).values(**row, create_time=database.now(connection)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.read() as connection:
        assert connection.execute(sa.select(audit)).all() == []


def test_moments_come_back_in_utc(database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        row = {"create_time": now, "actor": "a", "action": "b", "subject": "c", "details": {"x": [1]}}
        connection.execute(sa.insert(audit).values(**row))
    with database.read() as connection:
        found = connection.execute(sa.select(audit.c.create_time, audit.c.details)).one()
    assert tuple(found) == (now, {"x": [1]})
    assert found.create_time.utcoffset().total_seconds() == 0


def test_other_urls_are_refused() -> None:
    for url in (
        "",
        "nonsense",
        "mysql://localhost/x",
        "sqlite+aiosqlite:///x",
        "sqlite://",
        "sqlite:///:memory:",
    ):
        with pytest.raises(RecordsSetupError):
            Database(url)


def test_the_error_of_a_database_that_cannot_be_opened_has_no_password(tmp_path: Path) -> None:
    with pytest.raises(RecordsSetupError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}/missing/records.db")
    (tmp_path / "text.db").write_text("no database at all, but long enough to look at" * 20)
    with pytest.raises(RecordsSetupError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(RecordsSetupError, match="cannot be opened") as refusal:
        Database("postgresql+psycopg://user:secret@127.0.0.1:1/x")
    assert "secret" not in str(refusal.value)


def test_the_database_lies_in_its_folder_whatever_that_is_called(tmp_path: Path) -> None:
    names = {"what?mode=ro", "50% #1", "a [b] \\ c", "file:x"}
    for name in names:
        folder = tmp_path / name / "records"
        for _ in range(2):
            Store(folder, "", max_store_bytes=1_000_000).close()
        assert {path.name for path in folder.iterdir()} == {"images", "records.db", "records.db.lock"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_sqlite_commits_are_on_disk_and_readers_are_not_held_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/records.db")
    with database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        with database.read() as other:
            assert other.execute(sa.select(audit)).all() == []
    database.close()


def test_a_full_disk_and_a_lost_database_have_reasons_of_their_own(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/records.db")
    for words, expected in (
        ("database or disk is full", "EXAMPLE_STORE_FULL"),
        ("database is locked", "RECORDS_UNAVAILABLE"),
    ):
        with refused(expected), database.write():
            raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError(words))
    database.close()
