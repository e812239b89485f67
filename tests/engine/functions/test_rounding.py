"""Rounding: eigenvalues of badly scaled matrices, and the noise of gradients, against 50 digits."""

import mpmath as mp
import numpy as np

from service.engine.functions.rounding import EPS, equilibrating, graded_eigen, sample
from tests.engine.functions.building import function
from tests.support import every


@every("dimension", [2, 3, 5])
def test_eigenvalues_of_badly_scaled_variables(dimension):
    """Each eigenvalue is right relative to its own size; the usual method has the rounding of the largest."""
    rng = np.random.default_rng(dimension)
    with mp.workdps(80):
        for _ in range(10):
            root = rng.normal(size=(dimension, dimension))
            scales = 10.0 ** rng.uniform(-8, 8, dimension)
            matrix = scales[:, None] * (root @ root.T + np.eye(dimension)) * scales
            matrix = 0.5 * (matrix + matrix.T)
            values, vectors = np.linalg.eigh(matrix[None])
            errors = graded_eigen(matrix[None], values, vectors)
            exact = [float(value) for value in sorted(mp.eigsy(mp.matrix(matrix.tolist()), eigvals_only=True))]
            np.testing.assert_allclose(values[0], exact, rtol=1e-7)
            assert errors[0] < np.abs(values).min()
            np.testing.assert_allclose(vectors[0] @ vectors[0].T, np.eye(dimension), atol=1e-13)


def test_a_small_eigenvalue_has_the_right_sign():
    matrices = np.array([[[2e20, 1e10], [1e10, 2.0]], [[2e20, 1e10], [1e10, 0.4]], [[1e30, 0.0], [0.0, -1e-30]]])
    values, vectors = np.linalg.eigh(matrices)
    errors = graded_eigen(matrices, values, vectors)
    np.testing.assert_allclose(values[:, 0], [1.5, -0.1, -1e-30], rtol=1e-13)
    assert (errors < np.abs(values[:, 0])).all()


def test_of_an_eigenvalue_that_rounding_made_nothing_is_known():
    matrices = np.array([[[1.0, 1.0], [1.0, 1.0]], [[0.36, 0.48], [0.48, 0.64]]])
    values, vectors = np.linalg.eigh(matrices)
    assert (np.abs(values[:, 0]) <= graded_eigen(matrices, values, vectors)).all()


def test_scaling_is_by_powers_of_two_and_leaves_rows_of_about_1():
    scales = 10.0 ** np.array([-100.0, 0.0, 100.0])
    matrices = (scales[:, None] * np.array([[3.0, 1.0, 0.5], [1.0, -2.0, 0.3], [0.5, 0.3, 1.0]]) * scales)[None]
    factors = equilibrating(matrices)
    assert (np.frexp(factors)[0] == 0.5).all()
    largest = np.abs(factors[:, :, None] * matrices * factors[:, None, :]).max(-1)
    assert (largest >= 0.2).all() and (largest <= 5.0).all()
    assert (equilibrating(np.zeros((1, 2, 2))) == 1.0).all()


def test_noise_is_that_of_the_terms_of_a_gradient():
    compiled = function("sin(1e8*x)/1e8 + (y - 0.3)^2", 8, 2)
    slopes, _ = sample(compiled, np.array([[0.7, 0.3]]), np.ones((1, 2))).along(np.eye(2)[None])
    assert 1e8 * EPS / 64 < slopes[0, 0] < 1e8 * EPS * 16
    assert slopes[0, 1] < 8 * EPS
