"""Slow clients are cut off in time, with an answer if possible; all others are served meanwhile."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.capacity.memory import Account
from tests.conftest import wait_for
from tests.edge.support import Running, all_of, at_once, plain, running
from tests.support import assert_problem, head, read_answer, xor

LATE = 10.0
"""Seconds that are far more than any deadline here."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as started:
        yield started


def _timed_out(connection: socket.socket, what: str) -> None:
    start = time.monotonic()
    answer = read_answer(connection)
    document = assert_problem(answer, "timeout")
    assert what in document["detail"]
    assert answer.headers["Connection"] == "close"
    assert all_of(connection) == b""
    assert time.monotonic() < start + LATE


def test_heads_and_bodies_have_deadlines(server: Running) -> None:
    """Clients are silent, or send a byte now and then; one that sent no byte gets no answer."""

    def silent_head() -> None:
        with server.connect() as connection:
            connection.sendall(b"GET /v1 HTTP/1.1\r\nHost:")
            _timed_out(connection, "head")

    def slow_head() -> None:
        with server.connect() as connection:
            connection.sendall(b"GET /v1 HTTP/1.1\r\nX-Slow: ")
            connection.settimeout(0.1)
            content = b""
            end = time.monotonic() + LATE
            while not content and time.monotonic() < end:
                connection.sendall(b"a")
                try:
                    content = connection.recv(4096)
                except TimeoutError:
                    continue
            assert content.startswith(b"HTTP/1.1 408 ")

    def nothing() -> None:
        with server.connect() as connection:
            assert all_of(connection) == b""

    def half_body() -> None:
        with server.connect() as connection:
            connection.sendall(head("/v1/gradients", 1000) + b"{")
            _timed_out(connection, "body")

    def half_chunk() -> None:
        with server.connect() as connection:
            connection.sendall(head("/v1/gradients", None, Transfer_Encoding="chunked") + b"a\r\n{")
            _timed_out(connection, "body")

    def idle() -> None:
        with server.connect() as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
            assert read_answer(connection).status_code == 200
            assert all_of(connection) == b""

    def slow_head_later() -> None:
        with server.connect() as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
            assert read_answer(connection).status_code == 200
            connection.sendall(b"GET /health/")
            _timed_out(connection, "head")

    at_once(silent_head, slow_head, nothing, half_body, half_chunk, idle, slow_head_later)
    wait_for(lambda: not server.edge.connections)


def test_a_body_has_time_for_its_length(server: Running) -> None:
    """A body that comes at the least rate may take longer than `max_body_seconds`."""
    body = json.dumps(xor()).encode().ljust(200_000)
    with server.connect() as connection:
        connection.sendall(head("/v1/gradients", len(body)))
        for start in range(0, len(body), 20_000):
            time.sleep(0.1)
            connection.sendall(body[start : start + 20_000])
        assert read_answer(connection).status_code == 200


def _large(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", str(32 << 20))])
    return [bytes(32 << 20)]


def _endless(environ: dict[str, Any], start_response: Any) -> Any:
    environ["nabla.streamed"] = True
    start_response("200 OK", [])
    while True:
        yield bytes(1 << 20)


@pytest.mark.parametrize("application", [_large, _endless])
def test_who_does_not_read_is_cut_off(application: Any) -> None:
    """Documents and streams are cut off alike, and the memory of the answer is given back."""
    app = plain(application)
    account: Account = app.extensions["nabla.memory"]
    with running(app) as server:
        connections = []
        for _ in range(5):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            connections.append(connection)
        if application is _large:
            wait_for(lambda: account.held > 0)
        wait_for(lambda: server.edge.pool.threads > 0)
        assert server.get("/health/live").status_code == 200
        wait_for(lambda: not server.edge.connections)
        wait_for(lambda: account.held == 0 and server.edge.pool.busy == 0)
        for connection in connections:
            connection.close()


def test_a_slow_reader_gets_everything() -> None:
    """The client reads slowly, but above the least rate: 4 MB in more time than `max_send_seconds`."""
    size = 4 << 20

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(size))])
        return [bytes(size // 4)] * 4

    with running(plain(answer)) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        read, start = 0, time.monotonic()
        while part := connection.recv(65536):
            read += len(part)
            time.sleep(0.02)
        assert read > size
        assert time.monotonic() > start + 0.5
