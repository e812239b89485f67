"""Bytes in the database that networks and runs refer to by their hash. Equal bytes are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from service.store.database import TOO_FULL, Database
from service.store.tables import blobs, networks, runs
from service.store_errors import QuotaExceeded, StoreFull

Done = TypeVar("Done")
LOCK = 0x6E6574
"""Number of the PostgreSQL lock that is held while networks or runs are added or removed."""

ADD = {
    "sqlite": sqlite.insert(blobs).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(blobs).on_conflict_do_nothing(),
}
REMOVE_UNUSED = delete(blobs).where(
    blobs.c.id == bindparam("blob"),
    ~select(networks.c.id)
    .where(or_(networks.c.definition == blobs.c.id, networks.c.parameters == blobs.c.id))
    .exists(),
    ~select(runs.c.id).where(runs.c.spec == blobs.c.id).exists(),
)
STORED = select(
    select(func.coalesce(func.sum(blobs.c.size), 0)).scalar_subquery()
    + select(func.coalesce(func.sum(runs.c.size - runs.c.spec_size), 0)).scalar_subquery()
)


def keep(connection: Connection, content: bytes) -> str:
    """Insert bytes as a blob unless they are stored already. Return the id of the blob."""
    name = hashlib.sha256(content).hexdigest()
    connection.execute(ADD[connection.dialect.name], {"id": name, "size": len(content), "content": content})
    return name


def drop(connection: Connection, name: str) -> None:
    """Remove a blob that nothing refers to any more."""
    connection.execute(REMOVE_UNUSED, {"blob": name})


def stored_bytes(connection: Connection) -> int:
    """Return the number of bytes that networks and runs of all owners take together."""
    return int(connection.execute(STORED).scalar_one())


def check(name: str, asked: int, allowed: int) -> None:
    """Raise `QuotaExceeded` for the limit `name` if more is asked than allowed."""
    if asked > allowed:
        raise QuotaExceeded(name, asked, allowed)


def with_room(database: Database, write: Callable[[Connection], Done]) -> Done:
    """Run a transaction that writes: on a full disk once more, after making room for it. Raises `StoreError`."""
    try:
        with database.writing() as connection:
            return write(connection)
    except StoreFull:
        database.make_room()
    with database.writing() as connection:
        return write(connection)


def removing(database: Database, remove: Callable[[Connection], Done]) -> Done:
    """Run a transaction that removes something: on a full disk once more, after making room for it."""

    def locked(connection: Connection) -> Done:
        database.lock(connection, LOCK)
        return remove(connection)

    try:
        return with_room(database, locked)
    except StoreFull:
        raise StoreFull(TOO_FULL) from None
