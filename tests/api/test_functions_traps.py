"""Wrong and odd requests to `/v1/functions/…`: each is refused where it is wrong, in words that teach."""

import json
import time
from typing import Any

import numpy as np
import pytest

from service.api.examples import DESCEND, FIT, FUNCTION_GRADIENT, STATIONARY, SURFACE
from service.engine.functions.expression import LONGEST_EXPRESSION
from tests.api.test_functions_gradient import answered, assert_no_silent_null
from tests.conftest import Post
from tests.engine.functions.hostile import FIXED, hostile_expressions
from tests.support import assert_problem, every, faults, places_in_turn, replaced, resolves, strict_json

BASE: dict[str, dict[str, Any]] = {
    "gradient": {"expression": "x^2 + y^2", "points": [[1, 2]], "directions": [[1, 0]]},
    "stationary": {"expression": "x^2 + y^2", "box": [[-1, 1], [-2, 2]], "starts": 9},
    "descend": {
        "expression": "x^2 + y^2",
        "starts": [[1, 2]],
        "optimizers": [{"type": "sgd", "learning_rate": 0.1}],
        "steps": 3,
    },
    "surface": {"expression": "x^2 + y^2", "x": [0, 1], "y": [0, 2], "resolution": 3},
    "fit": {"points": [[1, 2], [2, 3], [3, 5]], "steps": 3},
}
HUGE = 10**400
SGD = {"type": "sgd", "learning_rate": 0.1}


def body_of(name: str, **changes: Any) -> dict[str, Any]:
    """Return a small request, with some keys changed; `...` leaves one out."""
    return {key: value for key, value in (BASE[name] | changes).items() if value is not ...}


def refused(post: Post, name: str, **changes: Any) -> dict[str, str]:
    """Return the detail of each fault in a refused request, by its place."""
    body = body_of(name, **changes)
    started = time.process_time()
    document = assert_problem(post(body, f"/v1/functions/{name}"), "invalid", body)
    assert time.process_time() - started < 2.0
    return faults(document)


@every("name", BASE)
def test_the_requests_below_are_right_but_for_one_thing(post: Post, name: str) -> None:
    assert_no_silent_null(answered(post, BASE[name], f"/v1/functions/{name}"))


# Keys.


@every(
    ("name", "key", "words"),
    [
        ("gradient", "expresion", "did you mean 'expression'?"),
        ("gradient", "point", "did you mean 'points'?"),
        ("gradient", "direction", "did you mean 'directions'?"),
        ("gradient", "variable", "did you mean 'variables'?"),
        ("stationary", "boxes", "did you mean 'box'?"),
        ("descend", "start", "did you mean 'starts'?"),
        ("descend", "learning_rate", "it belongs into 'optimizers'"),
        ("descend", "optimizer", "it belongs into 'optimizers'"),
        ("descend", "every", "it belongs into 'trace'"),
        ("descend", "seed", "it belongs into 'noise'"),
        ("descend", "value_above", "it belongs into 'stop'"),
        ("descend", "gradient_norm_below", "it belongs into 'stop'"),
        ("descend", "schedules", "did you mean 'schedule'?"),
        ("surface", "learning_rate", "it belongs into 'optimizer'"),
        ("surface", "optimizers", "it belongs into 'optimizer'"),
        ("surface", "level", "did you mean 'levels'?"),
        ("fit", "learning_rate", "it belongs into 'optimizers'"),
        ("fit", "optimizer", "it belongs into 'optimizers'"),
        ("fit", "expression", "unknown key"),
        ("fit", "starts", "did you mean 'start'?"),
    ],
)
def test_unknown_keys(post: Post, name: str, key: str, words: str) -> None:
    told = refused(post, name, **{key: 1})
    assert set(told) == {f"#/{key}"} and words in told[f"#/{key}"]


