"""The attack that kills workers under load: only requests on the killed worker may fail, and no answer may be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attacks.bodies import XOR, packed
from benchmarks.attacks.client import FAILURES, HOST, Connection, connect, post, read_answer
from benchmarks.attacks.harness import Options, Row, Server, serving

CLIENTS = 100
BODIES = 20
DEATHS = 20


@dataclass
class Found:
    """The observations of the clients: answered requests, wrong responses and lost connections."""

    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """The local ports of connections that ended with a request under way."""
    moments: list[float] = field(default_factory=list)


async def _client(port: int, number: int, expected: list[bytes], found: Found, end: float) -> None:
    bodies = [body_of(place) for place in range(BODIES)]
    connection: Connection | None = None
    turn = number
    while time.perf_counter() < end:
        turn += 1
        local = 0
        try:
            async with asyncio.timeout(20):
                if connection is None:
                    connection = await connect(port)
                local = connection.writer.get_extra_info("sockname")[1]
                connection.send(post("/v1/gradients", bodies[turn % BODIES]))
                answer = await read_answer(connection, time.perf_counter())
                if not answer.whole:
                    raise ConnectionError
        except FAILURES:
            found.lost.append(local)
            found.moments.append(time.perf_counter())
            if connection is not None:
                connection.reset()
            connection = None
            continue
        found.answered += 1
        if answer.status != 200 or answer.body != expected[turn % BODIES]:
            found.wrong.append(f"{answer.status} {answer.body[:100]!r}")
        if answer.headers.get("connection", "").lower() == "close":
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def clients(port: int, count: int, expected: list[bytes], found: Found, end: float) -> list[asyncio.Task[None]]:
    """Start `count` clients that send requests until `end` and compare each response with the expected one."""
    return [asyncio.create_task(_client(port, number, expected, found, end)) for number in range(count)]


def body_of(place: int) -> bytes:
    """Return the request of this number, from 0 to `BODIES` - 1; each has a different response."""
    return packed(XOR | {"seed": place})


def ports_of(worker: int, port: int) -> set[int]:
    """Return the client-side ports of the connections that a worker holds."""
    inodes = set()
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
            if found:
                inodes.add(found[1])
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].split(":")[1], 16) == port:
            ports.add(int(fields[2].split(":")[1], 16))
    return ports


async def _killed(server: Server, options: Options) -> Row:
    expected = []
    for place in range(BODIES):
        connection = await connect(server.port)
        connection.send(post("/v1/gradients", body_of(place)))
        expected.append((await read_answer(connection, 0.0)).body)
        connection.close()
    found = Found()
    seconds = min(options.seconds, 12.0)
    end = time.perf_counter() + seconds
    tasks = clients(server.port, CLIENTS, expected, found, end)
    await asyncio.sleep(seconds / 3)
    before = set(server.workers)
    worker = server.workers[0]
    # Stopped first, so that it can be seen which connections it has.
    os.kill(worker, signal.SIGSTOP)
    await asyncio.sleep(0.05)
    its = ports_of(worker, server.port)
    killed = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    while worker in server.workers or len(server.workers) < len(before):
        await asyncio.sleep(0.01)
    renewed = time.perf_counter() - killed
    await asyncio.gather(*tasks)
    # The kernel gives a connection that waited in the backlog to the other worker, without a word to the client.
    strangers = [port for port in found.lost if port not in its]
    told = (
        f"{found.answered} answered, {len(found.wrong)} wrong {found.wrong[:1]}, {len(found.lost)} lost of {len(its)} "
        f"connections on it, {len(strangers)} lost elsewhere, "
        f"the last {max(found.moments, default=killed) - killed:.2f} s later; new worker after {renewed:.2f} s"
    )
    held = bool(found.answered) and not found.wrong and not strangers and len(found.lost) <= len(its)
    return Row(f"kill -9 of a worker under {CLIENTS} clients", "none wrong, only requests on it lost", told, held)


def metrics_of(server: Server) -> Path:
    """Return the folder of the server's metric files, which the workers have mapped into memory."""
    for worker in server.workers:
        found = re.search(r"(/\S+/nabla-metrics-[^/]+)/", Path(f"/proc/{worker}/maps").read_text())
        if found:
            return Path(found[1])
    raise SystemExit("no worker has files of metrics")


async def _many_deaths(server: Server) -> Row:
    """Kill one worker after the other, and check that metric files do not pile up in shared memory."""

    for _ in range(20):  # so that each worker has counted something
        await server.get("/v1/losses")
    folder = metrics_of(server)
    before = sum(1 for _ in folder.iterdir())
    for _ in range(DEATHS):
        count = len(server.workers)
        worker = server.workers[0]
        os.kill(worker, signal.SIGKILL)
        while worker in server.workers or len(server.workers) < count:
            await asyncio.sleep(0.01)
        with contextlib.suppress(*FAILURES):
            await server.get("/v1/losses")
    await asyncio.sleep(2.0)
    after = sum(1 for _ in folder.iterdir())
    status = json.loads((await server.get("/health/live")).body)
    told = f"{before} files in {folder} before, {after} after; live: {status}"
    return Row(f"{DEATHS} dead workers", "at most as many files again in /dev/shm", told, after - before <= before)


async def _stopped(server: Server, host: str = HOST) -> Row:
    """Stop a server that waits for half a body, and connect meanwhile: nobody may be left hanging."""
    half = await connect(server.port)
    half.send(b"POST /v1/gradients HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    idle = await connect(server.port)
    idle.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    await read_answer(idle, 0.0)
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    outcome = "refused"
    try:
        async with asyncio.timeout(10):
            late = await connect(server.port)
            late.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            outcome = f"answered {(await read_answer(late, 0.0)).status}"
    except TimeoutError:
        outcome = "HANGS"
    except FAILURES as error:
        outcome = f"refused ({type(error).__name__})"
    while server.process.poll() is None and time.perf_counter() - start < 45:
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - start
    told = f"a new connection is {outcome}; ended after {seconds:.1f} s with status {server.process.poll()}"
    held = outcome != "HANGS" and seconds < 20 and server.process.poll() == 0
    return Row("SIGTERM with half a body", "new connections refused or answered, end within 20 s, status 0", told, held)


def run(options: Options) -> Iterator[Row]:
    """Yield rows for the death of one worker, for many deaths, and for a stop."""
    if options.wants("kill"):
        with serving(options) as server:
            yield asyncio.run(_killed(server, options))
    if options.wants("deaths"):
        with serving(options) as server:
            yield asyncio.run(_many_deaths(server))
    if options.wants("stop"):
        with serving(options) as server:
            yield asyncio.run(_stopped(server))
