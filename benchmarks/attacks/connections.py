"""Attacks by slow, silent or rude clients, which hold connections but should cost the server nothing else.

An attacker whose connection the server closes opens a new one, until the attack is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from benchmarks.attacks.bodies import HEAVY, XOR, endless_stream, large_answer, packed, unique_lstm
from benchmarks.attacks.client import FAILURES, Connection, connect, get, head, post, read_answer, sources
from benchmarks.attacks.harness import NORMAL, Options, Row, Server, serving, watched

Run = Callable[["Field"], Awaitable[None]]
Once = Callable[["Field", Connection], Awaitable[None]]
"""The behaviour of an attacker on one connection."""
LARGE = large_answer()
STREAM = endless_stream()
GRADIENTS = packed(XOR)


@dataclass
class Field:
    """One attack in progress: the server's port, the attackers' addresses, and counts of what happened to them."""

    port: int
    addresses: list[str]
    notes: Counter[str]
    """The number of attackers to whom something happened, by what it was."""

    def address(self, number: int) -> str:
        return self.addresses[number % len(self.addresses)]

    async def many(self, count: int, once: Once, pause: float, receive: int | None) -> None:
        """Run `count` attackers at once; each repeats `once` on a new connection until the task is cancelled.

        `pause` is the time between two connections in seconds; `receive` bounds the kernel's receive buffer.
        """

        async def one(number: int) -> None:
            await asyncio.sleep(number * min(0.005, 2.0 / count))
            while True:
                try:
                    connection = await connect(self.port, self.address(number), receive=receive)
                    self.notes["opened"] += 1
                    try:
                        await once(self, connection)
                    finally:
                        connection.reset()
                    self.notes["cut off"] += 1
                except FAILURES as error:
                    self.notes[type(error).__name__] += 1
                await asyncio.sleep(pause)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))


def repeating(count: int, once: Once, pause: float = 0.2, receive: int | None = None) -> Run:
    """Return an attack by `count` attackers that repeat `once`, with the parameters of `Field.many`."""
    return lambda field: field.many(count, once, pause, receive)


def holding(rate: float, send: Callable[[int], bytes]) -> Run:
    """Return an attack that opens `rate` connections a second, sends `send(number)` on each, and keeps all open."""

    async def run(field: Field) -> None:
        held: list[Connection] = []
        try:
            for number in itertools.count():
                with contextlib.suppress(*FAILURES):
                    async with asyncio.timeout(5):
                        connection = await connect(field.port, field.address(number))
                        held.append(connection)
                        field.notes["opened"] += 1
                        connection.send(send(number))
                await asyncio.sleep(1.0 / rate)
        finally:
            for connection in held:
                connection.reset()

    return run


def lingering(rate: float) -> Run:
    """Return an attack whose clients ask for `Connection: close` and then leave their connections open."""
    return holding(rate, lambda _: get("/v1/losses", {"Connection": "close"}))


def sending(count: int, first: bytes, then: bytes = b"", every: float = 1.0) -> Run:
    """Return an attack that sends `first`, then nothing or a byte of `then` every `every` seconds."""

    async def once(field: Field, connection: Connection) -> None:
        connection.send(first)
        closed = asyncio.create_task(connection.closed())
        try:
            place = 0
            while not closed.done():
                if then:
                    connection.send(then[place % len(then) :][:1])
                    place += 1
                await asyncio.wait([closed], timeout=every)
        finally:
            closed.cancel()

    return repeating(count, once)


def chunk_extensions(count: int) -> Run:
    """Return an attack that sends a chunk with an extension that never ends."""
    first = head("POST", "/v1/gradients", None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
    return sending(count, first + b"5;", b"a", 0.2)


def slow_readers(count: int, request: bytes) -> Run:
    """Return an attack that asks for large responses or streams, and does not read them."""

    async def once(field: Field, connection: Connection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(request)
        # The transport cannot say that the server has gone, for it does not read: a look now and then.
        sock = connection.writer.get_extra_info("socket")
        while _established(sock):
            await asyncio.sleep(1.0)

    return repeating(count, once, receive=4096)


def _established(sock: object) -> bool:
    """Return whether the other side still holds the connection, by the first byte of TCP_INFO (1 is ESTABLISHED)."""
    info: bytes = sock.getsockopt(6, 11, 8)  # type: ignore[attr-defined]
    return info[0] == 1


def idle(count: int, first: bytes = b"") -> Run:
    """Return an attack whose connections stay open and idle, after one request `first` or without any."""

    async def once(field: Field, connection: Connection) -> None:
        if first:
            connection.send(first)
        await connection.closed()

    return repeating(count, once)


def malformed(rate: float) -> Run:
    """Return an attack that sends malformed request lines, HTTP/1.0 and TLS, and keeps the connections."""
    lines = (
        b"GARBAGE\r\n\r\n",
        b"GET /health/live HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01",
    )
    return holding(rate, lambda number: lines[number % len(lines)])


def churn(count: int) -> Run:
    """Return an attack that opens and resets connections as fast as it can; some send part of a request."""

    async def once(field: Field, connection: Connection) -> None:
        if random.random() < 0.5:
            connection.send(get("/health/live")[: random.randrange(30)])
            await asyncio.sleep(0)

    return repeating(count, once, 0.01)


def pipelined(count: int, request: bytes, depth: int, *, reads: bool) -> Run:
    """Return an attack that sends a request `depth` times in one write; with `reads`, it reads the responses."""

    async def once(field: Field, connection: Connection) -> None:
        if not reads:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(request * depth)
        if reads:
            await connection.closed()
        else:
            sock = connection.writer.get_extra_info("socket")
            while _established(sock):
                await asyncio.sleep(1.0)

    return repeating(count, once)


def headers(count: int, lines: int, size: int) -> Run:
    """Return an attack that sends requests with `lines` headers, each with a value of `size` characters."""
    text = "".join(f"X-{number}: {'a' * size}\r\n" for number in range(lines))
    request = f"GET /health/live HTTP/1.1\r\nHost: x\r\n{text}\r\n".encode()

    async def once(field: Field, connection: Connection) -> None:
        connection.send(request)
        async with asyncio.timeout(10):
            answer = await read_answer(connection, 0.0)
        field.notes[f"status {answer.status}"] += 1

    return repeating(count, once, 0.05)


def aborted(count: int, request: bytes, share: float) -> Run:
    """Return an attack that resets the connection after sending this share of a request; 1 is the whole request."""

    async def once(field: Field, connection: Connection) -> None:
        connection.send(request[: int(len(request) * share)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await connection.writer.drain()
        await asyncio.sleep(random.random() * 0.1)

    return repeating(count, once, 0.05)


def resets(count: int) -> Run:
    """Return an attack that resets connections in the middle of a large response."""
    request = post("/v1/forward", LARGE)

    async def once(field: Field, connection: Connection) -> None:
        connection.send(request)
        async with asyncio.timeout(20):
            await connection.reader.readexactly(100_000)

    return repeating(count, once, 0.1)


def asking(count: int, request: Callable[[int], bytes]) -> Run:
    """Return an attack of regular clients on kept connections, each of which asks again once it is answered."""
    numbers = itertools.count()

    async def once(field: Field, connection: Connection) -> None:
        while True:
            connection.send(request(next(numbers)))
            async with asyncio.timeout(60):
                answer = await read_answer(connection, 0.0, kept=0)
            field.notes[f"status {answer.status}"] += 1
            if answer.headers.get("connection", "").lower() == "close":
                return
            await asyncio.sleep(0.0 if answer.status < 400 else 0.05)

    return repeating(count, once)


def steady_readers(count: int, request: bytes, rate: int) -> Run:
    """Return an attack that reads large responses at `rate` bytes a second, just fast enough not to be cut off."""

    async def once(field: Field, connection: Connection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(request)
        sock = connection.writer.get_extra_info("socket").dup()
        sock.setblocking(False)
        try:
            while True:
                await asyncio.sleep(1.0)
                with contextlib.suppress(BlockingIOError):
                    if not sock.recv(rate):
                        return
                    field.notes["read on"] += 1
        finally:
            sock.close()

    return repeating(count, once, receive=rate)


def half_closed(count: int) -> Run:
    """Return an attack that closes its sending side after the request and waits for the end of the connection."""

    async def once(field: Field, connection: Connection) -> None:
        connection.send(post("/v1/gradients", GRADIENTS))
        connection.writer.write_eof()
        await connection.closed()

    return repeating(count, once, 0.05)


def late_body(count: int) -> Run:
    """Return an attack that sends requests in place of the rest of a body that the server has given up on.

    The server must not answer them. A response to one is noted as WRONG.
    """

    async def once(field: Field, connection: Connection) -> None:
        connection.send(head("POST", "/v1/gradients", 200_000) + b'{"network":')
        async with asyncio.timeout(60):
            answer = await read_answer(connection, 0.0)
            field.notes[f"status {answer.status}"] += 1
            connection.send(get("/health/live") * 1000)
            rest = await connection.reader.read()
        if b"HTTP/1.1 200" in rest:
            field.notes["WRONG: a late body was taken for requests"] += 1

    return repeating(count, once)


HALF_HEAD = b"POST /v1/gradients HTTP/1.1\r\nHost: attack.test\r\nX-Slow: a"
HALF_BODY = head("POST", "/v1/gradients", 100_000) + b'{"network":'

ATTACKS: dict[str, Run] = {
    "1 lingering connection a second": lingering(1),
    "4 lingering connections a second": lingering(4),
    "1 malformed line a second": malformed(1),
    "200 half headers": sending(200, HALF_HEAD),
    "200 half headers, 1 byte a second": sending(200, HALF_HEAD, b"a"),
    "200 half bodies": sending(200, HALF_BODY),
    "200 half bodies, 1 byte a second": sending(200, HALF_BODY, b" "),
    "200 endless chunk extensions": chunk_extensions(200),
    "130 slow readers of 48 MB": slow_readers(130, post("/v1/forward", LARGE)),
    "200 stalled streams": slow_readers(200, post("/v1/train", STREAM, {"Accept": "application/x-ndjson"})),
    "2,500 idle keep-alives": idle(2500, get("/health/live")),
    "900 connections without a byte": idle(900),
    "2,500 connections without a byte": idle(2500),
    "connections opened and reset, 64 at once": churn(64),
    "20 pipelines of 5,000 requests, not read": pipelined(20, get("/v1/losses"), 5000, reads=False),
    "20 pipelines of 200 gradients, read": pipelined(20, post("/v1/gradients", GRADIENTS), 200, reads=True),
    "20 pipelines of 5,000 health checks, read": pipelined(20, get("/health/live"), 5000, reads=True),
    "heads of 10,000 lines, 30 at once": headers(30, 10_000, 1),
    "heads of 90 lines of 8 kB, 30 at once": headers(30, 90, 8000),
    "uploads of 6 MB reset half-way, 30 at once": aborted(30, post("/v1/gradients", b" " * 6_000_000), 0.5),
    "heavy requests reset at once, 30 at once": aborted(30, post("/v1/forward", HEAVY["elementwise"].body(0)), 1.0),
    "answers of 48 MB reset in the middle, 16 at once": resets(16),
    "130 readers of 48 MB at 80 kB a second": steady_readers(130, post("/v1/forward", LARGE), 80_000),
    "5,000 half headers": sending(5000, HALF_HEAD),
    "256 half bodies of 8 MB": sending(256, head("POST", "/v1/gradients", 8_000_000) + b" " * 1_000_000),
    "256 clients of small requests": asking(256, lambda _: post("/v1/gradients", GRADIENTS)),
    "60 clients of small networks that no cache knows": asking(
        60, lambda number: post("/v1/gradients", unique_lstm(number, 20))
    ),
    "60 clients of the API's description": asking(60, lambda _: get("/openapi.json", {"Accept-Encoding": "gzip"})),
    "60 clients of /metrics": asking(60, lambda _: get("/metrics")),
    "16 clients of 48 MB as gzip": asking(16, lambda _: post("/v1/forward", LARGE, {"Accept-Encoding": "gzip"})),
    "half-closed requests, 16 at once": half_closed(16),
    "100 bodies that go on after the refusal": late_body(100),
    "bodies of gzip, 1 byte a second": sending(
        100,
        head("POST", "/v1/gradients", 50_000, {"Content-Encoding": "gzip"}) + gzip.compress(b" " * 8_000_000)[:4000],
        b"\0",
    ),
}


async def _attack(server: Server, options: Options, name: str, run: Run) -> Row:
    field = Field(server.port, sources(options.addresses), Counter())
    async with watched(server) as beside:
        task = asyncio.create_task(run(field))
        await asyncio.wait([task], timeout=options.seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    wrong = any(note.startswith("WRONG") for note in field.notes)
    notes = ", ".join(f"{note} x{count}" for note, count in sorted(field.notes.items()))
    held = beside.served() and not wrong
    bar = NORMAL
    if "reset" in name or "pipeline" in name or "slow readers" in name:
        left = await _left(server)
        bar += "; nothing held afterwards"
        notes += f"; {left}"
        held = held and left.startswith("idle")
    return Row(name, bar, f"{beside}; attackers: {notes}", held)


async def _left(server: Server) -> str:
    """Return a text about the work and the memory that the server still has 3 seconds after its clients are gone."""
    await asyncio.sleep(2.0)
    before = server.processor_seconds
    await asyncio.sleep(1.0)
    used = server.processor_seconds - before
    gauges = []
    for name in ("nabla_reserved_bytes", "nabla_open_connections", "nabla_busy_slots"):
        with contextlib.suppress(*FAILURES):
            value = await server.gauge(name)
            if value is not None:
                gauges.append(f"{name.removeprefix('nabla_')} {value:g}")
    held = any(text.startswith("reserved_bytes") and not text.endswith(" 0") for text in gauges)
    return f"{'idle' if used < 0.3 and not held else 'BUSY'} 3 s later ({used:.2f} CPU s a second; {', '.join(gauges)})"


def run(options: Options) -> Iterator[Row]:
    """Yield a row for each attack, each on a fresh server."""
    for name, attack in ATTACKS.items():
        if options.wants(name):
            with serving(options) as server:
                yield asyncio.run(_attack(server, options, name, attack))
