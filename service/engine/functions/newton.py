"""Newton's method for gradients, at many places at once and for any conditioning.

A step solves for where the gradient would vanish if the second derivatives stayed as they are, so it is drawn to
minima, saddle points and maxima alike. It is shortened until the gradient does become shorter, which keeps it from
jumping away. Lengths are counted in a scale of each variable, and curvatures of different size do not mix: a Hessian
is first scaled so that each variable has curvatures of about 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, every, is_finite, norms_of
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.functions.calculus import finite_matrices
from service.engine.functions.compiled import Function
from service.engine.functions.rounding import EPS, GRADED, UNKNOWN, equilibrating
from service.engine.watch import Watch

ITERATIONS = 40
"""Iterations that lead near, also where Newton's method only halves the distance at each step, as at degenerate points.
"""
POLISHING = 80
"""Iterations that lead from near to the point itself."""
EXTRAPOLATIONS = 8
"""Most extrapolations of a sequence of steps; for a power, one is enough."""
HALVINGS, TOGETHER, FEW = 12, 4, 64
NEAR = 1e-6
"""A Newton step up to this share of the scale leads to a stationary point next to the place."""
FAR_OUT = 1e-11
"""That length as a share of the place, where the place is far outside the scale."""
LOCAL = 0.1
"""A Newton step up to this share of the reach counts as one close to the end."""
ROUNDING = 16.0 * EPS
"""Largest gradient that rounding explains, relative to the curvature times the distance from 0."""
SAME = 1e-6
"""Places that are closer than this share of the size of the box, or of themselves, are one."""
ROUNDED = 10.0 * SAME
"""A point is rounded by no more than this share of the scale, or of itself."""
DIGITS = (9, 6, 3)
"""Decimals to which a point is rounded where that does not lengthen its gradient."""


class Refined(NamedTuple):
    """The results of Newton's method, with an entry or a row for each start."""

    points: Array
    """(points, variables)"""
    arrived: Array
    """True where the gradient is zero, as exactly as floats allow."""
    hidden: Array
    """True where the method has ended, but rounding hides the curvature along the gradient that is left."""
    lengths: Array
    """The lengths of the next steps, in the scale."""
    faded: Array
    """The factors by which the gradients, in the scale, have become shorter."""
    known: Array
    """True where the curvature is known in all directions."""


@ignoring_float_warnings
def refine(
    function: Function,
    starts: Array,
    reach: Array,
    iterations: int = ITERATIONS,
    watch: Watch | None = None,
    halvings: int = HALVINGS,
    *,
    scale: Array | None = None,
    flat: float = 0.0,
) -> Refined:
    """Find stationary points from each start by Newton's method.

    `function` has second derivatives. No step is longer than `reach`, one length for each start, and each is halved at
    most `halvings` times. `scale` is a length for each variable, by default 1; lengths are measured in it, and a point
    has arrived if the next step is very short in it. The method takes no step along directions with a curvature up to
    the share `flat` of the largest, so it reaches some point of a curve of stationary points. Raises what `watch`
    raises.
    """
    scale = np.ones(starts.shape[-1]) if scale is None else scale
    points = starts.copy()
    gradients, hessians = derivatives(function, points, watch)
    even = bool((scale == scale[0]).all())  # then the scale changes nothing in a comparison of norms
    norms = norms_of(gradients if even else gradients * scale)
    first_norms = norms.copy()
    active = np.flatnonzero(np.isfinite(norms) & (norms > 0.0))
    for _ in range(iterations):
        if not len(active):
            break
        curvature = Curvature(hessians[active], scale, flat)
        steps = curvature.steps(gradients[active])
        lengths = norms_of(steps / scale)
        local = (lengths <= LOCAL * reach[active]) & every(curvature.known)
        steps = _shortened(steps, lengths, reach[active])
        here, before = points[active], norms[active]
        small = every(np.abs(steps) <= EPS * np.abs(here))
        again = lengths > NEAR  # a very short step that does not help is rounding
        better = np.zeros(len(active), bool)
        trying = np.flatnonzero(~small)
        at, moves, bounds = here[trying], steps[trying], before[trying]
        halving = 0
        while halving < halvings and len(trying):
            # Most full steps are good. Several shorter ones are tried at once, as a run takes as long for few points.
            together = min(TOGETHER, halvings - halving) if halving and len(trying) <= FEW else 1
            trial = at + 0.5**halving * moves
            if together > 1:
                shares = 0.5 ** np.arange(halving, halving + together)
                trial = (at + shares[:, None, None] * moves).reshape(-1, at.shape[-1])
            g, h = derivatives(function, trial, watch)
            n = norms_of(g if even else g * scale)
            if together > 1:
                shorter = n.reshape(together, -1) < bounds
                good, first = np.asarray(shorter.any(0)), shorter.argmax(0)
            else:
                good, first = n < bounds, None  # also false at NaN
            if not halving:
                # The rounding of steep directions hides the others in the norm, but not in the step.
                close = np.flatnonzero(~good & local[trying])
                if len(close):
                    rows = trying[close]
                    good[close] = norms_of(curvature.at(rows).steps(g[close]) / scale) <= 0.5 * lengths[rows]
            found = np.flatnonzero(good)
            if len(found):
                chosen = trying[found]
                rows = active[chosen]
                if first is not None:
                    found = first[found] * len(trying) + found
                points[rows], gradients[rows], hessians[rows], norms[rows] = trial[found], g[found], h[found], n[found]
                better[chosen] = True
            if len(found) or not halving:
                rest = np.flatnonzero(~good & again[trying])
                trying, at, moves, bounds = trying[rest], at[rest], moves[rest], bounds[rest]
            halving += together
        active = active[better & (norms[active] > 0.0)]
    there: Array = np.isfinite(function.run(points).values)
    there &= np.logical_and.reduce(np.isfinite(hessians), axis=(-1, -2))
    near, explained, lengths, known = _arrived(points, gradients, hessians, scale, flat)
    near &= there
    return Refined(points, near & explained, near & ~explained, lengths, norms / first_norms, known)


