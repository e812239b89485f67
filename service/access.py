"""Who may ask, how often, and how much at once."""

from __future__ import annotations

import hashlib
import hmac
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from service.problems import Problem

CLIENTS = 10_000
"""Clients whose rate is remembered; the longest silent is forgotten first."""


class Keys:
    """API keys, kept and compared as SHA-256 digests."""

    def __init__(self, digests: tuple[bytes, ...]) -> None:
        self.digests = digests

    def name_of(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header, a part of its digest; None unless it is one of the keys."""
        if not self.digests or authorization is None:
            return None
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        accepted = [hmac.compare_digest(digest, known) for known in self.digests]
        return digest.hex()[:8] if any(accepted) else None

    def check(self, environ: Mapping[str, Any]) -> None:
        """Raise `Problem` 401 or 403 unless the request carries one of the keys, or none is needed."""
        if not self.digests:
            return
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Problem(
                "unauthorized", "Send a key as 'Authorization: Bearer <key>'.", headers={"WWW-Authenticate": "Bearer"}
            )
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        # Every digest is compared, so that the time taken tells nothing about which was close.
        accepted = [hmac.compare_digest(digest, known) for known in self.digests]
        if not any(accepted):
            raise Problem("forbidden", "The key is not one of this server's keys.")


class Rate:
    """A token bucket per client: as many at once as a second allows, then that many a second."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.burst = max(1.0, per_second)
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Raise `Problem` 429 when `client` has used up its share."""
        if not self.per_second:
            return
        now = time.monotonic()
        with self._lock:
            tokens, before = self._buckets.pop(client, (self.burst, now))
            tokens = min(self.burst, tokens + (now - before) * self.per_second)
            allowed = tokens >= 1.0
            self._buckets[client] = (tokens - allowed, now)
            if len(self._buckets) > CLIENTS:
                self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1.0 - tokens) / self.per_second)
            detail = f"This server takes {self.per_second:g} requests a second from one client."
            raise Problem("too-many-requests", detail, headers={"Retry-After": str(wait)})


class Budget:
    """Memory that the requests of a worker share; who does not fit waits a little, then is sent away."""

    PATIENCE = 5.0
    """Seconds a request waits for others to give memory back."""

    def __init__(self, nbytes: int) -> None:
        self.total = self.free = nbytes
        self._changed = threading.Condition()

    def change(self, held: int, wanted: int) -> int:
        """Hold `wanted` bytes instead of `held`; returns what is held now.

        Raises `Problem` 503 when they do not come free. Everything there is satisfies any wish, so
        a request alone on its worker never waits.
        """
        wanted = min(wanted, self.total)
        with self._changed:
            if not self._changed.wait_for(lambda: self.free >= wanted - held, self.PATIENCE):
                raise Problem("busy", "Other requests hold the memory of this server.", headers={"Retry-After": "1"})
            self.free -= wanted - held
            self._changed.notify_all()
        return wanted


class Reservation:
    """The share of one request in a `Budget`. What is small is not worth counting."""

    SMALL = 64 * 1024

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.held = 0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held = self.budget.change(self.held, 0)

    def need(self, nbytes: int) -> None:
        """Hold `nbytes` from now on, instead of what was held before. Raises `Problem` 503."""
        if self.held or nbytes > self.SMALL:
            self.held = self.budget.change(self.held, nbytes)
