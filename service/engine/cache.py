"""A thread-safe cache with a bound on its weight. The compiler keeps compiled tasks in one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LeastRecentlyUsed(Generic[K, V]):
    """A thread-safe mapping of bounded weight. When it grows too heavy, it drops the value unused for longest."""

    def __init__(self, capacity: int, weigh: Callable[[K, V], int] = lambda key, value: 1) -> None:
        self.capacity = capacity
        self.weight = 0
        self._weigh = weigh
        # Reentrant: dropping a value may delete an object whose __del__ comes back here.
        self._lock = threading.RLock()
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def find(self, key: K) -> V | None:
        """Return the value for `key`, or None."""
        with self._lock:
            entry = self._values.get(key)
            if entry is None:
                return None
            self._values.move_to_end(key)
            return entry[0]

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value for `key`; call `make` if there is none. Two threads that miss at once may both call `make`.
        The first value is kept, so all callers hold the same object."""
        known = self.find(key)
        if known is not None:
            return known
        made = make()
        weight = self._weigh(key, made)
        if weight > self.capacity:
            return made  # too heavy: keeping it would drop all others
        with self._lock:
            if key in self._values:
                return self._values[key][0]
            self._values[key] = (made, weight)
            self.weight += weight
            self._forget(self.weight - self.capacity)
        return made

    def shrink(self, weight: int) -> None:
        """Drop the values unused for longest until at least this much weight is gone, or all values are."""
        with self._lock:
            self._forget(weight)

    def _forget(self, weight: int) -> None:
        least = self.weight - weight
        while self.weight > least and self._values:
            _, (_, forgotten) = self._values.popitem(last=False)
            self.weight -= forgotten

    @property
    def nbytes(self) -> int:
        """The total weight of the values, for a cache that weighs them in bytes."""
        return self.weight

    def __len__(self) -> int:
        return len(self._values)
