"""`/v1/gradients/check`: what a caller gets for what they send."""

import copy
from typing import Any

import pytest

from tests.conftest import MakeClient, Post
from tests.support import answered, assert_problem, every, faults, network, strict_json, xor

PATH = "/v1/gradients/check"
SADDLE = {"expression": "x^2 - y^2", "point": [3, 1]}


def verdicts(answer: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in answer["checks"]}


def test_the_gradients_of_xor_are_right(post: Post) -> None:
    answer = answered(post, xor(), PATH)
    assert answer["verdict"] == "right" and answer["finite"] is True and answer["missing"] == []
    assert list(verdicts(answer)) == ["hidden.kernel", "hidden.bias", "output.kernel", "output.bias"]
    assert answer["value"] == strict_json(post(xor()).get_data())["loss"]
    curve = answer["curve"]
    assert curve["truncation"] == pytest.approx(2.0, abs=0.1) and curve["rounding"] == pytest.approx(-1.0, abs=0.3)
    assert [each["order"] for each in answer["taylor"]] == pytest.approx([2.0] * 3, abs=0.05)
    assert all("curve" in each for each in answer["checks"])


@every("dtype", ["float64", "float32"])
def test_the_answer_of_the_gradients_endpoint_passes_as_a_claim(post: Post, dtype: str) -> None:
    body = xor(dtype=dtype)
    claimed = strict_json(post(body).get_data())["gradients"]
    answer = answered(post, body | {"claimed": claimed}, PATH)
    assert set(verdicts(answer).values()) == {"right"}
    assert {each["compared"] for each in answer["checks"]} == {"exact"}


def test_one_wrong_number_is_found(post: Post) -> None:
    claimed = copy.deepcopy(strict_json(post(xor()).get_data())["gradients"])
    claimed["hidden"]["kernel"][1][0] *= 1.0 + 1e-6
    answer = answered(post, xor(claimed=claimed), PATH)
    assert verdicts(answer) == {
        "hidden.kernel": "wrong",
        "hidden.bias": "right",
        "output.kernel": "right",
        "output.bias": "right",
    }
    (wrong,) = [each for each in answer["checks"] if each["verdict"] == "wrong"]
    assert wrong["worst"]["label"] == "hidden.kernel[1][0]" and wrong["wrong"] == 1
    assert answered(post, xor(claimed=claimed, tolerance=1e-5), PATH)["verdict"] == "right"


def test_a_part_may_be_claimed_and_the_rest_is_named(post: Post) -> None:
    answer = answered(post, xor(claimed={"output": {"bias": [0.0467642834898366]}}), PATH)
    assert verdicts(answer) == {"output.bias": "right"}
    assert answer["missing"] == ["hidden.kernel", "hidden.bias", "output.kernel"]


@every("claimed", [{"x": 6, "y": -2}, [6, -2]])
def test_a_function_is_checked(post: Post, claimed: Any) -> None:
    assert answered(post, SADDLE, PATH)["verdict"] == "right"
    assert answered(post, SADDLE | {"claimed": claimed}, PATH)["verdict"] == "right"
    answer = answered(post, SADDLE | {"claimed": {"y": 2}}, PATH)
    assert answer["verdict"] == "wrong" and answer["missing"] == ["x"]
    assert answer["checks"][0]["worst"]["reference"] == -2
    # 4 from a slope of 2, whatever the step: no difference comes near it.
    assert answer["checks"][0]["curve"]["text"].startswith("No step brings central differences near")


def test_the_sentences_are_in_the_language_of_the_caller(post: Post) -> None:
    response = post(SADDLE | {"claimed": [6, 2]}, PATH, Accept_Language="zh")
    assert response.headers["Content-Language"] == "zh"
    answer = strict_json(response.get_data())
    assert answer["text"] == "梯度有误,共 1 处:`y`。"
    assert answered(post, SADDLE | {"language": "en"}, PATH, Accept_Language="zh")["text"].startswith(
        "The gradient is right"
    )


def test_a_step_may_come_twice(post: Post) -> None:
    rows = answered(post, SADDLE | {"steps": [0.1, 0.01, 0.01]}, PATH)["curve"]["steps"]
    assert [row["step"] for row in rows] == [0.1, 0.01, 0.01]
    curve = answered(post, {"expression": "x^4", "point": [1], "steps": [0.1] * 9 + [0.01] * 9}, PATH)["curve"]
    assert curve.get("truncation") is None  # two steps are no line


