"""The runs in the database: add, find, cancel, and what a runner does with them: claim, keep, and finish.

One row is one run, and also its place in the queue. A runner claims a run for a short time, its lease, and extends the
lease whenever it keeps something. A run whose lease is over may be claimed by any runner, which goes on from the last
state. Each write of a runner is bound to its claim, so a runner that has lost its lease changes nothing any more.

All times are those of the database, so the clocks of the machines need not agree.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Update

from service.store import run_statements as sql
from service.store.blobs import LOCK, check, drop, keep, removing, stored_bytes, with_room
from service.store.database import Database
from service.store.networks import disown
from service.store.run_entries import (
    Claim,
    Kept,
    NewRun,
    Progress,
    RunEntry,
    RunLimits,
    RunUsage,
)
from service.store.run_keeping import LOST, Held, Keeping, Written, fence, kept, owner_bytes, result_name, usage_of
from service.store.tables import RUN_DIGITS
from service.store_errors import KeyReused, StoreError, StoreFull, StoreUnavailable

__all__ = (
    "Claim",
    "Kept",
    "NewRun",
    "Progress",
    "RunEntry",
    "RunLimits",
    "RunUsage",
    "Runs",
    "network_owner",
)

LEASE_SECONDS = 15.0
"""Lease in seconds while a large result is written."""


class Runs:
    """The repository of the runs of all owners.

    Each method runs its own transaction and raises the errors of `Database`.
    """

    def __init__(self, database: Database, limits: RunLimits) -> None:
        self.database = database
        self.limits = limits
        self._keeping = Keeping(database, limits)

    # --- for owners

    def add(self, owner: str, new: NewRun) -> tuple[str, bool]:
        """Add a run to the queue. Return its id, and whether it is new.

        The same idempotency key with the same kind and request gives the id of the earlier run. Raises `KeyReused` for
        the same key with another request, `QuotaExceeded`, and `StoreFull` where the data of all owners together has
        reached its limit.
        """
        name = secrets.token_hex(RUN_DIGITS // 2)
        size = len(new.spec)
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            if new.idempotency_key is not None:
                earlier = _with_key(connection, owner, new)
                if earlier is not None:
                    return earlier, False
            used, limits = usage_of(connection, owner), self.limits
            check("runs", used.runs + 1, limits.runs)
            check("unfinished_runs", used.unfinished + 1, limits.unfinished)
            check("stored_bytes_per_key", owner_bytes(connection, owner) + size, limits.owner_bytes)
            if stored_bytes(connection) + size > limits.total_bytes:
                raise StoreFull("All that this server stores has reached its limit; nothing was stored.")
            row = {
                "id": name,
                "owner": owner,
                "kind": new.kind,
                "spec": keep(connection, new.spec),
                "of": new.of,
                "base64": new.base64,
                "idempotency_key": new.idempotency_key,
                "size": size,
                "spec_size": size,
            }
            connection.execute(sql.ADD, row)
            for network in dict.fromkeys(new.networks):
                _keep_network(connection, owner, name, network)
        return name, True

    def find(self, owner: str, run: str) -> RunEntry | None:
        """Return a run if this owner has it, otherwise None."""
        with self.database.reading() as connection:
            return _find(connection, owner, run)

    def listed(
        self, owner: str, count: int, after: tuple[float, str] | None = None, status: str | None = None
    ) -> list[RunEntry]:
        """Return at most `count` runs of an owner, the newest first, all of them or those of one status.

        `after` is the `created` and id of the run where the previous page ended.
        """
        asked: dict[str, Any] = {"of_owner": owner, "count": count}
        if after is not None:
            asked |= {"after_created": after[0], "after_run": after[1]}
        if status is not None:
            asked |= {"of_status": status}
        with self.database.reading() as connection:
            rows = connection.execute(sql.LISTED[after is not None, status is not None], asked)
            return [RunEntry(*row) for row in rows]

    def usage(self, owner: str) -> RunUsage:
        """Return how many runs an owner has, and their bytes."""
        with self.database.reading() as connection:
            return usage_of(connection, owner)

    def result(self, owner: str, run: str) -> bytes | None:
        """Return the result of a run that has ended. None: this owner has no such run, or it has no result."""
        with self.database.reading() as connection:
            return _joined(connection, sql.RESULT, {"of_owner": owner, "of_run": run})

    def records(self, owner: str, run: str, after: int, most_bytes: int = 2**20) -> list[tuple[int, int, bytes]]:
        """Return the next records as chunks of first step, last step and lines.

        The first chunk may begin before `after`, but each ends after it. There are as many as fit into `most_bytes`, at
        least one if there is any.
        """
        asked: dict[str, Any] = {"of_owner": owner, "of_run": run, "after": after}
        with self.database.reading() as connection:
            ahead = connection.execute(sql.RECORDS_AHEAD, asked).all()
            if not ahead:
                return []
            end, total = ahead[0].first, 0
            for first, _, size in ahead:
                total += size
                if total > most_bytes:
                    break
                end = first
            bounds = {"of_run": run, "from_first": ahead[0].first, "to_first": end}
            return [(first, last, lines) for first, last, lines in connection.execute(sql.RECORDS, bounds)]

    def cancel(self, owner: str, run: str) -> RunEntry | None:
        """Cancel a run that waits, or ask the runner to cancel it. A run that has ended is unchanged.

        Return the run, or None if this owner has no such run.
        """
        mine = {"of_owner": owner, "of_run": run}

        def cancel(connection: Connection) -> RunEntry | None:
            if connection.execute(sql.CANCEL_WAITING, mine).rowcount:
                connection.execute(sql.DROP_PARTS, mine)
            else:
                connection.execute(sql.CANCEL_RUNNING, mine)
            return _find(connection, owner, run)

        return with_room(self.database, cancel)

    def resume(self, owner: str, run: str, steps: int | None) -> tuple[RunEntry | None, bool]:
        """Put a run that has ended back into the queue, with `steps` more steps. One that diverged is unchanged.

        Return the run, or None if this owner has no such run, and whether it was put back: another call may have done
        that first. Raises `QuotaExceeded` for too many unfinished runs.
        """
        mine = {"of_owner": owner, "of_run": run}
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            resumed = bool(connection.execute(sql.RESUME, mine | {"more": steps or 0}).rowcount)
            if resumed:
                check("unfinished_runs", usage_of(connection, owner).unfinished, self.limits.unfinished)
                connection.execute(sql.DROP_PARTS, mine)
            return _find(connection, owner, run), resumed

    def remove(self, owner: str, run: str) -> bool:
        """Remove a run with its records, also while it computes. Return whether the owner had it."""
        return self._remove(sql.TAKE, {"of_owner": owner, "of_run": run})

    # --- for runners

    def claim(self, worker: str, seconds: float, fingerprint: str = "") -> Claim | None:
        """Claim a run for so many seconds: one that waits, or one whose lease is over. None: there is none.

        The owners with the fewest running runs come first, of these the one whose last turn is longest ago, and then
        the runs that wait longest. `worker` names this runner among all others; a run that is claimed under this name
        already is claimed anew. The run records `fingerprint`, the numerics of this runner, and the claim has that of
        the runner before.
        """
        asked = {"new_worker": worker, "lease": seconds}
        with self.database.reading() as connection:  # runners ask again and again, and a writer would block others
            if connection.execute(sql.ANY_FREE_FOR, asked).scalar() is None:
                return None
        with self.database.writing() as connection:
            for run in connection.execute(sql.GIVE_UP, asked).scalars().all():
                connection.execute(sql.DROP_PARTS, {"of_run": run})
            row = connection.execute(sql.CLAIM, asked).one_or_none()
            if row is None:
                return None
            mine = {"of_run": row.id}
            connection.execute(sql.DROP_PARTS, mine)
            if row.fingerprint != fingerprint:
                connection.execute(sql.SET_FINGERPRINT, mine | {"new_fingerprint": fingerprint})
        with self.database.reading() as connection:
            spec = connection.execute(sql.SPEC, mine).scalar()
            state = _joined(connection, sql.STATE, mine)
        return None if spec is None else Claim(**row._mapping, spec=spec, state=state)  # the owner may have removed it

    def keep(
        self,
        claim: Claim,
        lines: bytes | None,
        first: int,
        last: int,
        progress: Progress,
        state: bytes | None,
        lease: float,
    ) -> Kept:
        """Store records, the progress and a state, and extend the lease. All of it is stored, or nothing.

        `first` and `last` are the steps of the first and last record in `lines`, later than those stored before.
        `state` is that at the step of `progress`; None leaves the earlier one. Raises `QuotaExceeded` where the run,
        the owner or all owners together would exceed their limits, and `ValueError` for records that are stored.
        """
        written = Written(claim, lines, first, last, progress, state, None, lease)

        def keep(connection: Connection, row: Held, name: str) -> None:
            self._keeping.progress(connection, written, row, name)

        return self._keeping.store(written, keep)

    def beat(self, claim: Claim, lease: float) -> Kept:
        """Extend the lease."""
        with self.database.writing() as connection:
            row = connection.execute(sql.BEAT, fence(claim) | {"lease": lease}).one_or_none()
            return LOST if row is None else kept(connection, row)

    def release(self, claim: Claim) -> None:
        """Put a run back into the queue, behind those that wait, or end it if its owner has cancelled it."""
        with_room(self.database, lambda connection: connection.execute(sql.RELEASE, fence(claim)).rowcount)

    def finish(
        self,
        claim: Claim,
        status: str,
        reason: str | None,
        lines: bytes | None,
        first: int,
        last: int,
        progress: Progress,
        state: bytes | None,
        result: bytes | None,
    ) -> bool:
        """Store the last records, the state and the result of a run, and end it. Return whether the claim still holds.

        Raises the errors of `keep`.
        """
        written = Written(claim, lines, first, last, progress, state, result, LEASE_SECONDS)

        def end(connection: Connection, row: Held, name: str) -> None:
            self._keeping.progress(connection, written, row, name)
            ended = {
                "of_run": claim.id,
                "new_status": status,
                "new_reason": reason,
                "new_result": None if result is None else result_name(name),
                "new_result_size": len(result or b""),
            }
            connection.execute(sql.END, ended)
            connection.execute(sql.DROP_PARTS, ended)

        return self._keeping.store(written, end).alive

    def fail(self, claim: Claim, reason: str) -> None:
        """End a run as failed, with what was kept so far."""
        asked = fence(claim) | {"new_reason": reason}
        with_room(self.database, lambda connection: connection.execute(sql.FAIL, asked).rowcount)

    # --- for the server

    def forget(self, before: float) -> int:
        """Remove runs that ended before the time `before`, and what a removal that failed has left of others.

        Return how many were removed. Raises `StoreError`.
        """
        removed = 0
        while True:
            with self.database.reading() as connection:  # mostly there is nothing to remove
                run = connection.execute(sql.NEXT_OLD, {"before": before}).scalar()
            if run is None or not self._remove(sql.TAKE_OLD, {"of_run": run, "before": before}):
                return removed
            removed += 1

    def _remove(self, take: Update, asked: dict[str, Any]) -> bool:
        """Take a run from its owner, and delete what belongs to it. Return whether there was such a run.

        Many records are deleted in several transactions, so that others may write in between. Raises `StoreError` where
        the run cannot be taken. If a later transaction fails, `forget` deletes the rest.
        """

        def begin(connection: Connection) -> bool | None:
            return _remove_some(connection, asked["of_run"]) if connection.execute(take, asked).rowcount else None

        done = removing(self.database, begin)
        if done is None:
            return False
        with suppress(StoreError):
            while not done:
                done = removing(self.database, lambda connection: _remove_some(connection, asked["of_run"]))
        return True

    def counts(self) -> dict[str, int]:
        """Return the number of runs of each status that any run has."""
        with self.database.reading() as connection:
            return {row.status: row.runs for row in connection.execute(sql.COUNTS)}

    def runners(self) -> int:
        """Return the number of runners that compute a run now."""
        with self.database.reading() as connection:
            return connection.execute(sql.RUNNERS).scalar_one()


def _find(connection: Connection, owner: str, run: str) -> RunEntry | None:
    row = connection.execute(sql.FIND, {"of_owner": owner, "of_run": run, "count": 1}).one_or_none()
    return None if row is None else RunEntry(*row)


def _joined(connection: Connection, query: Any, asked: dict[str, Any]) -> bytes | None:
    """Return the content of all parts that a query selects. None: there are none."""
    contents = connection.execute(query, asked).scalars().all()
    if len(contents) == 1:
        content: bytes = contents[0]
        return content
    return b"".join(contents) if contents else None


def _with_key(connection: Connection, owner: str, new: NewRun) -> str | None:
    """Return the id of the run that has the idempotency key of a new one. None: there is none. Raises `KeyReused`."""
    row = connection.execute(sql.SAME_KEY, {"of_owner": owner, "of_key": new.idempotency_key}).one_or_none()
    if row is None:
        return None
    if row.kind != new.kind or row.spec != hashlib.sha256(new.spec).hexdigest():
        raise KeyReused("This Idempotency-Key was sent before, with another request.")
    name: str = row.id
    return name


def _keep_network(connection: Connection, owner: str, run: str, network: str) -> None:
    """Make a run the owner of a network. Raises `StoreUnavailable` if the owner of the run no longer has it."""
    asked = {"of_owner": owner, "of_run_owner": network_owner(run), "of_network": network}
    if connection.execute(sql.KEEP_NETWORK, asked).scalar() is None:
        raise StoreUnavailable("A network that the request names is being removed.")


def network_owner(run: str) -> str:
    """Return the name under which the networks of a run are stored."""
    return f"run:{run}"


def _remove_some(connection: Connection, run: str) -> bool:
    """Delete some of the records of a run, or else all that is left of it. Return whether nothing is left."""
    mine = {"of_run": run, "of_run_owner": network_owner(run)}
    if connection.execute(sql.DROP_RECORDS, mine).rowcount == sql.AT_ONCE:
        return False
    connection.execute(sql.DROP_ALL_PARTS, mine)
    for spec in connection.execute(sql.REMOVE, mine).scalars().all():
        drop(connection, spec)
    for network in connection.execute(sql.KEPT_NETWORKS, mine).scalars().all():
        disown(connection, network_owner(run), network)
    return True
