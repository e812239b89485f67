"""`/v1/gradients/verify`: what it takes, what it refuses, and that it knows its own right answers."""

import copy
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.engine.insight.mistakes import mistakes
from tests.support import every

PATH = "/v1/gradients/verify"
NETWORK: dict[str, Any] = {
    "layers": [
        {"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"},
        {"type": "dense", "name": "output", "units": 2, "activation": "softmax"},
    ]
}
BODY: dict[str, Any] = {
    "network": NETWORK,
    "inputs": [[0.5, -1.0], [0.25, 2.0], [-0.75, 0.5]],
    "targets": [[1, 0], [0, 1], [1, 0]],
    "loss": "categorical_crossentropy",
    "seed": 3,
}


@pytest.fixture
def right(client: FlaskClient) -> dict[str, Any]:
    answer = client.post("/v1/gradients", json=BODY).json
    return copy.deepcopy(answer["gradients"])


def verdict(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = client.post(PATH, json=BODY | changes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def codes(answer: dict[str, Any]) -> list[list[str]]:
    return [each["mistakes"] for each in answer["diagnoses"]]


def scaled(tree: dict[str, Any], factor: float) -> dict[str, Any]:
    return {
        layer: {name: (factor * np.array(tensor)).tolist() for name, tensor in tensors.items()}
        for layer, tensors in tree.items()
    }


def test_the_gradient_of_the_service_matches(client, right):
    answer = verdict(client, claimed=right)
    assert answer["verdict"] == "match"
    assert answer["diagnoses"] == [] and answer["missing"] == []
    assert {each["verdict"] for each in answer["tensors"]} == {"match"}
    assert "first_wrong" not in answer


def test_parameters_without_a_claim_are_named_and_not_refused(client, right):
    answer = verdict(client, claimed={"output": {"bias": right["output"]["bias"]}})
    assert answer["verdict"] == "match"
    assert answer["missing"] == ["hidden.kernel", "hidden.bias", "output.kernel"]


def test_one_flat_list_is_cut_in_the_order_of_the_tree(client, right):
    flat = [x for layer in right.values() for tensor in layer.values() for x in np.array(tensor).reshape(-1).tolist()]
    assert verdict(client, claimed=flat)["verdict"] == "match"
    flat[0] += 0.5
    answer = verdict(client, claimed=flat)
    assert answer["first_wrong"]["layer"] == "hidden"
    assert answer["first_wrong"]["right"] == ["output"]
    assert answer["diagnoses"] == []


@pytest.mark.parametrize("flat", [False, True])
def test_the_layout_of_pytorch(client, right, flat):
    tree = {
        layer: {"weight": np.array(tensors["kernel"]).T.tolist(), "bias": tensors["bias"]}
        for layer, tensors in right.items()
    }
    claimed = {f"{layer}.{name}": x for layer, each in tree.items() for name, x in each.items()} if flat else tree
    assert verdict(client, claimed=claimed, layout="pytorch")["verdict"] == "match"


def test_a_claim_in_float32_matches_with_a_note(client, right):
    claimed = {
        layer: {name: np.float32(tensor).astype(float).tolist() for name, tensor in tensors.items()}
        for layer, tensors in right.items()
    }
    answer = verdict(client, claimed=claimed, tolerance=1e-12)
    assert answer["verdict"] == "match"
    assert codes(answer) == [["float32_noise"]]


def test_submissions_are_judged_one_by_one(client, right):
    answer = verdict(
        client,
        submissions=[
            {"id": "a", "claimed": right},
            {"id": "b", "claimed": scaled(right, -1.0)},
            {"id": "c", "claimed": scaled(right, 3.0)},
        ],
    )
    assert [each["id"] for each in answer["submissions"]] == ["a", "b", "c"]
    assert [each["verdict"] for each in answer["submissions"]] == ["match", "mismatch", "mismatch"]
    assert [codes(each) for each in answer["submissions"]] == [[], [["sign"]], [["mean_forgotten"]]]


def test_equal_numbers_are_equivalent(client):
    body = BODY | {"inputs": BODY["inputs"][:2], "targets": BODY["targets"][:2]}
    gradients = client.post("/v1/gradients", json=body).json["gradients"]
    answer = client.post(PATH, json=body | {"claimed": scaled(gradients, 2.0)}).json
    (found,) = answer["diagnoses"]
    assert ["factor_two"] in [found["mistakes"], *found["equivalent"]]
    assert ["mean_forgotten"] in [found["mistakes"], *found["equivalent"]]


def test_small_wrong_numbers_are_wrong(client, right):
    scale = 1e-9
    body = BODY | {"loss": "categorical_crossentropy", "sample_weights": [scale] * 3}
    gradients = client.post("/v1/gradients", json=body).json["gradients"]
    assert client.post(PATH, json=body | {"claimed": gradients}).json["verdict"] == "match"
    gradients["hidden"]["bias"][1] *= 1.001
    answer = client.post(PATH, json=body | {"claimed": gradients}).json
    assert answer["verdict"] == "mismatch"
    assert answer["first_wrong"]["parameters"] == ["hidden.bias"]


@every(
    ("changes", "pointer", "part"),
    [
        ({}, "#/claimed", "is required"),
        ({"claimed": {}}, "#/claimed", "claims nothing"),
        ({"claimed": [1, 2]}, "#/claimed", "has 17 numbers"),
        ({"claimed": {"hiden": {"kernel": [[1]]}}}, "#/claimed/hiden", "no layer is called 'hiden'"),
        ({"claimed": {"hidden": {"weights": [[1]]}}}, "#/claimed/hidden/weights", "has no parameter 'weights'"),
        ({"claimed": {"hidden": {"kernel": [[1, 2], [3, 4]]}}}, "#/claimed/hidden/kernel", "it takes [2, 3]"),
        ({"claimed": {"hidden": {"kernel": 1}}}, "#/claimed/hidden/kernel", "it takes [2, 3]"),
        ({"claimed": {"hidden": [1]}}, "#/claimed/hidden", "takes an object"),
        (
            {"claimed": {"hidden": {"kernel": [[1, 2]]}}, "layout": "pytorch"},
            "#/claimed/hidden/kernel",
            "it takes [2, 3]",
        ),
        ({"claimed": [1], "submissions": [{"id": "a", "claimed": [1]}]}, "#/submissions", "has no use beside"),
        ({"submissions": [{"claimed": [1]}]}, "#/submissions/0/id", "is required"),
        ({"submissions": [{"id": "a", "claimed": [1]}]}, "#/submissions/0/claimed", "has shape [1]"),
        (
            {"submissions": [{"id": "a", "claimed": [1]}, {"id": "a", "claimed": [1]}]},
            "#/submissions/1/id",
            "is the id of submission 0 too",
        ),
        ({"submissions": []}, "#/submissions", "a list of 1 to"),
    ],
)
def test_a_bad_claim_is_refused_where_it_is(client, changes, pointer, part):
    answer = client.post(PATH, json=BODY | changes)
    assert answer.status_code == 422
    errors = {error["pointer"]: error["detail"] for error in answer.json["errors"]}
    assert pointer in errors, errors
    assert part in errors[pointer]


@every(
    ("expression", "point", "claimed", "code"),
    [
        ("sin(x^2)", [2], [np.cos(4.0)], "inner_derivative_missing"),
        ("x*sin(x)", [1.5], [np.cos(1.5)], "product_rule"),
        ("x^3*y", [2, 5], [20, 8], "power_rule"),
        ("x/(1+y)", [3, 1], [0.5, 0.75], "quotient_rule"),
        ("x^2-y^2", [3, 1], {"x": 6, "y": 2}, "sign"),
        ("x^2+3y", [3, 1], [3, 6], "variables_swapped"),
    ],
)
def test_mistakes_with_typed_functions(client, expression, point, claimed, code):
    answer = client.post(PATH, json={"expression": expression, "point": point, "claimed": claimed}).json
    assert answer["verdict"] == "mismatch"
    first = answer["diagnoses"][0]
    assert [code] in [first["mistakes"], *first["equivalent"]]


@every(
    ("expression", "point", "claimed", "expected"),
    [
        ("|x|", [0], [1], "match"),
        ("|x|", [0], [-1], "match"),
        ("|x|", [0], [0.3], "match"),
        ("|x|", [0], [2], "mismatch"),
        ("max(x,0)", [0], [1], "match"),
        ("max(x,y)", [1, 1], [1, 0], "match"),
        ("max(x,y)", [1, 1], [1, 1], "mismatch"),
        ("|x|+y^2", [0, 3], [1, 9], "mismatch"),
        ("|x|+y^2", [0, 3], [1, 6], "match"),
    ],
)
def test_on_a_kink_every_slope_between_those_of_both_sides_is_right(client, expression, point, claimed, expected):
    answer = client.post(PATH, json={"expression": expression, "point": point, "claimed": claimed}).json
    assert answer["verdict"] == expected
    noise = {mistake.name for mistake in mistakes if mistake.kind == "noise"}
    assert expected == "mismatch" or {code for each in codes(answer) for code in each} <= noise


def test_huge_numbers_are_wrong_and_nothing_else(client):
    answer = verdict(client, claimed={"hidden": {"kernel": [[1e308, -1e308, 1e308], [1e308, 1e308, -1e308]]}})
    assert answer["verdict"] == "mismatch" and answer["diagnoses"] == []


def test_what_is_claimed_twice_is_refused(client, right):
    kernel = right["hidden"]["kernel"]
    answer = client.post(PATH, json=BODY | {"claimed": {"hidden.kernel": kernel, "hidden": {"kernel": kernel}}})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["#/claimed/hidden/kernel"]


def test_an_unknown_layer_is_told_once(client):
    answer = client.post(PATH, json=BODY | {"claimed": {"hiden": {"kernel": [[1]], "bias": [1]}}})
    assert [error["pointer"] for error in answer.json["errors"]] == ["#/claimed/hiden"]


def test_sentences_come_in_the_language_of_the_request(client, right):
    answer = verdict(client, claimed=scaled(right, -1.0), language="zh")
    assert answer["text"].startswith("梯度有误")
    assert answer["diagnoses"][0]["text"] == mistakes["sign"].description["zh"]


def test_every_mistake_says_what_it_is_and_what_to_change():
    for mistake in mistakes:
        assert mistake.what.key == f"mistake.{mistake.name}.what"
        assert mistake.change.key == f"mistake.{mistake.name}.change"
        assert mistake.kind == "noise" or {"wrong", "right"} == set(mistake.example)
