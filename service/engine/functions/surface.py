"""A function over a grid: values, slopes, and contour levels that show its shape."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.functions.compiled import Function
from service.engine.watch import Watch

SKEWED = 8.0
"""Levels are logarithmic where the upper values rise this many times as far above the lowest as the middle ones."""
FARTHEST = 1e12
"""Largest ratio of levels; values closer to the least one are a point in any drawing."""
SMALLEST = 1e-290
"""Differences up to this leave no room for steps between them."""


class Axis(NamedTuple):
    """One edge of a grid: a variable, and its numbers from `low` to `high`."""

    variable: int
    """The position among the variables."""
    low: float
    high: float
    points: int

    @property
    def numbers(self) -> Array:
        numbers: Array = np.linspace(self.low, self.high, self.points)
        return numbers


class Levels(NamedTuple):
    """The values at which contours are drawn."""

    values: list[float]
    spacing: str
    """linear or logarithmic."""


def grid_points(axes: tuple[Axis, ...], at: Array) -> Array:
    """Return every point of the grid, (points, variables), the first axis fastest. Variables without an axis have the
    values in `at`."""
    meshes = np.meshgrid(*[axis.numbers for axis in axes])
    points = np.tile(at, (meshes[0].size, 1))
    for axis, mesh in zip(axes, meshes, strict=True):
        points[:, axis.variable] = mesh.reshape(-1)
    return points


def sample(function: Function, points: Array, shape: tuple[int, ...], watch: Watch | None) -> tuple[Array, Array]:
    """Return values, of shape `shape`, and gradients, (*shape, variables), at the points of a grid."""
    results = function.run(points, watch)
    return results.values.reshape(shape), results.gradients.reshape(*shape, -1)


def levels_for(values: Array, count: int) -> Levels:
    """Return about `count` round numbers between the least and the largest value, to draw contours at.

    Where a few values tower over the rest, as on the walls of a narrow valley, the distances from the least value grow
    by equal factors; else the numbers are evenly spaced.
    """
    finite = np.sort(values[np.isfinite(values)])
    if not count or not len(finite) or finite[0] == finite[-1]:
        return Levels([], "linear")
    low, middle, high = (float(finite[int(share * (len(finite) - 1))]) for share in (0.0, 0.5, 1.0))
    if not math.isfinite(high - low):
        low, middle, high = (float(finite[int(share * (len(finite) - 1))]) for share in (0.05, 0.5, 0.95))
    if not SMALLEST < high - low < math.inf:
        return Levels([], "linear")
    if high - low > SKEWED * (middle - low) > 0.0:
        levels = _logarithmic(low, finite, count)
        if levels:
            return Levels(levels, "logarithmic")
    step = _round_up((high - low) / (count + 1))
    first = math.floor(low / step) + 1
    values_ = [round(multiple) * step for multiple in np.arange(first, first + 2 * count + 2)]
    return Levels(sorted({_tidy(value, step) for value in values_ if low < value < high}), "linear")


def _logarithmic(low: float, finite: Array, count: int) -> list[float]:
    above = finite[finite > low] - low
    far = float(above[-1])
    near = max(float(above[len(above) // 50]), far / FARTHEST)
    ratio = max(far / near, 10.0)
    distances = near * ratio ** (np.arange(1, count + 1) / (count + 1))
    rounded = [float(f"{distance:.1e}") for distance in distances.tolist()]
    base = _tidy(low, rounded[0])
    return sorted({base + distance for distance in rounded if low < base + distance < low + far})


def _round_up(step: float) -> float:
    """Return the next number, at or above `step`, of the form 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1.0 - 1e-12))


def _tidy(value: float, step: float) -> float:
    """Return a value rounded to digits that matter beside a step."""
    return round(value, max(0, 2 - math.floor(math.log10(step)))) + 0.0
