"""The upgrade of the tables of a database to the latest version.

The version of a database that is up to date is read in one query, without Alembic. Otherwise one process migrates the
database in one transaction that excludes other writers. The other processes wait and then find the work done.

    python -m service.store.upgrade --new "summary of the change"     writes a migration for the changes in tables.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, exc, inspect, make_url, text

from service.store.database import BUSY_SECONDS, DAMAGED, Database, log
from service.store_errors import StoreUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

LATEST = "0002"
"""The version of the tables that this program needs. A test compares it with the migrations."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_SECONDS = 120
"""Longest time in seconds that a process waits while another process migrates."""
LOCK = 0x6E61626C61
"""Number of the migration lock in PostgreSQL: "nabla" in ASCII."""


def upgrade(database: Database) -> None:
    """Create the tables, or migrate them to the latest version.

    Raises `StoreUnavailable`, also for a database of a later version of this program.
    """
    if version_of(database) == LATEST:
        return
    if database.is_sqlite:
        _use_wal(database)
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS}s'"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{MIGRATION_SECONDS}s'"))
        database.lock(connection, LOCK)
        if _version(connection) != LATEST:
            _migrate(connection)


def version_of(database: Database) -> str | None:
    """Return the version of the tables in a database. None: the database is empty. Raises `StoreUnavailable`."""
    with database.reading() as connection:
        return _version(connection)


def _version(connection: Connection) -> str | None:
    """Return the version of the tables. None: the database has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def _migrate(connection: Connection) -> None:
    """Migrate the tables to the latest version. Raises `StoreUnavailable`."""
    from alembic import command
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    try:
        command.upgrade(_config(connection), "head")
    except (CommandError, RevisionError) as error:
        log.error("the database cannot be migrated: %s; it may be of a later version of this program", error)
        raise StoreUnavailable("The database of this server is of another version of the program.") from None
    log.info("the database is of version %s now", LATEST)


def _config(connection: Connection) -> Config:
    """Return a configuration of Alembic that uses this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _use_wal(database: Database) -> None:
    """Switch a SQLite file to WAL mode, which is permanent. Another process may do so at the same time."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        raw = None
        try:
            raw = database.engine.raw_connection()
            mode = raw.cursor().execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except exc.DBAPIError as error:
            raise database.meaning(error) from None
        except database.engine.dialect.loaded_dbapi.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY") and time.monotonic() < end:
                time.sleep(0.02)
                continue
            log.error("the database says: %s", error)
            raise StoreUnavailable(DAMAGED) from None
        finally:
            if raw is not None:
                raw.close()
        if mode != "wal":
            log.warning("the file system keeps SQLite from using WAL; readers wait for writers")
        return


def write_migration(message: str) -> None:
    """Write a migration for the difference between tables.py and the existing migrations."""
    from alembic import command
    from alembic.script import ScriptDirectory

    with tempfile.TemporaryDirectory() as folder:
        database = Database(make_url(f"sqlite:///{folder}/new.db"))
        upgrade(database)
        with database.engine.connect() as connection:
            config = _config(connection)
            number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
        database.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a migration for what tables.py has and the migrations lack.")
    parser.add_argument("--new", metavar="MESSAGE", required=True)
    with suppress(KeyboardInterrupt):
        write_migration(parser.parse_args().new)
