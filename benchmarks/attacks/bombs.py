"""The attack with bombs: each bomb 16 times at once, against a server with the memory of a container of 2 GiB."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from benchmarks.attacks.bodies import MEBI, Bomb, bombs, large_answer, largest_valid, with_text
from benchmarks.attacks.client import FAILURES, Connection, ask, connect, get, head, post, sources
from benchmarks.attacks.harness import Options, Row, Server, serving, watched

AT_ONCE = 16
CONTAINER = 2048 * MEBI
SECONDS = 1.0
"""Processor time that each bomb may take."""


def compose_settings(options: Options) -> Mapping[str, str]:
    """Return the environment of the checkout's docker-compose.yml."""
    services: dict[str, Any] = yaml.safe_load((options.checkout / "docker-compose.yml").read_text())["services"]
    return {name: str(value) for name, value in services["nabla"]["environment"].items()}


async def _largest_body(server: Server) -> int:
    limits: dict[str, float] = json.loads((await server.get("/v1")).body)["limits"]
    return int(limits["body_bytes"])


async def _send(port: int, request: bytes, source: str, statuses: Counter[str]) -> None:
    try:
        answer = await ask(port, request, source, timeout=120)
    except FAILURES as error:
        statuses[type(error).__name__] += 1
    else:
        missing = " without Retry-After" if answer.status == 503 and answer.retry_after is None else ""
        statuses[f"{answer.status}{missing}"] += 1


