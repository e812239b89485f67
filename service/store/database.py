"""Access to a database: connections, transactions, and the translation of database errors.

SQLite and PostgreSQL are treated differently only here and in `upgrade.py`.

- SQLite: a file in WAL mode, so that readers never wait for the one writer. Writers begin with BEGIN IMMEDIATE: a
  transaction that reads first and writes later would be refused at once if another wrote in between. After a loss of
  power the database is intact, but may lack the last transactions (synchronous=NORMAL).
- PostgreSQL: psycopg, with limits on how long a connection and a statement may take.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, exc, text
from sqlalchemy.engine import URL, Engine

from service.store_errors import NoStore, StoreError, StoreFull, StoreUnavailable

BUSY_SECONDS = 5
"""Longest time in seconds that a writer waits for another writer, or for a connection to the database server."""
STATEMENT_SECONDS = 10
"""Longest time in seconds that a statement may take in PostgreSQL."""
SILENT_SECONDS = 12.0
"""Time in seconds after which the connection of a PostgreSQL transaction is cut.

A server that hangs would not end the statement itself.
"""
GLANCE_SECONDS = 0.5
CONNECTIONS = 6
"""Number of connections of a process: one for each slot of storage, and the rest for background work."""
RETRY_SECONDS = 2.0
"""Time in seconds before a database that could not be reached is tried again. Each attempt may take seconds."""
WAL_BYTES = 64 * 2**20
"""Largest size in bytes of the SQLite log that stays on disk after a checkpoint."""

log = logging.getLogger("nabla.store")

GONE = "The database of this server cannot be reached now."
BUSY = "The database of this server is busy."
DAMAGED = "The database of this server cannot be read."
FULL = "The disk of this server's database is full; nothing was stored."
TOO_FULL = "The disk of this server's database is so full that not even a removal can be noted; nothing was removed."
READ_ONLY = "The database of this server cannot be written."


class Database:
    """A pool of connections to one database, for many threads of one process."""

    def __init__(self, url: URL) -> None:
        """Prepare the engine, which connects at the first transaction.

        Raises `NoStore` where the driver is not installed.
        """
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._unreachable_until = 0.0
        self._deadlines = Deadlines()
        self._file = _identity(url.database) if self.is_sqlite else None
        try:
            self.engine = self._sqlite() if self.is_sqlite else self._postgresql()
        except ModuleNotFoundError as error:
            log.error("the database %s needs the package %s", url.render_as_string(), error.name)
            raise NoStore("This server lacks the driver of its database, so it stores nothing.") from None
        self._writer = self.engine.execution_options(immediate=True)

    def _sqlite(self) -> Engine:
        """Return an engine for a SQLite database."""
        engine = create_engine(
            self.url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            connect_args={"timeout": BUSY_SECONDS},
        )
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "begin", _begin)
        return engine

    def _postgresql(self) -> Engine:
        """Return an engine for a PostgreSQL database, with limits on waiting."""
        limits = f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={BUSY_SECONDS}s"
        return create_engine(
            self.url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            pool_recycle=1800,
            connect_args={"connect_timeout": BUSY_SECONDS, "options": limits, "tcp_user_timeout": 1000 * BUSY_SECONDS},
        )

    def is_there(self) -> bool:
        """Return whether the open database file still exists at its path.

        SQLite would go on writing to a removed file.
        """
        return not self.is_sqlite or _identity(self.url.database) == self._file

    def forget(self) -> None:
        """Drop the connections of the parent process after a fork, without closing them."""
        self.engine.dispose(close=False)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads, and yield its connection. Raises `StoreUnavailable`."""
        with self._transaction(self.engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, and yield its connection.

        Everything is stored at the end of the block, or nothing if the block raises. Raises `StoreUnavailable` and
        `StoreFull`.
        """
        with self._transaction(self._writer) as connection:
            yield connection

    def make_room(self) -> None:
        """Move what SQLite's log holds into the file and empty the log, so that a transaction has its room.

        Does nothing where that cannot be done now.
        """
        if not self.is_sqlite:
            return
        with self._connected(self.engine) as connection, suppress(sqlite3.Error):
            # The driver itself does it, for SQLAlchemy would begin a transaction first.
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def lock(self, connection: Connection, number: int) -> None:
        """Exclude other transactions that lock the same number. In SQLite only one writer runs at a time anyway."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        """Open a transaction and yield its connection. Database errors become errors of the store."""
        if time.monotonic() < self._unreachable_until:
            raise StoreUnavailable(GONE)
        with self._connected(engine) as connection:
            descriptor = None if self.is_sqlite else self._watched(connection)
            try:
                with connection.begin():
                    yield connection
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    self._pause()
                raise self.meaning(error) from None
            finally:
                if descriptor is not None:
                    self._deadlines.forget(descriptor)

    def _connected(self, engine: Engine) -> Connection:
        """Return a connection from the pool. Raises `StoreError`."""
        try:
            return engine.connect()
        except exc.TimeoutError:
            raise StoreUnavailable(BUSY) from None
        except exc.DBAPIError as error:
            self._pause()
            raise self.meaning(error) from None

    def _pause(self) -> None:
        """Refuse all transactions for a moment after the database server could not be reached."""
        if not self.is_sqlite:
            self._unreachable_until = time.monotonic() + RETRY_SECONDS

    def _watched(self, connection: Connection) -> int:
        """Set a deadline on the socket of a connection, and return the descriptor of the socket.

        A lost connection is renewed first.
        """
        for last in (False, True):
            try:
                descriptor: int = connection.connection.dbapi_connection.fileno()  # type: ignore[union-attr]
                self._deadlines.watch(descriptor, SILENT_SECONDS)
                try:
                    connection.exec_driver_sql("SELECT 1")
                    connection.rollback()
                except BaseException:
                    self._deadlines.forget(descriptor)
                    raise
                return descriptor
            except exc.DBAPIError as error:
                if last or not error.connection_invalidated:
                    self._pause()
                    raise self.meaning(error) from None
                connection.rollback()  # the next statement takes a new connection
        raise AssertionError

    def meaning(self, error: exc.DBAPIError) -> StoreError:
        """Return the error of the store that stands for a database error. The original message goes to the log."""
        original = error.orig
        kind: type[StoreError] = StoreUnavailable
        words = str(original).strip().partition("\n")[0]
        code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or ""
        if not code and "recover database" in words:
            code = "SQLITE_CORRUPT"
        sentence = GONE
        for beginning, meant, said in MEANINGS:
            if code.startswith(beginning):
                kind, sentence = meant, said
                break
        log.error("the database says: %s", words, extra={"fields": {"code": code or type(original).__name__}})
        return kind(sentence)


MEANINGS: tuple[tuple[str, type[StoreError], str], ...] = (
    ("SQLITE_FULL", StoreFull, FULL),
    ("SQLITE_BUSY", StoreUnavailable, BUSY),
    ("SQLITE_LOCKED", StoreUnavailable, BUSY),
    ("SQLITE_CORRUPT", StoreUnavailable, DAMAGED),
    ("SQLITE_NOTADB", StoreUnavailable, DAMAGED),
    ("SQLITE_READONLY", StoreUnavailable, READ_ONLY),
    ("SQLITE_TOOBIG", StoreFull, "This is more than the database of this server takes at once."),
    ("53100", StoreFull, FULL),
    ("53200", StoreUnavailable, BUSY),
    ("55P03", StoreUnavailable, BUSY),
    ("57014", StoreUnavailable, BUSY),
    ("25006", StoreUnavailable, READ_ONLY),
)
"""Prefixes of error codes (names of SQLite, SQLSTATE of PostgreSQL), each with the error and the text for callers."""


class Deadlines:
    """A watchdog that shuts down sockets whose deadline has passed, for many threads.

    The first use starts its own thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[int, float] = {}
        self._runs = False

    def watch(self, descriptor: int, seconds: float) -> None:
        """Shut this socket down after so many seconds, unless `forget` is called before."""
        with self._lock:
            self._due[descriptor] = time.monotonic() + seconds
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="nabla-database", daemon=True).start()

    def forget(self, descriptor: int) -> None:
        """Remove the deadline of this socket."""
        with self._lock:
            self._due.pop(descriptor, None)

    def _run(self) -> None:
        """Shut down sockets whose deadline has passed, in an endless loop."""
        while True:
            time.sleep(GLANCE_SECONDS)
            now = time.monotonic()
            with self._lock:
                for descriptor in [each for each, due in self._due.items() if due <= now]:
                    del self._due[descriptor]
                    # A thread that waits for an answer gets an error. The driver still owns the descriptor.
                    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as cut:
                        cut.shutdown(socket.SHUT_RDWR)


def _identity(path: str | None) -> tuple[int, int] | None:
    """Return the numbers that tell a file from another file at the same path. None: there is no file."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare_connection(connection: Any, record: object) -> None:
    """Set up a new connection to SQLite."""
    connection.isolation_level = None  # the driver would begin transactions itself, but too late
    for pragma in (
        f"busy_timeout = {int(1000 * BUSY_SECONDS)}",
        "foreign_keys = ON",
        "synchronous = NORMAL",
        "secure_delete = FAST",  # writing zeros over all that is removed takes room, which a full disk has not
        f"journal_size_limit = {WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """Begin a transaction in SQLite, with the write lock where the connection has the option `immediate`."""
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def make_file(path: Path) -> None:
    """Create the file of a database and its folder, readable by this user alone. Raises `NoStore`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        probe = path.with_name(
            f".probe-{os.getpid()}-{threading.get_ident()}"
        )  # SQLite writes its log in the same folder
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
        probe.unlink()
    except OSError as error:
        log.error("nothing can be stored at %s: %s; NABLA_DATA names another folder", path, error.strerror or error)
        raise NoStore("This server has no folder that it may write to, so it stores nothing.") from None
