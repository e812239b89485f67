"""What value, gradient and Hessian say of a point: how steep, which way, and what kind of place it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.engine.functions.function import Function, Problem, Results
from service.engine.graph.ir import Array
from service.engine.graph.quiet import quietly

STATIONARY = 1e-8
"""A gradient norm up to this is taken as 0, unless the caller says otherwise."""
FLAT = 1e-8
"""An eigenvalue up to this share of the largest is taken as 0."""
UNSURE = 10.0
"""So is one up to this many times the root of the gradient norm: as much is left near where it changes its sign."""

MINIMUM, MAXIMUM, SADDLE = "minimum", "maximum", "saddle"
DEGENERATE, NOT_STATIONARY, UNDEFINED = "degenerate", "not_stationary", "undefined"
CLASSES = (MINIMUM, MAXIMUM, SADDLE, DEGENERATE, NOT_STATIONARY, UNDEFINED)


@dataclass
class Calculus:
    """Arrays over the points, and lists with an entry for each."""

    results: Results
    norms: Array
    """Of the gradients."""
    directions: Array
    """Of steepest ascent: unit vectors; not a number where there is none."""
    stationary: Array
    """Whether the gradient is 0, to the tolerance."""
    problems: dict[int, list[Problem]]
    eigenvalues: Array | None = None
    """(points, variables), ascending."""
    eigenvectors: Array | None = None
    """(points, variables, variables): a row for each eigenvalue."""
    classes: list[str] | None = None
    """Out of `CLASSES`."""
    condition_numbers: Array | None = None
    """At minima and maxima the largest curvature over the smallest; else not a number."""
    stable_steps: Array | None = None
    """At minima 2/λmax, which a learning rate of gradient descent must stay below; else not a number."""

    @property
    def finite(self) -> Array:
        """At which points all of it is finite."""
        finite: Array = np.isfinite(self.results.values) & np.isfinite(self.norms)
        return finite if self.eigenvalues is None else finite & np.isfinite(self.eigenvalues).all(-1)


def analyse(
    function: Function, points: Array, tolerance: float = STATIONARY, deadline: float | None = None
) -> Calculus:
    """Everything that is told of each row of `points`; second derivatives only if the function has them.

    Raises `DeadlineExceeded` past the reading `deadline` of `time.monotonic`.
    """
    results = function.run(points, deadline)
    return quietly(_analyse, function, points, results, tolerance)


def _analyse(function: Function, points: Array, results: Results, tolerance: float) -> Calculus:
    results = _where_defined(results)
    norms = norms_of(results.gradients)
    stationary = norms <= tolerance
    lengths = np.where(stationary | ~np.isfinite(norms), np.nan, norms)[:, None]
    found = Calculus(results, norms, results.gradients / lengths, stationary, function.problems(points, results))
    if results.hessians is None:
        return found
    found.eigenvalues, found.eigenvectors = eigen(results.hessians)
    found.classes = classify(norms, found.eigenvalues, tolerance).tolist()
    sizes = np.abs(found.eigenvalues)
    classes = np.array(found.classes)
    curved = (classes == MINIMUM) | (classes == MAXIMUM)
    found.condition_numbers = np.where(curved, sizes.max(-1) / sizes.min(-1), np.nan)
    found.stable_steps = np.where(classes == MINIMUM, 2.0 / found.eigenvalues[:, -1], np.nan)
    return found


def _where_defined(results: Results) -> Results:
    """Without derivatives at points without a value: formulas such as 1/x go on where log x has ended."""
    undefined = np.isnan(results.values)
    if undefined.any():
        results.gradients[undefined] = np.nan
        if results.hessians is not None:
            results = results._replace(hessians=np.where(undefined[:, None, None], np.nan, results.hessians))
    return results


def norms_of(rows: Array) -> Array:
    """The Euclidean norm of each row, also where squares overflow or vanish."""
    norms: Array = np.sqrt((rows * rows).sum(-1))
    rough: Array = np.logical_not((norms > 1e-150) & (norms < 1e150))
    if rough.any():
        largest = np.abs(rows[rough]).max(-1, keepdims=True)
        scale = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
        norms[rough] = scale[:, 0] * np.sqrt(np.square(rows[rough] / scale).sum(-1))
    return norms


def eigen(hessians: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors as rows, of each matrix; not numbers where one is not finite.

    The largest component of each eigenvector is positive.
    """
    finite: Array = np.logical_and.reduce(np.isfinite(hessians), axis=(-1, -2))
    whole = bool(finite.all())
    values, vectors = np.linalg.eigh(hessians if whole else np.where(finite[:, None, None], hessians, 0.0))
    vectors = vectors.transpose(0, 2, 1)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(-1)[..., None], -1)
    vectors = vectors * np.where(largest < 0.0, -1.0, 1.0)
    if not whole:
        values[~finite], vectors[~finite] = np.nan, np.nan
    return values, vectors


def classify(norms: Array, eigenvalues: Array, tolerance: float) -> Array:
    """The class of each point, out of `CLASSES`.

    A point with curvatures of both signs is a saddle whatever the others are; one with a curvature of 0 is
    degenerate: second derivatives do not decide what it is.
    """
    flat = np.maximum(FLAT * np.abs(eigenvalues).max(-1), UNSURE * np.sqrt(norms))
    down, up = eigenvalues[:, 0] < -flat, eigenvalues[:, -1] > flat
    conditions = [
        ~np.isfinite(norms),
        norms > tolerance,
        np.isnan(eigenvalues[:, 0]),
        down & up,
        eigenvalues[:, 0] > flat,
        eigenvalues[:, -1] < -flat,
    ]
    classes: Array = np.select(conditions, [UNDEFINED, NOT_STATIONARY, UNDEFINED, SADDLE, MINIMUM, MAXIMUM], DEGENERATE)
    return classes


def along(gradients: Array, directions: Array) -> Array:
    """Directional derivatives: (points, directions), for directions of any length but 0."""
    lengths = norms_of(directions)[:, None]
    derivatives: Array = gradients @ (directions / lengths).T
    return derivatives


def largest_stable_step(eigenvalues: Array) -> float:
    """2/λmax: on a quadratic with these curvatures gradient descent diverges from there on."""
    largest = float(eigenvalues.max())
    return 2.0 / largest if largest > 0.0 else math.inf
