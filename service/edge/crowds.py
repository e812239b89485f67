"""The number of clients of each worker, in a table that all workers of a server share.

The system wakes every worker when a connection comes, and the first one gets it. So one of two workers may get most of
64 clients, and compute on alone when the other has nothing left to do. A worker therefore leaves a connection for a
moment to workers with fewer clients.
"""

from __future__ import annotations

import mmap
import time

PLACES = 512
"""The number of workers in the table; further workers neither write nor read it."""
FRESH_SECONDS = 1.0
"""Seconds after which an entry no longer counts: its worker has died, or is stopping."""


class Crowds:
    """The table of the workers' numbers of clients. Create it before the fork, so that all workers share it."""

    def __init__(self, places: int = PLACES) -> None:
        whole = memoryview(mmap.mmap(-1, 16 * places))
        self._counts, self._times = whole[: 8 * places].cast("q"), whole[8 * places :].cast("d")
        self._used = memoryview(mmap.mmap(-1, 8)).cast("q")
        """The number of places that were ever used."""

    def __len__(self) -> int:
        return len(self._counts)

    def note(self, place: int, count: int) -> None:
        """Write the number of clients of the worker at `place`."""
        if place >= len(self):
            return
        self._counts[place] = count
        self._times[place] = time.monotonic()
        if self._used[0] <= place:
            self._used[0] = place + 1

    def forget(self, place: int) -> None:
        """Remove the worker at `place` from the comparison: it takes no more connections."""
        if place < len(self):
            self._times[place] = 0.0

    def is_least(self, place: int) -> bool:
        """Return whether no other worker has fewer clients than the one at `place`."""
        if place >= len(self):
            return True
        mine, since = self._counts[place], time.monotonic() - FRESH_SECONDS
        return all(
            self._counts[other] >= mine or self._times[other] < since
            for other in range(self._used[0])
            if other != place
        )
