"""Regularizers: the slope of every penalty, compared with differences, with each option changed."""

import numpy as np
import pytest

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.network.regularizers import regularizers
from tests.engine.support import dense_gradients
from tests.engine.values import idle, others, required_of
from tests.reference import evaluate, ulps
from tests.support import every

STEP = 1e-3
VARIANTS = [
    pytest.param(declaration.name, options, id=f"{declaration.name} {options}")
    for declaration in regularizers
    for required in [{option.name: next(option.accepted()) for option in declaration.options if option.required}]
    for options in (
        required,
        *(required | {option.name: value} for option in declaration.options for value in others(option)),
    )
]


def penalty(name, options, dtype="float64"):
    w = Graph(dtype).input("w", (3, 4))
    chosen = regularizers.select(name, **options)
    value = chosen.declaration.build(w, **chosen.options)
    assert value.shape == ()
    (slope,) = dense_gradients(differentiate(value, [w]).nodes, [w])
    return w, value, slope


@every(("name", "options"), VARIANTS)
def test_slopes_agree_with_differences(name, options):
    w, value, slope = penalty(name, options)
    rng = np.random.default_rng(0)
    weights, direction = rng.uniform(0.5, 2.0, (3, 4)) * rng.choice([-1.0, 1.0], (3, 4)), rng.standard_normal((3, 4))

    def at(by):
        return interpret([value], {w: weights + by * STEP * direction})[value]

    expected = (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * STEP)
    actual = (interpret([slope], {w: weights})[slope] * direction).sum()
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-11)


@every(("name", "options"), VARIANTS)
def test_no_weights_cost_nothing_and_larger_ones_more(name, options):
    w, value, slope = penalty(name, options)
    found = [interpret([value, slope], {w: np.full((3, 4), size)}) for size in (0.0, 1.0, 2.0)]
    assert found[0][value] == 0.0 and not found[0][slope].any()
    assert found[0][value] <= found[1][value] <= found[2][value]


@every(("name", "options"), VARIANTS)
def test_float32_stays_float32(name, options):
    w, value, slope = penalty(name, options, "float32")
    found = interpret([value, slope], {w: np.ones((3, 4), np.float32)})
    assert found[value].dtype == found[slope].dtype == np.float32


@every("declaration", list(regularizers), ids=lambda declaration: declaration.name)
def test_every_option_counts(declaration):
    def result(**options):
        w, value, _ = penalty(declaration.name, options)
        return interpret([value], {w: np.linspace(-3.0, 3.0, 12).reshape(3, 4)})[value].tobytes()

    assert idle(declaration, result) == []


SIZES = (1e-200, 1e-8, 0.5, 3.0, 1e8, 1e200)


@every("name", [each.name for each in regularizers])
def test_penalties_keep_their_digits_over_the_whole_range(name):
    """Penalty and slope are those of its formula computed with many digits; what no float holds is infinite."""
    w, value, slope = penalty(name, required_of(regularizers[name]))
    for size in SIZES:
        weights = np.where(np.arange(12).reshape(3, 4) % 2, size, -size)
        found = interpret([value, slope], {w: weights})
        for node in (value, slope):
            (exact,) = evaluate([node], {w: weights})
            for actual, wanted in zip(found[node].flat, exact.flat, strict=True):
                beyond = abs(wanted) > np.finfo(float).max and np.isinf(actual)
                assert beyond or ulps(float(actual), wanted) <= 8.0, (size, float(actual), wanted)
