"""The time limit and clients that leave: every long computation looks at its watch, and stops where that says so."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.capacity.admission import Ticket
from service.engine.errors import Abandoned, DeadlineExceeded
from tests.conftest import MakeClient
from tests.support import assert_problem, network, strict_json
from tests.watches import Looks

SEQUENCE = [[[0.1, 0.2]] * 60]
RECURRENT = {"network": network({"type": "lstm", "units": 3}), "loss": "mean_squared_error"}
WIDE = {
    "network": network({"type": "dense", "units": 300, "activation": "tanh"}, {"type": "dense", "units": 1}),
    "inputs": [[0.5] * 100] * 40,
    "targets": [[0.0]] * 40,
    "loss": "mean_squared_error",
}
COMPUTED: dict[str, tuple[str, dict[str, Any], int]] = {
    # Path, request, and the least number of looks at the watch.
    "an unseen recurrent network": ("/v1/gradients", RECURRENT | {"inputs": SEQUENCE, "targets": [[0.5] * 3]}, 8),
    "gradients": ("/v1/gradients", WIDE, 2),
    "a hessian": (
        "/v1/derivatives",
        {
            "network": network({"type": "dense", "units": 40, "activation": "tanh"}, {"type": "dense", "units": 1}),
            "inputs": [[0.5] * 20] * 8,
            "targets": [[0.0]] * 8,
            "loss": "mean_squared_error",
            "kind": "hessian",
            "of": "loss",
            "wrt": "parameters",
        },
        4,
    ),
    "a jacobian": (
        "/v1/derivatives",
        {
            "network": network({"type": "dense", "units": 80, "activation": "tanh"}),
            "inputs": [[0.5] * 40] * 4,
            "kind": "jacobian",
            "of": "outputs",
            "wrt": "parameters",
        },
        4,
    ),
    "stationary points": (
        "/v1/functions/stationary",
        {"expression": "sin(x)*cos(y) + 0.1*x*y", "box": [[-9, 9], [-9, 9]], "starts": 3000},
        20,
    ),
    "the calculus of many points": (
        "/v1/functions/gradient",
        {"expression": "sin(x)*y", "points": [[0.5, 0.25]] * 4200, "include": []},
        2,
    ),
    "kinks": ("/v1/functions/gradient", {"expression": "abs(x) + abs(y)", "points": [[0, 0]] * 300}, 2),
    "a surface": (
        "/v1/functions/surface",
        {"expression": "x^2 + y^2", "x": [-1, 1], "y": [-1, 1], "resolution": 120},
        3,
    ),
    "a large body": ("/v1/forward", {"network": network({"type": "flatten"}), "inputs": [[0.5] * 100] * 100}, 2),
}
TRAINED = {
    "network": network({"type": "dense", "units": 2, "activation": "tanh"}, {"type": "dense", "units": 1}),
    "inputs": [[0.5, 1.0]],
    "targets": [[0.0]],
    "loss": "mean_squared_error",
}
ENDLESS = 200_000
STEPPED: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], Any]]] = {
    # Path, request, and the key of the number of steps.
    "a training": (
        "/v1/train",
        TRAINED | {"optimizer": "sgd", "steps": ENDLESS, "trace": {"every": ENDLESS}},
        lambda answer: answer["steps_done"],
    ),
    "a comparison": (
        "/v1/train/compare",
        TRAINED | {"optimizers": ["sgd", "adam"], "steps": ENDLESS, "trace": {"every": ENDLESS}},
        lambda answer: sum(row["steps_done"] for row in answer["table"]),
    ),
    "balls": (
        "/v1/functions/descend",
        {
            "expression": "x^4 + y^4",
            "starts": [[1, 1]],
            "optimizers": ["sgd"],
            "steps": ENDLESS,
            "trace": {"every": ENDLESS},
        },
        lambda answer: answer["runs"][0]["steps_done"],
    ),
    "basins": (
        "/v1/functions/surface",
        {
            "expression": "x^4 + y^4",
            "x": [-1, 1],
            "y": [-1, 1],
            "resolution": 4,
            "basins": True,
            "optimizer": {"type": "sgd", "learning_rate": 1e-6},
            "steps": ENDLESS,
        },
        lambda answer: ENDLESS - 1 if answer["basins"]["status"] == "cancelled" else ENDLESS,
    ),
    "a line that is fitted": (
        "/v1/functions/fit",
        {
            "points": [[0, 1], [1, 3]],
            "optimizers": [{"type": "sgd", "learning_rate": 1e-6}],
            "steps": ENDLESS,
            "trace": {"every": ENDLESS},
        },
        lambda answer: answer["runs"][0]["steps_done"],
    ),
}


class Counting(Ticket):
    """A ticket that counts looks, and raises at the one after `most` of them."""

    most: float = math.inf
    error: type[Exception] = DeadlineExceeded
    count: int = 0
    look = Looks.look  # type: ignore[assignment]


def ask(
    client: FlaskClient, path: str, body: dict[str, Any], most: float = math.inf, error: type[Exception] = Abandoned
) -> tuple[TestResponse, int]:
    """Return the answer, and how often the computation looked at its watch; a look after `most` raises `error`."""
    admission = client.application.extensions["nabla.admission"]
    ticket = Counting(admission, "address:test", time.monotonic())
    ticket.most, ticket.error = most, error
    assert ticket.begin(1000, lambda: None)
    response = client.post(path, json=body, environ_overrides={"nabla.ticket": ticket}, buffered=True)
    ticket.end()
    assert all((load.busy, load.waiting) == (0, 0) for load in admission.load())
    memory = client.application.extensions["nabla"].memory
    assert memory.held == 0
    return response, ticket.count


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computation_stops_at_any_look(make_client: MakeClient, name: str) -> None:
    path, body, least = COMPUTED[name]
    answer, looks = ask(make_client(), path, body)
    assert answer.status_code == 200, answer.text
    assert looks >= least
    for most in {0, looks // 2, looks - 1}:
        client = make_client()
        late, count = ask(client, path, body, most, DeadlineExceeded)
        assert_problem(late, "deadline-exceeded")
        assert int(late.headers["Retry-After"]) >= 1
        gone, again = ask(client, path, body, 0)
        assert_problem(gone, "abandoned")
        assert (count, again) == (most + 1, 1), "it looked again after it had been stopped"
        assert ask(client, path, body)[0].get_data() == answer.get_data(), "something was left behind"


@pytest.mark.parametrize("name", STEPPED)
def test_work_in_steps_ends_when_its_client_leaves(make_client: MakeClient, name: str) -> None:
    path, body, steps = STEPPED[name]
    answer, looks = ask(make_client(), path, body, 3)
    assert answer.status_code == 200, answer.text
    assert looks <= 5
    assert steps(strict_json(answer.get_data())) < ENDLESS


@pytest.mark.parametrize("name", STEPPED)
def test_work_in_steps_tells_where_it_stands_at_the_deadline(make_client: MakeClient, name: str) -> None:
    path, body, steps = STEPPED[name]
    answer = make_client(max_seconds=0.3).post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert 0 <= steps(strict_json(answer.get_data())) < ENDLESS
    assert "the limit of this server, 0.3 seconds, was reached" in answer.text or name == "basins"


def test_the_wait_before_the_first_step_counts(make_client: MakeClient) -> None:
    """The time limit is one of the whole request, so a late start leaves fewer steps."""
    client = make_client(max_seconds=60.0)
    path, body, steps = STEPPED["a training"]
    arrived = time.monotonic() - 57.5
    answer = client.post(path, json=body | {"steps": 1_000_000}, environ_overrides={"nabla.arrived": arrived})
    assert answer.status_code == 503 or steps(strict_json(answer.get_data())) < 1_000_000


def test_four_long_trainings_at_once_do_not_all_end_cancelled(make_client: MakeClient) -> None:
    """One is computed; the others cannot end in time, and are refused at once with Retry-After."""
    client = make_client()
    admission = client.application.extensions["nabla.admission"]
    running = admission.ticket("address:other", time.monotonic())
    assert running.ask(20.0, lambda: None)
    path, body, _ = STEPPED["a training"]
    for _ in range(3):
        refused = client.post(path, json=body | {"steps": 1_000_000})
        assert_problem(refused, "busy")
        assert 5 <= int(refused.headers["Retry-After"]) <= 30
    assert client.post(path, json=body | {"steps": 3, "trace": {"every": 1}}).status_code == 200
    running.end()
