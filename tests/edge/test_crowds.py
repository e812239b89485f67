"""New connections go to the worker with fewest clients."""

import socket
import time

import pytest

from service.app import create_app
from service.config import Settings
from service.edge.crowds import FRESH_SECONDS, Crowds
from tests.edge.support import Running
from tests.support import LOOPBACK


def test_the_worker_with_fewest_clients_is_the_least_crowded() -> None:
    crowds = Crowds(3)
    assert crowds.is_least(0)
    for place, count in enumerate((4, 2, 2)):
        crowds.note(place, count)
    assert [crowds.is_least(place) for place in range(3)] == [False, True, True]
    crowds.note(2, 5)
    assert [crowds.is_least(place) for place in range(3)] == [False, True, False]


def test_a_worker_that_stops_or_is_silent_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    crowds = Crowds(2)
    crowds.note(0, 1)
    crowds.note(1, 0)
    assert not crowds.is_least(0)
    crowds.forget(1)
    assert crowds.is_least(0)
    crowds.note(1, 0)
    later = time.monotonic() + 2 * FRESH_SECONDS
    monkeypatch.setattr("service.edge.crowds.time.monotonic", lambda: later)
    assert crowds.is_least(0)


def test_workers_beyond_the_table_take_what_comes() -> None:
    crowds = Crowds(1)
    crowds.note(0, 0)
    crowds.note(1, 7)
    crowds.forget(1)
    assert crowds.is_least(1) and crowds.is_least(0)


def test_two_workers_of_one_socket_get_as_many_clients_each() -> None:
    app = create_app(Settings(log_requests=False))
    crowds = Crowds()
    first = Running(app, crowds=crowds, place=0)
    second = Running(app, crowds=crowds, place=1, listener=first.listener.dup())
    clients: list[socket.socket] = []
    try:
        for _ in range(30):
            clients.append(first.connect())
            end = time.monotonic() + 10
            while len(first.edge.connections) + len(second.edge.connections) < len(clients):
                assert time.monotonic() < end
                time.sleep(0.001)
        assert abs(len(first.edge.connections) - len(second.edge.connections)) <= 2
        # Whoever is more crowded takes a connection all the same when no other worker does.
        crowds.note(7, -1)
        assert socket.create_connection((LOOPBACK, first.port)).close() is None
        assert first.get("/health/live").status_code == 200
    finally:
        for client in clients:
            client.close()
        first.join()
        second.join()
