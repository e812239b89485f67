"""Gradient flow from a point, followed so closely that its end is certain.

Gradient flow is the path x' = -f'(x), which gradient descent with ever smaller steps follows. An exponential Rosenbrock
method of order 4 with an error estimate of order 3 integrates it (exprb43 of Hochbruck, Ostermann, Schweitzer 2009,
doi:10.1137/080717717). Its steps are exact on quadratic functions, so a steep and narrow valley does not shorten them;
only a change of the curvature does.
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
"""Steps that suffice for nearly all paths; longer ones are given up."""
TOLERANCE = 2e-2
"""Largest error of a step, as a share of its length."""
LONGEST = 0.1
"""Longest step, as a share of 1 plus the distance from 0; narrower humps between two points may be missed."""
FASTER = 5.0
"""Largest ratio of the durations of a step and the one before."""
SHORTER = 0.3
APART = 1.5
"""Most that neighbouring paths may part in one step, as a power of e."""
STRAIGHT = 0.8
"""The cosine up to which a path has turned so much in a step that directions across it mean little."""
TUBE = 0.1
"""Largest distance between the true path and the computed one, as a share of the length on which curvature changes."""
FORESEEN = 0.25
"""Largest deviation of the change of the value from that of a quadratic model, as a share."""
PROBING = 1e-2
"""The share of the allowed error from which a step shows how far the curvature stays the same."""
LANDING = 5.0
"""A step this many times as long as the duration of the slowest direction ends at the minimum of its model."""
THERE = 1e-9
"""Longest Newton step at a minimum, as a share of 1 plus the distance from 0."""
SAME_CURVATURE = 0.25
"""Largest change of the curvature within the last step, in any direction, as a share."""


class Ways(NamedTuple):
    """The ends of gradient flow from several starts."""

    ends: Array
    """(points, variables): a point next to a minimum or, uphill, a maximum."""
    reach: Array
    """Largest distance of the minimum from the end. 0 marks an uncertain end: the path is too long, or so close to
    another basin that rounding or the length of the steps may have led to the wrong one."""


def follow(function: Function, starts: Array, signs: Array) -> Generator[None, None, Ways]:
    """Follow gradient flow from each start, downhill where the sign is 1 and uphill where it is -1. `function` has
    second derivatives. Yields after each step, so that other work has its turn, and returns the ends."""
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
    """The paths that ended in the present step, an entry for each."""

    rows: Array
    """The rows of their starts."""
    ends: Array
    lengths: Array
    """The length of the last step."""


class _Tried(NamedTuple):
    """A step from each point that has been computed, but not yet accepted."""

    times: Array
    """The duration of each step."""
    lengths: Array
    to_go: Array
    """The length of Newton's step."""
    ends: Array
    errors: Array
    """(points, variables): the difference to the method of one order less."""
    values: Array
    gradients: Array
    hessians: Array
    seen: Array
    """True where every number of the step is finite, and values are about as predicted and do not rise."""


_KEPT = (
    *("rows", "signs", "points", "values", "gradients", "hessians", "eigenvalues", "vectors"),
    *("ahead", "across", "times", "growth", "tubes"),
)


