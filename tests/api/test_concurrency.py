"""Many clients at once against a real server, one of whose workers dies."""

import http.client
import json
import os
import signal
import threading
from collections import Counter
from typing import Any

from service.api.examples import GRADIENTS as EXAMPLES
from tests.conftest import Post, wait_for
from tests.support import LOOPBACK, Server, network, xor

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


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    before = server.workers
    os.kill(before[0], signal.SIGTERM)
    wait_for(lambda: len(server.workers) == len(before) and before[0] not in server.workers)
    for _ in range(10):  # either worker
        assert server.get("/health/ready").status_code == 200
        assert server.post(json.dumps(xor()).encode()).status_code == 200
