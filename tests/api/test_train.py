"""`/v1/train`: what each step tells, where a training ends, how it goes on, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service import memory
from service.engine.descent.optimizers import optimizers
from tests.api.test_gradients import BASE64, plain
from tests.api.test_several import TWO
from tests.conftest import Post
from tests.support import assert_problem, every, faults, network, strict_json, xor

PATH = "/v1/train"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"
EVERYTHING = ["gradients", "parameters", "state", "updates", "effective_learning_rate", "batch"]
BASIC = {"step", "epoch", "loss", "learning_rate", "gradient_norm"}
SUMMARY = {"dtype", "status", "reason", "steps_done", "epochs_done", "loss", "finite", "warnings", "parameters"}
CLOSE = {"rtol": 1e-12, "atol": 0.0}
SGD = {"type": "sgd", "learning_rate": 0.5}
LINE = network({"type": "dense", "name": "line", "units": 1})
VALIDATION = {"inputs": [[0.5, 0.5], [0.0, 0.2]], "targets": [[1.0], [0.0]]}
MakeClient = Callable[..., FlaskClient]
Train = Callable[..., TestResponse]


def training(**changes: Any) -> dict[str, Any]:
    """Three steps on XOR, with some keys changed; `...` leaves one out."""
    return xor(**({"optimizer": SGD, "steps": 3} | changes))


@pytest.fixture(scope="session")
def train(client: FlaskClient) -> Train:
    """Post to `/v1/train`; streams are read to their end and closed."""

    def send(body: Any, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post(PATH, json=body, headers=named, buffered=True)

    return send


@pytest.fixture(scope="module")
def told(train: Train) -> Callable[..., dict[str, Any]]:
    """The answer to a request that is accepted."""

    def ask(**changes: Any) -> dict[str, Any]:
        response = train(training(**changes))
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = strict_json(response.get_data())
        return answer

    return ask


Told = Callable[..., dict[str, Any]]


def assert_described(schemas: dict[str, Any], name: str, value: Any) -> None:
    whole = {"components": {"schemas": schemas}, "$ref": f"#/components/schemas/{name}"}
    errors = [
        f"{error.json_path}: {error.message[:200]}"
        for error in jsonschema.Draft202012Validator(whole).iter_errors(value)
    ]
    assert errors == []


def leaves(tree: dict[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """The arrays of a tree with their names."""
    for layer, arrays in tree.items():
        for name, array in arrays.items():
            yield layer, name, np.array(array)


def assert_trees_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = list(leaves(one)), list(leaves(other))
    assert sorted((layer, name) for layer, name, _ in first) == sorted((layer, name) for layer, name, _ in second)
    for layer, name, array in first:
        np.testing.assert_allclose(array, other[layer][name], **CLOSE)


def rounded(value: Any, dtype: str) -> Any:
    """An answer with lists in place of typed arrays, and with numbers as `dtype` has them."""
    if isinstance(value, dict):
        return {key: rounded(item, dtype) for key, item in plain(value).items()}
    if isinstance(value, list):
        return [rounded(item, dtype) for item in value]
    return float(np.dtype(dtype).type(value)) if isinstance(value, float) else value


def times(factor: float, tree: dict[str, Any], plus: dict[str, Any] | None = None) -> dict[str, Any]:
    """A tree times a number, plus another."""
    result: dict[str, Any] = {}
    for layer, name, array in leaves(tree):
        result.setdefault(layer, {})[name] = factor * array + (0.0 if plus is None else np.array(plus[layer][name]))
    return result


# What a step says.


def test_the_steps_of_gradient_descent_by_hand(told: Told) -> None:
    answer = told(trace={"include": ["parameters", "gradients"]})
    x, t = np.array(xor()["inputs"], float), np.array(xor()["targets"], float)
    w = {f"{layer}.{name}": array for layer, name, array in leaves(xor()["parameters"])}
    for step in answer["steps"]:
        a1 = 1 / (1 + np.exp(-(x @ w["hidden.kernel"] + w["hidden.bias"])))
        a2 = 1 / (1 + np.exp(-(a1 @ w["output.kernel"] + w["output.bias"])))
        delta2 = (a2 - t) * a2 * (1 - a2) / 4
        delta1 = delta2 @ w["output.kernel"].T * a1 * (1 - a1)
        gradients = {
            "hidden.kernel": x.T @ delta1,
            "hidden.bias": delta1.sum(0),
            "output.kernel": a1.T @ delta2,
            "output.bias": delta2.sum(0),
        }
        assert step["loss"] == pytest.approx(((a2 - t) ** 2).sum() / 8, rel=1e-12)
        norm = math.sqrt(sum(np.square(g).sum() for g in gradients.values()))
        assert step["gradient_norm"] == pytest.approx(norm, rel=1e-12)
        w = {name: array - 0.5 * gradients[name] for name, array in w.items()}
        for layer, name, array in leaves(step["gradients"]):
            np.testing.assert_allclose(array, gradients[f"{layer}.{name}"], rtol=1e-11)
        for layer, name, array in leaves(step["parameters"]):
            np.testing.assert_allclose(array, w[f"{layer}.{name}"], rtol=1e-11)
    assert answer["parameters"] == answer["steps"][-1]["parameters"]


def test_every_step_has_the_loss_and_gradients_of_its_parameters(told: Told, post: Post) -> None:
    """Before the update, which is why the parameters are those after the step before."""
    answer = told(optimizer="adam", steps=5, trace={"include": ["parameters", "gradients"]})
    parameters = xor()["parameters"]
    for number, step in enumerate(answer["steps"], 1):
        asked = post(xor(parameters=parameters)).json
        assert step["step"] == step["epoch"] == number
        assert step["loss"] == pytest.approx(asked["loss"], rel=1e-14)
        assert step["gradient_norm"] == pytest.approx(asked["gradient_norm"], rel=1e-14)
        assert_trees_close(step["gradients"], asked["gradients"])
        parameters = step["parameters"]
    assert answer["parameters"] == parameters
    assert answer["loss"] == pytest.approx(post(xor(parameters=parameters)).json["loss"], rel=1e-14)


def test_momentum_by_hand(told: Told) -> None:
    answer = told(
        optimizer={"type": "momentum", "learning_rate": 0.7, "momentum": 0.3},
        trace={"include": ["parameters", "gradients", "state", "updates"]},
    )
    parameters: dict[str, Any] = xor()["parameters"]
    velocity = times(0.0, parameters)
    for step in answer["steps"]:
        velocity = times(-0.7, step["gradients"], times(0.3, velocity))
        parameters = times(1.0, velocity, parameters)
        assert_trees_close(step["state"]["velocity"], velocity)
        assert_trees_close(step["parameters"], parameters)
        for layer, name, array in leaves(step["updates"]):  # a difference of two numbers has lost digits
            np.testing.assert_allclose(array, velocity[layer][name], rtol=1e-9, atol=1e-16)


def test_adam_by_hand_with_its_corrected_moments(told: Told) -> None:
    answer = told(optimizer={"type": "adam", "learning_rate": 0.1}, trace={"include": EVERYTHING})
    parameters: dict[str, Any] = xor()["parameters"]
    first, second = times(0.0, parameters), times(0.0, parameters)
    for number, step in enumerate(answer["steps"], 1):
        g = step["gradients"]
        first = times(0.1, g, times(0.9, first))
        for layer, name, array in leaves(g):
            second[layer][name] = 0.999 * second[layer][name] + 0.001 * array**2
        state = step["state"]
        assert set(state) >= {"first_moment", "second_moment", "corrected_first_moment", "corrected_second_moment"}
        assert_trees_close(state["first_moment"], first)
        for layer, name, array in leaves(state["corrected_second_moment"]):
            v = second[layer][name] / (1 - 0.999**number)
            np.testing.assert_allclose(array, v, rtol=1e-10)
            m = first[layer][name] / (1 - 0.9**number)
            np.testing.assert_allclose(state["corrected_first_moment"][layer][name], m, **CLOSE)
            parameters[layer][name] = parameters[layer][name] - 0.1 * m / (np.sqrt(v) + 1e-8)
            np.testing.assert_allclose(step["parameters"][layer][name], parameters[layer][name], rtol=1e-10)
            # What the running average was multiplied by.
            rate = np.array(step["effective_learning_rate"][layer][name])
            moved = -rate * np.array(state["first_moment"][layer][name])
            np.testing.assert_allclose(step["updates"][layer][name], moved, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("include", EVERYTHING)
def test_each_include_adds_its_key_to_every_step_and_changes_nothing_else(told: Told, include: str) -> None:
    without, answer = told(optimizer="adam"), told(optimizer="adam", trace={"include": [include]})
    assert set(answer) == set(without) == SUMMARY | {"checkpoint", "steps"}
    for step, bare in zip(answer["steps"], without["steps"], strict=True):
        assert set(bare) == BASIC
        assert set(step) == BASIC | {include}
        assert {key: step[key] for key in BASIC} == bare
    assert {**answer, "steps": 0} == {**without, "steps": 0}


@every("dtype", ["float64", "float32"])
@every("name", [declaration.name for declaration in optimizers])
def test_answers_are_as_their_schema_says(train: Train, schemas: dict[str, Any], name: str, dtype: str) -> None:
    body = training(optimizer=name, dtype=dtype, trace={"include": EVERYTHING}, validation=VALIDATION)
    lists, typed = train(body), train(body, Accept=BASE64)
    assert typed.headers["Content-Type"] == BASE64
    assert rounded(strict_json(typed.get_data()), dtype) == rounded(lists.json, dtype)
    for response in (lists, typed):
        answer = strict_json(response.get_data())
        assert_described(schemas, "TrainResponse", answer)
        assert answer["dtype"] == dtype
        assert answer["status"] == "completed" and answer["finite"] is True
        assert set(answer["steps"][0]) == BASIC | {*EVERYTHING, "validation_loss"}


def test_the_same_request_gives_the_same_bytes(make_client: MakeClient) -> None:
    body = training(
        parameters=...,
        seed=5,
        network=network(
            {"type": "dense", "units": 8, "activation": "tanh"},
            {"type": "dropout", "rate": 0.5},
            {"type": "dense", "units": 1},
        ),
        batch_size=3,
        steps=20,
        optimizer="adam",
        trace={"include": EVERYTHING},
    )
    clients = [make_client(), make_client()]
    answers = {client.post(PATH, json=body).get_data() for client in clients for _ in range(3)}
    assert len(answers) == 1
    assert clients[0].post(PATH, json=body | {"seed": 6}).get_data() not in answers


def test_float32_is_computed_and_said(told: Told) -> None:
    single, double = told(dtype="float32", steps=20), told(steps=20)
    assert single["dtype"] == "float32"
    assert single["loss"] == pytest.approx(double["loss"], rel=1e-5)
    assert single["loss"] != double["loss"]
    for _, _, array in leaves(single["parameters"]):
        np.testing.assert_array_equal(array.astype(np.float32).astype(float), array.astype(np.float32))


# How long, and what is told.


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(8, 3, [1, 4, 7, 8]), (7, 3, [1, 4, 7]), (3, 100, [1, 3]), (1, 100, [1]), (4, 1, [1, 2, 3, 4]), (5, 4, [1, 5])],
)
def test_a_thinned_trace_has_every_so_many_and_the_last(
    told: Told, steps: int, every: int, expected: list[int]
) -> None:
    include = ["gradients", "updates"]
    whole = told(steps=steps, trace={"include": include})
    thin = told(steps=steps, trace={"include": include, "every": every})
    assert [step["step"] for step in thin["steps"]] == expected
    assert thin["steps"] == [step for step in whole["steps"] if step["step"] in expected]
    assert {**thin, "steps": 0} == {**whole, "steps": 0}


@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        ({"epochs": 2}, 2, [1, 2]),
        ({"epochs": 2, "batch_size": 3}, 4, [1, 1, 2, 2]),
        ({"epochs": 2, "batch_size": 4}, 2, [1, 2]),
        ({"epochs": 2, "batch_size": 100}, 2, [1, 2]),
        ({"epochs": 1, "batch_size": 1}, 4, [1, 1, 1, 1]),
        ({"steps": 3, "batch_size": 3}, 3, [1, 1, 2]),
        ({"steps": 5, "batches": [[0], [1, 2]]}, 5, [1, 1, 2, 2, 3]),
        ({"epochs": 2, "batches": [[0], [1, 2]]}, 4, [1, 1, 2, 2]),
    ],
)
def test_epochs_are_passes_through_the_samples(
    told: Told, changes: dict[str, Any], steps: int, epochs: list[int]
) -> None:
    answer = told(**({"steps": ...} | changes))
    assert answer["steps_done"] == len(answer["steps"]) == steps
    assert [step["epoch"] for step in answer["steps"]] == epochs
    assert answer["epochs_done"] == epochs[-1]
    assert answer["status"] == "completed"


def test_a_hundred_thousand_steps_come_in_one_answer(train: Train) -> None:
    body = training(steps=100_000, optimizer={"type": "sgd", "learning_rate": 2.0})
    response = train(body)
    assert response.status_code == 200, response.text[:500]
    answer = response.json
    assert [step["step"] for step in answer["steps"]] == list(range(1, 100_001))
    assert answer["steps_done"] == 100_000 and answer["status"] == "completed"
    assert answer["loss"] < 0.01 < answer["steps"][0]["loss"]


# Batches.


def test_listed_batches_are_taken_in_turn(told: Told, post: Post) -> None:
    batches, weights = [[0, 3], [2], [1, 1, 3]], [1.0, 2.0, 0.5, 3.0]
    answer = told(batches=batches, sample_weights=weights, steps=7, trace={"include": EVERYTHING})
    parameters = xor()["parameters"]
    for number, step in enumerate(answer["steps"]):
        rows = batches[number % 3]
        assert step["batch"] == rows
        part = {key: [xor()[key][row] for row in rows] for key in ("inputs", "targets")}
        asked = post(xor(parameters=parameters, sample_weights=[weights[row] for row in rows], **part)).json
        assert step["loss"] == pytest.approx(asked["loss"], rel=1e-13)
        assert_trees_close(step["gradients"], asked["gradients"])
        parameters = step["parameters"]
    whole = post(xor(parameters=parameters, sample_weights=weights)).json
    assert answer["loss"] == pytest.approx(whole["loss"], rel=1e-13)


def test_each_epoch_draws_its_own_order_and_misses_no_sample(told: Told) -> None:
    inputs, targets = [[n / 10, 1.0] for n in range(10)], [[n / 10] for n in range(10)]
    body = {"inputs": inputs, "targets": targets, "steps": ..., "epochs": 4, "batch_size": 4}

    def orders(**changes: Any) -> list[list[int]]:
        steps = told(**(body | {"trace": {"include": ["batch"]}} | changes))["steps"]
        assert [len(step["batch"]) for step in steps] == [4, 4, 2] * 4
        return [[row for step in steps[start : start + 3] for row in step["batch"]] for start in range(0, 12, 3)]

    shuffled = orders()
    assert all(sorted(order) == list(range(10)) for order in shuffled)
    assert len({tuple(order) for order in shuffled}) == 4
    assert orders(seed=1) != shuffled == orders(seed=0)
    assert orders(shuffle=False) == [list(range(10))] * 4


# Validation, frozen parameters, stop rules, clipping, schedules.


def test_validation_is_told_after_each_epoch_with_training_off(told: Told, post: Post) -> None:
    layers = copy.deepcopy(xor()["network"]["layers"])
    layers.insert(1, {"type": "dropout", "rate": 0.5})
    answer = told(
        network=network(*layers),
        validation=VALIDATION,
        batch_size=3,
        steps=5,
        sample_weights=[1, 2, 3, 4],
        trace={"include": ["parameters"]},
    )
    assert ["validation_loss" in step for step in answer["steps"]] == [False, True, False, True, False]
    for step in answer["steps"]:
        expected = post(xor(parameters=step["parameters"], **VALIDATION)).json["loss"]
        if "validation_loss" in step:
            assert step["validation_loss"] == pytest.approx(expected, rel=1e-13)
    assert answer["validation_loss"] == pytest.approx(expected, rel=1e-13)
    assert set(answer) == SUMMARY | {"checkpoint", "steps", "validation_loss"}


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (["hidden"], {"hidden.kernel", "hidden.bias"}),
        (["hidden.kernel", "output.bias"], {"hidden.kernel", "output.bias"}),
        (["hidden.bias", "hidden", "hidden"], {"hidden.kernel", "hidden.bias"}),
        ([], set()),
    ],
)
def test_frozen_parameters_stay_and_all_others_move(told: Told, frozen: list[str], kept: set[str]) -> None:
    answer = told(frozen=frozen, optimizer="adam", trace={"include": EVERYTHING})
    before = xor()["parameters"]
    unchanged = {
        f"{layer}.{name}"
        for layer, name, array in leaves(answer["parameters"])
        if array.tolist() == before[layer][name]
    }
    assert unchanged == kept
    for step in answer["steps"]:
        for tree in (step["gradients"], step["updates"], step["state"]["first_moment"]):
            assert {f"{layer}.{name}" for layer, name, _ in leaves(tree)}.isdisjoint(kept)
        assert len(list(leaves(step["parameters"]))) == 4
        norm = math.sqrt(sum(np.square(array).sum() for _, _, array in leaves(step["gradients"])))
        assert step["gradient_norm"] == pytest.approx(norm, rel=1e-13)


def test_frozen_means_what_trainable_false_does(told: Told) -> None:
    body = xor()
    body["network"]["layers"][0]["trainable"] = False
    assert told(frozen=["hidden"]) == told(network=body["network"])


def test_a_step_that_meets_a_stop_rule_is_the_last(told: Told) -> None:
    steps = told(steps=50)["steps"]
    losses = [step["loss"] for step in steps]
    bound = (losses[20] + losses[21]) / 2
    answer = told(steps=50, stop={"loss_below": bound})
    assert answer["status"] == "stopped"
    assert answer["steps"] == steps[:22] and answer["steps_done"] == 22
    assert "22" in answer["reason"] and f"{bound:g}" in answer["reason"]
    thin = told(steps=50, stop={"loss_below": bound}, trace={"every": 10})
    assert [step["step"] for step in thin["steps"]] == [1, 11, 21, 22]
    norms = [step["gradient_norm"] for step in steps]
    answer = told(steps=50, stop={"gradient_norm_below": (norms[9] + norms[10]) / 2})
    assert answer["status"] == "stopped" and answer["steps"] == steps[:11]


def test_patience_counts_epochs_without_a_better_loss(told: Told) -> None:
    assert told(steps=50, stop={"patience": 4})["status"] == "completed"
    # Going down by less than min_delta is no better.
    answer = told(steps=50, stop={"patience": 4, "min_delta": 0.1})
    assert (answer["status"], answer["steps_done"]) == ("stopped", 5)
    # With validation, its loss is what counts.
    watched = told(steps=50, stop={"patience": 4}, validation=VALIDATION)
    losses = [step["validation_loss"] for step in watched["steps"]]
    waited, best = 0, math.inf
    for place, loss in enumerate(losses):
        waited, best = (0, loss) if loss < best else (waited + 1, best)
        assert (waited == 4) == (place == len(losses) - 1 and watched["status"] == "stopped")


@pytest.mark.parametrize("norm", [0.01, 0.03, 10.0])
def test_clipping_by_norm_scales_all_gradients_together(told: Told, norm: float) -> None:
    (step,) = told(clip={"norm": norm}, steps=1, trace={"include": ["gradients", "parameters"]})["steps"]
    assert step["gradient_norm"] == pytest.approx(0.0594775, rel=1e-5)  # before clipping, as are the gradients
    scale = min(1.0, norm / (step["gradient_norm"] + 1e-6))
    assert_trees_close(step["parameters"], times(-0.5 * scale, step["gradients"], xor()["parameters"]))


def test_clipping_by_value_cuts_each_number(told: Told) -> None:
    (step,) = told(clip={"value": 0.01}, steps=1, trace={"include": ["gradients", "parameters"]})["steps"]
    cut = 0
    for layer, name, array in leaves(step["gradients"]):
        cut += int((np.abs(array) > 0.01).sum())
        moved = np.array(xor()["parameters"][layer][name]) - 0.5 * np.clip(array, -0.01, 0.01)
        np.testing.assert_allclose(step["parameters"][layer][name], moved, **CLOSE)
    assert cut == 3


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ({"type": "exponential", "gamma": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ({"type": "step_decay", "decay_steps": 2}, [1, 1, 0.1, 0.1, 0.01]),
        ({"type": "constant", "warmup_steps": 4}, [0, 0.25, 0.5, 0.75, 1]),
        ({"type": "polynomial", "decay_steps": 4}, [1, 0.75, 0.5, 0.25, 0]),
        ({"type": "exponential", "gamma": 0.5, "unit": "epoch"}, [1, 1, 0.5, 0.5, 0.25]),
    ],
)
def test_schedules_change_the_learning_rate_of_the_steps(told: Told, schedule: Any, factors: list[float]) -> None:
    answer = told(schedule=schedule, steps=5, batch_size=2, trace={"include": ["gradients", "parameters"]})
    assert [step["learning_rate"] for step in answer["steps"]] == pytest.approx([0.5 * f for f in factors], rel=1e-14)
    parameters = xor()["parameters"]
    for step, factor in zip(answer["steps"], factors, strict=True):
        assert_trees_close(step["parameters"], times(-0.5 * factor, step["gradients"], parameters))
        parameters = step["parameters"]


# Checkpoints.

RESUMED: dict[str, dict[str, Any]] = {
    declaration.name: {"optimizer": declaration.name} for declaration in optimizers
} | {
    "keras": {"optimizer": {"type": "sgd", "momentum": 0.9, "convention": "keras"}},
    "amsgrad": {"optimizer": {"type": "adam", "amsgrad": True}, "dtype": "float32"},
    "batches": {"optimizer": {"type": "adam", "learning_rate": 0.1}, "batch_size": 3, "seed": 9},
    "listed": {"batches": [[0], [1, 2], [3]]},
    "dropout": {
        "network": network(
            {"type": "dense", "units": 5, "activation": "tanh"},
            {"type": "dropout", "rate": 0.5},
            {"type": "dense", "units": 1},
        ),
        "parameters": ...,
        "seed": 2,
    },
    "normalisation": {
        "network": network({"type": "batch_normalization"}, {"type": "dense", "units": 1}),
        "parameters": ...,
        "batch_size": 2,
    },
    "schedule": {"schedule": {"type": "cosine", "decay_steps": 7, "warmup_steps": 2}},
    "plateau": {"schedule": {"type": "plateau", "patience": 0, "threshold": 0.01}},
    "cycled momentum": {"optimizer": "adam", "schedule": {"type": "one_cycle", "total_steps": 10}},
    "cycled momentum of none": {"schedule": {"type": "one_cycle", "total_steps": 10}},
    "patience": {"optimizer": {"type": "sgd", "maximize": True}, "stop": {"patience": 6}, "validation": VALIDATION},
    "frozen": {"optimizer": "adam", "frozen": ["hidden.kernel"]},
}


@every("form", ["application/json", BASE64])
@every("name", RESUMED)
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(train: Train, name: str, form: str) -> None:
    body = training(**({"trace": {"include": ["parameters", "state"]}} | RESUMED[name]))
    whole = train(body | {"steps": 9}, Accept=form).json
    rest = {key: value for key, value in body.items() if key not in ("parameters", "seed")}
    checkpoint, steps = None, []
    for count in (1, 4, 4):  # in the middle of epochs
        asked = body if checkpoint is None else rest | {"checkpoint": checkpoint}
        response = train(asked | {"steps": count}, Accept=form)
        assert response.status_code == 200, response.text
        part = strict_json(response.get_data())
        checkpoint = part["checkpoint"]
        steps += part["steps"]
    assert steps == whole["steps"]
    same = set(whole) - {"steps", "reason"}
    assert {key: part[key] for key in same} == {key: whole[key] for key in same}


def test_a_training_that_was_cancelled_goes_on(make_client: MakeClient, train: Train) -> None:
    body = training(steps=1_000_000, optimizer="adam", trace={"every": 1_000_000})
    cut = make_client(max_seconds=0.1).post(PATH, json=body).json
    assert cut["status"] == "cancelled" and "0.1 seconds" in cut["reason"]
    done = cut["steps_done"]
    assert 0 < done < 1_000_000
    assert [step["step"] for step in cut["steps"]] == [1]
    rest = training(parameters=..., optimizer="adam", checkpoint=cut["checkpoint"], steps=5)
    whole = train(body | {"steps": done + 5}).json
    assert train(rest).json["parameters"] == whole["parameters"]


def test_no_time_at_all_leaves_everything_as_it_was(make_client: MakeClient) -> None:
    answer = make_client(max_seconds=0).post(PATH, json=training()).json
    assert (answer["status"], answer["steps_done"], answer["epochs_done"], answer["steps"]) == ("cancelled", 0, 0, [])
    assert answer["parameters"] == answer["checkpoint"]["parameters"] == xor()["parameters"]


def test_the_seed_of_a_checkpoint_counts(told: Told) -> None:
    body = {"batch_size": 1, "parameters": ...}
    checkpoint = told(seed=4, **body)["checkpoint"]
    assert checkpoint["seed"] == 4
    assert told(checkpoint=checkpoint, **body) == told(checkpoint=checkpoint, seed=5, **body)


# Ends that are none.


def test_a_training_that_runs_away_ends_there_and_says_why(told: Told) -> None:
    answer = told(
        network=LINE, parameters=..., optimizer={"type": "sgd", "learning_rate": 1e9}, trace={"include": EVERYTHING}
    )
    assert answer["status"] == "diverged" and answer["finite"] is True
    assert answer["steps_done"] == len(answer["steps"]) - 1 == 1
    for word in ("step 2", "1e+09", "λmax", "2/λmax"):
        assert word in answer["reason"]
    # The last one changed nothing, so it has no update to tell of.
    assert set(answer["steps"][-1]) == BASIC | {"gradients", "batch"}
    assert answer["parameters"] == answer["steps"][0]["parameters"]


def test_the_limit_of_the_learning_rate_that_is_told_is_the_true_one(told: Told, post: Post) -> None:
    """On a parabola, just below 2/λmax a descent converges and just above it diverges."""
    body = {"network": LINE, "parameters": {"line": {"kernel": [[0.5], [0.1]], "bias": [0.2]}}}
    hessian = {key: value for key, value in xor(**body).items() if key != "training"} | {"kind": "hessian"}
    largest = np.linalg.eigvalsh(np.array(post(hessian, "/v1/derivatives").json["result"]))[-1]
    for factor, status in ((0.99, "completed"), (1.05, "diverged")):
        optimizer = {"type": "sgd", "learning_rate": factor * 2 / largest}
        answer = told(optimizer=optimizer, steps=2000, trace={"every": 2000}, **body)
        assert answer["status"] == status
    assert f"{2 / largest:.4g}" in answer["reason"]


def test_values_that_are_not_finite_are_null_and_leave_no_checkpoint(train: Train, schemas: dict[str, Any]) -> None:
    line = {"network": LINE, "parameters": {"line": {"kernel": [[1.0], [1.0]], "bias": [0.0]}}}
    everything = {"trace": {"include": EVERYTHING}}
    at_once = training(inputs=[[1e200, 1.0]] * 4, **line, **everything)
    at_last = training(optimizer={"type": "sgd", "learning_rate": 1e200}, steps=1, **line, **everything)
    for body, done in ((at_once, 0), (at_last, 1)):
        for accept in ("*/*", BASE64):
            response = train(body, Accept=accept)
            answer = strict_json(response.get_data())
            assert_described(schemas, "TrainResponse", answer)
            assert (answer["status"], answer["steps_done"]) == ("diverged", done)
            assert answer["finite"] is False and answer["loss"] is None
            assert "checkpoint" not in answer
            assert f"step {done + 1}" in answer["reason"] and "infinite" in answer["reason"]


def test_an_infinite_loss_ends_the_training_even_where_its_gradient_is_finite(told: Told) -> None:
    answer = told(targets=[[1e200], [1], [1], [0]])
    assert (answer["status"], answer["steps_done"], len(answer["steps"])) == ("diverged", 0, 1)
    assert answer["steps"][0]["loss"] is None and answer["steps"][0]["gradient_norm"] > 0
    assert "at step 1 the loss is infinite" in answer["reason"]
    assert answer["finite"] is False and answer["parameters"] == xor()["parameters"]


def test_warnings_are_those_of_the_gradients(told: Told, post: Post) -> None:
    body = xor()
    body["network"]["layers"][1]["activation"] = "step"
    answer = told(network=body["network"])
    assert answer["warnings"] == post(body).json["warnings"]
    assert [warning["code"] for warning in answer["warnings"]] == ["gradient_blocked"]
    assert told()["warnings"] == []


# Limits.


def refused(response: TestResponse, body: Any) -> dict[str, Any]:
    """The one error of a request that exceeds a limit."""
    document = assert_problem(response, "limit-exceeded", body)
    (error,) = document["errors"]
    assert f"{error['asked']:,.0f}" in document["detail"] and f"{error['allowed'][0]:,.0f}" in document["detail"]
    assert error["asked"] > error["allowed"][0]
    found: dict[str, Any] = error
    return found


def test_more_steps_than_the_limit_are_refused(make_client: MakeClient) -> None:
    client = make_client(max_steps=10)
    assert client.post(PATH, json=training(steps=10)).status_code == 200
    body = training(steps=11)
    error = refused(client.post(PATH, json=body), body)
    assert (error["pointer"], error["limit"], error["asked"], error["allowed"]) == ("#/steps", "steps", 11, [10])
    body = training(steps=..., epochs=6, batch_size=3)
    error = refused(client.post(PATH, json=body), body)
    assert (error["pointer"], error["asked"]) == ("#/epochs", 12)
    body = training(steps=10**12)
    assert refused(client.post(PATH, json=body), body)["asked"] == 10**12


def test_a_trace_over_the_limit_is_refused_with_numbers(make_client: MakeClient) -> None:
    client = make_client(max_trace_elements=1000)
    body = training(steps=50, trace={"include": ["gradients", "parameters"]})
    error = refused(client.post(PATH, json=body), body)
    assert (error["pointer"], error["limit"], error["allowed"]) == ("#/trace", "trace_elements", [1000])
    assert 50 * 18 < error["asked"] < 60 * 30
    thin = body | {"trace": body["trace"] | {"every": 10}}
    assert client.post(PATH, json=thin).status_code == 200
    assert make_client(max_trace_elements=error["asked"]).post(PATH, json=body).status_code == 200


@every("include", [[], *[[name] for name in EVERYTHING]])
@every("optimizer", ["sgd", "adam", "nadam", "l_bfgs", {"type": "adam", "amsgrad": True}])
def test_the_estimate_of_a_trace_is_no_less_than_it_holds(
    make_client: MakeClient, optimizer: Any, include: list[str]
) -> None:
    body = training(optimizer=optimizer, steps=20, trace={"include": include})
    error = refused(make_client(max_trace_elements=1).post(PATH, json=body), body)

    def count(value: Any) -> int:
        if isinstance(value, dict | list):
            return sum(map(count, value.values() if isinstance(value, dict) else value))
        return 1

    answer = make_client().post(PATH, json=body).json
    assert count(answer["steps"]) <= error["asked"]


def test_more_operations_than_the_limit_are_refused(make_client: MakeClient) -> None:
    body = training(steps=1000)
    error = refused(make_client(max_operations=1).post(PATH, json=body), body)
    assert error["limit"] == "operations"
    client = make_client(max_operations=100_000)
    asked = [refused(client.post(PATH, json=training(steps=n)), body)["asked"] for n in (1000, 2000, 3000)]
    assert asked[1] - asked[0] == asked[2] - asked[1] > 0
    assert make_client(max_operations=int(asked[0])).post(PATH, json=body).status_code == 200


def test_memory_is_reserved_for_what_the_answer_holds(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PATIENCE", 0.01)
    client = make_client(max_memory_bytes=2**23)
    account = client.application.extensions["nabla.memory"]
    others = account.reservation()
    others.need(2**22)
    long = training(steps=10_000)
    response = client.post(PATH, json=long)
    assert_problem(response, "busy", long)
    assert int(response.headers["Retry-After"]) >= 1
    assert client.post(PATH, json=long | {"trace": {"every": 100}}, buffered=True).status_code == 200
    # A stream keeps nothing.
    streamed = client.post(PATH, json=long, headers={"Accept": NDJSON}, buffered=True)
    assert len(lines(streamed)) == 10_001
    others.release()
    assert client.post(PATH, json=long, buffered=True).status_code == 200
    assert account.held == 0


def test_a_trace_takes_little_more_memory_than_its_answer(train: Train) -> None:
    body = training(steps=5000)
    train(body)  # what is kept for later requests is kept by now
    tracemalloc.start()
    try:
        size = len(train(body).get_data())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * size


def test_newton_takes_few_parameters(train: Train) -> None:
    layers = [{"type": "dense", "name": "a", "units": 200}, {"type": "dense", "name": "b", "units": 1}]
    body = training(network=network(*layers), parameters=..., optimizer="newton", steps=1)
    error = refused(train(body), body)
    assert (error["pointer"], error["asked"], error["allowed"]) == ("#/optimizer", 801, [500])
    assert train(body | {"frozen": ["a"]}).status_code == 200


# What is wrong.


def state(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["state"].update(changes)


WRONG: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"steps": ...}, {"#/steps": "is required, or epochs"}),
    ({"epochs": 2}, {"#/steps": "came with epochs; send one"}),
    ({"steps": 0}, {"#/steps": "takes an integer at least 1"}),
    ({"steps": 1.0}, {"#/steps": "takes an integer"}),
    ({"steps": None}, {"#/steps": "may not be null"}),
    ({"steps": ..., "epochs": 0}, {"#/epochs": "takes an integer at least 1"}),
    ({"batch_size": 0}, {"#/batch_size": "takes an integer at least 1"}),
    ({"batch_size": 1, "batches": [[0]]}, {"#/batch_size": "came with batches"}),
    ({"shuffle": 1}, {"#/shuffle": "takes true or false"}),
    ({"batches": [[0], [1, 4]]}, {"#/batches/1/1": "takes the index of a sample, from 0 to 3, got 4"}),
    ({"batches": [[-1], [0, 1, 9]]}, {"#/batches/0/0": "got -1", "#/batches/1/2": "got 9"}),
    ({"batches": [[2**60]]}, {"#/batches/0": "takes integers"}),
    ({"batches": []}, {"#/batches": "takes a list of 1 to 100000 lists of sample indices"}),
    ({"batches": [[]]}, {"#/batches/0": "takes a list of sample indices"}),
    ({"batches": [0, 1]}, {"#/batches/0": "takes a list", "#/batches/1": "takes a list"}),
    ({"batches": [[0], "x", [1.0], [True], ["1"]]}, {f"#/batches/{place}": "takes" for place in (1, 2, 3, 4)}),
    ({"batches": None}, {"#/batches": "may not be null"}),
    ({"optimizer": ...}, {"#/optimizer": "is required"}),
    ({"optimizer": "adamm"}, {"#/optimizer": "did you mean 'adam'?"}),
    ({"optimizer": {"type": "adamm"}}, {"#/optimizer/type": "did you mean 'adam'?"}),
    ({"optimizer": {"learning_rate": 1}}, {"#/optimizer/type": "is required"}),
    ({"optimizer": {"type": "adam", "beta1": 0.5}}, {"#/optimizer/beta1": "unknown key; did you mean 'beta_1'?"}),
    ({"optimizer": {"type": "adam", "beta_1": 1}}, {"#/optimizer/beta_1": "takes a number at least 0 and below 1"}),
    ({"optimizer": 3}, {"#/optimizer": "takes the name of an optimizer or an object with 'type'"}),
    ({"schedule": "cosin"}, {"#/schedule": "did you mean 'cosine'?"}),
    ({"schedule": "cosine"}, {"#/schedule": "decay_steps"}),
    ({"schedule": {"type": "cosine"}}, {"#/schedule/decay_steps": "is required"}),
    (
        {"schedule": {"type": "cosine", "decay_step": 3}},
        {"#/schedule/decay_step": "did you mean 'decay_steps'?", "#/schedule/decay_steps": "is required"},
    ),
    (
        {"schedule": {"type": "multi_step", "milestones": [3, 2]}},
        {"#/schedule/milestones": "must increase, but 2 follows 3"},
    ),
    (
        {"schedule": {"type": "piecewise_constant", "boundaries": [3], "values": [1]}},
        {"#/schedule/values": "must be 2, one more than boundaries, but there are 1"},
    ),
    ({"clip": {}}, {"#/clip": "'value' and 'norm'"}),
    ({"clip": {"value": 1, "norm": 1}}, {"#/clip": "not both"}),
    ({"clip": {"norm": 1}, "optimizer": "l_bfgs"}, {"#/clip": "has no use for l_bfgs"}),
    ({"learning_rate": 1}, {"#/learning_rate": "optimizer"}),
    ({"every": 2}, {"#/every": "trace"}),
    ({"clip": {"norm": 0}}, {"#/clip/norm": "takes a number above 0"}),
    ({"clip": {"nrm": 1}}, {"#/clip/nrm": "did you mean 'norm'?"}),
    ({"clip": 1}, {"#/clip": "takes an object with any of 'value', 'norm'"}),
    ({"frozen": ["hiden"]}, {"#/frozen/0": "is called 'hiden'"}),
    ({"frozen": ["output", "hidden.kernl", ""]}, {"#/frozen/1": "'hidden.kernl'", "#/frozen/2": "is called ''"}),
    ({"frozen": "hidden"}, {"#/frozen": "takes a list of names"}),
    ({"frozen": [1]}, {"#/frozen": "takes a list of names"}),
    ({"frozen": ["hidden", "output"]}, {"#/frozen": "leaves no parameters to train"}),
    (
        {"network": network({"type": "flatten"}), "parameters": ..., "targets": [[0, 1]] * 4},
        {"#/network": "has no parameters that are trained"},
    ),
    ({"stop": {"loss_bellow": 1}}, {"#/stop/loss_bellow": "did you mean 'loss_below'?"}),
    ({"stop": {"patience": 0}}, {"#/stop/patience": "takes an integer at least 1"}),
    ({"stop": {"gradient_norm_below": -1}}, {"#/stop/gradient_norm_below": "takes a number at least 0"}),
    ({"trace": {"every": 0}}, {"#/trace/every": "takes an integer at least 1"}),
    ({"trace": {"include": ["gradient"]}}, {"#/trace/include/0": "did you mean 'gradients'?"}),
    ({"trace": {"evry": 1}}, {"#/trace/evry": "did you mean 'every'?"}),
    ({"reduction": "none"}, {"#/reduction": "takes one of 'mean', 'sum'"}),
    ({"include": ["layers"]}, {"#/include": "unknown key"}),
    ({"optimizers": ["sgd"]}, {"#/optimizers": "did you mean 'optimizer'?"}),
    ({"validation": {"inputs": [[0, 0]]}}, {"#/validation/targets": "is required"}),
    ({"validation": 1}, {"#/validation": "takes an object with any of 'inputs', 'targets'"}),
    ({"validation": VALIDATION | {"input": 1}}, {"#/validation/input": "did you mean 'inputs'?"}),
    ({"validation": VALIDATION | {"inputs": [[0, "x"], [0, 0]]}}, {"#/validation/inputs/0/1": "takes a number"}),
    ({"validation": VALIDATION | {"inputs": [[0, 0, 0]] * 2}}, {"#/validation/inputs": "have another shape"}),
    ({"validation": VALIDATION | {"inputs": [0, 0]}}, {"#/validation/inputs": "they take one row per sample"}),
    ({"validation": VALIDATION | {"targets": [[0]]}}, {"#/validation/targets": "they take [2, 1]"}),
    (
        {"validation": VALIDATION | {"targets": {"outpt": [[0]]}}},
        {"#/validation/targets/outpt": "is no output", "#/validation/targets/output": "is missing"},
    ),
    (
        {"validation": VALIDATION | {"inputs": {"inp": [[0, 0]]}}},
        {"#/validation/inputs/inp": "is no input", "#/validation/inputs/input": "is missing"},
    ),
    (
        {"validation": VALIDATION | {"inputs": [[0, 0], [0, 1e300]]}, "dtype": "float32"},
        {"#/validation/inputs/1/1": "1e+300 is too large for float32"},
    ),
    ({"checkpoint": []}, {"#/checkpoint": "takes an object"}),
    ({"checkpoint": None}, {"#/checkpoint": "may not be null"}),
]


@every(("changes", "expected"), WRONG, ids=lambda value: json.dumps(value, default=str)[:60])
def test_what_is_wrong_is_told_at_its_place(train: Train, changes: dict[str, Any], expected: dict[str, str]) -> None:
    body = training(**changes)
    errors = faults(assert_problem(train(body), "invalid", body))
    assert set(errors) == set(expected)
    for pointer, detail in expected.items():
        assert detail in errors[pointer]


def test_everything_that_is_wrong_is_told_at_once(train: Train) -> None:
    body = training(optimizer="adamm", steps=0, clip={}, stop={"patience": 0}, trace={"every": 0}, inputs=[["x"]])
    errors = faults(assert_problem(train(body), "invalid", body))
    assert {"#/optimizer", "#/steps", "#/clip", "#/stop/patience", "#/trace/every", "#/inputs/0/0"} <= set(errors)


def test_names_that_may_be_frozen_are_listed_in_the_order_of_the_network(train: Train) -> None:
    """A set would list them in another order in another process: the same request has to get the same bytes."""
    body = training(frozen=["x"])
    (error,) = assert_problem(train(body), "invalid", body)["errors"]
    names = ["hidden.kernel", "hidden.bias", "output.kernel", "output.bias"]
    assert [name for name in error["allowed"] if "." in name] == names
    assert [name for name in error["allowed"] if "." not in name] == ["hidden", "output"]


@every(
    ("change", "pointer", "detail"),
    [
        (lambda c: c.update(optimizer="sgd"), "#/checkpoint/optimizer", "this request trains with 'adam'"),
        (lambda c: c.update(optimizer="adm"), "#/checkpoint/optimizer", "takes one of 'sgd'"),
        (lambda c: c.update(extra=1), "#/checkpoint/extra", "unknown key"),
        (lambda c: c.pop("state"), "#/checkpoint/state", "is required"),
        (lambda c: c.update(step=-1), "#/checkpoint/step", "takes an integer at least 0"),
        (lambda c: c.update(seed=2**53), "#/checkpoint/seed", "takes an integer"),
        (lambda c: c["state"].pop("first_moment"), "#/checkpoint/state/first_moment", "is missing: adam needs it"),
        (state(third={}), "#/checkpoint/state/third", "adam keeps no 'third'"),
        (state(third=1), "#/checkpoint/state/third", "adam keeps no 'third'"),
        (state(first_moment=1), "#/checkpoint/state/first_moment", "takes tensors by layer and parameter name"),
        (state(first_moment=None), "#/checkpoint/state/first_moment", "may not be null"),
        (
            lambda c: c["state"]["first_moment"]["hidden"].update(kernel=[[1, 2]]),
            "#/checkpoint/state/first_moment/hidden/kernel",
            "has shape [1, 2]; it takes [2, 2]",
        ),
        (
            lambda c: c["state"]["first_moment"]["hidden"].update(kernel=[["x", 2]]),
            "#/checkpoint/state/first_moment/hidden/kernel/0/0",
            "takes a number",
        ),
        (
            lambda c: c["state"]["second_moment"]["hidden"].pop("bias"),
            "#/checkpoint/state/second_moment/hidden/bias",
            "is missing; it has shape [2]",
        ),
        (
            lambda c: c["state"]["first_moment"].update(hiden={"kernel": [1]}),
            "#/checkpoint/state/first_moment/hiden/kernel",
            "is no parameter that is trained",
        ),
        (
            lambda c: c["parameters"]["hidden"].update(kernel=[[1, 2]]),
            "#/checkpoint/parameters/hidden/kernel",
            "it takes [2, 2]",
        ),
        (lambda c: c["parameters"].update(hiden={}), "#/checkpoint/parameters/hiden", "no layer is called 'hiden'"),
        (
            lambda c: c["parameters"]["hidden"].update(kernel=[["x", 2]]),
            "#/checkpoint/parameters/hidden/kernel/0/0",
            "takes a number",
        ),
        (lambda c: c["progress"].update(bst=1), "#/checkpoint/progress/bst", "is nothing that a training remembers"),
        (lambda c: c["progress"].update(best="x"), "#/checkpoint/progress/best", "takes a number"),
        (
            lambda c: c["schedule"].update(scael=1),
            "#/checkpoint/schedule/scael",
            "is nothing that a schedule remembers",
        ),
    ],
)
def test_checkpoints_have_to_fit(
    train: Train, told: Told, change: Callable[[dict[str, Any]], Any], pointer: str, detail: str
) -> None:
    checkpoint = told(optimizer="adam", schedule="constant")["checkpoint"]
    change(checkpoint)
    body = training(parameters=..., optimizer="adam", schedule="constant", checkpoint=checkpoint)
    errors = faults(assert_problem(train(body), "invalid", body))
    assert detail in errors[pointer]
    assert len(errors) == 1


def test_a_checkpoint_stands_for_the_parameters_and_fits_what_is_trained(train: Train, told: Told) -> None:
    checkpoint = told(optimizer="adam")["checkpoint"]
    body = training(optimizer="adam", checkpoint=checkpoint)
    # The request that was sent before, with the checkpoint added, goes on too.
    assert (
        train(body | {"seed": 9}).json == train(training(parameters=..., optimizer="adam", checkpoint=checkpoint)).json
    )
    del body["parameters"]
    body["frozen"] = ["hidden"]
    errors = faults(assert_problem(train(body), "invalid", body))
    assert errors["#/checkpoint/state/first_moment/hidden/kernel"] == "is no parameter that is trained"
    checkpoint["parameters"]["hidden"]["kernel"][0][0] = 1e300
    body = training(optimizer="adam", parameters=..., checkpoint=checkpoint, dtype="float32")
    errors = faults(assert_problem(train(body), "invalid", body))
    assert errors == {"#/checkpoint/parameters/hidden/kernel/0/0": "1e+300 is too large for float32"}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("steps"),
        lambda state: state["changes"]["hidden"].pop("kernel"),
        lambda state: state["steps"]["hidden"].update(kernel=state["steps"]["hidden"]["kernel"][:1]),
        lambda state: [tree.update({k: v[:1] for k, v in tree.items()}) for tree in state["steps"].values()],
        lambda state: [
            tree.update({k: np.zeros_like(v).tolist() for k, v in tree.items()}) for tree in state["changes"].values()
        ],
    ],
    ids=["no steps", "a parameter less", "one shorter", "all of one shorter", "no change"],
)
def test_histories_of_a_checkpoint_that_contradict_each_other_do_no_harm(
    train: Train, told: Told, change: Callable[[dict[str, Any]], Any]
) -> None:
    checkpoint = told(optimizer="l_bfgs", steps=5)["checkpoint"]
    change(checkpoint["state"])
    body = training(parameters=..., optimizer="l_bfgs", checkpoint=checkpoint)
    response = train(body)
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        pointers = faults(assert_problem(response, "invalid", body))
        assert all(pointer.startswith("#/checkpoint/state/") for pointer in pointers)


CLASSES: dict[str, Any] = {
    "network": network(
        {"type": "embedding", "input_dim": 5, "output_dim": 2}, {"type": "dense", "units": 3, "activation": "softmax"}
    ),
    "inputs": [0, 4],
    "targets": [0, 2],
    "loss": "sparse_categorical_crossentropy",
    "optimizer": "sgd",
    "steps": 2,
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_indices_of_validation_are_checked_like_the_others(train: Train, dtype: str) -> None:
    body = CLASSES | {"dtype": dtype, "validation": {"inputs": [1, 2, 3], "targets": [1, 1, 2]}}
    assert train(body).status_code == 200, train(body).text
    body |= {"validation": {"inputs": [1, 5, 3], "targets": [1, 1, 3]}}
    errors = faults(assert_problem(train(body), "invalid", body))
    assert "from 0 to 4, got 5" in errors["#/validation/inputs/1"]
    assert "takes a class index from 0 to 2, got 3" in errors["#/validation/targets/2"]


TWICE = {key: value for key, value in TWO.items() if key != "include"} | {"optimizer": "adam", "steps": 3}
OTHERS = {
    "inputs": {"a": [[0.0, 1.0]], "b": [[1.0]]},
    "targets": {"left": [[0.5]], "both": [[0.0, 1.0, 2.0]]},
}


def test_several_inputs_and_outputs_are_validated_by_name(train: Train, post: Post) -> None:
    answer = train(TWICE | {"validation": OTHERS}).json
    asked = post(TWO | OTHERS | {"parameters": answer["parameters"]}).json
    assert answer["validation_loss"] == pytest.approx(asked["loss"], rel=1e-13)


@pytest.mark.parametrize(
    ("validation", "pointers"),
    [
        ({"inputs": [[1.0, 2.0]]}, {"#/validation/inputs"}),
        ({"inputs": {"a": [[1.0, 2.0]]}}, {"#/validation/inputs/b"}),
        ({"inputs": OTHERS["inputs"] | {"c": [[1.0]]}}, {"#/validation/inputs/c"}),
        ({"inputs": OTHERS["inputs"] | {"b": [[1.0], [2.0]]}}, {"#/validation/inputs/b"}),
        ({"inputs": OTHERS["inputs"] | {"b": [["x"]]}}, {"#/validation/inputs/b/0/0"}),
        ({"targets": {"left": [[1.0]]}}, {"#/validation/targets/both"}),
        ({"targets": OTHERS["targets"] | {"left": [[1.0, 2.0]]}}, {"#/validation/targets/left"}),
        ({"targets": OTHERS["targets"] | {"right": [[1.0]]}}, {"#/validation/targets/right"}),
    ],
)
def test_validation_of_several_is_refused_by_name(train: Train, validation: dict[str, Any], pointers: set[str]) -> None:
    body = TWICE | {"validation": OTHERS | validation}
    assert set(faults(assert_problem(train(body), "invalid", body))) == pointers


# Streams.


def lines(response: TestResponse) -> list[Any]:
    """The lines of a stream, without signs of life."""
    assert response.headers["Content-Type"].split(";")[0] == NDJSON
    content = response.get_data()
    assert content.endswith(b"\n")
    return [strict_json(line) for line in content.splitlines() if line != b"{}"]


def events(response: TestResponse) -> list[dict[str, str]]:
    """The events of a stream by field."""
    assert response.headers["Content-Type"].split(";")[0] == EVENTS
    text = response.get_data().decode()
    assert text.endswith("\n\n")
    blocks = [block for block in text[:-2].split("\n\n") if not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


STREAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {"optimizer": "nadam", "trace": {"include": EVERYTHING}, "validation": VALIDATION, "batch_size": 3},
    "thin": {"steps": 100, "trace": {"every": 30}},
    "long": {"steps": 3000},
    "float32": {"dtype": "float32", "trace": {"include": EVERYTHING}},
    "diverged": {"network": LINE, "parameters": ..., "optimizer": {"type": "sgd", "learning_rate": 1e9}},
    "not finite": {
        "network": LINE,
        "parameters": ...,
        "inputs": [[1e200, 1.0]] * 4,
        "trace": {"include": ["gradients"]},
    },
    "stopped": {"stop": {"loss_below": 1.0}},
}


@every("tensors", ["", "; tensors=base64"])
@every("name", STREAMED)
def test_streams_say_what_the_document_says(train: Train, schemas: dict[str, Any], name: str, tensors: str) -> None:
    body = training(**STREAMED[name])
    document = train(body, Accept="application/json" + tensors).json
    steps = document.pop("steps")
    *records, summary = lines(train(body, Accept=NDJSON + tensors))
    assert records == steps
    assert summary == document
    *told, end = events(train(body, Accept=EVENTS + tensors))
    assert [event["event"] for event in told] == ["step"] * len(steps)
    assert [int(event["id"]) for event in told] == [step["step"] for step in steps]
    assert [strict_json(event["data"]) for event in told] == steps
    assert end["event"] == "end" and strict_json(end["data"]) == document
    for record in records[:5]:
        assert_described(schemas, "TrainingStep", record)
    assert_described(schemas, "TrainSummary", summary)


@every(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (NDJSON, NDJSON),
        (EVENTS, EVENTS),
        ("text/*", EVENTS),
        (f"{NDJSON}; q=0.5, {EVENTS}", EVENTS),
        (f"{EVENTS}; q=0.5, {NDJSON}; q=0.8, application/json; q=0.6", NDJSON),
        (f"{NDJSON}; q=0, */*; q=0.1", "application/json"),
        (f"{NDJSON}, */*; q=0.1", NDJSON),
        (f"text/html, {EVENTS}; q=0.2", EVENTS),
        ("application/x-NDJSON", NDJSON),
    ],
)
def test_the_accept_header_chooses_the_form(train: Train, accept: str, content_type: str) -> None:
    response = train(training(), Accept=accept)
    assert response.status_code == 200
    assert response.headers["Content-Type"].split(";")[0] == content_type
    if content_type != "application/json":
        assert "Content-Length" not in response.headers
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("accept", ["text/html", f"{NDJSON}; q=0", f"{NDJSON}; tensors=hex", "application/xml"])
def test_other_forms_cannot_be_had_and_those_there_are_are_named(train: Train, accept: str) -> None:
    detail = assert_problem(train(training(), Accept=accept), "not-acceptable")["detail"]
    for form in ("application/json", NDJSON, EVENTS):
        assert form in detail


@pytest.mark.parametrize("accept", [NDJSON, EVENTS])
def test_what_is_wrong_before_the_start_is_an_ordinary_problem(make_client: MakeClient, accept: str) -> None:
    client = make_client(streams=1)  # one stream at once, which a refusal must not keep

    def ask(body: Any) -> TestResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Accept": accept, "Content-Type": "application/json"}
        return client.post(PATH, data=content, headers=headers, buffered=True)

    for _ in range(2):
        assert_problem(ask(b"{"), "malformed-body")
        assert_problem(ask(training(optimizer="adamm")), "invalid")
        assert_problem(ask(training(batches=[[9]])), "invalid")
        assert_problem(ask(training(steps=2_000_000)), "limit-exceeded")
        assert ask(training()).get_data().count(b"completed") == 1
