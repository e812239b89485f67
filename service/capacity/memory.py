"""The memory of a worker: one account of all memory that its requests take, counted before it is allocated.

Account       the total, the bytes that each request holds, and the requests that wait for more
Reservation   the share of one request
Cache         memory kept for later requests, given up when a request needs it

Requests wait for memory in the order in which they came. A part is set aside for light requests, which need little and
would otherwise wait behind those that need much. The caller says how much a request needs: `service/wire/` and the
views know the factors, and docs/decisions/0017 has the measurements.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from service.problems import Problem

SMALL = 64 * 1024
"""Bytes of a request that are not counted, so that tiny requests never wait. The worker's own share covers them."""
PATIENCE = 5.0
"""Seconds that a request waits for memory, unless its deadline comes first."""
LIGHT_SHARE = 8
"""A request is light while it needs at most one part in this many of the memory for light requests."""
GLANCE = 0.1
"""Seconds between two looks at the request while it waits."""
MEMORY_OF_RATE = 10.0
"""Seconds after which memory that was given back counts for a third in the forecast of free memory."""
LONGEST_RETRY = 60
"""The largest Retry-After, in seconds."""


class Cache(Protocol):
    """A cache whose memory the requests of a worker may claim."""

    @property
    def nbytes(self) -> int:
        """The estimated size of the cache in bytes."""

    def shrink(self, nbytes: int) -> None:
        """Remove entries of about `nbytes` bytes in all, or everything if there are fewer."""


class Waiter(Protocol):
    """A request that may wait for memory; `Ticket` is one."""

    @property
    def deadline(self) -> float:
        """The reading of `time.monotonic` until which the request waits."""

    @property
    def may_wait(self) -> bool:
        """Whether the request may wait at all: while it waits, other requests may need its slot."""

    def look(self) -> object:
        """Return if the wait may go on, and raise if not. It is called every `GLANCE` seconds."""


