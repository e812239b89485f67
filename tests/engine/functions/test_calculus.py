"""The analysis of a point: steepness, direction, class and curvature."""

import math

import numpy as np

from service.engine.arrays import norms_of
from service.engine.functions.calculus import (
    CLASSES,
    DEGENERATE,
    MAXIMUM,
    MINIMUM,
    NOT_STATIONARY,
    SADDLE,
    STATIONARY,
    UNDEFINED,
    along,
    classify,
    eigen,
)
from tests.engine.functions.building import calculus
from tests.support import every

NAN, INF = math.nan, math.inf


def random_symmetric(count, size, seed=0):
    matrices = np.random.default_rng(seed).normal(size=(count, size, size))
    return matrices + matrices.transpose(0, 2, 1)


# --- norms and directions -----------------------------------------------------------------------


@every(
    ("row", "norm"),
    [
        ((3.0, 4.0), 5.0),
        ((0.0, 0.0), 0.0),
        ((-0.0, 0.0), 0.0),
        ((3e200, 4e200), 5e200),
        ((3e-200, -4e-200), 5e-200),
        ((1e308, 1e308), math.sqrt(2.0) * 1e308),
        ((1.7e308, 1.7e308), INF),
        ((5e-324, 0.0), 5e-324),
        ((1e-160, 1.0), 1.0),
        ((INF, 1.0), INF),
        ((-INF, 0.0), INF),
        ((NAN, 1.0), NAN),
    ],
)
def test_norms_neither_overflow_nor_vanish(row, norm):
    with np.errstate(all="ignore"):
        found = norms_of(np.array([row, (3.0, 4.0)]))
    np.testing.assert_allclose(found, [norm, 5.0], rtol=4e-16)


def test_norms_do_not_depend_on_their_neighbours():
    rows = np.random.default_rng(5).normal(size=(64, 3)) * 10.0 ** np.random.default_rng(6).integers(-200, 200, (64, 1))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(norms_of(rows), [norms_of(row[None])[0] for row in rows])


def test_directions_are_those_of_steepest_ascent():
    found = calculus("x^2 + 3y", [(2.0, 0.0), (-2.0, 1.0)])
    np.testing.assert_allclose(found.norms, [5.0, 5.0], rtol=1e-15)
    np.testing.assert_allclose(found.directions, [(0.8, 0.6), (-0.8, 0.6)], rtol=1e-15)
    assert not found.stationary.any()


@every("scale", [1e-150, 1e-7, 1.0, 1e150])
def test_directions_have_length_one_at_any_scale(scale):
    found = calculus(f"{scale}*(3x + 4y)", [(1.0, 2.0)], tolerance=0.0)
    np.testing.assert_allclose(found.directions, [(0.6, 0.8)], rtol=1e-14)


def test_there_is_no_direction_where_the_gradient_is_zero():
    found = calculus("x^2 + y^2", [(0.0, 0.0), (STATIONARY / 4.0, 0.0), (STATIONARY, 0.0)])
    assert found.stationary.tolist() == [True, True, False]
    assert np.isnan(found.directions[:2]).all()
    assert found.directions[2].tolist() == [1.0, 0.0]


def test_the_tolerance_is_the_callers():
    point = [(0.001, 0.0)]
    assert calculus("x^2 + y^2", point).classes == [NOT_STATIONARY]
    loose = calculus("x^2 + y^2", point, tolerance=0.01)
    assert (loose.classes, loose.stationary.tolist()) == ([MINIMUM], [True])
    assert calculus("x^2 + y^2", [(0.0, 0.0)], tolerance=0.0).classes == [MINIMUM]


def test_without_second_derivatives_nothing_is_reported_of_curvature():
    found = calculus("x^2 + y^2", [(1.0, 0.0)], order=1)
    assert found.norms.tolist() == [2.0]
    for part in (found.eigenvalues, found.eigenvectors, found.classes, found.condition_numbers, found.stable_steps):
        assert part is None
    assert found.finite.tolist() == [True]


