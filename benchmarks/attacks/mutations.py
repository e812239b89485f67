"""The mutation attack: hundreds of thousands of randomly changed requests, some over HTTP, most to the application."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from benchmarks.attacks import framing
from benchmarks.attacks.client import FAILURES, Connection, connect, head, read_answer, sources
from benchmarks.attacks.harness import ROOT, Options, Row, Server, serving, watched
from benchmarks.attacks.in_process import HANG
from benchmarks.attacks.judge import fault_of
from benchmarks.attacks.mutator import Attempt, Described, Mutator

OVER_HTTP = 0.1
CLIENTS = 8
# As in_process.py has them: what is heavy is refused, so that the many are many.
SMALL = {
    "NABLA_MAX_SECONDS": "1.5",
    "NABLA_MAX_OPERATIONS": "1000000000",
    "NABLA_MAX_STEPS": "3000",
    "NABLA_MAX_WORKSPACE_BYTES": str(64 << 20),
    "NABLA_LOG_REQUESTS": "false",
}
FRAMING = (
    ("Content-Length", "-1"),
    ("Content-Length", "1e3"),
    ("Content-Length", "99999999999999999999"),
    ("Content-Length", "5, 5"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "identity"),
    ("Content-Type", "a\x01b"),
    ("X-A B", "c"),
    ("Connection", "close"),
    ("Connection", "Upgrade"),
    ("Upgrade", "h2c"),
    ("Host", "a b"),
)
"""Headers that only a real connection has."""


def encode(attempt: Attempt, framing: tuple[str, str] | None) -> bytes:
    headers = {name: text for name, text in attempt.headers.items() if name != "Expect"}
    path = "".join(sign if 32 < ord(sign) < 127 else "%C3%A9" for sign in attempt.path)
    length = None if attempt.body is None else len(attempt.body)
    request = head(attempt.method, path, length, headers)
    if framing is not None:
        request = request[:-2] + f"{framing[0]}: {framing[1]}\r\n\r\n".encode("latin-1")
    return request + (attempt.body or b"")


async def _client(server: Server, mutator: Mutator, count: int, source: str, faults: Counter[str]) -> Counter[str]:
    statuses: Counter[str] = Counter()
    connection: Connection | None = None
    for _ in range(count):
        attempt = mutator.attempt()
        wrong = mutator.random.choice(FRAMING) if mutator.random.random() < 0.03 else None
        start = time.perf_counter()
        try:
            async with asyncio.timeout(HANG + 15.0):
                connection = connection or await connect(server.port, source)
                connection.send(encode(attempt, wrong))
                answer = await read_answer(connection, start, kept=2**30, bodiless=attempt.method == "HEAD")
        except FAILURES as error:
            # After an error in the framing the server closes, and then a kept connection may just have been closed.
            faults[f"{type(error).__name__} {attempt.method} {attempt.path[:60]} {wrong} {attempt.kinds}"[:200]] += 1
            if connection is not None:
                connection.reset()
            connection = None
            continue
        statuses[str(answer.status)] += 1
        if not answer.whole:
            faults[f"answer cut off: {attempt.path[:60]} {attempt.kinds}"[:200]] += 1
        elif answer.seconds > HANG:
            faults[f"took {answer.seconds:.1f} s: {attempt.path[:60]} {attempt.kinds}"[:200]] += 1
        else:
            fault = fault_of(attempt.method, answer.status, answer.headers, answer.body, attempt.value)
            if fault is not None:
                faults[f"{fault} at {attempt.method} {attempt.path[:60]} {wrong} {attempt.kinds}"[:200]] += 1
        # After an error of the framing, the bytes of the error and of the next request look alike.
        if wrong is not None or not answer.whole or answer.headers.get("connection", "").lower() == "close":
            connection.reset()
            connection = None
    if connection is not None:
        connection.close()
    return statuses


async def _over_http(server: Server, options: Options) -> Row:
    document = json.loads((await server.get("/openapi.json")).body)
    described = Described.of(document)
    count = max(CLIENTS, int(options.mutations * OVER_HTTP)) // CLIENTS
    faults: Counter[str] = Counter()
    start = time.perf_counter()
    async with watched(server, every=0.1) as beside:
        clients = (
            _client(server, Mutator(described, options.seed * 1000 + number), count, source, faults)
            for number, source in enumerate(sources(CLIENTS))
        )
        statuses = sum(await asyncio.gather(*clients), Counter())
    told = f"{dict(sorted(statuses.items()))} in {time.perf_counter() - start:.0f} s; {_listed(faults)}; {beside}"
    return Row(f"{count * CLIENTS:,} mutated requests over HTTP", "no fault", told, not faults and not beside.deaths)


def _listed(faults: Counter[str]) -> str:
    shown = "; ".join(f"{fault} x{count}" for fault, count in faults.most_common(8))
    return f"{faults.total()} faults{': ' if faults else ''}{shown}"


def _in_process(options: Options, count: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.attacks.in_process", "--checkout", str(options.checkout)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    parts = [
        subprocess.Popen(
            [*command, "--count", str(count // options.workers), "--seed", str(options.seed * 100 + number)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(options.workers)
    ]
    outputs = [part.communicate()[0] for part in parts]
    statuses: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    slowest, seconds, repeated = 0.0, 0.0, 0
    for output in outputs:
        lines = output.splitlines()
        if not lines or not lines[-1].startswith("{"):
            faults["it ended before its end"] += 1
            continue
        found = json.loads(lines[-1])
        statuses.update(found["statuses"])
        faults.update(found["faults"])
        slowest, seconds = max(slowest, found["slowest"]), max(seconds, found["seconds"])
        repeated += found["repeated"]
        print(*(line for line in lines if line.startswith("FAULT")), sep="\n", end="")
    told = f"{dict(sorted(statuses.items()))} in {seconds:.0f} s, {slowest:.1f} s at most, {repeated} repeated; "
    return Row(f"{statuses.total():,} mutated requests in process", "no fault", told + _listed(faults), not faults)


def run(options: Options) -> Iterator[Row]:
    """Yield a row each for requests to the application itself, for mistakes in HTTP, and for requests over HTTP."""
    if options.wants("in process"):
        yield _in_process(options, int(options.mutations * (1.0 - OVER_HTTP)))
    if options.wants("framing"):
        with serving(options, framing.SETTINGS) as server:
            count = max(8, options.mutations // 100)
            statuses, faults = asyncio.run(framing.storm(server.port, count, options.seed))
            told = f"{dict(sorted(statuses.items()))}; {_listed(faults)}"
            yield Row(f"{count:,} sequences of wrong framing", "no fault", told, not faults)
    if options.wants("over HTTP"):
        with serving(options, SMALL) as server:
            yield asyncio.run(_over_http(server, options))
