"""The search for stationary points in a box, by Newton's method from many places."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, every, norms_of
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.functions.compiled import Function, Results
from service.engine.functions.evidence import CURVE, DEGENERATE, HIDDEN, KNOWN, NONE, in_noise, judge
from service.engine.functions.newton import (
    POLISHING,
    SAME,
    Curvature,
    Refined,
    derivatives,
    descend,
    distinct,
    extrapolate,
    polish,
    refine,
)
from service.engine.functions.sides import settle
from service.engine.watch import Watch

SAME_VALUE = 1e-14
"""Largest relative difference of values that are equal but for rounding."""
SPREAD = 1e-2
"""Degenerate points closer than this share of the box can hardly be separated by their gradients."""
MOST_FOUND = 500
"""Most stationary points of an answer."""
UNSETTLED = 0.1
"""Newton's method may be kept from arriving by rounding where its step is still this long, in the size of the box."""
MOST_HIDDEN = 16
"""Most places where rounding hides a stationary point."""
FADED = 1e-6
"""A gradient that shrinks below this share before Newton's method arrives is that of a flat function."""
MOST_FLAT = 256
"""Starts that search once more, for curves of stationary points."""
PASSED_OVER = 0.1
"""Directions with up to this share of the largest curvature are passed over then."""


MOST_DESCENTS = 16
"""Starts from where a way down is followed: those lower than all minima that are found."""


class StationarySearch(NamedTuple):
    """The stationary points that a search in a box has found, and how complete it is."""

    points: Array
    """(found, variables), within the box and sorted by value."""
    flat: Array
    """True for a point with a vanishing curvature along some direction."""
    starts: int
    """The count of starts."""
    complete: bool
    """False if the answer leaves points out."""
    curves: bool
    """True if stationary points lie dense, as on a curve or in a plain."""
    hidden: Array
    """(hidden, variables): where stationary points may be near, but rounding hides them."""
    unseen: float
    """The share of starts that ended in the box at a place no other start reached: about the chance that one more start
    finds a new place (Good 1953)."""
    missing: float
    """An estimate of the count of points that no start has reached (Chao 1984)."""