@every(
    ("name", "key", "value", "pointer", "words"),
    [
        ("descend", "stop", {"value_belw": 1}, "#/stop/value_belw", "did you mean 'value_below'?"),
        ("descend", "stop", {"loss_below": 1}, "#/stop/loss_below", "did you mean 'value_below'?"),
        ("descend", "trace", {"evry": 1}, "#/trace/evry", "did you mean 'every'?"),
        ("descend", "noise", {"scale": 1, "sed": 1}, "#/noise/sed", "did you mean 'seed'?"),
        ("descend", "clip", {"nrm": 1}, "#/clip/nrm", "did you mean 'norm'?"),
        ("descend", "starts", {"gird": {"box": [0, 1]}}, "#/starts/gird", "did you mean 'grid'?"),
        ("descend", "starts", {"grid": {"bx": [0, 1], "box": [0, 1]}}, "#/starts/grid/bx", "did you mean 'box'?"),
        ("descend", "starts", {"random": {"cout": 3, "box": [0, 1]}}, "#/starts/random/cout", "did you mean 'count'?"),
        ("descend", "optimizers", [{"type": "sdg"}], "#/optimizers/0/type", "did you mean 'sgd'?"),
        ("descend", "optimizers", ["adm"], "#/optimizers/0", "did you mean 'adam'?"),
        ("descend", "optimizers", [{"type": "sgd", "lr": 1}], "#/optimizers/0/lr", "unknown key"),
        ("descend", "schedule", "cosin", "#/schedule", "did you mean 'cosine'?"),
        ("gradient", "include", ["hesian"], "#/include/0", "did you mean 'hessian'?"),
        ("surface", "include", ["gradient"], "#/include/0", "did you mean 'gradients'?"),
        ("descend", "trace", {"include": ["gradient"]}, "#/trace/include/0", "did you mean 'gradients'?"),
        ("fit", "loss", "mse", "#/loss", "mean_squared_error"),
    ],
)
def test_words_that_are_not_known(post: Post, name: str, key: str, value: Any, pointer: str, words: str) -> None:
    told = refused(post, name, **{key: value})
    assert set(told) == {pointer} and words in told[pointer]


@every(
    ("name", "key"),
    [
        ("gradient", "expression"), ("gradient", "points"), ("stationary", "expression"), ("stationary", "box"),
        ("descend", "expression"), ("descend", "starts"), ("descend", "optimizers"), ("surface", "expression"),
        ("surface", "x"), ("fit", "points"),
    ],
)  # fmt: skip
def test_required_keys(post: Post, name: str, key: str) -> None:
    assert refused(post, name, **{key: ...}) == {f"#/{key}": "is required"}


KEYS = {
    "gradient": ("expression", "points", "variables", "directions", "tolerance", "include"),
    "stationary": ("expression", "box", "variables", "starts"),
    "descend": ("expression", "starts", "variables", "optimizers", "steps", "schedule", "clip", "noise", "stop",
                "trace", "valley_radius"),
    "surface": ("expression", "x", "y", "variables", "resolution", "axes", "at", "include", "levels", "basins",
                "optimizer", "steps", "schedule", "clip", "valley_radius"),
    "fit": ("points", "loss", "variables", "start", "optimizers", "steps", "trace"),
}  # fmt: skip
WRONG: tuple[Any, ...] = (
    None, True, "", "so many?", [], {}, [[]], [None], [True], ["1", "2"], -1, -1.5, HUGE, -HUGE, 2**63, 1e999,
    float("nan"), [1, [2]], [[1, 2], [3]], {"base64": "x"}, {"a": 1}, [[[1]]], [1, 2, 3], {"type": 5}, {"grid": 1},
    {"random": []},
)  # fmt: skip
RIGHT = {
    ("include", "[]"), ("valley_radius", str(2**63)), ("tolerance", str(2**63)), ("stop", "{}"),
    ("trace", "{}"),
}  # fmt: skip
"""Values of `WRONG` that these keys take."""


KEY_OF_EACH = [(name, key) for name, keys in KEYS.items() for key in keys]


@every(("name", "key"), KEY_OF_EACH)
def test_every_key_refuses_what_it_does_not_take(post: Post, name: str, key: str) -> None:
    first = KEY_OF_EACH.index((name, key))
    for number, value in enumerate(WRONG, first):
        body = body_of(name, **{key: value})
        # Either parser reads half of the values for each key, and each value for half of the keys.
        padding = b" " * 40_000 * (number % 2)
        response = post(json.dumps(body).encode() + padding, f"/v1/functions/{name}")
        if isinstance(value, float) and not np.isfinite(value):
            assert_problem(response, "malformed-body")
            continue
        if response.status_code == 200:
            assert (key, str(value)) in RIGHT, (key, value)
            continue
        assert (key, str(value)) not in RIGHT, response.text
        kind = strict_json(response.get_data())["type"].removeprefix("/problems/")
        document = assert_problem(response, kind, body)
        if kind == "malformed-body":  # a number that no parser reads
            assert value in (HUGE, -HUGE)
            continue
        assert kind == "invalid", document
        # Basins are right, but take an optimizer.
        wrong = "optimizer" if (key, value) == ("basins", True) else key
        assert any(pointer.startswith(f"#/{wrong}") for pointer in faults(document)), document


@every("name", BASE)
def test_many_wrong_keys_are_told_at_once(post: Post, name: str) -> None:
    body = dict.fromkeys(KEYS[name])
    document = assert_problem(post(body, f"/v1/functions/{name}"), "invalid", body)
    assert set(faults(document)) == {f"#/{key}" for key in KEYS[name]}


# Points.


