"""`/v1/train` refuses what is too large or wrong, and names its place."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.capacity import memory
from tests.api.test_several import TWO
from tests.api.training import EVERYTHING, NDJSON, PATH, VALIDATION, Told, Train, lines, numbers_in, training
from tests.conftest import MakeClient, Post
from tests.support import assert_problem, every, faults, network


def refused(response: TestResponse, body: Any) -> dict[str, Any]:
    """Return the one error of a request that exceeds a limit."""
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


@pytest.fixture(scope="module")
def traceless(make_client: MakeClient) -> FlaskClient:
    """Return a client of an application that allows no trace."""
    return make_client(max_trace_elements=1)


@every("include", [[], *[[name] for name in EVERYTHING]])
@every("optimizer", ["sgd", "adam", "nadam", "l_bfgs", {"type": "adam", "amsgrad": True}])
def test_the_estimate_of_a_trace_is_no_less_than_it_holds(
    post: Post, traceless: FlaskClient, optimizer: Any, include: list[str]
) -> None:
    body = training(optimizer=optimizer, steps=20, trace={"include": include})
    error = refused(traceless.post(PATH, json=body), body)

    answer = post(body, PATH).json
    assert numbers_in(answer["steps"]) <= error["asked"]


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


# Invalid requests.


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
