"""The analysis of points by value, gradient and Hessian: steepness, direction, and the kind of stationary point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array, is_finite, norms_of
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.functions.compiled import Function, PointProblem, Results
from service.engine.functions.rounding import graded_eigen, sample
from service.engine.functions.sides import settle
from service.engine.watch import Watch

STATIONARY = 1e-8
"""A gradient norm up to this is taken as 0, unless the caller says otherwise."""
ROUNDING = 4.0 * float(np.finfo(np.float64).eps)
"""Distance between a stationary point and the float next to it, relative to the distance from 0."""
UNEVEN = 1e-4
"""Where the ratio of curvatures is below this, each direction has a bound of its own for its rounding."""
HALF_DIGITS = float(np.finfo(np.float64).eps) ** 0.5
"""Relative accuracy of a point at which the gradient and the curvature vanish together."""

MINIMUM, MAXIMUM, SADDLE = "minimum", "maximum", "saddle"
DEGENERATE, NOT_STATIONARY, UNDEFINED = "degenerate", "not_stationary", "undefined"
CLASSES = (MINIMUM, MAXIMUM, SADDLE, DEGENERATE, NOT_STATIONARY, UNDEFINED)


@dataclass
class Calculus:
    """The analysis of several points. Arrays and lists have an entry for each point."""

    results: Results
    norms: Array
    """The norm of each gradient."""
    directions: Array
    """Unit vectors of steepest ascent; NaN where there is none."""
    stationary: Array
    """True where the gradient is 0, within the tolerance."""
    problems: dict[int, list[PointProblem]]
    eigenvalues: Array | None = None
    """(points, variables), ascending."""
    eigenvectors: Array | None = None
    """(points, variables, variables): a row for each eigenvalue."""
    classes: list[str] | None = None
    """One of `CLASSES` for each point."""
    condition_numbers: Array | None = None
    """The largest curvature over the smallest one, at minima and maxima; else NaN."""
    stable_steps: Array | None = None
    """At minima 2/λmax, the bound of the learning rate of gradient descent; else not finite."""

    @property
    def finite(self) -> Array:
        """True where all numbers of a point are finite."""
        finite: Array = np.isfinite(self.results.values) & np.isfinite(self.norms)
        return finite if self.eigenvalues is None else finite & np.isfinite(self.eigenvalues).all(-1)


@ignoring_float_warnings
def analyse(
    function: Function,
    points: Array,
    tolerance: float = STATIONARY,
    watch: Watch | None = None,
    flat: Array | None = None,
) -> Calculus:
    """Analyse each row of `points`, (points, variables): norm, direction and kind of stationary point.

    A gradient norm up to `tolerance` counts as 0. `flat` marks points with a curvature that is known to vanish, in
    addition to what the points themselves show. Kinds need a function with second derivatives. Raises what `watch`
    raises.
    """
    results = _where_defined(function.run(points, watch))
    problems = function.problems(points, results)
    kinks: set[int] = set()
    if problems:
        _undefine(results, [row for row, met in problems.items() if any(each.kind == "domain" for each in met)])
        results, problems, kinks = settle(function, points, results, problems, watch)
    norms = norms_of(results.gradients)
    found = Calculus(results, norms, results.gradients, norms <= tolerance, problems)
    if results.hessians is not None:
        found.eigenvalues, found.eigenvectors = eigen(results.hessians)
        # At the floats next to a minimum, the gradient is at least the curvature times the rounding of the point.
        least = ROUNDING * (np.abs(results.hessians) @ np.abs(points)[..., None])[..., 0]
        rounded = ~found.stationary & ((np.abs(results.gradients) <= least) & (least < np.inf)).all(-1)
        if rounded.any():
            found.stationary[rounded] = _in_each_direction(function, points, found, np.flatnonzero(rounded))
        doubt = _doubtful(function, points, found, watch)
        if flat is not None:
            doubt = np.where(flat, np.fmax(doubt, np.abs(found.eigenvalues).min(-1)), doubt)
        classes = found.classes = classify(norms, found.stationary, found.eigenvalues, doubt)
        for row in kinks:
            # Where the gradient is 0 by convention, second derivatives do not decide: -|x| + x² has no minimum at 0.
            if classes[row] in (MINIMUM, MAXIMUM, SADDLE):
                classes[row] = DEGENERATE
        found.condition_numbers, found.stable_steps = _steepness(classes, found.eigenvalues)
    lengths = np.where(found.stationary | ~np.isfinite(norms), np.nan, norms)
    found.directions = results.gradients / lengths[:, None]
    return found


def _steepness(classes: list[str], eigenvalues: Array) -> tuple[Array, Array]:
    """Return the condition number and the largest stable learning rate of each point; NaN where it has none."""
    lowest, highest = eigenvalues[:, 0].tolist(), eigenvalues[:, -1].tolist()
    conditions, steps = [math.nan] * len(classes), [math.nan] * len(classes)
    for place, kind in enumerate(classes):
        if kind == MINIMUM:
            conditions[place], steps[place] = highest[place] / lowest[place], 2.0 / highest[place]
        elif kind == MAXIMUM:
            conditions[place] = lowest[place] / highest[place]
    return np.array(conditions), np.array(steps)


def _in_each_direction(function: Function, points: Array, found: Calculus, rows: Array) -> Array:
    """Return for each point whether rounding explains its gradient also along directions of little curvature."""
    results, eigenvalues, eigenvectors = found.results, found.eigenvalues, found.eigenvectors
    assert results.hessians is not None and eigenvalues is not None and eigenvectors is not None
    explained = np.ones(len(rows), bool)
    sizes = np.abs(eigenvalues[rows])
    uneven = sizes.min(-1) < UNEVEN * sizes.max(-1)
    if uneven.any():
        rows, sizes = rows[uneven], sizes[uneven]
        columns = eigenvectors[rows].transpose(0, 2, 1)
        places, gradients = points[rows], results.gradients[rows]
        errors, _ = sample(function, places, np.abs(places)).along(columns)
        moved = (np.abs(eigenvectors[rows]) @ np.abs(places)[..., None])[..., 0]
        left = np.abs((eigenvectors[rows] @ gradients[..., None])[..., 0])
        explained[uneven] = (left <= ROUNDING * sizes * moved + 4.0 * errors).all(-1)
    return explained


def _doubtful(function: Function, points: Array, found: Calculus, watch: Watch | None) -> Array:
    """Return the uncertainty of each point's smallest curvature where the gradient vanishes; 0 elsewhere.

    Newton's method finds a stationary point up to its last step, and never closer than to where the gradient rounds to
    0, which is half the digits where the curvature vanishes too. So the curvature along the flattest direction is
    computed that far to both sides as well. It is certain only if it is larger than its change, which it is not at 0
    for x³.
    """
    doubt = np.zeros(len(points))
    rows = np.flatnonzero(found.stationary & ~np.isnan(found.norms))
    hessians, eigenvalues, eigenvectors = found.results.hessians, found.eigenvalues, found.eigenvectors
    if not len(rows) or function.dimension == 0:
        return doubt
    assert hessians is not None and eigenvalues is not None and eigenvectors is not None
    rows = rows[~np.isnan(eigenvalues[rows, 0])]
    if not len(rows):
        return doubt
    values, columns = eigenvalues[rows], eigenvectors[rows].transpose(0, 2, 1).copy()
    doubt[rows] = graded_eigen(hessians[rows], values, columns, watch)
    eigenvalues[rows], eigenvectors[rows] = values, _turned(columns.transpose(0, 2, 1))
    sizes = np.abs(values)
    flattest = sizes.argmin(-1)
    curvatures = eigenvalues[rows, flattest]
    directions = eigenvectors[rows, flattest]
    slopes = np.abs((found.results.gradients[rows] * directions).sum(-1))
    steps = np.where(slopes > 0.0, 2.0 * slopes / np.abs(curvatures), 0.0)
    reach = np.fmax(HALF_DIGITS * (1.0 + norms_of(points[rows])), np.where(np.isfinite(steps), steps, 0.0))
    for side in (-1.0, 1.0):
        there = function.run(points[rows] + side * reach[:, None] * directions).hessians
        assert there is not None
        changed = np.abs(np.einsum("ni,nij,nj->n", directions, there, directions) - curvatures)
        doubt[rows] = np.fmax(doubt[rows], changed)
    return doubt


def _where_defined(results: Results) -> Results:
    """Return the results with NaN for derivatives at points without a value. Formulas of derivatives, such as 1/x,
    continue where log x has ended."""
    undefined = np.isnan(results.values)
    if undefined.any():
        results.gradients[undefined] = np.nan
        if results.hessians is not None:
            results = results._replace(hessians=np.where(undefined[:, None, None], np.nan, results.hessians))
    return results


def _undefine(results: Results, rows: list[int]) -> None:
    """Set value and derivatives to NaN, in place, at rows where a part of the expression has no value. An example is
    the argument of `step`."""
    results.values[rows], results.gradients[rows] = np.nan, np.nan
    if results.hessians is not None:
        results.hessians[rows] = np.nan


def finite_matrices(hessians: Array) -> tuple[Array, Array]:
    """Return the matrices with zeros in place of each that is not finite, and a mask of the finite ones."""
    if is_finite(hessians):
        return hessians, np.ones(len(hessians), bool)
    finite: Array = np.logical_and.reduce(np.isfinite(hessians), axis=(-1, -2))
    return np.where(finite[:, None, None], hessians, 0.0), finite


def eigen(hessians: Array) -> tuple[Array, Array]:
    """Return eigenvalues, ascending, and eigenvectors as rows of each matrix; NaN where a matrix is not finite. The
    largest component of each eigenvector is positive."""
    whole = is_finite(hessians)
    if not whole:
        hessians, finite = finite_matrices(hessians)
    values, vectors = np.linalg.eigh(hessians)
    vectors = _turned(vectors.transpose(0, 2, 1))
    if not whole:
        values[~finite], vectors[~finite] = np.nan, np.nan
    return values, vectors


def _turned(vectors: Array) -> Array:
    """Return the vectors, (matrices, vectors, components), with signs that make the largest component positive."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(-1)]
    turned: Array = (rows * np.where(largest < 0.0, -1.0, 1.0)[:, None]).reshape(vectors.shape)
    return turned


