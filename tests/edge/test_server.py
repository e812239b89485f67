"""The worker under gunicorn's master: stops, reloads, and clients that leave."""

import ctypes
import json
import os
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Post, ServerFactory, wait_for
from tests.edge.support import LIVE, all_of
from tests.support import LOOPBACK, Server, assert_problem, head, read_answer, strict_json, xor

ARENA = 64 << 20
READY = b"GET /health/ready HTTP/1.1\r\nHost: test\r\n\r\n"
TRAIN = "/v1/train"


def refused(port: int) -> bool:
    """Return whether nobody listens on a port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def training(steps: int) -> bytes:
    return json.dumps(xor(parameters=..., optimizer="sgd", steps=steps, trace={"every": 1000})).encode()


def test_a_client_that_leaves_stops_its_work(server: Server) -> None:
    """The client closes the connection or resets it. One that closes its sending side still gets the answer."""
    for reset in (False, True):
        body = training(1_000_000)
        with server.connect() as connection:
            connection.sendall(head(TRAIN, len(body)) + body)
            start = server.cpu_seconds
            wait_for(partial(_has_worked, server, start + 0.2))
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(partial(_rests, server), 15)
    body = training(20_000)
    with server.connect() as connection:
        connection.sendall(head(TRAIN, len(body)) + body)
        connection.shutdown(socket.SHUT_WR)
        content = all_of(connection)
    # An interim answer, which clients skip, tells it from one that has left.
    while content.startswith(b"HTTP/1.1 102 Processing\r\n\r\n"):
        content = content.partition(b"\r\n\r\n")[2]
    assert content.startswith(b"HTTP/1.1 200 OK\r\n")
    assert strict_json(content.partition(b"\r\n\r\n")[2])["status"] == "completed"


def _has_worked(server: Server, until: float) -> bool:
    return server.cpu_seconds > until


def _rests(server: Server) -> bool:
    before = server.cpu_seconds
    time.sleep(0.3)
    return server.cpu_seconds - before < 0.06


def test_a_reload_and_a_stop(start_server: ServerFactory, post: Post) -> None:
    with start_server(NABLA_MAX_SECONDS="60") as server:
        _reload(server)
        with ExitStack() as held:
            _stop(server, held, post)
    # start_server has asserted that the exit code is 0.


def _reload(server: Server) -> None:
    """Assert that clients of kept connections lose no answer while all workers are replaced."""
    over = threading.Event()
    errors: list[Any] = []
    counts: list[int] = []
    body = json.dumps(xor()).encode()
    request = head("/v1/gradients", len(body), Connection="") + body

    def ask() -> None:
        asked = 0
        connection = server.connect()
        try:
            while not over.is_set():
                connection.sendall(request)
                answer = read_answer(connection)
                assert answer.status_code == 200
                asked += 1
                if answer.headers.get("Connection") == "close":
                    connection.close()
                    connection = server.connect()
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()
            counts.append(asked)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.2)
    old = set(server.workers)
    os.kill(server.pid, signal.SIGHUP)
    wait_for(lambda: len(server.workers) == 2 and not old & set(server.workers))
    time.sleep(0.2)
    over.set()
    for client in clients:
        client.join()
    assert not errors
    assert min(counts) > 0


def _stop(server: Server, held: ExitStack, post: Post) -> None:
    """Assert that new connections are refused, and open ones answered with `Connection: close` and closed.

    A request whose body has not come yet is finished too.
    """

    def connect() -> socket.socket:
        return held.enter_context(server.connect())

    body = training(1_000_000)
    half = connect()
    half.sendall(b"GET /v1 HTTP/1.1\r\nHos")
    document = connect()
    document.sendall(head(TRAIN, len(body)) + body)
    stream = connect()
    stream.sendall(head(TRAIN, len(body), Accept="application/x-ndjson") + body)
    content = json.dumps(xor()).encode()
    late = connect()
    late.sendall(head("/v1/gradients", len(content), Expect="100-continue") + content[:-10])
    # The server says so when it has handed the request to a thread: from here on it is in flight.
    assert late.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
    kept = [connect() for _ in range(10)]
    for connection in kept:
        connection.sendall(LIVE)
        assert read_answer(connection).status_code == 200
    assert stream.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    start = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    wait_for(lambda: refused(server.port))
    for number, connection in enumerate(kept[:6]):
        connection.sendall(READY if number % 2 else LIVE)
        answer = read_answer(connection)
        assert answer.headers["Connection"] == "close"
        if number % 2:
            assert_problem(answer, "busy")
        else:
            assert answer.status_code == 200
    late.sendall(content[-10:])
    answer = read_answer(late)
    assert (answer.status_code, answer.body) == (200, post(xor()).get_data())
    for connection in (*kept, half):
        assert all_of(connection) == b""
    summary = strict_json(read_answer(document).body)
    assert summary["status"] == "cancelled"
    assert b'"checkpoint"' in all_of(stream)
    wait_for(lambda: not Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text())
    assert time.monotonic() < start + 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc has arenas")
def test_all_threads_of_a_worker_share_one_arena_of_memory(server: Server) -> None:
    """Another would keep what was freed: workers took twice the memory for large answers."""
    body = json.dumps({"network": {"layers": [{"type": "dense", "units": 300}]}, "inputs": [[0.1]] * 1000}).encode()
    request = head("/v1/forward", len(body)) + body
    with ExitStack() as stack:
        for connection in [stack.enter_context(server.connect()) for _ in range(8)]:
            connection.sendall(request)
            stack.callback(read_answer, connection)
    for worker in server.workers:
        mapped = [line.split()[:2] for line in Path(f"/proc/{worker}/maps").read_text().splitlines()]
        places = [[int(end, 16) for end in place.split("-")] for place, _ in mapped]
        # An arena is 64 MiB of addresses: the part in use, and behind it the part that may not be touched yet.
        arenas = [
            start
            for (start, middle), (begin, end), (_, rights) in zip(places, places[1:], mapped[1:], strict=False)
            if start % ARENA == 0 and begin == middle and end == start + ARENA and rights.startswith("---")
        ]
        assert not arenas
