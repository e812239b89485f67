"""The writes of a runner to its run: records, the progress, the state and the result, all of it or nothing.

Each write is bound to the claim of the runner: to its name and the number of the attempt. So a runner that has lost its
lease to another changes nothing any more.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from service.store import run_statements as sql
from service.store.blobs import check, removing, stored_bytes, with_room
from service.store.database import Database
from service.store.run_entries import Claim, Kept, Progress, RunLimits, RunUsage
from service.store.tables import PART_DIGITS
from service.store_errors import StoreError

PART_BYTES = 8 * 2**20
"""Size in bytes of one part of a state.

A larger state is written in several transactions, so that others may write in between, and the log of SQLite stays
small. The last transaction makes it the state of the run.
"""
STRIDE = 2**20
"""The sums over all runs are compared with their limits whenever a run has grown by another so many bytes."""
Held = Row[bool, str, int, int, int, int]
"""The row of a run whose claim holds, as `BEAT` returns it."""
LOST = Kept(False, False, False)


class Written(NamedTuple):
    """The values that a runner stores at once."""

    claim: Claim
    lines: bytes | None
    first: int
    last: int
    progress: Progress
    state: bytes | None
    result: bytes | None
    lease: float

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of the state and the result."""
        return len(self.state or b"") + len(self.result or b"")

    def size_after(self, row: Held) -> int:
        """Return the size of the run with all this, from the row of the run before."""
        size: int = row.size + len(self.lines or b"")
        if self.state is not None:
            size += len(self.state) - row.state_size
        if self.result is not None:
            size += len(self.result) - row.result_size
        return size

    def parts(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of the parts of the state and the result."""
        rows = []
        for of, content in ((name, self.state), (result_name(name), self.result)):
            if content is not None:
                for number, begin in enumerate(range(0, max(len(content), 1), PART_BYTES)):
                    part = memoryview(content)[begin : begin + PART_BYTES]
                    rows.append({"run": self.claim.id, "name": of, "number": number, "content": part})
        return rows


def result_name(name: str) -> str:
    """Return the name of the parts of a result that is stored together with the state called `name`."""
    return f"r{name[1:]}"


class Keeping:
    """The writes of runners to the runs of a database."""

    def __init__(self, database: Database, limits: RunLimits) -> None:
        self.database = database
        self.limits = limits

    def store(self, written: Written, complete: Callable[[Connection, Held, str], None]) -> Kept:
        """Store a state and a result in parts, the last of them in the transaction of `complete`."""
        name = secrets.token_hex(PART_DIGITS // 2)
        parts = written.parts(name)
        ready = parts[:-1] if written.nbytes > PART_BYTES else []

        def finally_(connection: Connection) -> Kept:
            row = self._held(connection, written)
            if row is None:
                return LOST
            for part in parts[len(ready) :]:
                connection.execute(sql.ADD_PART, part)
            complete(connection, row, name)
            return kept(connection, row)

        try:
            for part in ready:
                if not with_room(self.database, partial(self._add, written=written, part=part)):
                    return LOST
            return with_room(self.database, finally_)
        except BaseException:
            if ready:
                with suppress(StoreError):
                    removing(self.database, lambda connection: _drop_named(connection, written.claim.id, name))
            raise

    def _held(self, connection: Connection, written: Written) -> Held | None:
        """Extend the lease, and return the row of the run if the claim still holds.

        Raises `QuotaExceeded` if what is to be written would exceed a limit.
        """
        claim = written.claim
        row = connection.execute(sql.BEAT, fence(claim) | {"lease": written.lease}).one_or_none()
        if row is not None:
            self._check(connection, row.owner, row.size, written.size_after(row))
        return row

    def _add(self, connection: Connection, written: Written, part: dict[str, Any]) -> bool:
        """Store one part of a large state if the claim still holds. Return whether it does."""
        if self._held(connection, written) is None:
            return False
        connection.execute(sql.ADD_PART, part)
        return True

    def _check(self, connection: Connection, owner: str, before: int, after: int) -> None:
        """Raise `QuotaExceeded` if a run may not grow from `before` to `after` bytes."""
        grown = after - before
        if grown <= 0:
            return
        check("run_bytes", after, self.limits.run_bytes)
        if after // STRIDE > before // STRIDE:
            check("stored_bytes_per_key", owner_bytes(connection, owner) + grown, self.limits.owner_bytes)
            check("stored_bytes", stored_bytes(connection) + grown, self.limits.total_bytes)

    def progress(self, connection: Connection, written: Written, row: Held, name: str) -> None:
        """Store the records and the progress, and make the parts with this name the state of the run."""
        claim, progress, state = written.claim, written.progress, written.state
        again = _stored_before(connection, written, row) if written.lines else 0
        lines = (written.lines or b"")[again:]
        if lines:
            first = row.last_record + 1 if again else written.first
            rows = {"run": claim.id, "first": first, "last": written.last, "lines": lines}
            connection.execute(sql.ADD_RECORDS, rows)
        values: dict[str, Any] = {
            "of_run": claim.id,
            "new_step": progress.step,
            "new_loss": _number(progress.loss),
            "new_learning_rate": _number(progress.learning_rate),
            "new_seconds": progress.seconds,
            "new_last_record": written.last if lines else row.last_record,
            "new_size": written.size_after(row) - again,
        }
        if state is not None:
            values |= {"new_state": name, "new_state_size": len(state)}
        connection.execute(sql.KEEP[state is not None], values)
        if state is not None and written.result is None:
            connection.execute(sql.DROP_PARTS, values)


def fence(claim: Claim) -> dict[str, Any]:
    """Return what binds a write to a claim."""
    return {"of_run": claim.id, "by_worker": claim.worker, "by_attempt": claim.attempt}


def kept(connection: Connection, row: Held) -> Kept:
    """Return what a runner learns from the row of a run that it holds."""
    return Kept(True, row.cancel, connection.execute(sql.ANY_FREE).scalar() is not None)


def _stored_before(connection: Connection, written: Written, row: Held) -> int:
    """Return the number of bytes at the start of the lines that an earlier call has stored.

    If the connection is lost during a commit, the runner does not know that its records were stored, and sends them
    again, perhaps with later ones. Raises `ValueError` for other records that are not later than those stored.
    """
    if written.first > row.last_record and written.last >= written.first:
        return 0
    asked = {"of_run": written.claim.id, "of_first": written.first, "of_last": row.last_record}
    stored: bytes | None = connection.execute(sql.STORED_LINES, asked).scalar()
    if stored is None or written.lines is None or not written.lines.startswith(stored):
        raise ValueError(f"records {written.first} to {written.last} after record {row.last_record}")
    return len(stored)


def usage_of(connection: Connection, owner: str) -> RunUsage:
    return RunUsage(*map(int, connection.execute(sql.USAGE, {"of_owner": owner}).one()))


def owner_bytes(connection: Connection, owner: str) -> int:
    """Return the number of bytes of the networks and runs of an owner."""
    in_networks = connection.execute(sql.NETWORK_BYTES, {"of_owner": owner}).scalar_one()
    return int(in_networks) + usage_of(connection, owner).size


def _number(value: float | None) -> float | None:
    """Return a number as all databases hold it: SQLite has no NaN."""
    return None if value is None or math.isnan(value) else value


def _drop_named(connection: Connection, run: str, name: str) -> None:
    """Remove the parts of a state and a result that were not completed."""
    for of in (name, result_name(name)):
        connection.execute(sql.DROP_NAMED, {"of_run": run, "of_name": of})
