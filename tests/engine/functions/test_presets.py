"""The functions to learn with: that what is said of them fits together, and that the engine finds it so."""

import itertools

import numpy as np

from service.engine.descent.optimizers import optimizers
from service.engine.functions.calculus import DEGENERATE, MINIMUM, UNDEFINED, Calculus, analyse
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.presets import Point, Preset, presets
from tests.support import every

PRESETS = list(presets)
WITHOUT_CURVATURE = {"quartic_bowl": DEGENERATE, "powell": DEGENERATE, "absolute_value": DEGENERATE}
"""Minima that second derivatives do not show."""
WITHOUT_SLOPE = {"bukin_6": (-10.0, 1.0), "ackley": (0.0, 0.0)}
"""Minima without a gradient."""
GRID = {1: 2001, 2: 101, 3: 31, 4: 13}
"""The count of numbers of each variable that are tried, by the number of variables."""

each = every("preset", PRESETS, ids=lambda preset: preset.name)


def analysed(preset: Preset, points: list[Point]) -> Calculus:
    return analyse(Function(FunctionTask(preset.build(), len(points), 2)), np.array(points))


def chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def inside(preset: Preset, point: Point) -> bool:
    return len(point) == len(preset.domain) and all(
        low < number < high for number, (low, high) in zip(point, preset.domain, strict=True)
    )


def test_names_are_unique():
    names = presets.names
    assert len(names) == len(set(names)) >= 35
    expressions = [preset.expression for preset in PRESETS]
    assert len(expressions) == len(set(expressions))


@each
def test_the_expression_names_each_variable(preset):
    expression = preset.build()
    assert expression.variables == preset.variables
    used = {step.text for step in expression.steps if step.word == "variable"}
    assert used == set(preset.variables)


@each
def test_texts_are_there_in_both_languages(preset):
    for texts in (preset.description, preset.teaches):
        assert set(texts) == {"en", "zh"}
        assert all(text.strip() for text in texts.values())
        assert chinese(texts["zh"])
        assert not chinese(texts["en"])


@each
def test_the_box_holds_all_points(preset):
    assert len(preset.domain) == len(preset.variables)
    assert all(low < high for low, high in preset.domain)
    points = [minimum.point for minimum in preset.minima]
    assert len(points) == len(set(points))
    for point in (*points, *(place.point for place in preset.stationary), *preset.starts):
        assert inside(preset, point), point
    values = [minimum.value for minimum in preset.minima]
    assert values == sorted(values)


@each
def test_trials_can_be_made(preset):
    assert preset.starts
    assert preset.trials
    for trial in preset.trials:
        assert trial.optimizer in {optimizer.name for optimizer in optimizers}
        assert trial.steps > 0
        assert set(trial.options) <= {option.name for option in optimizers[trial.optimizer].options}


@each
def test_minima_are_minima(preset):
    if not preset.minima:
        return
    found = analysed(preset, [minimum.point for minimum in preset.minima])
    values = [minimum.value for minimum in preset.minima]
    np.testing.assert_allclose(found.results.values, values, rtol=1e-12, atol=1e-12)
    for place, minimum in enumerate(preset.minima):
        if minimum.point == WITHOUT_SLOPE.get(preset.name):
            assert found.classes[place] == UNDEFINED
            continue
        # What rounding the point alone makes of a gradient.
        allowed = 1e-14 * max(1.0, found.eigenvalues[place].max(initial=0.0))
        assert found.norms[place] <= allowed, minimum
        assert found.classes[place] == WITHOUT_CURVATURE.get(preset.name, MINIMUM), minimum


@each
def test_stationary_points_are_of_their_kind(preset):
    if not preset.stationary:
        return
    found = analysed(preset, [place.point for place in preset.stationary])
    assert found.classes == [place.kind for place in preset.stationary]


@each
def test_nothing_in_the_box_is_lower(preset):
    axes = [np.linspace(low, high, GRID[len(preset.domain)]) for low, high in preset.domain]
    points = np.array(list(itertools.product(*axes)))
    values = Function(FunctionTask(preset.build(), 1024, 0)).run(points).values
    if preset.minima:
        assert values.min() >= preset.minima[0].value - 1e-12
    else:
        assert not inside(preset, points[values.argmin()])
