"""Costs: estimates of the engine, and what was learned about them."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from schemas.evaluation import GradientsRequest
from service.api.network_request import task_and_feed
from service.capacity.costs import NODE_SECONDS, Costs
from service.engine.graph.ir import Graph, sealing
from service.engine.graph.operations import exp
from service.engine.graph.plan import Program
from service.engine.limits import Limits
from service.engine.network.derivatives import DerivativeTask
from service.engine.network.evaluate import EvaluationTask
from tests.support import network, xor


def program() -> Program:
    with sealing():
        return Program({"y": exp(Graph("float64").input("x", (3,)))})


def test_a_program_that_costs_more_than_estimated_is_estimated_higher() -> None:
    costs, known = Costs(), program()
    assert costs.factor(known, "/v1/gradients") == 1.0
    costs.learn(known, "/v1/gradients", 0.1, 0.4)
    assert costs.factor(known, "/v1/gradients") == pytest.approx(4.0)
    costs.learn(known, "/v1/gradients", 0.1, 0.2)
    assert costs.factor(known, "/v1/gradients") == pytest.approx(3.0)
    assert costs.factor(known, "/v1/train") == 1.0, "what is done with it differs"
    assert costs.factor(program(), "/v1/gradients") == 1.0


def test_what_was_learned_goes_with_the_program() -> None:
    costs, known = Costs(), program()
    costs.learn(known, "/", 0.1, 0.4)
    assert len(costs._factors) == 1
    del known
    assert len(costs._factors) == 0


@pytest.mark.parametrize(("estimated", "measured"), [(1e-9, 1000.0), (1000.0, 0.0), (0.0, 1.0)])
def test_what_is_learned_stays_within_bounds(estimated: float, measured: float) -> None:
    costs, known = Costs(), program()
    costs.learn(known, "/", estimated, measured)
    assert 0.01 <= costs.factor(known, "/") <= 100.0


def test_small_requests_teach_nothing() -> None:
    costs, known = Costs(), program()
    costs.learn(known, "/", 0.0001, 0.004)
    assert costs.factor(known, "/") == 1.0


LSTM = {"type": "lstm", "units": 3, "return_sequences": True}
SEQUENCE = {"inputs": [[[0.5, 1.0]] * 50], "targets": [[[0.5] * 3] * 50], "loss": "mean_squared_error"}
NETWORKS: dict[str, dict[str, Any]] = {
    "xor": xor(),
    "a deep one": {
        "network": network(*[{"type": "dense", "units": 3, "activation": "gelu"}] * 30),
        "inputs": [[0.5] * 3],
        "targets": [[0.5] * 3],
        "loss": "mean_squared_error",
    },
    "a recurrent one": SEQUENCE | {"network": network(LSTM)},
    "two recurrent layers": SEQUENCE | {"network": network(LSTM, {**LSTM, "type": "gru"})},
    "one in both directions": SEQUENCE
    | {"network": network({"type": "bidirectional", "layer": LSTM, "merge_mode": "sum"})},
    "one after a vector": {
        "network": network({"type": "repeat_vector", "n": 40}, LSTM),
        "inputs": [[0.5, 1.0]],
        "targets": [[[0.5] * 3] * 40],
        "loss": "mean_squared_error",
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_effort_of_compiling_is_told_within_a_factor(name: str) -> None:
    request = GradientsRequest().read(NETWORKS[name])
    task, _ = task_and_feed(request, Limits())
    asked = EvaluationTask(task)
    made = len(asked.compile(Limits()).model.graph.nodes)
    assert made / 4.0 <= asked.effort <= 4.0 * made
    hessian = DerivativeTask(task, "hessian", "loss", "parameters")
    assert hessian.effort >= len(hessian.compile(Limits()).model.graph.nodes) / 4.0


def test_a_definition_that_takes_long_to_compile_waits_before_it_is_compiled(client: FlaskClient) -> None:
    """It must not hold a slot of the tiny ones, so it is refused at once where no other will be free in time."""
    admission = client.application.extensions["nabla.admission"]
    compiled = client.application.extensions["nabla"].compiled
    holder = admission.ticket("address:other", admission.clock())
    assert holder.ask(1.0, lambda: None)  # the slot for up to a second
    late = admission.ticket("address:me", admission.clock() - admission.seconds + 0.5)
    assert late.begin(1000, lambda: None)
    before = len(compiled)
    body = SEQUENCE | {"network": network(LSTM | {"units": 2}), "inputs": [[[0.5, 1.0]] * 100]}
    body |= {"targets": [[[0.5] * 2] * 100]}
    assert 100 * 40 * NODE_SECONDS > 0.05
    response = client.post("/v1/gradients", json=body, environ_overrides={"nabla.ticket": late})
    assert response.status_code == 503
    assert len(compiled) == before
    late.end()
    holder.end()


def test_a_request_for_a_third_of_the_memory_is_refused_at_once_behind_one_that_holds_it(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs little, but would wait for memory with a slot that others need."""
    admission = client.application.extensions["nabla.admission"]
    account = client.application.extensions["nabla.memory"]
    held = account.held
    holder = admission.ticket("address:other", admission.clock())
    assert holder.ask(admission.seconds, lambda: None)
    late = admission.ticket("address:me", admission.clock())
    assert late.begin(1000, lambda: None)
    wide = {"layers": [{"type": "dense", "units": 2000}, {"type": "dense", "units": 2000}]}
    body = {"network": wide, "inputs": [[1.0]], "exclude": ["parameters"]}
    assert client.post("/v1/forward", json=body).status_code == 200  # 32 MB of parameters are no third
    monkeypatch.setattr(account, "total", account.total // 8)
    monkeypatch.setattr(account, "aside", account.aside // 8)
    response = client.post("/v1/forward", json=body, environ_overrides={"nabla.ticket": late})
    assert response.status_code == 503 and "wait" in response.json["detail"]
    assert account.held == held and account.waiting == 0
    late.end()
    holder.end()
