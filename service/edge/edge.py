"""The parts that all connections of a worker share: bounds, deadlines, early refusals, health, the application."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from service import wire
from service.api.run_queue import runs_by_status
from service.callers.cors import Cors
from service.callers.quotas import Gate
from service.capacity.admission import Admission
from service.capacity.memory import Account, Reservation
from service.config import Settings
from service.edge.answers import LIVE, READY, Answers
from service.edge.crowds import Crowds
from service.edge.environ import is_plain
from service.edge.parser import unsupported_coding
from service.edge.pool import Pool
from service.observing.metrics import (
    BUSY_SLOTS,
    OPEN_CONNECTIONS,
    QUEUE_LENGTH,
    RESERVED_BYTES,
    RUNS,
    refuse,
    sample,
    sample_rarely,
)
from service.problems import Problem
from service.proxy import Proxies, client_name

SWEEP_SECONDS = 0.25
"""Seconds between two looks at all deadlines. A timer for each request would cost more than a look at thousands."""
LAST_SECONDS = 1.0
"""Seconds for which clients may use an open connection on a stop, so that nothing they just sent is lost."""
SPARE = 1.25
"""The bound on connections may be exceeded by this factor, while some are politely refused."""


class Member(Protocol):
    """The part of a connection that the edge uses; `Connection` says what each method does."""

    transport: asyncio.Transport
    address: str
    """The peer's address if connections of one address are bounded, else ""."""
    deadline: float
    """The reading of `time.monotonic` at which `expire` is called."""

    @property
    def hungry(self) -> bool: ...

    def expire(self, now: float) -> None: ...

    def feed_hungry(self, now: float) -> None: ...

    def refuse(self, problem: Problem) -> None: ...

    def end(self) -> None: ...


