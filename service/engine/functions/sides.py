"""Derivatives at places where the chain rule does not give them: kinks, roots of 0, 0 · ∞.

The function is expanded along rays to all sides of the place. Where the one-sided slopes belong to one gradient, there
is no kink, whatever the formula looks like: |x|² is x². The same holds for the second derivatives. A number is
undefined where the sides disagree about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.functions.compiled import MOST_PROBLEMS, Function, PointProblem, Results, build
from service.engine.functions.expression import Expression
from service.engine.graph.expansion import expand
from service.engine.graph.ir import Graph, Node, reachable
from service.engine.graph.series import EPS, Series
from service.engine.watch import Watch

OTHERS = 4
"""General rays of each place; their opposites are used too."""
ROWS = 4_096
"""Rays that are expanded together."""
AGREEMENT = 64.0 * EPS
"""Largest difference between equal numbers from several sides, relative to their sizes and errors."""
BLURRED = 1e-3
SAME = 1e-9
"""A derivative by the chain rule this close to that of the sides is kept, as it has more digits."""
TINY = float(np.finfo(np.float64).tiny)
FAR_AWAY = 10**9

DIFFERENT = "the slopes from all sides agree here, but not the second derivatives"
DIFFERENT_TOO = "the second derivatives from the sides differ here"
NO_SLOPE = "the slopes from the sides differ here, so there is none"
JUMPS = "the value jumps here, so there are no second derivatives"
ALONE = "there are no values beside this point"
INFINITE = "a second derivative is infinite here"
UNKNOWN = "the chain rule meets 0 · ∞ here, and how the function goes on beside this point is not known"
MENDED = frozenset(("kink", "vertical", "jump"))
"""Kinds of problems that vanish where the sides agree."""
ASKED = MENDED | {"pole", "not_finite"}
"""Kinds of problems that the sides may resolve."""


class Sides(NamedTuple):
    """The derivatives at each place, as far as the expansions along rays determine them."""

    gradients: Array
    """(places, variables): the partial derivatives; NaN where the sides disagree or nothing is known."""
    gradient_errors: Array
    """(places, variables): the rounding of the gradients."""
    least: Array
    """(places, variables): the lesser of the slopes to both sides along each axis; NaN where there is none."""
    most: Array
    """(places, variables): the greater of these slopes."""
    hessians: Array
    """(places, variables, variables): the second derivatives, as the partial derivatives."""
    hessian_errors: Array
    """(places, variables, variables): the rounding of the second derivatives."""
    smooth: Array
    """True where all sides agree about the value and about one gradient."""
    steady: Array
    """True where all sides agree about the value."""
    vertical: Array
    """(places, variables): whether a slope is infinite along this axis."""
    bent: Array
    """True where a curvature is infinite and the slope is not."""
    unknown: Array
    """(places, variables): whether nothing is known of the slope to some side along this axis."""
    silent: Array
    """True where nothing is known of the slope or the curvature along some ray."""
    alone: Array
    """(places, variables): whether the function has no values to either side along this axis."""


class Ends(NamedTuple):
    """Derivatives at the beginning of each ray, next to its place, as arrays (places, rays)."""

    alive: Array
    """True where the function has values next to the place."""
    steady: Array
    """True where these values tend to the value at the place, or may."""
    slopes: Array
    """The slopes along the rays: infinite, or NaN where nothing is known."""
    slope_errors: Array
    curvatures: Array
    """The second derivatives along the rays: infinite, or NaN where nothing is known."""
    curvature_errors: Array


class Surroundings:
    """The expansion of one expression along rays from given places."""

    def __init__(self, expression: Expression) -> None:
        with Graph("float64") as graph:
            self.variables = [graph.input(name, ()) for name in expression.variables]
            self.output = build(expression, graph, self.variables)[-1]
        self.nodes: Sequence[Node] = reachable([self.output])

    def look(self, points: Array, values: Array) -> Sides | None:
        """Return the derivatives to all sides at each row of `points`, where the function has `values`. None if the
        expression has an operation that cannot be expanded."""
        axes = np.concatenate([np.eye(points.shape[1]), -np.eye(points.shape[1])])
        first = self._ends(points, values, np.broadcast_to(axes, (len(points), *axes.shape)))
        if first is None:
            return None
        scales = _scales(first)
        directions = scales[:, None, :] * _between(points.shape[1])
        second = self._ends(points, values, directions)
        assert second is not None
        return _agreed(first, second, directions)

    def _ends(self, points: Array, values: Array, directions: Array) -> Ends | None:
        """Return the derivatives along rays with these `directions`, (places, rays, variables)."""
        places, count, dimension = directions.shape
        if not count:
            nothing = np.zeros((places, 0))
            return Ends(nothing > 0.0, nothing > 0.0, nothing, nothing, nothing, nothing)
        flat = directions.reshape(-1, dimension)
        starts = np.repeat(points, count, 0)
        variables = {
            node: (np.ascontiguousarray(starts[:, i]), np.ascontiguousarray(flat[:, i]))
            for i, node in enumerate(self.variables)
        }
        found = expand(self.output, self.nodes, variables)
        if found is None:
            return None
        ends = _read(found, np.repeat(values, count))
        return Ends(*[part.reshape(places, count) for part in ends])


def _between(dimension: int) -> Array:
    """Return the directions of rays, (rays, variables): between each two axes to all four sides, and general ones."""
    rows = []
    for i, j in combinations(range(dimension), 2):
        for a, b in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)):
            row = np.zeros(dimension)
            row[i], row[j] = a, b
            rows.append(row)
    if dimension > 1:
        # General directions, the same at each call.
        others = np.sin(np.arange(1, OTHERS * dimension + 1) ** 2 * 1.7).reshape(OTHERS, dimension)
        rows += [*others, *-others]
    return np.array(rows).reshape(-1, dimension)


def _scales(axes: Ends) -> Array:
    """Return a length for each axis that makes curvatures alike, so that mixed derivatives keep their digits."""
    half = axes.curvatures.shape[1] // 2
    curvatures = np.fmax(np.abs(axes.curvatures[:, :half]), np.abs(axes.curvatures[:, half:]))
    errors = np.fmax(axes.curvature_errors[:, :half], axes.curvature_errors[:, half:])
    usable = np.isfinite(curvatures) & (curvatures > 8.0 * errors)
    exponents = np.where(usable, -0.5 * np.log2(np.where(usable, curvatures, 1.0)), 0.0)
    exponents -= exponents.min(1, keepdims=True)
    return np.exp2(np.rint(np.minimum(exponents, 40.0)))


def _read(found: Series, values: Array) -> tuple[Array, ...]:
    """Return the fields of `Ends`, with one number for each ray, from expansions and the values at the places."""
    steps, length = found.steps, found.length
    first = np.where(found.zero, 0, found.first)
    known = np.where(found.zero, FAR_AWAY, first + found.known)
    # The coefficients of powers of t from -1/steps on, which stands for all negative ones.
    index = np.arange(length)
    count = 2 * steps + 1
    terms, errors = np.zeros((len(values), count)), np.zeros((len(values), count))
    places = first[:, None] + index
    inside = (places >= 0) & (places < count) & (index < found.known[:, None])
    rows, columns = np.nonzero(inside)
    terms[rows, places[rows, columns]] = found.terms[rows, columns]
    errors[rows, places[rows, columns]] = found.errors[rows, columns]
    alive = ~found.gone & ~np.isnan(terms[:, 0])
    unbounded = (first < 0) & (found.known > 0) & ~found.zero
    # An error of NaN bounds nothing.
    apart = ~(np.abs(terms[:, 0] - values) <= 4.0 * errors[:, 0] + AGREEMENT * np.abs(values) + TINY)
    apart |= np.isinf(terms[:, 0])
    steady = ~(unbounded | (apart & (known > 0)))
    steady[~alive] = True
    low, high = np.abs(terms[:, 1:steps]), np.abs(terms[:, steps + 1 : 2 * steps])
    vertical = (low > errors[:, 1:steps]).any(1)
    slopes = np.where(vertical, np.inf, np.where(known > steps, terms[:, steps], np.nan))
    slopes = np.where(alive & steady & (known > 0), slopes, np.nan)
    bent = (high > errors[:, steps + 1 : 2 * steps]).any(1)
    curvatures = np.where(bent, np.inf, np.where(known > 2 * steps, 2.0 * terms[:, 2 * steps], np.nan))
    curvatures = np.where(np.isfinite(slopes), curvatures, np.nan)
    return alive, steady, slopes, errors[:, steps], curvatures, 2.0 * errors[:, 2 * steps]


def _agreed(axes: Ends, between: Ends, directions: Array) -> Sides:
    places, _, dimension = directions.shape
    gradients, gradient_errors = _along(axes.alive, axes.slopes, axes.slope_errors, -1.0)
    ahead, behind = axes.slopes[:, :dimension], -axes.slopes[:, dimension:]
    vertical = np.isinf(ahead) | np.isinf(behind)
    expected = np.einsum("prn,pn->pr", directions, np.nan_to_num(gradients))
    sizes = np.einsum("prn,pn->pr", np.abs(directions), np.abs(np.nan_to_num(gradients)))
    straight = np.abs(between.slopes - expected) <= 8.0 * between.slope_errors + AGREEMENT * sizes + TINY
    known = ~np.isnan(gradients).any(1)
    steady: Array = np.logical_and.reduce(np.concatenate([axes.steady, between.steady], 1), axis=1)
    smooth = known & steady & (straight | ~between.alive).all(1)
    hessians = np.full((places, dimension, dimension), np.nan)
    hessian_errors = np.zeros_like(hessians)
    each = np.arange(dimension)
    hessians[:, each, each], hessian_errors[:, each, each] = _along(
        axes.alive, axes.curvatures, axes.curvature_errors, 1.0
    )
    for place, (i, j) in enumerate(combinations(range(dimension), 2)):
        mixed, errors = _mixed(axes, between, slice(4 * place, 4 * place + 4), directions, i, j)
        hessians[:, i, j] = hessians[:, j, i] = mixed
        hessian_errors[:, i, j] = hessian_errors[:, j, i] = errors
    whole = ~np.isnan(hessians).any((1, 2))
    bends = np.einsum("pri,pij,prj->pr", directions, np.nan_to_num(hessians), directions)
    sizes = np.einsum("pri,pij,prj->pr", np.abs(directions), np.abs(np.nan_to_num(hessians)), np.abs(directions))
    fits = np.abs(between.curvatures - bends) <= 8.0 * between.curvature_errors + AGREEMENT * sizes + TINY
    hessians[whole & ~(fits | ~between.alive).all(1)] = np.nan
    slopes = np.concatenate([axes.slopes, between.slopes], 1)
    curvatures = np.concatenate([axes.curvatures, between.curvatures], 1)
    alive = np.concatenate([axes.alive, between.alive], 1)
    silent = (alive & (np.isnan(slopes) | (np.isnan(curvatures) & np.isfinite(slopes)))).any(1)
    lost = axes.alive & axes.steady & np.isnan(axes.slopes)
    unknown = lost[:, :dimension] | lost[:, dimension:]
    alone = ~(axes.alive[:, :dimension] | axes.alive[:, dimension:])
    return Sides(
        gradients,
        gradient_errors,
        np.fmin(ahead, behind),
        np.fmax(ahead, behind),
        hessians,
        hessian_errors,
        smooth=smooth,
        steady=steady,
        vertical=vertical,
        bent=np.isinf(curvatures).any(1),
        unknown=unknown,
        silent=silent,
        alone=alone,
    )


def _blurred(errors: Array, numbers: Array) -> Array:
    """Return a mask of numbers from two sides that are alike only because rounding hides their difference."""
    return errors > BLURRED * np.maximum(np.abs(numbers), BLURRED)


def _along(alive: Array, numbers: Array, errors: Array, parity: float) -> tuple[Array, Array]:
    """Return derivatives along each axis and their errors, from both sides or from the only side there is. The columns
    of rays ahead come first, then those of rays behind, whose numbers are multiplied by `parity`."""
    half = numbers.shape[1] // 2
    ahead, behind = numbers[:, :half], parity * numbers[:, half:]
    allowed = 8.0 * (errors[:, :half] + errors[:, half:])
    allowed += AGREEMENT * np.maximum(np.abs(ahead), np.abs(behind)) + TINY
    same = (np.abs(ahead - behind) <= allowed) & ~_blurred(allowed, ahead)
    found = np.where(~alive[:, :half], behind, np.where(~alive[:, half:] | same, ahead, np.nan))
    return np.where(np.isfinite(found), found, np.nan), allowed


def _mixed(axes: Ends, between: Ends, four: slice, directions: Array, i: int, j: int) -> tuple[Array, Array]:
    """Return the mixed derivative by variables i and j, and its error; NaN unless four sides agree. `four` is the slice
    of the rays between the two axes."""
    a, b = directions[:, four, i], directions[:, four, j]
    curvatures, errors, alive = between.curvatures[:, four], between.curvature_errors[:, four], between.alive[:, four]
    straight = np.zeros_like(curvatures)
    size = np.abs(curvatures)
    for x, place in ((a, i), (b, j)):
        opposite = place + directions.shape[2]
        ahead, behind = axes.curvatures[:, place : place + 1], axes.curvatures[:, opposite : opposite + 1]
        # Where a side of an axis is missing, the other one stands for it.
        ahead = np.where(axes.alive[:, place : place + 1], ahead, behind)
        behind = np.where(axes.alive[:, opposite : opposite + 1], behind, ahead)
        along = x * x * np.where(x > 0.0, ahead, behind)
        straight, size = straight + along, size + np.abs(along)
        errors = errors + x * x * np.fmax(axes.curvature_errors[:, [place]], axes.curvature_errors[:, [opposite]])
    each = (curvatures - straight) / (2.0 * a * b)
    allowed = (8.0 * errors + AGREEMENT * size) / np.abs(2.0 * a * b) + TINY
    low = np.where(alive, each - allowed, -np.inf).max(1)
    high = np.where(alive, each + allowed, np.inf).min(1)
    pairs = (curvatures[:, 0] - curvatures[:, 1] + curvatures[:, 3] - curvatures[:, 2]) / (8.0 * a[:, 0] * b[:, 0])
    some = np.where(alive, each, 0.0).sum(1) / np.maximum(alive.sum(1), 1)
    found = np.where(alive.all(1), pairs, some)
    agreed = (low <= high) & alive.any(1) & ~_blurred(allowed.max(1), found)  # false at NaN
    return np.where(agreed, found, np.nan), allowed.max(1)


# --- the answer ---------------------------------------------------------------------------------


class Settled(NamedTuple):
    """Results and problems at points, corrected by what the sides show."""

    results: Results
    problems: dict[int, list[PointProblem]]
    kinks: set[int]
    """Points without a gradient; their answers follow a convention."""


def settle(
    function: Function,
    points: Array,
    results: Results,
    problems: dict[int, list[PointProblem]],
    watch: Watch | None = None,
) -> Settled:
    """Return value and derivatives at points with problems, found from all sides. A problem that the sides disprove is
    removed. Raises what `watch` raises."""
    rows = [
        row
        for row, met in problems.items()
        if ASKED.issuperset(problem.kind for problem in met) and np.isfinite(results.values[row])
    ]
    if not rows or not function.dimension:
        return Settled(results, problems, set())
    surroundings = Surroundings(function.expression)
    dimension = function.dimension
    each = max(1, ROWS // (2 * dimension * dimension + 2 * OTHERS))
    hessians = None if results.hessians is None else results.hessians.copy()
    results = Results(results.values, results.gradients.copy(), hessians)
    settled = Settled(results, dict(problems), set())
    for start in range(0, len(rows), each):
        if watch is not None:
            watch.look()
        block = np.array(rows[start : start + each])
        sides = surroundings.look(points[block], results.values[block])
        if sides is not None:
            for place, row in enumerate(block.tolist()):
                _settle(settled, row, place, sides)
    return settled


def _settle(settled: Settled, row: int, place: int, sides: Sides) -> None:
    results, problems = settled.results, settled.problems[row]
    gradient, partials = results.gradients[row], sides.gradients[place]
    apart = ~(np.abs(gradient - partials) <= SAME * np.abs(partials) + sides.gradient_errors[place])
    gradient[apart & ~np.isnan(partials)] = partials[apart & ~np.isnan(partials)]
    gradient[sides.vertical[place] & np.isfinite(gradient)] = np.nan
    # Several conventions together may give a number that is neither a slope of a side nor between them.
    least, most = sides.least[place], sides.most[place]
    # Where one side jumps, the other one decides alone, and there is no error of both.
    allowed = SAME * np.maximum(np.abs(least), np.abs(most)) + np.nan_to_num(sides.gradient_errors[place])
    gradient[(gradient < least - allowed) | (gradient > most + allowed)] = np.nan
    gradient[sides.alone[place] | sides.unknown[place]] = np.nan
    smooth, steady, vertical = bool(sides.smooth[place]), bool(sides.steady[place]), sides.vertical[place].any()
    first = next((problem.step for problem in problems if problem.kind in MENDED), None)
    if smooth:
        problems = [problem for problem in problems if problem.kind not in MENDED and problem.kind != "not_finite"]
    else:
        settled.kinks.add(row)
        known = steady and not vertical and not sides.silent[place]
        if known:
            problems = [problem for problem in problems if problem.kind not in ("vertical", "not_finite")]
        if sides.alone[place].any():
            problems = [*problems, PointProblem("domain", None, ALONE)]
        elif known and not np.isfinite(gradient).all():
            problems = [*problems, PointProblem("kink", first, NO_SLOPE)]
        elif not (vertical or np.isfinite(gradient).all() or {each.kind for each in problems} & {"jump", "not_finite"}):
            problems = [*problems, PointProblem("not_finite", None, UNKNOWN)]
    if results.hessians is not None:
        hessian, true = results.hessians[row], sides.hessians[place]
        diagonal = np.sqrt(np.abs(np.nan_to_num(np.diag(true))))
        allowed = SAME * (np.abs(true) + diagonal[:, None] * diagonal) + sides.hessian_errors[place]
        apart = ~(np.abs(hessian - true) <= allowed)
        hessian[apart] = true[apart]
        lost = ~np.isfinite(gradient)
        hessian[lost], hessian[:, lost] = np.nan, np.nan
        if np.isnan(hessian[~lost][:, ~lost]).any():
            if not steady:
                problems = [*problems, PointProblem("jump", first, JUMPS)]
            elif sides.bent[place]:
                problems = [*problems, PointProblem("not_finite", None, INFINITE)]
            elif sides.silent[place]:
                problems = [*problems, PointProblem("not_finite", None, UNKNOWN)]
            else:
                problems = [*problems, PointProblem("kink", first, DIFFERENT if smooth else DIFFERENT_TOO)]
    if problems:
        settled.problems[row] = problems[:MOST_PROBLEMS]
    else:
        del settled.problems[row]
