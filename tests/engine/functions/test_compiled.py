"""Compiled expressions: many points at once, derivatives to an order, problems of points, and limits."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.engine.errors import DeadlineExceeded, LimitExceeded
from service.engine.functions.compiled import BLOCK, Function, FunctionTask, literals_of
from service.engine.functions.expression import MOST_VARIABLES, parse
from service.engine.limits import Limits
from tests.engine.functions.building import function, problems, results
from tests.engine.support import random_examples
from tests.support import every
from tests.watches import Looks

PEAKS = "3*(1 - x)^2*exp(-x^2 - (y + 1)^2) - 10*(x/5 - x^3 - y^5)*exp(-x^2 - y^2) - exp(-(x + 1)^2 - y^2)/3"
MANY_WORDS = "sin(x)*tanh(y) + log(x^2 + 1)^y + cbrt(x*y) + erf(x)/(2 + cos(y)) + max(x, y)^3 + x^2.5/hypot(x, y)"


def assert_same(ours, theirs):
    """Assert that results are equal to the last bit."""
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


# --- many points --------------------------------------------------------------------------------


@every("text", [PEAKS, MANY_WORDS, "x^y"])
def test_many_points_are_as_one_by_one(text):
    points = np.random.default_rng(1).uniform(0.1, 3.0, (301, 2))
    together = function(text, 301).run(points)
    alone = function(text, 1).run(points)
    assert_same(together, alone)
    for place in (0, 17, 300):
        assert_same(function(text, 1).run(points[place : place + 1]), [part[place : place + 1] for part in together])


@every("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_blocks_are_put_together(count):
    points = np.random.default_rng(2).uniform(-2.0, 2.0, (count, 2))
    found = function(PEAKS, BLOCK).run(points)
    assert found.values.shape == (count,)
    assert found.gradients.shape == (count, 2)
    assert found.hessians.shape == (count, 2, 2)
    some = [0, count // 2, count - 1]
    assert_same([part[some] for part in found], function(PEAKS, 3).run(points[some]))


def test_no_points_are_no_answer():
    found = function(PEAKS, 5).run(np.empty((0, 2)))
    assert [part.shape for part in found] == [(0,), (0, 2), (0, 2, 2)]


def test_points_beside_one_without_a_value_are_not_touched():
    points = np.array([[1.0], [-1.0], [0.0], [4.0]])
    found = results("log(x)*sqrt(x)", points)
    assert_same([part[[0, 3]] for part in found], results("log(x)*sqrt(x)", points[[0, 3]]))


def test_the_results_of_a_run_stay():
    compiled = function(PEAKS, 2)
    first = compiled.run(np.array([[0.5, 0.5], [1.0, 1.0]]))
    kept = [part.copy() for part in first]
    compiled.run(np.array([[2.0, 2.0], [-1.0, 1.0]]))
    assert_same(first, kept)


# --- orders and variables -----------------------------------------------------------------------


@every("order", [0, 1, 2])
def test_orders(order):
    points = np.array([[0.3, -0.7], [1.1, 0.2]])
    found, whole = function(PEAKS, 2, order).run(points), function(PEAKS, 2, 2).run(points)
    np.testing.assert_array_equal(found.values, whole.values)
    assert found.gradients.shape == (2, 2 if order else 0)
    if order:
        np.testing.assert_array_equal(found.gradients, whole.gradients)
    assert (found.hessians is None) == (order < 2)


def test_hessians_are_symmetric():
    points = np.random.default_rng(3).uniform(0.2, 2.0, (50, 3))
    hessians = results("x^y*sin(z*x) + atan2(y, z)*log(x + y*z)", points).hessians
    np.testing.assert_array_equal(hessians, hessians.transpose(0, 2, 1))


def test_a_hessian_by_hand():
    x, y, z = 1.5, -0.5, 2.0
    found = results("x^2*y*z + exp(y*z)", [(x, y, z)])
    curve = math.exp(y * z)
    expected = [
        [2.0 * y * z, 2.0 * x * z, 2.0 * x * y],
        [2.0 * x * z, z * z * curve, x * x + (1.0 + y * z) * curve],
        [2.0 * x * y, x * x + (1.0 + y * z) * curve, y * y * curve],
    ]
    np.testing.assert_allclose(found.hessians[0], expected, rtol=1e-15)


@every("text", ["5", "pi", "2^3 + e", "0*x + 7", "y - y + 1"])
def test_constants_have_no_slope(text):
    found = results(text, np.random.default_rng(4).normal(size=(4, 2)), ("x", "y"))
    assert len(set(found.values.tolist())) == 1
    assert not found.gradients.any()
    assert not found.hessians.any()


def test_variables_that_do_not_occur_have_no_slope():
    found = results("y^3", [(1.0, 2.0, 3.0)], ("x", "y", "z"))
    assert found.gradients.tolist() == [[0.0, 12.0, 0.0]]
    assert found.hessians.tolist() == [[[0.0, 0.0, 0.0], [0.0, 12.0, 0.0], [0.0, 0.0, 0.0]]]


def test_variables_come_in_the_order_they_are_listed_in():
    assert results("x - 2y", [(5.0, 3.0)], ("y", "x")).gradients.tolist() == [[-2.0, 1.0]]


def test_a_variable_alone():
    found = results("x", [3.0, -1.0])
    assert found.values.tolist() == [3.0, -1.0]
    assert found.gradients.tolist() == [[1.0], [1.0]]
    assert not found.hessians.any()


def test_as_many_variables_as_are_allowed():
    names = [f"x{place}" for place in range(MOST_VARIABLES)]
    text = " + ".join(f"{place + 1}*{name}^2" for place, name in enumerate(names)) + " + x0*x19"
    point = np.linspace(-1.0, 1.0, MOST_VARIABLES)
    found = results(text, point[None], names)
    weights = np.arange(1.0, MOST_VARIABLES + 1.0)
    hessian = np.diag(2.0 * weights)
    hessian[0, -1] = hessian[-1, 0] = 1.0
    np.testing.assert_allclose(found.values, [(weights * point**2).sum() + point[0] * point[-1]], rtol=1e-14)
    np.testing.assert_allclose(found.gradients[0], hessian @ point, rtol=1e-14)
    np.testing.assert_array_equal(found.hessians[0], hessian)


def test_negative_zero_becomes_zero():
    found = results("-x + 0y", [(0.0, 0.0)], ("x", "y"))
    for part in found:
        assert not np.signbit(part[part == 0.0]).any()


def test_negative_zero_is_a_zero():
    assert results("1/x", [-0.0, 0.0], order=1).values.tolist() == [-math.inf, math.inf]
    assert problems("log(x)", [-0.0]) == problems("log(x)", [0.0])


# --- problems -----------------------------------------------------------------------------------


@every(
    ("text", "point", "expected"),
    [
        ("log(x)", -1.0, ["domain"]),
        ("sqrt(x - 2)", 1.0, ["domain"]),
        ("1/x", 0.0, ["pole"]),
        ("x/(x - 3)", 3.0, ["pole"]),
        ("log(x)", 0.0, ["pole"]),
        ("sqrt(x)", 0.0, ["vertical"]),
        ("cbrt(x - 1)", 1.0, ["vertical"]),
        ("|x|", 0.0, ["kink"]),
        ("max(x, 2 - x)", 1.0, ["kink"]),
        ("floor(2x)", 1.5, ["jump"]),
        ("step(x - 1)", 1.0, ["jump"]),
        ("exp(x)", 1000.0, ["not_finite"]),
        ("x^3", 1e200, ["not_finite"]),
        ("x^1.5", 0.0, ["not_finite"]),
        ("sqrt(|x|)", 0.0, ["kink", "vertical"]),
        ("log(x) + 1/x", 0.0, ["pole", "pole"]),
        ("sqrt(-log(x))", 2.0, ["domain"]),
        ("exp(x)", 1.0, []),
        ("|x|", 1e-300, []),
        ("0*log(x)", -1.0, ["domain"]),
    ],
)
def test_problems(text, point, expected):
    assert problems(text, [point]) == [expected]


def test_problems_are_reported_point_by_point():
    found = problems("log(x)/y", [(1.0, 1.0), (-1.0, 1.0), (2.0, 0.0), (0.0, 0.0), (3.0, -1.0)], ("x", "y"))
    assert found == [[], ["domain"], ["pole"], ["pole", "pole"], []]


def test_a_problem_names_its_part():
    compiled = function("1 + 2*log(x - 3) + exp(y)", 1)
    points = np.array([[2.0, 0.0]])
    ((problem,),) = compiled.problems(points, compiled.run(points)).values()
    assert (problem.kind, problem.text) == ("domain", "log takes numbers above 0")
    assert compiled.expression.quoted(problem.step) == "log(x - 3)"
    points = np.array([[4.0, 1e4]])
    ((problem,),) = compiled.problems(points, compiled.run(points)).values()
    assert (problem.kind, compiled.expression.quoted(problem.step)) == ("not_finite", "exp(y)")
    assert problem.text == "the value is beyond what 64-bit numbers hold"


def test_a_problem_of_a_derivative_alone():
    compiled = function("x^1.5", 1)
    points = np.array([[0.0]])
    found = compiled.run(points)
    assert found.values.tolist() == [0.0]
    ((problem,),) = compiled.problems(points, found).values()
    assert (problem.kind, problem.step, problem.text) == ("not_finite", None, "a derivative is not finite here")


def test_only_requested_derivatives_can_be_a_problem():
    assert problems("x^1.5", [0.0], order=2) == [["not_finite"]]
    assert problems("x^1.5", [0.0], order=1) == [[]]


@every(
    ("text", "expected"),
    [
        ("2*3 - pi", 6.0 - math.pi),
        ("-(1/4)", -0.25),
        ("1/0", None),
        ("x", None),
        ("2*x", None),
        ("2^3", None),
        ("1e308*10", math.inf),
    ],
)
def test_literals(text, expected):
    assert literals_of(parse(text))[-1] == expected


# --- limits -------------------------------------------------------------------------------------


LONG_CHAIN = "x0"
for place in range(1, 46):
    LONG_CHAIN = f"sin({LONG_CHAIN}*x{place % MOST_VARIABLES})"


def test_derivatives_that_are_too_long_are_refused():
    Function(FunctionTask(parse(LONG_CHAIN), 1, 1))
    with pytest.raises(LimitExceeded) as refusal:
        Function(FunctionTask(parse(LONG_CHAIN), 1, 2))
    assert refusal.value.name == "operations of the expression and its second derivatives"
    assert refusal.value.asked > refusal.value.allowed
    assert refusal.value.path == ("expression",)


def test_expensive_functions_are_refused():
    with pytest.raises(LimitExceeded, match="operations"):
        Function(FunctionTask(parse(PEAKS), 1000, 2), Limits(operations=10.0))
    with pytest.raises(LimitExceeded, match="workspace_bytes"):
        Function(FunctionTask(parse(PEAKS), 1000, 2), Limits(workspace_bytes=1000))


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        function(PEAKS, 10).run(np.zeros((30, 2)), Looks(0))


def test_equal_tasks_have_equal_keys():
    task = FunctionTask(parse("x + y"), 3, 1)
    assert task.key == FunctionTask(parse("x + y"), 3, 1).key
    others = [("x + y", 4, 1), ("x + y", 3, 2), ("y + x", 3, 1)]
    assert task.key not in {FunctionTask(parse(text), points, order).key for text, points, order in others}
    assert task.key != FunctionTask(parse("x + y", ("y", "x")), 3, 1).key


# --- random expressions -------------------------------------------------------------------------

SMOOTH = ("sin", "cos", "tanh", "atan", "asinh", "sigmoid", "softplus", "erf", "gaussian")


@st.composite
def expressions(draw, depth=4):
    kind = draw(st.integers(0, 9 if depth else 2))
    if kind <= 1:
        return draw(st.sampled_from("xyz"))
    if kind == 2:
        return str(draw(st.integers(1, 9)) / 4)
    if kind <= 4:
        return f"{draw(st.sampled_from(SMOOTH))}({draw(expressions(depth - 1))})"
    if kind == 5:
        return f"({draw(expressions(depth - 1))})^{draw(st.integers(0, 4))}"
    if kind == 6:
        return f"({draw(expressions(depth - 1))})/(1.5 + ({draw(expressions(depth - 1))})^2)"
    operator = draw(st.sampled_from(("+", "-", "*")))
    return f"({draw(expressions(depth - 1))}) {operator} ({draw(expressions(depth - 1))})"


@random_examples(max_examples=150)
@given(expressions(), st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_derivatives_of_random_expressions_are_limits_of_differences(text, point):
    compiled = Function(FunctionTask(parse(text, ("x", "y", "z")), 7, 2))
    step, point = 1e-5, np.array(point)
    moves = step * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    found = compiled.run(point + moves)
    assume(np.abs(found.values).max() < 1e3 and np.abs(found.hessians).max() < 1e3)
    scale = 1.0 + np.abs(found.hessians).max() + np.abs(found.gradients).max() + np.abs(found.values).max()
    gradient = (found.values[1:4] - found.values[4:]) / (2.0 * step)
    np.testing.assert_allclose(found.gradients[0], gradient, atol=1e-6 * scale)
    hessian = (found.gradients[1:4] - found.gradients[4:]) / (2.0 * step)
    np.testing.assert_allclose(found.hessians[0], hessian, atol=1e-5 * scale)
    assert not compiled.problems(point[None], compiled.run(point[None]))


# --- kinks --------------------------------------------------------------------------------------


@every(
    ("text", "kinked"),
    [
        ("|x|", True),
        ("max(x, y)", True),
        ("relu(x)", True),
        ("hypot(x, y)", True),
        ("sqrt(x^2 + y^2)", True),
        ("(x^2 + y^2)^0.5", True),
        ("cbrt(x)", True),
        ("(x^2)^(1/3)", True),
        ("(x^2)^y", True),
        ("floor(x)", True),
        ("acos(cos(x))", True),
        ("sqrt(x^2 + 1)", False),
        ("cbrt(2 + |sin(x)|*x^2)", True),
        ("sqrt(x^4 + y^2 + 1e-9)", False),
        ("sqrt(x^2 - 1)", True),
        ("x^1.5", False),
        ("x^-2 + 1/x", False),
        ("log(x) + exp(y)", False),
        ("x^2", False),
    ],
)
def test_functions_know_their_kinks(text, kinked):
    assert bool(function(text, 1).kinks) is kinked
    assert len(set(function(f"{text} + {text}", 1).kinks)) == len(function(text, 1).kinks)
