"""Parts of a computation: the surroundings in which another process computes one, and their results in order.

The functions that compute parts stand beside the works that they are parts of. They get what they need as arguments:
another process may have other settings.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Generic, NamedTuple, TypeVar

from service.api.context import Context, Runtime, free_context, free_ticket, runtime_of
from service.capacity.costs import CALL_SECONDS, OPERATION_SECONDS
from service.cluster.inside import unwanted
from service.cluster.values import name_of
from service.config import Settings
from service.engine.limits import Limits
from service.engine.parallel import Executor, Future, InTurn
from service.problems import Problem

N = TypeVar("N")
T = TypeVar("T")

LEAST_SECONDS = 0.25
"""Estimated seconds below which a computation stays in this process: sending its parts takes up to a fifth of that."""
AHEAD = 2
"""Trips for each process that are submitted at once: one that it computes, and one that waits there."""
TRIP_SECONDS = 0.2
"""Seconds of work that travel at once: Dask takes some milliseconds for each trip."""
TRIPS = 2
"""Trips for each process, at least, so that none waits long for the last one."""
WAIT_SECONDS = 0.05
"""Seconds that `InOrder.next` waits for a result, at most."""
LATER_SECONDS = 10.0
"""Seconds after which a cluster that could not be used is tried again."""

log = logging.getLogger("nabla.error")


class Surroundings(NamedTuple):
    """The settings and limits that travel with a part to the process that computes it."""

    settings: Settings
    """Those of the server that decide what may be computed, without secrets and addresses."""
    limits: Limits
    """The limits of the whole computation."""
    loaded_bytes: int
    """The bytes that the request takes."""


def surroundings_of(context: Context) -> Surroundings:
    """Return the surroundings of the parts of a computation."""
    settings = context.runtime.settings
    names = [item.name for item in fields(Settings) if item.name.startswith(("max_", "cached_", "pooled_"))]
    return Surroundings(
        Settings(**{name: getattr(settings, name) for name in names}), context.limits, context.loaded_bytes
    )


@functools.lru_cache(maxsize=2)
def _runtime(settings: Settings) -> Runtime:
    """Return the objects that all parts in this process share. They have no executor: a part has no parts."""
    return runtime_of(settings)


@contextmanager
def part_context(surroundings: Surroundings) -> Iterator[Context]:
    """Return the context in which another process computes a part."""
    runtime = _runtime(surroundings.settings)
    ticket = free_ticket(runtime, unwanted())
    with runtime.memory.reservation() as memory:
        yield free_context(runtime, memory, surroundings.loaded_bytes, ticket, "part", surroundings.limits)


def seconds_of(work: float, calls: float) -> float:
    """Return roughly the seconds that so many floating-point operations take, in so many calls of NumPy."""
    return work * OPERATION_SECONDS + calls * CALL_SECONDS


def shared_by(context: Context, seconds: float) -> Executor | None:
    """Return what shall compute the parts of a computation that takes so many seconds; None: this process does all."""
    executor = context.executor
    return None if isinstance(executor, InTurn) or seconds < LEAST_SECONDS else executor


class Trip(NamedTuple, Generic[T]):
    """The results of parts that travelled together, and the seconds that they took."""

    results: list[T]
    seconds: float


class InOrder(Generic[N, T]):
    """The results of parts that others compute, in the order of the parts. A few parts are ahead of the results."""

    def __init__(
        self,
        executor: Executor,
        function: Callable[[Any, N, Surroundings], T],
        data: Any,
        parts: Sequence[N],
        surroundings: Surroundings,
    ) -> None:
        """Compute `function(data, part, surroundings)` for each part. Nothing travels before `next` is called."""
        self._executor, self._function, self._data, self._surroundings = executor, function, data, surroundings
        self._parts = parts
        self._sent = 0
        """The number of parts that were submitted."""
        self._shared: Any = None
        self._most = 1
        """The number of parts that travel together, at most: as many as took `TRIP_SECONDS` before."""
        self._waiting: deque[tuple[int, Future[Trip[T]]]] = deque()
        """The trips that are under way, each with the number of its parts."""
        self._results: deque[T] = deque()
        """Results that came with that of an earlier part."""

    def next(self) -> T | None:
        """Return the next result, or None if it does not come within `WAIT_SECONDS`. Raises what computing it raised,
        and `Problem` 503 if nobody computes."""
        if self._results:
            return self._results.popleft()
        if self._shared is None:
            self._shared = self._executor.share(name_of(self._data), self._data)
        while (left := len(self._parts) - self._sent) and len(self._waiting) < AHEAD * (width := self._executor.width):
            count = max(1, min(self._most, left // (TRIPS * width)))
            parts = self._parts[self._sent : self._sent + count]
            submitted = self._executor.submit(several, self._function, self._shared, parts, self._surroundings)
            self._waiting.append((count, submitted))
            self._sent += count
        if not self._waiting:
            return None
        try:
            trip = self._waiting[0][1].result(WAIT_SECONDS)
        except TimeoutError:
            return None
        self._waiting.popleft()
        self._results.extend(trip.results)
        self._most = max(1, int(TRIP_SECONDS * len(trip.results) / max(trip.seconds, 1e-6)))
        return self._results.popleft()

    @property
    def all_taken(self) -> bool:
        """Whether `next` has returned all results."""
        return not (self._sent < len(self._parts) or self._waiting or self._results)

    @property
    def ahead(self) -> int:
        """The number of parts that are done, although their turn has not come."""
        return len(self._results) + sum(count for count, future in self._waiting if future.done())

    def close(self) -> None:
        """Give up the parts that are not done. A second call does nothing."""
        while self._waiting:
            self._waiting.pop()[1].cancel()


def several(
    function: Callable[[Any, N, Surroundings], T], data: Any, parts: Sequence[N], surroundings: Surroundings
) -> Trip[T]:
    """Compute several parts in another process."""
    began = time.monotonic()
    results = [function(data, part, surroundings) for part in parts]
    return Trip(results, time.monotonic() - began)


def is_later(error: Problem) -> bool:
    """Return whether a part failed because nobody could compute it now, and not because of what it is. Log that."""
    later = error.status == 503
    if later:
        log.warning("parts are computed in this process: %s", error.detail)
    return later
