"""The search for places where the gradient is zero: known functions, and those to learn with."""

import math

import numpy as np
import pytest

from service.engine.arrays import norms_of
from service.engine.errors import DeadlineExceeded
from service.engine.functions.calculus import DEGENERATE, MAXIMUM, MINIMUM, SADDLE
from service.engine.functions.compiled import BLOCK
from service.engine.functions.newton import distinct, near, polish, refine
from service.engine.functions.presets import presets
from service.engine.functions.stationary import SAME_VALUE, lowest_first, search, spread
from tests.engine.functions.building import calculus, function
from tests.support import every
from tests.watches import Looks

STARTS = 900
WITHOUT_SLOPE = {"bukin_6", "ackley", "absolute_value"}
"""Their lowest point has no gradient."""


def assert_ascending(values):
    """Assert the order by value; values that are equal but for rounding may be in any order."""
    assert (np.diff(values) >= -2.0 * SAME_VALUE * np.maximum(1.0, np.abs(values[1:]))).all()


def found_in(text, low, high, starts=STARTS, variables=None):
    compiled = function(text, BLOCK // 4, 2, variables)
    return search(compiled, np.array(low, float), np.array(high, float), starts)


def assert_stationary(text, found, variables=None):
    """Assert points sorted by value, apart from each other, and with gradients that rounding explains."""
    analysed = calculus(text, found.points, variables)
    assert_ascending(analysed.results.values)
    distances = np.abs(found.points[:, None] - found.points[None]).max(-1) + np.eye(len(found.points))
    assert distances.min() > 1e-6
    curvature = np.abs(analysed.eigenvalues).max(-1)
    assert (analysed.norms <= 1e-15 * np.maximum(1.0, curvature) * np.maximum(1.0, norms_of(found.points))).all()
    return analysed


def test_himmelblau():
    text = "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"
    found = found_in(text, (-5, -5), (5, 5))
    assert found.complete
    analysed = assert_stationary(text, found)
    assert sorted(analysed.classes) == [MAXIMUM] + [MINIMUM] * 4 + [SADDLE] * 4
    assert analysed.classes[:4] == [MINIMUM] * 4
    assert analysed.classes[-1] == MAXIMUM
    known = {(minimum.point, 0.0) for minimum in presets["himmelblau"].minima}
    for point, _ in known:
        assert np.abs(found.points[:4] - point).max(1).min() < 1e-12
    # Those of whole numbers are found as such.
    assert [3.0, 2.0] in found.points.tolist()


def test_rastrigin():
    text = "20 + x^2 - 10*cos(2*pi*x) + y^2 - 10*cos(2*pi*y)"
    found = found_in(text, (-5.12, -5.12), (5.12, 5.12), 4000)
    analysed = assert_stationary(text, found)
    assert found.complete
    assert len(found.points) == 441
    counts = {kind: analysed.classes.count(kind) for kind in (MINIMUM, SADDLE, MAXIMUM)}
    assert counts == {MINIMUM: 121, SADDLE: 220, MAXIMUM: 100}
    assert found.points[0].tolist() == [0.0, 0.0]


def test_double_well():
    text = "x^4 - 3x^2 + x"
    found = found_in(text, (-2,), (2,), 50)
    analysed = assert_stationary(text, found)
    assert analysed.classes == [MINIMUM, MINIMUM, MAXIMUM]
    roots = np.sort(np.roots([4.0, 0.0, -6.0, 1.0]).real)
    np.testing.assert_allclose(np.sort(found.points[:, 0]), roots, rtol=1e-14)


def test_monkey_saddle():
    """The search finds a place once where Newton's method only halves the distance at each step."""
    text = "x^3 - 3x*y^2"
    found = found_in(text, (-1.5, -1.5), (1.5, 1.5))
    assert found.points.tolist() == [[0.0, 0.0]]
    assert calculus(text, found.points).classes == [DEGENERATE]


def test_styblinski_tang():
    text = "(x^4 - 16x^2 + 5x + y^4 - 16y^2 + 5y)/2"
    found = found_in(text, (-5, -5), (5, 5))
    analysed = assert_stationary(text, found)
    roots = np.sort(np.roots([4.0, 0.0, -32.0, 5.0]).real)
    expected = sorted((a, b) for a in roots for b in roots)
    np.testing.assert_allclose(sorted(found.points.round(12).tolist()), expected, rtol=1e-11)
    assert [analysed.classes.count(kind) for kind in (MINIMUM, SADDLE, MAXIMUM)] == [4, 4, 1]


@every(
    ("text", "low", "high"),
    [
        ("exp(x)", (-30,), (5,)),
        ("x + y", (-1, -1), (1, 1)),
        ("atan(x)", (-1e4,), (1e4,)),
        ("1/x", (-5,), (5,)),
        ("sqrt(x)", (-1,), (1,)),
        ("x^2", (1,), (2,)),
        ("log(x)", (-2,), (-1,)),
        ("|x| + |y|", (-1, -1), (1, 1)),
        ("exp(x - y)", (-3, -3), (3, 3)),
    ],
)
def test_where_there_is_nothing_nothing_is_found(text, low, high):
    found = found_in(text, low, high, 100)
    assert found.points.shape == (0, len(low))
    assert found.complete


@every(
    ("text", "low", "high"),
    [("x^2 + 0y", (-1, -1), (1, 1)), ("(x - y)^2", (-2, -2), (2, 2)), ("(x^2 + y^2 - 1)^2", (-2, -2), (2, 2))],
)
def test_where_they_are_not_single_points_not_all_are_reported(text, low, high):
    found = found_in(text, low, high, 2500, ("x", "y"))
    assert not found.complete
    assert len(found.points) > 10
    np.testing.assert_allclose(calculus(text, found.points, ("x", "y")).norms, 0.0, atol=1e-12)


def test_only_points_in_the_box_are_reported():
    found = found_in("sin(x)", (0,), (7,), 40)
    np.testing.assert_allclose(sorted(found.points[:, 0]), [math.pi / 2, 3 * math.pi / 2], rtol=1e-15)
    border = found_in("x^2", (0,), (1,), 30)
    assert border.points.tolist() == [[0.0]]


@every("scale", [1e-9, 1e-3, 1e6, 1e100])
def test_the_scale_of_values_does_not_matter(scale):
    found = found_in(f"{scale}*(x^4 - 3x^2 + x)", (-2,), (2,), 50)
    roots = np.sort(np.roots([4.0, 0.0, -6.0, 1.0]).real)
    np.testing.assert_allclose(np.sort(found.points[:, 0]), roots, rtol=1e-12)


@every("size", [1e-6, 1e5])
def test_the_scale_of_places_does_not_matter(size):
    found = found_in(f"sin(x/{size})", (0,), (7 * size,), 40)
    expected = size * np.array([math.pi / 2, 3 * math.pi / 2])
    np.testing.assert_allclose(sorted(found.points[:, 0]), expected, rtol=1e-12)


def test_a_search_gives_the_same_again():
    text = "sin(3x)*cos(2y) + x*y/5"
    one, other = (found_in(text, (-3, -3), (3, 3)) for _ in range(2))
    np.testing.assert_array_equal(one.points, other.points)
    assert one.starts == other.starts


def test_many_variables():
    names = [f"x{place}" for place in range(8)]
    text = " + ".join(f"({name} - {place})^2" for place, name in enumerate(names)) + " + x0*x1"
    found = found_in(text, [-10] * 8, [10] * 8, 60, names)
    assert found.starts == 60
    analysed = assert_stationary(text, found, names)
    assert analysed.classes == [MINIMUM]
    np.testing.assert_allclose(found.points[0], [-2 / 3, 4 / 3, 2, 3, 4, 5, 6, 7], rtol=1e-14)


def test_the_deadline_is_kept():
    with pytest.raises(DeadlineExceeded):
        search(function("sin(x*y)", 64), np.zeros(2), np.ones(2), 100, Looks(0))


@every("preset", list(presets), ids=lambda preset: preset.name)
def test_presets(preset):
    """The search finds all points of a preset in its box."""
    low, high = (np.array(ends) for ends in zip(*preset.domain, strict=True))
    compiled = function(preset.expression, BLOCK // 4, 2, preset.variables)
    found = search(compiled, low, high, 4000 if preset.name in ("ackley", "rastrigin") else STARTS)
    assert found.complete
    places = [place.point for place in (*preset.stationary, *preset.minima)]
    if preset.name in WITHOUT_SLOPE:
        places.remove(preset.minima[0].point)
    for point in places:
        assert np.abs(found.points - point).max(1).min(initial=1.0) < 1e-6 * (high - low).max(), point
    if not len(found.points):
        return
    analysed = calculus(preset.expression, found.points, preset.variables)
    assert_ascending(analysed.results.values)
    # And all minima that are found are said to be there.
    minima = [point for point, kind in zip(found.points, analysed.classes, strict=True) if kind == MINIMUM]
    known = np.array([minimum.point for minimum in preset.minima]).reshape(-1, len(low))
    for point in minima:
        assert np.abs(known - point).max(1).min(initial=1.0) < 1e-6, point


# --- the parts ----------------------------------------------------------------------------------


def test_newtons_method_goes_no_farther_than_it_may():
    starts, reach = np.array([[5.0], [0.5], [0.1]]), np.array([0.1, 0.1, 1.0])
    refined = refine(function("x^2", 3), starts, reach, 3)
    np.testing.assert_allclose(refined.points[:, 0], [4.7, 0.2, 0.0], atol=1e-15)
    assert refined.arrived.tolist() == [False, False, True]


def test_a_gradient_that_is_short_everywhere_is_no_stationary_point():
    refined = refine(function("exp(x)", 2), np.array([[-40.0], [-300.0]]), np.array([1.0, 1.0]))
    assert not refined.arrived.any()
    refined = refine(function("1e-20*x", 1), np.array([[1.0]]), np.array([1.0]))
    assert not refined.arrived.any()


def test_starts_that_are_not_finite_stay_in_place():
    starts = np.array([[-1.0], [2.0]])
    refined = refine(function("x*log(x) - x", 2), starts, np.ones(2))
    assert refined.points[0].tolist() == [-1.0]
    assert refined.arrived.tolist() == [False, True]
    np.testing.assert_allclose(refined.points[1], [1.0], rtol=1e-15)


def test_polishing():
    near = np.array([[3.0000001, 1.9999999], [-0.27084459, -0.92303856]])
    exact = polish(function("(x^2 + y - 11)^2 + (x + y^2 - 7)^2", 2), near)
    assert exact[0].tolist() == [3.0, 2.0]
    np.testing.assert_allclose(exact[1], (-0.2708445906673476, -0.9230385564799815), rtol=1e-15)
    assert polish(function("x^2", 1), np.empty((0, 1))).shape == (0, 1)


def test_points_near_a_stationary_point():
    points = np.array([[1e-4], [0.1], [3.0]])
    assert near(function("x^2", 3), points, np.full(3, 0.01)).tolist() == [True, False, False]
    assert near(function("x^4", 3), points, np.full(3, 0.01)).tolist() == [True, False, False]
    assert near(function("sin(x)", 3), points, np.full(3, 2.0)).tolist() == [False, False, False]
    assert not near(function("exp(x)", 1), np.array([[-300.0]]), np.array([0.5])).any()


def test_the_lowest_first():
    points = np.array([[3.0, 0.0], [1.0, 5.0], [1.0, 2.0], [0.0, 9.0], [-1.0, 0.0]])
    values = np.array([2.0, 1.0 + 4e-16, 1.0, 1.0 - 4e-16, 1.5])
    assert lowest_first(points, values, 1.0).tolist() == [3, 2, 1, 4, 0]
    assert lowest_first(points, values * 1e-9, 1e9).tolist() == [4, 3, 2, 1, 0]
    assert lowest_first(points[:0], values[:0], 1.0).tolist() == []


def test_small_values_are_sorted_too():
    found = found_in("1e-14*(x^4 - 3x^2 + x)", (-2,), (2,), 50)
    np.testing.assert_allclose(found.points[:, 0], [-1.3008395659, 1.1309011226, 0.1699384433], rtol=1e-9)


def test_distinct():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [1e-9, -1e-9], [1.0, 1.0 + 5e-7], [1.0, 1.1], [0.0, 0.0]])
    chosen, groups = distinct(points, np.full(2, 1e-6), 10)
    assert len(chosen) == 3
    assert groups[0] == groups[2] == groups[5]
    assert groups[1] == groups[3]
    assert len({groups[0], groups[1], groups[4]}) == 3
    np.testing.assert_allclose(points[chosen[groups]], points, atol=1e-6)
    chosen, groups = distinct(points, np.full(2, 1e-6), 2)
    assert len(chosen) == 2
    assert sorted(set(groups.tolist())) == [-1, 0, 1]
    chosen, groups = distinct(points[:0], np.full(2, 1e-6), 2)
    assert (len(chosen), len(groups)) == (0, 0)