@every(("name", "key"), [("gradient", "points"), ("gradient", "directions"), ("descend", "starts")])
@every(
    ("value", "pointer", "words"),
    [
        ([1, 2], "", "a list of lists of 2 numbers each, [x, y]"),
        (3, "", "tensor of shape []"),
        ([[1, 2, 3]], "", "tensor of shape [1, 3]"),
        ([[[1, 2]]], "", "tensor of shape [1, 1, 2]"),
        ([], "", "empty"),
        ([[1, 2], [3]], "/1", ""),
        ([[1, 2], [3, "4"]], "/1/1", '"4"'),
        ([[1, 2], [3, None]], "/1/1", "null"),
        ([[1, True]], "/0/1", "true"),
        ({"dtype": "float64", "shape": [1, 3], "base64": "AAAAAAAA8D8AAAAAAADwPwAAAAAAAPA/"}, "", "shape [1, 3]"),
        ({"dtype": "float64", "shape": [1, 2], "base64": "AAAAAAAA+H8AAAAAAADwPw=="}, "/base64", "finite"),
    ],
)  # fmt: skip
def test_points_of_the_wrong_shape(post: Post, name: str, key: str, value: Any, pointer: str, words: str) -> None:
    told = refused(post, name, **{key: value})
    assert set(told) == {f"#/{key}{pointer}"} and words in told[f"#/{key}{pointer}"]


def test_points_of_one_variable(post: Post) -> None:
    told = refused(post, "gradient", expression="t^2", points=[[1, 2]], directions=...)
    assert "lists of one number each, [t]" in told["#/points"]
    told = refused(post, "gradient", expression="t^2", points=5, directions=...)
    assert "shape []" in told["#/points"]


@every(
    ("name", "key", "rows"),
    [("gradient", "points", 10_001), ("gradient", "directions", 361), ("descend", "starts", 50_001)],
)
def test_too_many_points(post: Post, name: str, key: str, rows: int) -> None:
    told = refused(post, name, **{key: [[1, 2]] * rows})
    assert told == {f"#/{key}": f"takes at most {rows - 1:,} of them; got {rows:,}"}
    assert "10,000" in refused(post, "fit", points=[[x, x] for x in range(10_001)])["#/points"]


def test_directions_of_no_length(post: Post) -> None:
    for dtype_zero in (0, 0.0, -0.0):
        told = refused(post, "gradient", directions=[[1, 0], [dtype_zero, 0]])
        assert set(told) == {"#/directions/1"} and "length 0" in told["#/directions/1"]
    many = [[1, 0]] * 99 + [[0, 0]] + [[1.5, 0]] * 100
    body = body_of("gradient", directions=many)
    document = assert_problem(
        post(json.dumps(body).encode() + b" " * 40_000, "/v1/functions/gradient"), "invalid", body
    )
    assert set(faults(document)) == {"#/directions/99"}


@every("directions", [[[1e308, 1e308]], [[5e-324, 0]], [[1e-200, 1e-200]], [[1e308, -1e-308], [1, 1]], [[1e200, 1]]])
def test_directions_of_extreme_length(post: Post, directions: list[list[float]]) -> None:
    body = body_of("gradient", directions=directions)
    (entry,) = answered(post, body, "/v1/functions/gradient")["points"]
    for (x, y), derivative in zip(directions, entry["directional_derivative"], strict=True):
        size = max(abs(x), abs(y))
        unit = np.array([x / size, y / size])
        assert derivative == pytest.approx(unit @ [2, 4] / np.linalg.norm(unit), rel=1e-9)


@every("expression", ["sqrt(x) + y", "1/x + y^2", "log(x*y)", "x^0.5*y^0.5", "1e308*x^9 - y"])
@every("point", [[0, 1], [0, 0], [1e300, 2], [-1, 1]])
def test_directions_where_slopes_are_infinite(post: Post, expression: str, point: list[float]) -> None:
    body = body_of("gradient", expression=expression, points=[point], directions=[[1, 0], [0, 1], [1, 1]])
    assert_no_silent_null(answered(post, body, "/v1/functions/gradient"))


# Expressions.


@every("name", sorted(set(BASE) - {"fit"}))
@every(
    ("expression", "words"),
    [
        ("x^2 + ", "at column 7"),
        ("x^2 + y)", "at column 8"),
        ("sin x + y", "at column 1"),
        ("x ? y", "at column 3"),
        ("x + y = 3", "at column 7"),
        ("foo(x) + y", "at column 1"),
        ("1.2.3 + x*y", "at column"),
        ("max(x) + y", "takes 2 arguments"),
        ("", "empty"),
        ("   ", "empty"),
        ("x + " * 600 + "y", f"allowed are {LONGEST_EXPRESSION:,}"),
        ("(" * 60 + "x*y" + ")" * 60, "deep"),
        ("x+" * 300 + "y", "operations"),
        (" + ".join(f"v{number}" for number in range(21)), "variables"),
    ],
)  # fmt: skip
def test_expressions_that_cannot_be_read(post: Post, name: str, expression: str, words: str) -> None:
    told = refused(post, name, expression=expression)
    assert set(told) == {"#/expression"} and words in told["#/expression"]


