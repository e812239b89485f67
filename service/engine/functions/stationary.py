"""The search for stationary points in a box: Newton's method from many places, and what it may claim."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from service.engine.functions.calculus import DEGENERATE, analyse, norms_of
from service.engine.functions.function import Function
from service.engine.functions.newton import SAME, distinct, polish, refine
from service.engine.graph.ir import Array

SAME_VALUE = 1e-14
"""Values closer than this, beside their size or that of usual values, are equal but for rounding."""
SPREAD = 1e-2
"""Degenerate points that are closer than this share of the box are hardly told apart by their gradients."""
MOST_FOUND = 500
"""Stationary points that are told."""


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
    reach = np.full(len(places), 0.25 * math.sqrt(len(size)))
    refined = refine(function, places, reach, deadline=deadline, scale=size)
    margin = 1e-9 * size
    inside = refined.arrived & ((refined.points >= low - margin) & (refined.points <= high + margin)).all(-1)
    chosen, groups = distinct(refined.points[inside], SAME * size, MOST_FOUND)
    found = polish(function, refined.points[inside][chosen], deadline, scale=size)
    found = _without_plains(function, found, size, deadline)
    usual = usual_size(function.run(places).values)
    order = lowest_first(found, function.run(found).values, usual) if len(found) else np.zeros(0, np.intp)
    return Search(found[order], len(places), not (groups < 0).any())


def _without_plains(function: Function, points: Array, size: Array, deadline: float | None) -> Array:
    """One point for each group of degenerate points that lie close: where the gradient is too flat to part them."""
    if len(points) < 2:
        return points
    calculus = analyse(function, points, math.inf, deadline)
    degenerate = np.array([kind == DEGENERATE for kind in calculus.classes or ()])
    plains, norms = points[degenerate], calculus.norms[degenerate]
    chosen, groups = distinct(plains, SPREAD * size, MOST_FOUND)
    if len(chosen) in (0, len(plains)):
        return points
    best = np.empty((len(chosen), points.shape[1]))
    middles = np.empty_like(best)
    for group in range(len(chosen)):
        members, lengths = plains[groups == group], norms[groups == group]
        best[group] = members[lengths.argmin()]
        middles[group] = members[lengths <= lengths.min()].mean(0)
    middles = polish(function, middles, deadline, scale=size)
    shorter = norms_of(function.run(middles).gradients) <= norms_of(function.run(best).gradients)
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
