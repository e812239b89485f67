"""Networks with several inputs or outputs, with integers, and with state: what is sent, answered and refused."""

import base64
from typing import Any

import numpy as np
import pytest

from tests.conftest import Post
from tests.support import assert_problem, every, faults, xor

TWO: dict[str, Any] = {
    "network": {
        "inputs": ["a", "b"],
        "layers": [
            {"type": "dense", "name": "left", "units": 1, "inputs": ["a"]},
            {"type": "dense", "name": "right", "units": 2, "inputs": ["b"]},
            {"type": "concatenate", "name": "both", "inputs": ["left", "right"]},
        ],
        "outputs": ["left", "both"],
    },
    "inputs": {"a": [[1.0, 2.0], [3.0, 4.0]], "b": [[5.0], [6.0]]},
    "targets": {"left": [[0.0], [1.0]], "both": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]},
    "loss": {"left": "squared_error", "both": {"type": "huber", "delta": 0.5}},
    "loss_weights": {"both": 0.25},
    "include": ["input_gradients"],
}


def two(**changes: Any) -> dict[str, Any]:
    return TWO | changes


def refusals(post: Post, body: dict[str, Any]) -> dict[str, str]:
    return faults(assert_problem(post(body), "invalid", body))


def test_everything_comes_by_name(post: Post) -> None:
    response = post(two())
    assert response.status_code == 200, response.text
    answer = response.json
    assert set(answer["outputs"]) == {"left", "both"}
    assert set(answer["input_gradients"]) == {"a", "b"}
    losses = answer["losses"]
    assert answer["loss"] == pytest.approx(losses["left"] + 0.25 * losses["both"], rel=1e-15)


def test_a_single_output_needs_no_list_of_losses(post: Post) -> None:
    network = TWO["network"] | {"outputs": ["both"]}
    response = post(two(network=network, targets=TWO["targets"]["both"], loss="mse", loss_weights={"both": 2.0}))
    assert response.status_code == 200, response.text
    assert "losses" not in response.json and isinstance(response.json["outputs"], list)
    assert response.json["loss"] > 0


@every(
    ("changes", "pointer", "detail"),
    [
        ({"inputs": {"a": [[1.0, 2.0]]}}, "#/inputs/b", "is missing"),
        ({"inputs": TWO["inputs"] | {"c": [[1.0]]}}, "#/inputs/c", "is no input of the network"),
        ({"inputs": [[1.0]]}, "#/inputs", "takes one tensor for each input: an object with 'a', 'b'"),
        ({"inputs": TWO["inputs"] | {"b": [[1.0]]}}, "#/inputs/b", "input 'b' has 1 samples, but input 'a' has 2"),
        ({"inputs": TWO["inputs"] | {"b": [1.0, 2.0]}}, "#/inputs/b", "they take one row per sample"),
        ({"inputs": TWO["inputs"] | {"b": "x"}}, "#/inputs/b", "takes a tensor"),
        ({"targets": {"left": [[0.0], [1.0]]}}, "#/targets/both", "is missing"),
        (
            {"targets": TWO["targets"] | {"left": [[0.0]]}},
            "#/targets/left",
            "targets have shape [1, 1]; they take [2, 1]",
        ),
        ({"loss": {"left": "mse"}}, "#/loss/both", "is missing: each output needs a loss"),
        ({"loss": TWO["loss"] | {"right": "mse"}}, "#/loss/right", "is no output of the network"),
        ({"loss": TWO["loss"] | {"left": "msee"}}, "#/loss/left", "did you mean"),
        ({"loss": TWO["loss"] | {"left": {"type": "huber", "delta": -1}}}, "#/loss/left/delta", "takes a number"),
        ({"loss_weights": {"right": 1.0}}, "#/loss_weights/right", "is no output of the network"),
        ({"loss_weights": {"left": "1"}}, "#/loss_weights/left", "takes a"),
        ({"loss_weights": 2.0}, "#/loss_weights", "takes an object of numbers by name"),
        ({"loss_weights": {}}, "#/loss_weights", "takes an object of numbers by name"),
    ],
)
def test_what_does_not_fit_is_named(post: Post, changes: dict[str, Any], pointer: str, detail: str) -> None:
    found = refusals(post, two(**changes))
    assert detail in found[pointer]