@every("name", sorted(set(BASE) - {"fit"}))
def test_expressions_without_variables(post: Post, name: str) -> None:
    told = refused(post, name, expression="3 + pi")
    assert "has no variables" in told["#/expression"]
    assert answered(post, body_of(name, expression="3", variables=["x", "y"]), f"/v1/functions/{name}")


@every("name", sorted(set(BASE) - {"fit"}))
@every(
    ("variables", "pointer", "words"),
    [
        (["x", "y", "x"], "/2", "listed twice"),
        (["x", "y", "sin"], "/2", "function"),
        (["pi", "x", "y"], "/0", "constant"),
        (["e", "x", "y"], "/0", "constant"),
        (["x", "y", "1z"], "/2", "no name"),
        (["x", "y", ""], "/2", "no name"),
        (["x", "y", "z" * 32], "/2", "32 characters"),
        (["θ", "theta", "x", "y"], "/1", "listed twice"),
        (["x", "y", 3], "", "names"),
        ([f"v{number}" for number in range(19)] + ["x", "y"], "/20", "allowed are 20"),
        ([], "", "1 to 20 names"),
        ("x, y", "", "1 to 20 names"),
        ({"x": 1}, "", "1 to 20 names"),
    ],
)  # fmt: skip
def test_variables_that_are_none(post: Post, name: str, variables: Any, pointer: str, words: str) -> None:
    told = refused(post, name, variables=variables)
    assert f"#/variables{pointer}" in told and words in told[f"#/variables{pointer}"]


@every("name", sorted(set(BASE) - {"fit"}))
def test_variables_that_are_not_listed(post: Post, name: str) -> None:
    told = refused(post, name, variables=["x", "z"])
    assert set(told) == {"#/expression"} and "at column 7" in told["#/expression"]


OF_EXPRESSIONS = sorted(set(BASE) - {"fit"})


@every("name", OF_EXPRESSIONS)
def test_hostile_expressions(post: Post, name: str) -> None:
    """Hostile expressions are answered or refused at once: the fixed ones everywhere, the random ones at one endpoint
    each, since all endpoints read them alike."""
    several = list(hostile_expressions(5, 160))[len(FIXED) :]
    texts = [*FIXED, *several[OF_EXPRESSIONS.index(name) :: len(OF_EXPRESSIONS)]]
    for text in texts:
        body = body_of(name, expression=text)
        try:
            content = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            content = json.dumps(body).encode()
        started = time.process_time()
        response = post(content, f"/v1/functions/{name}")
        assert time.process_time() - started < 2.0, text
        assert response.status_code in (200, 400, 422), text
        strict_json(response.get_data())


@every(
    "expression",
    [
        "*".join(f"(x + {k}*y)" for k in range(1, 90)),
        "/".join(f"(x + {k}*y)" for k in range(1, 90)),
        "x^" * 40 + "y",
        "sin(" * 49 + "x*y" + ")" * 49,
        "exp(" * 49 + "x*y" + ")" * 49,
        "+".join(f"sin({k}x)*cos({k}y)" for k in range(1, 45)),
        "*".join(["sqrt(x^2 + y^2 + 1)"] * 40),
        "((((((x*y)^64)^64)^64)^64)^64)^64",
        "max(" * 49 + "x" + ", y)" * 49,
        "*".join("abcdefghijklmnopqrstuvwxyz"[:4] * 40) + "*x*y",
        "-" * 1500 + "x*y",
    ],
)
@every("name", sorted(set(BASE) - {"fit"}))
def test_bombs(post: Post, name: str, expression: str) -> None:
    """Expressions that grow when they are differentiated are answered or refused, and soon."""
    started = time.process_time()
    response = post(body_of(name, expression=expression), f"/v1/functions/{name}")
    assert time.process_time() - started < 4.0
    document = strict_json(response.get_data())
    if response.status_code == 200:
        if "finite" in document:
            assert_no_silent_null(document)
    else:
        assert response.status_code == 422, document
        assert document["errors"][0]["pointer"].startswith(("#/expression", "#/points", "#/starts", "#/box", "#/at"))


# Boxes, ranges and grids.


