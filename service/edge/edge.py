"""What the connections of a worker share: bounds, deadlines, early refusals, health, and the way to the core."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from service import wire
from service.admission import Admission
from service.config import Settings
from service.cors import Cors
from service.edge.answers import Answers
from service.edge.connection import Connection, is_plain, unsupported_coding
from service.edge.crowds import Crowds
from service.edge.exchange import READY
from service.edge.pool import Pool
from service.memory import Account, Reservation
from service.observability import BUSY_SLOTS, OPEN_CONNECTIONS, QUEUE_LENGTH, RESERVED_BYTES, refuse, sample
from service.problems import Problem
from service.proxy import Proxies, client_name
from service.quotas import Gate

SWEEP_SECONDS = 0.25
"""Seconds between two looks at all deadlines. A timer for each request would cost more than the look at thousands."""
LAST_SECONDS = 1.0
"""How long clients may use an open connection on a stop: what they send now must not be lost."""
SPARE = 1.25
"""How many times the bound on connections may be there, for the time that it takes to refuse some politely."""
LIVE = "/health/live"


class Edge:
    """The connections of one worker and what stands behind them. Used from the thread of the event loop alone."""

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
        """`crowds` tells how many clients other workers serve; `place` is that of this worker among them."""
        extensions = getattr(app, "extensions", {})
        runtime = extensions.get("nabla")
        self.app: Callable[..., Any] = app
        self.loop = loop
        self.settings: Settings = Settings() if runtime is None else runtime.settings
        self.keep_alive = keep_alive
        self.parser_options = parser_options
        self.pool = Pool()
        self.stopping = False
        self.connections: set[Connection] = set()
        self._idle: dict[Connection, bool] = {}
        """Connections without a request, the one that rests longest first, and whether they had an answer before."""
        self._resting = 0
        """How many of them had one: the others are likely to ask in a moment."""
        self._crowds, self._place = crowds, place
        self._tell()
        self._addresses: Counter[str] = Counter()
        self.ready = False
        """Whether the application has called itself ready; it does not change its mind."""
        self._gate: Gate | None = extensions.get("nabla.gate")
        self._proxies: Proxies = extensions.get("nabla.proxies") or Proxies()
        self._admission: Admission | None = extensions.get("nabla.admission")
        self._memory: Account | None = extensions.get("nabla.memory")
        self.answers = Answers(app, extensions.get("nabla.cors") or Cors(()))
        sample(OPEN_CONNECTIONS, lambda: len(self.connections))
        if self._memory is not None:
            sample(RESERVED_BYTES, partial(getattr, self._memory, "held"))
        if self._admission is not None:
            for load in self._admission.load():
                sample(BUSY_SLOTS, partial(_load, self._admission, load.lane, "busy"), load.lane)
                sample(QUEUE_LENGTH, partial(_load, self._admission, load.lane, "waiting"), load.lane)

    # Connections

    def join(self, connection: Connection, address: str) -> None:
        """Take a connection. Where there are too many, the one that rests longest goes, or else the new one."""
        self.connections.add(connection)
        self._tell()
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
                detail = f"As many connections{whose} are open as a worker of this server takes."
                connection.refuse(Problem("busy", detail, headers={"Retry-After": "1"}))
                return
            self.busy(oldest)
            oldest.transport.abort()
        self._idle[connection] = False

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        self.busy(connection)
        if connection.address:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]

    def busy(self, connection: Connection) -> None:
        """The connection has a request now."""
        self._resting -= self._idle.pop(connection, False)
        self._tell()

    def rest(self, connection: Connection) -> None:
        """The connection has answered its request."""
        self._resting += not self._idle.get(connection, False)
        self._idle[connection] = True
        self._tell()

    async def sweep(self) -> None:
        """Look at all deadlines, again and again."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._tell()
            now = time.monotonic()
            for connection in [one for one in self.connections if one.deadline <= now]:
                connection.expire(now)
            for connection in [one for one in self.connections if one.hungry]:
                connection.feed_hungry(now)

    async def stop(self, seconds: float) -> None:
        """Answer what is there and what comes on open connections now; whoever is left after `seconds` is cut off."""
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
                self._admission.close()  # who waits still would be cut off without an answer
        for connection in list(self.connections):
            connection.transport.abort()

    # Requests

    def reservation(self) -> Reservation | Unbounded:
        """The memory of a new request."""
        return _UNBOUNDED if self._memory is None else self._memory.reservation()

    def refusal(self, environ: dict[str, Any], length: int | None) -> Problem | None:
        """What is wrong with a request already by its head, where its body is not worth reading."""
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
        """Add the address of the client, as trusted proxies tell it."""
        environ["nabla.peer"] = self._proxies.client_of(environ["REMOTE_ADDR"], environ.get("HTTP_X_FORWARDED_FOR"))

    def too_large(self) -> Problem:
        """The refusal of a body that is too long."""
        return Problem("too-large", f"The body has more than {self.settings.max_body_bytes:,} bytes.")

    def own_answer(self, environ: dict[str, Any], arrived: float, *, close: bool) -> bytes | None:
        """The answer to a request that needs no thread."""
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
        """Whether no other worker serves fewer clients."""
        return self._crowds is None or self._crowds.is_least(self._place)

    def _tell(self) -> None:
        if self._crowds is not None and not self.stopping:
            self._crowds.tell(self._place, len(self.connections) - self._resting)

    def backlog(self) -> float:
        """Seconds of work that wait for this worker."""
        return 1.0 if self._admission is None else self._admission.backlog()

    def ticket(self, environ: dict[str, Any], arrived: float) -> Any:
        """The right of a request to be computed, for the client that sent it."""
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
    """Whether connections of this address are counted: not those of this machine, where a proxy may stand."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # a Unix socket has no addresses
        return False


class _Free:
    """The ticket of an application that has no admission."""

    refusal = None

    def begin(self, nbytes: int, ready: Callable[[], None]) -> bool:
        return True

    def leave(self) -> None:
        """Nobody looks."""

    def end(self) -> None:
        """There is nothing to give back."""


class Unbounded:
    """The memory of an application that has no account."""

    def try_need(self, nbytes: int) -> bool:
        return True

    def release(self) -> None:
        """There is nothing to give back."""


_UNBOUNDED = Unbounded()
