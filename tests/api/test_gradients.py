"""`/v1/gradients`: what a caller gets for what they send."""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from schemas.tensor import decode, encode
from service.api.examples import GRADIENTS
from tests.conftest import Post
from tests.support import assert_problem, every, faults, network, strict_json, xor

BASE64 = "application/json; tensors=base64"


def plain(value: Any) -> Any:
    """Return an answer with its typed arrays as lists."""
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "base64"}:
            return decode(value).tolist()
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_the_worked_example_of_xor(post: Post) -> None:
    """Heaton's network: four samples, half squared error, the mean of the samples' gradients."""
    answer = post(xor(include=["layers"])).json
    assert answer["dtype"] == "float64"
    assert answer["finite"] is True
    assert answer["warnings"] == []
    inputs = np.array(xor()["inputs"], float)
    targets = np.array(xor()["targets"], float)
    tree = {layer: {name: np.array(value) for name, value in x.items()} for layer, x in xor()["parameters"].items()}
    z1 = inputs @ tree["hidden"]["kernel"] + tree["hidden"]["bias"]
    a1 = 1 / (1 + np.exp(-z1))
    z2 = a1 @ tree["output"]["kernel"] + tree["output"]["bias"]
    a2 = 1 / (1 + np.exp(-z2))
    delta2 = (a2 - targets) * a2 * (1 - a2) / 4
    delta1 = delta2 @ tree["output"]["kernel"].T * a1 * (1 - a1)
    close = {"rtol": 1e-13, "atol": 0.0}
    np.testing.assert_allclose(answer["outputs"], a2, **close)
    np.testing.assert_allclose(answer["loss"], ((a2 - targets) ** 2).sum() / 8, **close)
    assert answer["loss"] == answer["data_loss"]
    assert answer["regularization_loss"] == 0
    gradients = answer["gradients"]
    np.testing.assert_allclose(gradients["hidden"]["kernel"], inputs.T @ delta1, **close)
    np.testing.assert_allclose(gradients["hidden"]["bias"], delta1.sum(0), **close)
    np.testing.assert_allclose(gradients["output"]["kernel"], a1.T @ delta2, **close)
    np.testing.assert_allclose(gradients["output"]["bias"], delta2.sum(0), **close)
    squares = sum(np.square(array).sum() for tree in gradients.values() for array in tree.values())
    assert answer["gradient_norm"] == pytest.approx(math.sqrt(squares), rel=1e-14)
    hidden, output = answer["layers"]
    assert [hidden["name"], hidden["type"], hidden["shape"]] == ["hidden", "dense", [2]]
    np.testing.assert_allclose(hidden["pre_activation"], z1, **close)
    np.testing.assert_allclose(hidden["output"], a1, **close)
    np.testing.assert_allclose(hidden["delta"], delta1, **close)
    np.testing.assert_allclose(output["delta"], delta2, **close)
    for layer in (hidden, output):
        for quantity, norm in layer["norms"].items():
            assert norm == pytest.approx(np.linalg.norm(layer[quantity]), rel=1e-13)


def test_known_digits_of_the_worked_example(post: Post) -> None:
    answer = post(xor()).json
    assert answer["loss"] == pytest.approx(0.15500779048137614, rel=1e-14)
    assert answer["outputs"][0][0] == pytest.approx(0.7303329742286414, rel=1e-14)
    assert answer["gradients"]["output"]["bias"] == [pytest.approx(0.04676428348983659, rel=1e-12)]


BASIC = {
    "dtype",
    "outputs",
    "finite",
    "warnings",
    "loss",
    "data_loss",
    "regularization_loss",
    "gradients",
    "gradient_norm",
}


@every("include", ["layers", "norms", "input_gradients", "per_sample", "parameters"])
def test_each_include_adds_its_key_and_changes_nothing_else(post: Post, include: str) -> None:
    without, answer = post(xor()).json, post(xor(include=[include])).json
    assert set(without) == BASIC
    assert set(answer) == BASIC | {include}
    for key in BASIC - {"gradients", "gradient_norm"}:
        assert answer[key] == without[key]
    for layer, tree in without["gradients"].items():
        for name, array in tree.items():
            np.testing.assert_allclose(answer["gradients"][layer][name], array, rtol=1e-12)


