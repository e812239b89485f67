"""Work that is computed step by step, and its responses: whole at the end, or streamed while it is computed.

Work       a computation in steps
Turns      the order in which works compute
collect    runs a work to its end, for one JSON document
respond    sends the records of a work as they come, as NDJSON or as server-sent events
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from flask import Response

from service import wire
from service.api.context import Context
from service.engine.descent.cost import Admit
from service.engine.errors import Abandoned, DeadlineExceeded, EngineError, InvalidRequest
from service.engine.graph.plan import Program
from service.observing.metrics import OPEN_STREAMS, count_stream
from service.problems import Problem, from_engine, from_unexpected
from service.wire.writing import Written, dump, written

SLICE = 0.005
"""Seconds that a work computes before the next work has its turn.

With 30 streams the last one's first record comes after 0.3 seconds. 10 ms make that 0.45 seconds, and 2 ms cost more
changes of turn.
"""
FLUSH = 0.02
"""Seconds between two writes: no screen shows more, and each write costs as much as several small steps."""
ENDING = 0.05
"""The share of a request's time that is kept for its end: for the last losses, and for writing the response."""
HEARTBEAT = 1.0
"""Seconds of silence after which a heartbeat is sent."""

GONE = "the connection was closed"
STOPPING = "the server is stopping"

stopping = threading.Event()
"""Set when the process is told to stop, by `service/edge/worker.py`."""


class Work(Protocol):
    """A computation in steps, such as a training. The record of a step is a dictionary with its number under `step`."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the work was cancelled."""

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute the steps, so that this one waits and needs no turn."""

    def advance(self) -> Mapping[str, Any] | None:
        """Compute one step; return its record if it is to be in the response, else None."""

    def cancel(self, reason: str) -> None:
        """Stop before the next step; `summary` then gives `reason`, a few words."""

    def summary(self) -> Mapping[str, Any]:
        """Return the final state, with `status`. It stays valid after `close`."""

    def close(self) -> None:
        """Free the memory of the computation. A second call does nothing."""


class _Place:
    """One work's place in the line of `Turns`; its gate opens when its turn comes."""

    def __init__(self, number: int, stream: bool) -> None:
        self.number = number
        self.stream = stream
        self.gate = threading.Lock()
        self.gate.acquire()


class Turns:
    """The order in which works compute: one at a time, first come, first served; streams and documents alternate.

    Threads that compute in Python gain nothing from running at once, and each makes every other thread of the process
    wait for the interpreter lock; threads that wait here do not want that lock. Few documents are computed at a time,
    and each gets half the time however many streams are open, because it was promised to end in time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._taken = False
        self._lines: dict[bool, list[_Place]] = {False: [], True: []}
        """The waiting places, by whether they are those of streams."""
        self._last = False
        """Whether the last turn was a stream's."""

    def place(self, stream: bool = True) -> _Place:
        """Return a new place at the end of the line; it is good for one turn."""
        return _Place(next(self._numbers), stream)

    def wait(self, place: _Place, seconds: float) -> bool:
        """Wait at most `seconds` for the turn of a place, and return whether it came; if not, it may wait again."""
        line = self._lines[place.stream]
        with self._lock:
            if not self._taken:
                self._taken, self._last = True, place.stream
                return True
            bisect.insort(line, place, key=lambda other: other.number)
        if place.gate.acquire(timeout=seconds):
            return True
        with self._lock:
            if place in line:
                line.remove(place)
                return False
        return place.gate.acquire()  # its turn came just now

    def end(self) -> None:
        """End the present turn, and begin the next one."""
        with self._lock:
            line = self._lines[not self._last] or self._lines[self._last]
            if line:
                place = line.pop(0)
                self._last = place.stream
                place.gate.release()
            else:
                self._taken = False


turns = Turns()
"""The turns of this process: one line, because there is one interpreter lock."""


