"""Saturating functions and bell curves keep their digits: value, slope and second derivative against 60 digits."""

import numpy as np
from mpmath import mpf

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.graph.operations import broadcast
from tests.reference import settled, ulps
from tests.series import Series, function_of, number
from tests.support import every

MAGNITUDES = (
    0.0,
    1e-300,
    1e-8,
    0.0625,
    0.3,
    0.99,
    1.0,
    2.2,
    5.7,
    9.99,
    20.0,
    25.9,
    37.2,
    40.0,
    88.5,
    300.0,
    1e4,
    1e308,
)


@every("dtype", ["float64", "float32"])
@every(
    "name", ["tanh", "sigmoid", "softplus", "erf", "erfc", "gaussian", "normal_cdf", "normal_density", "tanh_shrink"]
)
def test_functions_keep_the_digits_of_values_and_derivatives(name, dtype):
    with np.errstate(over="ignore"):
        points = np.array([sign * x for x in MAGNITUDES for sign in (-1.0, 1.0)]).astype(dtype)
    points = points[np.isfinite(points)]
    graph = Graph(dtype)
    x = graph.input("x", points.shape)
    outputs = [graph.apply(name, x)]
    for _ in range(2):
        outputs += differentiate(outputs[-1], [x], broadcast(graph.constant(1.0), x.shape)).nodes
    values = interpret(outputs, {x: points})
    wrong = []
    for place, at in enumerate(points.tolist()):
        exact = settled(lambda at=at: function_of(name, Series(number(at), mpf(1))).parts)
        for order, (node, wanted) in enumerate(zip(outputs, exact, strict=True)):
            found = float(values[node][place])
            below = abs(wanted) < np.finfo(dtype).tiny and abs(found) < np.finfo(dtype).tiny
            if not below and ulps(found, wanted, dtype) > 8.0:
                wrong.append((order, at, found, float(wanted)))
    assert not wrong