@every(
    ("value", "words"),
    [
        ([1, 0], "second is larger"),
        ([1, 1], "second is larger"),
        ([0], "[low, high]"),
        ([0, 1, 2], "[low, high]"),
        (5, "[low, high]"),
        ("0..1", "[low, high]"),
        ([0, 1e101], "1e+100"),
        ([-1e300, 1], "1e+100"),
        ([0, "1"], '"1"'),
        ([0, None], "null"),
        ([False, True], "number"),
    ],
)
@every("where", ["x", "y", "box", "one box", "grid", "random"])
def test_ranges(post: Post, where: str, value: Any, words: str) -> None:
    if where in ("x", "y"):
        told, path = refused(post, "surface", **{where: value}), f"#/{where}"
    elif where in ("box", "one box"):
        told, path = refused(post, "stationary", box=[[0, 1], value] if where == "box" else [value]), "#/box"
    else:
        told, path = refused(post, "descend", starts={where: {"box": [[0, 1], value]}}), f"#/starts/{where}/box"
    for pointer, detail in told.items():
        assert pointer.startswith(path) and (words in detail or "[low, high]" in detail)


@every(
    ("name", "changes", "pointer", "words"),
    [
        ("stationary", {"box": [[0, 1]] * 3}, "#/box", "one range or 2"),
        ("stationary", {"box": []}, "#/box", "[low, high]"),
        ("stationary", {"starts": 0}, "#/starts", "at least 1"),
        ("stationary", {"starts": 10_001}, "#/starts", "at most 10000"),
        ("descend", {"starts": {"grid": {"box": [[0, 1]] * 3}}}, "#/starts/grid/box", "one range or 2"),
        ("descend", {"starts": {"grid": {}}}, "#/starts/grid/box", "is required"),
        ("descend", {"starts": {}}, "#/starts", "{'grid': …}"),
        ("descend", {"starts": {"grid": {"box": [0, 1]}, "random": {"box": [0, 1]}}}, "#/starts", "{'grid': …}"),
        ("descend", {"starts": {"grid": {"box": [0, 1], "resolution": [1, 2, 3]}}}, "#/starts/grid/resolution",
         "one integer or 2"),
        ("descend", {"starts": {"grid": {"box": [0, 1], "resolution": 317}}}, "#/starts/grid/resolution", "100,489"),
        ("descend", {"starts": {"grid": {"box": [0, 1], "resolution": 2**62}}}, "#/starts/grid/resolution", "at most"),
        ("descend", {"starts": {"grid": {"box": [0, 1], "resolution": 0}}}, "#/starts/grid/resolution", "at least 1"),
        ("descend", {"starts": {"random": {"box": [0, 1], "count": 50_001}}}, "#/starts/random/count", "at most"),
        ("descend", {"starts": {"random": {"box": [0, 1], "count": 0}}}, "#/starts/random/count", "at least 1"),
        ("descend", {"starts": {"random": {"box": [0, 1], "seed": -1}}}, "#/starts/random/seed", "at least 0"),
        ("surface", {"resolution": 1}, "#/resolution", "at least 2"),
        ("surface", {"resolution": 1001}, "#/resolution", "at most 1000"),
        ("surface", {"resolution": [5, 2**62]}, "#/resolution", "at most 1000"),
        ("surface", {"resolution": [5, 5, 5]}, "#/resolution", "at most 2"),
        ("surface", {"resolution": 2.5}, "#/resolution", "integer"),
        ("surface", {"resolution": [3, 3], "y": ..., "axes": ["x"], "at": {"y": 1}}, "#/resolution", "one integer"),
        ("surface", {"levels": 101}, "#/levels", "at most 100"),
        ("surface", {"levels": -1}, "#/levels", "at least 0"),
        ("surface", {"y": ...}, "#/at", "must give a number for y"),
        ("surface", {"expression": "x^2"}, "#/y", "second axis"),
        ("surface", {"axes": ["x"]}, "#/axes", "as many names as there are ranges"),
        ("surface", {"axes": ["x", "z"]}, "#/axes", "'z' is no variable"),
        ("surface", {"axes": ["x", "x"]}, "#/axes/1", "listed twice"),
        ("surface", {"at": {"z": 1}}, "#/at/z", "no other variable"),
        ("surface", {"at": {"x": 1}}, "#/at/x", "no other variable"),
        ("surface", {"at": {"z": "1"}}, "#/at/z", "number"),
        ("surface", {"at": {"z": True}}, "#/at/z", "number"),
        ("surface", {"basins": True}, "#/optimizer", "required with basins"),
        ("surface", {"expression": "x + y + z", "basins": True}, "#/at", "must give a number for z"),
    ],
)  # fmt: skip
def test_boxes_and_grids(post: Post, name: str, changes: dict[str, Any], pointer: str, words: str) -> None:
    told = refused(post, name, **changes)
    assert pointer in told and words in told[pointer], told


# Optimizers.