@ignoring_float_warnings
def descend(
    function: Function, starts: Array, low: Array, high: Array, reach: float, watch: Watch | None = None
) -> Array:
    """Go downhill from each start: next to a minimum, out of the box, or as far as the iterations reach.

    Newton's method with the absolute values of curvatures (Dauphin et al. 2014, arXiv:1406.2572) goes downhill only. No
    step is longer than `reach`, in the size of the box, and it is halved until the value is lower. Raises what `watch`
    raises.
    """
    points, size = starts.copy(), high - low
    results = function.run(points, watch)
    values, gradients, hessians = results.values, results.gradients, results.hessians
    assert hessians is not None
    active = np.flatnonzero(np.isfinite(values) & np.isfinite(gradients).all(-1))
    shares = 0.5 ** np.arange(HALVINGS)
    for _ in range(ITERATIONS):
        if not len(active):
            break
        steps = Curvature(hessians[active], size).steps(gradients[active], downhill=True)
        lengths = norms_of(steps / size)
        steps = _shortened(steps, lengths, np.full(len(active), reach))
        trial = points[active] + shares[:, None, None] * steps
        results = function.run(trial.reshape(-1, trial.shape[-1]), watch)
        assert results.hessians is not None
        lower = results.values.reshape(trial.shape[:2]) < values[active]
        lower &= every((trial >= low) & (trial <= high))
        taken = lower.argmax(0)
        good = np.flatnonzero(lower.any(0))
        rows, found = active[good], taken[good] * len(active) + good
        points[rows], values[rows] = trial.reshape(-1, trial.shape[-1])[found], results.values[found]
        gradients[rows], hessians[rows] = results.gradients[found], results.hessians[found]
        active = rows[lengths[good] > NEAR]
    return points


@ignoring_float_warnings
def extrapolate(
    function: Function, points: Array, low: Array, high: Array, watch: Watch | None = None, *, scale: Array
) -> Array:
    """Return the limits of Newton's method from each point, extrapolated from two steps (Aitken 1926).

    Each step is taken to be shorter than the one before by the same factor. That is so at points of high order: for
    x^100 the factor is 98/99.

    A point stays where it is if its steps do not become shorter, lead out of the box or do not shorten the gradient.
    Raises what `watch` raises.
    """
    points = points.copy()
    gradients, hessians = derivatives(function, points, watch)
    for _ in range(EXTRAPOLATIONS):
        steps = Curvature(hessians, scale).steps(gradients)
        g, h = derivatives(function, points + steps, watch)
        following = Curvature(h, scale).steps(g)
        rates = (following * steps / scale**2).sum(-1) / (steps * steps / scale**2).sum(-1)
        trial = points + steps / (1.0 - rates)[:, None]
        good = (rates > 0.0) & (rates < 1.0) & every((trial >= low) & (trial <= high))
        trial = np.where(good[:, None], trial, points)
        g, h = derivatives(function, trial, watch)
        good &= norms_of(g * scale) < norms_of(gradients * scale)
        if not good.any():
            break
        points[good], gradients[good], hessians[good] = trial[good], g[good], h[good]
    return points


