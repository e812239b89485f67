"""The soak: small requests that all differ, for many minutes. Memory must not grow, and no request may be delayed."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterator

from benchmarks.attacks.bodies import XOR, packed
from benchmarks.attacks.client import FAILURES, connect, post, read_answer, sources
from benchmarks.attacks.harness import Options, Row, Server, Watch, serving, watched

CLIENTS = 4
SLOPE = 1.0
"""Megabytes a minute, over all processes, once caches are full."""
PAUSE = 0.1
WARM = 0.4
"""The share of the time in which caches fill."""


def unique(number: int) -> tuple[str, bytes]:
    """Return the path and body of a small request whose definition no other number has, so that caches do not help."""
    name = f"n{number}"
    kind = number % 5
    if kind == 0:
        layers = [{"type": "dense", "name": name, "units": 2 + number % 7, "activation": "tanh"}]
        layers.append({"type": "dense", "name": "out", "units": 1})
        return "/v1/gradients", packed(XOR | {"network": {"layers": layers}})
    if kind == 1:
        expression = f"sin({number}x)^2 + cos(y + {number % 97}) + x*y/{number + 1}"
        return "/v1/functions/gradient", packed({"expression": expression, "points": [[1, 2]], "include": ["hessian"]})
    if kind == 2:
        expression = f"(x^2 + y - {number % 1000 / 10})^2 + (x + y^2 - {number / 1e6})^2"
        return "/v1/functions/stationary", packed({"expression": expression, "box": [-5, 5], "starts": 20})
    if kind == 3:
        layers = [{"type": "dense", "name": f"l{number}_{n}", "units": 3, "activation": "relu"} for n in range(8)]
        return "/v1/forward", packed({"network": {"layers": layers}, "inputs": [[1, 2]]})
    layers = [{"type": "dense", "name": name, "units": 1 + number % 3}, {"type": "dense", "name": "z", "units": 1}]
    body = XOR | {"network": {"layers": layers}, "optimizer": "adam", "steps": 5}
    return "/v1/train", packed(body)


async def _client(port: int, source: str, numbers: Iterator[int], end: float, statuses: Counter[str]) -> None:
    connection = None
    while time.monotonic() < end:
        try:
            connection = connection or await connect(port, source)
            connection.send(post(*unique(next(numbers))))
            async with asyncio.timeout(60):
                answer = await read_answer(connection, 0.0)
            statuses[str(answer.status)] += 1
            if answer.headers.get("connection", "").lower() == "close":
                connection.close()
                connection = None
        except FAILURES as error:
            statuses[type(error).__name__] += 1
            if connection is not None:
                connection.reset()
            connection = None
    if connection is not None:
        connection.close()


def slope(history: list[tuple[float, int]]) -> float:
    """Return the growth of memory in bytes a second: the least-squares line through `(moment, bytes)` pairs."""
    if len(history) < 3:
        return 0.0
    times, sizes = zip(*history, strict=True)
    return float(statistics.linear_regression(times, sizes).slope)


async def _soak(server: Server, options: Options) -> Row:
    seconds = 60.0 * options.minutes
    statuses: Counter[str] = Counter()
    numbers = itertools.count()
    memory = Watch(server)
    memory.start()
    async with watched(server, every=0.025) as beside:
        start = time.monotonic()
        addresses = sources(CLIENTS)
        await asyncio.gather(*(_client(server.port, a, numbers, start + seconds, statuses) for a in addresses))
    memory.over.set()
    memory.join()
    warm = [(moment, size) for moment, size in memory.history if start + WARM * seconds < moment < start + seconds]
    grown = slope(warm) * 60 / 2**20
    marks = [memory.history[place * (len(memory.history) - 1) // 6][1] / 2**20 for place in range(7)]
    pauses = sum(time > PAUSE for time in beside.times["live"])
    longest = max(beside.times["live"], default=float("inf"))
    told = (
        f"{statuses.total()} requests {dict(statuses)}; {grown:+.2f} MB a minute after warm-up, "
        f"RSS {' '.join(f'{mark:.0f}' for mark in marks)} MB; {pauses} pauses of health over {PAUSE * 1e3:.0f} ms, "
        f"the longest {longest * 1e3:.0f} ms; {beside}"
    )
    bar = f"< {SLOPE:g} MB a minute after warm-up, no pause > {PAUSE * 1e3:.0f} ms, nothing but 200"
    held = grown < SLOPE and longest <= PAUSE and set(statuses) == {"200"} and not beside.deaths
    return Row(f"{options.minutes:g} minutes of unique requests", bar, told, held)


def run(options: Options) -> Iterator[Row]:
    """Yield one row, about memory and pauses over `options.minutes`."""
    with serving(options) as server:
        yield asyncio.run(_soak(server, options))
