"""Measurements of the rounding of gradients, Hessians and eigenvalues, and ways to reduce this rounding by scaling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.functions.compiled import Function
from service.engine.watch import Watch

EPS = float(np.finfo(np.float64).eps)
GRADED = 1e-8
"""Where the ratio of curvatures is below this, the variables are scaled before small curvatures count."""
SWEEPS = 12
"""Most sweeps of the scaling; each takes the square root of the remaining factor."""
UNKNOWN = 4.0 * EPS
"""Curvatures up to this share of the largest one, times the dimension, may be rounding of 0."""
OFFSETS = ((3, -5, 7, -2), (-4, 6, 1, -7), (5, 2, -6, 3), (-1, -7, 4, 6), (7, 3, 2, -5), (-6, 1, -3, 4))
"""Places around a point where its noise is measured, in numbers next to each other, repeated over the variables."""
ROTATIONS = 12
"""Rounds of Jacobi's method; it is over after six or so."""


class Sample(NamedTuple):
    """Gradients and Hessians at some points, with their rounding errors as seen at neighbouring floats."""

    gradients: Array
    """(points, variables)"""
    hessians: Array
    """(points, variables, variables)"""
    differences: Array
    """Differences of the gradients from the Hessian's prediction: (neighbours, points, variables)."""
    changes: Array
    """Differences of the Hessians: (neighbours, points, variables, variables)."""

    def along(self, vectors: Array) -> tuple[Array, Array]:
        """Return the rounding errors of slopes and curvatures along vectors, (points, directions) each. `vectors` are
        (points, variables, directions), a column for each direction."""
        slopes = np.abs(self.differences[:, :, None, :] @ vectors)[:, :, 0, :]
        curvatures = np.abs((vectors * (self.changes @ vectors)).sum(-2))
        # Next to the border of the domain, only the neighbours inside count.
        return np.fmax.reduce(slopes, 0, initial=0.0), np.fmax.reduce(curvatures, 0, initial=0.0)


def sample(function: Function, points: Array, units: Array, watch: Watch | None = None) -> Sample:
    """Measure gradients and Hessians at points, and their rounding, from evaluations at neighbouring floats. A
    neighbour is a few `units` of rounding away along each variable. Raises what `watch` raises."""
    offsets = np.resize(np.array(OFFSETS, float), (len(OFFSETS), points.shape[-1]))
    places = np.concatenate([points[None], points + offsets[:, None, :] * (EPS * units)])
    results = function.run(places.reshape(-1, points.shape[-1]), watch)
    assert results.hessians is not None
    gradients = results.gradients.reshape(places.shape)
    hessians = results.hessians.reshape(*places.shape, points.shape[-1])
    expected = (hessians[0] @ (places[1:] - points)[..., None])[..., 0]
    return Sample(gradients[0], hessians[0], gradients[1:] - gradients[0] - expected, hessians[1:] - hessians[0])


def equilibrating(matrices: Array) -> Array:
    """Return powers of two, D, that bring the largest number in each row of D H D to about 1. `matrices` are (points,
    variables, variables); D has a number for each variable (Ruiz 2001)."""
    sizes = np.abs(matrices)
    factors = np.ones(matrices.shape[:-1])
    for _ in range(SWEEPS):
        largest = (factors[:, :, None] * sizes * factors[:, None, :]).max(-1)
        exponents = np.rint(-0.5 * np.log2(np.where(largest > 0.0, largest, 1.0)))
        if not exponents.any():
            break
        factors *= np.exp2(exponents)
    return factors


def graded_eigen(matrices: Array, values: Array, vectors: Array, watch: Watch | None = None) -> Array:
    """Correct small eigenvalues of matrices with large ones from badly scaled variables.

    `values` and `vectors` (columns) come from the usual method, which has the error of the largest eigenvalue; they are
    changed in place. Jacobi's method has the error of the scaled matrix instead (Demmel and Veselić 1992). Return the
    largest error of the smallest eigenvalue of each matrix. Raises what `watch` raises.
    """
    sizes = np.abs(values)
    errors: Array = UNKNOWN * values.shape[-1] * sizes.max(-1)
    graded = np.flatnonzero(sizes.min(-1) < GRADED * sizes.max(-1))
    if not len(graded):
        return errors
    factors = equilibrating(matrices[graded])
    scaled = np.abs(np.linalg.eigvalsh(factors[:, :, None] * matrices[graded] * factors[:, None, :]))
    least, most = scaled.min(-1), UNKNOWN * matrices.shape[-1] * scaled.max(-1)
    better = most < least
    graded = graded[better]
    if len(graded):
        values[graded], vectors[graded] = _jacobi(matrices[graded], watch)
        errors[graded] = most[better] / least[better] * np.abs(values[graded]).min(-1)
    return errors


def _jacobi(matrices: Array, watch: Watch | None) -> tuple[Array, Array]:
    """Return the eigenvalues of symmetric matrices, ascending, and eigenvectors as columns, by Jacobi's rotations."""
    matrices = matrices.copy()
    dimension = matrices.shape[-1]
    vectors = np.broadcast_to(np.eye(dimension), matrices.shape).copy()
    pairs = [(p, q) for p in range(dimension) for q in range(p + 1, dimension)]
    for _ in range(ROTATIONS):
        if watch is not None:
            watch.look()
        turned = False
        for p, q in pairs:
            off, first, second = matrices[:, p, q], matrices[:, p, p], matrices[:, q, q]
            small = np.abs(off) <= 0.5 * EPS * np.sqrt(np.abs(first)) * np.sqrt(np.abs(second))
            if small.all():
                continue
            turned = True
            ratio = 0.5 * (second - first) / np.where(small, 1.0, off)
            tangent = np.where(ratio < 0.0, -1.0, 1.0) / (np.abs(ratio) + np.hypot(1.0, ratio))
            tangent = np.where(small, 0.0, tangent)
            cosine = 1.0 / np.hypot(1.0, tangent)
            sine = tangent * cosine
            first, second = first - tangent * off, second + tangent * off
            for rows in (matrices, matrices.transpose(0, 2, 1), vectors):
                one, other = rows[:, :, p].copy(), rows[:, :, q].copy()
                rows[:, :, p] = cosine[:, None] * one - sine[:, None] * other
                rows[:, :, q] = sine[:, None] * one + cosine[:, None] * other
            matrices[:, p, p], matrices[:, q, q] = first, second
            matrices[:, p, q] = matrices[:, q, p] = np.where(small, off, 0.0)
        if not turned:
            break
    values = matrices[:, range(dimension), range(dimension)]
    order = values.argsort(-1)
    return np.take_along_axis(values, order, -1), np.take_along_axis(vectors, order[:, None, :], -1)
