"""`/v1/functions/…`: typed expressions, their calculus, and what descends on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from flask import Blueprint, Response

from schemas.function_answers import (
    DescendResponse,
    DescendSummary,
    DescentStepSchema,
    FitResponse,
    FunctionGradientResponse,
    StationaryResponse,
    SurfaceResponse,
)
from schemas.functions import (
    DescendRequest,
    FitRequest,
    FunctionGradientRequest,
    StationaryRequest,
    SurfaceRequest,
)
from schemas.tensor import Array
from service.api.answering import listed
from service.api.examples import DESCEND, FIT, FUNCTION_GRADIENT, STATIONARY, SURFACE
from service.api.operation import Context, post
from service.api.streaming import collect, respond
from service.engine.declarations import Selection
from service.engine.descent.arrival import Arrival
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.rolling import Bounds, Find, Noise, Rolling, RollingPlan, run_of
from service.engine.descent.update import Clip
from service.engine.descent.valleys import NOWHERE, UNTOLD, Known, Valleys
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import UNDEFINED, Calculus, along, analyse, norms_of
from service.engine.functions.expression import Expression, parse
from service.engine.functions.fit import LATEX, fit_line
from service.engine.functions.formulas import Formulas, formulas_of
from service.engine.functions.function import BLOCK, Function, FunctionTask, Problem, all_finite
from service.engine.functions.ranges import kinks_within
from service.engine.functions.stationary import Search, search
from service.engine.functions.surface import Axis, grid_points, levels_for, sample
from service.engine.functions.symbolic import Printed
from service.engine.graph.quiet import quietly
from service.engine.network.task import Caution

SEARCH_BLOCK = 1_024
"""Points that a search for stationary points looks at together."""
NUMBER_BYTES = 72
"""What a number of an answer takes as text while it is put together: 24, three times."""
MOST_UNSEEN = 0.02
"""Chance that one more start of a search finds a new point, above which the starts are few."""
DIVERGED = -2
"""In a map of basins: runs that diverged."""

blueprint = Blueprint("functions", __name__)


@post(
    blueprint,
    "/v1/functions/gradient",
    takes=FunctionGradientRequest(),
    gives=FunctionGradientResponse(),
    summary="The calculus of a typed function",
    tag="Functions",
    examples=FUNCTION_GRADIENT,
)
def function_gradient(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Type a function, get its value, gradient, Hessian and class at each point.

    The answer also has the derivatives as formulas, and the graph of the first point with every value on the way
    forward and every adjoint on the way back. `include` chooses among them.
    """
    expression, points, include = request["expression"], request["points"], request["include"]
    count, dimension = points.shape
    context.memory.need(context.loaded_bytes + NUMBER_BYTES * count * (4 + dimension) * (4 + 2 * dimension))
    function = compiler(expression, context)(min(count, BLOCK), 2 if "hessian" in include else 1)
    graph = _graph(expression, context) if "graph" in include else None
    formulas = _formulas(expression, context) if "symbolic" in include else None
    context.timer.mark("compile")
    context.timer.memory = function.program.nbytes
    calculus = analyse(function, points, request["tolerance"], context.deadline)
    finite = bool(calculus.finite.all())
    answer: dict[str, Any] = {
        "variables": expression.variables,
        "tolerance": request["tolerance"],
        "points": _points(expression, points, calculus, request.get("directions")),
    }
    if formulas is not None:
        answer["symbolic"] = _symbolic(expression, formulas)
    if graph is not None:
        answer["graph"], whole = _backpropagation(graph, points[0])
    warnings = [*_cautions(expression), *_lost(calculus.problems, ~calculus.finite)]
    if graph is not None and not whole:
        finite = False
        message = "some values, slopes or adjoints of the graph are not finite, and null"
        warnings.append(Caution("non_finite", message, quantity="graph"))
    context.timer.mark("compute")
    return answer | {"finite": finite, "warnings": listed(warnings)}


