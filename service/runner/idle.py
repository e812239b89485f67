"""The question whether it is worth asking the database for a run, answered without asking it.

A runner mostly waits, beside workers that serve requests. In SQLite a claim takes the lock of writers, and every change
of the database changes one of two files; to look at both takes microseconds. Only the end of a dead runner's lease
changes nothing. Before there is a database, nothing of it is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from service.config import Settings
from service.store.store import file_of
from service.store_errors import NoStore

GLANCE_SECONDS = 0.2
"""Seconds between two looks at the files of SQLite."""
ASK_SECONDS = 1.0
"""Seconds between two questions to a database server, which has no files to look at."""
QUIET_SECONDS = 5.0
"""Seconds between two questions to a SQLite that has not changed: a lease may be over."""

Mark = tuple[tuple[int, int, int] | None, ...]
"""The traces of changes in the files of a database: for each its number, time and size."""


class Idle:
    """Tells when to ask for a run: at once after a change, else from time to time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._files = _files_of(settings)
        self._seen: Mark = ()
        self._next = 0.0
        self.seconds = GLANCE_SECONDS if self._files else ASK_SECONDS
        """Seconds between two calls of `is_worth_asking`."""

    def is_worth_asking(self) -> bool:
        """Return whether there may be a run to compute."""
        now = self._clock()
        if not self._files:
            return True
        seen = tuple(map(_mark, self._files))
        if seen[0] is None or (seen == self._seen and now < self._next):
            return False
        self._seen, self._next = seen, now + QUIET_SECONDS
        return True

    def ask_soon(self) -> None:
        """Let the next call say yes, because the database could not be asked, or had a run."""
        self._next = 0.0


def _files_of(settings: Settings) -> tuple[str, ...]:
    """Return the files of a SQLite database, the main one first; none for a database server."""
    try:
        file = file_of(settings)
    except NoStore:  # it has logged why
        return (os.devnull + "/none",)
    return () if file is None else (str(file), f"{file}-wal")


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
