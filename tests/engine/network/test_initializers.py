"""Initializers: moments, bounds, orthogonality, determinism."""

import math

import numpy as np
import pytest

from service.engine.network.initializers import initializers
from tests.engine.network.building import ROOMY, compiled, dense, layer, network, run
from tests.engine.values import idle
from tests.support import every

SHAPE, FANS = (300, 200), (300, 200)
WHOLE = math.sqrt(2.0 / 500.0)  # the standard deviation of glorot
TRUNCATED = 0.87962566103423978


def draw(name, shape=SHAPE, fans=FANS, seed=0, **options):
    selected = initializers.select(name, **options)
    return selected.declaration.build(np.random.default_rng(seed), shape, fans, **selected.options)


# name, options, mean, standard deviation, largest absolute value if it is bounded
EXPECTED = [
    ("zeros", {}, 0.0, 0.0, 0.0),
    ("ones", {}, 1.0, 0.0, 1.0),
    ("constant", {}, 0.0, 0.0, 0.0),
    ("constant", {"value": -2.5}, -2.5, 0.0, 2.5),
    ("uniform", {}, 0.0, 0.05 / math.sqrt(3.0), 0.05),
    ("uniform", {"minimum": 1.0, "maximum": 3.0}, 2.0, 1.0 / math.sqrt(3.0), 3.0),
    ("normal", {}, 0.0, 0.05, None),
    ("normal", {"mean": 1.0, "standard_deviation": 0.5}, 1.0, 0.5, None),
    ("normal", {"truncated": True}, 0.0, 0.05 * TRUNCATED, 0.1),
    ("glorot_uniform", {}, 0.0, WHOLE, math.sqrt(6.0 / 500.0)),
    ("glorot_uniform", {"gain": 2.0}, 0.0, 2.0 * WHOLE, 2.0 * math.sqrt(6.0 / 500.0)),
    ("glorot_normal", {}, 0.0, WHOLE, None),
    ("glorot_normal", {"gain": 0.5}, 0.0, 0.5 * WHOLE, None),
    ("glorot_normal", {"truncated": True}, 0.0, WHOLE, 2.0 * WHOLE / TRUNCATED),
    ("he_uniform", {}, 0.0, math.sqrt(2.0 / 300.0), math.sqrt(6.0 / 300.0)),
    ("he_normal", {}, 0.0, math.sqrt(2.0 / 300.0), None),
    ("he_normal", {"truncated": True}, 0.0, math.sqrt(2.0 / 300.0), 2.0 * math.sqrt(2.0 / 300.0) / TRUNCATED),
    ("lecun_uniform", {}, 0.0, math.sqrt(1.0 / 300.0), math.sqrt(3.0 / 300.0)),
    ("lecun_normal", {}, 0.0, math.sqrt(1.0 / 300.0), None),
    ("lecun_normal", {"truncated": True}, 0.0, math.sqrt(1.0 / 300.0), 2.0 * math.sqrt(1.0 / 300.0) / TRUNCATED),
    ("variance_scaling", {}, 0.0, math.sqrt(1.0 / 300.0), 2.0 * math.sqrt(1.0 / 300.0) / TRUNCATED),
    ("variance_scaling", {"mode": "fan_out", "scale": 2.0, "distribution": "untruncated_normal"}, 0.0, 0.1, None),
    (
        "variance_scaling",
        {"mode": "fan_avg", "distribution": "uniform"},
        0.0,
        math.sqrt(1.0 / 250.0),
        math.sqrt(3.0 / 250.0),
    ),
    ("orthogonal", {}, 0.0, math.sqrt(1.0 / 300.0), 1.0),
    ("orthogonal", {"gain": 3.0}, 0.0, 3.0 * math.sqrt(1.0 / 300.0), 3.0),
]


def test_every_initializer_has_moments_to_hold():
    missing = {declaration.name for declaration in initializers} - {name for name, *_ in EXPECTED}
    assert not missing, f"say in EXPECTED what {sorted(missing)} draw"


@every(("name", "options", "mean", "deviation", "bound"), EXPECTED)
def test_moments_and_bounds(name, options, mean, deviation, bound):
    values = draw(name, **options)
    assert values.shape == SHAPE and values.dtype == np.float64
    error = deviation / math.sqrt(values.size)
    assert abs(values.mean() - mean) <= 5.0 * error
    assert values.std() == pytest.approx(deviation, rel=0.02)
    if bound is not None:
        assert np.abs(values).max() <= bound
    else:
        assert np.abs(values - mean).max() > 3.5 * deviation  # the whole normal distribution


