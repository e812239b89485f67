"""`/v1/train/compare`: every optimizer with every learning rate and seed, side by side."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from service.api.examples import COMPARE
from service.engine.descent.comparison import MOST_TRAININGS
from service.engine.descent.training import Training
from tests.api.test_gradients import BASE64, plain
from tests.conftest import MakeClient, Post
from tests.support import assert_described, assert_problem, every, faults, network, strict_json, xor

PATH = "/v1/train/compare"
VALIDATION = {"inputs": [[0.5, 0.5]], "targets": [[1.0]]}
LINE = network({"type": "dense", "name": "line", "units": 1})


def comparing(**changes: Any) -> dict[str, Any]:
    """Return a request of two optimizers on XOR, three steps, some keys changed; `...` leaves one out."""
    return xor(**({"optimizers": ["sgd", "adam"], "steps": 3} | changes))


@pytest.fixture(scope="module")
def told(post: Post) -> Callable[..., dict[str, Any]]:
    """Return a function that posts a comparison, asserts status 200, and returns the answer."""

    def ask(**changes: Any) -> dict[str, Any]:
        response = post(comparing(**changes), PATH)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = strict_json(response.get_data())
        return answer

    return ask


Told = Callable[..., dict[str, Any]]


@every("accept", ["*/*", BASE64])
@every(
    "changes",
    [
        {},
        {"validation": VALIDATION},
        {"learning_rates": [0.1, 1e300], "seeds": [1, 2], "parameters": ..., "network": LINE, "steps": 50},
        {"network": LINE, "parameters": ..., "inputs": [[1e200, 1.0]] * 4},
        {"dtype": "float32", "stop": {"loss_below": 1.0}},
    ],
)
def test_answers_are_as_their_schema_says(
    post: Post, schemas: dict[str, Any], changes: dict[str, Any], accept: str
) -> None:
    answer = strict_json(post(comparing(**changes), PATH, Accept=accept).get_data())
    assert_described(schemas, "CompareResponse", answer)
    assert len(answer["table"]) == len(answer["curves"])


def test_typed_arrays_and_lists_say_the_same(post: Post) -> None:
    body = comparing(validation=VALIDATION, learning_rates=[0.1, 0.2])
    assert plain(strict_json(post(body, PATH, Accept=BASE64).get_data())) == post(body, PATH).json


def test_every_optimizer_runs_with_every_rate_and_every_seed_in_this_order(told: Told) -> None:
    answer = told(optimizers=["sgd", {"type": "adam", "learning_rate": 5.0}], learning_rates=[0.1, 1], seeds=[7, 2, 2])
    rows = [(row["optimizer"]["type"], row["optimizer"]["learning_rate"], row["seed"]) for row in answer["table"]]
    assert rows == [(name, rate, seed) for name in ("sgd", "adam") for rate in (0.1, 1.0) for seed in (7, 2, 2)]
    assert len(answer["curves"]) == 12
    assert answer["table"][1] == answer["table"][2] and answer["curves"][1] == answer["curves"][2]


def test_without_rates_and_seeds_each_has_its_own_rate_and_the_seed_of_the_request(told: Told) -> None:
    answer = told(optimizers=["sgd", {"type": "sgd", "learning_rate": 0.3}], seed=9)
    rows = [(row["optimizer"]["learning_rate"], row["seed"]) for row in answer["table"]]
    assert rows == [(0.001, 9), (0.3, 9)]
    assert [row["optimizer"]["momentum"] for row in answer["table"]] == [0.0, 0.0]  # with all options


@every(
    "changes",
    [
        {},
        {"every": 4},
        {"batch_size": 3, "validation": VALIDATION, "steps": ..., "epochs": 5},
        {"schedule": {"type": "exponential", "gamma": 0.7}, "clip": {"norm": 0.05}, "frozen": ["hidden.bias"]},
        {"stop": {"loss_below": 0.14}, "steps": 60},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_each_run_is_what_train_makes_of_it(post: Post, changes: dict[str, Any]) -> None:
    changes = dict(changes)
    common = xor(parameters=..., **({"steps": 10, "trace": {"every": changes.pop("every", 1)}} | changes))
    optimizers = ["sgd", {"type": "momentum", "momentum": 0.5}, "adam", "l_bfgs"]
    optimizers = optimizers[:3] if {"batch_size", "clip"} & set(changes) else optimizers
    answer = post(common | {"optimizers": optimizers, "learning_rates": [0.5], "seeds": [3, 4]}, PATH).json
    assert len(answer["table"]) == 2 * len(optimizers)
    finals = []
    for row, curves in zip(answer["table"], answer["curves"], strict=True):
        alone = post(common | {"optimizer": row["optimizer"], "seed": row["seed"]}, "/v1/train").json
        for key in ("status", "reason", "steps_done", "loss", "validation_loss"):
            assert row.get(key) == alone.get(key), key
        steps = {step["step"]: step for step in alone["steps"] if step["step"] in answer["steps"]}
        names = ["loss", "gradient_norm", "learning_rate"] + ["validation_loss"] * ("validation" in changes)
        assert list(curves) == names
        for name in names:
            assert curves[name] == [steps.get(number, {}).get(name) for number in answer["steps"]]
        whole = post(common | {"optimizer": row["optimizer"], "seed": row["seed"], "trace": {}}, "/v1/train").json
        losses = [step["loss"] for step in whole["steps"]]
        assert row["best_loss"] == min(losses) and row["best_step"] == losses.index(min(losses)) + 1
        finals.append(row["loss"])
    assert answer["best"] == finals.index(min(finals))


def test_curves_stand_over_the_same_steps_and_are_null_after_an_end(told: Told) -> None:
    answer = told(
        network=LINE, parameters=..., optimizers=["sgd"], learning_rates=[0.1, 1e10], steps=8, trace={"every": 3}
    )
    good, bad = answer["curves"]
    assert answer["steps"] == [1, 4, 7, 8]
    assert all(None not in curve for curve in good.values())
    for curve in bad.values():
        assert curve[0] is not None and curve[1:] == [None] * 3
    assert [row["status"] for row in answer["table"]] == ["completed", "diverged"]
    assert answer["table"][1]["steps_done"] == answer["table"][1]["best_step"] == 1
    assert "run away" in answer["table"][1]["reason"]
    assert answer["best"] == 0


def test_curves_are_null_after_an_early_stop(told: Told) -> None:
    answer = told(steps=6, stop={"loss_below": 1.0}, validation=VALIDATION)
    assert {row["status"] for row in answer["table"]} == {"stopped"}
    for curves in answer["curves"]:
        for curve in curves.values():
            assert curve[0] is not None and curve[1:] == [None] * 5


def test_where_no_loss_is_finite_there_is_no_best(told: Told) -> None:
    answer = told(network=LINE, parameters=..., inputs=[[1e200, 1.0]] * 4)
    assert answer["best"] is None
    for row in answer["table"]:
        assert (row["status"], row["steps_done"], row["loss"], row["best_step"]) == ("diverged", 0, None, 0)
        assert row["best_loss"] is None


@pytest.mark.parametrize(("steps", "every", "expected"), [(7, 3, [1, 4, 7]), (3, 100, [1, 3]), (1, 1, [1])])
def test_curves_may_be_thinned(told: Told, steps: int, every: int, expected: list[int]) -> None:
    answer = told(steps=steps, trace={"every": every})
    assert answer["steps"] == expected
    assert {len(curve) for curves in answer["curves"] for curve in curves.values()} == {len(expected)}


def test_the_same_request_gives_the_same_bytes(make_client: MakeClient) -> None:
    body = comparing(parameters=..., seeds=[1, 2], learning_rates=[0.1, 0.2], batch_size=3)
    assert (
        len({client.post(PATH, json=body).get_data() for client in (make_client(), make_client()) for _ in "12"}) == 1
    )


def test_the_worked_example_tells_its_optimizers_apart(post: Post) -> None:
    answer = post(COMPARE["xor"], PATH).json
    assert len(answer["table"]) == 6
    losses = [row["loss"] for row in answer["table"]]
    assert len(set(losses)) == 6 and answer["best"] == losses.index(min(losses))
    assert answer["steps"] == [1, 26, 51, 76, 100]


def test_what_time_does_not_suffice_for_is_cancelled(make_client: MakeClient) -> None:
    body = comparing(optimizers=["sgd", "adam", "momentum"], steps=300_000, trace={"every": 100_000})
    answer = make_client(max_seconds=0.2).post(PATH, json=body).json
    assert [row["status"] for row in answer["table"]] == ["cancelled"] * 3
    assert answer["table"][0]["steps_done"] > 0 and "0.2 seconds" in answer["table"][0]["reason"]
    assert [row["steps_done"] for row in answer["table"][1:]] == [0, 0]
    assert all(row["reason"] == answer["table"][0]["reason"] for row in answer["table"])
    assert answer["curves"][2]["loss"] == [None] * len(answer["steps"])
    assert answer["best"] == 0


def refused(response: Any, body: Any, pointer: str) -> dict[str, Any]:
    document = assert_problem(response, "limit-exceeded", body)
    (error,) = document["errors"]
    assert error["pointer"] == pointer
    assert f"{error['asked']:,.0f}" in document["detail"] and f"{error['allowed'][0]:,.0f}" in document["detail"]
    found: dict[str, Any] = error
    return found


def test_there_are_limits_to_runs_steps_curves_and_operations(make_client: MakeClient) -> None:
    client = make_client(max_steps=100, max_trace_elements=1000)

    def ask(**changes: Any) -> tuple[Any, dict[str, Any]]:
        body = comparing(**changes)
        return client.post(PATH, json=body), body

    most = {"optimizers": ["sgd"] * 5, "learning_rates": [0.1] * 5, "seeds": [1] * 4, "steps": 1}
    assert ask(**most)[0].status_code == 200
    many, body = ask(**(most | {"optimizers": ["sgd"] * 6}))
    assert refused(many, body, "#/optimizers")["asked"] == 120 and MOST_TRAININGS == 100
    assert ask(steps=50)[0].status_code == 200
    assert refused(*ask(steps=51), "#/steps")["asked"] == 102
    error = refused(*ask(steps=20, optimizers=["sgd"] * 5, learning_rates=[0.1, 1, 2]), "#/trace")
    assert (error["limit"], error["asked"], error["allowed"]) == ("trace_elements", 4 * 15 * 20, [1000])
    assert ask(steps=5, optimizers=["sgd"] * 5, learning_rates=[0.1, 1, 2], trace={"every": 2})[0].status_code == 200
    small = make_client(max_operations=1000)
    body = comparing()
    assert refused(small.post(PATH, json=body), body, "#")["limit"] == "operations"


@pytest.mark.parametrize("place", [0, 1])
def test_what_one_of_the_optimizers_cannot_do_is_told_before_any_has_run(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    def advance(_: Training) -> None:
        pytest.fail("a step was made")

    monkeypatch.setattr(Training, "advance", advance)
    names = ["sgd", "newton"] if place else ["newton", "sgd"]
    layers = [{"type": "dense", "units": 400}, {"type": "dense", "units": 1}]
    body = comparing(network=network(*layers), parameters=..., optimizers=names)
    (error,) = assert_problem(make_client().post(PATH, json=body), "limit-exceeded", body)["errors"]
    assert (error["pointer"], error["asked"], error["allowed"]) == (f"#/optimizers/{place}", 1601, [500])


WRONG: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"optimizers": ...}, {"#/optimizers": "is required"}),
    ({"optimizers": []}, {"#/optimizers": "takes a list of 1 to 100 optimizers"}),
    ({"optimizers": ["sgd"] * 101}, {"#/optimizers": "takes a list of 1 to 100 optimizers"}),
    ({"optimizers": "sgd"}, {"#/optimizers": "takes a list of 1 to 100 optimizers"}),
    ({"optimizers": None}, {"#/optimizers": "may not be null"}),
    (
        {"optimizers": ["sgd", "adamm", {"type": "adam", "bta_1": 1}, 3, {"type": "sgdd"}]},
        {
            "#/optimizers/1": "did you mean 'adam'?",
            "#/optimizers/2/bta_1": "did you mean 'beta_1'?",
            "#/optimizers/3": "takes the name of an optimizer",
            "#/optimizers/4/type": "did you mean 'sgd'?",
        },
    ),
    ({"optimizer": "sgd"}, {"#/optimizer": "did you mean 'optimizers'?"}),
    ({"learning_rates": []}, {"#/learning_rates": "takes a list of numbers"}),
    ({"learning_rates": 0.1}, {"#/learning_rates": "takes a list of numbers"}),
    ({"learning_rates": [-1, 1, "x"]}, {"#/learning_rates/0": "at least 0", "#/learning_rates/2": "takes a number"}),
    ({"seeds": []}, {"#/seeds": "takes a list of 1 to 100 seeds"}),
    ({"seeds": 3}, {"#/seeds": "takes a list of 1 to 100 seeds"}),
    ({"seeds": [1, -1, 1.5, True]}, {f"#/seeds/{place}": "takes an integer at least 0" for place in (1, 2, 3)}),
    ({"trace": {"include": ["gradients"]}}, {"#/trace/include": "unknown key"}),
    ({"trace": {"every": 0}}, {"#/trace/every": "takes an integer at least 1"}),
    ({"checkpoint": {}}, {"#/checkpoint": "unknown key"}),
    ({"steps": ...}, {"#/steps": "is required, or epochs"}),
    ({"batches": [[0], [4]]}, {"#/batches/1/0": "from 0 to 3, got 4"}),
    ({"frozen": ["hiden"]}, {"#/frozen/0": "is called 'hiden'"}),
    ({"validation": VALIDATION | {"targets": [[1], [2]]}}, {"#/validation/targets": "they take [1, 1]"}),
    ({"reduction": "none"}, {"#/reduction": "takes one of 'mean', 'sum'"}),
]


@every(("changes", "expected"), WRONG, ids=lambda value: json.dumps(value, default=str)[:60])
def test_what_is_wrong_is_told_at_its_place(post: Post, changes: dict[str, Any], expected: dict[str, str]) -> None:
    body = comparing(**changes)
    errors = faults(assert_problem(post(body, PATH), "invalid", body))
    assert set(errors) == set(expected)
    for pointer, detail in expected.items():
        assert detail in errors[pointer]


@every("accept", ["application/x-ndjson", "text/event-stream"])
def test_a_comparison_does_not_stream(post: Post, accept: str) -> None:
    assert_problem(post(comparing(), PATH, Accept=accept), "not-acceptable")


def test_the_lowest_loss_is_told_with_its_step(told: Told) -> None:
    """The run goes down and up again."""
    answer = told(network=LINE, parameters=..., optimizers=[{"type": "momentum", "learning_rate": 0.3}], steps=12)
    (row,), (curves,) = answer["table"], answer["curves"]
    place = curves["loss"].index(min(curves["loss"]))
    assert 0 < place < 29
    assert (row["best_loss"], row["best_step"]) == (curves["loss"][place], place + 1)
    assert math.isfinite(row["loss"])