@every("name", ["descend", "fit"])
@every(
    ("changes", "pointer", "words"),
    [
        ({"optimizers": "sgd"}, "#/optimizers", "list"),
        ({"optimizers": SGD}, "#/optimizers", "list"),
        ({"optimizers": []}, "#/optimizers", "list"),
        ({"optimizers": [SGD, None]}, "#/optimizers/1", ""),
        ({"optimizers": [{"learning_rate": 1}]}, "#/optimizers/0/type", "is required"),
        ({"optimizers": [SGD | {"learning_rate": -1}]}, "#/optimizers/0/learning_rate", "at least 0"),
        ({"steps": 0}, "#/steps", "at least 1"),
        ({"steps": 1.0}, "#/steps", "integer"),
        ({"steps": 10**13}, "#/steps", "at most"),
        ({"trace": {"every": 0}}, "#/trace/every", "at least 1"),
    ],
)
def test_optimizers(post: Post, name: str, changes: dict[str, Any], pointer: str, words: str) -> None:
    told = refused(post, name, **changes)
    assert set(told) == {pointer} and words in told[pointer], told


@every(
    ("changes", "pointer", "words"),
    [
        ({"schedule": "plateau"}, "#/schedule", "watches one loss"),
        ({"noise": {"scale": 1}, "optimizers": [SGD, "l_bfgs"]}, "#/optimizers/1", "noise"),
        ({"noise": {"scale": 1}, "optimizers": ["exact_line_search"]}, "#/optimizers/0", "noise"),
        ({"noise": {"scale": -1}}, "#/noise/scale", "at least 0"),
        ({"noise": {"scale": 1, "seed": 2**53}}, "#/noise/seed", ""),
        ({"noise": {}}, "#/noise/scale", "is required"),
        ({"clip": {"norm": 1}, "optimizers": [SGD, "newton"]}, "#/clip", "newton"),
        ({"clip": {"norm": 1, "value": 1}}, "#/clip", "not both"),
        ({"clip": {}}, "#/clip", "one of"),
        ({"clip": {"norm": 0}}, "#/clip/norm", "above 0"),
        ({"stop": {"gradient_norm_below": -1}}, "#/stop/gradient_norm_below", "at least 0"),
        ({"stop": {"value_below": "0"}}, "#/stop/value_below", "number"),
        ({"valley_radius": -1}, "#/valley_radius", "at least 0"),
        ({"schedule": {"type": "step_decay"}}, "#/schedule/decay_steps", "is required"),
    ],
)
def test_what_does_not_go_together(post: Post, changes: dict[str, Any], pointer: str, words: str) -> None:
    told = refused(post, "descend", **changes)
    assert set(told) == {pointer} and words in told[pointer], told


def test_basins_are_told_of_what_does_not_go_together_too(post: Post) -> None:
    basins: dict[str, Any] = {"basins": True, "optimizer": "newton"}
    assert set(refused(post, "surface", **basins, clip={"norm": 1})) == {"#/clip"}
    basins["optimizer"] = SGD
    assert set(refused(post, "surface", **basins, schedule="plateau")) == {"#/schedule"}
    body = body_of("surface", basins=True, optimizer="newton", resolution=32)
    document = assert_problem(post(body, "/v1/functions/surface"), "limit-exceeded", body)
    assert document["errors"][0]["asked"] == 1024 and document["errors"][0]["allowed"] == [1000]
    body = body_of("surface", basins=True, optimizer="adam", resolution=400)
    document = assert_problem(post(body, "/v1/functions/surface"), "limit-exceeded", body)
    assert document["errors"][0]["asked"] == 160_000
    for error in document["errors"]:
        # The request lacks it, so nothing can be mended there.
        assert error["pointer"].removeprefix("#/").split("/")[0] in {*body, ""}


@every(
    ("changes", "pointer", "words"),
    [
        ({"points": [[1, 2]]}, "#/points", "2 to 10,000"),
        ({"points": [1, 2]}, "#/points", "[x, y]"),
        ({"points": [[1, 2, 3], [4, 5, 6]]}, "#/points", "[x, y]"),
        ({"points": [[1, 2], [1, 3]]}, "#/points", "the same x"),
        ({"points": [[1e200, 2], [0, 3]]}, "#/points", "scale them"),
        ({"variables": ["w"]}, "#/variables", "two names"),
        ({"variables": ["w", "w"]}, "#/variables/1", "listed twice"),
        ({"variables": ["w", "e"]}, "#/variables/1", "constant"),
        ({"start": [1]}, "#/start", "two numbers"),
        ({"start": [[1, 2]]}, "#/start", "two numbers"),
        ({"start": 0}, "#/start", "two numbers"),
    ],
)
def test_lines(post: Post, changes: dict[str, Any], pointer: str, words: str) -> None:
    told = refused(post, "fit", **changes)
    assert set(told) == {pointer} and words in told[pointer], told


# Numbers that get out of hand on the way.


