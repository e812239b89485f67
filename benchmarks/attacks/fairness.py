"""The fairness attack: a modest client beside 60 greedy ones must get its share, whatever the others pretend to be."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.attacks.bodies import HEAVY, elementwise, endless_stream
from benchmarks.attacks.client import FAILURES, HOST, ask, post
from benchmarks.attacks.harness import Options, Row, Server, serving, watched

GREEDY = 60
ANSWERED, MEDIAN = 0.4, 2.0
KEYS = {name: f"{name}-key-0123456789" for name in ("modest", "greedy", "normal")}
Headers = Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Greed:
    """One kind of greedy client: what it sends and from where, and the headers of the modest client beside it."""

    request: Callable[[Mapping[str, str]], bytes]
    headers: Headers = dict
    modest: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.2"
    """The address of the greedy clients."""
    keys: bool = False


def _same(headers: Mapping[str, str]) -> bytes:
    return post("/v1/forward", elementwise(170), headers)


def _trainings(headers: Mapping[str, str]) -> bytes:
    return post(HEAVY["train"].path, HEAVY["train"].body(0), headers)


def _streams(headers: Mapping[str, str]) -> bytes:
    return post("/v1/train", endless_stream(), {**headers, "Accept": "application/x-ndjson"})


def _long(headers: Mapping[str, str]) -> bytes:
    return post("/v1/forward", HEAVY["elementwise"].body(0), headers)


_number = itertools.count()


def _forged_key() -> Mapping[str, str]:
    return {"Authorization": f"Bearer forged-{next(_number)}"}


def _forged_address() -> Mapping[str, str]:
    number = next(_number)
    address = f"10.{number // 65536 % 256}.{number // 256 % 256}.{number % 256}"
    return {"X-Forwarded-For": address, "X-Real-IP": address, "Forwarded": f"for={address}"}


def _bearer(name: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


CASES: dict[str, Greed] = {
    "another address": Greed(_same),
    "another address, trainings": Greed(_trainings),
    "another address, streams": Greed(_streams),
    "another address, requests of 2 s": Greed(_long),
    "another key, the same address": Greed(
        _same, lambda: _bearer("greedy"), _bearer("modest"), address=HOST, keys=True
    ),
    "forged keys that rotate, no keys set": Greed(_same, _forged_key),
    "forged keys that rotate, keys set": Greed(_same, _forged_key, _bearer("modest"), keys=True),
    "forged X-Forwarded-For that rotates": Greed(_same, _forged_address),
}


async def _modest(port: int, request: bytes, seconds: float) -> tuple[list[float], Counter[str]]:
    """Send one request at a time, as Retry-After asks; return the seconds of each answer, and a count of statuses."""
    times: list[float] = []
    statuses: Counter[str] = Counter()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait = 0.1
        try:
            answer = await ask(port, request, timeout=60)
            statuses[str(answer.status)] += 1
            if answer.status == 200:
                times.append(answer.seconds)
            else:
                wait = min(answer.retry_after or 0.5, 2.0)
        except FAILURES as error:
            statuses[type(error).__name__] += 1
        await asyncio.sleep(wait)
    return times, statuses


async def _greedy(port: int, greed: Greed, statuses: Counter[str]) -> None:
    async def one() -> None:
        while True:
            try:
                answer = await ask(port, greed.request(greed.headers()), greed.address, timeout=60)
                statuses[str(answer.status)] += 1
            except FAILURES as error:
                statuses[type(error).__name__] += 1
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for _ in range(GREEDY):
            group.create_task(one())


async def _case(server: Server, name: str, greed: Greed, options: Options) -> Row:
    request = post("/v1/forward", elementwise(170), greed.modest)
    alone, _ = await _modest(server.port, request, 3.0)
    others: Counter[str] = Counter()
    # The normal clients of other attacks come from the address of the modest one: they would take its share.
    async with watched(server, every=0.2, source="127.0.3.1", key=KEYS["normal"] if greed.keys else "") as beside:
        task = asyncio.create_task(_greedy(server.port, greed, others))
        await asyncio.sleep(2.0)
        times, statuses = await _modest(server.port, request, options.seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    share = len(times) / max(1, statuses.total())
    median = statistics.median(times) if times else float("inf")
    told = (
        f"{share:.0%} of {statuses.total()} answered, p50 {median:.2f} s (alone {statistics.median(alone):.2f}); "
        f"{dict(statuses)}; greedy {dict(others)}; {beside}"
    )
    bar = f">= {ANSWERED:.0%} answered, p50 <= {MEDIAN:g} s"
    return Row(
        f"modest beside {GREEDY}: {name}", bar, told, share >= ANSWERED and median <= MEDIAN and not beside.deaths
    )


def run(options: Options) -> Iterator[Row]:
    """Yield a row for each kind of greedy client."""
    for name, greed in CASES.items():
        if options.wants(name):
            keys = {"NABLA_API_KEYS": ",".join(KEYS.values())} if greed.keys else {}
            with serving(options, keys) as server:
                yield asyncio.run(_case(server, name, greed, options))
