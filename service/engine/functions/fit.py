"""The least squares line through points: its loss as an expression of slope and intercept, and its optimum.

The optimum is Gauss's closed form in whole numbers, rounded at the end, so no digits are lost wherever the points lie.
The expression can be descended on like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest
from service.engine.functions.expression import LONGEST_EXPRESSION

LOSSES = ("mean_squared_error", "squared_error", "half_squared_error")
"""The losses: the mean of the squared residuals, their sum, or half of their sum."""
LATEX = r"w = \frac{\sum_i (x_i - \bar x)(y_i - \bar y)}{\sum_i (x_i - \bar x)^2},\quad b = \bar y - w \bar x"
MOST_WRITTEN = 40
"""Most points for which the loss is written as a sum of squares."""
ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
"""Most error of a line at the mean of x that rounding explains, relative to the size of its terms."""


class Line(NamedTuple):
    """The least squares line through points, with its loss and what describes the fit."""

    slope: float
    intercept: float
    residuals: list[float]
    """y - (slope x + intercept) at each point, for the line before slope and intercept are rounded."""
    loss: float
    r_squared: float | None
    """The share of the variance of y that the line explains; None where y does not vary."""
    mean_x: float
    mean_y: float
    spread_x: float
    """The sum of the squares of x - mean_x."""
    spread_y: float
    product: float
    """The sum of (x - mean_x)(y - mean_y)."""
    hessian: list[list[float]]
    """Second derivatives of the loss by slope and intercept."""
    eigenvalues: list[float]
    """The eigenvalues of the Hessian, ascending."""
    expression: str
    """The loss in terms of slope and intercept."""

    @property
    def condition_number(self) -> float:
        """The larger eigenvalue of the loss's Hessian divided by the smaller one."""
        return self.eigenvalues[1] / self.eigenvalues[0]

    @property
    def largest_stable_step(self) -> float:
        """The learning rate below which gradient descent on the loss is stable: 2 over the largest eigenvalue."""
        return 2.0 / self.eigenvalues[1]

    def near(self, parameters: Array, radius: float) -> Array:
        """Return which rows of [slope, intercept] are this line, up to a relative error `radius` and rounding.

        Each parameter differs by no more than `radius` times 1 plus its own size. At the mean of x, and one standard
        deviation of x from there, the line differs by no more than `radius` times the standard deviation of y. A change
        of the slope by 1 moves a line little where all x are about 1, and far where they are time stamps.
        """
        best = np.array([self.slope, self.intercept])
        errors = parameters - best
        allowed = radius * (1.0 + np.abs(best))
        count = len(self.residuals)
        deviation_x, deviation_y = math.sqrt(self.spread_x / count), math.sqrt(self.spread_y / count)
        # Where y does not vary, the size of y counts; where all y are 0, that of the parameters.
        scale = deviation_y or abs(self.mean_y) or 1.0
        rounding = ROUNDING * (abs(self.slope * self.mean_x) + abs(self.intercept) + abs(self.mean_y))
        tilted = np.abs(errors[:, 0]) * deviation_x
        shifted = np.abs(errors[:, 0] * self.mean_x + errors[:, 1])
        straight = (tilted <= radius * scale) & (shifted <= radius * scale + rounding)
        found: Array = (np.abs(errors) <= allowed).all(-1) & straight
        return found


