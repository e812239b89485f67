"""Differences of values: the errors of central differences over the step, and Taylor remainders.

A central difference is off by about h² (truncation) and by about 1/h (rounding), so its error over h is a V in a
drawing with logarithmic axes, with the slopes 2 and -1. The Taylor remainder, f(x + hv) - f(x) - h g·v, shrinks as h²
if g is the gradient, and as h if it is not. Both prove nothing across a kink, so steps that reach one are marked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.subject import Located

STEPS = tuple(float(f"{10.0 ** (-place / 2.0):.3g}") for place in range(1, 25))
"""The steps of central differences, two for each power of ten."""
QUARTERS = tuple(4.0**-place for place in range(1, 21))
"""Steps of Taylor remainders: however steep a function is, some of them are short enough."""
FEWEST = 3
"""Points that a slope is fitted through."""
CLEAR = 1e3
"""Smallest remainder that is not rounding, as a multiple of rounding."""


class Difference(NamedTuple):
    """One central difference, with its error."""

    step: float
    value: float
    error: float
    """The distance from the slope of the gradient, as a share of the larger of the two."""
    kink: bool
    """An operation takes another branch within the step."""


@dataclass
class DifferenceCurve:
    """The error of central differences along one direction."""

    slope: float
    """The product of the gradient with the direction."""
    rows: list[Difference]
    best: Difference | None = None
    """The smallest error without a kink; None: every step reaches one."""
    truncation: float | None = None
    """The exponent of h above the best step: 2; None with too few steps, as for polynomials of degree 2."""
    rounding: float | None = None
    """The exponent of h below the best step: -1."""
    kink: float | None = None
    """The smallest step that reaches a kink."""


class Remainder(NamedTuple):
    """One Taylor remainder: |f(x + hv) - f(x) - h g·v| at the step h."""

    step: float
    value: float
    kink: bool


@dataclass
class Taylor:
    """Taylor remainders along one direction, for several steps."""

    slope: float
    rows: list[Remainder] = field(default_factory=list)
    order: float | None = None
    """The exponent of h; None: nothing is left over but rounding, or every step reaches a kink."""


def curve_along(here: Located, direction: Array, slope: float, steps: Sequence[float]) -> DifferenceCurve:
    """Return the errors of central differences along a direction for several steps. `slope` is the gradient's product
    with the direction, which the differences should give."""
    reached = _kinks(here, direction, steps)
    rows = []
    for step, kink in zip(steps, reached, strict=True):
        ahead, behind = here.value(here.point + step * direction), here.value(here.point - step * direction)
        value = (ahead - behind) / (2.0 * step)
        scale = max(abs(value), abs(slope))
        error = abs(value - slope) / scale if scale > 0.0 else 0.0
        rows.append(Difference(step, value, error if math.isfinite(value) else math.inf, kink))
    curve = DifferenceCurve(slope, rows)
    clean = [row for row in rows if not row.kink and math.isfinite(row.error)]
    curve.kink = min((row.step for row in rows if row.kink), default=None)
    if clean:
        curve.best = best = min(clean, key=lambda row: row.error)
        floor = max(best.error, float(np.finfo(np.float64).tiny))
        curve.truncation = _exponent(
            [(row.step, row.error) for row in clean if row.step >= best.step and 10.0 * floor < row.error < 0.1]
        )
        curve.rounding = _exponent(
            [(row.step, row.error) for row in clean if row.step < best.step and 3.0 * floor < row.error < 0.5]
        )
    return curve


def taylor_along(here: Located, direction: Array, slope: float, digit: float, steps: Sequence[float]) -> Taylor:
    """Return Taylor remainders along a direction for several steps. `slope` is the gradient's product with the
    direction, `digit` the relative rounding of values."""
    start = here.value(here.point)
    taylor = Taylor(slope)
    largest = abs(start)
    for step, kink in zip(steps, _kinks(here, direction, steps), strict=True):
        value = here.value(here.point + step * direction)
        largest = max(largest, abs(value)) if math.isfinite(value) else largest
        taylor.rows.append(Remainder(step, abs(value - start - step * slope), kink))
    least = CLEAR * digit * max(largest, abs(slope))
    clear = [not row.kink and math.isfinite(row.value) and row.value > least for row in taylor.rows]
    pairs = [pair for pair, both in zip(pairwise(taylor.rows), pairwise(clear), strict=True) if all(both)]
    orders = [math.log(a.value / b.value) / math.log(a.step / b.step) for a, b in pairs[-FEWEST:] if a.step != b.step]
    if orders:
        taylor.order = float(np.median(orders))
    return taylor


def _kinks(here: Located, direction: Array, steps: Sequence[float]) -> list[bool]:
    """Return for each step whether an operation takes another branch within it. Steps shorter than one without a kink
    have none."""
    base = here.branches()
    reached = dict.fromkeys(steps, False)
    for step in sorted(steps if base else (), reverse=True):
        both = [here.branches(here.point + sign * step * direction) for sign in (1.0, -1.0)]
        if all(np.array_equal(a, b, equal_nan=True) for side in both for a, b in zip(base, side, strict=True)):
            break
        reached[step] = True
    return [reached[step] for step in steps]


def _exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the exponent p of error ~ step^p, fitted to pairs (step, error); None for too few points."""
    usable = {math.log10(step): math.log10(error) for step, error in points if error > 0.0}  # a step may come twice
    if len(usable) < FEWEST:
        return None
    x, y = np.array(list(usable.items())).T
    return float(np.polyfit(x, y, 1)[0])
