"""The networks in the database: add, find, list, remove, and forget what was not used for long.

The id of a network is a hash of its content. So whoever sends the same network again gets the same id, and the bytes
are stored once. Each key that sent a network owns it: what one owner removes, the others keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from service.store.content import Content
from service.store.database import TOO_FULL, Database
from service.store.tables import blobs, networks, owners
from service.store_errors import QuotaExceeded, StoreFull

Removed = TypeVar("Removed")
LOCK = 0x6E6574
"""Number of the PostgreSQL lock that is held while networks are added or removed."""
AT_ONCE = 100
"""Number of networks that are forgotten in one transaction. Others may write between two transactions."""


class Quotas(NamedTuple):
    """The limits on how much may be stored."""

    networks: int
    """Largest number of networks of one owner."""
    owner_bytes: int
    """Largest number of bytes of all networks of one owner."""
    total_bytes: int
    """Largest number of bytes of all owners together. A network with several owners counts once."""


class Told(NamedTuple):
    """The description of a network for callers, as JSON texts."""

    brief: str
    """JSON of the entry in a listing."""
    summary: str


class Entry(NamedTuple):
    """A stored network as its owner sees it."""

    id: str
    format: str
    size: int
    text: str
    """The `brief` text in a listing, otherwise the `summary` text."""
    created: float
    """Time when this owner first sent the network."""
    used: float
    """Time when this owner last used the network, to the hour."""


class Usage(NamedTuple):
    """The amount of data that an owner stores."""

    networks: int
    size: int


# The statements are built once, because building one takes longer than SQLite takes to run most of them, and each is
# part of a reference cycle that lives until the next garbage collection.
_OWNER: BindParameter[str] = bindparam("of_owner")
_NETWORK: BindParameter[str] = bindparam("of_network")
_NOW: BindParameter[float] = bindparam("now")
_MINE = (owners.c.owner == _OWNER) & (owners.c.network == _NETWORK)
_OWNED = select(owners.c.network).where(owners.c.network == networks.c.id).exists()
_PARAMETERS = blobs.alias()


def _entries(text: ColumnElement[str]) -> Select[str, str, int, str, float, float]:
    """Return a query for networks with their owners, which selects `text` as the text of each entry."""
    return select(networks.c.id, networks.c.format, networks.c.size, text, owners.c.created, owners.c.used).join_from(
        owners, networks, owners.c.network == networks.c.id
    )


_NEWEST = (
    _entries(networks.c.brief)
    .where(owners.c.owner == _OWNER)
    .order_by(owners.c.created.desc(), owners.c.network.desc())
    .limit(bindparam("count"))
)
_OLD = owners.c.used < bindparam("before")


FIND = _entries(networks.c.summary).where(_MINE)
FIRST_PAGE = _NEWEST
NEXT_PAGE = _NEWEST.where(
    tuple_(owners.c.created, owners.c.network) < tuple_(bindparam("after_created"), bindparam("after_network"))
)
USAGE = select(func.count(), func.coalesce(func.sum(owners.c.size), 0)).where(owners.c.owner == _OWNER)
STORED = select(func.coalesce(func.sum(blobs.c.size), 0))
IS_KNOWN = select(literal(1)).where(networks.c.id == _NETWORK)
CONTENT = (
    select(networks.c.format, blobs.c.content, _PARAMETERS.c.content)
    .join_from(networks, blobs, networks.c.definition == blobs.c.id)
    .join(_PARAMETERS, networks.c.parameters == _PARAMETERS.c.id, isouter=True)
    .join(owners, owners.c.network == networks.c.id)
    .where(_MINE)
)
DEFINITION = (
    select(blobs.c.content)
    .join_from(networks, blobs, networks.c.definition == blobs.c.id)
    .join(owners, owners.c.network == networks.c.id)
    .where(_MINE)
)
USE = update(owners).where(_MINE).values(used=_NOW)
NOTE_USE = update(owners).where(_MINE, owners.c.used < _NOW).values(used=_NOW)
TELL_ANEW = (
    update(networks)
    .where(networks.c.id == _NETWORK)
    .values(brief=bindparam("new_brief"), summary=bindparam("new_summary"))
)
ADD_NETWORK, ADD_OWNER = networks.insert(), owners.insert()
ADD_BLOB = {
    "sqlite": sqlite.insert(blobs).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(blobs).on_conflict_do_nothing(),
}
DISOWN = delete(owners).where(_MINE)
REMOVE_UNOWNED = (
    delete(networks).where(networks.c.id == _NETWORK, ~_OWNED).returning(networks.c.definition, networks.c.parameters)
)
REMOVE_UNUSED = delete(blobs).where(
    blobs.c.id == bindparam("blob"),
    ~select(networks.c.id)
    .where(or_(networks.c.definition == blobs.c.id, networks.c.parameters == blobs.c.id))
    .exists(),
)
ANY_OLD = select(literal(1)).select_from(owners).where(_OLD).limit(1)
SOME_OLD = select(owners.c.owner, owners.c.network).where(_OLD).limit(AT_ONCE)


class Networks:
    """The repository of the networks of all owners.

    Each method runs its own transaction and raises the errors of `Database`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._add_blob = ADD_BLOB[database.url.get_backend_name()]

    def add(self, owner: str, content: Content, told: Told, quotas: Quotas, now: float) -> bool:
        """Store a network, or record that its owner sent it again. Return whether it is new for this owner.

        Raises `QuotaExceeded`, and `StoreFull` where the data of all owners together has reached its limit.
        """
        name = content.id
        mine = {"of_owner": owner, "of_network": name}
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            known = connection.execute(IS_KNOWN, mine).scalar() is not None
            if known:
                # This version of the program may compute what an earlier one refused.
                connection.execute(TELL_ANEW, mine | {"new_brief": told.brief, "new_summary": told.summary})
                if connection.execute(USE, mine | {"now": now}).rowcount:
                    return False
            count, size = connection.execute(USAGE, mine).one()
            _check("stored_networks", count + 1, quotas.networks)
            _check("stored_bytes_per_key", int(size) + content.size, quotas.owner_bytes)
            if not known:
                self._add_content(connection, content, told, quotas.total_bytes, now)
            row = {"owner": owner, "network": name, "size": content.size, "created": now, "used": now}
            connection.execute(ADD_OWNER, row)
            return True

    def _add_content(self, connection: Connection, content: Content, told: Told, most: int, now: float) -> None:
        """Insert a network and its bytes. Raises `StoreFull` if all networks would exceed `most` bytes."""
        if int(connection.execute(STORED).scalar_one()) + content.size > most:
            raise StoreFull("All that this server stores has reached its limit; nothing was stored.")
        definition, parameters = (self._keep(connection, part) for part in (content.definition, content.parameters))
        row = {
            "id": content.id,
            "format": content.format,
            "definition": definition,
            "parameters": parameters,
            "size": content.size,
            "created": now,
            **told._asdict(),
        }
        connection.execute(ADD_NETWORK, row)

    def _keep(self, connection: Connection, content: bytes | None) -> str | None:
        """Insert bytes as a blob unless they are stored already. Return the id of the blob."""
        if content is None:
            return None
        name = hashlib.sha256(content).hexdigest()
        connection.execute(self._add_blob, {"id": name, "size": len(content), "content": content})
        return name

    def find(self, owner: str, name: str) -> Entry | None:
        """Return the network if this owner has it, otherwise None."""
        with self.database.reading() as connection:
            row = connection.execute(FIND, {"of_owner": owner, "of_network": name}).one_or_none()
        return None if row is None else Entry(*row)

    def content(self, owner: str, name: str) -> Content | None:
        """Return the content of a network if this owner has it, otherwise None."""
        with self.database.reading() as connection:
            row = connection.execute(CONTENT, {"of_owner": owner, "of_network": name}).one_or_none()
        return None if row is None else Content(*row)

    def definition(self, owner: str, name: str) -> bytes | None:
        """Return the definition of a network, without its parameters, if this owner has it. Otherwise return None."""
        with self.database.reading() as connection:
            return connection.execute(DEFINITION, {"of_owner": owner, "of_network": name}).scalar()

    def listed(self, owner: str, count: int, after: tuple[float, str] | None = None) -> list[Entry]:
        """Return at most `count` networks of an owner, the newest first.

        `after` is the `created` and id of the entry where the previous page ended.
        """
        asked = {"of_owner": owner, "count": count}
        if after is not None:
            asked |= {"after_created": after[0], "after_network": after[1]}
        with self.database.reading() as connection:
            rows = connection.execute(FIRST_PAGE if after is None else NEXT_PAGE, asked)
            return [Entry(*row) for row in rows]

    def usage(self, owner: str) -> Usage:
        """Return how much an owner stores."""
        with self.database.reading() as connection:
            count, size = connection.execute(USAGE, {"of_owner": owner}).one()
        return Usage(count, int(size))

    def remove(self, owner: str, name: str) -> bool:
        """Remove a network from its owner.

        Return whether the owner had it. The bytes are deleted with the last owner.
        """
        return self._removing(lambda connection: self._remove(connection, owner, name))

    def forget(self, before: float) -> int:
        """Remove networks that their owners have not used since the time `before`, in batches.

        Return how many were removed.
        """
        old = {"before": before}
        with (
            self.database.reading() as connection
        ):  # mostly there is nothing to remove, and a writer would block others
            if connection.execute(ANY_OLD, old).scalar() is None:
                return 0
        removed = 0
        while True:
            rows = self._removing(lambda connection: self._remove_some(connection, old))
            removed += sum(rows)
            if len(rows) < AT_ONCE:
                return removed

    def note_uses(self, uses: Mapping[tuple[str, str], float]) -> None:
        """Record the times at which owners used networks."""
        with self.database.writing() as connection:
            for (owner, name), when in uses.items():
                connection.execute(NOTE_USE, {"of_owner": owner, "of_network": name, "now": when})

    def _removing(self, remove: Callable[[Connection], Removed]) -> Removed:
        """Run a transaction that removes something: on a full disk once more, after making room for it."""
        for last in (False, True):
            try:
                with self.database.writing() as connection:
                    self.database.lock(connection, LOCK)
                    return remove(connection)
            except StoreFull:
                if last:
                    raise StoreFull(TOO_FULL) from None
                self.database.make_room()
        raise AssertionError

    def _remove_some(self, connection: Connection, old: Mapping[str, float]) -> list[bool]:
        return [self._remove(connection, row.owner, row.network) for row in connection.execute(SOME_OLD, old).all()]

    def _remove(self, connection: Connection, owner: str, name: str) -> bool:
        """Remove a network from its owner, within a transaction. Return whether the owner had it."""
        mine = {"of_owner": owner, "of_network": name}
        if not connection.execute(DISOWN, mine).rowcount:
            return False
        for row in connection.execute(REMOVE_UNOWNED, mine).all():
            for blob in {row.definition, row.parameters} - {None}:
                connection.execute(REMOVE_UNUSED, {"blob": blob})
        return True


def _check(name: str, asked: int, allowed: int) -> None:
    """Raise `QuotaExceeded` for the limit `name` if more is asked than allowed."""
    if asked > allowed:
        raise QuotaExceeded(name, asked, allowed)
