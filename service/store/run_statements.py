"""The SQL of the runs in the database. The statements are built once, as those of `networks.py`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    Select,
    bindparam,
    case,
    delete,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from schemas.runs import UNFINISHED
from service.store.run_entries import BY_OWNER
from service.store.tables import blobs, owners, parts, records, runs

RESUMABLE = ("completed", "stopped", "cancelled", "failed")
RECENT_SECONDS = 900.0
"""Seconds for which a turn of an owner counts against its next one."""
MOST_FAILURES = 5
"""Number of attempts, without the state moving on, after which a run fails."""
HOPELESS = f"{MOST_FAILURES} attempts ended before a new state was stored: processes were stopped or lacked memory"
REMOVED = "removed"
"""Status of a run that no owner has any more, until all of it is deleted."""
AT_ONCE = 2000
"""Number of rows of records that are deleted in one transaction."""
PAGE = 500
"""Largest number of rows of records that are read at once."""


class Now(FunctionElement[float]):
    """The time in seconds since 1970 by the clock of the database, which is one for all runners."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS double precision)"


_OWNER: BindParameter[str] = bindparam("of_owner")
_RUN: BindParameter[str] = bindparam("of_run")
_MINE = (runs.c.id == _RUN) & (runs.c.owner == _OWNER)
_FENCE = (
    (runs.c.id == _RUN)
    & (runs.c.worker == bindparam("by_worker"))
    & (runs.c.attempt == bindparam("by_attempt"))
    & (runs.c.status == "running")
)
_LEASE = Now() + bindparam("lease", type_=Double())
_IS_FREE = runs.c.status.in_(UNFINISHED) & (runs.c.lease_until < Now())
_WORKER: BindParameter[str] = bindparam("new_worker")
# A runner that asks for a run computes none. One that has its name is of a process in the same place that was killed.
_IS_FREE_FOR = runs.c.status.in_(UNFINISHED) & or_(runs.c.lease_until < Now(), runs.c.worker == _WORKER)

ENTRY = (
    select(
        runs.c.id,
        runs.c.kind,
        runs.c.status,
        runs.c.reason,
        runs.c.attempt,
        runs.c.worker,
        runs.c.created,
        runs.c.started,
        runs.c.ended,
        runs.c.step,
        runs.c.of,
        runs.c.loss,
        runs.c.learning_rate,
        runs.c.seconds,
        runs.c.cancel,
        runs.c.size,
        runs.c.base64,
        runs.c.extra_steps,
        runs.c.fingerprint,
        runs.c.state_step,
        runs.c.result_size,
        Now(),
    )
    .order_by(runs.c.created.desc(), runs.c.id.desc())
    .limit(bindparam("count"))
)
FIND = ENTRY.where(_MINE)
_AFTER = tuple_(runs.c.created, runs.c.id) < tuple_(bindparam("after_created"), bindparam("after_run"))
_OF_STATUS = runs.c.status == bindparam("of_status")
_LISTED = ENTRY.where(runs.c.owner == _OWNER)
LISTED = {
    (False, False): _LISTED,
    (True, False): _LISTED.where(_AFTER),
    (False, True): _LISTED.where(_OF_STATUS),
    (True, True): _LISTED.where(_AFTER, _OF_STATUS),
}
"""Queries for a page of a listing, by whether it follows another page and whether it has a status."""
USAGE = select(
    func.count(),
    func.coalesce(func.sum(case((runs.c.status.in_(UNFINISHED), 1), else_=0)), 0),
    func.coalesce(func.sum(runs.c.size), 0),
).where(runs.c.owner == _OWNER)
NETWORK_BYTES = select(func.coalesce(func.sum(owners.c.size), 0)).where(owners.c.owner == _OWNER)
RUNNERS = select(func.count(runs.c.worker.distinct())).where(runs.c.status == "running", runs.c.lease_until >= Now())
COUNTS = select(runs.c.status, func.count().label("runs")).where(runs.c.status != REMOVED).group_by(runs.c.status)

SAME_KEY = select(runs.c.id, runs.c.kind, runs.c.spec).where(
    runs.c.owner == _OWNER, runs.c.idempotency_key == bindparam("of_key")
)
ADD = runs.insert().values(
    status="queued",
    fingerprint="",
    cancel=False,
    attempt=0,
    failures=0,
    lease_until=0.0,
    created=Now(),
    queued_at=Now(),
    extra_steps=0,
    step=0,
    last_record=-1,
    seconds=0.0,
    state_size=0,
    result_size=0,
)
FOREVER = 253402300800.0
"""The recorded use of a network that a run keeps: the year 10000, so that it is never forgotten for its age."""
KEEP_NETWORK = (
    owners.insert()
    .from_select(
        ["owner", "network", "size", "created", "used"],
        select(
            bindparam("of_run_owner", type_=owners.c.owner.type),
            owners.c.network,
            owners.c.size,
            Now(),
            literal(FOREVER),
        ).where(owners.c.owner == _OWNER, owners.c.network == bindparam("of_network")),
    )
    .returning(owners.c.network)
)
KEPT_NETWORKS = select(owners.c.network).where(owners.c.owner == bindparam("of_run_owner"))