@ignoring_float_warnings
def search(function: Function, low: Array, high: Array, starts: int, watch: Watch | None = None) -> StationarySearch:
    """Return the stationary points in the box [low, high], found from about `starts` places spread over it. Newton's
    method leads from the places to the points. Raises what `watch` raises."""
    places = spread(low, high, starts)
    size = high - low
    reach = np.full(len(places), 0.25 * math.sqrt(len(size)))
    refined = refine(function, places, reach, watch=watch, scale=size)
    points, arrived, hidden = refined.points, refined.arrived, refined.hidden
    margin = 1e-9 * size
    inside = every((points >= low - margin) & (points <= high + margin))
    flat = _flat(function, places, refined, (arrived | hidden) & inside, watch)
    if len(flat):
        again = refine(function, places[flat], reach[flat], POLISHING, watch, scale=size, flat=PASSED_OVER)
        points[flat], arrived[flat] = again.points, again.arrived | again.hidden
        inside = every((points >= low - margin) & (points <= high + margin))
    slow = np.flatnonzero(inside & ~arrived & ~hidden & (refined.faded <= FADED))
    slow = slow[:: -(-len(slow) // MOST_FLAT) or 1]
    if len(slow):
        ends = extrapolate(function, points[slow], low, high, watch, scale=size)
        again = refine(function, ends, reach[slow], POLISHING, watch, scale=size)
        points[slow], arrived[slow] = again.points, again.arrived
        inside = every((points >= low - margin) & (points <= high + margin))
    chosen, groups = distinct(points[inside & arrived], SAME * size, len(points))
    found = polish(function, points[inside & arrived][chosen], watch, scale=size)
    unsettled = inside & ~arrived & ~hidden & (refined.lengths <= UNSETTLED)
    lost = np.concatenate([points[inside & hidden], in_noise(function, points[unsettled], size, watch)])
    lost = lost[distinct(lost, SPREAD * size, MOST_HIDDEN)[0]]  # a few are enough
    judged = judge(function, np.concatenate([found, lost]), size, watch)
    verdicts = judged[: len(found)]
    # At a point of high order the gradient is too short for a number, but many starts lead there.
    leading = np.bincount(groups[np.isin(np.flatnonzero(inside & arrived), slow)], minlength=len(found))
    goals, degenerate = (verdicts == NONE) & (leading > 1), found[verdicts == DEGENERATE]
    beside = every(np.abs(found[goals][:, None] - degenerate) <= SPREAD * size).any(-1)
    verdicts[goals] = np.where(beside, DEGENERATE, HIDDEN)
    doubted = np.concatenate([found, lost])[judged == HIDDEN]
    reached = np.bincount(groups, minlength=len(found))[verdicts == KNOWN]
    alone, twice = int((reached == 1).sum()), int((reached == 2).sum())
    missing = 0.5 * alone * (alone - 1) / (twice + 1)
    found, verdicts = _certain(found, verdicts)
    results, values = function.run(found, watch), function.run(places, watch).values
    lower = _lower(function, places, values, found, results, low, high, watch)
    if len(lower):
        judged = judge(function, lower, size, watch)
        doubted = np.concatenate([doubted, lower[judged == HIDDEN]])
        alone += int((judged == KNOWN).sum())
        lower, judged = _certain(lower, judged)
        found, verdicts = np.concatenate([found, lower]), np.concatenate([verdicts, judged])
        results = function.run(found, watch)
    # Newton's method also sticks where the gradient is shortest without being 0, which shows the bends of a function.
    stuck = unsettled & ~every(points == places)
    bends = np.bincount(distinct(points[stuck], SPREAD * size, len(points))[1])
    unseen = float((alone + (bends == 1).sum()) / max(1, len(groups) + stuck.sum()))
    smooth = _smooth(function, found, results, watch)
    found, verdicts = found[smooth], verdicts[smooth]
    curves = bool((verdicts == CURVE).any())
    found, plain = _without_plains(function, found, verdicts != KNOWN, size, watch)
    order = lowest_first(found, function.run(found, watch).values, usual_size(values))
    complete = not curves and len(found) <= MOST_FOUND
    order = order[:MOST_FOUND]
    return StationarySearch(found[order], plain[order], len(places), complete, curves, doubted, unseen, missing)


def _certain(points: Array, verdicts: Array) -> tuple[Array, Array]:
    """Return the points that are certainly stationary, with their verdicts."""
    certain = (verdicts != HIDDEN) & (verdicts != NONE)
    return points[certain], verdicts[certain]


def _lower(
    function: Function,
    places: Array,
    values: Array,
    found: Array,
    results: Results,
    low: Array,
    high: Array,
    watch: Watch | None,
) -> Array:
    """Return stationary points downhill from the lowest starts, if these are lower than all minima in `found`. Newton's
    method for the gradient misses minima in long valleys, where bends attract it instead."""
    size = high - low
    candidates = np.where(every((places >= low) & (places <= high)) & np.isfinite(values), values, np.inf)
    # The minimum is first looked for among the points lower than all starts, to save the curvatures of the others.
    for part in (results.values <= candidates.min(), np.ones(len(found), bool)):
        assert results.hessians is not None
        curvature = Curvature(results.hessians[part], size)
        minima = every((curvature.values > 0.0) | ~curvature.known)
        bound = results.values[part][minima].min(initial=np.inf)
        rows = np.argsort(candidates, kind="stable")[:MOST_DESCENTS]
        rows = rows[candidates[rows] < bound]
        if not len(rows):
            return places[:0]
    reach = 0.25 * math.sqrt(len(low))
    ends = descend(function, places[rows], low, high, reach, watch)
    refined = refine(function, ends, np.full(len(ends), reach), watch=watch, scale=size)
    inside = every((refined.points >= low) & (refined.points <= high))
    ends = refined.points[(refined.arrived | refined.hidden) & inside]
    ends = polish(function, ends[distinct(ends, SAME * size, len(ends))[0]], watch, scale=size)
    known = every(np.abs(ends[:, None] - found) <= SAME * size).any(-1)
    return np.asarray(ends[~known])


def _smooth(function: Function, points: Array, results: Results, watch: Watch | None) -> Array:
    """Return a mask of the points that have derivatives. On a kink a derivative may be 0 only by convention."""
    problems = function.problems(points, results)
    if problems:
        results = settle(function, points, results, problems, watch).results
    assert results.hessians is not None
    smooth: Array = every(np.isfinite(results.gradients))
    smooth &= np.isfinite(results.hessians).all((-1, -2))
    return smooth


def _flat(function: Function, places: Array, refined: Refined, found: Array, watch: Watch | None) -> Array:
    """Return the rows of starts from which Newton's method follows a curve of nearly vanishing gradient."""
    rows = np.flatnonzero((refined.faded <= FADED) & ~found)
    if len(rows):
        before, after = (derivatives(function, at[rows], watch)[1] for at in (places, refined.points))
        flattened = np.abs(after).max((-1, -2)) <= FADED * np.abs(before).max((-1, -2))
        rows = rows[flattened | ~refined.known[rows]]
    chosen: Array = rows[:: -(-len(rows) // MOST_FLAT) or 1]
    return chosen


def _without_plains(
    function: Function, points: Array, plain: Array, size: Array, watch: Watch | None
) -> tuple[Array, Array]:
    """Return the points with one of each group of close degenerate points, and a mask of the degenerate ones. The
    gradient is too flat there to separate the points of a group."""
    plains = points[plain]
    chosen, groups = distinct(plains, SPREAD * size, len(plains))
    if len(chosen) in (0, len(plains)):
        return points, plain
    norms = norms_of(function.run(plains).gradients)
    best = np.empty((len(chosen), points.shape[1]))
    middles = np.empty_like(best)
    for group in range(len(chosen)):
        members, lengths = plains[groups == group], norms[groups == group]
        best[group] = members[lengths.argmin()]
        middles[group] = members[lengths <= lengths.min()].mean(0)
    middles = polish(function, middles, watch, scale=size)
    shorter = norms_of(function.run(middles).gradients) <= norms_of(function.run(best).gradients)
    best = np.where(shorter[:, None], middles, best)
    return np.concatenate([points[~plain], best]), np.repeat([False, True], [(~plain).sum(), len(best)])


def usual_size(values: Array) -> float:
    """Return the median absolute value. Differences much smaller than this are rounding."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.sort(finite)[len(finite) // 2]) if len(finite) else 0.0


def lowest_first(points: Array, values: Array, usual: float) -> Array:
    """Return the order of the points by value, as row numbers. Points whose values differ by rounding only, relative to
    `usual`, are ordered by their coordinates."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order], prepend=values[order[:1]])
    level = np.cumsum(steps > SAME_VALUE * np.maximum(usual, np.abs(values[order])))
    found: Array = order[np.lexsort((*points[order].T[::-1], level))]
    return found


def spread(low: Array, high: Array, count: int) -> Array:
    """Return about `count` places in a box, (places, variables). They are a grid off its symmetries; in many variables,
    a sequence that fills the box."""
    dimension = len(low)
    each = round(count ** (1.0 / dimension))
    if each >= 3:
        axes = [np.linspace(a, b, each) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimension)
        # Off the even grid, as Newton's method never leaves a line of symmetry.
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
