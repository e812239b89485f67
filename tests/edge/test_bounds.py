"""Bounds: connections in all and of one address, bytes that are read ahead, memory of bodies."""

import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from service.capacity.memory import Account
from service.edge import edge as edges
from service.edge.pool import Pool
from tests.conftest import wait_for
from tests.edge.support import LIVE, XOR, Running, all_of, plain, running
from tests.support import assert_problem, head, read_answer

PATIENT = {"max_header_seconds": 20.0, "max_body_seconds": 20.0}


def _works(server: Running) -> None:
    assert server.get("/health/live").status_code == 200


@pytest.mark.parametrize("bound", ["max_connections", "max_connections_per_address"])
def test_connections_that_rest_make_room(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """The one that rests longest goes first; those with a request stay, and where only they are there, 503 is said."""
    monkeypatch.setattr(edges, "_is_bounded", lambda address: bound != "max_connections")
    with running(**PATIENT, **{bound: 12}) as server, ExitStack() as held:
        busy = [held.enter_context(server.connect()) for _ in range(6)]
        for connection in busy:
            connection.sendall(head("/v1/gradients", len(XOR)) + XOR[:100])
        wait_for(lambda: len(server.edge._idle) == 0 and len(server.edge.connections) == 6)
        idle = [held.enter_context(server.connect()) for _ in range(30)]
        wait_for(lambda: len(server.edge._idle) <= 7)
        _works(server)
        assert all_of(idle[0]) == b""  # long gone
        for connection in busy:
            connection.sendall(XOR[100:])
            assert read_answer(connection).status_code == 200
        more = [held.enter_context(server.connect()) for _ in range(12)]
        for connection in more:
            connection.sendall(head("/v1/gradients", len(XOR)) + XOR[:100])
        wait_for(lambda: len(server.edge._idle) == 0)
        with server.connect() as connection:
            document = assert_problem(read_answer(connection), "busy")
        assert ("this address" in document["detail"]) == (bound != "max_connections")
        for connection in more:
            connection.sendall(XOR[100:])
            assert read_answer(connection).status_code == 200


def test_connections_of_this_machine_are_not_counted() -> None:
    """A proxy may stand there, whose connections are those of many clients."""
    assert not any(map(edges._is_bounded, ("127.0.0.1", "127.9.9.9", "::1", "")))
    assert all(map(edges._is_bounded, ("10.0.0.1", "2001:db8::1", "fe80::1%eth0")))


def test_many_idle_connections_cost_others_nothing() -> None:
    with running(max_connections=400) as server, ExitStack() as held:
        for _ in range(350):
            connection = held.enter_context(server.connect())
            connection.sendall(LIVE)
        for _ in range(20):
            _works(server)


def test_only_a_little_is_read_ahead() -> None:
    """A client that sends requests without reading answers is stopped by its own connection."""
    with running(plain(_slowly), max_send_seconds=20.0) as server, server.connect() as connection:
        connection.setblocking(False)
        sent = 0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                sent += connection.send(LIVE.replace(b"/health/live", b"/slow") * 1000)
            except BlockingIOError:
                time.sleep(0.02)
        (inside,) = server.edge.connections
        assert len(inside._ahead) < 512 * 1024


def _slowly(environ: dict[str, Any], start_response: Any) -> Any:
    time.sleep(0.05)
    start_response("200 OK", [("Content-Length", "0")])
    return []


def test_bodies_are_held_in_the_account_as_they_arrive() -> None:
    """An announced body costs nothing. A body waits while there is no memory, and is read on when there is."""
    app = plain(_length)
    account = app.extensions["nabla.memory"] = Account(3 << 20)
    with running(app, max_body_bytes=8 << 20, **PATIENT) as server, ExitStack() as held:
        one, other = (held.enter_context(server.connect()) for _ in range(2))
        for connection in (one, other):
            connection.sendall(head("/v1/gradients", 2 << 20, Connection=""))
        time.sleep(0.05)
        assert account.held == 0
        one.sendall(bytes((2 << 20) - 1))
        wait_for(lambda: account.held == 2 << 20)
        other.setblocking(False)
        rest = bytes(2 << 20)
        rest = rest[other.send(rest) :]
        wait_for(lambda: any(inside.hungry for inside in server.edge.connections))
        assert account.held <= 3 << 20
        one.sendall(b" ")
        assert read_answer(one).body == str(2 << 20).encode()
        other.setblocking(True)
        other.sendall(rest)
        assert read_answer(other).body == str(2 << 20).encode()
        wait_for(lambda: account.held == 0)


def _length(environ: dict[str, Any], start_response: Any) -> Any:
    content = str(len(environ["wsgi.input"].read())).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def test_a_body_for_which_there_is_no_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.edge.connection.HUNGRY_SECONDS", 0.2)
    app = plain(_length)
    account = app.extensions["nabla.memory"] = Account(1 << 20)
    share = account.reservation()
    share.need(1 << 20)
    with running(app, **PATIENT) as server, server.connect() as connection:
        connection.sendall(head("/v1/gradients", 800_000) + bytes(300_000))
        answer = read_answer(connection)
        assert_problem(answer, "busy")
        assert int(answer.headers["Retry-After"]) >= 1
        share.release()


def test_a_client_that_left_while_its_answer_was_made() -> None:
    """The memory is given back when the thread ends, not before."""
    app = plain(_slowly_large)
    account: Account = app.extensions["nabla.memory"]
    with running(app) as server:
        connection = server.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(LIVE.replace(b"/health/live", b"/"))
        wait_for(lambda: server.edge.pool.busy == 1)
        connection.close()
        wait_for(lambda: server.edge.pool.busy == 0)
        assert account.held == 0
        _works(server)


def _slowly_large(environ: dict[str, Any], start_response: Any) -> Any:
    memory = environ["nabla.memory"]
    memory.need(1 << 20)
    time.sleep(0.3)
    assert memory.held == 1 << 20
    start_response("200 OK", [("Content-Length", str(1 << 20))])
    return [bytes(1 << 20)]


def test_a_system_without_more_threads_has_jobs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    done: list[int] = []
    gate = threading.Event()
    pool.run(gate.wait)  # type: ignore[arg-type]
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    pool.run(lambda: done.append(1))
    assert pool.threads == 1 and not done
    gate.set()
    wait_for(lambda: done == [1])


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