@every(
    "changes",
    [
        {"expression": "sqrt(x) + y", "starts": [[0, 0]]},
        {"expression": "1e200*x + y", "optimizers": ["adam"], "trace": {"include": ["state", "gradients"]}},
        {"expression": "1e308*x + 1e308*y", "trace": {"include": ["state", "gradients"]}, "optimizers": ["adam", SGD]},
        {"expression": "1e308*x + 1e308*y", "optimizers": ["newton", "l_bfgs"]},
        {"expression": "log(x)*y", "starts": [[-1, 1], [0, 1], [1, 1]]},
        {"expression": "exp(x*y)", "starts": [[30, 30]], "trace": {"include": ["state", "gradients"]}},
        {"expression": "x^2 + y", "starts": [[1e308, 1e308]], "optimizers": ["rmsprop", "momentum"]},
        {"expression": "x*y", "noise": {"scale": 1e308}, "optimizers": [SGD, "adam"]},
        {"expression": "x*y", "optimizers": [{"type": "sgd", "learning_rate": 1e308}]},
        {"expression": "1/x + y", "starts": [[5e-324, 0]], "clip": {"norm": 1}},
        {"expression": "log1p(sign(x)) + y", "starts": [[-1, 0]], "noise": {"scale": 9, "seed": 1}},
        {"expression": "(700*x + y)^2", "starts": [[1e154, 0]], "optimizers": ["newton"]},
        {"expression": "1e200*x + y", "optimizers": ["nadam"], "steps": 1, "trace": {"include": ["state"]}},
    ],
)
def test_descents_into_the_infinite(post: Post, changes: dict[str, Any]) -> None:
    assert_no_silent_null(answered(post, body_of("descend", **changes), "/v1/functions/descend"))


@every("start", [1e300, 1e308, -1.7e308])
@every("expression", ["3 + 0x", "3 + 0x + y^2", "step(x) + y^2"])
def test_valleys_far_away_are_numbers(post: Post, expression: str, start: float) -> None:
    body = body_of("descend", expression=expression, variables=["x", "y"], starts=[[start, 0]])
    answer = answered(post, body, "/v1/functions/descend")
    assert_no_silent_null(answer)
    (valley,) = answer["valleys"]
    assert valley["point"] == [start, 0] and valley["classification"] == "degenerate"
    body = body_of("surface", expression=expression, variables=["x", "y"], y=..., axes=["y"], at={"x": start})
    answer = answered(post, body | {"basins": True, "optimizer": SGD}, "/v1/functions/surface")
    assert_no_silent_null(answer)


@every("expression", ["sqrt(-1) + 0x", "log(0) + 0x", "log(sqrt(0))*x", "asin(2) + step(x)", "1/0 + x"])
def test_where_there_is_no_value_nothing_is_stationary(post: Post, expression: str) -> None:
    body = body_of("stationary", expression=expression, variables=["x"], box=[-1, 1])
    answer = answered(post, body, "/v1/functions/stationary")
    assert answer["points"] == [] and answer["counts"] == {}


@every(
    ("expression", "lowest"),
    [("1e18*(x - 0.3)^2", 0.3), ("(x - 1234567890.3)^2*1e9", 1234567890.3), ("1e12*(x^2 - 2)^2", 2**0.5)],
)
def test_points_as_stationary_as_numbers_allow_are_classified(post: Post, expression: str, lowest: float) -> None:
    """Next to a steep minimum no number has a gradient below the tolerance."""
    body = body_of("stationary", expression=expression, box=[lowest - 0.9, lowest + 7])
    answer = answered(post, body, "/v1/functions/stationary")
    assert answer["counts"] == {"minimum": 1}
    assert answer["points"][0]["point"] == [pytest.approx(lowest, rel=1e-12)]
    body = body_of("descend", expression=expression, starts=[lowest + 1], optimizers=["newton"], steps=20)
    answer = answered(post, body, "/v1/functions/descend")
    assert answer["valleys"][0]["classification"] == "minimum" and "minimum 0" in answer["runs"][0]["reason"]


@every("expression", ["min(exp(x), 1)", "sqrt(0) + x", "log(1e-320) + x", "x + step(exp(x))"])
@every("include", [["graph"], ["graph", "hessian"]])
def test_what_is_not_finite_in_a_graph_is_told(post: Post, expression: str, include: list[str]) -> None:
    body = {"expression": expression, "points": [1000], "include": include}
    answer = answered(post, body, "/v1/functions/gradient")
    assert answer["finite"] is False
    assert "non_finite" in [warning["code"] for warning in answer["warnings"]]


def test_lines_are_sought_from_far_away(post: Post) -> None:
    body = body_of("fit", points=[[1, 1], [2, 2]], start=[1e200, 0])
    answer = answered(post, body, "/v1/functions/fit")
    assert_no_silent_null(answer)
    assert answer["runs"][0]["status"] == "diverged"


