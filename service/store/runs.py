"""The runs in the database: add, find, cancel, and what a runner does with them: claim, keep, and finish.

One row is one run, and also its place in the queue. A runner claims a run for a short time, its lease, and extends the
lease whenever it keeps something. A run whose lease is over may be claimed by any runner, which goes on from the last
state. Each write of a runner is bound to its claim, so a runner that has lost its lease changes nothing any more.

All times are those of the database, so the clocks of the machines need not agree.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from service.store import run_statements as sql
from service.store.blobs import LOCK, check, drop, keep, removing, stored_bytes, with_room
from service.store.database import Database
from service.store.networks import disown
from service.store.tables import PART_DIGITS, RUN_DIGITS
from service.store_errors import KeyReused, StoreError, StoreFull, StoreUnavailable

PART_BYTES = 8 * 2**20
"""Size in bytes of one part of a state.

A larger state is written in several transactions, so that others may write in between, and the log of SQLite stays
small. The last transaction makes it the state of the run.
"""
STRIDE = 2**20
"""The sums over all runs are compared with their limits whenever a run has grown by another so many bytes."""
LEASE_SECONDS = 15.0
"""Lease in seconds while a large result is written."""


class NewRun(NamedTuple):
    """A run to be added."""

    kind: str
    spec: bytes
    """The request as it was sent."""
    of: int
    """Number of steps."""
    base64: bool = False
    networks: tuple[str, ...] = ()
    """Ids of the stored networks that the request names. They are kept as long as the run."""
    idempotency_key: str | None = None


class RunQuotas(NamedTuple):
    """The limits on new runs."""

    runs: int
    """Largest number of runs of one owner."""
    unfinished: int
    """Largest number of runs of one owner that wait or compute."""
    owner_bytes: int
    """Largest number of bytes of all networks and runs of one owner."""
    total_bytes: int
    """Largest number of bytes of all owners together."""


class RunLimits(NamedTuple):
    """The limits on runs that are there."""

    unfinished: int
    """As in `RunQuotas`, for a run that is resumed."""
    run_bytes: int
    """Largest number of bytes of one run."""
    owner_bytes: int
    total_bytes: int


class RunUsage(NamedTuple):
    """The amount of runs that an owner stores."""

    runs: int
    unfinished: int
    size: int


class RunEntry(NamedTuple):
    """A run as its owner sees it. Times are in seconds since 1970, by the clock of the database."""

    id: str
    kind: str
    status: str
    reason: str | None
    attempt: int
    worker: str | None
    created: float
    started: float | None
    ended: float | None
    step: int
    of: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    """Time that runners have computed."""
    cancel: bool
    size: int
    base64: bool
    extra_steps: int
    fingerprint: str
    state_step: int | None
    now: float
    """Time of this reading."""


class Claim(NamedTuple):
    """A run that a runner may continue, with all that it needs to do so."""

    id: str
    owner: str
    kind: str
    attempt: int
    worker: str
    of: int
    step: int
    extra_steps: int
    base64: bool
    seconds: float
    size: int
    spec: bytes
    state: bytes | None
    """The last state. None: the run begins at its start."""
    last_record: int
    """Step of the last record that is stored. -1: there is none."""
    cancel: bool
    fingerprint: str


class Kept(NamedTuple):
    """What a runner learns when it keeps something."""

    alive: bool
    """Whether the claim still holds. If not, nothing was kept, and the runner must drop the run."""
    cancel: bool
    others_wait: bool


class Progress(NamedTuple):
    """How far a run has come."""

    step: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    """Time that runners have computed so far, in all attempts."""


Held = Row[bool, str, int, int, int, int]
"""The row of a run whose claim holds, as `BEAT` returns it."""
LOST = Kept(False, False, False)


class Runs:
    """The repository of the runs of all owners.

    Each method runs its own transaction and raises the errors of `Database`.
    """

    def __init__(self, database: Database, limits: RunLimits) -> None:
        self.database = database
        self.limits = limits

    # --- for owners

    def add(self, owner: str, new: NewRun, quotas: RunQuotas) -> tuple[str, bool]:
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
            used = _usage(connection, owner)
            check("runs", used.runs + 1, quotas.runs)
            check("unfinished_runs", used.unfinished + 1, quotas.unfinished)
            check("stored_bytes_per_key", _owner_bytes(connection, owner) + size, quotas.owner_bytes)
            if stored_bytes(connection) + size > quotas.total_bytes:
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
            return _usage(connection, owner)

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
            if not connection.execute(sql.CANCEL_WAITING, mine).rowcount:
                connection.execute(sql.CANCEL_RUNNING, mine)
            return _find(connection, owner, run)

        return with_room(self.database, cancel)

    def resume(self, owner: str, run: str, steps: int | None) -> RunEntry | None:
        """Put a run that has ended back into the queue, with `steps` more steps. One that diverged is unchanged.

        Return the run, or None if this owner has no such run. Raises `QuotaExceeded` for too many unfinished runs.
        """
        mine = {"of_owner": owner, "of_run": run}
        with self.database.writing() as connection:
            self.database.lock(connection, LOCK)
            if connection.execute(sql.RESUME, mine | {"more": steps or 0}).rowcount:
                check("unfinished_runs", _usage(connection, owner).unfinished, self.limits.unfinished)
                connection.execute(sql.DROP_PARTS, mine)
            return _find(connection, owner, run)

    def remove(self, owner: str, run: str) -> bool:
        """Remove a run with its records, also while it computes. Return whether the owner had it."""
        mine = {"of_owner": owner, "of_run": run}

        def remove(connection: Connection) -> bool:
            if connection.execute(sql.HAS, mine).scalar() is None:
                return False
            _remove(connection, run)
            return True

        return removing(self.database, remove)

    # --- for runners

    def claim(self, worker: str, seconds: float, fingerprint: str = "") -> Claim | None:
        """Claim a run for so many seconds: one that waits, or one whose lease is over. None: there is none.

        The owners with the fewest running runs come first, then the runs that wait longest. `worker` names this runner
        among all others. The first claim of a run records the `fingerprint`.
        """
        with self.database.reading() as connection:  # runners ask again and again, and a writer would block others
            if connection.execute(sql.ANY_FREE).scalar() is None:
                return None
        asked = {"new_worker": worker, "lease": seconds, "new_fingerprint": fingerprint}
        with self.database.writing() as connection:
            connection.execute(sql.GIVE_UP)
            row = connection.execute(sql.CLAIM, asked).one_or_none()
            if row is None:
                return None
            mine = {"of_run": row.id}
            connection.execute(sql.DROP_PARTS, mine)
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
        written = _Written(claim, lines, first, last, progress, state, None, lease)

        def keep(connection: Connection, row: Held, name: str) -> None:
            self._progress(connection, written, row, name)

        return self._store(written, keep)

    def beat(self, claim: Claim, lease: float) -> Kept:
        """Extend the lease."""
        with self.database.writing() as connection:
            row = connection.execute(sql.BEAT, _fence(claim) | {"lease": lease}).one_or_none()
            return LOST if row is None else _kept(connection, row)

    def release(self, claim: Claim) -> None:
        """Put a run back into the queue, behind those that wait, or end it if its owner has cancelled it."""
        with_room(self.database, lambda connection: connection.execute(sql.RELEASE, _fence(claim)).rowcount)

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
        written = _Written(claim, lines, first, last, progress, state, result, LEASE_SECONDS)

        def end(connection: Connection, row: Held, name: str) -> None:
            self._progress(connection, written, row, name)
            ended = {
                "of_run": claim.id,
                "new_status": status,
                "new_reason": reason,
                "new_result": None if result is None else _result_name(name),
                "new_result_size": len(result or b""),
            }
            connection.execute(sql.END, ended)
            connection.execute(sql.DROP_PARTS, ended)

        return self._store(written, end).alive

    def fail(self, claim: Claim, reason: str) -> None:
        """End a run as failed, with what was kept so far."""
        asked = _fence(claim) | {"new_reason": reason}
        with_room(self.database, lambda connection: connection.execute(sql.FAIL, asked).rowcount)

    # --- for the server

    def forget(self, before: float) -> int:
        """Remove runs that ended before the time `before`, in batches. Return how many were removed."""
        old = {"before": before}
        with self.database.reading() as connection:  # mostly there is nothing to remove
            if connection.execute(sql.ANY_OLD, old).scalar() is None:
                return 0
        removed = 0
        while True:
            count = removing(self.database, lambda connection: _forget_some(connection, before))
            removed += count
            if count < sql.AT_ONCE:
                return removed

    def counts(self) -> dict[str, int]:
        """Return the number of runs of each status that any run has."""
        with self.database.reading() as connection:
            return {row.status: row.runs for row in connection.execute(sql.COUNTS)}

    # --- how something is kept

    def _store(self, written: _Written, complete: Callable[[Connection, Held, str], None]) -> Kept:
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
            return _kept(connection, row)

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

    def _held(self, connection: Connection, written: _Written) -> Held | None:
        """Extend the lease, and return the row of the run if the claim still holds.

        Raises `QuotaExceeded` if what is to be written would exceed a limit.
        """
        claim = written.claim
        row = connection.execute(sql.BEAT, _fence(claim) | {"lease": written.lease}).one_or_none()
        if row is not None:
            self._check(connection, row.owner, row.size, written.size_after(row))
        return row

    def _add(self, connection: Connection, written: _Written, part: dict[str, Any]) -> bool:
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
            check("stored_bytes_per_key", _owner_bytes(connection, owner) + grown, self.limits.owner_bytes)
            check("stored_bytes", stored_bytes(connection) + grown, self.limits.total_bytes)

    def _progress(self, connection: Connection, written: _Written, row: Held, name: str) -> None:
        """Store the records and the progress, and make the parts with this name the state of the run."""
        claim, progress, state = written.claim, written.progress, written.state
        if written.lines:
            if written.first <= row.last_record or written.last < written.first:
                raise ValueError(f"record {written.first} after {row.last_record}")
            lines = {"run": claim.id, "first": written.first, "last": written.last, "lines": written.lines}
            connection.execute(sql.ADD_RECORDS, lines)
        values: dict[str, Any] = {
            "of_run": claim.id,
            "new_step": progress.step,
            "new_loss": _number(progress.loss),
            "new_learning_rate": _number(progress.learning_rate),
            "new_seconds": progress.seconds,
            "new_last_record": written.last if written.lines else row.last_record,
            "new_size": written.size_after(row),
        }
        if state is not None:
            values |= {"new_state": name, "new_state_size": len(state)}
        connection.execute(sql.KEEP[state is not None], values)
        if state is not None and written.result is None:
            connection.execute(sql.DROP_PARTS, values)


class _Written(NamedTuple):
    """What a runner stores at once."""

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
        for of, content in ((name, self.state), (_result_name(name), self.result)):
            if content is not None:
                for number, begin in enumerate(range(0, max(len(content), 1), PART_BYTES)):
                    part = memoryview(content)[begin : begin + PART_BYTES]
                    rows.append({"run": self.claim.id, "name": of, "number": number, "content": part})
        return rows


def _result_name(name: str) -> str:
    """Return the name of the parts of a result that is stored together with the state called `name`."""
    return f"r{name[1:]}"


def _fence(claim: Claim) -> dict[str, Any]:
    """Return what binds a write to a claim."""
    return {"of_run": claim.id, "by_worker": claim.worker, "by_attempt": claim.attempt}


def _kept(connection: Connection, row: Held) -> Kept:
    """Return what a runner learns from the row of a run that it holds."""
    return Kept(True, row.cancel, connection.execute(sql.ANY_FREE).scalar() is not None)


def _number(value: float | None) -> float | None:
    """Return a number as all databases hold it: SQLite has no NaN."""
    return None if value is None or math.isnan(value) else value


def _find(connection: Connection, owner: str, run: str) -> RunEntry | None:
    row = connection.execute(sql.FIND, {"of_owner": owner, "of_run": run, "count": 1}).one_or_none()
    return None if row is None else RunEntry(*row)


def _usage(connection: Connection, owner: str) -> RunUsage:
    return RunUsage(*map(int, connection.execute(sql.USAGE, {"of_owner": owner}).one()))


def _owner_bytes(connection: Connection, owner: str) -> int:
    """Return the number of bytes of the networks and runs of an owner."""
    in_networks = connection.execute(sql.NETWORK_BYTES, {"of_owner": owner}).scalar_one()
    return int(in_networks) + _usage(connection, owner).size


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
    if not connection.execute(sql.KEEP_NETWORK, asked).rowcount:
        raise StoreUnavailable("A network that the request names is being removed.")


def network_owner(run: str) -> str:
    """Return the name under which the networks of a run are stored."""
    return f"run:{run}"


def _drop_named(connection: Connection, run: str, name: str) -> None:
    """Remove the parts of a state and a result that were not completed."""
    for of in (name, _result_name(name)):
        connection.execute(sql.DROP_NAMED, {"of_run": run, "of_name": of})


def _forget_some(connection: Connection, before: float) -> int:
    """Remove some of the runs that ended before a time. Return how many."""
    names = connection.execute(sql.SOME_OLD, {"before": before}).scalars().all()
    for name in names:
        _remove(connection, name)
    return len(names)


def _remove(connection: Connection, run: str) -> None:
    """Remove a run with all that belongs to it."""
    mine = {"of_run": run, "of_run_owner": network_owner(run)}
    connection.execute(sql.DROP_ALL_PARTS, mine)
    connection.execute(sql.DROP_RECORDS, mine)
    for spec in connection.execute(sql.REMOVE, mine).scalars().all():
        drop(connection, spec)
    for network in connection.execute(sql.KEPT_NETWORKS, mine).scalars().all():
        disown(connection, network_owner(run), network)
