"""Searches: optimizers that evaluate several points before they move.

A search keeps numbers from step to step, and arrays whose last axis is that of the parameters. The history of L-BFGS
has one row for each pair of vectors. All else is computed anew, so a resumed descent gives the same numbers bit by bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from service.engine.building import Array, Choice, Flag, Integer, Number
from service.engine.descent.optimizers.declaration import PYTORCH, LocalObjective, State, learning_rate, optimizers
from service.engine.options import LARGEST_EXACT_INTEGER

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
"""The constants of Wolfe's conditions, c1 and c2."""
BACKOFFS = 50
"""The most halvings of a trial that ends where the loss is not finite."""
SMALLEST_PRODUCT = 1e-10
"""L-BFGS keeps a step and the change of the gradient along it if their inner product is larger than this."""
LINE_SEARCH_EVALUATIONS = 25
"""The evaluations that one line search may need."""


class _Point(NamedTuple):
    """A point on the line of a search: its distance from the start, its loss, its gradient and its slope along the
    line."""

    length: float
    loss: float
    gradient: Array
    slope: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.slope)


class _Line:
    """The objective along a direction, from the parameters at the start of the search."""

    def __init__(self, objective: LocalObjective, direction: Array, loss: float, gradient: Array) -> None:
        self.objective = objective
        self.direction = direction
        self.origin = objective.parameters.copy()
        self.start = _Point(0.0, loss, gradient, float(gradient @ direction))
        self.evaluations = 0

    def move(self, length: float) -> None:
        self.objective.parameters[...] = self.origin + length * self.direction

    def at(self, length: float) -> _Point:
        self.move(length)
        self.evaluations += 1
        loss, gradient = self.objective.evaluate()
        return _Point(length, float(loss), gradient.copy(), float(gradient @ self.direction))

    def near(self, length: float, known: _Point) -> _Point:
        """Return the point at `length`, or the first one with finite numbers on the way from there to `known`. The
        distance to `known` is halved up to `BACKOFFS` times; then `known` itself is returned."""
        for _ in range(BACKOFFS):
            point = self.at(length)
            if point.finite:
                return point
            length = 0.5 * (known.length + length)
        return known


def _cubic_minimum(one: _Point, other: _Point, low: float, high: float) -> float:
    """Return where the cubic through two points with slopes is lowest, within [low, high]. Nocedal & Wright, equation
    3.59. Where there is no such place, return the middle of the bounds."""
    left, right = (one, other) if one.length <= other.length else (other, one)
    width = right.length - left.length
    middle = 0.5 * (low + high)
    if not width:
        return middle
    mean = left.slope + right.slope - 3.0 * (left.loss - right.loss) / (left.length - right.length)
    square = mean * mean - left.slope * right.slope
    if not square >= 0.0:
        return middle
    root = math.sqrt(square)
    divisor = right.slope - left.slope + 2.0 * root
    if not divisor:
        return middle
    lowest = right.length - width * ((right.slope + root - mean) / divisor)
    return min(max(lowest, low), high) if math.isfinite(lowest) else middle


def _descends(start: _Point, point: _Point) -> bool:
    return point.loss <= start.loss + SUFFICIENT_DECREASE * point.length * start.slope


def _is_flat(start: _Point, point: _Point) -> bool:
    return abs(point.slope) <= -CURVATURE * start.slope


def _wolfe_point(line: _Line, length: float, most: int, tolerance: float) -> _Point:
    """Return a point that fulfils the strong Wolfe conditions, or the best point after `most` evaluations. Algorithms
    3.5 and 3.6 of Nocedal & Wright, with the trials and safeguards of minFunc, which are PyTorch's too."""
    start = line.start
    before, now = start, line.near(length, start)
    while line.evaluations <= most and now is not before:
        too_far = not _descends(start, now) or (line.evaluations > 2 and now.loss >= before.loss)
        if not too_far and _is_flat(start, now):
            return now
        if too_far or now.slope >= 0.0:
            return _zoom(line, [before, now], most, tolerance)
        least = now.length + 0.01 * (now.length - before.length)
        length = _cubic_minimum(before, now, least, 10.0 * now.length)
        before, now = now, line.near(length, now)
    return start if start.loss <= now.loss else now


