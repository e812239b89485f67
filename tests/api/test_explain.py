"""`/v1/gradients/explain` as a caller meets it: languages, choices, what is refused and how."""

import re
from typing import Any

import pytest

from service.api.insight_examples import EXPLAIN
from tests.conftest import Post
from tests.support import assert_problem, every, faults, xor

PATH = "/v1/gradients/explain"
CODE = re.compile(r"`[^`]*`")
LATIN = re.compile(r"[A-Za-z]{2,}")


def sentences(answer: dict[str, Any]) -> list[str]:
    """Return everything in an answer that is a sentence."""
    found = [step["text"] for step in answer["steps"]]
    for meaning in answer["meanings"]:
        found += [meaning["text"], *(reason["text"] for reason in meaning["reasons"])]
    return found + [warning["message"] for warning in answer["warnings"]]


@every("name", EXPLAIN)
def test_both_languages_tell_the_same_derivation(post: Post, name: str) -> None:
    english, chinese = (post(EXPLAIN[name] | {"language": language}, PATH).json for language in ("en", "zh"))
    assert len(sentences(english)) == len(sentences(chinese))
    for text in sentences(english):
        assert re.fullmatch(r"[^\u4e00-\u9fff]+\.", text), text
    for text in sentences(chinese):
        assert text.endswith("。")
        assert not LATIN.search(CODE.sub("", text)), text
        assert re.search(r"[\u4e00-\u9fff]", text)
    for answer in (english, chinese):
        del answer["language"], answer["warnings"]
        for meaning in answer["meanings"]:
            del meaning["text"]
            for reason in meaning["reasons"]:
                del reason["text"]
        for step in answer["steps"]:
            del step["text"]
    assert english == chinese


@every(("header", "field", "language"), [("zh-CN, en;q=0.5", None, "zh"), ("zh", "en", "en"), ("", None, "en")])
def test_the_request_chooses_the_language_else_the_header(
    post: Post, header: str, field: str | None, language: str
) -> None:
    body = xor(parameter="output.bias[0]") | ({"language": field} if field else {})
    response = post(body, PATH, Accept_Language=header)
    assert response.headers["Content-Language"] == response.json["language"] == language
    assert "Accept-Language" in response.headers.getlist("Vary")
    assert "Content-Language" not in post(xor()).headers


def test_gradients_and_loss_are_those_of_the_gradients_endpoint(post: Post) -> None:
    explained, plain = post(xor(), PATH).json, post(xor()).json
    assert explained["loss"] == plain["loss"]
    assert len(explained["meanings"]) == 9
    for meaning in explained["meanings"]:
        layer, rest = meaning["parameter"].split(".")
        name, *index = rest.replace("]", "").split("[")
        value = plain["gradients"][layer][name]
        for place in index:
            value = value[int(place)]
        assert meaning["gradient"] == pytest.approx(value, rel=1e-14)
        assert meaning["updated"] == pytest.approx(meaning["value"] - 0.1 * value, rel=1e-15)
        step = next(step for step in explained["steps"] if step["id"] == meaning["step"])
        assert step["value"] == meaning["gradient"]


def test_what_steps_use_is_there_once(post: Post) -> None:
    for body in EXPLAIN.values():
        answer = post(body, PATH).json
        names = [each["id"] for each in (*answer["steps"], *answer["quantities"])]
        assert len(set(names)) == len(names)
        assert {name for step in answer["steps"] for name in step["uses"]} <= set(names)


def test_the_same_request_gives_the_same_bytes(post: Post) -> None:
    body = xor(parameters=..., seed=4, dtype="float32")
    first, second = (post(body, PATH) for _ in range(2))
    assert first.get_data() == second.get_data()
    assert set(first.json["parameters"]) == {"hidden", "output"}
    assert "parameters" not in post(body | {"exclude": ["parameters"]}, PATH).json