class _Flow:
    """The state of all paths of gradient flow that have not ended."""

    def __init__(self, function: Function, starts: Array, signs: Array) -> None:
        self.function = function
        self.rows = np.arange(len(starts))
        """The rows of their starts."""
        self.signs = signs
        self.points = starts
        self.values, self.gradients, self.hessians, defined = self._look(starts, signs)
        self.eigenvalues, self.vectors = np.linalg.eigh(self.hessians)
        self.ahead, self.across = _across(self.gradients, self.hessians)
        steepest = np.abs(self.eigenvalues).max(-1)
        self.times = np.where(steepest > 0.0, 1.0 / steepest, 1.0)
        """The duration of the next step."""
        self.growth = np.full(len(starts), FASTER)
        """Largest growth of the next step: 1 after a step was given up."""
        self.tubes = 8.0 * np.finfo(np.float64).eps * norms_of(starts)
        """Bounds of the distances between the points and the true paths."""
        self._keep(defined)

    def _keep(self, staying: Array) -> None:
        for name in _KEPT:
            setattr(self, name, getattr(self, name)[staying])

    def _look(self, points: Array, signs: Array) -> tuple[Array, Array, Array, Array]:
        """Return values, gradients and Hessians at points, and a mask of those where all are finite. Uphill they are
        those of the negative function."""
        results = self.function.run(points)
        assert results.hessians is not None
        hessians, defined = finite_matrices(results.hessians)
        defined &= np.isfinite(results.values) & np.isfinite(results.gradients).all(-1)
        signs = signs[:, None]
        return signs[:, 0] * results.values, signs * results.gradients, signs[..., None] * hessians, defined

    def advance(self) -> _Landed:
        """Try one step from each point; return the paths that ended in it. Paths with a certain end leave, and so do
        lost ones."""
        tried = self._try()
        lowest = self.eigenvalues[:, 0]
        shares = np.where(tried.seen, norms_of(tried.errors) / tried.lengths, np.inf)
        good = shares <= TOLERANCE
        landed = good & (lowest > 0.0) & (tried.times * lowest >= LANDING) & self._alike(tried.hessians)
        self.times = tried.times * np.clip(0.9 * np.cbrt(TOLERANCE / np.maximum(shares, 1e-12)), SHORTER, self.growth)
        self.growth = np.where(good, FASTER, 1.0)
        # A point next to a minimum need not move, and a point that rests elsewhere stays there for ever.
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
        # The deviation from the quadratic model, half way and at the end.
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
        """Make the accepted steps of some points; return a mask of those that are still next to the true path."""
        gradients, hessians = tried.gradients[rows], tried.hessians[rows]
        values, vectors = np.linalg.eigh(hessians)
        ahead, across = _across(gradients, hessians)
        # Neighbouring paths part at the rate of the lowest curvature across them, at either end of the step.
        lower = np.minimum(across, self.across[rows])
        turned = (ahead * self.ahead[rows]).sum(-1) < STRAIGHT
        lower = np.where(turned, np.minimum(np.minimum(values[:, 0], self.eigenvalues[rows, 0]), lower), lower)
        # An error along the path only changes the time.
        errors = tried.errors[rows]
        aside = norms_of(errors - (errors * ahead).sum(-1, keepdims=True) * ahead)
        # The share of the length on which the curvature changes; the errors are those of one order less.
        curving = np.cbrt(np.maximum(shares, 1e-9))
        self.tubes[rows] = self.tubes[rows] * np.exp(-tried.times[rows] * lower) + aside * curving
        # Steps much shorter than the curvature allows do not show how far it stays the same.
        probing = (shares > PROBING * TOLERANCE) | landed
        near: Array = ~probing | (self.tubes[rows] <= TUBE * tried.lengths[rows] / curving)
        # Next to a saddle point the true path must not be on the other side.
        near &= self.tubes[rows] * np.maximum(-values[:, 0], 0.0) <= TUBE * norms_of(gradients)
        self.points[rows], self.values[rows] = tried.ends[rows], tried.values[rows]
        self.gradients[rows], self.hessians[rows] = gradients, hessians
        self.eigenvalues[rows], self.vectors[rows] = values, vectors
        self.ahead[rows], self.across[rows] = ahead, across
        return near

    def _unforeseen(self, moves: Array) -> tuple[Array, Array, Array]:
        """Return how far gradients after the moves are from the quadratic model, and two masks. The masks say where
        values are as the model predicts, and where all numbers are finite."""
        values, gradients, _, defined = self._look(self.points + moves, self.signs)
        bends = _times(self.hessians, moves)
        left = gradients - (self.gradients + bends)
        change = (moves * (self.gradients + 0.5 * bends + left / 3.0)).sum(-1)
        rounding = 1e-13 * np.abs(self.values)
        foreseen: Array = np.abs(values - self.values - change) <= FORESEEN * np.abs(change) + rounding
        return left, foreseen, defined

    def _alike(self, hessians: Array) -> Array:
        """Return whether other Hessians nearly equal those at the points, relative to each direction's curvature."""
        scales = np.sqrt(np.maximum(self.eigenvalues, np.finfo(np.float64).tiny))
        inner = self.vectors.transpose(0, 2, 1) @ (hessians - self.hessians) @ self.vectors
        inner /= scales[:, :, None] * scales[:, None, :]
        alike: Array = norms_of(inner.reshape(len(inner), -1)) <= SAME_CURVATURE
        return alike


def _across(gradients: Array, hessians: Array) -> tuple[Array, Array]:
    """Return the direction of each path, and the lowest curvature across it."""
    lengths = norms_of(gradients)[:, None]
    ahead = np.where(lengths > 0.0, gradients / np.where(lengths > 0.0, lengths, 1.0), 0.0)
    bends = _times(hessians, ahead)
    # The curvature along the path is made the largest one, to separate it from the others.
    along = (ahead * bends).sum(-1) + norms_of(hessians.reshape(len(hessians), -1))
    rest = ahead[:, :, None] * (along[:, None] * ahead - bends)[:, None, :] - bends[:, :, None] * ahead[:, None, :]
    lowest: Array = np.linalg.eigvalsh(hessians + rest)[:, 0]
    return ahead, lowest


def _times(matrices: Array, vectors: Array) -> Array:
    product: Array = (matrices @ vectors[..., None])[..., 0]
    return product


def _phi_1(z: Array) -> Array:
    """Return (exp z - 1)/z, elementwise; it is 1 at 0."""
    found: Array = np.where(z == 0.0, 1.0, np.expm1(z) / np.where(z == 0.0, 1.0, z))
    return found


def _phis(z: Array) -> tuple[Array, Array, Array]:
    """Return the functions phi_1, phi_3 and phi_4 of exponential integrators, elementwise. phi_1 is as above, and
    phi_k+1 = (phi_k - 1/k!)/z. Series near 0 avoid cancellation."""
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