def _zoom(line: _Line, ends: list[_Point], most: int, tolerance: float) -> _Point:
    """Narrow the interval between two points until a point in it fulfils the strong Wolfe conditions; return this
    point."""
    start = line.start
    size = float(np.abs(line.direction).max())
    lower = 0 if ends[0].loss <= ends[1].loss else 1
    slow = False
    while line.evaluations <= most and abs(ends[1].length - ends[0].length) * size >= tolerance:
        left, right = sorted(end.length for end in ends)
        length = _cubic_minimum(ends[0], ends[1], left, right)
        # Two trials in a row close to an end narrow little: the second moves into the interval.
        margin = 0.1 * (right - left)
        hugs = min(right - length, length - left) < margin
        if hugs and (slow or not left < length < right):
            length = right - margin if right - length < length - left else left + margin
            hugs = False
        slow = hugs
        now = line.near(length, ends[lower])
        if not _descends(start, now) or now.loss >= ends[lower].loss:
            ends[1 - lower] = now
            lower = 0 if ends[0].loss <= ends[1].loss else 1
            continue
        if _is_flat(start, now):
            return now
        if now.slope * (ends[1 - lower].length - ends[lower].length) >= 0.0:
            ends[1 - lower] = ends[lower]
        ends[lower] = now
    return ends[lower]


def _most_evaluations(iterations: int, evaluations: int | None) -> int:
    return max(LINE_SEARCH_EVALUATIONS, iterations * 5 // 4) if evaluations is None else evaluations


def _remember(state: State, gradient: Array, history_size: int) -> None:
    """Add the last step, and the change of the gradient along this step, to the history of L-BFGS."""
    step, change = state.length * state.direction, gradient - state.previous_gradient
    if not SMALLEST_PRODUCT < float(step @ change) < math.inf:
        return
    for name, row in (("steps", step), ("changes", change)):
        rows = getattr(state, name, row[:0].reshape(0, row.size))
        setattr(state, name, np.concatenate([rows, row[None]])[-history_size:])


def _quasi_newton_direction(state: State, gradient: Array) -> Array:
    """Return minus the approximate inverse Hessian times the gradient (Nocedal & Wright, algorithm 7.4)."""
    direction: Array = -gradient
    if not hasattr(state, "steps"):
        return direction
    rows = zip(state.steps, state.changes, strict=True)
    products = [(step, change, float(step @ change)) for step, change in rows]
    # `_remember` keeps only such pairs, but a checkpoint may hold others.
    pairs = [pair for pair in products if SMALLEST_PRODUCT < pair[2] < math.inf]
    if not pairs:
        return direction
    weights = []
    for step, change, product in reversed(pairs):
        weights.append(float(step @ direction) / product)
        direction -= weights[-1] * change
    _, change, product = pairs[-1]
    direction *= product / float(change @ change)
    for (step, change, product), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - float(change @ direction) / product) * step
    return direction


