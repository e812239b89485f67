"""The parts of responses of `/v1/functions/…`: points, formulas, graphs, valleys and warnings as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution
from service.engine.descent.valleys import Valleys
from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import UNDEFINED, Calculus, along
from service.engine.functions.compiled import Function, PointProblem
from service.engine.functions.expression import Expression
from service.engine.functions.fit import LATEX, Line
from service.engine.functions.formula_writer import Printed
from service.engine.functions.formulas import Formulas
from service.engine.functions.ranges import kinks_within
from service.engine.functions.stationary import StationarySearch

MOST_UNSEEN = 0.02
"""The probability that one more start of a search finds a new point, above which a warning is given."""


def points_of(
    expression: Expression, points: Array, calculus: Calculus, directions: Array | None
) -> list[dict[str, Any]]:
    """Return an entry for each point: value, gradient, and second order if computed; undefined values are null."""
    results = calculus.results
    derivatives = None if directions is None else along(results.gradients, directions)
    entries = []
    for place, point in enumerate(points):
        gradient = results.gradients[place]
        entry: dict[str, Any] = {
            "point": point,
            "value": results.values[place],
            "partials": dict(zip(expression.variables, gradient.tolist(), strict=True)),
            "gradient": gradient,
            "norm": calculus.norms[place],
            "direction": None if np.isnan(calculus.directions[place, 0]) else calculus.directions[place],
        }
        if derivatives is not None:
            entry["directional_derivative"] = derivatives[place]
        if results.hessians is not None:
            entry |= second_order_of(place, calculus)
        problems = calculus.problems.get(place)
        if problems:
            entry["problems"] = [_problem(expression, problem) for problem in problems]
        entries.append(entry)
    return entries


def second_order_of(place: int, calculus: Calculus) -> dict[str, Any]:
    assert calculus.results.hessians is not None and calculus.classes is not None
    assert calculus.eigenvalues is not None and calculus.eigenvectors is not None
    assert calculus.condition_numbers is not None and calculus.stable_steps is not None
    found = calculus.classes[place]
    entry: dict[str, Any] = {
        "hessian": calculus.results.hessians[place],
        "eigenvalues": calculus.eigenvalues[place],
        "eigenvectors": calculus.eigenvectors[place],
        "classification": None if found == UNDEFINED else found,
    }
    if np.isfinite(calculus.condition_numbers[place]):
        entry["condition_number"] = calculus.condition_numbers[place]
    if np.isfinite(calculus.stable_steps[place]):
        entry["largest_stable_step"] = calculus.stable_steps[place]
    return entry


def missed_by(function: Function, found: StationarySearch, low: Array, high: Array) -> list[Caution]:
    """Return warnings about stationary points that a search of the box from `low` to `high` may have missed."""
    cautions = []
    kinks = kinks_within(function, low, high)
    if kinks:
        message = f"{kinks[0]}: there may be minima at such places, which this search does not find"
        cautions.append(Caution("kinks", message))
    if found.curves:
        message = "many stationary points lie dense, as on a line or in a plain; some of them are listed"
        cautions.append(Caution("not_isolated", message))
    elif not found.complete:
        message = f"there are more stationary points than the {len(found.points):,} listed; search a smaller box"
        cautions.append(Caution("more_points", message))
    if found.unseen > MOST_UNSEEN or found.missing >= 1.0:
        share = min(100.0 * found.unseen, 99.0)
        message = (
            f"{share:.2g} % of the starts that ended in the box did so at a place where "
            "no other did: about that is the chance that one more finds a new place; more starts find more"
        )
        cautions.append(Caution("few_starts", message))
    if len(found.hidden):
        place = ", ".join(f"{coordinate:.6g}" for coordinate in found.hidden[0].tolist())
        message = (
            f"there may be a stationary point near ({place}), or anywhere along a direction in which the function is "
            "nearly flat there: rounding hides it, beside curvatures that are so much larger; it is not listed"
        )
        cautions.append(Caution("ill_conditioned", message))
    return cautions


def _problem(expression: Expression, problem: PointProblem) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": problem.kind, "message": problem.text}
    if problem.step is not None:
        entry |= {"column": problem.step.start + 1, "text": expression.quoted(problem.step)}
    return entry


def cautions_of(expression: Expression) -> list[Caution]:
    """Return warnings about names that look like typing errors, and about words whose derivative is 0 everywhere."""
    return [
        *[Caution("unusual_name", sentence) for sentence in expression.slips],
        *[
            Caution(
                "gradient_blocked", f"the derivative of {word} is taken as 0 everywhere, so nothing flows through it"
            )
            for word in expression.flat_words
        ],
    ]


def lost_at(problems: Mapping[int, Sequence[PointProblem]], lost: Array, key: str) -> list[Caution]:
    """Return a warning if a number of any point is not finite, with the reason at the first of these points.

    `lost` is true for these points. `key` is the key of the response that has an entry for each point.
    """
    places = np.flatnonzero(lost)
    if not len(places):
        return []
    first = int(places[0])
    # A kink or a jump has a value, and a slope by convention, so another problem of the point is the cause. Where there
    # is no other, the last one tells the slopes from both sides.
    known = problems.get(first, ())
    found = [problem for problem in known if problem.kind not in ("kink", "jump")] or known[-1:]
    why = f": {found[0].text}" if found else ""
    message = (
        f"at {len(places):,} of the points something is not finite, and null in lists; first at point {first}{why}"
    )
    return [Caution("non_finite", message, quantity=f"{key}[{first}]")]


def symbolic_of(expression: Expression, formulas: Formulas) -> dict[str, Any]:
    return {
        "latex": formulas.function,
        "gradient": [
            {"variable": name, **(_formula(formula) or {"latex": None, "expression": None})}
            for name, formula in zip(expression.variables, formulas.gradient, strict=True)
        ],
        "hessian": [[_formula(formula) for formula in row] for row in formulas.hessian],
    }


def _formula(formula: Printed | None) -> dict[str, str] | None:
    return None if formula is None else {"latex": formula.latex, "expression": formula.text}


def backpropagation_of(graph: ExpressionGraph, point: Array) -> tuple[dict[str, Any], bool]:
    """Return the computational graph at a point with all values and adjoints, and whether all are finite."""
    found = graph.run(point)
    nodes = zip(graph.vertices, _numbers(found.values), _numbers(found.adjoints), strict=True)
    edges = zip(graph.edges, _numbers(found.derivatives), _numbers(found.contributions), strict=True)
    entry = {
        "point": point,
        "output": graph.value,
        "nodes": [
            {
                "name": vertex.name,
                "operation": vertex.operation,
                "inputs": vertex.inputs,
                **({"text": vertex.text} if vertex.text else {}),
                "value": value,
                "adjoint": adjoint,
            }
            for vertex, value, adjoint in nodes
        ],
        "backward": [
            {"source": edge.source, "target": edge.target, "derivative": derivative, "contribution": contribution}
            for edge, derivative, contribution in edges
        ],
    }
    return entry, all(map(is_finite, found))


def _numbers(array: Array) -> list[float | None]:
    return [
        number if finite else None for number, finite in zip(array.tolist(), np.isfinite(array).tolist(), strict=True)
    ]


def valleys_of(valleys: Valleys) -> list[dict[str, Any]]:
    calculus = valleys.calculus
    if calculus is None or calculus.eigenvalues is None:
        return []
    return [
        {
            "point": valleys.points[place],
            "value": calculus.results.values[place],
            "classification": valleys.classes[place],
            "eigenvalues": calculus.eigenvalues[place],
            "runs": valleys.counts[place],
        }
        for place in range(len(valleys.points))
    ]


def extreme_of(points: Array, values: Array, place: np.intp) -> dict[str, Any] | None:
    value = values.reshape(-1)[place]
    return {"point": points[place], "value": value} if np.isfinite(value) else None


def optimum_of(line: Line) -> dict[str, Any]:
    """Return the best-fitting line as the response shows it, with the loss and its curvature there."""
    return {
        "slope": line.slope,
        "intercept": line.intercept,
        "value": line.loss,
        "residuals": line.residuals,
        "r_squared": line.r_squared,
        "hessian": line.hessian,
        "eigenvalues": line.eigenvalues,
        "condition_number": line.condition_number,
        "largest_stable_step": line.largest_stable_step,
    }


def closed_form_of(line: Line) -> dict[str, Any]:
    """Return the sums over the points from which the best-fitting line follows, and their formula."""
    return {
        "latex": LATEX,
        "points": len(line.residuals),
        "mean_x": line.mean_x,
        "mean_y": line.mean_y,
        "spread_x": line.spread_x,
        "spread_y": line.spread_y,
        "product": line.product,
    }
