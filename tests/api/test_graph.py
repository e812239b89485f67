"""`/v1/graph`: what a caller gets for what they send."""

import json
import re
from typing import Any

from service.api.insight_examples import GRAPH
from tests.conftest import Post
from tests.support import answered, assert_problem, every, faults, network, strict_json, xor

PATH = "/v1/graph"
SADDLE = {"expression": "x^2 - y^2", "point": [3, 1]}


def test_the_gradients_are_those_of_the_gradients_endpoint(post: Post) -> None:
    answer, expected = answered(post, xor(), PATH), strict_json(post(xor()).get_data())
    values = {node["name"]: node["value"] for node in answer["nodes"]}
    assert values[answer["results"]["loss"]] == expected["loss"]
    assert values[answer["results"]["outputs"]["output"]] == expected["outputs"]
    for name, node in answer["results"]["gradients"].items():
        layer, parameter = name.split(".")
        assert values[node] == expected["gradients"][layer][parameter]


def test_every_line_of_the_code_is_a_node(post: Post) -> None:
    answer = answered(post, xor(), PATH)
    lines = answer["code"].splitlines()
    assert len(lines) == len(answer["nodes"])
    edges = {(edge["source"], edge["target"]) for edge in answer["edges"]}
    known = {each["name"] for each in answer["operations"]}
    for line, node in zip(lines, answer["nodes"], strict=True):
        head = re.fullmatch(r"(%\d+) = (\w+)\(([^#]*)\)(?: +# (.*))?", line)
        assert head is not None, line
        assert head[1] == node["name"] and head[2] == node["operation"] and head[2] in known
        assert re.findall(r"%\d+", head[3]) == node["inputs"]
        assert (head[4] or "") == node.get("text", node.get("layer", ""))
        assert {(source, node["name"]) for source in node["inputs"]} <= edges
    grouped = {name for group in answer["groups"] for name in group["nodes"]}
    assert grouped == {node["name"] for node in answer["nodes"] if "layer" in node}


def test_deltas_and_gradients_are_named(post: Post) -> None:
    text = answered(post, xor(), PATH)["code"]
    for words in ("hidden, pre-activation", "delta of hidden", "gradient of output.kernel", "the loss"):
        assert text.count(f"# {words}\n") == 1


@every(("language", "header"), [("zh", None), (None, "zh-CN,zh;q=0.9")])
def test_comments_are_in_the_language_of_the_caller(post: Post, language: str | None, header: str | None) -> None:
    body = xor() | ({"language": language} if language else {})
    answer = answered(post, body, PATH, **({"Accept-Language": header} if header else {}))
    assert "# hidden,激活前的值\n" in answer["code"] and "on the way back" not in answer["code"]


def test_values_may_be_left_out(post: Post) -> None:
    answer = answered(post, xor(values=False), PATH)
    assert not any("value" in node or "adjoint" in node for node in answer["nodes"])
    assert answer["code"] == answered(post, xor(), PATH)["code"]


def test_a_forward_pass_has_a_graph_without_a_loss(post: Post) -> None:
    answer = answered(post, xor(targets=..., loss=...), PATH)
    assert {node["phase"] for node in answer["nodes"]} == {"forward"}
    assert answer["results"] == {"outputs": {"output": "%12"}, "gradients": {}}


def test_input_gradients_are_there_when_they_are_asked_for(post: Post) -> None:
    answer = answered(post, xor(include=["input_gradients"]), PATH)
    values = {node["name"]: node["value"] for node in answer["nodes"]}
    expected = strict_json(post(xor(include=["input_gradients"])).get_data())
    assert values[answer["results"]["gradients"]["input"]] == expected["input_gradients"]


def test_initialised_parameters_are_answered(post: Post) -> None:
    assert set(answered(post, xor(parameters=...), PATH)["parameters"]) == {"hidden", "output"}


def test_what_is_not_finite_is_null_and_told(post: Post) -> None:
    answer = answered(post, {"expression": "log(x)", "point": [0]}, PATH)
    assert answer["finite"] is False
    assert [warning["code"] for warning in answer["warnings"]] == ["non_finite"]
    assert answer["nodes"][1]["value"] is None


