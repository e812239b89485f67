"""The places where balls end, which of them are one, and which balls are next to which."""

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
"""Valleys closer than this, beside their distance from 0, are one."""
SAME_CURVATURE, MOST_CURVATURE = 100.0, 0.5
"""By what share, times the radius, the curvature may differ between a ball and the stationary point that it has arrived
at, and at most."""
FAR_OUT = 1e8
"""From there on numbers next to each other are too far apart for what is looked at around a place in a scale of 1."""
NOWHERE, UNTOLD, UNKNOWN = -1, -2, -3
"""In place of a valley: arrived at none, or at one of those beyond the most that are told; rounding hides it."""


@dataclass
class Valleys:
    """The distinct places where balls ended or are bound for, lowest first."""

    points: Array
    """(valleys, variables)"""
    calculus: Calculus | None
    """At those points; None: there are none."""
    of_run: list[int]
    """For each run the valley that it has arrived at, NOWHERE, UNTOLD or UNKNOWN."""
    counts: list[int]
    """Number of runs that have arrived at each."""
    basins: list[int]
    """For each run the minimum that steepest descent certainly leads to from where it ended (uphill the maximum), or
    NOWHERE."""

    @property
    def classes(self) -> list[str]:
        return [] if self.calculus is None or self.calculus.classes is None else self.calculus.classes


class Known(NamedTuple):
    """The only minimum of a convex function that is known beforehand."""

    point: Array
    """(variables,)"""
    near: Callable[[Array], Array]
    """From points, (points, variables), to which of them have arrived."""


def judged(function: Function, points: Array) -> Array:
    """What may be claimed of each place: see `evidence.judge`."""
    verdicts = np.empty(len(points), np.intp)
    far = (np.abs(points) > FAR_OUT).any(-1)
    verdicts[~far] = judge(function, points[~far], np.ones(points.shape[-1]))
    for row in np.flatnonzero(far).tolist():  # each is looked at in a scale of its own
        verdicts[row] = judge(function, points[row : row + 1], 1.0 + np.abs(points[row]))[0]
    return verdicts


def sizes(points: Array) -> Array:
    """A power of two for each number, no less than 1 plus its size, so that cells have one size next to each other."""
    found: Array = np.exp2(np.minimum(np.ceil(np.log2(1.0 + np.abs(points))), 1023.0))
    return found


def different(points: Array) -> tuple[Array, Array]:
    """The rows of the different ones among stationary points, and for each row the place of its point among them."""
    return distinct(points, SAME * sizes(points), MOST_VALLEYS)


def close_to(points: Array, others: Array) -> Array:
    """Which points are which of the others but for rounding: (points, others)."""
    close = np.ones((len(points), len(others)), bool)
    for mine, theirs in zip(points.T, others.T, strict=True):  # each in turn, for there may be 20 of them
        close &= np.abs(mine[:, None] - theirs) <= SAME * sizes(mine)[:, None]
    return close


def alike(function: Function, places: Array, arrivals: Array, radius: float) -> Array:
    """Whether curvatures at places and half way differ little, in any direction, from those at stationary points.

    Else the place is as far away from its stationary point as the function takes to change, however short that is
    beside numbers. Where the curvature vanishes at the stationary point, nothing is asked.
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