def test_all_includes_at_once(post: Post) -> None:
    answer = post(xor(include=["layers", "norms", "input_gradients", "per_sample", "parameters", "layers"])).json
    assert set(answer) == BASIC | {"layers", "norms", "input_gradients", "per_sample", "parameters"}
    assert answer["parameters"] == xor()["parameters"]


def test_input_gradients_are_those_of_a_finite_difference(post: Post) -> None:
    gradient = post(xor(include=["input_gradients"])).json["input_gradients"][2][1]
    step = 1e-6
    losses = []
    for sign in (1, -1):
        inputs = xor()["inputs"]
        inputs[2][1] += sign * step
        losses.append(post(xor(inputs=inputs)).json["loss"])
    assert gradient == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)


@every(("reduction", "factor"), [("mean", 0.25), ("sum", 1.0), ("none", 1.0)])
def test_gradients_of_the_samples_add_up(post: Post, reduction: str, factor: float) -> None:
    answer = post(xor(include=["per_sample"], reduction=reduction)).json
    losses = answer["per_sample"]["loss"]
    assert len(losses) == 4
    if reduction == "none":
        assert answer["loss"] == answer["data_loss"] == losses
    else:
        assert answer["loss"] == pytest.approx(factor * sum(losses), rel=1e-13)
    for layer, tree in answer["gradients"].items():
        for name, array in tree.items():
            samples = np.array(answer["per_sample"]["gradients"][layer][name])
            assert samples.shape == (4, *np.shape(array))
            np.testing.assert_allclose(factor * samples.sum(0), array, rtol=1e-12)


def test_each_sample_alone_has_its_share(post: Post) -> None:
    together = post(xor(include=["per_sample"])).json["per_sample"]
    for place in range(4):
        alone = post(xor(inputs=[xor()["inputs"][place]], targets=[xor()["targets"][place]])).json
        assert alone["loss"] == pytest.approx(together["loss"][place], rel=1e-13)
        np.testing.assert_allclose(
            alone["gradients"]["hidden"]["kernel"], together["gradients"]["hidden"]["kernel"][place], rtol=1e-12
        )


def test_sample_weights_are_factors_of_the_samples(post: Post) -> None:
    losses = post(xor(reduction="none")).json["loss"]
    weights = [1.0, 0.0, 2.5, 4.0]
    weighted = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    assert post(xor(sample_weights=weights)).json["loss"] == pytest.approx(weighted / 4, rel=1e-13)
    normalised = post(xor(sample_weights=weights, normalize_weights=True)).json["loss"]
    assert normalised == pytest.approx(weighted / sum(weights), rel=1e-13)


@every("weights", [[1, 1, 1], [[1, 1, 1, 1]], 1, [1, 1, 1, 1, 1]])
def test_there_is_one_weight_for_each_sample(post: Post, weights: Any) -> None:
    body = xor(sample_weights=weights)
    assert "it takes [4], one per sample" in faults(assert_problem(post(body), "invalid", body))["#/sample_weights"]


TWO_OUTPUTS = {
    "network": network(
        {"type": "dense", "name": "trunk", "units": 3, "activation": "tanh"},
        {"type": "dense", "name": "left", "units": 2, "inputs": ["trunk"]},
        {"type": "dense", "name": "right", "units": 1, "inputs": ["trunk"]},
        outputs=["left", "right"],
    ),
    "inputs": [[0.5, -1.0]],
    "targets": {"left": [[1.0, 0.0]], "right": [[2.0]]},
    "loss": "squared_error",
    "seed": 4,
}


def test_two_outputs_are_answered_and_asked_by_name(post: Post) -> None:
    answer = post(TWO_OUTPUTS).json
    assert set(answer["outputs"]) == {"left", "right"}
    left, right = np.array(answer["outputs"]["left"]), np.array(answer["outputs"]["right"])
    assert answer["loss"] == pytest.approx(np.square(left - [[1, 0]]).sum() + np.square(right - 2).sum(), rel=1e-12)
    assert set(answer["gradients"]) == {"trunk", "left", "right"}