def test_distinct_by_lengths_in_proportion_to_the_places():
    """All cells away from 0 are of this size then."""
    places = np.array([1.0, 1.5, 2.0 * (1.0 - 1e-9), 2.0 * (1.0 + 1e-9), 1e3, 1.7e3, 1.7e3 + 1e-4, -1e3, 1e-3])[:, None]
    chosen, groups = distinct(places, 1e-6 * (1.0 + np.abs(places)), 10)
    assert len(chosen) == 7
    assert groups[2] == groups[3] and groups[5] == groups[6]
    assert len(set(groups.tolist())) == 7


@every(("dimension", "count"), [(1, 10), (1, 100), (2, 100), (3, 1000), (4, 500), (7, 200), (20, 64)])
def test_starts_fill_the_box(dimension, count):
    low, high = np.full(dimension, -3.0), np.linspace(1.0, 9.0, dimension)
    places = spread(low, high, count)
    assert 0.5 * count <= len(places) <= 2 * count
    size = high - low
    assert (np.abs(places - 0.5 * (low + high)) <= 0.7 * size).all()
    assert len(np.unique(places, axis=0)) == len(places)
    np.testing.assert_allclose(places.mean(0), 0.5 * (low + high), atol=0.1 * size.max())
    spreads = places.std(0) / size
    assert (spreads > 0.2).all() and (spreads < 0.45).all()
