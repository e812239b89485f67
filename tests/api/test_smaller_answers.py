"""Norms instead of arrays, and what an answer may leave out."""

import json
from typing import Any

import numpy as np
import pytest

from service.api.examples import DERIVATIVES, TRAIN
from tests.api.test_openapi import DOCUMENT
from tests.api.training import NDJSON, training
from tests.conftest import Post
from tests.support import ROOT, answered, assert_problem, every, faults, network, strict_json, violations, xor

GRADIENTS, FORWARD, TRAINING, DERIVED = "/v1/gradients", "/v1/forward", "/v1/train", "/v1/derivatives"
EXAMPLES = ("lenet", "residual_mlp", "transformer_block", "two_inputs_two_outputs", "character_lstm")


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = strict_json((ROOT / "docs" / "examples" / f"{name}.json").read_text())
    return {key: value for key, value in found.items() if key != "include"}


def without_parameters(**changes: Any) -> dict[str, Any]:
    return xor(parameters=..., **changes)


def norm(value: Any) -> float:
    return float(np.linalg.norm(np.array(value, float).reshape(-1)))


@every("dtype", ["float64", "float32"])
@every("name", EXAMPLES)
def test_norms_are_those_of_the_arrays_that_are_not_sent(post: Post, name: str, dtype: str) -> None:
    request = example(name) | {"dtype": dtype}
    full = answered(post, request | {"include": ["layers"]})
    answer = answered(post, request | {"include": ["norms"], "exclude": ["gradients", "parameters"]})
    norms = answer["norms"]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert norms["gradients"].keys() == full["gradients"].keys()
    for layer, tree in full["gradients"].items():
        expected = {parameter: norm(gradient) for parameter, gradient in tree.items()}
        assert norms["gradients"][layer] == pytest.approx(expected, rel=tolerance, abs=1e-300)
    deltas = {layer["name"]: norm(layer["delta"]) for layer in full["layers"]}
    assert norms["deltas"] == pytest.approx(deltas, rel=tolerance, abs=1e-300)
    assert list(norms["deltas"]) == [layer["name"] for layer in full["layers"]]
    together = norm([value for tree in norms["gradients"].values() for value in tree.values()])
    assert answer["gradient_norm"] == pytest.approx(together, rel=tolerance)
    assert "layers" not in answer and "parameters" not in answer and answer["gradients"] == {}
    operation = DOCUMENT["paths"][GRADIENTS]["post"]["responses"]["200"]["content"]["application/json"]
    assert violations(operation["schema"], answer) == []


def test_norms_need_no_arrays_in_the_answer(post: Post) -> None:
    request = {
        "network": network({"type": "dense", "units": 200}, {"type": "dense", "units": 200}),
        "inputs": [[0.5] * 50],
        "targets": [[0.0] * 200],
        "loss": "squared_error",
        "include": ["norms"],
    }
    smaller = request | {"exclude": ["gradients", "parameters"]}
    assert len(post(request).get_data()) > 500_000 > 10_000 > len(post(smaller).get_data())


def test_frozen_layers_have_deltas_and_no_gradients(post: Post) -> None:
    layers = [
        {"type": "dense", "name": "a", "units": 2, "trainable": False},
        {"type": "dense", "name": "b", "units": 1},
    ]
    norms = answered(post, without_parameters(network=network(*layers), include=["norms"]))["norms"]
    assert set(norms["gradients"]) == {"b"}
    assert set(norms["deltas"]) == {"a", "b"}


def test_norms_that_are_not_finite_are_null_and_told(post: Post) -> None:
    layers = [
        {"type": "dense", "name": "grow", "units": 1, "activation": "exponential", "use_bias": False},
        {"type": "dense", "name": "last", "units": 1, "use_bias": False},
    ]
    parameters = {"grow": {"kernel": [[709.0]]}, "last": {"kernel": [[1e10]]}}
    request = {"network": network(*layers), "parameters": parameters, "inputs": [[1]], "targets": [[0]]}
    answer = answered(post, request | {"loss": "mean_absolute_error", "include": ["norms"], "exclude": ["gradients"]})
    assert answer["norms"]["deltas"]["grow"] is None
    assert answer["norms"]["gradients"]["last"]["kernel"] == pytest.approx(np.exp(709.0))
    assert answer["finite"] is False
    assert [warning["code"] for warning in answer["warnings"]] == ["non_finite"]


def test_a_delta_alone_that_is_not_finite_is_told(post: Post) -> None:
    """The input is 0, so the gradient of a kernel is 0 times its delta."""
    layers = [
        {"type": "dense", "name": "first", "units": 1, "use_bias": False},
        {"type": "dense", "name": "last", "units": 1},
    ]
    parameters = {"first": {"kernel": [[1.0]]}, "last": {"kernel": [[1e308]], "bias": [0.0]}}
    request = {"network": network(*layers), "parameters": parameters, "inputs": [[0.0]], "targets": [[-1e10]]}
    answer = answered(post, request | {"loss": "squared_error", "include": ["norms"]})
    assert answer["norms"]["deltas"]["first"] is None
    assert answer["finite"] is False and answer["warnings"]


@every(
    ("path", "request_"),
    [
        (GRADIENTS, without_parameters()),
        (FORWARD, {"network": xor()["network"], "inputs": [[1, 2]]}),
        (DERIVED, {"network": xor()["network"], "inputs": [[1, 2]], "kind": "jacobian"}),
    ],
)
def test_parameters_made_here_can_be_left_out(post: Post, path: str, request_: dict[str, Any]) -> None:
    full, smaller = answered(post, request_, path), answered(post, request_ | {"exclude": ["parameters"]}, path)
    assert full.pop("parameters")
    assert smaller == full


@every("exclude", [["parameters"], ["checkpoint"], ["parameters", "checkpoint"], []])
def test_the_end_of_a_training_can_be_left_out(post: Post, exclude: list[str]) -> None:
    full, smaller = answered(post, training(), TRAINING), answered(post, training(exclude=exclude), TRAINING)
    expected = {key: value for key, value in full.items() if key not in exclude}
    assert smaller == expected | ({"parameters": {}} if "parameters" in exclude else {})
    assert full["parameters"] and full["checkpoint"]
    *_, last = post(training(exclude=exclude), TRAINING, Accept=NDJSON).get_data().splitlines()
    assert json.loads(last) == {key: value for key, value in smaller.items() if key != "steps"}


@every(("path", "request_"), [(GRADIENTS, xor()), (TRAINING, training()), (DERIVED, next(iter(DERIVATIVES.values())))])
def test_only_what_is_listed_can_be_left_out(post: Post, path: str, request_: dict[str, Any]) -> None:
    document = assert_problem(post(request_ | {"exclude": ["parmeters"]}, path), "invalid")
    assert "did you mean 'parameters'" in faults(document)["#/exclude/0"]


def test_what_is_asked_for_cannot_be_left_out(post: Post) -> None:
    document = assert_problem(post(xor(include=["parameters"], exclude=["parameters"])), "invalid")
    assert faults(document) == {"#/exclude": "names parameters, which include asks for"}


def test_a_comparison_has_nothing_to_leave_out(post: Post) -> None:
    request = {key: value for key, value in next(iter(TRAIN.values())).items() if key not in ("optimizer", "trace")}
    response = post(request | {"optimizers": ["sgd"], "exclude": ["parameters"]}, "/v1/train/compare")
    assert faults(assert_problem(response, "invalid"))["#/exclude"].startswith("unknown key")