def classify(norms: Array, stationary: Array, eigenvalues: Array, doubt: Array) -> list[str]:
    """Return the class of each point, out of `CLASSES`.

    Eigenvalues up to `doubt` count as 0. A point with curvatures of both signs is a saddle, whatever the others are.
    Any other point with a curvature of 0 is degenerate: second derivatives do not decide its kind.
    """
    lowest, highest = eigenvalues[:, 0].tolist(), eigenvalues[:, -1].tolist()
    return list(map(_class, norms.tolist(), stationary.tolist(), lowest, highest, doubt.tolist()))


def _class(norm: float, stationary: bool, lowest: float, highest: float, doubt: float) -> str:
    # Plain numbers are far quicker than arrays for few points, which most requests have.
    if not norm < math.inf:
        return UNDEFINED
    if not stationary:
        return NOT_STATIONARY
    if math.isnan(lowest):
        return UNDEFINED
    if lowest < -doubt and highest > doubt:
        return SADDLE
    if lowest > doubt:
        return MINIMUM
    return MAXIMUM if highest < -doubt else DEGENERATE


@ignoring_float_warnings
def along(gradients: Array, directions: Array) -> Array:
    """Return directional derivatives, (points, directions), for directions of any length but 0."""
    # The last digits of a matrix product would depend on the count of points.
    derivatives: Array = np.einsum("ni,ki->nk", gradients, directions / norms_of(directions)[:, None])
    return derivatives