class Edge:
    """All connections of one worker, and the application behind them. Only the event loop's thread uses it."""

    def __init__(
        self,
        app: Any,
        loop: asyncio.AbstractEventLoop,
        *,
        keep_alive: float,
        parser_options: dict[str, Any],
        crowds: Crowds | None = None,
        place: int = 0,
    ) -> None:
        """Serve `app`; `crowds` has the numbers of clients of all workers, this one's at `place`."""
        extensions = getattr(app, "extensions", {})
        runtime = extensions.get("nabla")
        self.app: Callable[..., Any] = app
        self.loop = loop
        self.settings: Settings = Settings() if runtime is None else runtime.settings
        self.keep_alive = keep_alive
        self.parser_options = parser_options
        self.pool = Pool()
        self.stopping = False
        self.connections: set[Member] = set()
        self._idle: dict[Member, bool] = {}
        """Connections without a request, the longest idle one first, and whether they had a response before."""
        self._resting = 0
        """The number of idle connections that had one; the others are likely to ask in a moment."""
        self._crowds, self._place = crowds, place
        self._note_load()
        self._addresses: Counter[str] = Counter()
        self.ready = False
        """Whether the application has once called itself ready; it stays ready."""
        self._gate: Gate | None = extensions.get("nabla.gate")
        self._proxies: Proxies = extensions.get("nabla.proxies") or Proxies()
        self._admission: Admission | None = extensions.get("nabla.admission")
        self._memory: Account | None = extensions.get("nabla.memory")
        self.answers = Answers(app, extensions.get("nabla.cors") or Cors(()))
        sample(OPEN_CONNECTIONS, lambda: len(self.connections))
        if runtime is not None:
            sample_rarely(RUNS, partial(runs_by_status, runtime.store))
        if self._memory is not None:
            sample(RESERVED_BYTES, partial(getattr, self._memory, "held"))
        if self._admission is not None:
            for load in self._admission.load():
                sample(BUSY_SLOTS, partial(_load, self._admission, load.lane, "busy"), load.lane)
                sample(QUEUE_LENGTH, partial(_load, self._admission, load.lane, "waiting"), load.lane)

    # Connections

    def join(self, connection: Member, address: str) -> None:
        """Register a new connection. If there are too many, close the longest idle one, or else refuse the new one."""
        self.connections.add(connection)
        self._note_load()
        settings, here = self.settings, 0
        if _is_bounded(address) and not self._proxies.trusts(address):
            connection.address = address
            self._addresses[address] += 1
            here = self._addresses[address]
        most, most_here = settings.max_connections, settings.max_connections_per_address
        if len(self.connections) > most or here > most_here:
            if len(self.connections) > most * SPARE or here > most_here * SPARE:
                refuse("connections")
                connection.transport.abort()
                return
            rests = (one for one in self._idle if here <= most_here or one.address == address)
            oldest = next(rests, None)
            if oldest is None:
                whose = "" if len(self.connections) > most else " from this address"
                detail = f"The most connections{whose} that a worker of this server takes are open."
                connection.refuse(Problem("busy", detail, headers={"Retry-After": "1"}))
                return
            self.busy(oldest)
            oldest.transport.abort()
        self._idle[connection] = False

    def leave(self, connection: Member) -> None:
        """Remove a connection that is gone."""
        self.connections.discard(connection)
        self.busy(connection)
        if connection.address:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]

    def busy(self, connection: Member) -> None:
        """Note that a connection has a request, so that it does not count as idle."""
        self._resting -= self._idle.pop(connection, False)
        self._note_load()

    def rest(self, connection: Member) -> None:
        """Note that a connection is idle again after a response."""
        self._resting += not self._idle.get(connection, False)
        self._idle[connection] = True
        self._note_load()

    async def sweep(self) -> None:
        """Check the deadlines of all connections four times a second, until the task is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._note_load()
            now = time.monotonic()
            for connection in [one for one in self.connections if one.deadline <= now]:
                connection.expire(now)
            for connection in [one for one in self.connections if one.hungry]:
                connection.feed_hungry(now)

    async def stop(self, seconds: float) -> None:
        """Finish the present requests and those that still come on open connections, for at most `seconds`.

        Then cut off the rest.
        """
        self.stopping = True
        if self._crowds is not None:
            self._crowds.forget(self._place)
        now = time.monotonic()
        last, end = now + min(LAST_SECONDS, seconds), now + seconds
        while self.connections and now < end:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            if now >= last:
                for connection in list(self._idle):
                    connection.end()
            if now >= end - LAST_SECONDS and self._admission is not None:
                self._admission.close()  # waiting requests would be cut off without a response
        for connection in list(self.connections):
            connection.transport.abort()

    # Requests

    def reservation(self) -> Reservation | Unbounded:
        """Return an empty memory reservation for a new request."""
        return _UNBOUNDED if self._memory is None else self._memory.reservation()

    def refusal(self, environ: dict[str, Any], length: int | None) -> Problem | None:
        """Return the problem to refuse a request with before its body is read, judging by its head; None if there is
        none.
        """
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        if coding is not None and coding.strip().lower() != "chunked":
            return unsupported_coding()
        if length is not None and length > self.settings.max_body_bytes:
            return self.too_large()
        self._find_peer(environ)
        if not is_plain(environ, length) and environ["PATH_INFO"].startswith("/v1"):
            try:
                if self._gate is not None and environ["REQUEST_METHOD"] == "POST":
                    environ["nabla.key"] = self._gate.check(environ["nabla.peer"], environ.get("HTTP_AUTHORIZATION"))
                    wire.check_accept(environ)
                    wire.check_content_type(environ)
                    wire.check_encoding(environ)
            except Problem as problem:
                return problem
        return None

    def _find_peer(self, environ: dict[str, Any]) -> None:
        """Set `nabla.peer` to the client's address, as trusted proxies name it."""
        environ["nabla.peer"] = self._proxies.client_of(environ["REMOTE_ADDR"], environ.get("HTTP_X_FORWARDED_FOR"))

    def too_large(self) -> Problem:
        """Return the problem for a body above the size limit."""
        return Problem("too-large", f"The body has more than {self.settings.max_body_bytes:,} bytes.")

    def own_answer(self, environ: dict[str, Any], arrived: float, *, close: bool) -> bytes | None:
        """Return the response to a health check, which needs no thread; None for any other request."""
        path = environ["PATH_INFO"]
        if path not in (LIVE, READY) or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return None
        seconds = time.monotonic() - arrived
        if path == READY and self.stopping:
            problem = Problem("busy", "The server is stopping.", headers={"Retry-After": "1"})
            return self.answers.problem(environ, problem, seconds, close=close)
        if path == READY and not self.ready:
            return None
        return self.answers.healthy(environ, seconds, close=close)

    def is_least_crowded(self) -> bool:
        """Return whether no other worker serves fewer clients than this one."""
        return self._crowds is None or self._crowds.is_least(self._place)

    def _note_load(self) -> None:
        if self._crowds is not None and not self.stopping:
            self._crowds.note(self._place, len(self.connections) - self._resting)

    def backlog(self) -> float:
        """Return the seconds until the requests that wait in this worker now will have a slot."""
        return 1.0 if self._admission is None else self._admission.backlog()

    def ticket(self, environ: dict[str, Any], arrived: float) -> Any:
        """Return the ticket of a request under its client's name, and put it into the WSGI environment."""
        environ["nabla.arrived"] = arrived
        if self._admission is None:
            return _Free()
        name = None if self._gate is None else self._gate.keys.name_of(environ.get("HTTP_AUTHORIZATION"))
        client = client_name(name, environ["nabla.peer"])
        ticket = environ["nabla.ticket"] = self._admission.ticket(client, arrived)
        environ["nabla.memory"].waiter = ticket
        return ticket


def _load(admission: Admission, lane: str, what: str) -> float:
    return next(float(getattr(load, what)) for load in admission.load() if load.lane == lane)


def _is_bounded(address: str) -> bool:
    """Return whether connections of this address are bounded; those of this machine, perhaps a proxy's, are not."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # a Unix socket has no addresses
        return False


class _Free:
    """A ticket for applications without an admission, as in tests: it always has a slot."""

    refusal = None

    def begin(self, nbytes: int, ready: Callable[[], None]) -> bool:
        return True

    def leave(self) -> None:
        """Do nothing: no computation looks at this ticket."""

    def end(self) -> None:
        """Do nothing: this ticket has no slot to give back."""


class Unbounded:
    """A memory reservation for applications without an account, as in tests: there is always enough."""

    def try_need(self, nbytes: int) -> bool:
        return True

    def release(self) -> None:
        """Do nothing: nothing was reserved."""


_UNBOUNDED = Unbounded()