def test_lines_through_points_with_large_numbers(post: Post) -> None:
    """Such as seconds since 1970: the curvatures of the loss differ by a factor of 1e36."""
    body = body_of("fit", points=[[1.7e9, 1], [1.7e9 + 1, 2], [1.7e9 + 2, 2]])
    optimum = answered(post, body, "/v1/functions/fit")["optimum"]
    assert optimum["slope"] == 0.5
    assert optimum["eigenvalues"][0] > 0 and optimum["condition_number"] == pytest.approx(1.253e37, rel=1e-3)


# Large bodies, whose numbers come as arrays.

MANY = np.random.default_rng(0).uniform(0.5, 1.5, (2000, 2)).tolist()


@every(
    ("name", "changes"),
    [
        ("gradient", {"points": MANY, "include": []}),
        ("gradient", {"points": [[1, 2]] * 70, "directions": [[1, 2]] * 70, "tolerance": 1, "include": ["graph"]}),
        ("gradient", {"variables": ["y", "x"]}),
        ("gradient", {"expression": "x^3", "points": list(range(100)), "directions": ...}),
        ("stationary", {"box": [-2, 2]}),
        ("stationary", {}),
        ("stationary", {"expression": "+".join(f"x{k}^2" for k in range(20)), "box": [[-1, 2]] * 20}),
        ("descend", {"starts": MANY}),
        ("descend", {"starts": {"grid": {"box": [[0, 1], [1, 2]], "resolution": [2, 3]}}}),
        ("descend", {"starts": {"random": {"box": [0, 1], "count": 70, "seed": 2**53 - 1}}}),
        ("descend", {"schedule": {"type": "multi_step", "milestones": list(range(1, 17))}}),
        ("descend", {"schedule": {"type": "piecewise_constant", "boundaries": list(range(1, 17)), "values": [1] * 17}}),
        ("descend", {"optimizers": [SGD] * 70, "noise": {"scale": 1, "seed": 7}, "trace": {"include": ["state"]}}),
        ("surface", {"resolution": [3, 4], "axes": ["y", "x"]}),
        ("surface", {"expression": "x + y*z", "at": {"z": 2}, "basins": True, "optimizer": SGD}),
        ("fit", {"points": MANY}),
        ("fit", {"start": [1, 2], "variables": ["w", "b"], "optimizers": ["adam"] * 70}),
    ],
)
def test_large_bodies_are_like_small_ones(post: Post, name: str, changes: dict[str, Any]) -> None:
    body = body_of(name, **changes)
    path = f"/v1/functions/{name}"
    short = json.dumps(body, separators=(",", ":")).encode()
    small = post(short, path) if len(short) < 32 * 1024 else None
    large = post(json.dumps(body).encode() + b" " * 40_000, path)
    assert large.status_code == 200, large.text
    if small is not None:
        assert small.get_data() == large.get_data()


@every(
    ("name", "examples"),
    [
        ("gradient", FUNCTION_GRADIENT),
        ("stationary", STATIONARY),
        ("descend", DESCEND),
        ("surface", SURFACE),
        ("fit", FIT),
    ],
)
def test_examples_with_any_part_replaced(post: Post, name: str, examples: dict[str, dict[str, Any]]) -> None:
    """Every value of every example, one by one: a refusal points into the request, an answer is whole."""
    odd: tuple[Any, ...] = (None, "x", [], {}, -1, 0, 1e308, 2**63, [[1]], True)
    places = places_in_turn({title: (name, example) for title, example in examples.items()}, odd)
    for title, example in examples.items():
        for path, numbers in places[title]:
            for number in numbers:
                body = replaced(example, path, odd[number])
                started = time.process_time()
                response = post(body, f"/v1/functions/{name}")
                assert time.process_time() - started < 3.0, body
                document = strict_json(response.get_data())
                if response.status_code == 200:
                    if "finite" in document:
                        assert_no_silent_null(document)
                    continue
                assert response.status_code == 422, (body, document)
                for error in document.get("errors", ()):
                    assert resolves(error["pointer"], body), (body, error)


@every(
    ("path", "body"),
    [
        ("stationary", {"expression": "1e308", "variables": ["x"], "box": [-1, 1], "starts": 60}),
        ("stationary", {"expression": "sign(mod(1e308, x))", "variables": ["x"], "box": [-5e-324, 1e-8], "starts": 30}),
        (
            "descend",
            {"expression": "1e308", "variables": ["x"], "starts": [[0], [1]], "optimizers": ["sgd"], "steps": 2},
        ),
        ("descend", {"expression": "ceil(-1/(65cbrt(x)))", "starts": [[1e-9], [1]], "optimizers": ["sgd"], "steps": 1}),
    ],
)
def test_places_keep_a_value_when_they_are_made_simpler(post: Post, path: str, body: dict[str, Any]) -> None:
    answer = answered(post, body, f"/v1/functions/{path}")
    assert_no_silent_null(answer)
    assert answer["finite"] if path == "descend" else all(entry["value"] is not None for entry in answer["points"])
