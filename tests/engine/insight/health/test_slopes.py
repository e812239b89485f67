"""The ranges where activations are flat."""

import math

import pytest

from service.engine.declarations import Selection
from service.engine.insight.health.slopes import tails_of
from service.engine.network.activations import activations
from tests.support import every


@every(
    ("name", "left", "right"),
    [
        ("sigmoid", -math.log(36.97), math.log(36.97)),
        ("tanh", -math.atanh(math.sqrt(0.9)), math.atanh(math.sqrt(0.9))),
        ("relu", None, None),
        ("leaky_relu", None, None),
        ("linear", None, None),
        ("exponential", None, None),
        ("relu6", None, 6.0),
        ("hard_tanh", -1.0, 1.0),
    ],
)
def test_an_activation_saturates_where_its_slope_is_a_tenth_of_the_largest(name, left, right):
    tails = tails_of(activations.select(name))
    for found, expected in ((tails.left, left), (tails.right, right)):
        assert found is None if expected is None else found == pytest.approx(expected, abs=0.03)


def test_activations_of_rows_and_with_learned_parameters_have_no_tails():
    for declaration in activations:
        if declaration.acts_on == "row" or declaration.parameters:
            tails = tails_of(Selection(declaration, {option.name: option.default for option in declaration.options}))
            assert (tails.left, tails.right, tails.flat_left) == (None, None, None)
