"""Networks in the database: added, found, listed, removed, and forgotten when nobody used them for long.

A network is known by a hash of its content, so whoever sends the same again gets the same id, and the bytes are stored
once. Each key that sent it owns it: what one owner removes, the others keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from service.store.content import Content
from service.store.database import Database
from service.store.errors import QuotaExceeded, StoreFull
from service.store.tables import blobs, networks, owners

LOCK = 0x6E6574
"""The number of the lock of those who add networks and remove them, in PostgreSQL."""
AT_ONCE = 100
"""Networks that are forgotten in one transaction: others may write between two of them."""


class Quotas(NamedTuple):
    """How much may be stored."""

    networks: int
    """Networks of one owner."""
    owner_bytes: int
    """Bytes of all networks of one owner."""
    total_bytes: int
    """Bytes of all owners together; what several own counts once."""


class Entry(NamedTuple):
    """A network as its owner sees it."""

    id: str
    format: str
    size: int
    summary: str
    created: float
    """When this owner sent it first."""
    used: float
    """When this owner used it last, to the hour."""


class Usage(NamedTuple):
    """What an owner stores."""

    networks: int
    size: int


def _columns() -> Select[str, str, int, str, float, float]:
    return select(
        networks.c.id, networks.c.format, networks.c.size, networks.c.summary, owners.c.created, owners.c.used
    ).join_from(owners, networks, owners.c.network == networks.c.id)


class Networks:
    """The networks of all owners. Every method is a transaction of its own, and raises as `Database` says."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    def add(self, owner: str, content: Content, summary: str, quotas: Quotas, now: float) -> bool:
        """Store a network, or note that its owner sent it again. Returns whether this owner had it not.

        Raises `QuotaExceeded`, and `StoreFull` where all owners together store as much as they may.
        """
        name = content.id
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            mine = _is((owners.c.owner, owners.c.network), (owner, name))
            used = update(owners).where(mine).values(used=now)
            if connection.execute(used).rowcount:
                connection.execute(update(networks).where(networks.c.id == name).values(summary=summary))
                return False
            usage = _usage(connection, owner)
            _check("stored_networks", usage.networks + 1, quotas.networks)
            _check("stored_bytes_per_key", usage.size + content.size, quotas.owner_bytes)
            known = connection.execute(select(networks.c.id).where(networks.c.id == name)).scalar() is not None
            if known:
                connection.execute(update(networks).where(networks.c.id == name).values(summary=summary))
            else:
                self._add_content(connection, content, summary, quotas.total_bytes, now)
            row = {"owner": owner, "network": name, "size": content.size, "created": now, "used": now}
            connection.execute(owners.insert().values(row))
            return True

    def _add_content(self, connection: Connection, content: Content, summary: str, most: int, now: float) -> None:
        stored = connection.execute(select(func.coalesce(func.sum(blobs.c.size), 0))).scalar_one()
        if stored + content.size > most:
            raise StoreFull("All that this server stores has reached its limit; nothing was stored.")
        definition = self._add_blob(connection, content.definition)
        parameters = None if content.parameters is None else self._add_blob(connection, content.parameters)
        row = {
            "id": content.id,
            "format": content.format,
            "definition": definition,
            "parameters": parameters,
            "size": content.size,
            "created": now,
            "summary": summary,
        }
        connection.execute(networks.insert().values(row))

    def _add_blob(self, connection: Connection, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        row = {"id": name, "size": len(content), "content": content}
        connection.execute(self._insert(blobs).values(row).on_conflict_do_nothing())
        return name

    def find(self, owner: str, name: str) -> Entry | None:
        """The network if this owner has it."""
        with self.database.reading() as connection:
            row = connection.execute(_columns().where(owners.c.owner == owner, owners.c.network == name)).one_or_none()
        return None if row is None else Entry(*row)

    def content(self, owner: str, name: str) -> Content | None:
        """What a network of this owner is made of."""
        values = blobs.alias()
        asked = (
            select(networks.c.format, blobs.c.content, values.c.content)
            .join_from(networks, blobs, networks.c.definition == blobs.c.id)
            .join(values, networks.c.parameters == values.c.id, isouter=True)
            .join(owners, owners.c.network == networks.c.id)
            .where(owners.c.owner == owner, owners.c.network == name)
        )
        with self.database.reading() as connection:
            row = connection.execute(asked).one_or_none()
        return None if row is None else Content(*row)

    def definition(self, owner: str, name: str) -> bytes | None:
        """The definition alone of a network of this owner."""
        return self._blob(owner, name, networks.c.definition)

    def parameters(self, owner: str, name: str) -> bytes | None:
        """The parameters alone, as safetensors; None where there are none."""
        return self._blob(owner, name, networks.c.parameters)

    def _blob(self, owner: str, name: str, which: ColumnElement[str] | ColumnElement[str | None]) -> bytes | None:
        asked = (
            select(blobs.c.content)
            .join_from(networks, blobs, which == blobs.c.id)
            .join(owners, owners.c.network == networks.c.id)
            .where(owners.c.owner == owner, owners.c.network == name)
        )
        with self.database.reading() as connection:
            return connection.execute(asked).scalar()

    def listed(self, owner: str, count: int, after: tuple[float, str] | None = None) -> list[Entry]:
        """At most so many networks of an owner, the newest first; those `after` one, by its `created` and id."""
        asked = _columns().where(owners.c.owner == owner)
        if after is not None:
            asked = asked.where(tuple_(owners.c.created, owners.c.network) < after)
        asked = asked.order_by(owners.c.created.desc(), owners.c.network.desc()).limit(count)
        with self.database.reading() as connection:
            return [Entry(*row) for row in connection.execute(asked)]

    def usage(self, owner: str) -> Usage:
        """How much an owner stores."""
        with self.database.reading() as connection:
            return _usage(connection, owner)

    def remove(self, owner: str, name: str) -> bool:
        """Take a network from its owner, and its bytes where nobody else has it. Returns whether the owner had it."""
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            return self._remove(connection, [(owner, name)]) > 0

    def forget(self, before: float) -> int:
        """Remove what its owner did not use since a time, some at a time. Returns how many were removed."""
        with self.database.reading() as connection:  # mostly there is nothing, and a writer would make others wait
            if not connection.execute(select(owners.c.network).where(owners.c.used < before).limit(1)).first():
                return 0
        old = select(owners.c.owner, owners.c.network).where(owners.c.used < before).limit(AT_ONCE)
        removed = 0
        while True:
            with self.database.writing() as connection:
                self.database.lock(connection, LOCK)
                rows = [(row.owner, row.network) for row in connection.execute(old)]
                removed += self._remove(connection, rows) if rows else 0
            if len(rows) < AT_ONCE:
                return removed

    def note_uses(self, uses: Mapping[tuple[str, str], float]) -> None:
        """Note when owners used networks."""
        with self.database.writing() as connection:
            for pair, when in uses.items():
                mine = _is((owners.c.owner, owners.c.network), pair)
                connection.execute(update(owners).where(mine, owners.c.used < when).values(used=when))

    def _remove(self, connection: Connection, pairs: list[tuple[str, str]]) -> int:
        removed: int = connection.execute(
            delete(owners).where(or_(*(_is((owners.c.owner, owners.c.network), pair) for pair in pairs)))
        ).rowcount
        names = {name for _, name in pairs}
        owned = select(owners.c.network).where(owners.c.network == networks.c.id).exists()
        gone = delete(networks).where(networks.c.id.in_(names), ~owned)
        freed = connection.execute(gone.returning(networks.c.definition, networks.c.parameters)).all()
        for name in {each for row in freed for each in row if each is not None}:
            holds = or_(networks.c.definition == name, networks.c.parameters == name)
            connection.execute(delete(blobs).where(blobs.c.id == name, ~select(networks.c.id).where(holds).exists()))
        return removed


def _is(columns: Iterable[ColumnElement[str]], values: Iterable[str]) -> ColumnElement[bool]:
    one, other = (column == value for column, value in zip(columns, values, strict=True))
    return one & other


def _usage(connection: Connection, owner: str) -> Usage:
    asked = select(func.count(), func.coalesce(func.sum(owners.c.size), 0)).where(owners.c.owner == owner)
    count, size = connection.execute(asked).one()
    return Usage(count, int(size))


def _check(name: str, asked: int, allowed: int) -> None:
    if asked > allowed:
        raise QuotaExceeded(name, asked, allowed)