def fit_line(points: Sequence[tuple[float, float]], loss: str, names: tuple[str, str]) -> Line:
    """Return the line with the least `loss`, out of `LOSSES`; `names` are the names of slope and intercept. Raises
    `InvalidRequest` where the points do not determine it."""
    count = len(points)
    xs = [x for x, _ in points]
    try:
        (whole_x, unit_x), (whole_y, unit_y) = _whole(xs), _whole([y for _, y in points])
        sum_x, sum_y = sum(whole_x), sum(whole_y)
        squares_x, squares_y = sum([x * x for x in whole_x]), sum([y * y for y in whole_y])
        # The sums of squares and of products about the means, times count.
        xx, yy = count * squares_x - sum_x * sum_x, count * squares_y - sum_y * sum_y
        xy = count * sum([x * y for x, y in zip(whole_x, whole_y, strict=True)]) - sum_x * sum_y
        mean_x, mean_y = sum_x / (count * unit_x), sum_y / (count * unit_y)
        spread_x, spread_y = xx / (count * unit_x**2), yy / (count * unit_y**2)
        product = xy / (count * unit_x * unit_y)
        slope = (xy * unit_x) / (xx * unit_y)
        at_zero = sum_y * xx - xy * sum_x
        intercept = at_zero / (count * unit_y * xx)
        residuals = [
            (count * (y * xx - xy * x) - at_zero) / (count * unit_y * xx) for x, y in zip(whole_x, whole_y, strict=True)
        ]
        squares = (yy * xx - xy * xy) / (count * unit_y**2 * xx)
        factor = 1.0 / _divisor(loss, count)
        hessian = [
            [2.0 * factor * (squares_x / unit_x**2), 2.0 * factor * (sum_x / unit_x)],
            [0.0, 2.0 * factor * count],
        ]
        hessian[1][0] = hessian[0][1]
        eigenvalues = _eigenvalues(hessian, 4.0 * factor * factor * count * spread_x)
        level = squares_y / unit_y**2  # the loss of the line y = 0, where descents start
        fits = eigenvalues[0] > 0.0 and all(map(math.isfinite, [level, *hessian[0], *eigenvalues]))
    except (OverflowError, ZeroDivisionError):
        fits = False
    if not fits:
        detail = "have squares beyond what 64-bit numbers hold; scale them"
        if len(set(xs)) == 1:
            detail = "all have the same x, so that any slope is as good as any other; at least two must differ"
        raise InvalidRequest([Fault(("points",), detail)])
    return Line(
        slope,
        intercept,
        residuals,
        squares * factor,
        xy * xy / (xx * yy) if yy else None,
        mean_x,
        mean_y,
        spread_x,
        spread_y,
        product,
        hessian,
        eigenvalues,
        _expression(points, loss, names, (slope, mean_x, mean_y, spread_x, squares)),
    )


def _whole(numbers: Sequence[float]) -> tuple[list[int], int]:
    """Return numbers as whole numbers with a common divisor, a power of 2: number = whole / divisor, exactly."""
    ratios = [number.as_integer_ratio() for number in numbers]
    unit = max(denominator for _, denominator in ratios)
    return [numerator * (unit // denominator) for numerator, denominator in ratios], unit


def _eigenvalues(hessian: list[list[float]], determinant: float) -> list[float]:
    """Return the eigenvalues of a symmetric 2 × 2 matrix, ascending. The smaller one is computed by division, as a
    difference would cancel."""
    trace = hessian[0][0] + hessian[1][1]
    largest = 0.5 * (trace + math.hypot(hessian[0][0] - hessian[1][1], 2.0 * hessian[0][1]))
    return [determinant / largest, largest]


def _divisor(loss: str, count: int) -> int:
    """Return the number by which this loss divides the sum of the squared residuals."""
    return {"mean_squared_error": count, "squared_error": 1, "half_squared_error": 2}[loss]


def _expression(
    points: Sequence[tuple[float, float]], loss: str, names: tuple[str, str], sums: tuple[float, ...]
) -> str:
    if len(points) <= MOST_WRITTEN:
        squares = " + ".join(_squared(_line(x, names) + _minus(y)) for x, y in points)
        text = _scaled(squares, _divisor(loss, len(points)))
        if len(text) <= LONGEST_EXPRESSION:
            return text
    # The same function with the square completed: three terms for any number of points, and no cancellation.
    best, mean_x, mean_y, spread_x, rest = sums
    count = len(points)
    through = _squared(_line(mean_x, names) + _minus(mean_y))
    squares = f"{count}*{through} + {spread_x!r}*{_squared(names[0] + _minus(best))} + {rest!r}"
    return _scaled(squares, _divisor(loss, count))


def _scaled(squares: str, divisor: int) -> str:
    return squares if divisor == 1 else f"({squares})/{divisor}"


def _number(value: float) -> str:
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _line(x: float, names: tuple[str, str]) -> str:
    """Return the text of slope * x + intercept."""
    slope, intercept = names
    if not x:
        return intercept
    return f"{slope if x == 1.0 else f'{_number(x)}*{slope}'} + {intercept}"


def _squared(text: str) -> str:
    return f"({text})^2" if " " in text else f"{text}^2"


def _minus(value: float) -> str:
    return "" if not value else f" + {_number(-value)}" if value < 0.0 else f" - {_number(value)}"
