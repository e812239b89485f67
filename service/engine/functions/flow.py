"""Where the way of steepest descent leads from a point: gradient flow, followed so closely that its end is certain.

Gradient flow is the path x' = -f'(x), which gradient descent with ever smaller steps follows. It is integrated with an
exponential Rosenbrock method of order 4 with an error estimate of order 3 (exprb43 of Hochbruck, Ostermann, Schweitzer
2009, doi:10.1137/080717717). Its steps are exact on quadratic functions, so a steep and narrow valley does not make
them short; only curvature that changes does.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.calculus import finite_matrices
from service.engine.functions.compiled import Function

STEPS = 100
"""Enough for nearly all ways; the rest is given up."""
TOLERANCE = 2e-2
"""The error of a step that is allowed, as a share of its length."""
LONGEST = 0.1
"""No step is longer than this share of 1 plus the distance from 0: a hump between two looks must be that narrow."""
FASTER = 5.0
"""How much longer, in time, a step is at most than the one before."""
SHORTER = 0.3
APART = 1.5
"""How much neighbouring ways may part in one step, as a power of e."""
STRAIGHT = 0.8
"""The cosine up to which a way has turned so much in a step that directions across it mean little."""
TUBE = 0.1
"""How far the true way may be from the computed one, as a share of the length on which the curvature changes."""
FORESEEN = 0.25
"""By what share of what a quadratic model says the value may change otherwise on a step."""
PROBING = 1e-2
"""The share of the allowed error from which a step says how far the curvature stays the same."""
LANDING = 5.0
"""A step that is so much longer than the slowest direction takes, in time, ends at the minimum of its model."""
THERE = 1e-9
"""Newton's step at a minimum is no longer than this share of 1 plus the distance from 0."""
SAME_CURVATURE = 0.25
"""By what share the curvature may change, in any direction, within the last step."""


class Ways(NamedTuple):
    """Where gradient flow leads."""

    ends: Array
    """(points, variables): next to a minimum; uphill, to a maximum."""
    reach: Array
    """No farther from its end is that minimum. 0: the end is not certain, because the way is too long, or so close to
    another basin that rounding or the length of the steps may have led to the wrong one."""


def follow(function: Function, starts: Array, signs: Array) -> Generator[None, None, Ways]:
    """Follow gradient flow from each start, downhill where the sign is 1 and uphill where it is -1.

    `function` has second derivatives. Pauses after each step, so that other work has its turn.
    """
    ways = Ways(starts.copy(), np.zeros(len(starts)))
    flow = without_float_warnings(_Flow, function, starts, signs)
    for _ in range(STEPS):
        if not len(flow.rows):
            break
        landed = without_float_warnings(flow.advance)
        ways.ends[landed.rows], ways.reach[landed.rows] = landed.ends, landed.lengths
        yield
    return ways


class _Landed(NamedTuple):
    """Ways that have come to their end in a step."""

    rows: Array
    """The starts they come from."""
    ends: Array
    lengths: Array
    """Of the last step."""


class _Tried(NamedTuple):
    """A step from each point."""

    times: Array
    """Its duration."""
    lengths: Array
    to_go: Array
    """The length of Newton's step."""
    ends: Array
    errors: Array
    """(points, variables): what the method of one order less would do otherwise."""
    values: Array
    gradients: Array
    hessians: Array
    seen: Array
    """Whether everything on the way is finite, and values are about as foreseen and do not rise."""


_KEPT = (
    *("rows", "signs", "points", "values", "gradients", "hessians", "eigenvalues", "vectors"),
    *("ahead", "across", "times", "growth", "tubes"),
)


