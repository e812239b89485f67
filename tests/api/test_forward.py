"""`/v1/forward`: outputs without a loss."""

from typing import Any

import numpy as np

from service.api.examples import FORWARD
from tests.conftest import Post
from tests.support import assert_problem, every, faults, network, xor

PATH = "/v1/forward"


def forward(**changes: Any) -> dict[str, Any]:
    return xor(targets=..., loss=..., **changes)


def test_the_outputs_are_those_that_gradients_answers(post: Post) -> None:
    answer = post(forward(), PATH).json
    assert set(answer) == {"dtype", "outputs", "finite", "warnings"}
    assert answer["outputs"] == post(xor()).json["outputs"]


def test_layers_are_those_that_gradients_answers_without_deltas(post: Post) -> None:
    layers = post(forward(include=["layers"]), PATH).json["layers"]
    expected = post(xor(include=["layers"])).json["layers"]
    for layer in expected:
        del layer["delta"], layer["norms"]["delta"]
    assert layers == expected


def test_initialised_parameters_come_back(post: Post) -> None:
    first = post(FORWARD["initialised"], PATH).json
    parameters = first.pop("parameters")
    again = post(FORWARD["initialised"] | {"parameters": parameters}, PATH)
    assert again.json == first
    np.testing.assert_allclose(np.sum(first["outputs"], axis=1), 1, rtol=1e-14)


@every("key", ["targets", "loss", "reduction", "sample_weights", "normalize_weights"])
def test_what_only_a_loss_needs_is_no_key(post: Post, key: str) -> None:
    body = forward() | {key: xor().get(key, 1)}
    assert "unknown key" in faults(assert_problem(post(body, PATH), "invalid", body))[f"#/{key}"]


@every("include", ["per_sample", "input_gradients", "parameters"])
def test_what_only_gradients_include_is_refused(post: Post, include: str) -> None:
    body = forward(include=[include])
    assert set(faults(assert_problem(post(body, PATH), "invalid", body))) == {"#/include/0"}


@every("key", ["network", "inputs"])
def test_required_keys_are_asked_for(post: Post, key: str) -> None:
    body = forward(**{key: ...})
    assert faults(assert_problem(post(body, PATH), "invalid", body)) == {f"#/{key}": "is required"}


def test_a_network_of_views_alone_gives_its_inputs(post: Post) -> None:
    body = {
        "network": network({"type": "flatten"}, {"type": "reshape", "target_shape": [2, -1]}),
        "inputs": [[[1, 2], [3, 4]]],
    }
    assert post(body, PATH).json["outputs"] == [[[1.0, 2.0], [3.0, 4.0]]]


def test_outputs_are_chosen_by_name(post: Post) -> None:
    body = forward()
    body["network"]["outputs"] = ["output", "hidden"]
    assert list(post(body, PATH).json["outputs"]) == ["output", "hidden"]
    body["network"]["outputs"] = ["hidden"]
    assert np.shape(post(body, PATH).json["outputs"]) == (4, 2)
