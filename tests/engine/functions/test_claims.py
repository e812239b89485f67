"""The claims of a search: any conditioning, curves of stationary points, and warnings of missing points."""

import numpy as np

from service.engine.functions.calculus import DEGENERATE, MAXIMUM, MINIMUM, SADDLE, analyse
from service.engine.functions.stationary import search
from tests.engine.functions.building import function
from tests.engine.functions.claims import check, others, quadratics
from tests.support import every


def searched(text, low, high, starts=500, variables=None):
    compiled = function(text, 512, 2, variables)
    found = search(compiled, np.array(low, float), np.array(high, float), starts)
    return found, analyse(compiled, found.points, np.inf, None, found.flat).classes or []


def rotated(steep, exact=False):
    """Return a bowl with its axes along (3, 4) and (4, -3), and its minimum at (0.84, 0.62)."""
    return f"{steep}*(0.6*x + 0.8*y - 1)^2 + (0.8*x - 0.6*y - 0.3)^2"


def test_random_quadratics():
    wrong, outcomes = check(quadratics(np.random.default_rng(7), 20))
    assert wrong == []
    assert sum(count for name, count in outcomes.items() if name.endswith(": found")) > 12


def test_random_functions():
    wrong, outcomes = check(others(np.random.default_rng(7), 6))
    assert wrong == []
    assert outcomes.get("other: found", 0) >= 2


@every(
    ("text", "point"),
    [
        ("1e14*x^2 + y^2", (0.0, 0.0)),
        ("1e14*(x - 1/3)^2 + (y - 1/7)^2", (1 / 3, 1 / 7)),
        ("1e30*(x - 1/3)^2 + (y - 1/7)^2", (1 / 3, 1 / 7)),
        ("1e14*x^2 - 2e14*x/3 + y^2 - 2*y/7", (1 / 3, 1 / 7)),
        ("1e-12*(x - 1)^2 + 1e12*(y + 1)^2", (1.0, -1.0)),
        (rotated("1"), (0.84, 0.62)),
        (rotated("1e8"), (0.84, 0.62)),
        (rotated("1e14"), (0.84, 0.62)),
    ],
)
def test_the_one_minimum_of_a_bowl(text, point):
    found, classes = searched(text, (-2, -2), (2, 2))
    assert classes == [MINIMUM]
    np.testing.assert_allclose(found.points[0], point, atol=1e-9)
    assert found.complete and not found.curves and not len(found.hidden)


def test_points_hidden_by_rounding_are_admitted():
    """The curvature of 1 is lost in the rounding of those of 1e16, and with it the place."""
    found, _ = searched(rotated("1e16"), (-2, -2), (2, 2))
    assert len(found.points) == 0
    assert len(found.hidden) > 0 and not found.curves


@every("height", ["1e-100", "1e-30", "1", "1e30", "1e100"])
@every("width", [1e-6, 1.0, 1e6])
def test_neither_the_scale_of_values_nor_that_of_places_matters(height, width):
    text = f"{height}*((x/{width})^4 - 2*(x/{width})^2 + 1e-6*(y/{width})^2)"
    found, classes = searched(text, (-2 * width, -2 * width), (2 * width, 2 * width))
    assert classes == [MINIMUM, MINIMUM, SADDLE]
    np.testing.assert_allclose(found.points / width, [(-1, 0), (1, 0), (0, 0)], atol=1e-12)


@every(
    ("text", "low", "high", "on_curve"),
    [
        ("((x + y)/2 - sqrt(x*y))^2", (0.5, 0.5), (3, 3), lambda x, y: x - y),
        ("(x*y)^4", (0.5, -1), (3, 1), lambda x, y: y),
        ("(x*y)^4", (-2, -2), (2, 2), lambda x, y: x * y),
        ("(x*(y - 1/3))^4", (0.5, -1), (3, 1), lambda x, y: y - 1 / 3),
        ("(x - y)^2", (-2, -2), (2, 2), lambda x, y: x - y),
        ("(0.6*x + 0.8*y - 1)^2", (-2, -2), (2, 2), lambda x, y: 0.6 * x + 0.8 * y - 1),
        ("1e14*(x - y)^2", (-2, -2), (2, 2), lambda x, y: x - y),
        ("(x^2 + y^2 - 1)^2", (-2, -2), (2, 2), lambda x, y: np.hypot(x, y) - 1),
        ("(x*y - 1)^2 + 5", (0.5, 0.5), (3, 3), lambda x, y: x * y - 1),
        ("cos(0.3*x + 0.7*y)", (-2, -2), (2, 2), lambda x, y: 0.3 * x + 0.7 * y),
    ],
)
def test_points_of_a_curve_are_reported_and_that_there_are_more(text, low, high, on_curve):
    found, classes = searched(text, low, high, variables=("x", "y"))
    assert found.curves and not found.complete
    dense = found.points[found.flat]
    assert len(dense) > 10 and {kind for kind, flat in zip(classes, found.flat, strict=True) if flat} == {DEGENERATE}
    np.testing.assert_allclose(on_curve(*dense.T), 0.0, atol=1e-3 if "^4" in text else 1e-7)
    assert np.ptp(function(text, 1, 0, ("x", "y")).run(dense).values) <= 1e-12