class _Flow:
    """The points that are still on their way."""

    def __init__(self, function: Function, starts: Array, signs: Array) -> None:
        self.function = function
        self.rows = np.arange(len(starts))
        """The starts they come from."""
        self.signs = signs
        self.points = starts
        self.values, self.gradients, self.hessians, defined = self._look(starts, signs)
        self.eigenvalues, self.vectors = np.linalg.eigh(self.hessians)
        self.ahead, self.across = _across(self.gradients, self.hessians)
        steepest = np.abs(self.eigenvalues).max(-1)
        self.times = np.where(steepest > 0.0, 1.0 / steepest, 1.0)
        """The length of the next step."""
        self.growth = np.full(len(starts), FASTER)
        """By how much the next step may be longer: not at all where one has just been given up."""
        self.tubes = 8.0 * np.finfo(np.float64).eps * norms_of(starts)
        """A bound of the distance between the points and the true way."""
        self._keep(defined)

    def _keep(self, staying: Array) -> None:
        for name in _KEPT:
            setattr(self, name, getattr(self, name)[staying])

    def _look(self, points: Array, signs: Array) -> tuple[Array, Array, Array, Array]:
        """Values, gradients and Hessians, and where they are finite; uphill, of the negative of the function."""
        results = self.function.run(points)
        assert results.hessians is not None
        hessians, defined = finite_matrices(results.hessians)
        defined &= np.isfinite(results.values) & np.isfinite(results.gradients).all(-1)
        signs = signs[:, None]
        return signs[:, 0] * results.values, signs * results.gradients, signs[..., None] * hessians, defined

    def advance(self) -> _Landed:
        """Try one step from each point. Those whose end is certain leave, and so do those that are lost."""
        tried = self._try()
        lowest = self.eigenvalues[:, 0]
        shares = np.where(tried.seen, norms_of(tried.errors) / tried.lengths, np.inf)
        good = shares <= TOLERANCE
        landed = good & (lowest > 0.0) & (tried.times * lowest >= LANDING) & self._alike(tried.hessians)
        self.times = tried.times * np.clip(0.9 * np.cbrt(TOLERANCE / np.maximum(shares, 1e-12)), SHORTER, self.growth)
        self.growth = np.where(good, FASTER, 1.0)
        # A point next to a minimum need not move, and one that does not move elsewhere stays there for ever.
        there = (lowest > 0.0) & (tried.to_go <= THERE * (1.0 + norms_of(self.points)))
        tried.ends[there], tried.lengths[there] = self.points[there], THERE * (1.0 + norms_of(self.points[there]))
        staying = there | (tried.lengths > 0.0)
        rows = np.flatnonzero(good & ~there)
        if len(rows):
            staying[rows] &= self._move(rows, tried, shares[rows], landed[rows])
        landed = (landed | there) & staying
        leaving = _Landed(self.rows[landed], tried.ends[landed], tried.lengths[landed])
        self._keep(staying & ~landed)
        return leaving

    def _try(self) -> _Tried:
        vectors, inverse = self.vectors, self.vectors.transpose(0, 2, 1)
        slopes, lowest = _times(inverse, self.gradients), self.eigenvalues[:, 0]
        times = np.minimum(self.times, np.where(lowest < 0.0, -APART / lowest, np.inf))
        longest = LONGEST * (1.0 + norms_of(self.points))
        while True:
            exponents = -self.eigenvalues * times[:, None]
            moves = -times[:, None] * _phi_1(exponents) * slopes
            lengths = norms_of(moves)
            long = lengths > longest
            if not long.any():
                break
            times = np.where(long, 0.5 * times, times)
        each = times[:, None]
        # What the quadratic model did not foresee, half way and at its end.
        half = _times(vectors, -0.5 * each * _phi_1(0.5 * exponents) * slopes)
        surprises, foreseen, seen = self._unforeseen(half)
        first = _times(inverse, surprises)
        phi_1, phi_3, phi_4 = _phis(exponents)
        surprises, foreseen_last, seen_last = self._unforeseen(_times(vectors, moves - each * phi_1 * first))
        second = _times(inverse, surprises)
        errors = each * phi_4 * (12.0 * second - 48.0 * first)
        moves -= each * phi_3 * (16.0 * first - 2.0 * second) + errors
        ends = self.points + _times(vectors, moves)
        values, gradients, hessians, there = self._look(ends, self.signs)
        there &= seen & seen_last & foreseen & foreseen_last & (values <= self.values)
        to_go = norms_of(slopes / self.eigenvalues)
        return _Tried(times, lengths, to_go, ends, _times(vectors, errors), values, gradients, hessians, there)

    def _move(self, rows: Array, tried: _Tried, shares: Array, landed: Array) -> Array:
        """Make the steps of some points. Gives which of them are still next to the true way."""
        gradients, hessians = tried.gradients[rows], tried.hessians[rows]
        values, vectors = np.linalg.eigh(hessians)
        ahead, across = _across(gradients, hessians)
        # Neighbouring ways part as fast as the lowest curvature across the way says, at either end of the step.
        lower = np.minimum(across, self.across[rows])
        turned = (ahead * self.ahead[rows]).sum(-1) < STRAIGHT
        lower = np.where(turned, np.minimum(np.minimum(values[:, 0], self.eigenvalues[rows, 0]), lower), lower)
        # An error along the way only comes earlier or later.
        errors = tried.errors[rows]
        aside = norms_of(errors - (errors * ahead).sum(-1, keepdims=True) * ahead)
        # The share of the length on which the curvature changes; the errors are those of one order less.
        curving = np.cbrt(np.maximum(shares, 1e-9))
        self.tubes[rows] = self.tubes[rows] * np.exp(-tried.times[rows] * lower) + aside * curving
        # Much shorter steps than the curvature allows say nothing of how far it stays the same.
        probing = (shares > PROBING * TOLERANCE) | landed
        near: Array = ~probing | (self.tubes[rows] <= TUBE * tried.lengths[rows] / curving)
        # Next to a saddle point the true way must not be on its other side.
        near &= self.tubes[rows] * np.maximum(-values[:, 0], 0.0) <= TUBE * norms_of(gradients)
        self.points[rows], self.values[rows] = tried.ends[rows], tried.values[rows]
        self.gradients[rows], self.hessians[rows] = gradients, hessians
        self.eigenvalues[rows], self.vectors[rows] = values, vectors
        self.ahead[rows], self.across[rows] = ahead, across
        return near

    def _unforeseen(self, moves: Array) -> tuple[Array, Array, Array]:
        """Gradients after such moves less those of the quadratic models; where values are as foreseen, and finite."""
        values, gradients, _, defined = self._look(self.points + moves, self.signs)
        bends = _times(self.hessians, moves)
        left = gradients - (self.gradients + bends)
        change = (moves * (self.gradients + 0.5 * bends + left / 3.0)).sum(-1)
        rounding = 1e-13 * np.abs(self.values)
        foreseen: Array = np.abs(values - self.values - change) <= FORESEEN * np.abs(change) + rounding
        return left, foreseen, defined

    def _alike(self, hessians: Array) -> Array:
        """Whether other Hessians differ little from those at the points, in any direction by its own measure."""
        scales = np.sqrt(np.maximum(self.eigenvalues, np.finfo(np.float64).tiny))
        inner = self.vectors.transpose(0, 2, 1) @ (hessians - self.hessians) @ self.vectors
        inner /= scales[:, :, None] * scales[:, None, :]
        alike: Array = norms_of(inner.reshape(len(inner), -1)) <= SAME_CURVATURE
        return alike


