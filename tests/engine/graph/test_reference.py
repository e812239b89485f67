"""The reference of many digits agrees with the engine on every operation, and with mpmath's own derivatives."""

import numpy as np
import pytest
from mpmath import mp, mpf

from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import OPERATIONS, Graph
from tests.engine.graph.examples import EXAMPLES, LEAVES
from tests.reference import RULES, evaluate, expand, settled, ulps
from tests.series import FUNCTIONS
from tests.support import every


def test_every_operation_has_a_rule():
    assert set(RULES) == set(OPERATIONS) - LEAVES


@every("example", EXAMPLES, ids=str)
def test_values_agree_with_the_engine(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    y = example.apply(inputs)
    values = dict(zip(inputs, example.values(), strict=True))
    (found,) = evaluate([y], values)
    np.testing.assert_allclose(found.astype(float), interpret([y], values)[y], rtol=1e-14, atol=1e-15)


@every("name", sorted(FUNCTIONS))
def test_functions_have_right_derivatives(name):
    value, slope, curvature = FUNCTIONS[name]
    with mp.workdps(60):
        for x in (mpf("1.375"), mpf("0.375"), mpf("-0.375")):
            if mp.isfinite(value(x)):
                assert mp.almosteq(slope(x), mp.diff(value, x), 1e-25, 1e-25)
                assert mp.almosteq(curvature(x), mp.diff(value, x, 2), 1e-18, 1e-18)


@every("name", ["divide", "multiply", "hypot", "atan2", "mod", "power", "xlogy", "maximum"])
def test_derivatives_along_a_line_agree_with_differences(name):
    graph = Graph("float64")
    a, b = graph.input("a", ()), graph.input("b", ())
    y = graph.apply(name, a, b)
    with mp.workdps(60):

        def along(t):
            return evaluate([y], {a: mpf("2.25") + t, b: mpf("0.875") - 3 * t})[0][()]

        ((value, first, second),) = expand([y], {a: mpf("2.25"), b: mpf("0.875")}, {a: 1.0, b: -3.0})
        assert mp.almosteq(value[()], along(mpf(0)), 1e-55)
        assert mp.almosteq(first[()], mp.diff(along, 0), 1e-25, 1e-25)
        assert mp.almosteq(second[()], mp.diff(along, 0, 2), 1e-18, 1e-18)


def test_one_sided_derivatives_at_a_kink():
    graph = Graph("float64")
    x = graph.input("x", ())
    y = graph.apply("maximum", x * x, graph.apply("absolute", x) * 3.0)
    ((_, right, _),) = expand([y], {x: 0.0}, {x: 1.0})
    ((_, left, _),) = expand([y], {x: 0.0}, {x: -1.0})
    assert (right[()], left[()]) == (3, 3)


def test_a_branch_not_taken_passes_nothing_and_unknown_derivatives_are_not_numbers():
    graph = Graph("float64")
    x = graph.input("x", ())
    outputs = [graph.apply("sqrt", graph.apply("maximum", x, 0.0)), graph.apply("sqrt", x * x)]
    (_, slope, curvature), _ = expand(outputs, {x: -1.0}, {x: 1.0})
    assert (slope[()], curvature[()]) == (0, 0)
    _, (_, slope, curvature) = expand(outputs, {x: 0.0}, {x: 1.0})
    assert mp.isnan(slope[()]) and mp.isnan(curvature[()])


def test_cancelling_values_are_computed_with_more_digits():
    graph = Graph("float64")
    x = graph.input("x", ())
    y = x - graph.apply("tanh", x)
    (found,) = settled(lambda: [array[()] for array in evaluate([y], {x: 1e-100})])
    assert float(found * mpf(10) ** 300) == pytest.approx(1.0 / 3.0, rel=1e-15)
    assert settled(lambda: [array[()] for array in evaluate([x - 2.0], {x: 2.0})]) == [0]


def test_distances_are_counted_in_last_places():
    assert ulps(1.0, mpf(1)) == 0.0
    assert ulps(np.nextafter(1.0, 2.0), mpf(1)) == 1.0
    assert ulps(np.nextafter(np.float32(1.0), np.float32(2.0)), mpf(1), "float32") == 1.0
    assert ulps(5e-324, mpf(0)) == 1.0
    assert ulps(float("inf"), mpf("1e400")) == 0.0
    assert ulps(1.7976931348623157e308, mpf("1e400")) == 0.5
    assert ulps(0.0, mpf("1e-400")) < 1e-70
    assert ulps(float("nan"), mpf(1)) == float("inf")