class _Run:
    """A work on its way to the end: it computes in turns with other works, and collects the written records."""

    def __init__(
        self, work: Work, context: Context, write: Callable[[Mapping[str, Any]], bytes], separator: bytes
    ) -> None:
        self.work = work
        self.write = write
        self.ticket = context.ticket
        self.seconds = context.runtime.settings.max_seconds
        self.end = self.ticket.deadline - ENDING * self.seconds
        """The time at which the work is cancelled, so that its final state can still be sent."""
        self.stream = context.form != "json"
        self.place = turns.place(self.stream)
        self.separator = separator
        self.records: list[bytes] = []
        """The written records of the turns so far, until `take` returns them."""
        self.summary: Mapping[str, Any] | None = None
        """The final state, once the work is finished."""
        self.gone = False
        """Whether the client closed the connection."""

    def proceed(self) -> None:
        """Wait for a turn and compute for `SLICE` seconds; return after `HEARTBEAT` seconds if no turn came.

        A work whose steps others compute only waits, which takes no turn.
        """
        if self.work.elsewhere:
            self._compute()
        elif turns.wait(self.place, HEARTBEAT):
            try:
                self._compute()
            finally:
                turns.end()
                self.place = turns.place(self.stream)
        if not self.gone:
            self._look()

    def _look(self) -> None:
        """Check between turns that the client is still there; the check may also wait for a slot of a larger lane."""
        try:
            self.ticket.look()
        except Abandoned:
            self._abandon()
        except DeadlineExceeded:
            pass  # the next turn is the last one

    def _abandon(self) -> None:
        self.gone = True
        self.work.cancel(GONE)

    def _compute(self) -> None:
        work, now = self.work, time.monotonic()
        if stopping.is_set():
            work.cancel(STOPPING)
        elif now >= self.end:
            work.cancel(f"the limit of this server, {self.seconds:g} seconds, was reached")
        end = min(now + SLICE, self.end)
        written: list[bytes] = []
        self.ticket.settled = True  # nobody waits for a slot during a turn
        try:
            while now < end and not work.finished:
                record = work.advance()
                if record is not None:
                    # At once: the next step may reuse its arrays.
                    written.append(self.write(record))
                now = time.monotonic()
        except Abandoned:
            self._abandon()
        finally:
            self.ticket.settled = False
            if written:
                # Joined, because orjson gives each small text a block of 4 KB.
                self.records.append(self.separator.join(written))
        if work.finished:
            self.summary = work.summary()

    def take(self) -> bytes:
        """Return the records written since the last call."""
        content = b"".join(self.records)
        self.records.clear()
        return content


def _writer(base64: bool) -> Callable[[Mapping[str, Any]], bytes]:
    return (lambda value: b"".join(written(value, base64=True))) if base64 else dump


def collect(work: Work, context: Context) -> tuple[Written, Mapping[str, Any]]:
    """Compute all of a work; return its records as one JSON array, and its summary.

    At the deadline, when the server stops or when the client leaves, the work is cancelled, and the summary says so.
    """
    try:
        run = _Run(work, context, _writer(context.base64), b",")
        while run.summary is None:
            run.proceed()
    finally:
        work.close()
    context.in_steps = True
    if run.gone:
        count_stream("disconnected")
    pieces = [b"["]
    for record in run.records:
        pieces += [record, b","]
    return Written([*(pieces[:-1] if run.records else pieces), b"]"]), run.summary


def admission_of(context: Context) -> Admit:
    """Return the function with which a work asks for its slot: a document waits for one, a stream needs none."""

    def admit(program: Program, work: float, calls: float, steps: int) -> None:
        if context.form == "json":
            context.weigh(program, work, calls * steps)

    return admit


class Lines:
    """The NDJSON form of a stream: a line for each record, and the summary in the last line."""

    media_type = wire.NDJSON
    heartbeat = b"{}\n"

    @staticmethod
    def step(_: Mapping[str, Any], content: bytes) -> bytes:
        return content + b"\n"

    @staticmethod
    def end(content: bytes) -> bytes:
        return content + b"\n"

    @staticmethod
    def error(content: bytes) -> bytes:
        return b'{"problem":' + content + b"}\n"


