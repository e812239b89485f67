"""Choices: what is not chosen has no effect, not even where it has no value, and the seam follows both sides."""

from __future__ import annotations

import math

import numpy as np

from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import analyse
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import parse
from service.engine.functions.formulas import formulas_of
from tests.engine.functions.building import results
from tests.support import every

HIDDEN = [
    # expression, points where a part of it has no value or slope, the formula that is chosen there
    ("where(x > 0, sqrt(x), 0)", [-1.0, 0.0, -1e300], "0x"),
    ("where(x > 0, log(x), x^2)", [0.0, -3.0], "x^2"),
    ("where(x < 10, exp(x), 2x)", [1000.0], "2x"),
    ("where(x < 10, x^3*exp(x*x), x)", [1e200], "x"),
    ("where(x <= 1, asin(x), x^2)", [1.5], "x^2"),
    ("where(x <= 1, sin(tan(exp(exp(x)))), x^2)", [1e3], "x^2"),
    ("if(x >= 0, x^1.5, if(x > -1, 1/x, log(-x)*x))", [-2.0], "log(-x)*x"),
    ("if(x >= 0, x^1.5, if(x > -1, 1/x, log(-x)*x))", [-0.5], "1/x"),
    ("where(x, sin(x)/x, x^2)", [0.0], "x^2"),
    ("where(x > 0, sqrt(x), 0) + where(x < 0, sqrt(-x), 0)", [-4.0], "sqrt(-x)"),
    ("x*where((x > 0)*(x < 2), sqrt(x*(2 - x)), x)", [-1.0, 3.0], "x*x"),
    ("where(step(x) - 1, x^2, sqrt(x))", [-2.0], "x^2"),
]


@every(("text", "points", "chosen"), HIDDEN)
def test_what_is_hidden_has_no_effect(text, points, chosen):
    for ours, theirs in zip(results(text, points), results(chosen, points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)


@every(("text", "points", "chosen"), [case for case in HIDDEN if case[1][0] != 0.0])
def test_what_is_hidden_is_no_problem(text, points, chosen):
    away = np.array([[point] for point in points if point])
    function = Function(FunctionTask(parse(text), len(away), 2))
    assert function.problems(away, function.run(away)) == {}
    assert analyse(function, away).problems == {}


@every(("text", "points", "chosen"), HIDDEN)
def test_formulas_of_derivatives_have_the_values_of_what_is_chosen(text, points, chosen):
    typed = formulas_of(parse(text))
    again = results(typed.gradient[0].text, [point for point in points if point] or [1.0], "x").values
    expected = results(text, [point for point in points if point] or [1.0]).gradients[:, 0]
    np.testing.assert_allclose(again, expected, rtol=1e-12)


def at_seam(text, point):
    function = Function(FunctionTask(parse(text), 1, 2))
    found = analyse(function, np.array([[point]]))
    kinds = [problem.kind for problem in found.problems.get(0, ())]
    return found.results.values[0], found.results.gradients[0, 0], found.results.hessians[0, 0, 0], kinds


@every(
    ("text", "point", "value", "slope", "curvature", "kinds"),
    [
        ("where(x, sin(x)/x, 1)", 0.0, 1.0, 0.0, -1.0 / 3.0, []),
        ("where(x, x, 0)", 0.0, 0.0, 1.0, 0.0, []),
        ("where(x > 0, x^3, 0)", 0.0, 0.0, 0.0, 0.0, []),
        ("where(x > 0, x^2, 0)", 0.0, 0.0, 0.0, math.nan, ["kink"]),
        ("where(x > 1, x^2, 2x - 1)", 1.0, 1.0, 2.0, math.nan, ["kink"]),
        ("where(x > 0, sqrt(x), 0)", 0.0, 0.0, math.nan, math.nan, ["jump"]),
        ("where(x, 2x, 1)", 0.0, 1.0, 0.0, math.nan, ["jump", "jump"]),
        ("where(x, where(x > 0, 1, 0), x + 1)", 0.0, 1.0, math.nan, math.nan, ["jump"]),
        ("where(x >= 2, 5, x)", 2.0, 5.0, 0.0, math.nan, ["jump", "jump"]),
        ("where(sqrt(x) > 1, x, 2x)", -1.0, math.nan, math.nan, math.nan, ["domain"]),
    ],
)
def test_the_seam(text, point, value, slope, curvature, kinds):
    found = at_seam(text, point)
    np.testing.assert_allclose(found[:3], [value, slope, curvature], rtol=1e-12)
    assert found[3] == kinds


def test_a_condition_without_a_value_chooses_nothing():
    found = results("where(sqrt(x) > 1, x, 2x)", [-1.0, 4.0])
    np.testing.assert_array_equal(found.values, [math.nan, 4.0])
    np.testing.assert_array_equal(found.gradients[1], [1.0])


def test_backpropagation_passes_what_is_chosen_alone():
    graph = ExpressionGraph(parse("where(x > 0, sqrt(x), y^2)"))
    found = graph.run(np.array([-4.0, 3.0]))
    by_name = dict(zip([vertex.name for vertex in graph.vertices], found.adjoints, strict=True))
    assert (by_name["x"], by_name["y"]) == (0.0, 6.0)
    assert "where" in {vertex.operation for vertex in graph.vertices}
    assert not np.isnan(found.adjoints).any()


def test_conditions_block_no_gradient():
    assert parse("where(x > 0, x, step(y)*x)").flat_words == ["step"]
    assert parse("where(x > 0, x, 2x)").flat_words == []
    assert parse("(x > 0)*x").flat_words == ["greater"]
