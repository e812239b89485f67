"""The least squares line: against linear algebra, and its loss as an expression against the sum that it stands for."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.functions.expression import LONGEST_EXPRESSION, parse
from service.engine.functions.fit import LOSSES, MOST_WRITTEN, fit_line
from tests.engine.functions.building import calculus, results
from tests.support import every

NAMES = ("w", "b")


def noisy(count, seed=0, offset=0.0):
    chance = np.random.default_rng(seed)
    x = chance.uniform(-3.0, 5.0, count) + offset
    y = 1.7 * x - 0.4 + chance.normal(size=count)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def loss_of(points, loss, slope, intercept):
    squares = sum((y - (slope * x + intercept)) ** 2 for x, y in points)
    return squares * {"mean_squared_error": 1.0 / len(points), "squared_error": 1.0, "half_squared_error": 0.5}[loss]


@every("count", [2, 3, 10, 500])
def test_the_line_is_that_of_linear_algebra(count):
    points = noisy(count)
    x, y = np.array(points).T
    (slope, intercept), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)
    line = fit_line(points, "squared_error", NAMES)
    np.testing.assert_allclose([line.slope, line.intercept], [slope, intercept], rtol=1e-12)
    np.testing.assert_allclose(line.residuals, y - (slope * x + intercept), atol=1e-12)
    np.testing.assert_allclose([line.mean_x, line.mean_y], [x.mean(), y.mean()], rtol=1e-14)
    np.testing.assert_allclose(line.spread_x, ((x - x.mean()) ** 2).sum(), rtol=1e-13)
    np.testing.assert_allclose(line.spread_y, ((y - y.mean()) ** 2).sum(), rtol=1e-13)
    np.testing.assert_allclose(line.product, ((x - x.mean()) * (y - y.mean())).sum(), rtol=1e-12)
    np.testing.assert_allclose(line.r_squared, np.corrcoef(x, y)[0, 1] ** 2, rtol=1e-12)


@every("loss", LOSSES)
def test_losses(loss):
    points = noisy(7)
    line = fit_line(points, loss, NAMES)
    np.testing.assert_allclose(line.loss, loss_of(points, loss, line.slope, line.intercept), rtol=1e-14)


@every("count", [2, 5, MOST_WRITTEN, MOST_WRITTEN + 1, 400])
@every("loss", LOSSES)
def test_the_expression_is_the_loss(loss, count):
    points = noisy(count, seed=count)
    line = fit_line(points, loss, NAMES)
    assert len(line.expression) <= LONGEST_EXPRESSION
    assert line.expression.count("^2") == (count if count <= 36 else 2)
    places = np.random.default_rng(1).normal(size=(20, 2)) * 5.0
    found = results(line.expression, places, NAMES)
    np.testing.assert_allclose(found.values, [loss_of(points, loss, *place) for place in places], rtol=1e-12)
    # And its minimum is the line.
    analysed = calculus(line.expression, [(line.slope, line.intercept)], NAMES, tolerance=1e-9 * count)
    assert analysed.classes == ["minimum"]
    np.testing.assert_allclose(analysed.results.values, [line.loss], rtol=1e-11)


def test_the_expression_is_readable():
    points = [(1.0, 2.0), (0.0, -1.0), (-2.5, 0.0), (3.0, 4.5)]
    terms = "(w + b - 2)^2 + (b + 1)^2 + (-2.5*w + b)^2 + (3*w + b - 4.5)^2"
    assert fit_line(points, "squared_error", NAMES).expression == terms
    assert fit_line(points, "mean_squared_error", NAMES).expression == f"({terms})/4"
    assert fit_line(points, "half_squared_error", NAMES).expression == f"({terms})/2"
    assert fit_line(points, "squared_error", ("m", "c")).expression == terms.replace("w", "m").replace("b", "c")
    assert parse(terms).variables == ("b", "w")
    assert fit_line([(0.0, 0.0), (-1.0, -0.5)], "squared_error", NAMES).expression == "b^2 + (-1*w + b + 0.5)^2"


@every("offset", [1e4, -1e6])
def test_digits_are_kept_far_from_zero(offset):
    """The fit never subtracts squares of large numbers."""
    points = [(offset + x, 2.0 * x + y) for x, y in ((0.0, 0.25), (1.0, -0.25), (2.0, 0.25), (3.0, -0.25))]
    line = fit_line(points, "squared_error", NAMES)
    assert line.slope == pytest.approx(1.9, rel=1e-13)
    assert line.loss == pytest.approx(0.2, rel=1e-9)
    many = [(offset + x / 50.0, x / 25.0) for x in range(100)]
    line = fit_line(many, "mean_squared_error", NAMES)
    value = results(line.expression, [(line.slope, line.intercept + 1.0)], NAMES).values[0]
    assert value == pytest.approx(1.0, rel=1e-8)


def exactly(points):
    """Compute the right line in fractions."""
    count = len(points)
    xs, ys = [[Fraction(number) for number in numbers] for numbers in zip(*points, strict=True)]
    mean_x, mean_y = sum(xs) / count, sum(ys) / count
    spread_x, spread_y = sum((x - mean_x) ** 2 for x in xs), sum((y - mean_y) ** 2 for y in ys)
    product = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    slope = product / spread_x
    intercept = mean_y - slope * mean_x
    residuals = [y - (slope * x + intercept) for x, y in zip(xs, ys, strict=True)]
    squares = sum(residual**2 for residual in residuals)
    return {
        "slope": slope,
        "intercept": intercept,
        "residuals": residuals,
        "loss": squares,
        "r_squared": 1 - squares / spread_y,
        "mean_x": mean_x,
        "mean_y": mean_y,
        "spread_x": spread_x,
        "spread_y": spread_y,
        "product": product,
    }


@every(
    ("xs", "slope", "noise"),
    [
        ([1.6e9 + 60.0 * i for i in range(50)], 1e-3, 0.1),
        ([2000.0 + i for i in range(25)], 0.02, 0.1),
        ([1e15 + i for i in range(30)], -2.0, 0.1),
        ([1e15 + i for i in range(30)], 1.0, 0.0),
        (np.random.default_rng(3).normal(size=200).tolist(), 1.7, 1e-9),
    ],
    ids=["time stamps", "years", "large", "large and straight", "random"],
)
def test_every_number_is_the_exact_one(xs, slope, noise):
    chance = np.random.default_rng(0)
    points = [(x, slope * (x - xs[0]) + noise * chance.normal()) for x in xs]
    line = fit_line(points, "squared_error", NAMES)
    for name, expected in exactly(points).items():
        np.testing.assert_allclose(getattr(line, name), np.array(expected, float), rtol=1e-15, err_msg=name)


def test_a_perfect_fit():
    line = fit_line([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)], "mean_squared_error", NAMES)
    assert (line.slope, line.intercept, line.loss, line.r_squared) == (2.0, 1.0, 0.0, 1.0)
    assert line.residuals == [0.0, 0.0, 0.0]


def test_where_y_does_not_vary_nothing_is_explained():
    line = fit_line([(0.0, 2.0), (1.0, 2.0)], "squared_error", NAMES)
    assert (line.slope, line.intercept, line.r_squared) == (0.0, 2.0, None)


@every(
    ("points", "words"),
    [
        ([(1.0, 2.0)], "all have the same x"),
        ([(1.0, 2.0), (1.0, 3.0), (1.0, -4.0)], "all have the same x"),
        ([(1e200, 2.0), (-1e200, 3.0)], "scale them"),
        ([(1e308, 2.0), (1.7e308, 3.0), (1.1e308, 1.0)], "scale them"),
        ([(0.0, 1e200), (1.0, -1e200)], "scale them"),
        ([(0.0, 1e308), (1.0, 1e308)], "scale them"),
    ],
)
def test_points_without_a_line_are_refused(points, words):
    with pytest.raises(InvalidRequest, match=words) as refusal:
        fit_line(points, "squared_error", NAMES)
    assert [fault.path for fault in refusal.value.faults] == [("points",)]


def test_points_close_to_each_other():
    try:
        line = fit_line([(0.0, 0.0), (1e-170, 1e-170)], "squared_error", NAMES)
    except InvalidRequest as refusal:
        assert "all have the same x" not in str(refusal)  # noqa: PT017
    else:
        assert line.slope == pytest.approx(1.0)


@every("loss", LOSSES)
@every(("offset", "spread"), [(0.0, 1.0), (3e3, 1.0), (1.7e9, 100.0), (-1e9, 1e-3), (1.0, 1e-9)])
def test_curvatures_are_those_of_60_digits(loss, offset, spread):
    chance = np.random.default_rng(2)
    points = [(offset + spread * chance.normal(), 1e6 * chance.normal()) for _ in range(12)]
    line = fit_line(points, loss, NAMES)
    with mp.workdps(60):
        factor = mp.mpf(2) / {"mean_squared_error": 12, "squared_error": 1, "half_squared_error": 2}[loss]
        xs = [mp.mpf(x) for x, _ in points]
        first, mixed, last = factor * sum(x * x for x in xs), factor * sum(xs), factor * 12
        largest = (first + last + mp.sqrt((first - last) ** 2 + 4 * mixed**2)) / 2
        least = (first * last - mixed**2) / largest
        np.testing.assert_allclose(line.eigenvalues, [float(least), float(largest)], rtol=1e-15)
        np.testing.assert_allclose(line.hessian, np.array([[first, mixed], [mixed, last]], float), rtol=1e-15)
        condition = line.eigenvalues[1] / line.eigenvalues[0]
        assert condition == pytest.approx(float(largest / least), rel=1e-15)


def test_parameters_next_to_a_line():
    """The points are at 3000, 3001 and 3002: a line through their middle is not next to theirs."""
    line = fit_line([(3000.0, 0.0), (3001.0, 1.0), (3002.0, 2.0)], "mean_squared_error", NAMES)
    middle = (1.0 / 3001.0, 0.0)
    parameters = np.array(
        [middle, (1.0, -3000.0), (1.0, -3000.0005), (1.0, -2999.0), (1.001, -3003.001), (1.1, -3300.1)]
    )
    assert line.near(parameters, 1e-3).tolist() == [False, True, True, False, False, False]


def test_where_y_does_not_vary_a_line_has_its_size():
    line = fit_line([(0.0, 5.0), (1.0, 5.0)], "squared_error", NAMES)
    assert line.near(np.array([(0.0, 5.0), (1e-4, 5.0), (0.1, 5.0)]), 1e-3).tolist() == [True, True, False]
    level = fit_line([(0.0, 0.0), (1.0, 0.0)], "squared_error", NAMES)
    assert level.near(np.array([(0.0, 0.0), (1e-2, 0.0)]), 1e-3).tolist() == [True, False]
