"""The kinks that a box cannot reach, by ranges of the steps of an expression."""

import numpy as np

from service.engine.functions.expression import parse
from service.engine.functions.ranges import kinks_within, ranges_of
from tests.engine.functions.building import function
from tests.support import every


@every(
    ("text", "low", "high", "kinks"),
    [
        ("sqrt(x^2 + y^2)", -2, 2, 1),
        ("sqrt(x^2 + y^2)", 1, 2, 0),
        ("sqrt(1 + x^2)", -2, 2, 0),
        ("(x*x + 1)^0.5", -2, 2, 0),
        ("sqrt(2 + sin(x))", -2, 2, 0),
        ("sqrt(1 - exp(-1e4*x^2))", -2, 2, 1),
        ("sqrt(x*y)", 0.5, 3, 0),
        ("cbrt(x)", -1, 1, 1),
        ("x^(2/3)", 0, 1, 1),
        ("(x^2)^0.75", -1, 1, 1),
        ("x^1.5", 1, 2, 0),
        ("x^2.5", 0, 1, 0),
        ("|x + 3|", -2, 2, 0),
        ("|sin(50x)|", -2, 2, 1),
        ("floor(x)", 0.2, 0.3, 1),
        ("max(x, y)", -1, 1, 1),
        ("acos(x)", -1, 1, 1),
        ("hypot(x, y)", -1, 1, 1),
        ("x^2 + exp(y)", -1, 1, 0),
    ],
)
def test_kinks_that_a_box_reaches_are_reported(text, low, high, kinks):
    compiled = function(text, 1, 2)
    ends = (np.full(compiled.dimension, float(end)) for end in (low, high))
    assert len(kinks_within(compiled, *ends)) == kinks


@every(
    "text",
    ["(x - y)*(x + 2)/3 - x^4", "sqrt(x*x + 2)*exp(-y)", "|x*y| - sin(x)*3", "-(x - 1)^2 - tanh(y)", "cbrt(x)*y"],
)
def test_ranges_hold_all_values(text):
    rng = np.random.default_rng(5)
    low, high = np.array([-1.3, -0.4]), np.array([2.1, 0.9])
    points = rng.uniform(low, high, (2_000, 2))
    values = function(text, 2_000, 0, ("x", "y")).run(points).values
    least, most = ranges_of(parse(text, ("x", "y")), low.tolist(), high.tolist())[-1]
    assert least <= values.min() and values.max() <= most
