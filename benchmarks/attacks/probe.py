"""Normal clients, in a process of their own: they time `/health/live` and the XOR gradients until standard input ends.

A request starts at fixed times, whether or not earlier ones were answered, so a pause of the server counts for all
clients that would have met it. Half of the requests use kept connections, half new ones. A request that is not answered
with 200 counts as taking `PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.attacks.bodies import XOR, packed
from benchmarks.attacks.client import FAILURES, HOST, Connection, connect, get, post, read_answer

PATIENCE = 10.0
LIVE = get("/health/live")


@dataclass
class Probe:
    """The normal clients of one server: two requests every `every` seconds, and their times and failures."""

    port: int
    every: float
    source: str = HOST
    key: str = ""
    idle: dict[str, list[Connection]] = field(default_factory=lambda: {"live": [], "xor": []})
    times: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"live": [], "xor": []})
    failures: Counter[str] = field(default_factory=Counter)
    pending: set[asyncio.Task[None]] = field(default_factory=set)

    async def once(self, kind: str, keep: bool) -> None:
        start = time.perf_counter()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = LIVE if kind == "live" else post("/v1/gradients", packed(XOR), headers)
        seconds = PATIENCE
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._ask(kind, request, keep, start)
            if status == 200:
                seconds = time.perf_counter() - start
            else:
                self.failures[f"{kind} {status}"] += 1
        except FAILURES as error:
            self.failures[f"{kind} {type(error).__name__}"] += 1
        self.times[kind].append((start, seconds))

    async def _ask(self, kind: str, request: bytes, keep: bool, start: float) -> int:
        while True:
            old = keep and bool(self.idle[kind])
            connection = self.idle[kind].pop() if old else await connect(self.port, self.source)
            try:
                connection.send(request)
                answer = await read_answer(connection, start)
            except FAILURES:
                connection.close()
                if old:
                    continue  # the server closed an idle connection, which it may: every client tries again
                raise
            except BaseException:
                connection.close()
                raise
            if keep and answer.headers.get("connection", "").lower() != "close" and len(self.idle[kind]) < 4:
                self.idle[kind].append(connection)
            else:
                connection.close()
            return answer.status

    async def run(self) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: os.read(0, 100) or ended.set())
        number = 0
        following = time.perf_counter()
        print("ready", flush=True)
        while not ended.is_set():
            for kind in ("live", "xor"):
                task = asyncio.create_task(self.once(kind, keep=number % 2 == 0))
                self.pending.add(task)
                task.add_done_callback(self.pending.discard)
            number += 1
            following += self.every
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.0, following - time.perf_counter()))
        for task in list(self.pending):
            await task


def main() -> None:
    port, every, source, key = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
    with contextlib.suppress(OSError):
        os.nice(-10)  # the clients are to wait for the server, not for a processor
    probe = Probe(port, every, source, key)
    asyncio.run(probe.run())
    times = {kind: [seconds for _, seconds in found] for kind, found in probe.times.items()}
    print(json.dumps({"times": times, "failures": dict(probe.failures)}))


if __name__ == "__main__":
    main()
