"""A cache of the networks that this process has read from the database.

The content of a network never changes, because the id is computed from the content. But another process may remove the
network. So an answer of the database is trusted for `LEASE_SECONDS`, and then the database is asked again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from service.engine.cache import LeastRecentlyUsed

LEASE_SECONDS = 1.0
"""Longest time in seconds that this process may use a network after another process has removed it."""
MOST_LEASES = 10_000
USED_SECONDS = 3600.0
"""Resolution in seconds of the recorded time of last use."""

V = TypeVar("V")
Key = tuple[str, str]
"""An owner, and the id of a network."""


class LoadedNetworks(Generic[V]):
    """A cache of networks by id, bounded in bytes, with a record of who owns which. For many threads."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: LeastRecentlyUsed[str, tuple[V, int]] = LeastRecentlyUsed(capacity, lambda _, entry: entry[1])
        self._lock = threading.Lock()
        self._leases: dict[Key, float] = {}
        """The time when each network was last found in the database."""
        self._used: dict[Key, float] = {}
        """Uses that are still to be written to the database, with their times."""
        self._noted: dict[Key, float] = {}
        """The time of the last recorded use of each network."""

    def find(self, owner: str, name: str) -> V | None:
        """Return the network if it is cached and known to be stored for this owner, and record the use.

        Otherwise return None.
        """
        key = (owner, name)
        lease = self._leases.get(key)
        now = self._clock()
        if lease is None or now > lease + LEASE_SECONDS:
            return None
        if now > self._noted.get(key, -USED_SECONDS) + USED_SECONDS:
            with self._lock:
                self._noted[key] = self._used[key] = now
        return self.read_before(name)

    def read_before(self, name: str) -> V | None:
        """Return the network if it is cached, even if it may be removed from the database by now.

        Otherwise return None.
        """
        entry = self._values.find(name)
        return None if entry is None else entry[0]

    def keep(self, name: str, value: V, nbytes: int) -> V:
        """Cache a network of so many bytes, unless it exceeds the capacity.

        Return the object that all callers should use.
        """
        return self._values.get(name, lambda: (value, nbytes))[0]

    def believe(self, owner: str, name: str) -> None:
        """Record that the database has just confirmed that this owner has the network."""
        with self._lock:
            if len(self._leases) >= MOST_LEASES:
                self._leases.clear()
                self._noted.clear()
            self._leases[owner, name] = self._clock()

    def drop(self, owner: str, name: str) -> None:
        """Forget that this owner has the network, after its removal."""
        with self._lock:
            for each in (self._leases, self._used, self._noted):
                each.pop((owner, name), None)

    def take_uses(self) -> list[Key]:
        """Return the networks that were used since the last call of this method."""
        with self._lock:
            used, self._used = self._used, {}
        return list(used)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that the cached networks take."""
        return self._values.nbytes

    def shrink(self, nbytes: int) -> None:
        """Evict so many bytes, the least recently used networks first."""
        self._values.shrink(nbytes)