_BEFORE = records.alias()
RECORDS_AHEAD = (
    select(records.c.first, records.c.last, func.length(records.c.lines))
    .where(
        records.c.run == select(runs.c.id).where(_MINE).scalar_subquery(),
        records.c.last > bindparam("after"),
        # Without this, the rows before would be looked at one by one.
        records.c.first
        >= func.coalesce(
            select(func.max(_BEFORE.c.first))
            .where(_BEFORE.c.run == _RUN, _BEFORE.c.first <= bindparam("after"))
            .scalar_subquery(),
            0,
        ),
    )
    .order_by(records.c.first)
    .limit(PAGE)
)
RECORDS = (
    select(records.c.first, records.c.last, records.c.lines)
    .where(records.c.run == _RUN, records.c.first >= bindparam("from_first"), records.c.first <= bindparam("to_first"))
    .order_by(records.c.first)
)
STORED_LINES = select(records.c.lines).where(
    records.c.run == _RUN, records.c.first == bindparam("of_first"), records.c.last == bindparam("of_last")
)
RESULT = (
    select(parts.c.content)
    .join_from(runs, parts, (parts.c.run == runs.c.id) & (parts.c.name == runs.c.result))
    .where(_MINE)
    .order_by(parts.c.number)
)
SPEC = select(blobs.c.content).join_from(runs, blobs, runs.c.spec == blobs.c.id).where(runs.c.id == _RUN)
STATE = (
    select(parts.c.content)
    .join_from(runs, parts, (parts.c.run == runs.c.id) & (parts.c.name == runs.c.state))
    .where(runs.c.id == _RUN)
    .order_by(parts.c.number)
)


def _any_free(is_lost: ColumnElement[bool]) -> Select[int | None]:
    """Return a query for 1 if there is a run that waits, or one that computes and fulfils the condition. Else for NULL.

    The order makes PostgreSQL take the index: it would look at all rows, and expect to find one soon.
    """
    both = (runs.c.status == "queued", (runs.c.status == "running") & is_lost)
    first, second = (select(literal(1)).where(each).order_by(runs.c.queued_at).limit(1) for each in both)
    return select(func.coalesce(first.scalar_subquery(), second.scalar_subquery()))


ANY_FREE = _any_free(runs.c.lease_until < Now())
ANY_FREE_FOR = _any_free((runs.c.lease_until < Now()) | (runs.c.worker == _WORKER))
GIVE_UP = (
    update(runs)
    .where(_IS_FREE_FOR, runs.c.failures >= MOST_FAILURES)
    .values(status="failed", reason=HOPELESS, ended=Now(), worker=null(), lease_until=0.0)
    .returning(runs.c.id)
)
_BUSY = (
    select(runs.c.owner, func.count().label("running"))
    .where(runs.c.status == "running", runs.c.lease_until >= Now())
    .group_by(runs.c.owner)
    .subquery()
)
# When the last turn of an owner ended: that of a run which was given back, or which ended. Without it an owner with
# many runs would have as many turns before another owner's first one. As one query with OR, SQLite would read all rows.
_TURN = union_all(
    select(runs.c.owner, runs.c.queued_at.label("at")).where(runs.c.status == "queued", runs.c.attempt > 0),
    select(runs.c.owner, runs.c.ended).where(runs.c.ended >= Now() - RECENT_SECONDS, runs.c.attempt > 0),
).subquery()
_LAST_TURN = select(_TURN.c.owner, func.max(_TURN.c.at).label("at")).group_by(_TURN.c.owner).subquery()
_NEXT = (
    select(runs.c.id)
    .join_from(runs, _BUSY, runs.c.owner == _BUSY.c.owner, isouter=True)
    .join(_LAST_TURN, runs.c.owner == _LAST_TURN.c.owner, isouter=True)
    .where(_IS_FREE_FOR)
    .order_by(func.coalesce(_BUSY.c.running, 0), func.coalesce(_LAST_TURN.c.at, 0.0), runs.c.queued_at, runs.c.id)
    .limit(1)
    .with_for_update(skip_locked=True, of=runs)
    .correlate(None)
)
CLAIM = (
    update(runs)
    .where(runs.c.id == _NEXT.scalar_subquery())
    .values(
        status="running",
        worker=_WORKER,
        attempt=runs.c.attempt + 1,
        failures=runs.c.failures + 1,
        lease_until=_LEASE,
        started=func.coalesce(runs.c.started, Now()),
    )
    .returning(
        runs.c.id,
        runs.c.owner,
        runs.c.kind,
        runs.c.attempt,
        runs.c.worker,
        runs.c.of,
        runs.c.step,
        runs.c.extra_steps,
        runs.c.base64,
        runs.c.seconds,
        runs.c.size,
        runs.c.last_record,
        runs.c.cancel,
        runs.c.fingerprint,
    )
)
SET_FINGERPRINT = update(runs).where(runs.c.id == _RUN).values(fingerprint=bindparam("new_fingerprint"))
BEAT = (
    update(runs)
    .where(_FENCE)
    .values(lease_until=_LEASE)
    .returning(runs.c.cancel, runs.c.owner, runs.c.size, runs.c.state_size, runs.c.result_size, runs.c.last_record)
)

