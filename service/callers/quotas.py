"""Limits on the requests per second of each client, counted over all workers of this machine.

The token buckets are a table in memory that is mapped before the workers are forked, so all workers share it. A lock on
bytes of the file behind the table guards each set of buckets. The kernel releases the locks of a process when it ends,
however it ends: a killed worker leaves nothing locked.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import tempfile
import threading
import time

from service.callers.keys import Keys
from service.problems import Problem
from service.proxy import network_of

CLIENTS = 65_536
"""The number of clients that are remembered."""
WAYS = 8
"""The buckets of a set. A client's name decides its set; its longest silent client is forgotten first."""
BUCKET = struct.Struct("=Qdd")
"""A bucket: the mark of a client, its tokens, and the time when they were counted."""
TRIES, PAUSE = 20, 0.0005
"""The attempts to get a lock that another worker holds, and the seconds between them. After them a count goes on
without the lock: a worker that was stopped while it held a lock must not stop the others."""


class Gate:
    """The checks that a request passes, in this order: quota of the address, key, quota of the key.

    So guessing keys uses up the quota of the address, and a client without a key cannot use up the quota of a key.
    """

    def __init__(self, keys: tuple[tuple[str, bytes], ...], per_address: float, per_key: float) -> None:
        self.keys = Keys(keys)
        self.addresses = Quota(per_address, "one address")
        self.named = Quota(per_key if keys else 0.0, "one key")

    def check(self, address: str, authorization: str | None) -> str:
        """Return the name of the request's key, "" if the server has no keys. Raise `Problem` 401, 403 or 429."""
        if self.addresses.per_second:
            self.addresses.check(network_of(address))
        name = self.keys.check(authorization)
        if name:
            self.named.check(name)
        return name


class Quota:
    """A limit of `per_second` requests for each client, with bursts of one second (a token bucket); 0 is no limit.

    Create it before the fork. `whom` names a client in the message of a refusal.
    """

    def __init__(self, per_second: float, whom: str = "one client", clients: int = CLIENTS) -> None:
        self.per_second = per_second
        self.whom = whom
        if not per_second:
            return
        self.burst = max(1.0, per_second)
        self.sets = max(1, clients // WAYS)
        # A secret, so that nobody can choose names that meet in one set.
        self._secret = os.urandom(16)
        self._set = struct.Struct("=" + BUCKET.format.removeprefix("=") * WAYS)
        self._file = _file_in_memory()
        os.ftruncate(self._file, self.sets * self._set.size)
        self._table = mmap.mmap(self._file, self.sets * self._set.size)
        # A process holds the locks of a file, so its threads need another lock.
        self._threads = threading.Lock()

    def check(self, client: str) -> None:
        """Count a request of this client. Raise `Problem` 429, with the seconds to wait, if it exceeds the limit."""
        if not self.per_second:
            return
        name = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        mark = int.from_bytes(name, "little") | 1  # 0 marks an empty bucket
        with self._threads:
            wait = self._take(mark, (mark >> 1) % self.sets * self._set.size)
        if wait:
            detail = f"This server takes {self.per_second:g} requests a second from {self.whom}."
            raise Problem("too-many-requests", detail, headers={"Retry-After": str(math.ceil(wait))})

    def _take(self, mark: int, place: int) -> float:
        """Take a token from the bucket of a client; return the seconds until it has one, or 0 if it had.

        `mark` identifies the client, and `place` is the byte where its set of buckets begins.
        """
        locked = self._lock(place)
        try:
            now = time.monotonic()
            buckets = self._set.unpack_from(self._table, place)
            marks, times = buckets[::3], buckets[2::3]
            if mark in marks:
                way = marks.index(mark)
                tokens = min(self.burst, buckets[3 * way + 1] + max(0.0, now - times[way]) * self.per_second)
            else:
                way, tokens = times.index(min(times)), self.burst
            allowed = tokens >= 1.0
            BUCKET.pack_into(self._table, place + way * BUCKET.size, mark, tokens - allowed, now)
        finally:
            if locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, self._set.size, place)
        return 0.0 if allowed else (1.0 - tokens) / self.per_second

    def _lock(self, place: int) -> bool:
        for _ in range(TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, self._set.size, place)
            except OSError:
                time.sleep(PAUSE)
            else:
                return True
        return False


def _file_in_memory() -> int:
    """Return the descriptor of a file that no other process can open, in memory if the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("nabla-quota")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
