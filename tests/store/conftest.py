"""Fixtures with databases for the tests of the store: SQLite always, PostgreSQL where its programs are installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from service.store.database import Database
from service.store.networks import Networks
from service.store.runs import Runs
from service.store.tables import metadata
from service.store.upgrade import upgrade
from tests.databases import new_address
from tests.store.running import LIMITS


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Return the address of a new, empty database."""
    return new_address(request.param, request, tmp_path)


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
