"""The evidence for a stationary point at a place where Newton's method has ended.

Rounding leaves an error in each gradient and each Hessian. The error is measured: gradients at neighbouring floats
differ from the prediction of the Hessian by rounding. A point is a stationary point if that error, divided by the
curvature, moves it by very little in every direction. In other directions the function is evaluated at some distance.
It may be flat there to all digits, as on a curve of stationary points, or rise faster than with the square of the
distance, as at a degenerate point. Otherwise rounding hides whether and where there is a point.
"""

from __future__ import annotations

import numpy as np

from service.engine.arrays import Array, every, norms_of
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.functions.compiled import Function
from service.engine.functions.newton import FAR_OUT, NEAR, ROUNDING, SAME, Curvature, derivatives, refine
from service.engine.functions.rounding import EPS, OFFSETS, Sample, sample
from service.engine.watch import Watch

MOST_NOISE = 16.0
"""Most noise that is accepted, as a multiple of the measured noise: few places are measured."""
CLAIMED = 0.25 * SAME
"""A stationary point is claimed if rounding moves it by no more than this share of the scale."""
FLAT = 1e-3
"""Directions with up to this share of the largest curvature count as flat."""
PROBES = (0.02, 0.0071, 0.0023)
"""Distances along a flat direction at which the function is evaluated, in the scale."""
RESOLVED = 0.01 * EPS
"""A direction is flat to all digits if its curvature is certainly below this share of the largest one around."""
SAME_VALUE = 1e-12
"""Most relative difference of values along a curve of stationary points."""
BENDS = 0.5
"""A curvature that changes by more than this share is not that of a quadratic: the point is degenerate."""
BACK, FALLS = 8.0, 8.0
"""A gradient that is `FALLS` times larger `BACK` steps earlier is on its way to 0."""
FADES = 2.0
"""A step divides a gradient by no less on its way to 0: by e, where it falls with a high power of the distance."""
ITERATIONS = 40
MOST_ROWS = 4_096
"""Most places that are evaluated around flat points; of more points, a part is taken."""
MOST_NUMBERS = 1_000_000
"""Most numbers of second derivatives at once."""
UNSTEADY = 1e-3
"""Largest share of the surrounding curvature that may change from one float to the next."""
UNDERFLOW = 1e-270
"""A gradient that falls below this before it is 0 has underflowed, and never really vanished."""
FARTHEST, HALVINGS = 12, 20
"""Halvings of the scale in the search for a gradient that is not 0, and of its distance in the search for the last one.
"""

KNOWN, CURVE, DEGENERATE, HIDDEN, NONE = range(5)
"""The verdicts: a point known to all digits that its curvature allows; a point on a curve or a plain; a point with a
vanishing curvature; a point that rounding hides; no stationary point."""