@every(
    ("targets", "pointers"),
    [
        ([[1.0, 0.0]], {"#/targets"}),
        ({"left": [[1.0, 0.0]]}, {"#/targets/right"}),
        ({"left": [[1.0]], "right": [[2.0], [3.0]]}, {"#/targets/left", "#/targets/right"}),
        ({"left": [[1.0, 0.0]], "right": [[2.0]], "middle": 1}, {"#/targets/middle"}),
        ({"left": [[1.0, None]], "right": [["x"]]}, {"#/targets/left/0/1", "#/targets/right/0/0"}),
        ({}, {"#/targets/left", "#/targets/right"}),
    ],
)
def test_targets_of_two_outputs_have_to_fit(post: Post, targets: Any, pointers: set[str]) -> None:
    body = TWO_OUTPUTS | {"targets": targets}
    assert set(faults(assert_problem(post(body), "invalid", body))) == pointers


def test_one_output_may_be_named_too(post: Post) -> None:
    assert post(xor(targets={"output": xor()["targets"]})).get_data() == post(xor()).get_data()


def test_shared_layers_add_their_gradients_up(post: Post) -> None:
    dense = {"type": "dense", "units": 2, "use_bias": False}
    kernel = [[0.5, -0.25], [1.0, 2.0]]
    request = {"inputs": [[1.0, 2.0]], "targets": [[0.0, 1.0]], "loss": "squared_error"}
    tied = {
        "network": network(dense | {"name": "one"}, dense | {"name": "two", "shares": "one"}),
        "parameters": {"one": {"kernel": kernel}},
    }
    apart = {
        "network": network(dense | {"name": "one"}, dense | {"name": "two"}),
        "parameters": {"one": {"kernel": kernel}, "two": {"kernel": kernel}},
    }
    shared, separate = post(request | tied).json, post(request | apart).json
    assert shared["loss"] == separate["loss"]
    total = np.add(separate["gradients"]["one"]["kernel"], separate["gradients"]["two"]["kernel"])
    assert list(shared["gradients"]) == ["one"]
    np.testing.assert_allclose(shared["gradients"]["one"]["kernel"], total, rtol=1e-14)


def test_parameters_are_not_sent_for_a_layer_that_shares(post: Post) -> None:
    dense = {"type": "dense", "units": 2, "use_bias": False}
    kernel = [[0.5, -0.25], [1.0, 2.0]]
    body = xor(
        network=network(dense | {"name": "one"}, dense | {"name": "two", "shares": "one"}),
        parameters={"one": {"kernel": kernel}, "two": {"kernel": kernel}},
        targets=[[0, 0]] * 4,
    )
    detail = faults(assert_problem(post(body), "invalid", body))["#/parameters/two"]
    assert "uses the parameters of layer 'one'" in detail


def test_layers_that_are_not_trainable_have_no_gradients(post: Post) -> None:
    body = xor()
    body["network"]["layers"][0]["trainable"] = False
    answer = post(body).json
    assert list(answer["gradients"]) == ["output"]
    assert answer["gradients"]["output"] == post(xor()).json["gradients"]["output"]
    body["network"]["layers"][1]["trainable"] = False
    answer = post(body | {"include": ["per_sample"]}).json
    assert answer["gradients"] == answer["per_sample"]["gradients"] == {}
    assert answer["gradient_norm"] == 0


def test_regularisation_is_added_to_the_loss_and_told_apart(post: Post) -> None:
    body = xor()
    body["network"]["layers"][1]["kernel_regularizer"] = {"l2": 0.5}
    kernel = np.array(body["parameters"]["output"]["kernel"])
    answer, bare = post(body).json, post(xor()).json
    assert answer["data_loss"] == bare["loss"]
    assert answer["regularization_loss"] == pytest.approx(0.5 * np.square(kernel).sum(), rel=1e-14)
    assert answer["loss"] == pytest.approx(answer["data_loss"] + answer["regularization_loss"], rel=1e-14)
    np.testing.assert_allclose(
        np.subtract(answer["gradients"]["output"]["kernel"], bare["gradients"]["output"]["kernel"]), kernel, rtol=1e-12
    )


def test_initialised_parameters_come_back_and_reproduce_the_answer(post: Post) -> None:
    body = xor(parameters=..., seed=11)
    first = post(body).json
    parameters = first.pop("parameters")
    assert {layer: {name: np.shape(x) for name, x in tree.items()} for layer, tree in parameters.items()} == {
        "hidden": {"kernel": (2, 2), "bias": (2,)},
        "output": {"kernel": (2, 1), "bias": (1,)},
    }
    assert post(xor(parameters=parameters)).json == first