def test_directional_derivatives():
    gradients = np.array([[3.0, -4.0], [0.0, 0.0], [1e200, 1e200]])
    found = along(gradients, np.array([[1.0, 0.0], [0.0, 7.0], [3.0, -4.0], [-2.0, 0.0]]))
    expected = [[3.0, -4.0, 5.0, -3.0], [0.0] * 4, [1e200, 1e200, -2e199, -1e200]]
    np.testing.assert_allclose(found, expected, rtol=4e-15)


def test_directions_may_have_any_length():
    found = along(np.array([[3.0, -4.0]]), np.array([[-2e200, 0.0], [3e-200, -4e-200]]))
    np.testing.assert_allclose(found, [[-3.0, 5.0]], rtol=1e-15)


def test_a_point_without_a_value_has_no_derivatives():
    found = calculus("log(x)", [-1.0, 2.0])
    for part in (*found.results, found.norms, found.directions, found.eigenvalues, found.eigenvectors):
        assert np.isnan(part[0]).all()
        assert np.isfinite(part[1]).all()
    assert not found.stationary[0]


# --- kinds of places ----------------------------------------------------------------------------

PLACES = [
    ("x^2 + y^2", (0.0, 0.0), MINIMUM),
    ("x^2 + 1000*y^2 + x*y", (0.0, 0.0), MINIMUM),
    ("-x^2 - 3y^2", (0.0, 0.0), MAXIMUM),
    ("x^2 - y^2", (0.0, 0.0), SADDLE),
    ("x*y", (0.0, 0.0), SADDLE),
    ("x^2 - y^2 + 0z", (0.0, 0.0, 1.0), SADDLE),
    ("x^4 + y^4", (0.0, 0.0), DEGENERATE),
    ("x^2 + y^4", (0.0, 0.0), DEGENERATE),
    ("-x^2 + y^3", (0.0, 0.0), DEGENERATE),
    ("x^3 - 3x*y^2", (0.0, 0.0), DEGENERATE),
    ("5 + 0x", (2.0,), DEGENERATE),
    ("x^3", (0.0,), DEGENERATE),
    ("x^2 + y^2", (1.0, 0.0), NOT_STATIONARY),
    ("exp(x)", (-17.0,), NOT_STATIONARY),
    ("exp(x)", (-19.0,), DEGENERATE),
    ("x^3", (1e-5,), DEGENERATE),
    ("log(x) + y", (-1.0, 0.0), UNDEFINED),
    ("sqrt(x)", (0.0,), UNDEFINED),
    ("sqrt(x^2 + y^2)", (0.0, 0.0), UNDEFINED),
    ("1/x", (0.0,), UNDEFINED),
    ("x^1.5", (0.0,), UNDEFINED),
]


@every(("text", "point", "kind"), PLACES)
def test_kinds_of_places(text, point, kind):
    assert calculus(text, [point], "xyz"[: len(point)]).classes == [kind]


def test_all_kinds_are_tried():
    assert {kind for _, _, kind in PLACES} == set(CLASSES)


@every("scale", [1e-12, 1e-3, 1.0, 1e9])
def test_kinds_do_not_depend_on_the_scale_of_curvature(scale):
    texts = {"x^2 + 2y^2": MINIMUM, "-x^2 - y^2": MAXIMUM, "x*y": SADDLE, "x^2 + y^4": DEGENERATE}
    for text, kind in texts.items():
        assert calculus(f"{scale}*({text})", [(0.0, 0.0)]).classes == [kind]


def test_eigenvalues_within_doubt_count_as_flat():
    norms = np.zeros(4)
    doubt = np.full(4, 1e-8)
    eigenvalues = np.array([[5e-9, 1.0], [-5e-9, 1.0], [3e-8, 1.0], [-3e-8, 1.0]])
    assert classify(norms, norms <= 0.0, eigenvalues, doubt) == [DEGENERATE, DEGENERATE, MINIMUM, SADDLE]