class Account:
    """The memory of a worker, from which requests reserve before they allocate. Threads may share it."""

    def __init__(self, total: int, caches: Sequence[Cache] = (), aside: int = 0) -> None:
        """Set `aside` bytes of the total aside for light requests; `caches` use what no request holds."""
        self.total = total
        self.aside = aside
        self.held = 0
        """Bytes that requests hold."""
        self._light = 0
        """Bytes that light requests hold."""
        self._caches = tuple(caches)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._line: list[_Wish] = []
        self._given_back, self._when = 0.0, time.monotonic()

    @property
    def free(self) -> int:
        """Bytes that no request holds; caches may use them until a request needs them."""
        return self.total - self.held

    @property
    def most(self) -> int:
        """The largest number of bytes that one request may hold."""
        return self.total - self.aside

    @property
    def cached(self) -> int:
        """The number of bytes that the caches take."""
        return sum(cache.nbytes for cache in self._caches)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for memory."""
        return len(self._line)

    def reservation(self) -> Reservation:
        """Return an empty reservation for a new request. Requests wait for memory in the order of these calls."""
        return Reservation(self, next(self._numbers))

    def _light_part(self, nbytes: int) -> int:
        """Return the bytes of a reservation of this size that count as light: all of them or none."""
        return nbytes if nbytes * LIGHT_SHARE <= self.aside else 0

    def _fits_aside(self, share: Reservation, nbytes: int) -> bool:
        """Return whether a reservation may grow to this size within the memory for light requests. The lock is held."""
        light = self._light_part(nbytes)
        return 0 < light <= self.aside - self._light + self._light_part(share.held)

    def _is_behind(self, share: Reservation, nbytes: int) -> bool:
        """Return whether a reservation has to wait because an older request already does. The lock is held."""
        waits = bool(self._line) and self._line[0].share.number < share.number
        return waits and not self._fits_aside(share, nbytes)

    def _hold(self, share: Reservation, nbytes: int) -> None:
        """Set the size of a reservation, and update the sums. The lock is held."""
        self._light += self._light_part(nbytes) - self._light_part(share.held)
        self.held += nbytes - share.held
        share.held = nbytes

    def _take(self, share: Reservation, nbytes: int) -> bool:
        """Grow a reservation, shrinking caches if need be; return False if memory is short. The lock is held."""
        missing = nbytes - share.held - self.free
        kept = 0 if self._fits_aside(share, nbytes) else max(0, self.aside - self._light)
        if missing + kept > 0:
            return False
        missing += self.cached
        if missing > 0:
            for cache in self._caches:
                before = cache.nbytes
                cache.shrink(missing)
                missing -= before - cache.nbytes
                if missing <= 0:
                    break
        self._hold(share, nbytes)
        return True

    def _claim(self, share: Reservation, nbytes: int) -> _Wish | None:
        """Grow a reservation to this size and return None, or put a wish into the line and return it."""
        with self._lock:
            if not self._is_behind(share, nbytes) and self._take(share, nbytes):
                return None
            wish = _Wish(share, nbytes)
            bisect.insort(self._line, wish, key=lambda other: other.share.number)
            self._settle()
        return wish

    def _try(self, share: Reservation, nbytes: int) -> bool:
        with self._lock:
            return not self._is_behind(share, nbytes) and self._take(share, nbytes)

    def _give_back(self, share: Reservation, nbytes: int) -> None:
        """Reduce a reservation to this size, and serve waiting requests with what becomes free."""
        with self._lock:
            freed = share.held - nbytes
            now = time.monotonic()
            self._given_back = self._given_back * math.exp((self._when - now) / MEMORY_OF_RATE) + freed
            self._when = now
            self._hold(share, nbytes)
            self._settle()

    def _withdraw(self, wish: _Wish) -> None:
        """Remove a wish from the line, if it is still there."""
        with self._lock:
            if wish in self._line:
                self._line.remove(wish)
                self._settle()

    def _settle(self) -> None:
        """Grant the waiting wishes, oldest first, as long as there is memory. The lock is held."""
        line = self._line
        while line and self._take(line[0].share, line[0].nbytes):
            line.pop(0).grant()
        # If the waiting requests hold everything, nobody would give anything back.
        if line and sum(wish.share.held for wish in line) == self.held:
            last = max((wish for wish in line if wish.share.held), key=lambda wish: wish.share.number)
            line.remove(last)
            last.gate.release()

    def retry_after(self, nbytes: int) -> int:
        """Return the seconds until `nbytes` more are likely free, by the rate at which memory was given back."""
        with self._lock:
            wanted = nbytes + sum(wish.nbytes - wish.share.held for wish in self._line) - self.free
            now = time.monotonic()
            rate = self._given_back * math.exp((self._when - now) / MEMORY_OF_RATE) / MEMORY_OF_RATE
        return max(1, min(math.ceil(wanted / rate if rate > 0 else PATIENCE), LONGEST_RETRY))


class Reservation:
    """The memory that one request has reserved in an `Account`. One thread at a time may use it."""

    def __init__(self, account: Account, number: int) -> None:
        self.account = account
        self.number = number
        self.held = 0
        """Bytes that are held; a small share counts as 0."""
        self.waiter: Waiter | None = None
        """The request, whose deadline bounds the waiting in `need`."""

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def need(self, nbytes: int) -> None:
        """Reserve `nbytes` in all, in place of the present amount, and wait until they are free.

        Raise `Problem` 422 if one request may never have so much, `Problem` 503 if the wait was too long or the request
        may not wait, and whatever the waiter's `look` raises. After an exception, the previous amount is still held.
        """
        if nbytes <= self.held:
            if nbytes < self.held:
                self.account._give_back(self, nbytes)
            return
        if not self.held and nbytes <= SMALL:
            return
        if nbytes > self.account.most:
            raise too_much(nbytes, self.account.most)
        if self.waiter is not None and not self.waiter.may_wait:
            if not self.account._try(self, nbytes):
                raise self.busy(nbytes)
            return
        wish = self.account._claim(self, nbytes)
        if wish is not None:
            self._wait(wish)

    def try_need(self, nbytes: int) -> bool:
        """Reserve `nbytes` in all if they are free and no older request waits; return whether that succeeded."""
        if nbytes <= self.held or (not self.held and nbytes <= SMALL):
            self.need(nbytes)
            return True
        return self.account._try(self, nbytes)

    def release(self) -> None:
        """Give all memory back. A second call does nothing."""
        if self.held:
            self.account._give_back(self, 0)

    def _wait(self, wish: _Wish) -> None:
        waiter = self.waiter
        end = time.monotonic() + PATIENCE
        if waiter is not None:
            end = min(end, waiter.deadline)
        try:
            while not wish.gate.acquire(timeout=max(0.0, min(GLANCE, end - time.monotonic()))):
                if waiter is not None:
                    waiter.look()
                if time.monotonic() >= end:
                    break
        finally:
            self.account._withdraw(wish)
        if not wish.granted:
            raise self.busy(wish.nbytes)

    def busy(self, nbytes: int) -> Problem:
        """Return the `Problem` 503 for a request that needs `nbytes` in all and cannot have them now."""
        wait = self.account.retry_after(nbytes - self.held)
        return Problem("busy", "Other requests hold the memory of this server.", headers={"Retry-After": str(wait)})


class _Wish:
    """A waiting request for more memory; its gate opens when it is granted or refused."""

    def __init__(self, share: Reservation, nbytes: int) -> None:
        self.share = share
        self.nbytes = nbytes
        self.granted = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def grant(self) -> None:
        self.granted = True
        self.gate.release()


def too_much(nbytes: int, total: int) -> Problem:
    """Return the `Problem` 422 for a request that needs more memory than any request may have."""
    text = f"The request would take about {nbytes:,} bytes of memory; this server has {total:,} for its requests."
    error = {"pointer": "#", "detail": text, "limit": "memory_bytes", "asked": nbytes, "allowed": [total]}
    return Problem("limit-exceeded", text, [error])