async def _idle(server: Server, seconds: float = 60.0) -> None:
    """Wait until the server's workers use almost no processor time, for at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = server.processor_seconds
        await asyncio.sleep(0.3)
        if server.processor_seconds - before < 0.06:
            return


async def _at_once(
    server: Server, request: bytes, count: int, options: Options
) -> tuple[Counter[str], float, str, int]:
    """Send one request `count` times at once, beside normal clients.

    Return the count of each status, the CPU seconds per request, what the normal clients measured, and the number of
    workers that died.
    """
    statuses: Counter[str] = Counter()
    addresses = sources(options.addresses)
    kills = 0
    if server.cgroup is not None:
        kills = server.cgroup.kills
        server.cgroup.forget_peak()
    async with watched(server, every=0.1) as beside:
        sent = (_send(server.port, request, addresses[n % len(addresses)], statuses) for n in range(count))
        await asyncio.gather(*sent)
        await _idle(server)
    # The normal clients compute too, about 1 ms each.
    each = max(0.0, beside.processor_seconds - 0.02 * beside.seconds) / count
    killed = server.cgroup.kills - kills if server.cgroup else 0
    return statuses, each, str(beside), beside.deaths + killed


def _row(
    name: str, found: tuple[Counter[str], float, str, int], good: set[str], server: Server, cpu: bool = True
) -> Row:
    statuses, each, beside, deaths = found
    fine = all(status in good or (status.startswith("4") and "4xx" in good) for status in statuses)
    held = fine and not deaths and (each < SECONDS or not cpu)
    limit = f" of {CONTAINER // MEBI} MB" if server.cgroup else ", no limit: cgroups cannot be made here"
    bar = f"{'/'.join(sorted(good))}{f', < {SECONDS:g} s CPU each' if cpu else ''}, no kill{limit}"
    peak = f"; peak {server.cgroup.peak // MEBI} MB in the cgroup" if server.cgroup else ""
    return Row(name, bar, f"{dict(statuses)}, {each:.2f} s CPU each; {beside}{peak}", held)


def run(options: Options) -> Iterator[Row]:
    """Yield a row for each bomb, then rows for large valid requests, unread responses and half-sent bodies."""
    compose = compose_settings(options)
    with contextlib.ExitStack() as stack:

        def fresh() -> Server:
            stack.close()
            return stack.enter_context(serving(options, compose, CONTAINER))

        server = fresh()
        limit = asyncio.run(_largest_body(server))
        for bomb in (*bombs(int(limit * 0.95)), Bomb("gzip: 300 MB of spaces", b" " * (300 * MEBI), gzipped=True)):
            if not options.wants(bomb.name):
                continue
            headers = {"Content-Encoding": "gzip"} if bomb.gzipped else {}
            request = post(bomb.path, bomb.wire, headers)
            found = asyncio.run(_at_once(server, request, AT_ONCE, options))
            # "busy" is no refusal of the bomb: a request that waits for memory may get a Retry-After.
            yield _row(f"{AT_ONCE} x {bomb.name}, {len(request) / 1e6:.2g} MB sent", found, {"4xx", "503"}, server)
            if found[3]:
                server = fresh()
        if options.wants("largest valid"):
            server = fresh()
            sizes = [int(limit * share) for share in (0.95, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1)]
            request = asyncio.run(_largest(server, [post("/v1/forward", largest_valid(size)) for size in sizes]))
            found = asyncio.run(_at_once(server, request, 64, options))
            yield _row(f"64 x largest valid, {len(request) / 1e6:.2g} MB", found, {"200", "503"}, server, cpu=False)
        answers = {
            megabytes: post("/v1/forward", large_answer(megabytes)) for megabytes in (400, 200, 140, 100, 70, 50)
        }
        if options.wants("large answers"):
            server = fresh()
            request = asyncio.run(_largest(server, list(answers.values())))
            (megabytes,) = (megabytes for megabytes, known in answers.items() if known == request)
            found = asyncio.run(_at_once(server, request, 32, options))
            yield _row(f"32 x large answers, {megabytes} MB", found, {"200", "503"}, server, cpu=False)
        if options.wants("unread"):
            server = fresh()
            yield asyncio.run(_unread(server, list(answers.values()), options))
        if options.wants("half-sent"):
            server = fresh()
            yield asyncio.run(_half_sent(server, limit, options))
    if options.wants("defaults"):
        with serving(options, memory=2 * CONTAINER) as server:
            limit = asyncio.run(_largest_body(server))
            size = min(int(limit * 0.95), 256 * MEBI)
            zipped = Bomb(
                "gzip: numbers and a word", with_text("inputs", "[" + "1," * (size // 2) + '"x"]'), gzipped=True
            )
            request = post(zipped.path, zipped.wire, {"Content-Encoding": "gzip"})
            found = asyncio.run(_at_once(server, request, 4, options))
            name = f"4 x {zipped.name}, defaults in 4 GiB, {len(request) / 1e6:.2g} MB sent"
            yield _row(name, found, {"4xx", "503"}, server)


async def _largest(server: Server, requests: list[bytes]) -> bytes:
    """Return the first of the requests that the server answers with 200."""
    for request in requests:
        if (await ask(server.port, request, timeout=120)).status == 200:
            return request
    raise SystemExit("none of the large requests is answered")


async def _unread(server: Server, requests: list[bytes], options: Options) -> Row:
    """Ask for the largest responses that the server gives, and never read them."""
    request = await _largest(server, requests)
    return await _holding(server, "32 unread large answers", request, 32, options)


async def _half_sent(server: Server, limit: int, options: Options) -> Row:
    """Send all but the end of each body, and hold the connections open."""
    request = head("POST", "/v1/gradients", int(limit * 0.95)) + b" " * int(limit * 0.9)
    return await _holding(server, "200 bodies held at 95 %", request, 200, options)


async def _holding(server: Server, name: str, request: bytes, count: int, options: Options) -> Row:
    addresses = sources(options.addresses)
    connections: list[Connection] = []
    async with watched(server, every=0.1) as beside:
        for number in range(count):
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(10):
                    connection = await connect(server.port, addresses[number % len(addresses)], receive=4096)
                    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
                    connection.send(request)
                    connections.append(connection)
        await asyncio.sleep(options.seconds)
        for connection in connections:
            connection.reset()
    killed = server.cgroup.kills if server.cgroup else 0
    peak = f"; peak {server.cgroup.peak // MEBI} MB in the cgroup" if server.cgroup else ""
    alive = (await ask(server.port, get("/health/live"))).status
    return Row(
        name,
        f"no kill of {CONTAINER // MEBI} MB",
        f"{beside}{peak}; live {alive} afterwards",
        not killed and not beside.deaths,
    )
