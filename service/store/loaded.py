"""Networks that this process has read from the database, and for how long it may believe that they are still there.

The content of a network never changes, for its id is made of it. But another process may remove the network. So what
the database said counts for `LEASE_SECONDS`, and then it is asked again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from service.engine.cache import LeastRecentlyUsed

LEASE_SECONDS = 1.0
"""So long after another process has removed a network, this one may still use it."""
MOST_LEASES = 10_000
USED_SECONDS = 3600.0
"""How exactly it is noted when a network was used last."""

V = TypeVar("V")
Key = tuple[str, str]
"""An owner, and the id of a network."""


class LoadedNetworks(Generic[V]):
    """Networks by their ids, bounded in bytes, and who was found to own which. For many threads."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: LeastRecentlyUsed[str, tuple[V, int]] = LeastRecentlyUsed(capacity, lambda _, entry: entry[1])
        self._lock = threading.Lock()
        self._leases: dict[Key, float] = {}
        """When each was found in the database last."""
        self._used: dict[Key, float] = {}
        """Uses that are to be noted in the database."""
        self._noted: dict[Key, float] = {}
        """When the last use that was noted was."""

    def find(self, owner: str, name: str) -> V | None:
        """The network, if it was read and is believed to be there; that it was used is remembered."""
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
        """The network if it was read, whether or not it is still there."""
        entry = self._values.find(name)
        return None if entry is None else entry[0]

    def keep(self, name: str, value: V, nbytes: int) -> V:
        """Keep a network that takes so many bytes, unless that is more than all may take; gives the one to use."""
        return self._values.get(name, lambda: (value, nbytes))[0]

    def believe(self, owner: str, name: str) -> None:
        """The database was asked just now, and has it."""
        with self._lock:
            if len(self._leases) >= MOST_LEASES:
                self._leases.clear()
                self._noted.clear()
            self._leases[owner, name] = self._clock()

    def drop(self, owner: str, name: str) -> None:
        """It is no longer there."""
        with self._lock:
            for each in (self._leases, self._used, self._noted):
                each.pop((owner, name), None)

    def take_uses(self) -> list[Key]:
        """The networks that were used since this was asked last."""
        with self._lock:
            used, self._used = self._used, {}
        return list(used)

    @property
    def nbytes(self) -> int:
        """What the networks take."""
        return self._values.nbytes

    def shrink(self, nbytes: int) -> None:
        """Forget so many bytes, what was not used for longest first."""
        self._values.shrink(nbytes)
