"""Functions over grids, and the levels of their contours."""

import math

import numpy as np

from service.engine.functions.presets import presets
from service.engine.functions.surface import Axis, grid_points, levels_for, sample
from tests.engine.functions.building import function
from tests.support import every

WIDE = [preset for preset in presets if len(preset.domain) == 2]


def grid_of(preset, count=41):
    axes = tuple(Axis(place, low, high, count) for place, (low, high) in enumerate(preset.domain))
    points = grid_points(axes, np.zeros(2))
    return sample(function(preset.expression, 512, 1, preset.variables), points, (count, count), None)


def test_the_first_axis_is_the_fastest():
    axes = (Axis(2, 0.0, 1.0, 3), Axis(0, 10.0, 20.0, 2))
    points = grid_points(axes, np.array([-1.0, 7.0, -1.0]))
    assert points.tolist() == [
        [10.0, 7.0, 0.0],
        [10.0, 7.0, 0.5],
        [10.0, 7.0, 1.0],
        [20.0, 7.0, 0.0],
        [20.0, 7.0, 0.5],
        [20.0, 7.0, 1.0],
    ]
    values, gradients = sample(function("x + 100z + 0y", 4, 1, ("x", "y", "z")), points, (2, 3), None)
    assert values.tolist() == [[10.0, 60.0, 110.0], [20.0, 70.0, 120.0]]
    assert gradients.shape == (2, 3, 3)
    assert gradients[1, 2].tolist() == [1.0, 0.0, 100.0]


def test_an_axis_alone():
    points = grid_points((Axis(0, -1.0, 1.0, 5),), np.array([0.0, 3.0]))
    assert points.tolist() == [[-1.0, 3.0], [-0.5, 3.0], [0.0, 3.0], [0.5, 3.0], [1.0, 3.0]]
    assert Axis(0, 0.1, 0.7, 7).numbers[[0, -1]].tolist() == [0.1, 0.7]


# --- levels -------------------------------------------------------------------------------------


def assert_sound(levels, values, count):
    finite = values[np.isfinite(values)]
    assert all(finite.min() < level < finite.max() for level in levels.values)
    assert (np.diff(levels.values) > 0.0).all()
    assert len(levels.values) <= 2 * count


@every("count", [1, 5, 12, 40])
@every("preset", WIDE, ids=lambda preset: preset.name)
def test_levels_of_presets(preset, count):
    values, _ = grid_of(preset)
    levels = levels_for(values, count)
    assert_sound(levels, values, count)
    assert levels.spacing in ("linear", "logarithmic")
    assert len(levels.values) >= (count // 3 if levels.spacing == "linear" else count // 2)


@every(
    ("low", "high", "count", "expected"),
    [
        (0.0, 10.0, 9, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        (-1.0, 1.0, 3, [-0.5, 0.0, 0.5]),
        (0.03, 0.97, 4, [0.2, 0.4, 0.6, 0.8]),
        (-7.0, 13.0, 4, [-5.0, 0.0, 5.0, 10.0]),
        (1000.0, 1000.7, 6, [1000.1, 1000.2, 1000.3, 1000.4, 1000.5, 1000.6]),
        (-3e-7, 3e-7, 5, [-2e-7, -1e-7, 0.0, 1e-7, 2e-7]),
        (0.0, 7e200, 6, [1e200, 2e200, 3e200, 4e200, 5e200, 6e200]),
    ],
)
def test_even_levels_are_round(low, high, count, expected):
    levels = levels_for(np.linspace(low, high, 101), count)
    assert levels.spacing == "linear"
    np.testing.assert_allclose(levels.values, expected, rtol=1e-14, atol=1e-300)


def test_zero_is_no_negative_zero():
    levels = levels_for(np.linspace(-1.0, 1.0, 11), 3)
    assert 0.0 in levels.values
    assert not any(math.copysign(1.0, level) < 0.0 for level in levels.values if level == 0.0)


@every("name", ["goldstein_price", "beale"])
def test_where_walls_tower_levels_are_logarithmic(name):
    values, _ = grid_of(presets[name])
    levels = levels_for(values, 12)
    assert levels.spacing == "logarithmic"
    distances = np.array(levels.values) - values.min()
    ratios = distances[1:] / distances[:-1]
    assert (ratios > 1.0).all()
    assert ratios.max() < 3.0 * ratios.min()


@every("name", ["himmelblau", "bowl", "rastrigin"])
def test_else_they_are_even(name):
    assert levels_for(grid_of(presets[name])[0], 12).spacing == "linear"


def test_logarithmic_levels_have_two_digits_above_the_lowest_value():
    values = np.append(np.geomspace(1e-3, 1.0, 99), 1e6)
    levels = levels_for(np.append(values, 0.0), 10)
    assert levels.spacing == "logarithmic"
    assert levels.values == [float(f"{level:.1e}") for level in levels.values]
    assert len(levels.values) == 10


@every("values", [[], [3.0], [3.0, 3.0, 3.0], [math.nan], [math.inf, -math.inf], [math.inf, 2.0, math.nan, 2.0]])
def test_where_nothing_varies_there_are_no_levels(values):
    assert levels_for(np.array(values), 10) == ([], "linear")


def test_values_that_are_not_finite_are_left_out():
    plain = levels_for(np.linspace(0.0, 1.0, 50), 8)
    assert levels_for(np.append(np.linspace(0.0, 1.0, 50), [math.inf, -math.inf, math.nan]), 8) == plain


def test_values_as_far_apart_as_can_be():
    wide = np.linspace(-1.0, 1.0, 101) * 1.7e308
    assert_sound(levels_for(wide, 8), wide, 8)
    values = np.concatenate([[-1.7e308], np.linspace(0.0, 1.0, 50), [1.7e308]])
    levels = levels_for(values, 8)
    assert_sound(levels, values, 8)
    assert len(levels.values) >= 4


def test_neighbouring_numbers():
    values = np.array([1e16, 1e16 + 20.0, 1e16 + 40.0])
    assert_sound(levels_for(values, 30), values, 30)


def test_levels_of_a_steep_power():
    compiled = function("x^200", 512, 1)
    values = compiled.run(np.linspace(-5.0, 5.0, 1001)[:, None]).values
    assert_sound(levels_for(values, 10), values, 10)


def test_levels_of_the_least_numbers():
    values = np.array([0.0, 1e-323, 2e-323])
    assert_sound(levels_for(values, 30), values, 30)