@optimizers.declare(
    "l_bfgs",
    aliases=("lbfgs", "l-bfgs"),
    en="Limited-memory BFGS, as PyTorch has it: the last steps and changes of the gradient stand for the Hessian, and "
    "a line search finds how far to go. It wants the whole data at each step.",
    zh="有限内存 BFGS,与 PyTorch 一致:用最近的步与梯度变化近似黑塞矩阵,并以线搜索确定步长。每步需要全部数据。",
    options=(
        learning_rate(1.0),
        Choice(
            name="line_search",
            default="strong_wolfe",
            values=("strong_wolfe", "none"),
            description="how the length of a step is found; none: it is the learning rate",
        ),
        Integer(
            name="iterations",
            default=1,
            minimum=1,
            maximum=1000,
            description="iterations in one step, each with a line search: PyTorch's max_iter, which is 20 there",
        ),
        Integer(
            name="evaluations",
            default=None,
            minimum=1,
            maximum=1250,
            description="evaluations of the loss after which a step ends (none: 5/4 of iterations, and at least 25)",
        ),
        Integer(name="history_size", default=100, minimum=1, maximum=1000, description="steps that are remembered"),
        Number(
            name="tolerance_gradient",
            default=1e-7,
            minimum=0.0,
            description="nothing is done where no derivative is larger",
        ),
        Number(
            name="tolerance_change",
            default=1e-9,
            minimum=0.0,
            description="a step ends when loss or parameters change by less",
        ),
    ),
    latex=r"d = -H g,\quad \theta \leftarrow \theta + \alpha d,\quad H^{-1} s_i = y_i,\ s_i = \Delta\theta,\ "
    r"y_i = \Delta g",
    sources=(PYTORCH, "Nocedal, Wright: Numerical Optimization, algorithms 7.4, 3.5 and 3.6"),
    search=True,
    full_batch=True,
    numbers={"iterations": 0, "length": 0.0},
    bounds={"iterations": (0, LARGEST_EXACT_INTEGER + 1)},
    state=lambda **options: ("direction", "previous_gradient"),
    histories=("steps", "changes"),
    most_rows=lambda history_size, **others: history_size,
    most_evaluations=lambda iterations, evaluations, **others: _most_evaluations(iterations, evaluations),
)
def l_bfgs(
    objective: LocalObjective,
    state: State,
    step: int,
    learning_rate: float,
    line_search: str,
    iterations: int,
    evaluations: int | None,
    history_size: int,
    tolerance_gradient: float,
    tolerance_change: float,
) -> float:
    loss, gradient = objective.loss, objective.gradient.copy()
    most = _most_evaluations(iterations, evaluations)
    spent, length = 1, 0.0
    for iteration in range(1, iterations + 1):
        if not float(np.abs(gradient).max()) > tolerance_gradient:
            break
        if state.iterations:
            _remember(state, gradient, history_size)
            trial = learning_rate
        else:
            trial = learning_rate * min(1.0, 1.0 / float(np.abs(gradient).sum()))
        direction = _quasi_newton_direction(state, gradient)
        state.iterations += 1
        state.direction, state.previous_gradient, state.length = direction, gradient, 0.0
        line = _Line(objective, direction, loss, gradient)
        if not line.start.slope <= -tolerance_change:
            break
        before = loss
        if line_search == "strong_wolfe":
            length, loss, gradient, _ = _wolfe_point(line, trial, most - spent, tolerance_change)
        else:
            length = trial
            if iteration < iterations:  # the next step looks at where the last one ends
                _, loss, gradient, _ = line.at(length)
        line.move(length)
        state.length = length
        spent += line.evaluations
        change = abs(length) * float(np.abs(direction).max())
        if spent >= most or change <= tolerance_change or not abs(loss - before) >= tolerance_change:
            break
    return length


@optimizers.declare(
    "newton",
    en="Newton's method: to where the gradient of the quadratic model vanishes, be that a minimum, a saddle point or a "
    "maximum. Directions without curvature are left alone. With absolute_eigenvalues it flees saddle points.",
    zh="牛顿法:走到二次模型梯度为零处,可能是极小点、鞍点或极大点;没有曲率的方向不动。启用 absolute_eigenvalues "
    "时会远离鞍点。",
    options=(
        learning_rate(1.0),
        Number(name="damping", default=0.0, minimum=0.0, description="added to all eigenvalues of the Hessian"),
        Flag(
            name="absolute_eigenvalues",
            default=False,
            description="the sizes of the eigenvalues are used: every step sets out downhill (saddle-free Newton)",
        ),
    ),
    latex=r"\theta \leftarrow \theta - \eta (\nabla^2 L + \lambda I)^{-1} \nabla L",
    sources=("Nocedal, Wright: Numerical Optimization, chapter 3.3", "https://arxiv.org/abs/1406.2572"),
    search=True,
    second_order=True,
)
def newton(
    objective: LocalObjective, state: State, step: int, learning_rate: float, damping: float, absolute_eigenvalues: bool
) -> float:
    gradient = objective.gradient.astype(np.float64)
    hessian = np.asarray(objective.hessian(), np.float64)
    if not np.isfinite(hessian).all():
        return 0.0
    curvatures, directions = np.linalg.eigh(0.5 * (hessian + hessian.T))
    if absolute_eigenvalues:
        curvatures = np.abs(curvatures)
    curvatures += damping
    sizes = np.abs(curvatures)
    # Smaller curvatures may be 0 but for rounding.
    curved = sizes > sizes.max() * sizes.size * np.finfo(objective.parameters.dtype).eps
    along = (gradient @ directions)[curved] / curvatures[curved]
    objective.parameters[...] -= learning_rate * (directions[:, curved] @ along)
    return learning_rate


