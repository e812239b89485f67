"""Where the gradient of an expression is zero: Newton's method from many places at once.

A step solves for where the gradient would vanish if the second derivatives stayed as they are, so it is drawn to
minima, saddle points and maxima alike. It is shortened until the gradient does become shorter, which keeps it from
jumping away.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from service.engine.errors import DeadlineExceeded
from service.engine.functions.calculus import DEGENERATE, analyse, finite_matrices, norms_of
from service.engine.functions.function import Function
from service.engine.graph.ir import Array
from service.engine.graph.quiet import quietly

ITERATIONS = 40
"""Enough to come near, also where Newton's method only halves the distance at each step, as at degenerate points."""
POLISHING = 80
"""Enough to get there."""
HALVINGS = 12
FLAT = 1e-14
"""Along directions with less than this share of the largest curvature no step is made: rounding decides there."""
NEAR = 1e-6
"""A Newton step this much shorter than the place is far from 0 leads to a stationary point next to it."""
ARRIVED = 1e-10
"""A gradient this much smaller than the curvature times the place is as good as 0."""
CELLS = 3.0
"""Cells away from each other that places may be in which are one, as cells differ a little in size."""
SAME = 1e-6
"""Places that are closer than this share of the size of the box, or of themselves, are one."""
SAME_VALUE = 1e-14
"""Values closer than this, beside their size or that of usual values, are equal but for rounding."""
SPREAD = 1e-2
"""Degenerate points that are closer than this share of the box are hardly told apart by their gradients."""
MOST_FOUND = 500
"""Stationary points that are told; where there are more, they are hardly single points."""
DIGITS = (9, 6, 3)
"""Decimals that a point is rounded to where that makes its gradient no longer: then they are the better numbers."""


class Refined(NamedTuple):
    """Where Newton's method led."""

    points: Array
    """(points, variables)"""
    arrived: Array
    """Whether the gradient is zero there, as exactly as numbers allow."""


def refine(
    function: Function,
    starts: Array,
    reach: Array,
    iterations: int = ITERATIONS,
    deadline: float | None = None,
    halvings: int = HALVINGS,
) -> Refined:
    """The stationary points that Newton's method finds from each start.

    `function` has second derivatives; no step is longer than `reach`, one length for each start, and each is halved so
    often at most. Raises `DeadlineExceeded` past the reading `deadline` of `time.monotonic`.
    """
    return quietly(_refine, function, starts, reach, iterations, deadline, halvings)


def _refine(
    function: Function, starts: Array, reach: Array, iterations: int, deadline: float | None, halvings: int
) -> Refined:
    points = starts.copy()
    gradients, hessians = _derivatives(function, points, deadline)
    norms = norms_of(gradients)
    active = np.flatnonzero(np.isfinite(norms) & (norms > 0.0))
    for _ in range(iterations):
        if not len(active):
            break
        steps = _newton_steps(gradients[active], hessians[active], reach[active])
        here, before = points[active], norms[active]
        small = norms_of(steps) <= 0.5 * np.finfo(np.float64).eps * norms_of(here)
        better = np.zeros(len(active), bool)
        trying = np.flatnonzero(~small)
        for halving in range(halvings):
            if not len(trying):
                break
            trial = here[trying] + 0.5**halving * steps[trying]
            g, h = _derivatives(function, trial, deadline)
            n = norms_of(g)
            good = n < before[trying]  # also false where it is not a number
            chosen = trying[good]
            rows = active[chosen]
            points[rows], gradients[rows], hessians[rows], norms[rows] = trial[good], g[good], h[good], n[good]
            better[chosen] = True
            trying = trying[~good]
        active = active[better & (norms[active] > 0.0)]
    there: Array = np.isfinite(function.run(points).values)
    there &= np.logical_and.reduce(np.isfinite(hessians), axis=(-1, -2))
    return Refined(points, _arrived(points, gradients, hessians) & there)


def near(function: Function, points: Array, reach: Array, deadline: float | None = None) -> Array:
    """Which points have a stationary point within reach, as far as one step of Newton's method can tell."""
    return quietly(_near, function, points, reach, deadline)