def test_a_curvature_counts_if_it_exceeds_its_change():
    """The curvature is taken as far to both sides as the place of a stationary point is uncertain."""
    cases = {
        "x - sin(x)": ((6.283185307179586,), (1e-9,), (0.0,)),
        "(1 - cos(x))^2": ((0.0,), (-6e-9,)),
        "x^3": ((1e-5,), (-1e-5,)),
    }
    for text, points in cases.items():
        assert calculus(text, list(points)).classes == [DEGENERATE] * len(points)
    assert calculus("x^2 - 1e-9*y^2", [(0.0, 0.0)]).classes == [SADDLE]
    assert calculus("1e10*x^2 + y^2", [(0.0, 0.0)]).classes == [MINIMUM]


@every(("scale", "tolerance"), [(1e-6, STATIONARY), (1.0, 1.0)])
def test_a_place_near_a_minimum_is_one_to_the_tolerance(scale, tolerance):
    assert calculus(f"{scale}*(x^2 + y^2)", [(1e-3, 0.0)], tolerance=tolerance).classes == [MINIMUM]
    assert calculus(f"{scale}*(x^2 + y^2)", [(0.1, 0.0)], tolerance=tolerance).classes != [DEGENERATE]


def test_points_that_are_not_finite_have_no_class():
    norms = np.array([NAN, INF, 0.0, 1.0])
    eigenvalues = np.array([[1.0], [1.0], [NAN], [NAN]])
    assert classify(norms, norms <= 1e-8, eigenvalues, np.zeros(4)) == [UNDEFINED, UNDEFINED, UNDEFINED, NOT_STATIONARY]


# --- curvature ----------------------------------------------------------------------------------


@every("size", [1, 2, 3, 8, 20])
def test_eigenvectors(size):
    matrices = random_symmetric(20, size, seed=size)
    values, vectors = eigen(matrices)
    assert (np.diff(values) >= 0.0).all()
    for matrix, own, rows in zip(matrices, values, vectors, strict=True):
        np.testing.assert_allclose(rows @ matrix, own[:, None] * rows, atol=1e-13 * np.abs(matrix).sum())
        np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-14)
        assert (rows[np.arange(size), np.abs(rows).argmax(1)] > 0.0).all()


def test_eigenvectors_of_matrices_that_are_not_finite_are_nan():
    matrices = random_symmetric(3, 2)
    matrices[1, 0, 1] = NAN
    values, vectors = eigen(matrices)
    alone_values, alone_vectors = eigen(matrices[[0, 2]])
    assert np.isnan(values[1]).all()
    assert np.isnan(vectors[1]).all()
    np.testing.assert_array_equal(values[[0, 2]], alone_values)
    np.testing.assert_array_equal(vectors[[0, 2]], alone_vectors)


def test_condition_numbers_and_stable_steps():
    found = calculus("x^2/2 + 50y^2", [(0.0, 0.0), (1.0, 0.0)])
    np.testing.assert_allclose(found.eigenvalues, [(1.0, 100.0)] * 2, rtol=1e-15)
    np.testing.assert_allclose(found.condition_numbers, [100.0, NAN], rtol=1e-15)
    np.testing.assert_allclose(found.stable_steps, [0.02, NAN], rtol=1e-15)
    top = calculus("-x^2/2 - 50y^2", [(0.0, 0.0)])
    np.testing.assert_allclose(top.condition_numbers, [100.0], rtol=1e-15)
    assert np.isnan(top.stable_steps).all()
    for text in ("x*y", "x^4 + y^4"):
        other = calculus(text, [(0.0, 0.0)])
        assert np.isnan(other.condition_numbers).all()
        assert np.isnan(other.stable_steps).all()


def test_points_are_finite_or_not():
    found = calculus("log(x) + x^1.5", [1.0, 0.0, -1.0, 2.0])
    assert found.finite.tolist() == [True, False, False, True]
    assert set(found.problems) == {1, 2}


def test_points_together_are_as_one_by_one():
    points = np.random.default_rng(7).uniform(-2.0, 2.0, (40, 2))
    text = "x^4 - 3x^2 + x*y + sin(3y)"
    together = calculus(text, points)
    for place, point in enumerate(points):
        alone = calculus(text, point[None])
        for name in ("norms", "directions", "eigenvalues", "eigenvectors", "condition_numbers"):
            np.testing.assert_array_equal(getattr(together, name)[place], getattr(alone, name)[0], name)
        assert together.classes[place] == alone.classes[0]
