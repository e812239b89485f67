"""Databases for tests: SQLite always, PostgreSQL where its programs are installed.

Every test session imports this module, and few need SQLAlchemy: what needs it imports it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

NAMES = count()
MEMORY = "/dev/shm"


def migrate_from_memory() -> None:
    """Give empty SQLite databases of this process the tables that the migrations gave the first one.

    Tests make hundreds of databases, and Alembic takes ten times as long as the statements that it makes.
    """
    from sqlalchemy import Connection, text

    from service.store import upgrade

    migrate, statements = upgrade._migrate, list[str]()
    tables = text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")

    def from_memory(connection: Connection) -> None:
        if connection.dialect.name != "sqlite" or connection.execute(tables).all():
            migrate(connection)
        elif not statements:
            migrate(connection)
            statements.extend(connection.execute(tables).scalars())
            statements.append(f"INSERT INTO alembic_version VALUES ('{upgrade._version(connection)}')")
        else:
            for statement in statements:
                connection.exec_driver_sql(statement)
            upgrade.log.info("the database is of version %s now", upgrade.LATEST)

    upgrade._migrate = from_memory


def initdb_program() -> str | None:
    """Return the program of PostgreSQL that makes a server's folder; None if PostgreSQL is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return shutil.which("initdb") or (str(programs[-1]) if programs else None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """Start a PostgreSQL server that only this user reaches, and yield its address."""
    initdb = initdb_program()
    if initdb is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt install postgresql")
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary]'")
    assert psycopg
    user = None
    if os.geteuid() == 0:  # initdb refuses to run as root
        user = next((each.pw_name for each in pwd.getpwall() if each.pw_name in ("postgres", "nobody")), None)
    # In memory where there is some to write to: a database is a thousand files, which are removed again.
    folder = Path(tempfile.mkdtemp(prefix="nabla-pg-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, programs_folder = folder / "data", Path(initdb).resolve().parent
        quiet = {"user": user, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([initdb, "-D", data, "-U", "nabla", "-A", "trust", "-N", "-E", "UTF8"], **quiet)  # type: ignore[call-overload]
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c log_min_messages=fatal"
        control = [programs_folder / "pg_ctl", "-D", data, "-s", "-w"]
        subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], **quiet)  # type: ignore[call-overload]
        try:
            from sqlalchemy import make_url

            yield make_url(f"postgresql+psycopg://nabla@/postgres?host={folder}")
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_address(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Return the address of a new, empty database of a server: PostgreSQL, or SQLite where that is not installed.

    For tests of whole processes, where the tests of the store have shown that both databases behave alike.
    """
    return new_address("sqlite" if initdb_program() is None else "postgresql", request, tmp_path)


def new_address(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Make an empty database if it is one of PostgreSQL, and return its address."""
    from sqlalchemy import create_engine, make_url, text

    if kind == "sqlite":
        return make_url(f"sqlite:///{tmp_path / 'nabla.db'}")
    server: URL = request.getfixturevalue("postgresql")
    name = f"test_{next(NAMES)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name)
