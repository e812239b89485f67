"""Many clients at once against a real server, and a stop while one of them is served."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from typing import Any

from service.api.examples import GRADIENTS as EXAMPLES
from tests.conftest import Post, ServerFactory
from tests.support import LOOPBACK, Server, head, network, read_answer, xor

GRADIENTS = "/v1/gradients"
THREADS, TURNS = 32, 12
KIND = {"Content-Type": "application/json"}


def storm(server: Server, bodies: list[bytes]) -> list[Counter[tuple[int, bytes]]]:
    """Post bodies from many threads, each over one kept connection; count the answers to each body."""
    answers: list[Counter[tuple[int, bytes]]] = [Counter() for _ in bodies]
    lock = threading.Lock()
    start = threading.Barrier(THREADS)
    failures: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=60)
            start.wait()
            for turn in range(TURNS):
                place = (number + turn) % len(bodies)
                connection.request("POST", GRADIENTS, bodies[place], KIND)
                response = connection.getresponse()
                content = response.read()
                with lock:
                    answers[place][response.status, content] += 1
            connection.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert sum(counter.total() for counter in answers) == THREADS * TURNS
    return answers


def test_one_definition_asked_by_many_gives_all_the_same_bytes(server: Server, post: Post) -> None:
    body = xor(include=["layers", "per_sample", "input_gradients"])
    (answers,) = storm(server, [json.dumps(body).encode()])
    assert list(answers) == [(200, post(body).get_data())]


def test_definitions_mixed_do_not_disturb_each_other(server: Server, post: Post) -> None:
    bodies: list[Any] = [
        *EXAMPLES.values(),
        xor(dtype="float32"),
        xor(parameters=..., seed=9),
        xor(inputs=[[3, -1]] * 4),
        xor(seed=-1),
        xor(network=network(*[{"type": "dense", "units": 8, "activation": "tanh"}] * 20), parameters=...),
        xor(
            network=network(
                {"type": "dense", "units": 64}, {"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 1}
            ),
            parameters=...,
            training=True,
        ),
    ]
    answers = storm(server, [json.dumps(body).encode() for body in bodies])
    for body, counter in zip(bodies, answers, strict=True):
        expected = post(body)
        if expected.status_code == 200:
            assert list(counter) == [(200, expected.get_data())], body
        else:
            assert {status for status, _ in counter} == {expected.status_code}


def test_health_answers_while_others_compute(server: Server) -> None:
    body = {
        "network": network(*[{"type": "dense", "units": 200, "activation": "tanh"}] * 3),
        "inputs": [[0.5] * 200] * 50,
        "targets": [[0.0] * 200] * 50,
        "loss": "mean_squared_error",
    }
    content = json.dumps(body).encode()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(server.post(content).status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    asked = 0
    while asked < 5 or any(thread.is_alive() for thread in threads):
        assert server.get("/health/live").status_code == 200
        assert server.get("/health/ready").status_code == 200
        asked += 1
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8


def test_a_request_in_flight_is_finished_before_the_server_stops(start_server: ServerFactory, post: Post) -> None:
    content = json.dumps(xor()).encode()
    with start_server(WEB_CONCURRENCY="1") as server, server.connect() as connection:
        connection.sendall(head(GRADIENTS, len(content), Expect="100-continue") + content[:-10])
        # The server says so when it has handed the request to a thread: from here on it is in flight.
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(0.5)  # the worker hears of it
        connection.sendall(content[-10:])
        answer = read_answer(connection)
        assert answer.status_code == 200
        assert answer.body == post(xor()).get_data()
    # start_server has asserted that the exit code is 0.


def test_a_worker_that_dies_is_replaced(start_server: ServerFactory) -> None:
    with start_server(WEB_CONCURRENCY="1") as server:
        (worker,) = server.workers
        os.kill(worker, signal.SIGTERM)
        while server.workers in ([worker], []):
            time.sleep(0.01)
        assert server.get("/health/ready").status_code == 200
        assert server.post(json.dumps(xor()).encode()).status_code == 200
