"""`/v1/functions/gradient`: values, derivatives, formulas and the graph of a typed function."""

import base64
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from schemas.tensor import encode
from service.engine.functions.presets import presets
from tests.api.test_gradients import BASE64
from tests.conftest import Post
from tests.engine.functions.test_cases import GROUPS, KINDS, RELATIONS, WRITTEN
from tests.engine.test_cases import close, of_kind
from tests.support import answered, assert_described, assert_problem, every, faults

PATH = "/v1/functions/gradient"
ROSENBROCK = "(1 - x)^2 + 100*(y - x^2)^2"
EVERYTHING = {"variables", "tolerance", "points", "symbolic", "graph", "finite", "warnings"}
FIRST_ORDER = {"point", "value", "partials", "gradient", "norm", "direction"}
SECOND_ORDER = {"hessian", "eigenvalues", "eigenvectors", "classification"}
CLOSE = {"rtol": 1e-13, "atol": 1e-300}
FUNCTIONS = {
    "x^3 - 2x^2 + 5": (-2.0, 2.0),
    ROSENBROCK: (-2.0, 2.0),
    "x*sin(y) + y*cos(x)": (-3.0, 3.0),
    "exp(-x^2 - y^2)": (-1.5, 1.5),
    "log(x)/y": (0.2, 3.0),
    "sqrt(x^2 + y^2)": (0.5, 2.0),
    "x^y": (0.5, 3.0),
    "2^x - x^-2": (0.5, 2.0),
    "tanh(w*x + b)^2": (-1.0, 1.0),
    "softplus(x) - sigmoid(y)*x": (-3.0, 3.0),
    "atan2(y, x)": (0.5, 2.0),
    "max(x, y)*min(x, 2y)": (-2.0, 2.0),
    "|x - y|^3": (-2.0, 2.0),
    "asin(x) + acos(y) + atan(x*y)": (-0.8, 0.8),
    "sinh(x)/cosh(y)": (-2.0, 2.0),
    "erf(x) + erfc(2y)": (-1.0, 1.0),
    "cbrt(x)*log1p(y)": (0.2, 2.0),
    "log2(x) + log10(y) + expm1(x*y)": (0.2, 1.5),
    "hypot(x, 3y) + gaussian(x)": (0.3, 2.0),
    "relu(x)*x + relu(-y)": (-2.0, 2.0),
    "asinh(x) + acosh(y + 2) + atanh(x/9)": (-0.9, 2.0),
    "(x + y)/(x - y + 9)": (-2.0, 2.0),
    "mod(x, 2)*tan(y/3) + floor(x)*y": (0.1, 0.9),
    "x*y*z - z^2/x": (0.5, 2.0),
    "α²β + π": (-2.0, 2.0),
}