@ignoring_float_warnings
def near(
    function: Function, points: Array, reach: Array, watch: Watch | None = None, *, scale: Array | None = None
) -> Array:
    """Return a mask of the points, (points, variables), that have a stationary point within `reach`. One step of
    Newton's method decides; `reach` is a length for each point."""
    scale = np.ones(points.shape[-1]) if scale is None else scale
    gradients, hessians = derivatives(function, points, watch)
    steps = Curvature(hessians, scale).steps(gradients)
    close: Array = (norms_of(steps / scale) <= reach) & np.isfinite(norms_of(gradients))
    return close


def _arrived(points: Array, gradients: Array, hessians: Array, scale: Array, flat: float) -> tuple[Array, ...]:
    """Return four arrays over the points that say how Newton's method ended.

    They are: whether its next step is short, whether this step explains the whole gradient, the step's length, and
    whether the curvature is known in all directions. A short gradient alone proves little: on a plateau it is short
    everywhere.
    """
    curvature = Curvature(hessians, scale, flat)
    lengths = norms_of(curvature.steps(gradients) / scale)
    near = lengths <= NEAR + FAR_OUT * norms_of(points / scale)
    left = np.where(curvature.known, 0.0, np.abs(curvature.components(gradients)))
    rounding = ROUNDING * (np.abs(hessians) @ np.abs(points)[..., None])
    least = (np.abs(curvature.vectors).transpose(0, 2, 1) @ rounding)[..., 0]
    return np.asarray(near), every(left <= least), lengths, every(curvature.known)


def derivatives(function: Function, points: Array, watch: Watch | None) -> tuple[Array, Array]:
    """Return gradients and Hessians at points, (points, variables). Raises what `watch` raises."""
    if watch is not None:
        watch.look()
    results = function.run(points, watch)
    assert results.hessians is not None
    return results.gradients, results.hessians


class Curvature:
    """Hessians as curvatures along directions, where small curvatures keep their digits beside large ones.

    Rounding leaves an error of the size of the largest curvature in all eigenvalues of a matrix. Where they differ
    much, the variables are scaled first by powers of two, so that curvatures differ only if they do in every scale.
    """

    values: Array
    """(points, directions): curvatures, in scaled variables."""
    vectors: Array
    """(points, variables, directions): a column for each direction."""
    known: Array
    """True for curvatures that rounding cannot have made of 0."""

    def __init__(self, hessians: Array, scale: Array | None = None, flat: float = 0.0) -> None:
        """Decompose Hessians, (points, variables, variables). Curvatures up to the share `flat` of the largest count as
        unknown, with variables in units of `scale`."""
        matrices = finite_matrices(hessians)[0]
        if flat and scale is not None:
            matrices = scale[:, None] * matrices * scale
        values, vectors = np.linalg.eigh(matrices)
        sizes = np.abs(values)
        largest = np.maximum(sizes[:, :1], sizes[:, -1:])  # they are in order
        if flat and scale is not None:
            vectors *= scale[:, None]
        else:
            graded = np.flatnonzero(~every(sizes >= GRADED * largest))
            if len(graded):
                factors = equilibrating(matrices[graded])
                values[graded], found = np.linalg.eigh(factors[:, :, None] * matrices[graded] * factors[:, None, :])
                vectors[graded] = factors[:, :, None] * found
                sizes = np.abs(values)
                largest = np.maximum(sizes[:, :1], sizes[:, -1:])
        self.values, self.vectors = values, vectors
        self.known = sizes > max(flat, UNKNOWN * matrices.shape[-1]) * largest
        self._inverse = np.where(self.known, 1.0 / values, 0.0)

    def at(self, rows: Array) -> Curvature:
        """Return the curvatures of some of the points."""
        part = object.__new__(Curvature)
        part.values, part.vectors, part.known = self.values[rows], self.vectors[rows], self.known[rows]
        part._inverse = self._inverse[rows]
        return part

    def components(self, gradients: Array) -> Array:
        """Return the components of the gradients along the directions, in scaled variables."""
        found: Array = (self.vectors.transpose(0, 2, 1) @ gradients[..., None])[..., 0]
        return found

    def steps(self, gradients: Array, downhill: bool = False) -> Array:
        """Return the steps of Newton's method, (points, variables): minus the inverse Hessian times the gradient.
        Directions of unknown curvature are left out. With `downhill`, curvatures count by their absolute values."""
        inverse = np.abs(self._inverse) if downhill else self._inverse
        found: Array = -(self.vectors @ (inverse * self.components(gradients))[..., None])[..., 0]
        return found