def test_the_seed_decides_and_its_default_is_0(post: Post) -> None:
    answers = [post(xor(parameters=..., **({} if seed is None else {"seed": seed}))) for seed in (None, 0, 1, 1)]
    assert answers[0].get_data() == answers[1].get_data() != answers[2].get_data() == answers[3].get_data()


def test_dropout_follows_the_seed_and_works_in_training_only(post: Post) -> None:
    body = xor()
    body["network"]["layers"].insert(1, {"type": "dropout", "rate": 0.5})
    quiet = post(body).json
    assert quiet == post(xor()).json
    first, again, other = (post(body | {"training": True, "seed": seed}).get_data() for seed in (1, 1, 3))
    assert first == again != other
    assert strict_json(first)["outputs"] != quiet["outputs"]


def test_float32_is_computed_and_said(post: Post) -> None:
    single, double = post(xor(dtype="float32")).json, post(xor()).json
    assert single["dtype"] == "float32"
    kernel = np.array(single["gradients"]["hidden"]["kernel"])
    assert (kernel.astype(np.float32).astype(float) != np.array(double["gradients"]["hidden"]["kernel"])).any()
    np.testing.assert_allclose(kernel, double["gradients"]["hidden"]["kernel"], rtol=1e-4)
    assert post(xor(dtype="float32"), Accept=BASE64).json["gradients"]["hidden"]["kernel"]["dtype"] == "float32"


def test_float32_refuses_numbers_that_are_too_large_for_it(post: Post) -> None:
    body = xor(dtype="float32", inputs=[[0, 0], [0, 1], [1e39, 0], [1, 1]])
    errors = faults(assert_problem(post(body), "invalid", body))
    assert errors == {"#/inputs/2/0": "1e+39 is too large for float32"}


def test_typed_arrays_come_back_where_they_are_asked_for(post: Post) -> None:
    body = xor(include=["layers", "input_gradients", "per_sample", "parameters"])
    lists, response = post(body), post(body, Accept=BASE64)
    assert lists.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Type"] == BASE64
    assert plain(response.json) == lists.json
    assert response.json["outputs"]["shape"] == [4, 1]


def test_typed_arrays_mean_what_lists_do(post: Post) -> None:
    body = xor()
    typed = body | {
        "inputs": encode(np.array(body["inputs"], np.uint8)),
        "targets": encode(np.array(body["targets"], float)),
        "parameters": {
            layer: {name: encode(np.array(value)) for name, value in tree.items()}
            for layer, tree in body["parameters"].items()
        },
    }
    assert post(typed).get_data() == post(body).get_data()


@every(
    ("accept", "typed"),
    [
        ("application/json", False),
        ("*/*", False),
        ("application/*", False),
        ("", False),
        (BASE64, True),
        ("application/json;tensors=base64", True),
        ('application/json; tensors="base64"', True),
        ("application/json; tensors=lists", False),
        ("application/json; tensors=base64; q=0.5, application/json; tensors=lists", False),
        ("application/json; tensors=lists; q=0.5, application/json; tensors=base64", True),
        ("text/html, application/json; tensors=base64, */*; q=0.1", True),
        ("text/html, */*; q=0.1", False),
        ("*/*, application/json; tensors=base64", True),
    ],
)
def test_the_accept_header_chooses_the_form_of_tensors(post: Post, accept: str, typed: bool) -> None:
    outputs = post(xor(), Accept=accept).json["outputs"]
    assert isinstance(outputs, dict) is typed


@every(
    "accept",
    ["text/html", "application/xml", "application/json; tensors=hex", "application/json; q=0", "image/*", "nonsense"],
)
def test_other_forms_cannot_be_had(post: Post, accept: str) -> None:
    assert_problem(post(xor(), Accept=accept), "not-acceptable")


def test_compressed_bodies_mean_what_plain_ones_do(post: Post) -> None:
    content = json.dumps(xor()).encode()
    for encoding in ("gzip", "x-gzip", "GZIP"):
        response = post(gzip.compress(content), Content_Encoding=encoding)
        assert response.get_data() == post(xor()).get_data()
    assert post(content, Content_Encoding="identity").status_code == 200


