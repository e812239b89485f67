"""Small attacks on a real server: it keeps answering others, refuses attackers properly, and stays whole.

Nothing here measures how long something takes: `make attack` does that.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from benchmarks.attacks import connections as slow
from benchmarks.attacks.bodies import XOR, Bomb, bombs, elementwise, large_answer, packed
from benchmarks.attacks.client import FAILURES, Answer, ask, get, head, post, sources
from benchmarks.attacks.judge import fault_of, strict_json
from benchmarks.attacks.kill import BODIES, Found, body_of, clients, ports_of
from benchmarks.attacks.mutator import Described, Mutator
from tests.conftest import ServerFactory, wait_for
from tests.support import Server, every

PATIENCE = 30.0
"""Seconds that are far more than any of it takes."""
LIVE = get("/health/live")
GRADIENTS = post("/v1/gradients", packed(XOR))
SMALL_FORWARD = post("/v1/forward", elementwise(20, 60))

# More than the 128 threads that two workers had when a connection held one.
ATTACKS: dict[str, slow.Run] = {
    "lingering connections": slow.lingering(40),
    "malformed lines": slow.malformed(40),
    "half heads": slow.sending(150, slow.HALF_HEAD),
    "half heads, byte by byte": slow.sending(150, slow.HALF_HEAD, b"a", 0.1),
    "half bodies": slow.sending(150, slow.HALF_BODY),
    "half bodies, byte by byte": slow.sending(150, slow.HALF_BODY, b" ", 0.1),
    "endless chunk extensions": slow.chunk_extensions(50),
    "unread answers": slow.slow_readers(20, post("/v1/forward", large_answer(2))),
    "unread streams": slow.slow_readers(20, post("/v1/train", slow.STREAM, {"Accept": "application/x-ndjson"})),
    "idle connections": slow.idle(300, LIVE),
    "connections without a byte": slow.idle(300),
    "churn": slow.churn(10),
    "pipelines that are not read": slow.pipelined(5, get("/v1/losses"), 1000, reads=False),
    "heads of many lines": slow.headers(5, 10_000, 1),
    "uploads that are reset": slow.aborted(10, post("/v1/gradients", b" " * 2_000_000), 0.5),
    "requests that are reset": slow.aborted(10, SMALL_FORWARD, 1.0),
}


@pytest.fixture(scope="module")
def attacked(start_server: ServerFactory) -> Iterator[Server]:
    """Yield a server of two workers with short deadlines."""
    settings = {f"NABLA_MAX_{name}_SECONDS": "1" for name in ("HEADER", "BODY", "SEND")}
    with start_server(**settings, NABLA_MAX_BODY_BYTES=str(4 * 2**20)) as server:
        yield server


def gauge(server: Server, name: str) -> float:
    text = server.get("/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def normal(port: int, rounds: int) -> list[int]:
    """Return the statuses of normal requests, sent one after the other."""
    requests = (LIVE, GRADIENTS) * rounds
    return [(await ask(port, request, timeout=PATIENCE)).status for request in requests]


@every("name", ATTACKS)
def test_others_are_served_beside(attacked: Server, name: str) -> None:
    notes: Counter[str] = Counter()

    async def attack() -> list[int]:
        task = asyncio.create_task(ATTACKS[name](slow.Field(attacked.port, sources(8), notes)))
        await asyncio.sleep(0.2)
        statuses = await normal(attacked.port, 4)
        assert not task.done(), task.exception()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return statuses

    workers = attacked.workers
    assert asyncio.run(attack()) == [200] * 8
    assert notes["opened"] > 1
    assert attacked.workers == workers


def test_nothing_is_held_for_clients_that_have_gone(attacked: Server) -> None:
    """After the attacks above."""
    wait_for(lambda: gauge(attacked, "nabla_reserved_bytes") == 0.0)
    wait_for(lambda: gauge(attacked, "nabla_open_connections") <= 2.0)


def test_many_heavy_requests_at_once_are_answered_or_refused(attacked: Server) -> None:
    async def storm() -> tuple[list[Answer], list[int]]:
        requests = [ask(attacked.port, SMALL_FORWARD, source, timeout=PATIENCE) for source in sources(30)]
        answers, statuses = await asyncio.gather(asyncio.gather(*requests), normal(attacked.port, 4))
        return answers, statuses

    answers, statuses = asyncio.run(storm())
    assert statuses == [200] * 8
    assert {answer.status for answer in answers} <= {200, 503}
    assert any(answer.status == 200 for answer in answers)
    for answer in answers:
        assert fault_of("POST", answer.status, answer.headers, answer.body) is None
        assert answer.status == 200 or answer.retry_after is not None


SIZE = 60_000
BOMBS = bombs(SIZE)


@every("bomb", BOMBS, ids=[bomb.name for bomb in BOMBS])
def test_a_bomb_is_refused(attacked: Server, bomb: Bomb) -> None:
    request = post(bomb.path, bomb.wire, {"Content-Encoding": "gzip"} if bomb.gzipped else {})
    answer = asyncio.run(ask(attacked.port, request, timeout=PATIENCE))
    assert 400 <= answer.status < 500, answer
    assert fault_of("POST", answer.status, answer.headers, answer.body) is None


def test_a_body_that_grows_a_thousandfold_is_refused(attacked: Server) -> None:
    bomb = Bomb("spaces", b" " * (16 * 2**20), gzipped=True)
    answer = asyncio.run(ask(attacked.port, post(bomb.path, bomb.wire, {"Content-Encoding": "gzip"}), timeout=PATIENCE))
    assert answer.status == 413
    assert strict_json(answer.body)["type"] == "/problems/too-large"


def test_a_late_body_is_no_request(attacked: Server) -> None:
    """Bytes after the refusal of a body belong to the body."""

    async def late() -> bytes:
        connection = await slow.connect(attacked.port)
        connection.send(head("POST", "/v1/gradients", 200_000) + b'{"network":')
        answer = await slow.read_answer(connection, 0.0)
        assert answer.status == 408
        with contextlib.suppress(*FAILURES):
            connection.send(LIVE * 100)
        rest = b""
        with contextlib.suppress(*FAILURES):
            rest = await connection.reader.read()
        connection.reset()
        return rest

    assert b"HTTP/1.1 200" not in asyncio.run(late())


def test_a_client_gets_its_share_beside_greedy_ones(attacked: Server) -> None:
    async def share() -> Counter[int]:
        statuses: Counter[int] = Counter()

        async def greedy() -> None:
            while True:
                with contextlib.suppress(*FAILURES):
                    await ask(attacked.port, SMALL_FORWARD, "127.0.0.2", timeout=PATIENCE)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(greedy()) for _ in range(40)]
        await asyncio.sleep(0.2)
        for _ in range(6):
            statuses[(await ask(attacked.port, SMALL_FORWARD, timeout=PATIENCE)).status] += 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return statuses

    assert asyncio.run(share())[200] >= 3


def test_a_killed_worker_takes_only_its_own_requests_along(attacked: Server) -> None:
    port, before = attacked.port, attacked.workers

    async def run() -> tuple[Found, set[int]]:
        expected = [(await ask(port, post("/v1/gradients", body_of(place)))).body for place in range(BODIES)]
        found = Found()
        tasks = clients(port, 12, expected, found, time.perf_counter() + 0.8)
        await asyncio.sleep(0.3)
        os.kill(before[0], signal.SIGSTOP)
        its = ports_of(before[0], port)
        os.kill(before[0], signal.SIGKILL)
        await asyncio.gather(*tasks)
        return found, its

    found, its = asyncio.run(run())
    wait_for(lambda: len(attacked.workers) == len(before) and attacked.workers != before)
    assert found.answered
    assert not found.wrong
    assert set(found.lost) <= its


def test_mutated_requests_are_answered_properly(make_client: Callable[..., object]) -> None:
    client = make_client(max_seconds=1.5, max_operations=10**9, max_steps=1000, max_workspace_bytes=64 << 20)
    described = Described.of(client.get("/openapi.json").get_json())  # type: ignore[attr-defined]
    mutator = Mutator(described, seed=7)
    statuses: Counter[int] = Counter()
    for number in range(300):
        attempt = mutator.attempt()
        headers = {name: text for name, text in attempt.headers.items() if name != "Content-Type"}
        answer = client.open(  # type: ignore[attr-defined]
            attempt.path,
            method=attempt.method,
            data=attempt.body,
            content_type=attempt.headers.get("Content-Type"),
            headers=headers,
        )
        found = {name.lower(): text for name, text in answer.headers.items()}
        fault = fault_of(attempt.method, answer.status_code, found, answer.get_data(), attempt.value)
        assert fault is None, (number, fault, attempt)
        statuses[answer.status_code] += 1
    assert {200, 400, 404, 415, 422} <= set(statuses), json.dumps(statuses)
