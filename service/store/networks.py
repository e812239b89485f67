"""The networks in the database: add, find, list, remove, and forget what was not used for long.

The id of a network is a hash of its content. So whoever sends the same network again gets the same id, and the bytes
are stored once. Each key that sent a network owns it: what one owner removes, the others keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)

from service.store.blobs import LOCK, check, drop, keep, removing, stored_bytes
from service.store.content import Content
from service.store.database import Database
from service.store.tables import blobs, networks, owners, runs
from service.store_errors import StoreFull

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
RUN_BYTES = select(func.coalesce(func.sum(runs.c.size), 0)).where(runs.c.owner == _OWNER)
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
DISOWN = delete(owners).where(_MINE)
REMOVE_UNOWNED = (
    delete(networks).where(networks.c.id == _NETWORK, ~_OWNED).returning(networks.c.definition, networks.c.parameters)
)
ANY_OLD = select(literal(1)).select_from(owners).where(_OLD).limit(1)
SOME_OLD = select(owners.c.owner, owners.c.network).where(_OLD).limit(AT_ONCE)


class Networks:
    """The repository of the networks of all owners.

    Each method runs its own transaction and raises the errors of `Database`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

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
            in_runs = connection.execute(RUN_BYTES, mine).scalar_one()
            check("stored_networks", count + 1, quotas.networks)
            check("stored_bytes_per_key", int(size) + int(in_runs) + content.size, quotas.owner_bytes)
            if not known:
                self._add_content(connection, content, told, quotas.total_bytes, now)
            row = {"owner": owner, "network": name, "size": content.size, "created": now, "used": now}
            connection.execute(ADD_OWNER, row)
            return True

    def _add_content(self, connection: Connection, content: Content, told: Told, most: int, now: float) -> None:
        """Insert a network and its bytes. Raises `StoreFull` if all networks would exceed `most` bytes."""
        if stored_bytes(connection) + content.size > most:
            raise StoreFull("All that this server stores has reached its limit; nothing was stored.")
        definition = keep(connection, content.definition)
        parameters = None if content.parameters is None else keep(connection, content.parameters)
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
        return removing(self.database, lambda connection: disown(connection, owner, name))

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
            rows = removing(self.database, lambda connection: _forget_some(connection, old))
            removed += sum(rows)
            if len(rows) < AT_ONCE:
                return removed

    def note_uses(self, uses: Mapping[tuple[str, str], float]) -> None:
        """Record the times at which owners used networks."""
        with self.database.writing() as connection:
            for (owner, name), when in uses.items():
                connection.execute(NOTE_USE, {"of_owner": owner, "of_network": name, "now": when})


def _forget_some(connection: Connection, old: Mapping[str, float]) -> list[bool]:
    return [disown(connection, row.owner, row.network) for row in connection.execute(SOME_OLD, old).all()]


def disown(connection: Connection, owner: str, name: str) -> bool:
    """Remove a network from its owner, within a transaction. Return whether the owner had it."""
    mine = {"of_owner": owner, "of_network": name}
    if not connection.execute(DISOWN, mine).rowcount:
        return False
    for row in connection.execute(REMOVE_UNOWNED, mine).all():
        for blob in {row.definition, row.parameters} - {None}:
            drop(connection, blob)
    return True