def test_answers_are_compressed_where_that_is_accepted_and_worth_it(post: Post) -> None:
    large = xor(include=["layers", "per_sample"])
    response = post(large, Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in response.headers["Vary"]
    assert gzip.decompress(response.get_data()) == post(large).get_data()
    for encoding in ("br", "gzip;q=0", "identity"):
        assert "Content-Encoding" not in post(large, Accept_Encoding=encoding).headers
    assert "Content-Encoding" not in post(xor(), Accept_Encoding="gzip").headers


def test_values_that_are_not_finite_are_null_and_told(post: Post) -> None:
    body = {
        "network": network({"type": "dense", "name": "big", "units": 1}),
        "parameters": {"big": {"kernel": [[1e308], [1e308]], "bias": [0]}},
        "inputs": [[10, 10]],
        "targets": [[0]],
        "loss": "mean_squared_error",
    }
    response = post(body)
    answer = strict_json(response.get_data())
    assert answer["outputs"] == [[None]]
    assert answer["finite"] is False
    (warning,) = answer["warnings"]
    assert warning["code"] == "non_finite"
    assert warning["layer"] == "big"
    typed = post(body, Accept=BASE64).json
    assert typed["finite"] is False
    assert base64.b64decode(typed["outputs"]["base64"]) == np.array([np.inf]).tobytes()


@every(
    "initializer",
    [
        {"type": "constant", "value": -1e308},
        {"type": "uniform", "minimum": 1e308, "maximum": -1e308},
        {"type": "glorot_uniform", "gain": 1e308},
        {"type": "normal", "standard_deviation": 1.7e308},
        {"type": "orthogonal", "gain": 1.7e308},
    ],
)
@every("dtype", ["float64", "float32"])
def test_initial_values_that_are_not_finite_are_told_even_where_the_outputs_are(
    post: Post, initializer: dict[str, Any], dtype: str
) -> None:
    layer = {"type": "dense", "units": 3, "activation": "relu", "kernel_initializer": initializer}
    response = post({"network": network(layer), "inputs": [[1, 1]], "dtype": dtype}, "/v1/forward")
    assert response.status_code == 200
    answer = strict_json(response.get_data())
    if "null" in response.text:
        assert answer["finite"] is False
        assert answer["warnings"]


def test_a_step_that_blocks_the_gradient_is_told(post: Post) -> None:
    body = xor()
    body["network"]["layers"][1]["activation"] = "step"
    answer = post(body).json
    assert [warning["code"] for warning in answer["warnings"]] == ["gradient_blocked"]
    assert answer["warnings"][0]["layer"] == "output"
    assert answer["gradient_norm"] == 0


@every("name", GRADIENTS)
def test_the_same_request_gives_the_same_bytes(post: Post, name: str) -> None:
    assert len({post(GRADIENTS[name]).get_data() for _ in range(5)}) == 1


CLASSES = {
    "network": network({"type": "dense", "name": "classes", "units": 3, "activation": "softmax"}),
    "inputs": [[1.0], [2.0]],
    "loss": "sparse_categorical_crossentropy",
}


@every("index", [3, -1, 0.5, 1e300, -1e19])
def test_class_indices_are_those_of_a_class(post: Post, index: float) -> None:
    body = CLASSES | {"targets": [0, index]}
    errors = faults(assert_problem(post(body), "invalid", body))
    assert "takes a class index from 0 to 2" in errors["#/targets/1"]


def test_class_indices_may_be_typed_integers(post: Post) -> None:
    typed = CLASSES | {"targets": encode(np.array([2, 0], np.uint8))}
    assert post(typed).get_data() == post(CLASSES | {"targets": [2, 0]}).get_data()


@every(
    ("targets", "hint"),
    [([0, 1, 1, 0], "put each target in a list of its own"), ([[0, 1]] * 4, "they take [4, 1]"), (1, "they take")],
)
def test_targets_have_the_shape_of_the_outputs(post: Post, targets: Any, hint: str) -> None:
    body = xor(targets=targets)
    assert hint in faults(assert_problem(post(body), "invalid", body))["#/targets"]


@every("inputs", [1, [1, 2], [[1], [2], [3], [4]]])
def test_inputs_have_to_fit_the_parameters(post: Post, inputs: Any) -> None:
    body = xor(inputs=inputs)
    assert_problem(post(body), "invalid", body)


def test_the_stages_of_the_work_are_timed(client: FlaskClient) -> None:
    header = client.post("/v1/gradients", json=xor()).headers["Server-Timing"]
    assert [part.split(";")[0] for part in header.split(", ")] == [
        "receive",
        "parse",
        "validate",
        "compile",
        "compute",
        "serialize",
        "memory",
    ]
