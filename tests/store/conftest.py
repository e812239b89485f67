"""Fixtures with databases for the tests of the store: SQLite always, PostgreSQL where its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL

from service.store.database import Database
from service.store.networks import Networks
from service.store.runs import Runs
from service.store.tables import metadata
from service.store.upgrade import upgrade
from tests.store.running import LIMITS

NAMES = count()
MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """Start a PostgreSQL server that only this user reaches, and yield its address."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(programs[-1]) if programs else None)
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
            yield make_url(f"postgresql+psycopg://nabla@/postgres?host={folder}")
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Return the address of a new, empty database."""
    if request.param == "sqlite":
        return URL.create("sqlite", database=str(tmp_path / "nabla.db"))
    server: URL = request.getfixturevalue("postgresql")
    name = f"test_{next(NAMES)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name)


@pytest.fixture
def database(address: URL) -> Iterator[Database]:
    """Open a database without tables."""
    made = Database(address)
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared(postgresql: URL) -> URL:
    """Return the address of a PostgreSQL database that is up to date. Its tests empty it, for making one takes long."""
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE shared"))
    engine.dispose()
    made = Database(postgresql.set(database="shared"))
    upgrade(made)
    made.close()
    return made.url


@pytest.fixture(scope="session")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite database that is up to date, of which tests take copies: making one takes longer."""
    file = tmp_path_factory.mktemp("current") / "nabla.db"
    made = Database(URL.create("sqlite", database=str(file)))
    upgrade(made)
    made.close()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Open an empty database that is up to date."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("current"), tmp_path / "nabla.db")
        database = Database(URL.create("sqlite", database=str(tmp_path / "nabla.db")))
    else:
        database = Database(request.getfixturevalue("shared"))
        with database.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    yield database
    database.close()


@pytest.fixture
def stored(empty: Database) -> Networks:
    """Return the networks of an empty database."""
    return Networks(empty)


@pytest.fixture
def kept(empty: Database) -> Runs:
    """Return the runs of an empty database."""
    return Runs(empty, LIMITS)
