"""The overload attack: many of the most expensive requests at once. The server must compute some and refuse the rest.

Goodput is the work per second in the answered requests, from the first request to the last response. Work counts whole
responses; where a response that was cut short says how many steps it made, it counts steps.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.attacks.bodies import HEAVY, Heavy
from benchmarks.attacks.client import FAILURES, ask, post, sources
from benchmarks.attacks.harness import NORMAL, Beside, Options, Row, Server, serving, watched

PARALLEL = 64
OVERLOAD = 16
GOODPUT = 0.8
AT_ONCE = 1.0
"""Seconds within which a refusal comes: what a client behind others needs to hear."""
WHOLE = 2**30
AGAIN = 0.5
"""Seconds until a refused client asks again, whatever Retry-After says."""


@dataclass
class Load:
    """The results of the clients of one overload: work done, statuses, and the seconds to answers and refusals."""

    work: float = 0.0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    retry_after: set[float | None] = field(default_factory=set)

    @property
    def goodput(self) -> float:
        return self.work / self.seconds if self.seconds else 0.0

    @property
    def refused_well(self) -> bool:
        """True if every refusal came within `AT_ONCE` seconds with a Retry-After, and nothing else went wrong."""
        others = sum(count for status, count in self.statuses.items() if status not in ("200", "503"))
        return not others and None not in self.retry_after and max(self.refused, default=0.0) <= AT_ONCE

    def told(self, unit: str) -> str:
        text = f"{self.goodput:.3g} {unit}/s; " + ", ".join(f"{s} x{n}" for s, n in sorted(self.statuses.items()))
        if self.answered:
            text += f"; answered in {statistics.median(self.answered):.1f} s, {max(self.answered):.1f} at most"
        if self.refused:
            waits = ", ".join(f"{wait:g}" if wait is not None else "none" for wait in sorted(self.retry_after, key=str))
            late = sum(seconds > AT_ONCE for seconds in self.refused)
            text += (
                f"; refused in {statistics.median(self.refused):.2f} s, {max(self.refused):.2f} at most, {late} late"
            )
            text += f"; Retry-After {waits}"
        return text


async def load(port: int, heavy: Heavy, parallel: int, seconds: float, addresses: list[str], first: int = 0) -> Load:
    """Let `parallel` clients send heavy requests again and again for `seconds`, then wait for the last responses.

    `first` is the number of the first request; other numbers keep a server from finding the requests in its caches.
    """
    found = Load()
    start = time.perf_counter()
    numbers = iter(range(first, 10**9))

    async def client(number: int) -> None:
        source = addresses[number % len(addresses)]
        while time.perf_counter() - start < seconds:
            request = post(heavy.path, heavy.body(next(numbers)), heavy.headers)
            began = time.perf_counter()
            try:
                answer = await ask(port, request, source, timeout=120, kept=WHOLE)
            except FAILURES as error:
                found.statuses[type(error).__name__] += 1
                await asyncio.sleep(AGAIN)
                continue
            status = str(answer.status) if answer.whole else f"{answer.status} cut off"
            found.statuses[status] += 1
            if status == "200":
                work = heavy.work(answer.body)
                found.work += work
                found.seconds = max(found.seconds, time.perf_counter() - start)
                found.answered.append(answer.seconds)
                if not work:
                    found.statuses["of them cut short"] += 1
            elif answer.status == 503:
                found.refused.append(time.perf_counter() - began)
                found.retry_after.add(answer.retry_after)
                await asyncio.sleep(AGAIN)

    await asyncio.gather(*(client(number) for number in range(parallel)))
    if not found.work:
        found.seconds = time.perf_counter() - start
    return found


async def _beside(server: Server, heavy: Heavy, parallel: int, options: Options, first: int) -> tuple[Load, Beside]:
    async with watched(server) as beside:
        found = await load(server.port, heavy, parallel, options.seconds, sources(options.addresses), first)
    return found, beside


def run(options: Options) -> Iterator[Row]:
    """Yield three rows for each family: as many clients as workers, 16 times as many, and 64."""
    for heavy in HEAVY.values():
        if not options.wants(heavy.family):
            continue
        with serving(options) as server:
            once, beside = asyncio.run(_beside(server, heavy, options.workers, options, 0))
            yield Row(
                f"{options.workers} x {heavy.family}", NORMAL, f"{once.told(heavy.unit)}; {beside}", beside.served()
            )
            for number, parallel in enumerate((OVERLOAD * options.workers, PARALLEL), 1):
                found, beside = asyncio.run(_beside(server, heavy, parallel, options, number * 10_000))
                share = found.goodput / once.goodput if once.goodput else 0.0
                held = beside.served() and share >= GOODPUT and found.refused_well
                yield Row(
                    f"{parallel} x {heavy.family}",
                    f"{NORMAL}; goodput >= {GOODPUT:.0%} of {options.workers} x; refusals within {AT_ONCE:g} s",
                    f"goodput {share:.0%}: {found.told(heavy.unit)}; {beside}",
                    held,
                )
