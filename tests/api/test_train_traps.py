"""Requests that once brought a training to give wrong numbers, to fail, or to run past its time."""

import json
import time
from typing import Any

import pytest

from tests.conftest import Post
from tests.support import answered, assert_problem, every, faults, network, strict_json, xor

PATH = "/v1/train"
LINE = {"network": network({"type": "dense", "name": "line", "units": 1}), "parameters": ...}


def training(**changes: Any) -> dict[str, Any]:
    return xor(**{"optimizer": {"type": "sgd", "learning_rate": 0.05}, "steps": 3} | changes)


@every("rows", [1, 3, 5])
@every("more", [{}, {"batch_size": 4}, {"batch_size": 2}, {"batches": [[0]]}])
def test_inputs_and_targets_have_the_same_samples(post: Post, rows: int, more: dict[str, Any]) -> None:
    body = training(targets=[[1]] * rows, **more)
    assert set(faults(assert_problem(post(body, PATH), "invalid", body))) == {"#/targets"}


@every("more", [{}, {"batches": [[0]]}, {"batch_size": 1}])
def test_inputs_that_are_a_number_are_told_so(post: Post, more: dict[str, Any]) -> None:
    body = training(inputs=3, **more)
    assert "have shape []" in faults(assert_problem(post(body, PATH), "invalid", body))["#/inputs"]


@every("batches", [[[0, 1]], [[0]], [[0, 1], [2, 3]], [[0], [1, 2]], [list(range(100))], [list(range(50))] * 2])
def test_large_bodies_hold_batches_too(post: Post, batches: list[list[int]]) -> None:
    body = training(inputs=[[0.25, 0.5]] * 3000, targets=[[1.0]] * 3000, batches=batches)
    assert len(json.dumps(body)) > 32 * 1024
    assert answered(post, body, PATH)["steps_done"] == 3
    body["batches"] = [[0.5] * len(rows) for rows in batches]
    assert_problem(post(body, PATH), "invalid", body)


def test_large_bodies_hold_seeds_too(post: Post) -> None:
    large: dict[str, Any] = {"inputs": [[0.25, 0.5]] * 3000, "targets": [[1.0]] * 3000}
    body = training(**large, optimizers=["sgd"], optimizer=..., seeds=list(range(70)), steps=1, batches=[[0]])
    response = post(body, "/v1/train/compare")
    assert [row["seed"] for row in response.json["table"]] == list(range(70))


@every(
    ("key", "value"),
    [("waited", 1e300), ("best_step", 1e20), ("waited", 2**64), ("waited", 0.5), ("waited", -3), ("best_step", 2**63)],
)
def test_steps_that_a_checkpoint_remembers_are_counts(post: Post, key: str, value: float) -> None:
    checkpoint = answered(post, training(), PATH)["checkpoint"]
    checkpoint["progress"] |= {"best": -1.0, key: value}
    body = training(parameters=..., checkpoint=checkpoint)
    assert set(faults(assert_problem(post(body, PATH), "invalid", body))) == {f"#/checkpoint/progress/{key}"}


def test_a_mean_is_not_divided_by_weights_of_nothing(post: Post) -> None:
    weighted = {"sample_weights": [1, 0, 1, 0], "normalize_weights": True}
    body = training(**weighted, batches=[[0], [1, 3]])
    assert set(faults(assert_problem(post(body, PATH), "invalid", body))) == {"#/batches/1"}
    body = training(**weighted, batch_size=2)
    assert set(faults(assert_problem(post(body, PATH), "invalid", body))) == {"#/sample_weights"}
    enough = {"inputs": [[0, 1]] * 6, "targets": [[1]] * 6, "sample_weights": [1, 1, 1, 1, 1, 0]}
    assert answered(post, training(**weighted | enough, batch_size=3), PATH)["finite"]
    # A sum is not divided by anything.
    summed = training(**weighted, batches=[[0], [1]], reduction="sum", optimizer="newton", steps=4)
    assert [step["loss"] for step in answered(post, summed, PATH)["steps"]][1::2] == [0.0, 0.0]


