"""Databases for the records: a SQLite file, and a PostgreSQL server that lives as long as the test run."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from .processes import free_port

_USER = "neurogate"
_numbers = itertools.count(1)


def postgresql_folder() -> Path | None:
    """Where PostgreSQL's server programs are; None where there are none. Debian keeps them off PATH."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


class PostgresqlServer:
    """A server on a free port in a folder of its own, by a user that is not root."""

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="neurogate-postgresql-"))
        # initdb refuses to work as root.
        user = _unprivileged() if os.getuid() == 0 else None
        if user is not None:
            os.chown(self._folder, user, -1)
        data = self._folder / "data"
        try:
            subprocess.run(
                [
                    programs / "initdb",
                    "-D",
                    data,
                    "-U",
                    _USER,
                    "--auth=trust",
                    "--no-sync",
                    "--locale=C",
                    "-EUTF8",
                ],
                check=True,
                capture_output=True,
                user=user,
                cwd=self._folder,
            )
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": self.port,
                "unix_socket_directories": "",
                "fsync": "off",
                "max_connections": 200,
            }
            options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
            with (self._folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [programs / "postgres", "-D", data, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    user=user,
                    cwd=self._folder,
                )
            self._wait()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def new_database(self) -> str:
        """SQLAlchemy's URL of an empty database."""
        name = f"records_{next(_numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """Ends the server at once, without a checkpoint, and removes its folder."""
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self._folder)

    def _conninfo(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={_USER} dbname={database} connect_timeout=5"

    def _wait(self) -> None:
        while self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._conninfo("postgres")):
                return
        raise AssertionError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()}")


def _unprivileged() -> int:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """The run's server; skips where PostgreSQL is not installed."""
    programs = postgresql_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = PostgresqlServer(programs)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def records_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    return server.new_database()