def _near(function: Function, points: Array, reach: Array, deadline: float | None) -> Array:
    gradients, hessians = _derivatives(function, points, deadline)
    close: Array = norms_of(_newton_steps(gradients, hessians, np.full(len(points), np.inf))) <= reach
    return close


def _arrived(points: Array, gradients: Array, hessians: Array) -> Array:
    """Whether a stationary point is here: Newton's next step is short, and no gradient is left that it cannot explain.

    A short gradient alone says little: on a plateau it is short everywhere.
    """
    size = np.maximum(1.0, norms_of(points))
    steps = _newton_steps(gradients, hessians, size)
    left = norms_of(gradients + (hessians @ steps[..., None])[..., 0])
    curvature = norms_of(hessians.reshape(len(points), points.shape[1] ** 2))
    arrived: Array = (norms_of(steps) <= NEAR * size) & (left <= ARRIVED * curvature * size + np.finfo(np.float64).tiny)
    return arrived


def _derivatives(function: Function, points: Array, deadline: float | None) -> tuple[Array, Array]:
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded
    results = function.run(points, deadline)
    assert results.hessians is not None
    return results.gradients, results.hessians


def _newton_steps(gradients: Array, hessians: Array, reach: Array) -> Array:
    """Minus the inverse of each Hessian times its gradient, no longer than the reach."""
    values, vectors = np.linalg.eigh(finite_matrices(hessians)[0])
    sizes = np.abs(values)
    inverse = np.where(sizes > FLAT * sizes.max(-1, keepdims=True), 1.0 / values, 0.0)
    components = (vectors.transpose(0, 2, 1) @ gradients[..., None])[..., 0]
    steps: Array = -(vectors @ (inverse * components)[..., None])[..., 0]
    lengths = norms_of(steps)
    shrinking = np.where(lengths > reach, reach / lengths, 1.0)
    steps = np.nan_to_num(steps)
    steps *= np.where(np.isfinite(lengths), shrinking, 0.0)[:, None]
    return steps


def distinct(points: Array, apart: Array, most: int) -> tuple[Array, Array]:
    """One of each group of places that are closer than `apart`: a length for each variable, or for each of each place.

    Gives the rows of those chosen, at most so many, and for each row the place of its group among them, or -1.
    """
    groups = np.full(len(points), -1)
    if not len(points):
        return np.zeros(0, np.intp), groups
    apart = np.broadcast_to(np.maximum(apart, np.finfo(np.float64).tiny), points.shape)
    # With the size of the cell, so that numbers of cells mean the same.
    keys = np.concatenate([np.floor(points / apart), np.floor(np.log2(apart))], -1)
    cells, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    # Neighbours that a border of the cells parted are put together again.
    representatives = points[first]
    label = np.full(len(first), -1)
    chosen: list[int] = []
    column = cells[:, 0]
    for cell in range(len(cells)):
        if len(chosen) == most:
            break
        if label[cell] < 0:
            # Cells are sorted: those of neighbours stand close by.
            window = slice(*np.searchsorted(column, (column[cell] - CELLS, column[cell] + CELLS + 1.0)).tolist())
            distances = np.abs(representatives[window] - representatives[cell])
            close = (distances <= apart[first[cell]]).all(-1) & (label[window] < 0)
            label[window][close] = len(chosen)
            chosen.append(int(first[cell]))
    groups = label[inverse.reshape(-1)]
    return np.array(chosen, np.intp), groups


class Search(NamedTuple):
    """What a search in a box found."""

    points: Array
    """(found, variables), within the box and sorted by value."""
    starts: int
    """From how many places it searched."""
    complete: bool
    """False: there were more than are told."""


def search(function: Function, low: Array, high: Array, starts: int, deadline: float | None = None) -> Search:
    """The stationary points in a box that Newton's method finds from about so many places spread over it."""
    places = spread(low, high, starts)
    size = high - low
    refined = refine(function, places, np.full(len(places), 0.25 * float(norms_of(size[None])[0])), deadline=deadline)
    margin = 1e-9 * size
    inside = refined.arrived & ((refined.points >= low - margin) & (refined.points <= high + margin)).all(-1)
    chosen, groups = distinct(refined.points[inside], SAME * size, MOST_FOUND)
    found = polish(function, refined.points[inside][chosen], deadline)
    found = _without_plains(function, found, SPREAD * size, deadline)
    usual = usual_size(function.run(places).values)
    order = lowest_first(found, function.run(found).values, usual) if len(found) else np.zeros(0, np.intp)
    return Search(found[order], len(places), not (groups < 0).any())