def told(answer: dict[str, Any]) -> str:
    (warning,) = [each for each in answer["warnings"] if each["code"] == "non_finite"]
    assert answer["finite"] is False
    message: str = warning["message"]
    return message


def test_state_that_is_not_finite_is_told(post: Post) -> None:
    line = training(**LINE, inputs=[[1e80, 0]], targets=[[1e80]], optimizer="adam", steps=1)
    answer = answered(post, line | {"trace": {"include": ["state"]}}, PATH)
    assert answer["status"] == "completed" and "checkpoint" not in answer
    assert answer["steps"][0]["state"]["second_moment"]["line"]["kernel"][0] == [None]
    assert "second_moment of step 1" in told(answer)
    assert "second_moment of step 1" in told(answered(post, line, PATH))


def test_a_loss_of_validation_that_is_not_finite_is_told(post: Post) -> None:
    validation = {"inputs": [[1e200, 0]], "targets": [[0]]}
    answer = answered(post, training(**LINE, validation=validation), PATH)
    assert answer["validation_loss"] is None and answer["status"] == "completed"
    assert "validation_loss" in told(answer)


def test_a_gradient_that_is_not_finite_is_told(post: Post) -> None:
    parameters = {"line": {"kernel": [[0], [-4]], "bias": [0]}}
    body = training(**LINE | {"parameters": parameters}, inputs=[[1e200, 1], [1e200, 2]], targets=[[1e120], [2e120]])
    answer = answered(post, body, PATH)
    assert answer["status"] == "diverged" and answer["steps"][-1]["gradient_norm"] is None
    assert "not finite" in told(answer)


def test_a_learning_rate_that_is_not_finite_ends_the_training(post: Post) -> None:
    schedule = {"type": "step_decay", "decay_steps": 1, "gamma": 1e308}
    answer = answered(
        post, training(schedule=schedule, optimizer={"type": "sgd", "learning_rate": 1e10}, steps=9), PATH
    )
    assert answer["status"] == "diverged" and "learning rate that is not finite" in answer["reason"]
    assert answer["steps"][-1]["learning_rate"] is None and "learning_rate" in told(answer)


def test_runs_are_counted_before_they_are_made(post: Post) -> None:
    body = training(optimizer=..., optimizers=["sgd"] * 100, seeds=list(range(100)), learning_rates=[0] * 10_000)
    start = time.process_time()
    document = assert_problem(post(body, "/v1/train/compare"), "limit-exceeded", body)
    assert document["errors"][0]["asked"] == 10**8 and time.process_time() - start < 5.0


def test_patience_looks_at_epochs_only(post: Post) -> None:
    """A training that patience has stopped goes on to the end of an epoch when it is resumed."""
    body = training(batch_size=2, stop={"patience": 1}, optimizer={"type": "sgd", "learning_rate": 0}, steps=20)
    answer = answered(post, body, PATH)
    assert answer["status"] == "stopped" and answer["steps_done"] % 2 == 0
    again = answered(post, {**body, "checkpoint": answer["checkpoint"]}, PATH)
    assert again["steps_done"] == answer["steps_done"] + 2


def test_numbers_that_a_schedule_remembers_stay_what_they_are(post: Post) -> None:
    body = training(schedule={"type": "plateau", "patience": 0, "cooldown": 2**53 - 1}, steps=4)
    checkpoint = answered(post, body, PATH)["checkpoint"]
    zero = answered(post, {**body, "steps": 1, "checkpoint": checkpoint}, PATH)["checkpoint"]
    assert {name: type(value) for name, value in zero["schedule"].items()} == {
        name: type(value) for name, value in checkpoint["schedule"].items()
    }