def test_a_step_that_blocks_the_gradient_is_told(post: Post) -> None:
    body = {
        "network": network({"type": "dense", "units": 2, "activation": "step"}, {"type": "dense", "units": 1}),
        "inputs": [[1]],
        "targets": [[1]],
        "loss": "mse",
    }
    assert "gradient_blocked" in [warning["code"] for warning in answered(post, body, PATH)["warnings"]]


def test_a_large_graph_is_collapsed_and_too_many_numbers_are_refused(post: Post) -> None:
    dense = {"type": "dense", "units": 600}
    body = {"network": network(dense, dense), "inputs": [[1] * 600], "targets": [[0] * 600], "loss": "mse"}
    answer = answered(post, body, PATH)
    assert answer["detail"] == "layers" and "code" not in answer and answer["groups"] == []
    assert [warning["code"] for warning in answer["warnings"]] == ["collapsed"]
    document = assert_problem(post(body | {"detail": "operations"}, PATH), "invalid")
    (pointer,) = faults(document)
    assert pointer == "#/values" and "set values to false" in document["detail"]
    assert len(answered(post, body | {"detail": "operations", "values": False}, PATH)["code"].splitlines()) > 20


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "#/network", "or an expression"),
    ({"expression": "x"}, "#/point", "is required"),
    ({"expression": "x*y", "point": [1]}, "#/point", "[x, y]"),
    ({"expression": "3", "point": [1]}, "#/expression", "no variables"),
    (SADDLE | {"loss": "mse"}, "#/loss", "no use beside an expression"),
    (SADDLE | {"dtype": "float32"}, "#/dtype", "no use beside an expression"),
    (SADDLE | {"network": GRAPH["xor"]["network"]}, "#/expression", "send one of them"),
    (xor(point=[1]), "#/point", "no use beside a network"),
    (xor(inputs=...), "#/inputs", "is required"),
    (xor(targets=...), "#/targets", "is required"),
    (xor(loss=...), "#/loss", "is required"),
    (xor(detail="nodes"), "#/detail", "operations"),
    (xor(include=["svg"]), "#/include/0", "svg"),
    (xor(include=["layers"]), "#/include/0", "layers"),
]


@every(("body", "pointer", "words"), WRONG)
def test_what_is_wrong_is_told_at_its_place(post: Post, body: dict[str, Any], pointer: str, words: str) -> None:
    for _ in range(2):  # a recipe that came before is recognised
        document = assert_problem(post(body, PATH), "invalid")
        assert words in next(error["detail"] for error in document["errors"] if error["pointer"] == pointer)


def test_a_recipe_that_came_before_still_needs_its_numbers(post: Post) -> None:
    answered(post, SADDLE, PATH)
    assert faults(assert_problem(post({"expression": "x^2 - y^2"}, PATH), "invalid"))
    answered(post, xor(), PATH)
    assert faults(assert_problem(post(xor(inputs=...), PATH), "invalid"))


def test_the_graph_of_the_calculus_endpoint_is_made_of_the_same_parts(post: Post, schemas: dict[str, Any]) -> None:
    for name in ("ComputationGraph", "GraphResponse"):
        properties = schemas[name]["properties"]
        assert json.dumps(properties["nodes"]["items"]) == '{"$ref": "#/components/schemas/GraphNode"}'


def test_numbers_at_the_end_of_the_range_are_told(post: Post) -> None:
    """Their squares overflow, which is no news of its own: warnings are errors here."""
    answer = answered(post, {"expression": "x + y", "point": [1.7976931348623157e308, 1]}, PATH)
    assert answer["finite"] and answer["nodes"][0]["value"] == 1.7976931348623157e308
    layers = {"type": "dense", "name": "line", "units": 1}
    body = {"network": network(layers), "parameters": {"line": {"kernel": [[1.7e308], [1]], "bias": [0]}}}
    assert answered(post, body | {"inputs": [[0, 1]], "targets": [[1]], "loss": "half_squared_error"}, PATH)["finite"]