@every(
    ("text", "low", "high", "point"),
    [
        ("x^4", (-1,), (2,), (0,)),
        ("x^3", (-1,), (2,), (0,)),
        ("(x - 0.3)^4", (-1,), (2,), (0.3,)),
        ("x^4 - 0.4*x^3 + 0.06*x^2 - 0.004*x + 0.0001", (-1,), (2,), (0.1,)),
        ("x^4 + 1e-8*y^2", (-1, -1), (2, 2), (0, 0)),
        ("1e20*x^4 + y^2", (-1, -1), (2, 2), (0, 0)),
        ("x^3 - 3x*y^2", (-1, -1), (2, 2), (0, 0)),
        ("x^4 + y^4", (-1, -1), (2, 2), (0, 0)),
        ("1 - cos(x^2 + y^2)", (-1, -1), (1.2, 1), (0, 0)),
    ],
)
def test_a_degenerate_point_is_no_curve(text, low, high, point):
    found, classes = searched(text, low, high)
    assert classes == [DEGENERATE]
    np.testing.assert_allclose(found.points[0], point, atol=1e-5)
    assert found.complete and not found.curves and not len(found.hidden)


@every(
    ("text", "low", "high"),
    [
        ("exp(x)", (-100,), (0,)),
        ("exp(x) + y^2", (-100, -1), (0, 1)),
        ("exp(-30x) + y^2", (-1, -1), (4, 1)),
        ("1/x", (1e6,), (1e6 + 1,)),
        ("exp(x)", (100,), (100 + 1e-5,)),
        ("x + y^2", (-2, -2), (2, 2)),
        ("x + y + (x - y)^2", (-2, -2), (2, 2)),
        ("|x| + |y|", (-2, -2), (2, 3)),
        ("1e-20*x + y^2", (-2, -2), (2, 2)),
    ],
)
def test_where_the_gradient_only_becomes_short_nothing_is_claimed(text, low, high):
    found, _ = searched(text, low, high)
    assert len(found.points) == 0 and found.complete and not found.curves and not len(found.hidden)


@every(
    ("text", "dimension"),
    [
        ("0.0372*sqrt(-0.801x - 2.85y + 2.64z - 0.94)*cos(2.83x + 2.83z - 0.38)", 3),
        ("0.0136*sqrt(-1.45x - 0.562y + 1.5z + 0.67)*sin(1.55x + 1.1z - 0.72)", 3),
        ("sqrt(0.7x + y - 0.3)*sin(2x - y)", 2),
        ("sqrt(0.3 - x)*(x - 0.3 + y)", 2),
        ("74.6*abs(1.09x - 0.84)*abs(-1.26x - 0.84y + 0.664z - 0.042) + 2.21*(0.29 - 2.28x)^4", 3),
    ],
)
def test_beside_a_border_or_a_kink_newtons_step_becomes_short_but_not_the_gradient(text, dimension):
    """The tested roots have a factor that vanishes with them, or a slope that continues on another side of a kink."""
    for half in (1.9, 3.1, 7.0):
        found, _ = searched(text, [-half] * dimension, [half] * dimension, 256)
        gradients = function(text, 512, 1).run(found.points).gradients
        assert np.abs(gradients).max(initial=0.0) < 1e-7


def test_points_on_a_kink_are_not_reported():
    """A curve of minima crosses the kink, where there is no second derivative."""
    found, classes = searched("0.609*log(1 + (2.53x - 0.14)^2)*abs(-1.95y + 2.89z - 0.1)", [-1.42] * 3, [1.42] * 3, 256)
    assert found.curves and set(classes) <= {DEGENERATE, SADDLE, MINIMUM}


def test_the_lowest_minimum_in_a_long_valley():
    """Newton's method for the gradient is drawn to the bends of the valley from nearly everywhere."""
    text = (
        "1.46*tanh(1.12x + 2.83y - 2.83z - 0.073)/(1 + (2.04y + 0.117z + 0.029)^2)"
        " + 7.86*exp(0.526x - 1.91y + 0.56) + 603*cos(-0.765x - 0.376y + 0.21z + 0.17)"
    )
    found, classes = searched(text, [-4.82837357] * 3, [4.82837357] * 3, 256)
    assert classes[0] == MINIMUM
    np.testing.assert_allclose(found.points[0], (-4.216853305, 0.253013533, -0.751841952), atol=1e-8)
    assert found.unseen > 0.02  # no other start came there


def test_far_out_on_a_plateau_a_gradient_that_underflows_is_none():
    found, classes = searched("exp(-x^2)", (-100,), (100,), 1000)
    assert found.points.tolist() == [[0.0]] and classes == [MAXIMUM]
    assert found.complete and not found.curves


def test_more_points_than_are_reported_are_no_curve():
    found, classes = searched("sin(100x)", (-10,), (10,), 2000)
    assert len(found.points) == 500 and not found.complete and not found.curves
    # The lowest of them: all minima, then some maxima.
    assert [classes.count(kind) for kind in (MINIMUM, MAXIMUM)] == [318, 182]


def test_the_unseen_share_is_large_for_too_few_starts():
    schaffer = "0.5 + (sin(x^2 - y^2)^2 - 0.5)/(1 + 0.001*(x^2 + y^2))^2"
    assert searched(schaffer, (-100, -100), (100, 100), 1024)[0].unseen > 0.5
    assert searched("sin(100x)", (-10,), (10,), 500)[0].unseen > 0.3
    for text in ("(x^2 + y - 11)^2 + (x + y^2 - 7)^2", "(1 - x)^2 + 100*(y - x^2)^2", "x^2 + y^2", "x + y"):
        assert searched(text, (-5, -5), (5, 5))[0].unseen < 0.02