def _shortened(steps: Array, lengths: Array, reach: Array) -> Array:
    """Return the steps, shortened to `reach` where they are longer; 0 where they are not finite."""
    shrinking = np.where(lengths > reach, reach / lengths, 1.0)
    if not is_finite(lengths):
        steps, shrinking = np.nan_to_num(steps), np.where(np.isfinite(lengths), shrinking, 0.0)
    return np.asarray(steps * shrinking[:, None])


def distinct(points: Array, apart: Array, most: int) -> tuple[Array, Array]:
    """Choose one of each group of places closer to each other than `apart`, a length for each variable.

    `apart` may also have a row for each place. Returns the rows of the chosen places, at most `most`, and for each row
    the position of its group among them, or -1.
    """
    groups = np.full(len(points), -1)
    if not len(points):
        return np.zeros(0, np.intp), groups
    apart = np.broadcast_to(np.maximum(apart, np.finfo(np.float64).tiny), points.shape)
    # Cells no larger than that, in few sizes, so that many places share a numbering.
    exponents = np.floor(np.log2(apart))
    keys = np.floor(points / np.exp2(exponents))
    if (exponents != exponents[0]).any():
        keys = np.concatenate([keys, exponents], -1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    # Join neighbours that a border of cells separates.
    order = np.argsort(points[first, 0], kind="stable")
    rows = first[order]
    places, lengths = points[rows], apart[rows]
    column, reach = places[:, 0], lengths[:, 0]
    begins, ends = np.searchsorted(column, column - reach), np.searchsorted(column, column + reach, "right")
    label = np.full(len(rows), -1)
    chosen: list[int] = []
    for place, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if len(chosen) == most:
            break
        if label[place] < 0:
            window = label[begin:end]
            close = every(np.abs(places[begin:end] - places[place]) <= lengths[place])
            window[close & (window < 0)] = len(chosen)
            chosen.append(int(rows[place]))
    found = np.empty_like(label)
    found[order] = label
    return np.array(chosen, np.intp), found[inverse.reshape(-1)]


@ignoring_float_warnings
def polish(function: Function, points: Array, watch: Watch | None = None, *, scale: Array | None = None) -> Array:
    """Return stationary points, moved to the exact ones as far as float64 allows. `points` are (points, variables),
    each near a stationary point."""
    scale = np.ones(points.shape[-1]) if scale is None else scale
    if not len(points):
        return points
    reach = SAME * np.maximum(1.0, norms_of(points / scale))
    nearer = refine(function, points, reach, POLISHING, watch, scale=scale).points
    tries = [points, nearer, np.where(np.abs(nearer) < 10.0 ** -max(DIGITS), 0.0, nearer)]
    tries += [np.where(np.abs(nearer) < 10.0**9, np.round(nearer, digits) + 0.0, nearer) for digits in DIGITS]
    results = function.run(np.concatenate(tries), watch)
    assert results.hessians is not None
    shape = len(tries), len(points)
    defined = np.isfinite(results.values) & np.logical_and.reduce(np.isfinite(results.hessians), axis=(-1, -2))
    # Each step uses the first curvature, as its own may have vanished.
    curvature = Curvature(results.hessians[: len(points)], scale)
    steps, left = _lengths(curvature, results.gradients.reshape(*shape, -1), scale)
    places = np.stack(tries)
    # A place rounded to few decimals may reach another stationary point.
    allowed = ROUNDED * np.maximum(1.0, norms_of(points / scale))
    good = defined.reshape(shape) & (norms_of((places - nearer) / scale) <= allowed)
    good &= every(np.abs(places - points) <= ROUNDED * scale)
    exact, best, least = points, steps[0], left[0]
    for place in range(1, len(tries)):
        better = good[place] & (steps[place] <= best) & (left[place] <= least)
        exact = np.where(better[:, None], places[place], exact)
        best, least = np.where(better, steps[place], best), np.where(better, left[place], least)
    return exact


def _lengths(curvature: Curvature, gradients: Array, scale: Array) -> tuple[Array, Array]:
    """Return the lengths of Newton's steps, and of the gradients along directions of unknown curvature."""
    rest = np.where(curvature.known, 0.0, curvature.components(gradients))
    return norms_of(curvature.steps(gradients) / scale), norms_of(rest)