def test_a_kink_within_the_steps_is_told(post: Post) -> None:
    answer = answered(post, {"expression": "|x|", "point": [0.003], "steps": [0.01, 0.001]}, PATH)
    assert answer["verdict"] == "right" and answer["curve"]["kink"] == 0.01
    assert [row["kink"] for row in answer["curve"]["steps"]] == [True, False]
    answer = answered(post, {"expression": "|x|", "point": [0]}, PATH)
    assert answer["verdict"] == "kink" and answer["checks"][0]["sides"] == [-1, 1]


def test_surrogate_slopes_are_taken_as_declared(post: Post) -> None:
    step = {"type": "step", "surrogate": "straight_through"}
    layers = {"type": "dense", "name": "gate", "units": 2, "activation": step}, {"type": "dense", "units": 1}
    answer = answered(post, {"network": network(*layers), "inputs": [[1, 2]], "targets": [[1]], "loss": "mse"}, PATH)
    assert answer["verdict"] == "right"
    assert ("declared_slope", "gate") in [(each["code"], each.get("layer")) for each in answer["warnings"]]


def test_what_is_not_finite_is_undefined(post: Post) -> None:
    answer = answered(post, {"expression": "sqrt(x)", "point": [0]}, PATH)
    assert answer["verdict"] == "undefined" and answer["finite"] is False and answer["checks"] == []


@every("expression", ["1e300*x^2", "exp(x)", "x^9", "1e-300*x", "sin(1e9*x)", "x/(1 + x^2)"])
@every("point", [1e-9, 1.0, 700.0, 1e100])
def test_every_answer_is_json_whatever_the_scale(post: Post, expression: str, point: float) -> None:
    body = {"expression": expression, "point": [point]}
    assert answered(post, body, PATH)["verdict"] in (
        "right",
        "undefined",
        "unsure" if "1e-300" in expression else "right",
    )
    assert answered(post, body | {"claimed": [1e200], "steps": [1e100, 1.0, 1e-300]}, PATH)["verdict"] in (
        "wrong",
        "undefined",
    )


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "#/network", "or an expression"),
    (SADDLE | {"claimed": {"z": 1}}, "#/claimed/z", "is no variable"),
    (SADDLE | {"claimed": {"x": [1]}}, "#/claimed/x", "takes a number"),
    (SADDLE | {"claimed": [1]}, "#/claimed", "[x, y]"),
    (SADDLE | {"claimed": {}}, "#/claimed", "claims nothing"),
    (xor(targets=...), "#/targets", "is required"),
    (xor(claimed={"hiden": {"kernel": [1]}}), "#/claimed/hiden", "did you mean 'hidden'"),
    (xor(claimed={"hidden": {"kernel": [[1, 2]]}}), "#/claimed/hidden/kernel", "it takes [2, 2]"),
    (xor(claimed={"hidden": {"weight": [1]}}), "#/claimed/hidden/weight", "kernel"),
    (xor(claimed={}), "#/claimed", "claims nothing"),
    (xor(claimed=[1, 2]), "#/claimed", "a tensor came"),
    (xor(claimed={"hidden": [1]}), "#/claimed/hidden", "{parameter: tensor}"),
    (xor(claimed={"hidden": {"bias": ["a", 1]}}), "#/claimed/hidden/bias/0", "number"),
    (xor(steps=[]), "#/steps", "list of numbers"),
    (xor(steps=[0]), "#/steps/0", "at least"),
    (xor(steps=[1e200]), "#/steps", "between"),
    (xor(steps=[0.1] * 101), "#/steps", "100"),
    (xor(tolerance=-1), "#/tolerance", "at least 0"),
    (xor(include=["layers"]), "#/include", "unknown key"),
]


@every(("body", "pointer", "words"), WRONG)
def test_what_is_wrong_is_told_at_its_place(post: Post, body: dict[str, Any], pointer: str, words: str) -> None:
    document = assert_problem(post(body, PATH), "invalid")
    assert words in next(error["detail"] for error in document["errors"] if error["pointer"] == pointer)


def test_a_network_without_trained_parameters_has_no_gradient_to_check(post: Post) -> None:
    body = {"network": network({"type": "flatten"}), "inputs": [[1, 2]], "targets": [[1, 2]], "loss": "mse"}
    document = assert_problem(post(body, PATH), "invalid")
    assert list(faults(document)) == ["#/network"]


def test_a_check_stops_at_the_deadline(make_client: MakeClient) -> None:
    dense = {"type": "dense", "units": 300, "activation": "tanh"}
    body = {"network": network(dense, dense), "inputs": [[0.1] * 300], "targets": [[0] * 300], "loss": "mse"}
    assert_problem(make_client(max_seconds=0.01).post(PATH, json=body), "deadline-exceeded")