def nulls(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all nulls in an answer."""
    if value is None:
        yield path
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nulls(item, (*path, key))


WITHOUT_NUMBER = {
    "direction", "classification", "symbolic", "valley", "basin", "best", "r_squared", "minimum", "maximum",
    "condition_number",
}  # fmt: skip
"""Keys whose null says that there is no such thing, not that a number is not finite."""


def assert_no_silent_null(answer: dict[str, Any]) -> None:
    """Assert that a null stands for a number only in answers that say that some are not finite."""
    lost = [path for path in nulls(answer) if WITHOUT_NUMBER.isdisjoint(path)]
    if lost:
        assert answer["finite"] is False, lost
        assert "non_finite" in [warning["code"] for warning in answer["warnings"]], lost


# The answer at a point.


def test_every_key_of_an_answer(post: Post, schemas: dict[str, Any]) -> None:
    points = [[-1.2, 1.0], [1.0, 1.0], [0.5, 0.25]]
    answer = answered(post, {"expression": ROSENBROCK, "points": points, "directions": [[1, 0], [3, -4]]}, PATH)
    assert_described(schemas, "FunctionGradientResponse", answer)
    assert_no_silent_null(answer)
    assert set(answer) == EVERYTHING
    assert answer["variables"] == ["x", "y"] and answer["tolerance"] == 1e-8
    assert answer["finite"] is True and answer["warnings"] == []
    for (x, y), entry in zip(points, answer["points"], strict=True):
        gradient = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
        hessian = np.array([[2 - 400 * (y - 3 * x * x), -400 * x], [-400 * x, 200]])
        assert entry["point"] == [x, y]
        close(entry["value"], (1 - x) ** 2 + 100 * (y - x * x) ** 2, CLOSE)
        close(entry["gradient"], gradient, CLOSE)
        assert entry["partials"] == dict(zip("xy", entry["gradient"], strict=True))
        close(entry["norm"], np.linalg.norm(gradient), CLOSE)
        close(entry["hessian"], hessian, CLOSE)
        along = [gradient[0], (3 * gradient[0] - 4 * gradient[1]) / 5]
        np.testing.assert_allclose(entry["directional_derivative"], along, rtol=1e-12, atol=1e-12)
        values, vectors = np.array(entry["eigenvalues"]), np.array(entry["eigenvectors"])
        assert (np.diff(values) >= 0).all()
        np.testing.assert_allclose(vectors @ hessian, values[:, None] * vectors, atol=1e-9)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    away, minimum, floor = answer["points"]
    assert set(away) == FIRST_ORDER | SECOND_ORDER | {"directional_derivative"} == set(floor)
    close(away["direction"], np.array(away["gradient"]) / away["norm"], CLOSE)
    assert away["classification"] == floor["classification"] == "not_stationary"
    assert set(minimum) == set(away) | {"condition_number", "largest_stable_step"}
    assert minimum["direction"] is None and minimum["classification"] == "minimum"
    low, high = minimum["eigenvalues"]
    close(minimum["condition_number"], high / low, CLOSE)
    close(minimum["largest_stable_step"], 2 / high, CLOSE)
    assert answer["graph"]["point"] == points[0]


@every(
    ("expression", "point", "found"),
    [
        ("x^2 + y^2", [0, 0], "minimum"),
        ("-x^2 - 3y^2", [0, 0], "maximum"),
        ("x^2 - y^2", [0, 0], "saddle"),
        ("x^4 + y^4", [0, 0], "degenerate"),
        ("x^2 + y^2", [1, 0], "not_stationary"),
    ],
)
def test_classes(post: Post, expression: str, point: list[float], found: str) -> None:
    (entry,) = answered(post, {"expression": expression, "points": [point]}, PATH)["points"]
    assert entry["classification"] == found
    assert ("condition_number" in entry) == (found in ("minimum", "maximum"))
    assert ("largest_stable_step" in entry) == (found == "minimum")
    assert (entry["direction"] is None) == (found != "not_stationary")
    assert "problems" not in entry


def test_points_in_each_of_their_forms(post: Post) -> None:
    lists = post({"expression": "x*y^2", "points": [[1.5, 2.0], [0.25, -3.0]]}, PATH).get_data()
    for dtype in ("float64", "float32"):
        typed = encode(np.array([[1.5, 2.0], [0.25, -3.0]], dtype))
        assert post({"expression": "x*y^2", "points": typed}, PATH).get_data() == lists
    whole = post({"expression": "x*y^2", "points": [[1, 2], [3, 4]]}, PATH).get_data()
    typed = encode(np.array([[1, 2], [3, 4]], "int64"))
    assert post({"expression": "x*y^2", "points": typed}, PATH).get_data() == whole


def test_points_of_one_variable_may_be_bare(post: Post) -> None:
    rows = post({"expression": "t^3", "points": [[1], [2], [-1]], "directions": [[2], [-1]]}, PATH).get_data()
    bare = post({"expression": "t^3", "points": [1, 2, -1], "directions": [2, -1]}, PATH).get_data()
    typed = encode(np.array([1.0, 2.0, -1.0]))
    assert bare == rows == post({"expression": "t^3", "points": typed, "directions": [2, -1]}, PATH).get_data()
    assert [entry["directional_derivative"] for entry in json.loads(bare)["points"]] == [[3, -3], [12, -12], [3, -3]]


def test_many_points_are_like_single_ones(post: Post) -> None:
    """The answers are equal even if the points are computed in blocks."""
    points = np.random.default_rng(3).uniform(-2, 2, (5000, 2)).tolist()
    body: dict[str, Any] = {"expression": ROSENBROCK, "include": ["hessian"]}
    many = answered(post, body | {"points": points}, PATH)["points"]
    for place in (0, 1, 4095, 4096, 4999):
        assert answered(post, body | {"points": [points[place]]}, PATH)["points"] == [many[place]]


def test_variables_give_the_order_of_points(post: Post) -> None:
    answer = answered(post, {"expression": "x - 10y", "variables": ["y", "x"], "points": [[1, 2]]}, PATH)
    (entry,) = answer["points"]
    assert answer["variables"] == ["y", "x"]
    assert entry["value"] == -8 and entry["gradient"] == [-10, 1] and entry["partials"] == {"y": -10, "x": 1}
    assert [partial["variable"] for partial in answer["symbolic"]["gradient"]] == ["y", "x"]


def test_variables_that_do_not_occur(post: Post) -> None:
    answer = answered(post, {"expression": "7", "variables": ["a", "b"], "points": [[1, 2]]}, PATH)
    (entry,) = answer["points"]
    assert entry["value"] == 7 and entry["gradient"] == [0, 0] and entry["classification"] == "degenerate"
    assert [partial["expression"] for partial in answer["symbolic"]["gradient"]] == ["0", "0"]
    adjoints = {node["name"]: node["adjoint"] for node in answer["graph"]["nodes"]}
    assert adjoints["a"] == adjoints["b"] == 0 and adjoints[answer["graph"]["output"]] == 1
    assert answer["graph"]["backward"] == []


def test_greek_names_are_latin_in_answers(post: Post) -> None:
    answer = answered(post, {"expression": "α^2 + θ1", "points": [[3, 4]]}, PATH)
    assert answer["variables"] == ["alpha", "theta1"]
    assert answer["points"][0]["partials"] == {"alpha": 6, "theta1": 1}
    again = answered(post, {"expression": "alpha^2 + θ1", "variables": ["α", "theta1"], "points": [[3, 4]]}, PATH)
    assert again["points"] == answer["points"]


@every("include", [[], ["hessian"], ["symbolic"], ["graph"], ["graph", "hessian"], ["symbolic"] * 2])
def test_include_chooses(post: Post, include: list[str]) -> None:
    body = {"expression": ROSENBROCK, "points": [[1, 1], [0, 2]]}
    full, chosen = answered(post, body, PATH), answered(post, body | {"include": include}, PATH)
    assert set(chosen) == EVERYTHING - ({"symbolic", "graph"} - set(include))
    for part in {"symbolic", "graph"} & set(include):
        assert chosen[part] == full[part]
    left_out = set() if "hessian" in include else SECOND_ORDER | {"condition_number", "largest_stable_step"}
    for entry, whole in zip(chosen["points"], full["points"], strict=True):
        assert entry == {key: value for key, value in whole.items() if key not in left_out}
    assert answered(post, body | {"include": ["hessian", "symbolic", "graph"]}, PATH) == full


def test_tolerance(post: Post) -> None:
    body: dict[str, Any] = {"expression": "500x^2", "points": [5e-5, 4.9e-5, 0.0]}
    kinds = [
        [entry["classification"] for entry in answered(post, body | extra, PATH)["points"]]
        for extra in ({}, {"tolerance": 0.1}, {"tolerance": 0})
    ]
    away, minimum = "not_stationary", "minimum"
    assert kinds == [[away, away, minimum], [minimum, minimum, minimum], [away, away, minimum]]
    answer = answered(post, body | {"tolerance": 0.0999}, PATH)
    assert answer["tolerance"] == 0.0999
    for entry in answer["points"]:
        assert (entry["direction"] is None) == (entry["norm"] <= 0.0999)


def test_directions_have_any_length(post: Post) -> None:
    (entry,) = answered(
        post, {"expression": "3x + 4y", "points": [[0, 0]], "directions": [[3, 4], [0.06, 0.08], [0, -9]]}, PATH
    )["points"]
    np.testing.assert_allclose(entry["directional_derivative"], [5, 5, -4], rtol=1e-14)


# Points without a value or slope.


@every(
    ("expression", "point", "kind", "column", "text"),
    [
        ("1 + log(x)", -1, "domain", 5, "log(x)"),
        ("2 + 1/(x - 1)", 1, "pole", 5, "1/(x - 1)"),
        ("sqrt(x)", 0, "vertical", 1, "sqrt(x)"),
        ("x + |x|", 0, "kink", 5, "|x|"),
        ("x*step(x)", 0, "jump", 3, "step(x)"),
        ("x + exp(x)", 1e3, "not_finite", 5, "exp(x)"),
        ("  x^0.5", -2, "domain", 3, "x^0.5"),
    ],
)
def test_problems_say_where(post: Post, expression: str, point: float, kind: str, column: int, text: str) -> None:
    answer = answered(post, {"expression": expression, "points": [2.5, point]}, PATH)
    assert_no_silent_null(answer)
    fine, entry = answer["points"]
    assert "problems" not in fine
    (problem,) = entry["problems"]
    assert (problem["kind"], problem["column"], problem["text"]) == (kind, column, text)
    assert len(problem["message"]) > 5
    certain = kind in ("kink", "jump")
    assert answer["finite"] is certain and (entry["classification"] is None) is not certain
    lost = [warning for warning in answer["warnings"] if warning["code"] == "non_finite"]
    assert [warning["quantity"] for warning in lost] == ([] if certain else ["points[1]"])


def test_a_point_without_a_value_has_no_derivatives(post: Post) -> None:
    """The formula 1/x of the derivative goes on where log x has ended."""
    answer = answered(post, {"expression": "log(x) + y", "points": [[-1, 2]], "directions": [[0, 1]]}, PATH)
    (entry,) = answer["points"]
    assert entry["value"] is None and entry["gradient"] == [None, None] and entry["partials"] == {"x": None, "y": None}
    assert entry["hessian"] == [[None] * 2] * 2 and entry["direction"] is None and entry["norm"] is None
    assert entry["directional_derivative"] == [None]
    assert_no_silent_null(answer)


@every("word", ["step", "sign", "floor", "ceil", "round"])
def test_words_that_block_the_gradient_are_told(post: Post, word: str) -> None:
    answer = answered(post, {"expression": f"x + 3{word}(2x) + {word}(x)", "points": [0.3]}, PATH)
    assert answer["points"][0]["gradient"] == [1]
    (warning,) = answer["warnings"]
    assert warning["code"] == "gradient_blocked" and word in warning["message"]
    assert answer["finite"] is True


@every(
    "expression",
    [
        "sqrt(x)", "log(x)", "1/x", "x^-3", "x^0.5*y", "exp(x^9)", "tan(x)/y", "acos(x*y)", "x^y", "y/|x|",
        "hypot(x, y)", "log(|x|)", "x*log(x)", "cbrt(x)", "atan2(y, x)", "1e300*x*y", "mod(x, y)", "max(1/x, y)",
        "sqrt(x^2 + y^2)", "sign(x)/x", "0^x", "1e-310*x^2", "sqrt(0)+x", "log(1e-320)+x", "(x/1e-200)^2",
    ],
)  # fmt: skip
def test_no_null_is_silent(post: Post, expression: str) -> None:
    """Points that are easy to get wrong are asked one by one, so that each has its own graph."""
    numbers = (0, -0.0, 1, -1, 0.5, 1e-320, 1e200, -1e308)
    points = [[x, y] for x in numbers for y in (0, 1, -2.5, 1e308)]
    body = {"expression": expression, "variables": ["x", "y"]}
    for point in points:
        answer = answered(post, body | {"points": [point], "directions": [[1, 0], [1, -1]]}, PATH)
        assert_no_silent_null(answer)
        for entry in answer["points"]:
            # The neighbours of 1e200 are so far away that any slope may be due to rounding.
            if entry["direction"] is None and entry["norm"] is not None and abs(point[0]) < 1e200:
                assert entry["norm"] <= 1e-8
            assert (entry["classification"] is None) <= ("problems" in entry)


# Formulas.


TOO_LONG = {"goldstein_price"}
"""Presets with derivatives that are too long to be of use as formulas."""


def assert_formulas(post: Post, expression: str, variables: list[str], points: Any) -> None:
    """Assert that each formula, sent back, has the values of its derivative."""
    body = {"expression": expression, "variables": variables, "points": points}
    answer = answered(post, body, PATH)
    gradients = np.array([entry["gradient"] for entry in answer["points"]], float)
    hessians = np.array([entry["hessian"] for entry in answer["points"]], float)

    def values(formula: dict[str, str]) -> Any:
        assert formula["latex"].count("{") == formula["latex"].count("}")
        asked = body | {"expression": formula["expression"], "include": []}
        return np.array([entry["value"] for entry in answered(post, asked, PATH)["points"]], float)

    symbolic = answer["symbolic"]
    assert [partial["variable"] for partial in symbolic["gradient"]] == variables
    for place, partial in enumerate(symbolic["gradient"]):
        size = np.abs(gradients[:, place]).max()
        np.testing.assert_allclose(values(partial), gradients[:, place], rtol=1e-9, atol=1e-10 * size)
    for row, formulas in enumerate(symbolic["hessian"]):
        for column, formula in enumerate(formulas):
            assert formula == symbolic["hessian"][column][row]
            if column >= row:
                expected = hessians[:, row, column]
                size = np.abs(expected).max()
                np.testing.assert_allclose(values(formula), expected, rtol=1e-9, atol=1e-10 * size)


@every("expression", FUNCTIONS)
def test_formulas_are_the_derivatives(post: Post, expression: str) -> None:
    low, high = FUNCTIONS[expression]
    names = answered(post, {"expression": expression, "points": [[1] * _count(post, expression)]}, PATH)["variables"]
    points = np.random.default_rng(len(expression)).uniform(low, high, (25, len(names)))
    assert_formulas(post, expression, names, points.tolist())


def _count(post: Post, expression: str) -> int:
    """Return the number of variables of an expression, read from the refusal of points with too many numbers."""
    document = assert_problem(post({"expression": expression, "points": [[1] * 9]}, PATH), "invalid")
    return faults(document)["#/points"].split("[")[1].count(",") + 1


@every("name", sorted({preset.name for preset in presets} - TOO_LONG))
def test_formulas_of_presets_are_their_derivatives(post: Post, name: str) -> None:
    preset = presets[name]
    low, high = np.array(preset.domain).T
    points = np.random.default_rng(1).uniform(low, high, (25, len(low)))
    assert_formulas(post, preset.expression, list(preset.variables), points.tolist())


@every("name", sorted(TOO_LONG))
def test_formulas_that_are_too_long_are_null(post: Post, name: str) -> None:
    preset = presets[name]
    body = {"expression": preset.expression, "points": [[0.5] * len(preset.variables)], "include": ["symbolic"]}
    answer = answered(post, body, PATH)
    assert answer["finite"] is True
    assert all(partial["latex"] for partial in answer["symbolic"]["gradient"])
    assert answer["symbolic"]["hessian"] == [[None] * len(preset.variables)] * len(preset.variables)
    assert answer["symbolic"]["latex"]


# The graph.


@every("expression", [*FUNCTIONS, "x", "3", "x*x*x", "(x + y)^5*(x + y)", "2(x + 1)(x + 1)"])
def test_the_graph_adds_up(post: Post, expression: str) -> None:
    low, high = FUNCTIONS.get(expression, (-2.0, 2.0))
    variables = ["alpha", "beta"] if "β" in expression else ["b", "w", "x", "y", "z"]
    point = np.random.default_rng(7).uniform(low, high, len(variables)).tolist()
    body = {"expression": expression, "variables": variables, "points": [point]}
    answer = answered(post, body, PATH)
    (entry,), graph = answer["points"], answer["graph"]
    assert graph["point"] == point
    nodes = {node["name"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and set(variables) <= set(nodes)
    order = list(nodes)
    for name, node in nodes.items():
        assert all(order.index(source) < order.index(name) for source in node["inputs"])
        if node.get("text"):
            asked = {"expression": node["text"], "variables": variables, "points": [point], "include": []}
            assert answered(post, asked, PATH)["points"][0]["value"] == pytest.approx(node["value"], rel=1e-13)
    received = dict.fromkeys(nodes, 0.0) | {graph["output"]: 1.0}
    for edge in graph["backward"]:
        assert edge["source"] in nodes[edge["target"]]["inputs"]
        adjoint = nodes[edge["target"]]["adjoint"]
        assert edge["contribution"] == pytest.approx(adjoint * edge["derivative"], rel=1e-13)
        # Whatever flows into a target has arrived there by now.
        assert adjoint == pytest.approx(received[edge["target"]], rel=1e-11, abs=1e-13)
        received[edge["source"]] += edge["contribution"]
    for name, node in nodes.items():
        assert node["adjoint"] == pytest.approx(received[name], rel=1e-11, abs=1e-13)
    assert {(edge["source"], edge["target"]) for edge in graph["backward"]} == {
        (source, name) for name, node in nodes.items() for source in node["inputs"]
    }
    output = nodes[graph["output"]]
    assert output["adjoint"] == 1 and output["value"] == pytest.approx(entry["value"], rel=1e-13)
    for name, partial in entry["partials"].items():
        assert nodes[name]["value"] == point[variables.index(name)]
        assert nodes[name]["adjoint"] == pytest.approx(partial, rel=1e-11, abs=1e-13)


def test_the_graph_is_that_of_the_first_point(post: Post) -> None:
    one = answered(post, {"expression": "x*y", "points": [[3, 4]]}, PATH)
    several = answered(post, {"expression": "x*y", "points": [[3, 4], [5, 6]]}, PATH)
    assert one["graph"] == several["graph"] and one["graph"]["point"] == [3, 4]
    assert one["symbolic"] == several["symbolic"]


# Published numbers.


@every(("member", "tolerance"), of_kind("function"))
def test_published_functions(post: Post, member: dict[str, Any], tolerance: dict[str, float]) -> None:
    body = {key: member[key] for key in ("expression", "variables")}
    body["points"] = [expected["point"] for expected in member["expected"]]
    if "directions_deg" in member:
        angles = np.radians(member["directions_deg"])
        body["directions"] = np.stack([np.cos(angles), np.sin(angles)], 1).tolist()
    answer = answered(post, body, PATH)
    assert answer["finite"] is True
    for entry, expected in zip(answer["points"], member["expected"], strict=True):
        close(entry["value"], expected["value"], tolerance, "value")
        close(entry["gradient"], expected["gradient"], tolerance, "gradient")
        close(entry["norm"], expected["gradient_norm"], tolerance, "norm")
        close(entry["hessian"], expected["hessian"], tolerance, "hessian")
        close(entry["eigenvalues"], expected["hessian_eigenvalues"], tolerance, "eigenvalues")
        assert entry["classification"] == KINDS[expected["kind"]]
        if expected["ascent_direction"] is None:
            assert entry["direction"] is None
        else:
            close(entry["direction"], expected["ascent_direction"], tolerance, "direction")
        if "directions_deg" in member:
            close(entry["directional_derivative"], expected["directional_derivatives"], tolerance)


@every("name", GROUPS)
def test_published_relations(post: Post, name: str) -> None:
    case = GROUPS[name]

    def found(member: dict[str, Any]) -> Any:
        if member["kind"] != "function":
            return None
        body = {key: member[key] for key in ("expression", "variables")}
        body["points"] = [expected["point"] for expected in member["expected"]]
        values = np.array([entry["value"] for entry in answered(post, body, PATH)["points"]])
        return SimpleNamespace(results=SimpleNamespace(values=values))

    answers = [found(member) for member in case["members"]]
    for relation, compute in RELATIONS[name].items():
        close(np.asarray(compute(answers), float), case["relations"][relation], case["tolerance"], relation)


@every(("case", "tolerance"), of_kind("graph"))
def test_published_graphs(post: Post, case: dict[str, Any], tolerance: dict[str, float]) -> None:
    texts, point = {}, {}
    for node in case["nodes"]:
        if node["op"] == "input":
            texts[node["id"]], point[node["id"]] = node["id"], node["value"]
        elif node["op"] == "const":
            texts[node["id"]] = repr(node["value"])
        else:
            texts[node["id"]] = WRITTEN[node["op"]].format(*[texts[name] for name in node["args"]])
    body = {"expression": texts[case["output"]], "variables": list(point), "points": [list(point.values())]}
    answer = answered(post, body | {"include": ["graph"]}, PATH)
    nodes = answer["graph"]["nodes"]
    by_inputs = {tuple(node["inputs"]): node for node in nodes if node["inputs"]}
    inputs_by_name = {node["name"]: node for node in nodes if node["operation"] == "input"}
    constants = {node["value"]: node for node in nodes if node["operation"] == "constant"}
    names: dict[str, str] = {}
    for node in case["nodes"]:
        if "value" in node:
            found = inputs_by_name[node["id"]] if node["op"] == "input" else constants[node["value"]]
        else:
            inputs = tuple(names[name] for name in node["args"])
            (found,) = [other for key, other in by_inputs.items() if key[: len(inputs)] == inputs]
        names[node["id"]] = found["name"]
        close(found["value"], case["expected"]["values"][node["id"]], tolerance, f"value of {node['id']}")
        close(found["adjoint"], case["expected"]["adjoints"][node["id"]], tolerance, f"adjoint of {node['id']}")
    assert names[case["output"]] == answer["graph"]["output"]


# Encodings.


def test_the_same_request_has_the_same_bytes(post: Post) -> None:
    body = {"expression": "x*exp(-x^2 - y^2)", "points": [[0.1, 0.2], [1, 1]], "directions": [[1, 2]]}
    first = post(body, PATH).get_data()
    turned = dict(reversed(body.items()))
    assert [post(each, PATH).get_data() for each in (body, turned)] == [first, first]


def test_tensors_may_be_typed(post: Post) -> None:
    body = {"expression": "log(x) + y^2", "points": [[1, 2], [-1, 0], [1e-320, 1]], "directions": [[1, 1]]}
    lists, typed = answered(post, body, PATH), answered(post, body, PATH, Accept=BASE64)
    assert typed["points"][0]["hessian"]["dtype"] == "float64" and typed["graph"]["point"]["shape"] == [2]

    def listed(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"dtype", "shape", "base64"}:
            array = np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"])
            return np.where(np.isfinite(array), array, None).tolist()
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return [listed(item) for item in value] if isinstance(value, list) else value

    assert listed(typed) == lists


@every(
    ("expression", "reason"),
    [
        ("sqrt(x^2)", "the slopes from the sides differ"),
        ("hypot(x, 0x)", "differ"),
        ("where(x > 0, sqrt(x), 0)", "a comparison jumps"),
        ("sign(x)", "the value jumps here"),
        ("relu(x)^2", "but not the second derivatives"),
    ],
)
def test_the_warning_of_a_null_has_the_reason(post: Post, expression: str, reason: str) -> None:
    body = {"expression": expression, "points": [[0]], "include": ["hessian"]}
    answer = answered(post, body, "/v1/functions/gradient")
    (message,) = [each["message"] for each in answer["warnings"] if each["code"] == "non_finite"]
    assert reason in message