class Events:
    """The server-sent events of a stream: `step` for each record, then `end` with the summary, or `error`."""

    media_type = f"{wire.EVENTS}; charset=utf-8"
    heartbeat = b": \n\n"

    @staticmethod
    def step(record: Mapping[str, Any], content: bytes) -> bytes:
        return b"event: step\nid: %d\ndata: %b\n\n" % (record["step"], content)

    @staticmethod
    def end(content: bytes) -> bytes:
        return b"event: end\ndata: %b\n\n" % content

    @staticmethod
    def error(content: bytes) -> bytes:
        return b"event: error\ndata: %b\n\n" % content


class Stream(ABC):
    """The body of a streamed response: iterating over it yields pieces to send.

    The server always closes it, even if it never asked for a piece.
    """

    def __init__(self, form: str, environ: Mapping[str, Any]) -> None:
        self.format = Events if form == "sse" else Lines
        self.environ = environ
        self.outcome = "disconnected"
        self.closed = False
        OPEN_STREAMS.inc()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.pieces()
        except Exception as error:
            # The status was sent long ago, so the stream has to report the error.
            self.outcome = "failed"
            environ = self.environ
            document = self.problem(error).document(environ["nabla.request_id"], environ.get("SCRIPT_NAME", ""))
            yield self.unsent() + self.format.error(document)
        finally:
            self.close()

    def close(self) -> None:
        """Count the outcome of the stream. A second call does nothing."""
        if not self.closed:
            self.closed = True
            OPEN_STREAMS.dec()
            count_stream(self.outcome)

    def response(self, base64: bool) -> Response:
        """Return the response with this body, whose tensors are typed arrays if `base64`."""
        media_type = self.format.media_type + ("; tensors=base64" if base64 else "")
        # The second header tells nginx not to wait for more.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Response(self, content_type=media_type, headers=headers)

    def unsent(self) -> bytes:
        """Return the records that are still to be sent before an error."""
        return b""

    @abstractmethod
    def pieces(self) -> Iterator[bytes]:
        """Yield the pieces of the body, and set `outcome` at its end."""

    @abstractmethod
    def problem(self, error: Exception) -> Problem:
        """Return the problem that an error of `pieces` is."""


class _WorkStream(Stream):
    """The body of a response that streams a work while it is computed."""

    def __init__(self, work: Work, context: Context) -> None:
        super().__init__(context.form, context.environ)
        self.context = context
        dump, step = _writer(context.base64), self.format.step
        self.dump = dump
        # Not a method: it would make this object hold itself and its work until the garbage collector runs.
        self.run = _Run(work, context, lambda record: step(record, dump(record)), b"")

    def close(self) -> None:
        """Stop the work where it is, and count the stream's outcome. A second call does nothing."""
        if not self.closed:
            super().close()
            self.run.work.close()

    def unsent(self) -> bytes:
        return self.run.take()

    def pieces(self) -> Iterator[bytes]:
        run, written = self.run, time.monotonic() - FLUSH
        while True:
            run.proceed()
            if run.gone:
                return
            if run.summary is not None:
                last = self.format.end(self.dump(run.summary))
                self.outcome = str(run.summary["status"])
                yield run.take() + last
                return
            now = time.monotonic()
            if run.records and now >= written + FLUSH:
                written = now
                yield run.take()
            elif now >= written + HEARTBEAT:
                written = now
                yield self.format.heartbeat

    def problem(self, error: Exception) -> Problem:
        if isinstance(error, Problem):
            return error
        backlog = self.context.runtime.admission.backlog()
        if isinstance(error, EngineError) and not isinstance(error, InvalidRequest):
            return from_engine(error, self.run.seconds, backlog)
        return from_unexpected(error, self.context.environ, backlog)


def respond(work: Work, context: Context) -> Response:
    """Return a response that streams a work in the form that the client asked for; it is computed while it is sent."""
    return _WorkStream(work, context).response(context.base64)