@every(
    ("changes", "pointer", "detail"),
    [
        ({"inputs": ["a", "a"]}, "#/network/inputs", "names an input twice"),
        ({"inputs": []}, "#/network/inputs", "takes a list of 1 to"),
        ({"inputs": ["a", "b\n"]}, "#/network/inputs/1", "takes a name of 1 to 128 characters"),
        ({"inputs": ["a", ""]}, "#/network/inputs/1", "takes a name of 1 to 128 characters"),
        ({"inputs": ["a", "_schema"]}, "#/network/inputs/1", "takes a name of 1 to 128 characters"),
        ({"inputs": ["left", "b"]}, "#/network/layers/0/name", "that name means an input of the network"),
        ({"input_shape": [2]}, "#/network/input_shape", "takes an object with a shape for each of 'a', 'b'"),
        ({"input_shape": {"c": [2]}}, "#/network/input_shape/c", "is no input of the network"),
        ({"input_shape": {"a": [2.5]}}, "#/network/input_shape/a/0", "takes an integer"),
        ({"input_shape": {"a": [3]}}, "#/inputs/a", "they take [samples, 3] because input_shape is [3]"),
        ({"outputs": ["left", "left"]}, "#/network/outputs", "names a layer twice"),
    ],
)
def test_wrong_definitions_are_named(post: Post, changes: dict[str, Any], pointer: str, detail: str) -> None:
    found = refusals(post, two(network=TWO["network"] | changes))
    assert detail in found[pointer]


def test_a_layer_that_takes_one_input_has_to_say_which(post: Post) -> None:
    layers = [{"type": "dense", "units": 1}]
    body = two(network={"inputs": ["a", "b"], "layers": layers}, targets=[[0.0], [1.0]], loss="mse")
    del body["loss_weights"]
    assert "name the one it takes in 'inputs'" in refusals(post, body)["#/network/layers/0/inputs"]


WORDS: dict[str, Any] = {
    "network": {
        "layers": [
            {"type": "embedding", "input_dim": 5, "output_dim": 3},
            {"type": "lstm", "units": 2},
            {"type": "dense", "units": 2, "activation": "softmax"},
        ]
    },
    "inputs": [[0, 4, 2], [1, 1, 3]],
    "targets": [0, 1],
    "loss": "sparse_categorical_crossentropy",
}


def test_integers_may_come_as_lists_or_typed(post: Post) -> None:
    content = base64.b64encode(np.array(WORDS["inputs"], np.int64).tobytes()).decode()
    typed = {"dtype": "int64", "shape": [2, 3], "base64": content}
    assert post(WORDS | {"inputs": typed}).get_data() == post(WORDS).get_data()


def test_an_index_beyond_the_table_is_named_by_its_place(post: Post) -> None:
    body = WORDS | {"inputs": [[0, 4, 2], [1, 5, 3]]}
    expected = "takes an index for layer 'embedding_1' from 0 to 4, got 5"
    assert refusals(post, body) == {"#/inputs/1/1": expected}
    named = body | {"inputs": {"input": body["inputs"]}}
    assert refusals(post, named) == {"#/inputs/input/1/1": expected}


def test_integers_have_no_gradient(post: Post) -> None:
    response = post(WORDS | {"include": ["input_gradients"]})
    assert response.status_code == 200 and response.json["input_gradients"] == {}


def test_state_comes_in_training_only_and_goes_back_among_the_parameters(post: Post) -> None:
    body: dict[str, Any] = {
        "network": {"layers": [{"type": "batch_normalization", "name": "n"}, {"type": "dense", "units": 1}]},
        "inputs": [[1.0, 2.0], [3.0, 5.0]],
        "targets": [[0.0], [1.0]],
        "loss": "mse",
        "training": True,
        "include": ["per_sample"],
    }
    answer = post(body).json
    assert answer["state"]["n"]["moving_mean"] == pytest.approx([0.02, 0.035])
    assert set(answer["gradients"]["n"]) == {"gamma", "beta"}
    per_sample = answer["per_sample"]["gradients"]["n"]["gamma"]
    assert np.sum(per_sample, 0) / 2 == pytest.approx(answer["gradients"]["n"]["gamma"])
    parameters = answer["parameters"] | {"n": answer["parameters"]["n"] | answer["state"]["n"]}
    later = post(body | {"training": False, "parameters": parameters})
    assert later.status_code == 200 and "state" not in later.json


def test_a_factor_too_large_for_float32_is_infinite_and_told(post: Post) -> None:
    answer = post(xor(loss_weights={"output": 1e308}, dtype="float32"))
    assert answer.status_code == 200
    assert answer.json["loss"] is None and answer.json["finite"] is False