def test_the_curvature_is_not_looked_at_where_that_takes_long(post: Post) -> None:
    layers = [
        {"type": "conv2d", "filters": 4, "kernel_size": 3, "activation": "tanh"},
        {"type": "conv2d", "filters": 4, "kernel_size": 3, "activation": "tanh"},
        {"type": "global_average_pooling2d"},
        {"type": "dense", "units": 1},
    ]
    samples = 40
    body = training(
        network=network(*layers), parameters=..., steps=10, optimizer={"type": "sgd", "learning_rate": 1e200},
        inputs=[[[[0.5]] * 24] * 24] * samples, targets=[[1.0]] * samples,
    )  # fmt: skip
    answer = answered(post, body, PATH)
    assert answer["status"] == "diverged" and "λmax" not in answer["reason"]


@pytest.mark.parametrize(("optimizer", "steps"), [("newton", 8), ("l_bfgs", 28), ("sgd", 700)])
def test_a_step_that_takes_too_long_is_left_out(make_client: Any, optimizer: str, steps: int) -> None:
    """The training stands where it stood before it, and can go on."""
    client = make_client(
        max_seconds=0.6, max_memory_bytes=2**33, max_workspace_bytes=2**31
    )  # the body and its validation count too
    wide = network({"type": "dense", "units": 200, "activation": "tanh"}, {"type": "dense", "units": 2})
    frozen = {"newton": ["dense_1"]}.get(optimizer, [])
    body = training(
        network=wide, parameters=..., inputs=[[0.5, k / 12_000] for k in range(12_000)], targets=[[1.0, 0.0]] * 12_000,
        optimizer=optimizer, frozen=frozen, steps=steps,
    )  # fmt: skip
    start = time.process_time()
    response = client.post(PATH, json=body)
    assert time.process_time() - start < 8.0
    answer = response.json
    assert answer["status"] == "cancelled", response.text[:500]
    assert answer["steps_done"] < body["steps"] and answer["finite"]
    assert answer["checkpoint"]["step"] == answer["steps_done"]


NO_PROBABILITIES = {
    "network": network({"type": "dense", "name": "o", "units": 1}),
    "parameters": {"o": {"kernel": [[1], [-1]], "bias": [0]}},
    "inputs": [[0, 0], [0, 1], [1, 0], [1, 1]],
    "targets": [[0], [1], [1], [0]],
    "loss": "binary_crossentropy",
    "steps": 5,
}
SGD = {"type": "sgd", "learning_rate": 0.1}


@every("form", ["application/json", "application/x-ndjson"])
def test_what_is_wrong_before_anything_has_moved_is_no_fault_of_the_learning_rate(post: Post, form: str) -> None:
    response = post(NO_PROBABILITIES | {"optimizer": SGD}, PATH, headers={"Accept": form})
    answer = strict_json(response.get_data().splitlines()[-1])
    answer = answer.get("summary", answer)
    assert "learning rate is" not in answer["reason"]
    assert "before anything has moved: the outputs of layer 'o' are not all between 0 and 1" in answer["reason"]
    assert [warning["code"] for warning in answer["warnings"]] == ["no_probabilities", "non_finite"]


def test_a_comparison_tells_what_all_its_runs_share(post: Post) -> None:
    answer = strict_json(post(NO_PROBABILITIES | {"optimizers": [SGD, "adam"]}, f"{PATH}/compare").get_data())
    assert [warning["code"] for warning in answer["warnings"]] == ["no_probabilities"]
    assert all("learning rate is" not in row["reason"] for row in answer["table"])


def test_normalize_weights_is_told_of_until_something_is_said(post: Post) -> None:
    body = xor(sample_weights=[1, 2, 3, 4])
    codes = [
        [warning["code"] for warning in post(body | more, "/v1/gradients").json["warnings"]]
        for more in ({}, {"normalize_weights": False}, {"normalize_weights": True}, {"reduction": "sum"})
    ]
    assert codes == [["normalize_weights"], [], [], []]
