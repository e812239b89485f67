"""The ranges in which an activation is flat or has a small slope, computed once for each activation."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.network.activations import Activation
from service.engine.network.surprises import slopes

REACH, POINTS = 60.0, 12_001
"""Slopes are taken from -60 to 60, in hundredths."""
SMALL = 0.1
"""Slopes below this share of the largest count as saturated."""
CENTRE = 1.0
"""Within, an activation that saturates has a slope that is not far below its largest."""
STEEPER = 10.0
"""A slope that grows beyond this many times that of the centre belongs to no activation that saturates."""
NEAR = 0.5
"""A straight part on the left that comes as near to 0 as this is that of a rectifier: it is off, or leaks."""


class Tails(NamedTuple):
    """The ends of an activation: up to which number, and from which on, it is saturated or flat. A bound is None where
    there is no such end."""

    left: float | None
    """Below, it is saturated."""
    right: float | None
    flat_left: float | None
    """The slope is exactly 0 up to this number."""
    flat_right: float | None
    largest: float
    """The largest slope."""
    range: float | None
    """The distance between the values at both ends, where it saturates at both."""


NO_TAILS = Tails(None, None, None, None, 0.0, None)


def tails_of(activation: Selection[Activation]) -> Tails:
    """Return the tails of an elementwise activation; `NO_TAILS` where it acts on rows, or has learned parameters."""
    declaration = activation.declaration
    if declaration.acts_on != "element" or declaration.parameters:
        return NO_TAILS
    return _tails(activation.declaration, tuple(sorted(activation.options.items())))


@lru_cache(maxsize=256)
def _tails(declaration: Activation, options: tuple[tuple[str, Any], ...]) -> Tails:
    activation = Selection(declaration, dict(options))
    z = np.linspace(-REACH, REACH, POINTS)
    steep = np.abs(without_float_warnings(slopes, activation, z))
    values = without_float_warnings(_values, activation, z)
    if not (np.isfinite(steep).all() and np.isfinite(values).all()) or not steep.any():
        return NO_TAILS
    largest = float(steep.max())
    flat_left, flat_right = _end(z, steep == 0.0), _end(-z[::-1], (steep == 0.0)[::-1])
    flat_right = None if flat_right is None else -flat_right
    if largest > STEEPER * float(steep[np.abs(z) <= CENTRE].max()):
        return Tails(None, None, flat_left, flat_right, largest, None)
    small = steep < SMALL * largest
    left, right = _end(z, small), _end(-z[::-1], small[::-1])
    right = None if right is None else -right
    span = None if left is None or right is None else float(abs(values[-1] - values[0]))
    if left is not None and left >= -NEAR and math.isclose(steep[0], steep[z <= left][-1], abs_tol=1e-12):
        left = span = None  # off or leaky, not saturated
    return Tails(left, right, flat_left, flat_right, largest, span)


def _values(activation: Selection[Activation], z: Array) -> Array:
    with Graph("float64") as graph:
        x = graph.input("x", z.shape)
        value = activation.declaration.build(x, **activation.options)
    return interpret([value], {x: z})[value]


def _end(z: Array, holds: Array) -> float | None:
    """Return the last of the points from the first on where a condition holds; None if there are none."""
    if not holds[0]:
        return None
    broken = np.flatnonzero(~holds)
    return float(z[broken[0] - 1]) if broken.size else float(z[-1])