def _across(gradients: Array, hessians: Array) -> tuple[Array, Array]:
    """The direction of each way, and the lowest curvature across it."""
    lengths = norms_of(gradients)[:, None]
    ahead = np.where(lengths > 0.0, gradients / np.where(lengths > 0.0, lengths, 1.0), 0.0)
    bends = _times(hessians, ahead)
    # The curvature along the way is made the largest one, and parted from the others.
    along = (ahead * bends).sum(-1) + norms_of(hessians.reshape(len(hessians), -1))
    rest = ahead[:, :, None] * (along[:, None] * ahead - bends)[:, None, :] - bends[:, :, None] * ahead[:, None, :]
    lowest: Array = np.linalg.eigvalsh(hessians + rest)[:, 0]
    return ahead, lowest


def _times(matrices: Array, vectors: Array) -> Array:
    product: Array = (matrices @ vectors[..., None])[..., 0]
    return product


def _phi_1(z: Array) -> Array:
    """(exp z - 1)/z, and 1 at 0."""
    found: Array = np.where(z == 0.0, 1.0, np.expm1(z) / np.where(z == 0.0, 1.0, z))
    return found


def _phis(z: Array) -> tuple[Array, Array, Array]:
    """The first, third and fourth phi: phi_1 as above, phi_k+1 = (phi_k - 1/k!)/z. Near 0 that cancels: by series."""
    near = np.abs(z) < 1.0
    far = np.where(near, 1.0, z)
    small = np.where(near, z, 0.0)
    series = np.ones_like(z)
    for power in range(16, 4, -1):
        series *= small / power
        series += 1.0
    fourth_near = series / 24.0
    third_near = fourth_near * small + 1.0 / 6.0
    first_near = (third_near * small + 0.5) * small + 1.0
    first_far = np.expm1(far) / far
    third_far = ((first_far - 1.0) / far - 0.5) / far
    fourth_far = (third_far - 1.0 / 6.0) / far
    first: Array = np.where(near, first_near, first_far)
    third: Array = np.where(near, third_near, third_far)
    fourth: Array = np.where(near, fourth_near, fourth_far)
    return first, third, fourth