@post(
    blueprint,
    "/v1/functions/stationary",
    takes=StationaryRequest(),
    gives=StationaryResponse(),
    summary="Minima, maxima and saddles in a box",
    tag="Functions",
    examples=STATIONARY,
)
def function_stationary(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Find the places where the gradient vanishes, with Newton's method from many places of a box.

    Points are told lowest first, to the last digits where the curvature does not vanish, and to half of them where it
    does. A search from many places finds what it comes near; more `starts` find more. `warnings` admit what it may have
    missed, each with a `code`: `kinks`, `not_isolated`, `more_points`, `few_starts` and `ill_conditioned`.
    """
    expression, box = request["expression"], request["box"]
    function = compiler(expression, context)(SEARCH_BLOCK, 2)
    context.timer.mark("compile")
    context.timer.memory = function.program.nbytes
    context.memory.need(context.loaded_bytes + 100 * request["starts"] * (1 + len(box)) ** 2)
    low, high = box.T
    found = search(function, low, high, request["starts"], context.deadline)
    calculus = analyse(function, found.points, math.inf, context.deadline, found.flat)
    classes = calculus.classes or []
    warnings = [*_cautions(expression), *_missed(function, found, low, high)]
    entries = [
        {"point": point, "value": calculus.results.values[place], "norm": calculus.norms[place]}
        | _second_order(place, calculus)
        for place, point in enumerate(found.points)
    ]
    context.timer.mark("compute")
    return {
        "variables": expression.variables,
        "points": entries,
        "counts": {kind: classes.count(kind) for kind in dict.fromkeys(classes)},
        "starts": found.starts,
        "warnings": listed(warnings),
    }


@post(
    blueprint,
    "/v1/functions/descend",
    takes=DescendRequest(),
    gives=DescendResponse(),
    summary="Balls rolling into valleys",
    tag="Functions",
    examples=DESCEND,
    streams=(DescentStepSchema, DescendSummary),
)
def function_descend(request: dict[str, Any], context: Context) -> dict[str, Any] | Response:
    """Let every start go with every optimizer, and see in which valley each ends.

    All runs move at once, so a thousand cost little more than one. `reason` tells of each where it is and why: in a
    valley, on a saddle, still moving, on a kink, or diverged because the learning rate is above what the curvature
    allows; `basin` tells in which valley one is that has not arrived, where that is certain. With
    `Accept: application/x-ndjson` or `text/event-stream` places are sent step by step and everything else comes last.
    """
    if context.form != "json" and "state" in request["trace"]["include"]:
        detail = "state is told in documents; a stream tells places, values and gradients"
        raise InvalidRequest([Fault(("trace", "include"), detail)])
    work = DescentWork(request, context)
    if context.form != "json":
        return respond(work, context)
    _, summary = collect(work, context)
    context.timer.mark("compute")
    return dict(summary)


@post(
    blueprint,
    "/v1/functions/surface",
    takes=SurfaceRequest(),
    gives=SurfaceResponse(),
    summary="A function on a grid, with contour levels and basins",
    tag="Functions",
    examples=SURFACE,
)
def function_surface(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Values on a grid for drawing, slopes, contour levels that suit the function.

    With `basins` an optimizer is let go at every point of the grid; the answer tells which valley each run arrives at.
    """
    expression = request["expression"]
    axes, shape, points = _grid(request)
    context.memory.need(context.loaded_bytes + NUMBER_BYTES * len(points) * (4 + points.shape[1]))
    function = compiler(expression, context)(min(len(points), BLOCK), 1)
    context.timer.mark("compile")
    context.timer.memory = function.program.nbytes
    values, gradients = sample(function, points, shape, context.deadline)
    levels = levels_for(values, request["levels"])
    finite = np.isfinite(values)
    answer: dict[str, Any] = {
        "variables": expression.variables,
        "axes": request["axes"],
        **{name: axis.numbers for name, axis in zip("xy", axes, strict=False)},
        "values": values,
        "minimum": _extreme(points, values, np.where(finite, values, np.inf).argmin()),
        "maximum": _extreme(points, values, np.where(finite, values, -np.inf).argmax()),
        "levels": levels.values,
        "spacing": levels.spacing,
    }
    told = finite.all()
    if "gradients" in request["include"]:
        answer["gradients"] = gradients
        told = told and np.isfinite(gradients).all()
    if request["basins"]:
        answer["basins"] = _basins(request, context, points, shape)
    warnings = _cautions(expression)
    if not told:
        lost = int((~finite).sum())
        where = (
            f"at {lost:,} of {values.size:,} points there is no finite value" if lost else "some slopes are infinite"
        )
        warnings.append(Caution("non_finite", f"{where}; they are null in lists", quantity="values"))
    context.timer.mark("compute")
    return answer | {"finite": bool(told), "warnings": listed(warnings)}


@post(
    blueprint,
    "/v1/functions/fit",
    takes=FitRequest(),
    gives=FitResponse(),
    summary="A line through points: closed form and descent",
    tag="Functions",
    examples=FIT,
)
def function_fit(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Fit a line by least squares: the loss as an expression of slope and intercept, its optimum, and descents to it.

    The expression can be sent to the other endpoints: its surface is the bowl that the descent goes down. A descent has
    arrived where its slope, its intercept and its line at the points are next to those of the optimum.
    """
    line = fit_line(request["points"].tolist(), request["loss"], request["variables"])
    expression = parse(line.expression, request["variables"])
    optimum = np.array([line.slope, line.intercept])
    least, largest = line.eigenvalues
    largest_stable_step = 2.0 / largest
    chosen = request.get("optimizers", (optimizers.select("sgd", learning_rate=0.5 * largest_stable_step),))
    plan = RollingPlan(
        chosen,
        request["start"][None],
        request["steps"],
        every=request["trace"]["every"],
        include=request["trace"]["include"],
    )
    known = Known(optimum, partial(line.near, radius=plan.arrived))
    work = RollingWork(compiler(expression, context), plan, context, known=known)
    _, summary = collect(work, context)
    runs = summary["runs"]
    distances = quietly(norms_of, np.array([run["point"] for run in runs]) - optimum)
    for run, distance in zip(runs, distances.tolist(), strict=True):
        run["distance"] = distance
    context.timer.mark("compute")
    return {
        "variables": expression.variables,
        "expression": line.expression,
        "latex": _formulas(expression, context).function,
        "optimum": {
            "slope": line.slope,
            "intercept": line.intercept,
            "value": line.loss,
            "residuals": line.residuals,
            "r_squared": line.r_squared,
            "hessian": line.hessian,
            "eigenvalues": line.eigenvalues,
            "condition_number": largest / least,
            "largest_stable_step": largest_stable_step,
        },
        "closed_form": {
            "latex": LATEX,
            "points": len(request["points"]),
            "mean_x": line.mean_x,
            "mean_y": line.mean_y,
            "spread_x": line.spread_x,
            "spread_y": line.spread_y,
            "product": line.product,
        },
        "status": summary["status"],
        "steps": summary["steps"],
        "runs": runs,
        "best": summary["best"],
        "finite": summary["finite"],
        "warnings": summary["warnings"],
    }


def compiler(expression: Expression, context: Context) -> Find:
    """What compiles an expression, out of the memory of earlier requests."""
    runtime = context.runtime

    def find(points: int, order: int) -> Function:
        task = FunctionTask(expression, points, order)
        make = partial(Function, task, runtime.settings.limits, runtime.workspaces)
        found: Function = runtime.compiled.get(task.key, make)
        return found

    return find


def _graph(expression: Expression, context: Context) -> ExpressionGraph:
    key = ("graph", expression.text, expression.variables)
    found: ExpressionGraph = context.runtime.compiled.get(key, partial(ExpressionGraph, expression))
    return found


def _formulas(expression: Expression, context: Context) -> Formulas:
    key = ("formulas", expression.text, expression.variables)
    found: Formulas = context.runtime.compiled.get(key, partial(formulas_of, expression))
    return found


def _points(
    expression: Expression, points: Array, calculus: Calculus, directions: Array | None
) -> list[dict[str, Any]]:
    """An entry for each point: what is undefined at a point is left out, or null."""
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
            entry |= _second_order(place, calculus)
        problems = calculus.problems.get(place)
        if problems:
            entry["problems"] = [_problem(expression, problem) for problem in problems]
        entries.append(entry)
    return entries


def _second_order(place: int, calculus: Calculus) -> dict[str, Any]:
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


def _missed(function: Function, found: Search, low: Array, high: Array) -> list[Caution]:
    """What a search may have missed."""
    cautions = []
    kinks = kinks_within(function, low, high)
    if kinks:
        message = f"{kinks[0]}: there may be minima at such places, which this search does not find"
        cautions.append(Caution("kinks", message))
    if found.curves:
        message = "many stationary points lie dense, as on a line or in a plain; some of them are told"
        cautions.append(Caution("not_isolated", message))
    elif not found.complete:
        message = f"there are more stationary points than the {len(found.points):,} told; search a smaller box for all"
        cautions.append(Caution("more_points", message))
    if found.unseen > MOST_UNSEEN:
        message = (
            f"{100.0 * found.unseen:.2g} % of the starts that ended in the box did so at a place where "
            "no other did: about that is the chance that one more finds a new place; more starts find more"
        )
        cautions.append(Caution("few_starts", message))
    if len(found.hidden):
        place = ", ".join(f"{coordinate:.6g}" for coordinate in found.hidden[0].tolist())
        message = (
            f"there may be a stationary point near ({place}), or anywhere along a direction in which the function is "
            "nearly flat there: rounding hides it, beside curvatures that are so much larger; it is not told"
        )
        cautions.append(Caution("ill_conditioned", message))
    return cautions


def _problem(expression: Expression, problem: Problem) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": problem.kind, "message": problem.text}
    if problem.step is not None:
        told |= {"column": problem.step.start + 1, "text": expression.quoted(problem.step)}
    return told


def _cautions(expression: Expression) -> list[Caution]:
    """Names that are probably slips; words whose derivative is 0 everywhere, so that a descent does not see them."""
    words = [step.word for step in expression.steps if step.word in ("step", "sign", "floor", "ceil", "round")]
    told = [Caution("unusual_name", sentence) for sentence in expression.slips]
    return told + [
        Caution("gradient_blocked", f"the derivative of {word} is taken as 0 everywhere, so nothing flows through it")
        for word in dict.fromkeys(words)
    ]


def _lost(problems: Mapping[int, Sequence[Problem]], lost: Array) -> list[Caution]:
    places = np.flatnonzero(lost)
    if not len(places):
        return []
    first = int(places[0])
    # What has a value and a slope by convention is not the cause.
    found = [problem for problem in problems.get(first, ()) if problem.kind not in ("kink", "jump")]
    why = f": {found[0].text}" if found else ""
    message = (
        f"at {len(places):,} of the points something is not finite, and null in lists; first at point {first}{why}"
    )
    return [Caution("non_finite", message, quantity=f"points[{first}]")]


def _symbolic(expression: Expression, formulas: Formulas) -> dict[str, Any]:
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


def _backpropagation(graph: ExpressionGraph, point: Array) -> tuple[dict[str, Any], bool]:
    """The graph at a point, and whether all its numbers are finite."""
    found = graph.run(point)
    nodes = zip(graph.vertices, _numbers(found.values), _numbers(found.adjoints), strict=True)
    edges = zip(graph.edges, _numbers(found.derivatives), _numbers(found.contributions), strict=True)
    told = {
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
    return told, all(map(all_finite, found))


def _numbers(array: Array) -> list[float | None]:
    return [
        number if finite else None for number, finite in zip(array.tolist(), np.isfinite(array).tolist(), strict=True)
    ]


class RollingWork:
    """Balls on their way, in the words of the API."""

    following = True
    """Whether runs that have not arrived tell which basin they are in."""

    def __init__(
        self, find: Find, plan: RollingPlan, context: Context, beside: int = 0, known: Known | None = None
    ) -> None:
        """`beside` are bytes that the answer takes apart from the runs; `known` is the minimum, if it is known."""
        self.plan, self.context, self.beside, self.known = plan, context, beside, known
        self.streamed = context.form != "json"
        self.rolling = Rolling(find, plan, context.runtime.settings.limits, self._reserve)
        context.timer.mark("compile")
        context.timer.memory = self.rolling.memory
        self.reason = ""
        self.arrival: Arrival | None = None
        """Once the balls have come to their end."""

    def _reserve(self, nbytes: int) -> None:
        numbers = self.plan.starts.size * len(self.plan.optimizers) if self.streamed else 0
        self.context.memory.need(self.context.loaded_bytes + self.beside + 4 * nbytes + 2 * NUMBER_BYTES * numbers)

    @property
    def finished(self) -> bool:
        return self.arrival is not None and self.arrival.finished

    def advance(self) -> Mapping[str, Any] | None:
        if self.rolling.finished:
            if self.arrival is None:
                self.arrival = self._look()
            else:
                self.arrival.advance()
            return None
        snapshot = self.rolling.advance()
        if snapshot is None or not self.streamed:
            return None
        record = {"step": snapshot.step, "points": snapshot.points, "values": snapshot.values}
        return record | ({"gradients": snapshot.gradients} if "gradients" in self.plan.include else {})

    def cancel(self, reason: str) -> None:
        self.reason = reason
        self.rolling.cancel()
        if self.arrival is None:
            self.arrival = self._look()
        self.arrival.cancel()

    def _look(self) -> Arrival:
        return Arrival(self.rolling, self.known, self.following)

    def summary(self) -> Mapping[str, Any]:
        outcome = self._outcome
        status = "cancelled" if self.reason else "completed"
        warnings = []
        finite = outcome.finite
        if not finite:
            lost, kinks = outcome.status.count("diverged"), len(self.rolling.kinks)
            found = [f"{lost:,} of {self.plan.runs:,} runs diverged, some beyond what numbers hold"] if lost else []
            found += [f"{kinks:,} of {self.plan.runs:,} runs came to a kink, without a finite slope"] if kinks else []
            message = "; ".join([*found, "null in lists"])
            warnings.append(Caution("non_finite", message, quantity="runs"))
        if self.reason:
            warnings.append(Caution("cancelled", self.reason))
        if UNTOLD in outcome.valleys.of_run:
            warnings.append(Caution("not_isolated", "runs arrived at more stationary points than are told"))
        count = len(self.plan.starts)
        return {
            "variables": self.rolling.function.expression.variables,
            "status": status,
            "steps": [step for step in self.rolling.told.tolist() if step <= max(outcome.steps_done)],
            "best": outcome.best,
            "valleys": _valleys(outcome.valleys),
            "runs": [self._run(outcome, run, count) for run in range(self.plan.runs)],
            "finite": finite,
            "warnings": listed([*warnings, *_cautions(self.rolling.function.expression)]),
        }

    @property
    def _outcome(self) -> Arrival:
        assert self.arrival is not None
        return self.arrival

    def _run(self, outcome: Arrival, run: int, count: int) -> dict[str, Any]:
        valley, basin = outcome.valleys.of_run[run], outcome.valleys.basins[run]
        told: dict[str, Any] = {
            "optimizer": run // count,
            "start": run % count,
            "status": outcome.status[run],
            "reason": outcome.reasons[run],
            "steps_done": outcome.steps_done[run],
            "point": outcome.points[run],
            "value": outcome.values[run],
            "norm": outcome.norms[run],
            "valley": None if valley < 0 else valley,
            "basin": None if basin < 0 else basin,
        }
        return told | run_of(self.rolling, run) if self.plan.keep else told

    def close(self) -> None:
        self.rolling.close()


class DescentWork(RollingWork):
    """What `/v1/functions/descend` asks for."""

    def __init__(self, request: dict[str, Any], context: Context) -> None:
        noise = request.get("noise")
        plan = RollingPlan(
            request["optimizers"],
            request["starts"],
            request["steps"],
            request.get("schedule"),
            _clip(request),
            Bounds(**request["stop"]),
            None if noise is None else Noise(**noise),
            request["trace"]["every"],
            request["trace"]["include"],
            keep=context.form == "json",
            arrived=request["valley_radius"],
        )
        super().__init__(compiler(request["expression"], context), plan, context)


def _clip(request: dict[str, Any]) -> Clip | None:
    clip = request.get("clip")
    return None if clip is None else Clip(**clip)


def _valleys(valleys: Valleys) -> list[dict[str, Any]]:
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


def _grid(request: dict[str, Any]) -> tuple[tuple[Axis, ...], tuple[int, ...], Array]:
    """The axes of a surface, the shape of its values, and its points."""
    names = request["expression"].variables
    ranges = [request[key] for key in ("x", "y") if key in request]
    resolution = request["resolution"]
    counts = resolution * len(ranges) if len(resolution) == 1 else resolution
    axes = tuple(
        Axis(names.index(name), low, high, count)
        for name, (low, high), count in zip(request["axes"], ranges, counts, strict=True)
    )
    at = np.array([request.get("at", {}).get(name, 0.0) for name in names])
    return axes, tuple(axis.points for axis in reversed(axes)), grid_points(axes, at)


def _extreme(points: Array, values: Array, place: np.intp) -> dict[str, Any] | None:
    value = values.reshape(-1)[place]
    return {"point": points[place], "value": value} if np.isfinite(value) else None


_IN_SURFACE = {"optimizers": "optimizer", "trace": "resolution"}
"""What a surface calls what a descent has under another name."""


def _basins(request: dict[str, Any], context: Context, points: Array, shape: tuple[int, ...]) -> dict[str, Any]:
    optimizer: Selection[Optimizer] = request["optimizer"]
    plan = RollingPlan(
        (optimizer,),
        points,
        request["steps"],
        request.get("schedule"),
        _clip(request),
        every=request["steps"],
        keep=False,
        arrived=request["valley_radius"],
    )
    beside = NUMBER_BYTES * len(points) * (4 + points.shape[1])
    try:
        work = BasinsWork(compiler(request["expression"], context), plan, context, beside)
    except LimitExceeded as error:
        place = "resolution" if error.path[:1] == ("starts",) or not error.path else str(error.path[0])
        raise LimitExceeded(error.name, error.asked, error.allowed, (_IN_SURFACE.get(place, place),)) from None
    except InvalidRequest as error:
        faults = [replace(fault, path=(_IN_SURFACE.get(str(fault.path[0]), fault.path[0]),)) for fault in error.faults]
        raise InvalidRequest(faults) from None
    _, summary = collect(work, context)
    return {"grid": summary["grid"].reshape(shape), **{key: summary[key] for key in summary if key != "grid"}}


class BasinsWork(RollingWork):
    """Runs of which only the valleys are told that they have arrived at."""

    following = False

    def summary(self) -> Mapping[str, Any]:
        outcome = self._outcome
        grid = np.maximum(outcome.valleys.of_run, NOWHERE)
        grid[np.array(outcome.status) == "diverged"] = DIVERGED
        return {
            "status": "cancelled" if self.reason else "completed",
            "valleys": _valleys(outcome.valleys),
            "arrived": int((grid >= 0).sum()),
            "moving": int((grid == NOWHERE).sum()),
            "diverged": int((grid == DIVERGED).sum()),
            "grid": grid,
        }