def _without_plains(function: Function, points: Array, apart: Array, deadline: float | None) -> Array:
    """One point for each group of degenerate points that lie close: where the gradient is too flat to part them."""
    if len(points) < 2:
        return points
    calculus = analyse(function, points, math.inf, deadline)
    degenerate = np.array([kind == DEGENERATE for kind in calculus.classes or ()])
    plains, norms = points[degenerate], calculus.norms[degenerate]
    chosen, groups = distinct(plains, apart, MOST_FOUND)
    if len(chosen) in (0, len(plains)):
        return points
    best = np.empty((len(chosen), points.shape[1]))
    middles = np.empty_like(best)
    for group in range(len(chosen)):
        members, lengths = plains[groups == group], norms[groups == group]
        best[group] = members[lengths.argmin()]
        middles[group] = members[lengths <= lengths.min()].mean(0)
    middles = polish(function, middles, deadline)
    shorter = _slopes(function, middles) <= _slopes(function, best)
    return np.concatenate([points[~degenerate], np.where(shorter[:, None], middles, best)])


def usual_size(values: Array) -> float:
    """How large values are where a search or descents start: what is far smaller is what rounding leaves."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.sort(finite)[len(finite) // 2]) if len(finite) else 0.0


def lowest_first(points: Array, values: Array, usual: float) -> Array:
    """The order by value; of points that are equally low but for rounding, by their coordinates."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order], prepend=values[order[:1]])
    level = np.cumsum(steps > SAME_VALUE * np.maximum(usual, np.abs(values[order])))
    found: Array = order[np.lexsort((*points[order].T[::-1], level))]
    return found


def polish(function: Function, points: Array, deadline: float | None = None) -> Array:
    """Points near stationary points, moved there as exactly as numbers allow."""
    return quietly(_polish, function, points, deadline)


def _polish(function: Function, points: Array, deadline: float | None) -> Array:
    if not len(points):
        return points
    reach = SAME * np.maximum(1.0, norms_of(points))
    exact, least = points, _slopes(function, points)
    nearer = refine(function, points, reach, POLISHING, deadline).points
    tries = [nearer, np.where(np.abs(nearer) < 10.0 ** -max(DIGITS), 0.0, nearer)]
    tries += [np.where(np.abs(nearer) < 10.0**9, np.round(nearer, digits) + 0.0, nearer) for digits in DIGITS]
    for simpler in tries:
        slopes = _slopes(function, simpler)
        exact = np.where((slopes <= least)[:, None], simpler, exact)
        least = np.minimum(slopes, least)
    return exact


def _slopes(function: Function, points: Array) -> Array:
    """The gradient norm at each point; infinite where the value or a derivative is not finite."""
    results = function.run(points)
    assert results.hessians is not None
    defined: Array = np.isfinite(results.values)
    defined &= np.logical_and.reduce(np.isfinite(results.hessians), axis=(-1, -2))
    slopes: Array = np.where(defined, norms_of(results.gradients), np.inf)
    return slopes


def spread(low: Array, high: Array, count: int) -> Array:
    """About so many places in a box: a grid off its symmetries, or in many variables a sequence that fills it."""
    dimension = len(low)
    each = round(count ** (1.0 / dimension))
    if each >= 3:
        axes = [np.linspace(a, b, each) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimension)
        # A little off the even grid: on lines of symmetry Newton's method never leaves them.
        offsets = np.sin(np.arange(1, grid.size + 1)).reshape(grid.shape)
        places: Array = grid + 0.2 / each * (high - low) * offsets
        return places
    # Roberts' sequence: multiples of the powers of the root of x^(d + 1) = x + 1, modulo 1.
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimension + 1))
    powers = np.array([math.pow(1.0 / root, power) for power in range(1, dimension + 1)])
    fractions = (0.5 + np.arange(1, count + 1)[:, None] * powers) % 1.0
    filling: Array = low + fractions * (high - low)
    return filling
