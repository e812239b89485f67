"""`/v1/train`: what each step says, where a training ends, and how it goes on."""

import copy
import math
from typing import Any

import numpy as np
import pytest

from service.engine.descent.optimizers import optimizers
from tests.api.test_gradients import BASE64
from tests.api.training import (
    BASIC,
    CLOSE,
    EVERYTHING,
    LINE,
    PATH,
    SUMMARY,
    VALIDATION,
    Told,
    Train,
    assert_trees_close,
    leaves,
    rounded,
    times,
    training,
)
from tests.conftest import MakeClient, Post
from tests.support import assert_described, every, network, strict_json, xor


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
    """Loss and gradients are those before the update: of the parameters that the step before recorded."""
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
            # The factors of the running average.
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


# Length and trace.


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
    # The smallest network: it is their number that counts.
    line = {"network": LINE, "inputs": [[0], [1]], "targets": [[1], [3]], "parameters": ...}
    body = training(**line, steps=100_000, optimizer={"type": "sgd", "learning_rate": 1e-3})
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
