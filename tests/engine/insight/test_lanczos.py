"""Lanczos' method on matrices whose eigenvalues are known because the matrices are made of them."""

import numpy as np
import pytest

from service.engine.errors import DeadlineExceeded
from service.engine.insight.lanczos import extremes, quadratures
from tests.support import every

SIZE = 160
TOLERANCE = 1e-9


def matrix_of(values):
    """Build a symmetric matrix with these eigenvalues, and random eigenvectors."""
    axes, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((len(values), len(values))))
    matrix = (axes * values) @ axes.T
    return 0.5 * (matrix + matrix.T)


def found(values, largest, smallest, steps=SIZE):
    matrix = matrix_of(values)
    generator = np.random.default_rng(1)
    return matrix, extremes(lambda v: matrix @ v, len(values), largest, smallest, generator, steps, TOLERANCE)


RANDOM = np.random.default_rng(2).uniform(-0.1, 0.3, SIZE - 5)
SPECTRA = {
    "a few outliers": np.concatenate([[100.0, 50.0, 20.0, 10.0, 5.0], RANDOM]),
    "negative ones too": np.concatenate([[9.0, 4.0, -3.0, -7.0, -8.0], RANDOM]),
    "twice and three times": np.concatenate([[100.0, 50.0, 50.0, 20.0, 20.0], RANDOM[1:], [-1.0, -1.0, -1.0][:1]]),
    "one three times at the end": np.concatenate([[8.0, 8.0, 8.0, -5.0, -5.0], RANDOM]),
    "mostly zero": np.concatenate([[3.0, 2.0, 1.0, 1.0, -1.0], np.zeros(SIZE - 5)]),
    "tiny": 1e-200 * np.concatenate([[100.0, 50.0, 20.0, 10.0, 5.0], RANDOM]),
    "huge": 1e150 * np.concatenate([[100.0, 50.0, 20.0, 10.0, 5.0], RANDOM]),
}


@every("name", SPECTRA)
@every(("largest", "smallest"), [(5, 0), (0, 3), (4, 2)])
def test_extreme_eigenvalues_with_all_their_copies(name, largest, smallest):
    values = np.sort(SPECTRA[name])[::-1]
    matrix, pairs = found(values, largest, smallest)
    wanted = np.concatenate([values[:largest], values[SIZE - smallest :]])
    scale = np.abs(values).max()
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, wanted, rtol=0, atol=1e-12 * scale)
    # What is said of residuals is true, and they are small.
    residuals = np.linalg.norm(pairs.vectors @ matrix / scale - pairs.values[:, None] / scale * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals / scale, residuals, atol=1e-13)
    assert (residuals <= 1e-7).all()
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(len(wanted)), atol=1e-9)
    for vector in pairs.vectors:
        assert vector[np.abs(vector).argmax()] > 0.0


@every("value", [0.0, 3.0, -2.0])
def test_all_eigenvalues_equal(value):
    pairs = extremes(lambda v: value * v, SIZE, 5, 2, np.random.default_rng(0), 50, TOLERANCE)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, np.full(7, value), atol=1e-14)
    assert np.linalg.matrix_rank(pairs.vectors) == 7


def test_a_matrix_with_fewer_eigenvalues_than_requested():
    values = np.array([5.0, 2.0, -1.0])
    _, pairs = found(values, 5, 5)
    np.testing.assert_allclose(pairs.values, values, atol=1e-12)
    assert pairs.converged


def test_a_search_that_is_too_short_says_so_and_its_residuals_hold():
    values = np.sort(np.random.default_rng(5).uniform(0.0, 1.0, SIZE))[::-1]
    _, pairs = found(values, 4, 0, steps=12)
    assert not pairs.converged
    for value, residual in zip(pairs.values, pairs.residuals, strict=True):
        assert np.abs(values - value).min() <= residual
    assert pairs.residuals.max() > 1e-6


def test_the_same_start_gives_the_same_bits():
    _, one = found(SPECTRA["a few outliers"], 3, 3)
    _, two = found(SPECTRA["a few outliers"], 3, 3)
    assert one.values.tobytes() == two.values.tobytes() and one.vectors.tobytes() == two.vectors.tobytes()


def test_a_product_may_end_the_search():
    def late(_):
        raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        extremes(late, 10, 1, 1, np.random.default_rng(0), 10, TOLERANCE)


def test_probes_integrate_polynomials_as_the_matrix_does():
    """Gauss quadrature of m nodes is exact to the degree 2 m - 1, for the moments vᵀ Aᵏ v of its probe v."""
    values = SPECTRA["negative ones too"]
    matrix = matrix_of(values)
    starts = np.random.default_rng(9)
    starts.standard_normal(SIZE)  # the vector that tells how large the matrix is
    probes = quadratures(lambda v: matrix @ v, SIZE, 3, 6, np.random.default_rng(9))
    for probe in probes:
        start = np.where(starts.random(SIZE) < 0.5, -1.0, 1.0) / SIZE**0.5
        moment = start.copy()
        for degree in range(12):
            assert probe.weights @ probe.nodes**degree == pytest.approx(start @ moment, rel=1e-10)
            moment = matrix @ moment
        assert probe.trace == pytest.approx(start @ matrix @ start, rel=1e-12)
