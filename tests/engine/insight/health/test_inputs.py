"""The scale of inputs."""

import math

import numpy as np
import pytest

from service.engine.insight.health.inputs import scale_of
from tests.support import every


def test_the_condition_of_inputs_is_that_of_the_matrix_with_a_bias():
    inputs = np.random.default_rng(1).standard_normal((40, 3)) * [1.0, 30.0, 900.0] + [0.0, 5.0, 0.0]
    scale = scale_of(inputs)
    with_bias = np.hstack([inputs / np.sqrt(np.square(inputs).mean()), np.ones((40, 1))])
    assert scale.condition == pytest.approx(np.linalg.cond(with_bias) ** 2, rel=1e-9)
    standard = (inputs - inputs.mean(0)) / inputs.std(0)
    assert scale.standardised == pytest.approx(np.linalg.cond(np.hstack([standard, np.ones((40, 1))])) ** 2, rel=1e-9)
    assert scale.size == pytest.approx(np.sqrt(np.square(inputs).mean()))


@every("inputs", [np.zeros((4, 3)), np.ones((1, 3)), np.full((5, 2), 1e300)])
def test_inputs_without_a_scale_have_none(inputs):
    scale = scale_of(inputs)
    assert scale.condition is None or math.isfinite(scale.condition)
