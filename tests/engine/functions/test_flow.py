"""Gradient flow: its end is that of very small steps, or it is marked as uncertain."""

import mpmath as mp
import numpy as np
import pytest

from service.engine.float_warnings import without_float_warnings
from service.engine.functions.flow import _phi_1, _phis, follow
from service.engine.functions.stationary import search
from tests.engine.functions.building import function, table
from tests.support import every

HIMMELBLAU = "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"
CAMEL = "(4 - 2.1x^2 + x^4/3)*x^2 + x*y + (-4 + 4y^2)*y^2"
RIPPLED = "x^2 + y^2 - 3cos(3x) - 3cos(3y) + x*y/3"
TANG = "(x^4 - 16x^2 + 5x + y^4 - 16y^2 + 5y)/2"
COUPLED = "sin(3x)*cos(2y) + 0.1*(x^2 + y^2) + 0.3*sin(x*y)"
WELLS = "-exp(-40*(x - 1)^2 - 40*y^2) - 2*exp(-3*(x + 1)^2 - 5*y^2) + 0.01*(x^2 + y^2)"
THREE = "x^4 + y^4 + z^4 - 3*(x^2 + y^2 + z^2) + x*y*z + 0.3*x"


def ways(text, points, uphill=False, variables=None):
    """Return the ends of the paths from points, and which are certain."""
    rows = table(points)
    generator = follow(function(text, 64, 2, variables), rows, np.full(len(rows), -1.0 if uphill else 1.0))
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value.ends, end.value.reach > 0.0


def flowing(text, points, steps=4_000, tolerance=1e-8):
    """Follow gradient flow by Heun's method, with steps that are halved until they hardly matter."""
    compiled = function(text, len(points), 1)
    points, times = points.copy(), np.full(len(points), 1e-4)

    def slopes(places):
        return -compiled.run(places).gradients

    for _ in range(steps):
        here = slopes(points)
        if np.abs(here).max() < 1e-4:
            break
        euler = points + times[:, None] * here
        better = points + 0.5 * times[:, None] * (here + slopes(euler))
        errors = np.abs(better - euler).max(-1)
        good = errors <= tolerance**0.5 * 1e-1
        points = np.where(good[:, None], better, points)
        times *= np.clip(0.9 * np.sqrt(1e-1 * tolerance**0.5 / np.maximum(errors, 1e-300)), 0.2, 2.0)
    return points


@pytest.mark.parametrize(
    ("text", "size"),
    [(HIMMELBLAU, 5.0), (CAMEL, 1.5), (RIPPLED, 5.0), (TANG, 5.0), (COUPLED, 4.0), (WELLS, 3.0), (THREE, 2.0)],
    ids=["himmelblau", "camel", "rippled", "tang", "coupled", "wells", "three"],
)
def test_ways_end_where_small_steps_end(text, size):
    chance = np.random.default_rng(3)
    dimension = function(text).dimension
    starts = chance.uniform(-size, size, (150, dimension))
    ends, certain = ways(text, starts)
    assert certain.mean() > 0.95
    np.testing.assert_allclose(flowing(text, starts[certain]), ends[certain], atol=2e-2)


def test_ways_that_begin_next_to_ridges_are_right_or_not_reported():
    """The starts are around saddle points and hilltops, down to a distance of 1e-9."""
    for text, size in ((HIMMELBLAU, 5.0), (CAMEL, 1.5), (RIPPLED, 4.0)):
        compiled = function(text, 64, 2)
        points = search(compiled, np.full(2, -size), np.full(2, size), 300).points
        lowest = np.linalg.eigvalsh(compiled.run(points).hessians)[:, 0]
        tops = points[lowest < 0.0]
        chance = np.random.default_rng(5)
        turns = chance.uniform(0.0, 2.0 * np.pi, 120)
        offsets = 10.0 ** chance.uniform(-9.0, -0.5, 120)[:, None] * np.stack([np.cos(turns), np.sin(turns)], -1)
        starts = np.resize(tops, (120, 2)) + offsets
        ends, certain = ways(text, starts)
        assert certain.any()
        assert not certain.all()
        np.testing.assert_allclose(flowing(text, starts[certain]), ends[certain], atol=2e-2)


def test_uphill_ways_end_at_maxima():
    ends, certain = ways("-(x^2 + y - 11)^2 - (x + y^2 - 7)^2", [(1.0, 1.0), (-3.0, 2.0)], uphill=True)
    assert certain.all()
    np.testing.assert_allclose(ends, [(3.0, 2.0), (-2.805118086952745, 3.131312518250573)], atol=1e-2)


def test_steep_valleys_do_not_take_more_steps():
    for condition in (1.0, 1e4, 1e8):
        ends, certain = ways(f"{condition}*(x - y)^2 + (x + y - 2)^2", [(3.0, -1.0), (0.0, 5.0)])
        assert certain.all()
        np.testing.assert_allclose(ends, np.ones((2, 2)), atol=1e-2)


@every(
    ("text", "start"),
    [
        ("x^4 - 2x^2 + y^2", (0.0, 1.0)),  # on the way into the saddle point
        ("x^4 - 2x^2 + y^2", (1e-17, 1.0)),  # rounding decides
        ("x^2 - y^2", (1.0, 1e-3)),  # without end
        ("x^4 + y^4", (1.0, 1.0)),  # the curvature vanishes at the end
        ("|x| + y^2", (1.0, 1.0)),  # into a kink
        ("exp(-x) + y^2", (1.0, 1.0)),
        ("log(x) + y^2", (1.0, 1.0)),
        ("0x + 0y", (1.0, 1.0)),
        ("x + y", (1.0, 1.0)),
        ("1e300*x + y^2", (1.0, 1.0)),
    ],
)
def test_no_end_is_reported_where_there_is_none_for_certain(text, start):
    _, certain = ways(text, [start])
    assert not certain.any()


def test_phi_functions():
    numbers = np.array([-1e4, -50.0, -2.0, -1.0, -0.999, -0.3, -1e-9, 0.0, 1e-9, 0.3, 0.999, 1.0, 1.5])
    first, third, fourth = without_float_warnings(_phis, numbers)
    for place, number in enumerate(numbers.tolist()):
        with mp.workdps(60):
            z = mp.mpf(number)
            for order, found in ((1, first), (3, third), (4, fourth)):
                rest = mp.exp(z) - sum(z**power / mp.factorial(power) for power in range(order))
                exact = rest / z**order if number else 1 / mp.factorial(order)
                assert found[place] == pytest.approx(float(exact), rel=1e-12)
    np.testing.assert_allclose(without_float_warnings(_phi_1, numbers), first, rtol=1e-12)