_NEW_STEP: BindParameter[int] = bindparam("new_step", type_=BigInteger())
# A runner that repeats steps after a kill is behind the last record for a while, and owners see the step that was
# reached before.
_IS_BEHIND = runs.c.step > _NEW_STEP
_PROGRESS: dict[str, Any] = {
    "step": case((_IS_BEHIND, runs.c.step), else_=_NEW_STEP),
    "loss": case((_IS_BEHIND, runs.c.loss), else_=bindparam("new_loss", type_=Double())),
    "learning_rate": case((_IS_BEHIND, runs.c.learning_rate), else_=bindparam("new_learning_rate", type_=Double())),
    "seconds": bindparam("new_seconds"),
    "last_record": bindparam("new_last_record"),
    "size": bindparam("new_size"),
}
_STATE: dict[str, Any] = {
    "state": bindparam("new_state"),
    "state_step": _NEW_STEP,
    "state_size": bindparam("new_state_size"),
    "failures": case((runs.c.state_step >= _NEW_STEP, runs.c.failures), else_=0),
}
KEEP = {
    False: update(runs).where(runs.c.id == _RUN).values(**_PROGRESS),
    True: update(runs).where(runs.c.id == _RUN).values(**_PROGRESS, **_STATE),
}
"""Updates of what a run has reached, by whether it has a new state."""
END = (
    update(runs)
    .where(runs.c.id == _RUN)
    .values(
        status=bindparam("new_status"),
        reason=bindparam("new_reason"),
        result=bindparam("new_result"),
        result_size=bindparam("new_result_size"),
        cancel=false(),
        worker=null(),
        lease_until=0.0,
        ended=Now(),
    )
)
ADD_RECORDS, ADD_PART = records.insert(), parts.insert()
DROP_PARTS = delete(parts).where(
    parts.c.run == _RUN,
    ~select(runs.c.id)
    .where(runs.c.id == parts.c.run, or_(runs.c.state == parts.c.name, runs.c.result == parts.c.name))
    .exists(),
)
DROP_NAMED = delete(parts).where(parts.c.run == _RUN, parts.c.name == bindparam("of_name"))
RELEASE = (
    update(runs)
    .where(_FENCE)
    .values(
        status=case((runs.c.cancel, "cancelled"), else_="queued"),
        reason=case((runs.c.cancel, BY_OWNER)),
        ended=case((runs.c.cancel, Now())),
        cancel=false(),
        worker=null(),
        lease_until=0.0,
        queued_at=Now(),
        failures=case((runs.c.failures > 0, runs.c.failures - 1), else_=0),
    )
)
FAIL = (
    update(runs)
    .where(_FENCE)
    .values(
        status="failed", reason=bindparam("new_reason"), ended=Now(), cancel=false(), worker=null(), lease_until=0.0
    )
)
CANCEL_WAITING = (
    update(runs)
    .where(_MINE, _IS_FREE)
    .values(status="cancelled", reason=BY_OWNER, ended=Now(), cancel=false(), worker=null(), lease_until=0.0)
)
CANCEL_RUNNING = update(runs).where(_MINE, runs.c.status == "running").values(cancel=true())
RESUME = (
    update(runs)
    .where(_MINE, runs.c.status.in_(RESUMABLE))
    .values(
        status="queued",
        reason=null(),
        ended=null(),
        queued_at=Now(),
        failures=0,
        of=runs.c.of + bindparam("more"),
        extra_steps=runs.c.extra_steps + bindparam("more"),
        result=null(),
        result_size=0,
        size=runs.c.size - runs.c.result_size,
    )
)

# A run that is removed is taken from its owner first. Then what belongs to it is deleted, a bounded number of rows in
# each transaction. The row of a run is changed before those that belong to it, as in every other transaction, so that
# no two wait for each other.
_TAKEN: dict[str, Any] = {
    "owner": "run:",
    "status": REMOVED,
    "idempotency_key": null(),
    "worker": null(),
    "lease_until": 0.0,
    "ended": -1.0,
}
_OLD = runs.c.ended < bindparam("before")
TAKE = update(runs).where(_MINE).values(**_TAKEN)
TAKE_OLD = update(runs).where(runs.c.id == _RUN, _OLD).values(**_TAKEN)
NEXT_OLD = select(runs.c.id).where(_OLD).order_by(runs.c.ended).limit(1)
DROP_RECORDS = delete(records).where(
    records.c.run == _RUN,
    records.c.first.in_(select(records.c.first).where(records.c.run == _RUN).order_by(records.c.first).limit(AT_ONCE)),
)
DROP_ALL_PARTS = delete(parts).where(parts.c.run == _RUN)
REMOVE = delete(runs).where(runs.c.id == _RUN).returning(runs.c.spec)
