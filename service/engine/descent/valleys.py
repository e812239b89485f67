"""Valleys: the distinct stationary points where runs end, and the comparison of such points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.functions.calculus import Calculus
from service.engine.functions.compiled import Function
from service.engine.functions.evidence import judge
from service.engine.functions.newton import Curvature, distinct

MOST_VALLEYS = 500
SAME = 1e-6
"""Points closer than this, relative to 1 plus their distance from 0, are one valley."""
SAME_CURVATURE, MOST_CURVATURE = 100.0, 0.5
"""The share of the curvature by which it may differ between the end of a run and the stationary point: a factor of the
radius, and the most."""
FAR_OUT = 1e8
"""Beyond this distance from 0, neighbouring floats are too far apart for an analysis at a scale of 1."""
NOWHERE, UNTOLD, UNKNOWN = -1, -2, -3
"""In place of a valley. NOWHERE: arrived at none. UNTOLD: at one beyond `MOST_VALLEYS`. UNKNOWN: rounding hides it."""


@dataclass
class Valleys:
    """The distinct stationary points where runs ended or will end, with the lowest value first."""

    points: Array
    """(valleys, variables)"""
    calculus: Calculus | None
    """The calculus at those points; None without points."""
    of_run: list[int]
    """The valley where each run has arrived, NOWHERE, UNTOLD or UNKNOWN."""
    counts: list[int]
    """The number of runs that have arrived at each valley."""
    basins: list[int]
    """The minimum (uphill: the maximum) that gradient flow certainly leads to from the end of each run, or NOWHERE."""

    @property
    def classes(self) -> list[str]:
        return [] if self.calculus is None or self.calculus.classes is None else self.calculus.classes


class Known(NamedTuple):
    """The only minimum of a convex function, known beforehand, as of a least squares line."""

    point: Array
    """(variables,)"""
    near: Callable[[Array], Array]
    """`near(points)` returns for each row of (points, variables) whether it has arrived."""


def judged(function: Function, points: Array) -> Array:
    """Return the verdict of `evidence.judge` on each point: whether it is certainly a stationary point."""
    verdicts = np.empty(len(points), np.intp)
    far = (np.abs(points) > FAR_OUT).any(-1)
    verdicts[~far] = judge(function, points[~far], np.ones(points.shape[-1]))
    for row in np.flatnonzero(far).tolist():  # each at a scale of its own
        verdicts[row] = judge(function, points[row : row + 1], 1.0 + np.abs(points[row]))[0]
    return verdicts


def sizes(points: Array) -> Array:
    """Return for each number x a power of two that is at least 1 + |x|, so that neighbouring numbers have one scale."""
    found: Array = np.exp2(np.minimum(np.ceil(np.log2(1.0 + np.abs(points))), 1023.0))
    return found


def different(points: Array) -> tuple[Array, Array]:
    """Return the rows of the distinct points, and for each point the position of its equal among them. `points` are
    stationary points, (points, variables)."""
    return distinct(points, SAME * sizes(points), MOST_VALLEYS)


def close_to(points: Array, others: Array) -> Array:
    """Return a mask (points, others): whether each point equals each of the others but for rounding."""
    close = np.ones((len(points), len(others)), bool)
    for mine, theirs in zip(points.T, others.T, strict=True):  # each in turn, for there may be 20 of them
        close &= np.abs(mine[:, None] - theirs) <= SAME * sizes(mine)[:, None]
    return close


def alike(function: Function, places: Array, arrivals: Array, radius: float) -> Array:
    """Return whether the curvature at each place nearly equals that at the stationary point found from there.

    `places` and `arrivals` are (points, variables); the curvature half way between counts too. Where curvatures differ,
    the function changes between the two points, however close they are. Directions in which the curvature vanishes at
    the stationary point are not compared.
    """
    share = min(SAME_CURVATURE * radius + SAME, MOST_CURVATURE)
    after = function.run(arrivals).hessians
    assert after is not None
    curvature = Curvature(after)
    scales = np.sqrt(np.abs(curvature.values))
    vectors = curvature.vectors / np.where(curvature.known, scales, np.inf)[:, None, :]
    same: Array = np.ones(len(places), bool)
    for points in (places, 0.5 * (places + arrivals)):
        before = function.run(points).hessians
        assert before is not None
        changes = vectors.transpose(0, 2, 1) @ (before - after) @ vectors
        same &= norms_of(changes.reshape(len(places), changes.shape[-1] ** 2)) <= share
    return same