@ignoring_float_warnings
def judge(function: Function, points: Array, scale: Array, watch: Watch | None = None) -> Array:
    """Return the verdict on each place where Newton's method has ended; `scale` is a length for each variable. Raises
    what `watch` raises."""
    if not len(points):
        return np.zeros(0, np.intp)
    verdicts: Array = np.full(len(points), NONE)
    block = max(1, MOST_NUMBERS // (len(OFFSETS) * points.shape[-1] ** 2))
    for start in range(0, len(points), block):
        rows = slice(start, start + block)
        verdicts[rows] = _judge_block(function, points[rows], scale, watch)
    return verdicts


def _judge_block(function: Function, points: Array, scale: Array, watch: Watch | None) -> Array:
    """Return the verdicts on a block of points, so many that their second derivatives fit into memory."""
    sampled = sample(function, points, np.maximum(np.abs(points), scale), watch)
    gradients, hessians = sampled.gradients, sampled.hessians
    curvature = Curvature(hessians, scale)
    spread, bent = sampled.along(curvature.vectors)
    left = np.abs(curvature.components(gradients))
    known = curvature.known & (np.abs(curvature.values) > 4.0 * bent)
    shifts = np.where(known, (left + 2.0 * spread) / np.abs(curvature.values), 0.0)
    moved = (np.abs(curvature.vectors) @ shifts[..., None])[..., 0]
    near: Array = norms_of(moved / scale) <= CLAIMED + FAR_OUT * norms_of(points / scale)
    verdicts: Array = np.full(len(points), NONE)
    # At the border of the domain nothing is known, and no flat direction can be followed.
    inside = np.isfinite(sampled.differences).all((0, -1))
    approached = _approached(function, points, sampled, curvature, left, spread)
    verdicts[every(known) & near & inside & approached] = KNOWN
    finite = np.isfinite(norms_of(gradients)) & np.isfinite(hessians).all((-1, -2))
    finite &= inside & approached
    rows = np.flatnonzero((verdicts != KNOWN) & finite)
    if len(rows):
        unexplained = np.asarray((~known & (left > MOST_NOISE * spread)).any(-1))
        lengths = norms_of(curvature.steps(gradients) / scale)
        settled = np.logical_and(~unexplained, lengths <= NEAR)
        verdicts[rows] = _look_around(function, points[rows], unexplained[rows], settled[rows], scale, watch)
    return verdicts


def _approached(
    function: Function, points: Array, sampled: Sample, curvature: Curvature, left: Array, spread: Array
) -> Array:
    """Return whether the gradient along directions of known curvature is rounding, or on its way to 0.

    On its way to 0 it falls with the distance given by Newton's step, or faster, also from farther away and with that
    step. Beside the border of a domain or a kink it does not. At y = 0 the gradient of sqrt(x)·y is as short as the
    root of the distance and never vanishes, though the step does; and a step across a kink leads to another slope.
    """
    rounding = ROUNDING * (np.abs(sampled.hessians) @ np.abs(points)[..., None])
    moved = (np.abs(curvature.vectors).transpose(0, 2, 1) @ rounding)[..., 0]
    least = MOST_NOISE * spread + moved
    little = ~curvature.known | (left <= least)
    approached = every(little)
    rows = np.flatnonzero(~approached)
    if len(rows):
        part, little, left, least = curvature.at(rows), little[rows], left[rows], least[rows]
        steps = part.steps(sampled.gradients[rows])
        farther, nearer = (
            np.abs(part.components(function.run(points[rows] + times * steps).gradients)) for times in (-BACK, 1.0)
        )
        falling = (farther >= FALLS * left) & (nearer <= np.maximum(least, left / FADES))
        approached[rows] = every(little | falling)
    return approached


def in_noise(function: Function, points: Array, scale: Array, watch: Watch | None = None) -> Array:
    """Return those points, (points, variables), whose gradient is only rounding noise. Newton's next step from there is
    long, but means nothing."""
    if not len(points):
        return points
    sampled = sample(function, points, np.maximum(np.abs(points), scale), watch)
    curvature = Curvature(sampled.hessians, scale)
    spread, _ = sampled.along(curvature.vectors)
    left = np.abs(curvature.components(sampled.gradients))
    found: Array = points[every(left <= MOST_NOISE * spread)]
    return found


def _look_around(
    function: Function, points: Array, unexplained: Array, settled: Array, scale: Array, watch: Watch | None
) -> Array:
    """Return the verdicts on points with unknown curvature in some direction, judged from their surroundings.

    `unexplained` marks points with more than noise in the gradient along a direction of unknown curvature. `settled`
    marks points with nothing but noise, where Newton's next step is short.
    """
    count, dimension = points.shape
    looked_at = np.arange(count)
    most = max(8, MOST_ROWS // (2 * len(PROBES) * dimension))
    if count > most:
        looked_at = looked_at[:: -(-count // most)]
    found = np.full(count, -1)
    found[looked_at] = _probe(function, points[looked_at], unexplained[looked_at], settled[looked_at], scale, watch)
    if (found[looked_at] == CURVE).all():
        found[found < 0] = CURVE
    elif (found < 0).any():
        rest = np.flatnonzero(found < 0)
        for start in range(0, len(rest), most):
            rows = rest[start : start + most]
            found[rows] = _probe(function, points[rows], unexplained[rows], settled[rows], scale, watch)
    return found


def _probe(
    function: Function, points: Array, unexplained: Array, settled: Array, scale: Array, watch: Watch | None
) -> Array:
    """Return the verdict on each point from the function at some distance along flat directions."""
    count, dimension = points.shape
    sampled = sample(function, points, np.maximum(np.abs(points), scale), watch)
    gradients, hessians = sampled.gradients, sampled.hessians
    flat = Curvature(hessians, scale, FLAT)
    flattest = np.abs(flat.values).argmin(-1)
    probed = ~flat.known
    probed[np.arange(count), flattest] = True
    owners, directions = np.nonzero(probed)
    vectors = flat.vectors[owners, :, directions]  # (pairs, variables), of length 1 in the scale

    # Each pair is probed on both sides, at three distances: (sides, distances, pairs, variables).
    distances = np.array(PROBES)[:, None]
    sides = np.array([1.0, -1.0])[:, None, None]
    starts = points[owners] + (sides * distances)[..., None] * vectors
    shape = starts.shape[:-1]
    reach = np.broadcast_to(0.25 * distances, shape).reshape(-1)
    refined = refine(
        function, starts.reshape(-1, dimension), reach, ITERATIONS, watch, halvings=4, scale=scale, flat=FLAT
    )
    ends = refined.points.reshape(starts.shape)
    ended = (refined.arrived | refined.hidden).reshape(shape)
    before, after = function.run(starts.reshape(-1, dimension)), function.run(refined.points)
    assert before.hessians is not None and after.hessians is not None
    gone = norms_of((ends - points[owners]) / scale)
    stayed = ended & (gone >= 0.5 * distances) & (gone <= 2.0 * distances)
    returned = gone < 0.5 * distances

    # The curvature around each point, also off the probed lines.
    corners = points + PROBES[0] * np.sign(np.resize(np.array(OFFSETS, float), (len(OFFSETS), 1, dimension))) * scale
    bent, heights = _around(function, corners, scale)
    sizes = np.fmax(_sizes(hessians, scale), bent)
    for matrices in (before.hessians, after.hessians):
        np.fmax.at(sizes, owners, np.fmax.reduce(_sizes(matrices, scale).reshape(shape), (0, 1)))
    # The slope farther on, along the flat direction there, as curves bend.
    there = Curvature(after.hessians, scale, FLAT)
    ways = ((ends - points[owners]) / scale).reshape(-1, dimension)
    parts = ((there.vectors / scale[:, None]).transpose(0, 2, 1) @ ways[..., None])[..., 0]
    parts = np.where(there.known, 0.0, parts)
    onward = (there.vectors @ parts[..., None])[..., 0]
    lengths = norms_of(onward / scale)
    onward = onward / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    slopes = np.abs((after.gradients * onward).sum(-1))
    units = np.maximum(np.abs(refined.points), scale)
    errors, _ = sample(function, refined.points, units, watch).along(onward[:, :, None])
    bound = (slopes + 2.0 * errors[:, 0]).reshape(shape)
    level = function.run(points).values[owners]
    around = np.fmax(np.fmax(np.abs(level), heights[owners]), np.abs(before.values.reshape(shape)))
    steady = np.abs(after.values.reshape(shape) - level) <= SAME_VALUE * around
    resolved = bound <= RESOLVED * sizes[owners] * distances
    on_curve = stayed & steady & resolved & (lengths.reshape(shape) > 0.0)
    curve = np.zeros(count, bool)
    np.logical_or.at(curve, owners, on_curve.all(1).any(0))

    # A point is isolated if both sides lead back to it, or have a slope beyond noise, and curvature grows outward.
    sloping = ~returned & (slopes > 10.0 * errors[:, 0]).reshape(shape) & ~resolved
    apart = np.ones(count, bool)
    np.logical_and.at(apart, owners, (returned | sloping).any(1).all(0))
    rows = (before.hessians.reshape(*starts.shape, dimension) @ vectors[..., None])[..., 0] * scale
    changes = norms_of(rows[:, 0] - rows[:, -1])
    bends = (changes > BENDS * norms_of(rows[:, 0])) & (changes > 1e3 * dimension * EPS * sizes[owners])
    bending = np.ones(count, bool)
    np.logical_and.at(bending, owners, bends.any(0))

    # The gradient left along flat directions is noise, or falls towards the place.
    spread, _ = sampled.along(flat.vectors)
    left = np.abs(flat.components(gradients))
    little = left <= MOST_NOISE * spread
    steps = flat.steps(gradients)
    short = norms_of(steps / scale) <= NEAR + FAR_OUT * norms_of(points / scale)
    farther = np.abs(flat.components(function.run(points - BACK * steps).gradients))
    vanishing = np.where(flat.known, short[:, None] | little, little | (farther >= FALLS * left)).all(-1) | settled

    # Where more is left there is no stationary point; or one farther on, if the slope changes as with a curvature, by
    # opposite amounts on both sides.
    changes = ((after.gradients.reshape(starts.shape) - gradients[owners]) * vectors).sum(-1)
    both = np.abs(changes)
    opposite = (np.abs(changes[0] + changes[1]) <= 0.5 * (both[0] + both[1])) & (
        both > 4.0 * errors[:, 0].reshape(shape)
    ).all(0)
    curved = np.zeros(count, bool)
    np.logical_or.at(curved, owners, opposite.any(0))
    elsewhere = np.where(unexplained & curved, HIDDEN, NONE)
    flat_verdicts = np.where(curve, CURVE, np.where(apart & bending, DEGENERATE, HIDDEN))
    verdicts = np.where(vanishing, flat_verdicts, elsewhere)
    # At a singularity such as that of a root, the curvature differs at the next float.
    unsteady = _sizes(np.abs(sampled.changes).max(0), scale) > UNSTEADY * bent
    verdicts[unsteady | (UNSTEADY * _sizes(hessians, scale) > bent)] = NONE
    plains = np.flatnonzero((verdicts != NONE) & ~gradients.any(-1) & ~hessians.any((-1, -2)))
    if len(plains):
        verdicts[plains[_faded(function, points[plains], scale, watch)]] = NONE
    return verdicts


def _around(function: Function, places: Array, scale: Array) -> tuple[Array, Array]:
    """Return the largest curvature and the largest value around each point. `places` are (places, points, variables);
    the results have an entry for each point."""
    results = function.run(places.reshape(-1, places.shape[-1]))
    assert results.hessians is not None
    shape = places.shape[:2]
    curvatures = np.fmax.reduce(_sizes(results.hessians, scale).reshape(shape), 0)
    return curvatures, np.fmax.reduce(np.abs(results.values).reshape(shape), 0)


def _sizes(hessians: Array, scale: Array) -> Array:
    """Return the largest entry of each Hessian, by size, with each variable in units of `scale`."""
    largest: Array = np.abs(scale[:, None] * hessians * scale).max((-1, -2))
    return largest


def _faded(function: Function, points: Array, scale: Array, watch: Watch | None) -> Array:
    """Return where gradients around are 0 only because they underflow, as far out on exp(-x^2). The last gradient
    before 0, on the way from each point along the axes, decides."""
    dimension = points.shape[-1]
    ways = np.concatenate([np.eye(dimension), -np.eye(dimension)]) * scale

    def slopes(distances: Array) -> Array:
        places = points[:, None, :] + distances[..., None] * ways
        return norms_of(derivatives(function, places.reshape(-1, dimension), watch)[0]).reshape(distances.shape)

    inside = np.zeros((len(points), len(ways)))
    outside = np.full(inside.shape, np.inf)
    for exponent in range(FARTHEST):
        distances = np.full(inside.shape, 2.0**-exponent)
        found = slopes(distances)
        outside = np.where((found > 0.0) & np.isfinite(found), distances, outside)
    borders = np.isfinite(outside)
    if not borders.any():
        return np.zeros(len(points), bool)
    outside = np.where(borders, outside, 0.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (inside + outside)
        zero = slopes(middle) == 0.0
        inside, outside = np.where(zero, middle, inside), np.where(zero, outside, middle)
    faded: Array = (borders & (slopes(outside) < UNDERFLOW)).any(-1)
    return faded
