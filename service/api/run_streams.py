"""The records of a run as a stream: those that are stored, then each new one soon after it is stored, then the end.

The stream computes nothing. It reads the database, so any worker of any machine can send it, from any point: a client
whose stream was cut off asks for the steps after the last one that it got. A run that waits for a runner, or goes back
to the queue, is silent; only heartbeats come then. Each read is a transaction of its own, and reads as much as the
client has room for.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from schemas.runs import ENDED
from service.api.state_file import state_of
from service.api.stored import hold
from service.api.streaming import HEARTBEAT, Events, Stream, stopping
from service.capacity.admission import Admission, Ticket
from service.capacity.memory import Reservation
from service.problems import Problem, from_store, from_unexpected
from service.store.store import Store
from service.store_errors import NoStore, StoreError
from service.wire.writing import written

if TYPE_CHECKING:
    from service.store.runs import RunEntry

SHORTEST, LONGEST = 0.05, 0.25
"""Seconds between two looks at a run: the shorter time after news, and up to the longer one while there is none."""
CHUNK = 256 * 1024
"""Bytes of records that are read at once, unless a single chunk of the database has more."""
READERS = 2
"""Streams of a worker that read the database at the same time: other requests need its connections too."""
PATIENCE = 10.0
"""Seconds for which a stream waits for a database that cannot be reached, before it ends with the problem."""
TEXT_FACTOR = 5
"""Memory for a result as arrays and as JSON text, as a multiple of its bytes."""
RETRY = b"retry: 1000\n\n"
"""Tells a browser to come back after a second where a stream was cut off; it would wait for three."""
NONE = -1
"""`after` of a client that has no record yet: a descent has a record of step 0."""
STEP = re.compile(rb'\{"step":(\d+)[,}]')

_reading = threading.BoundedSemaphore(READERS)


def step_of(lines: bytes, start: int = 0) -> int:
    """Return the step of the record whose line begins at `start`."""
    found = STEP.match(lines, start)
    if found is not None:
        return int(found[1])
    stop = lines.find(b"\n", start)
    step: int = orjson.loads(lines[start:] if stop < 0 else lines[start:stop])["step"]
    return step


def later(lines: bytes, after: int) -> bytes:
    """Return the lines of those records whose step comes after `after`."""
    start = 0
    while start < len(lines) and step_of(lines, start) <= after:
        start = lines.index(b"\n", start) + 1
    return lines[start:] if start else lines


def end_of(entry: RunEntry, result: bytes | None) -> Mapping[str, Any]:
    """Return the end of a run that has ended: its summary with a status, or only why there is none."""
    summary = {} if result is None else state_of(result)
    return summary if "status" in summary else {"status": entry.status, "reason": entry.reason, **summary}


class Watched:
    """The state of one run, which all streams of it in this process read together."""

    def __init__(self, store: Store, owner: str, entry: RunEntry) -> None:
        self.store, self.owner, self.name = store, owner, entry.id
        self.entry: RunEntry | None = entry
        self.streams = 0
        self._when = time.monotonic()
        self._lock = threading.Lock()

    def look(self, age: float) -> RunEntry | None:
        """Return the state of the run, at most `age` seconds old; None if it was removed. Raises `StoreError`.

        While another thread reads it, the state is the one before.
        """
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() >= self._when + age:
                    with _reading:
                        self.entry = self.store.runs.find(self.owner, self.name)
                    self._when = time.monotonic()
            finally:
                self._lock.release()
        return self.entry


_watched: dict[tuple[int, str, str], Watched] = {}
_lock = threading.Lock()


@contextmanager
def watching(store: Store, owner: str, entry: RunEntry) -> Iterator[Watched]:
    """Yield what all streams of this run in this process share."""
    key = (id(store), owner, entry.id)
    with _lock:
        watched = _watched.setdefault(key, Watched(store, owner, entry))
        watched.streams += 1
    try:
        yield watched
    finally:
        with _lock:
            watched.streams -= 1
            if not watched.streams:
                del _watched[key]


class RunStream(Stream):
    """The body of a response that streams a run: iterating over it reads records, and waits for new ones.

    It ends with the end of the run, with a problem, when the server stops, or when the client leaves.
    """

    def __init__(
        self,
        store: Store,
        environ: Mapping[str, Any],
        entry: RunEntry,
        after: int,
        form: str,
        base64: bool,
        *,
        ticket: Ticket,
        memory: Reservation,
        admission: Admission,
    ) -> None:
        """Begin after the step `after`. The tensors of the end are typed arrays if `base64`."""
        super().__init__(form, environ)
        self.store, self.entry = store, entry
        self.owner: str = environ["nabla.key"]
        self.after = after
        self.events = form == "sse"
        self.base64 = base64
        self.ticket, self.memory, self.admission = ticket, memory, admission

    def pieces(self) -> Iterator[bytes]:
        with watching(self.store, self.owner, self.entry) as watched:
            yield from self._pieces(watched)

    def _pieces(self, watched: Watched) -> Iterator[bytes]:
        if self.events:
            yield RETRY
        seen: RunEntry | None = None
        sent = failing = 0.0
        pause = 0.0
        while True:
            try:
                entry = watched.look(pause / 2)
                if entry is None:
                    raise Problem("not-found", "This run was removed.")
                entry = entry._replace(now=0.0)
                if entry == seen:
                    pause = min(2 * pause, LONGEST)
                else:
                    # In this order: what was stored before the run ended is read after it.
                    for piece in self._records():
                        yield piece
                        sent = time.monotonic()
                    if entry.status in ENDED:
                        last = self._end(entry)
                        self.outcome = entry.status
                        yield last
                        return
                    seen, pause = entry, SHORTEST
                failing = 0.0
            except StoreError as error:
                failing = failing or time.monotonic()
                if isinstance(error, NoStore) or time.monotonic() > failing + PATIENCE:
                    raise
                pause = LONGEST
            if time.monotonic() >= sent + HEARTBEAT:
                sent = time.monotonic()
                yield self.format.heartbeat
            if stopping.wait(pause) or self._has_left():
                return

    def _has_left(self) -> bool:
        ticket = self.ticket
        return ticket.gone or (ticket.left is not None and ticket.left())

    def _records(self) -> Iterator[bytes]:
        """Yield the stored records that were not sent yet."""
        while True:
            with _reading:
                chunks = self.store.runs.records(self.owner, self.entry.id, self.after, CHUNK)
            if not chunks:
                return
            self.memory.try_need(3 * sum(len(lines) for _, _, lines in chunks))
            for first, last, lines in chunks:
                if first <= self.after:
                    lines = later(lines, self.after)
                self.after = last
                if lines:
                    yield self._as_events(lines) if self.events else lines

    @staticmethod
    def _as_events(lines: bytes) -> bytes:
        return b"".join(Events.step({"step": step_of(line)}, line) for line in lines.splitlines())

    def _end(self, entry: RunEntry) -> bytes:
        hold(self.memory, TEXT_FACTOR * entry.result_size)
        with _reading:
            result = self.store.runs.result(self.owner, entry.id)
        return self.format.end(b"".join(written(end_of(entry, result), self.base64)))

    def problem(self, error: Exception) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, StoreError):
            return from_store(error)
        return from_unexpected(error, self.environ, self.admission.backlog())