@optimizers.declare(
    "exact_line_search",
    aliases=("steepest_descent",),
    en="Steepest descent: along the negative gradient to where the loss stops falling, found to the last digits. Where "
    "it never stops, to the lowest place seen.",
    zh="最速下降:沿负梯度走到损失不再下降处,精确到末位;若一直下降,则取所见最低处。",
    options=(
        learning_rate(1.0),
        Integer(
            name="evaluations", default=60, minimum=1, maximum=1000, description="the most evaluations in one step"
        ),
    ),
    latex=r"\theta \leftarrow \theta - \alpha g,\quad \frac{d}{d\alpha} L(\theta - \alpha g) = 0",
    sources=("Cauchy 1847", "Nocedal, Wright: Numerical Optimization, chapter 3"),
    search=True,
    most_evaluations=lambda evaluations: evaluations,
)
def exact_line_search(
    objective: LocalObjective, state: State, step: int, learning_rate: float, evaluations: int
) -> float:
    gradient = objective.gradient.copy()
    line = _Line(objective, -gradient, objective.loss, gradient)
    found = _lowest(line, learning_rate, evaluations) if learning_rate and line.start.slope < 0.0 else line.start
    line.move(found.length)
    return found.length


def _lowest(line: _Line, trial: float, most: int) -> _Point:
    """Return the first point of the line where the slope is 0, for an exact line search. If doubling the trial jumps
    over that point, or evaluations run out, return the lowest point seen."""
    low, ceiling = line.start, math.inf
    while line.evaluations < most and low.length < trial < ceiling:
        now = line.at(trial)
        if now.finite and now.slope >= 0.0:
            found = _root(line, low, now, most)
            # Doubling may have jumped over a hill. Close to a minimum, losses differ by rounding only.
            rounding = 16.0 * float(np.finfo(line.direction.dtype).eps) * abs(line.start.loss)
            return found if found.loss <= line.start.loss + rounding else low
        if now.finite and now.loss <= low.loss:
            low = now
        else:
            ceiling = trial  # beyond the domain, or beyond a hill
        trial = 2.0 * trial if ceiling == math.inf else 0.5 * (low.length + ceiling)
    return low


def _root(line: _Line, low: _Point, high: _Point, most: int) -> _Point:
    """Return where the slope is 0, between a point with a negative slope and one without (Chandrupatla 1997)."""
    epsilon = float(np.finfo(line.direction.dtype).eps)
    now, other = high, low
    part = now.slope / (now.slope - other.slope)  # the secant, which is exact where the loss is quadratic
    while True:
        best = min(now, other, key=lambda point: abs(point.slope))
        width = abs(now.length - other.length)
        margin = epsilon * best.length
        if line.evaluations >= most or abs(best.slope) <= -epsilon * line.start.slope or width <= 2.0 * margin:
            return best
        part = min(max(part, margin / width), 1.0 - margin / width)
        point = line.at(now.length + part * (other.length - now.length))
        if not point.finite:
            return best
        same = (point.slope > 0.0) == (now.slope > 0.0)
        third, other = (now, other) if same else (other, now)
        now = point
        part = _inverse_quadratic(now, other, third)


def _inverse_quadratic(now: _Point, other: _Point, third: _Point) -> float:
    """Return the fraction of the way from `now` to `other` at which the slope vanishes. The slope is interpolated by an
    inverse quadratic through three points; where that is not safe, return ½."""
    place = (now.length - other.length) / (third.length - other.length)
    height = (now.slope - other.slope) / (third.slope - other.slope)
    if not (height * height < place and (1.0 - height) * (1.0 - height) < 1.0 - place):
        return 0.5
    to_other = now.slope / (other.slope - now.slope) * third.slope / (other.slope - third.slope)
    stretch = (third.length - now.length) / (other.length - now.length)
    to_third = now.slope / (third.slope - now.slope) * other.slope / (third.slope - other.slope)
    return to_other + stretch * to_third
