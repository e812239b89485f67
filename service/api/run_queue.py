"""The numbers of runs that wait and that are computed, for `/v1` and the metrics.

Nobody waits for the database to learn them: who asks gets what was counted last, and the next count begins.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from schemas.runs import RUN_STATUSES
from service.api.context import Runtime
from service.store.store import Store, file_of
from service.store_errors import StoreError

FRESH_SECONDS = 1.0
"""Seconds for which a count is shown without another one."""
WAIT_SECONDS = 0.25
"""Seconds that who asks waits for the new count, at most."""

Counts = Mapping[str, int]
NONE: Counts = {"queued": 0, "running": 0, "runners": 0}


def queue(running: Runtime) -> dict[str, int] | None:
    """Return the numbers of runs that wait and that are computed, and of processes that compute some at this moment.

    None: the server has no place to store anything, or its database does not answer.
    """
    with _LOCK:
        counting = _COUNTINGS.setdefault(running.store, _Counting())
    counts = counting.latest(running.store)
    return None if counts is None else dict(counts)


def runs_by_status(store: Store) -> dict[str, float]:
    """Return the number of runs of each status, for the metrics.

    Nothing where this process has not opened the store, or the database does not answer, which the store logs.
    """
    if not store.is_open:
        return {}
    try:
        counts = store.runs.counts()
    except StoreError:
        return {}
    return {status: float(counts.get(status, 0)) for status in RUN_STATUSES}


class _Counting:
    """The latest count of one store, for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts | None = None
        self._counted = -FRESH_SECONDS
        self._done: threading.Event | None = None
        """Set when the count that is under way is done."""

    def latest(self, store: Store) -> Counts | None:
        """Return a count of now, or the one before if the database takes its time."""
        with self._lock:
            if time.monotonic() < self._counted + FRESH_SECONDS:
                return self._counts
            done = self._done
            if done is None:
                done = self._done = threading.Event()
                threading.Thread(target=self._count, args=(store, done), name="nabla-queue", daemon=True).start()
        done.wait(WAIT_SECONDS)
        return self._counts

    def _count(self, store: Store, done: threading.Event) -> None:
        counts: Counts | None = None
        try:
            counts = _counts_of(store)
        finally:
            with self._lock:
                self._counts, self._counted, self._done = counts, time.monotonic(), None
            done.set()


def _counts_of(store: Store) -> Counts | None:
    """Ask the database; None if that is not possible. A database that is not there yet is not made."""
    try:
        file = file_of(store.settings)
        if file is not None and not os.path.exists(file):
            return NONE if _may_be_made(file) else None
        counts = store.runs.counts()
        return {name: counts.get(name, 0) for name in ("queued", "running")} | {"runners": store.runs.runners()}
    except StoreError:
        return None


def _may_be_made(file: Path) -> bool:
    """Return whether a file and its folders can be made, as far as that is seen without making them."""
    there = next(folder for folder in file.parents if os.path.exists(folder))
    return there.is_dir() and os.access(there, os.W_OK)


_LOCK = threading.Lock()
_COUNTINGS: weakref.WeakKeyDictionary[Store, _Counting] = weakref.WeakKeyDictionary()