@every(
    ("change", "pointer", "detail"),
    [
        ({"parameter": "hiden.kernel"}, "#/parameter", "did you mean 'hidden'?"),
        ({"parameter": "hidden.weight"}, "#/parameter", "kernel"),
        ({"parameter": "hidden.kernel[2][0]"}, "#/parameter", "index 2 is out of range"),
        ({"parameter": "hidden.kernel[0][0][0]"}, "#/parameter", "has shape [2, 2]"),
        ({"parameter": "hidden.kernel[-1]"}, "#/parameter", "takes an integer from 0 to 1"),
        ({"parameter": {"hidden": {}}}, "#/parameter", "takes a path"),
        ({"parameter": "x" * 300}, "#/parameter", "at most 256 characters"),
        ({"sample": 4}, "#/sample", "from 0 to 3, got 4"),
        ({"sample": -1}, "#/sample", "at least 0"),
        ({"depth": 0}, "#/depth", "at least 1"),
        ({"convention": "mine"}, "#/convention", "'standard', 'heaton'"),
        ({"language": "de"}, "#/language", "'en', 'zh'"),
        ({"include": ["layers"]}, "#/include", "unknown key"),
        ({"targets": [[0], [1], [1]]}, "#/targets", "they take [4, 1]"),
        # A fault of all samples names the shapes of all, also when one sample is asked for.
        ({"targets": [[0], [1], [1]], "sample": 1}, "#/targets", "targets have shape [3, 1]; they take [4, 1]"),
        ({"targets": [[0], [1], [1]], "sample": 3}, "#/targets", "targets have shape [3, 1]; they take [4, 1]"),
        ({"targets": [0, 1, 1, 0], "sample": 3}, "#/targets", "targets have shape [4]; they take [4, 1]"),
        ({"sample_weights": [1, 2, 3], "sample": 1}, "#/sample_weights", "has shape [3]; it takes [4]"),
        ({"sample_weights": [1, 2, 3], "sample": 3}, "#/sample_weights", "has shape [3]; it takes [4]"),
        ({"inputs": [[0, 0]] * 300, "targets": [[0]] * 300, "parameter": "output.bias"}, "#/depth", "of at most 4"),
        ({"inputs": [[0, 0]] * 300, "targets": [[0]] * 300}, "#/parameter", "name a single 'parameter'"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_possible(
    post: Post, change: dict[str, Any], pointer: str, detail: str
) -> None:
    document = assert_problem(post(xor(**change), PATH), "invalid")
    assert detail in faults(document)[pointer]


def test_parameters_that_are_not_trained_or_another_layers_have_no_gradient(post: Post) -> None:
    layers = [
        {"type": "dense", "name": "first", "units": 2, "trainable": False},
        {"type": "dense", "name": "second", "units": 2},
        {"type": "dense", "name": "third", "units": 2, "shares": "second"},
    ]
    body = xor(network={"layers": layers}, parameters=..., targets=[[0, 0]] * 4)
    for path, detail in (("first.kernel", "is not trained"), ("third.kernel", "the parameters of layer 'second'")):
        document = assert_problem(post(body | {"parameter": path}, PATH), "invalid")
        assert detail in faults(document)["#/parameter"]
    for layer in layers:
        layer["trainable"] = False
    del layers[2]
    document = assert_problem(post(body, PATH), "invalid")
    assert "no parameters that are trained" in faults(document)["#/network"]


def test_a_value_that_is_not_finite_is_null_and_named(post: Post) -> None:
    layers = [{"type": "dense", "name": "steep", "units": 1, "activation": "exponential"}]
    body = {
        "network": {"layers": layers},
        "parameters": {"steep": {"kernel": [[1000]], "bias": [0]}},
        "inputs": [[1]],
        "targets": [[0]],
        "loss": "mse",
        "language": "zh",
    }
    answer = post(body, PATH).json
    assert answer["finite"] is False
    (warning,) = answer["warnings"]
    assert warning["code"] == "non_finite"
    assert warning["quantity"] == "a:steep[0][0]"
    step = next(step for step in answer["steps"] if step["id"] == warning["quantity"])
    assert step["value"] is None
    assert step["numbers"].endswith(r"= \infty")
