"""Runs, records and claims for the tests of the store."""

from typing import Any

from sqlalchemy import func, select

from service.store.database import Database
from service.store.runs import Claim, Kept, NewRun, Progress, RunLimits, Runs
from service.store.tables import blobs, networks, owners, parts, records, runs

LIMITS = RunLimits(runs=10**6, unfinished=10**6, run_bytes=10**9, owner_bytes=10**9, total_bytes=10**9)


def new(number: int = 0, **options: Any) -> NewRun:
    """Return a run of 100 steps whose request differs for each number."""
    return NewRun("train", b'{"number":%d}' % number, 100, **options)


def at(step: int, seconds: float = 0.5) -> Progress:
    """Return the progress of a run at a step."""
    return Progress(step, 1 / (step + 1), 0.1, seconds)


def lines(first: int, last: int) -> bytes:
    """Return the records of these steps."""
    return b"".join(b'{"step":%d}\n' % step for step in range(first, last + 1))


def within(kept: Runs, **limits: int) -> Runs:
    """Return the same runs within other limits."""
    return Runs(kept.database, LIMITS._replace(**limits))


def claimed(kept: Runs, worker: str = "a", seconds: float = 60.0) -> Claim:
    """Return the next claim of a runner."""
    found = kept.claim(worker, seconds)
    assert found is not None
    return found


def keep(kept: Runs, claim: Claim, first: int, last: int, state: bytes | None = None, lease: float = 60.0) -> Kept:
    """Keep the records of these steps."""
    return kept.keep(claim, lines(first, last), first, last, at(last), state, lease)


def rows(database: Database) -> dict[str, int]:
    """Return the number of rows of each table that holds something."""
    with database.reading() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (blobs, networks, owners, parts, records, runs)
        }
    return {name: count for name, count in counts.items() if count}