@every("name", [each.name for each in initializers])
def test_the_same_generator_draws_the_same(name):
    np.testing.assert_array_equal(draw(name, seed=3), draw(name, seed=3))
    if draw(name).std():
        assert (draw(name, seed=3) != draw(name, seed=4)).any()


@every("name", [each.name for each in initializers])
def test_every_option_counts(name):
    assert idle(initializers[name], lambda **options: draw(name, (30, 20), (30, 20), **options).tobytes()) == []


@every("name", [each.name for each in initializers])
@every("shape", [(), (1,), (7,), (2, 3, 4)], ids=str)
def test_any_shape_can_be_drawn(name, shape):
    values = draw(name, shape, (5, 5))
    assert values.shape == shape and np.isfinite(values).all()


@every("shape", [(6, 6), (8, 3), (3, 8)])
def test_orthogonal_matrices_are_orthogonal(shape):
    values = draw("orthogonal", shape, shape, gain=2.0)
    narrow = values if shape[0] >= shape[1] else values.T
    np.testing.assert_allclose(narrow.T @ narrow, 4.0 * np.eye(min(shape)), atol=1e-14)


def test_a_bias_starts_at_zero_and_a_kernel_by_glorot():
    evaluation = compiled(network(dense("out", 200)), np.zeros((1, 300)))
    with evaluation.program.workspace() as workspace:
        evaluation.parameters.initialize(workspace.parameters, 0, ROOMY)
        kernel, bias = workspace.parameters[:60_000], workspace.parameters[60_000:]
        assert not bias.any()
        assert np.abs(kernel).max() <= math.sqrt(6.0 / 500.0)
        assert kernel.std() == pytest.approx(WHOLE, rel=0.02)


def initialized(definition, seed=0, dtype="float64"):
    evaluation = compiled(definition, np.zeros((2, 3)), dtype=dtype)
    return run(evaluation, np.zeros((2, 3)), seed=seed).parameters


def test_parameters_follow_from_the_seed():
    definition = network(dense("a", 4), dense("b", 4))
    first, again, other = initialized(definition, 1), initialized(definition, 1), initialized(definition, 2)
    np.testing.assert_array_equal(first["a"]["kernel"], again["a"]["kernel"])
    assert (first["a"]["kernel"] != other["a"]["kernel"]).all()


def test_each_parameter_has_numbers_of_its_own():
    normal = {"name": "normal", "standard_deviation": 1.0}
    found = initialized(network(dense("a", 3, kernel_initializer=normal), dense("b", 3, kernel_initializer=normal)))
    assert (found["a"]["kernel"] != found["b"]["kernel"]).all()


def test_float32_parameters_are_rounded_float64_ones():
    definition = network(dense("a", 4))
    double, single = initialized(definition), initialized(definition, dtype="float32")
    assert single["a"]["kernel"].dtype == "float32"
    np.testing.assert_array_equal(single["a"]["kernel"], double["a"]["kernel"].astype("float32"))


def test_a_number_beyond_float32_becomes_infinity_without_a_warning():
    definition = network(dense("a", 2, bias_initializer={"name": "constant", "value": 1e300}))
    assert np.isinf(initialized(definition, dtype="float32")["a"]["bias"]).all()


def test_later_layers_change_no_earlier_parameter():
    short = initialized(network(dense("a", 4)))
    longer = initialized(network(dense("a", 4), layer("drop", "dropout", rate=0.5), dense("b", 2)))
    np.testing.assert_array_equal(short["a"]["kernel"], longer["a"]["kernel"])


def test_initializers_take_their_options_from_the_layer():
    definition = network(
        dense("a", 2, kernel_initializer={"name": "constant", "value": 0.5}, bias_initializer="ones"),
        layer("p", "prelu", alpha_initializer={"name": "constant", "value": 0.125}),
        layer("q", "prelu"),
        layer("r", "activation", activation={"name": "prelu", "alpha": -1.0}),
    )
    found = initialized(definition)
    np.testing.assert_array_equal(found["a"]["kernel"], np.full((3, 2), 0.5))
    np.testing.assert_array_equal(found["a"]["bias"], np.ones(2))
    assert found["p"]["alpha"].tolist() == [0.125, 0.125]
    assert found["q"]["alpha"].tolist() == [0.25, 0.25]
    assert found["r"]["alpha"].tolist() == [-1.0, -1.0]
