"""The views of `/v1/functions/…`: the calculus of typed functions, stationary points, descents, surfaces and fits."""

from __future__ import annotations

import math
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
    LoadedDescend,
    LoadedFit,
    LoadedFunctionGradient,
    LoadedStationary,
    LoadedSurface,
    StationaryRequest,
    SurfaceRequest,
)
from service.api.answers import NUMBER_BYTES, listed
from service.api.context import Context
from service.api.descents import DescendWork, RollingWork, basins
from service.api.endpoint import post
from service.api.examples import DESCEND, FIT, FUNCTION_GRADIENT, STATIONARY, SURFACE, Example
from service.api.function_answers import (
    backpropagation_of,
    cautions_of,
    closed_form_of,
    extreme_of,
    lost_at,
    missed_by,
    optimum_of,
    points_of,
    second_order_of,
    symbolic_of,
)
from service.api.streaming import collect, respond
from service.engine.arrays import Array, norms_of
from service.engine.cautions import Caution
from service.engine.descent.optimizers import optimizers
from service.engine.descent.runs_plan import RunsPlan
from service.engine.descent.valleys import Known
from service.engine.errors import Fault, InvalidRequest
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.backpropagation import GraphTask
from service.engine.functions.calculus import analyse
from service.engine.functions.compiled import BLOCK, FunctionTask
from service.engine.functions.expression import parse
from service.engine.functions.fit import fit_line
from service.engine.functions.formulas import FormulasTask
from service.engine.functions.stationary import search
from service.engine.functions.surface import Axis, grid_points, levels_for, sample

ANALYSING = 200
"""The number of NumPy calls to analyse a block of points."""
SEARCHING = 60
"""Evaluations of the function for each start of a search; the search's own work is about as much again."""
SEARCH_BLOCK = 1_024
"""Points that a search for stationary points processes together."""

blueprint = Blueprint("functions", __name__)


@post(
    blueprint,
    "/v1/functions/gradient",
    takes=FunctionGradientRequest(),
    gives=FunctionGradientResponse(),
    summary="The calculus of a typed function",
    tag="Functions",
    examples=FUNCTION_GRADIENT,
    mistake=Example("A parenthesis is left open.", expression="(x - 1", points=[[0]]),
)
def function_gradient(request: LoadedFunctionGradient, context: Context) -> dict[str, Any]:
    """Compute value, gradient, Hessian and class of a typed function at each point.

    The response also has the derivatives as formulas, and the graph of the first point with every value of the forward
    pass and every adjoint of the backward pass. `include` chooses among them.
    """
    expression, points, include = request["expression"], request["points"], request["include"]
    count, dimension = points.shape
    compiled = context.compiled
    function = compiled(FunctionTask(expression, min(count, BLOCK), 2 if "hessian" in include else 1))
    graph = compiled(GraphTask(expression)) if "graph" in include else None
    formulas = compiled(FormulasTask(expression)) if "symbolic" in include else None
    context.mark_compiled(function.program.nbytes)
    context.reserve(
        function.program,
        function.work_at(count),
        NUMBER_BYTES * count * (4 + dimension) * (4 + 2 * dimension),
        calls=ANALYSING * math.ceil(count / BLOCK),
        numbers=count * (1 + dimension) ** 2,
    )
    calculus = analyse(function, points, request["tolerance"], context.ticket)
    finite = bool(calculus.finite.all())
    answer: dict[str, Any] = {
        "variables": expression.variables,
        "tolerance": request["tolerance"],
        "points": points_of(expression, points, calculus, request.get("directions")),
    }
    if formulas is not None:
        answer["symbolic"] = symbolic_of(expression, formulas)
    if graph is not None:
        answer["graph"], whole = backpropagation_of(graph, points[0])
    warnings = [*cautions_of(expression), *lost_at(calculus.problems, ~calculus.finite, "points")]
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
    mistake=Example("The box ends before it begins.", **STATIONARY["double_well"] | {"box": [3, -3]}),
)
def function_stationary(request: LoadedStationary, context: Context) -> dict[str, Any]:
    """Find the points of a box where the gradient vanishes, with Newton's method from many starts.

    Points come lowest first, with all digits where the curvature does not vanish, and half of them where it does. A
    search finds the points that its starts come near; more `starts` find more. `warnings` name what it may have missed,
    each with a `code`: `kinks`, `not_isolated`, `more_points`, `few_starts` and `ill_conditioned`.
    """
    expression, box = request["expression"], request["box"]
    function = context.compiled(FunctionTask(expression, SEARCH_BLOCK, 2))
    context.mark_compiled(function.program.nbytes)
    low, high = box.T
    work = SEARCHING * function.work_at(request["starts"])
    calls = SEARCHING * len(function.program.nodes) * math.ceil(request["starts"] / SEARCH_BLOCK)
    context.reserve(function.program, work, 100 * request["starts"] * (1 + len(box)) ** 2, calls=calls)
    found = search(function, low, high, request["starts"], context.ticket)
    calculus = analyse(function, found.points, math.inf, context.ticket, found.flat)
    classes = calculus.classes or []
    warnings = [*cautions_of(expression), *missed_by(function, found, low, high)]
    entries = [
        {"point": point, "value": calculus.results.values[place], "norm": calculus.norms[place]}
        | second_order_of(place, calculus)
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
    summary="Runs of optimizers into valleys",
    tag="Functions",
    examples=DESCEND,
    mistake=Example(
        "A start has two numbers, and the function has one variable.",
        **DESCEND["double_well"] | {"starts": [[2, 1]]},
    ),
    streams=(DescentStepSchema, DescendSummary),
)
def function_descend(request: LoadedDescend, context: Context) -> dict[str, Any] | Response:
    """Run every optimizer from every start, and find the valley in which each run ends.

    All runs move at once, so a thousand cost little more than one. `reason` says for each run where it is and why: in a
    valley, on a saddle, still moving, on a kink, or diverged because the learning rate is above what the curvature
    allows. `basin` is the valley of a run that has not arrived, where that is certain. With `Accept:
    application/x-ndjson` or `text/event-stream` the points of each step are sent as they are computed, and everything
    else at the end.
    """
    if context.form != "json" and "state" in request["trace"].include:
        detail = "only documents have state; a stream has points, values and gradients"
        raise InvalidRequest([Fault(("trace", "include"), detail)])
    work = DescendWork(request, context)
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
    mistake=Example(
        "A surface has two variables, and the function has three.", **SURFACE["rosenbrock"] | {"expression": "x*y*z"}
    ),
)
def function_surface(request: LoadedSurface, context: Context) -> dict[str, Any]:
    """Compute values on a grid for drawing, slopes, and contour levels that suit the function.

    With `basins` an optimizer starts at every point of the grid, and the response has the valley at which each run
    arrives.
    """
    expression = request["expression"]
    axes, shape, points = _grid(request)
    function = context.compiled(FunctionTask(expression, min(len(points), BLOCK), 1))
    context.mark_compiled(function.program.nbytes)
    count, dimension = points.shape
    nbytes = NUMBER_BYTES * count * (4 + dimension)
    context.reserve(function.program, function.work_at(count), nbytes, numbers=count * (1 + dimension))
    values, gradients = sample(function, points, shape, context.ticket)
    levels = levels_for(values, request["levels"])
    finite = np.isfinite(values)
    answer: dict[str, Any] = {
        "variables": expression.variables,
        "axes": request["axes"],
        **{name: axis.numbers for name, axis in zip("xy", axes, strict=False)},
        "values": values,
        "minimum": extreme_of(points, values, np.where(finite, values, np.inf).argmin()),
        "maximum": extreme_of(points, values, np.where(finite, values, -np.inf).argmax()),
        "levels": levels.values,
        "spacing": levels.spacing,
    }
    complete = finite.all()
    if "gradients" in request["include"]:
        answer["gradients"] = gradients
        complete = complete and np.isfinite(gradients).all()
    if request["basins"]:
        answer["basins"] = basins(request, context, points, shape)
    warnings = cautions_of(expression)
    if not complete:
        lost = int((~finite).sum())
        where = (
            f"at {lost:,} of {values.size:,} points there is no finite value" if lost else "some slopes are infinite"
        )
        warnings.append(Caution("non_finite", f"{where}; they are null in lists", quantity="values"))
    context.timer.mark("compute")
    return answer | {"finite": bool(complete), "warnings": listed(warnings)}


@post(
    blueprint,
    "/v1/functions/fit",
    takes=FitRequest(),
    gives=FitResponse(),
    summary="A line through points: closed form and descent",
    tag="Functions",
    examples=FIT,
    mistake=Example("The points have three numbers each.", **FIT["three_points"] | {"points": [[1, 2, 3], [2, 3, 5]]}),
)
def function_fit(request: LoadedFit, context: Context) -> dict[str, Any]:
    """Fit a line by least squares: the loss as an expression of slope and intercept, its optimum, and descents to it.

    Other endpoints take the expression: its surface is the bowl of the descent. A descent has arrived when its slope,
    its intercept and its line at the points are next to those of the optimum.
    """
    line = fit_line(request["points"].tolist(), request["loss"], request["variables"])
    expression = parse(line.expression, request["variables"])
    optimum = np.array([line.slope, line.intercept])
    chosen = request.get("optimizers", (optimizers.select("sgd", learning_rate=0.5 * line.largest_stable_step),))
    plan = RunsPlan(
        chosen, request["start"][None], request["steps"], every=request["trace"].every, include=request["trace"].include
    )
    known = Known(optimum, partial(line.near, radius=plan.arrived))
    work = RollingWork(expression, plan, context, known=known)
    _, summary = collect(work, context)
    runs = summary["runs"]
    distances = without_float_warnings(norms_of, np.array([run["point"] for run in runs]) - optimum)
    for run, distance in zip(runs, distances.tolist(), strict=True):
        run["distance"] = distance
    context.timer.mark("compute")
    return {
        "variables": expression.variables,
        "expression": line.expression,
        "latex": context.compiled(FormulasTask(expression)).function,
        "optimum": optimum_of(line),
        "closed_form": closed_form_of(line),
        "status": summary["status"],
        "steps": summary["steps"],
        "runs": runs,
        "best": summary["best"],
        "finite": summary["finite"],
        "warnings": summary["warnings"],
    }


def _grid(request: LoadedSurface) -> tuple[tuple[Axis, ...], tuple[int, ...], Array]:
    """Return the axes of a surface, the shape of its array of values, and the points of the grid."""
    names = request["expression"].variables
    ranges = [request["x"], request["y"]] if "y" in request else [request["x"]]
    resolution = request["resolution"]
    counts = resolution * len(ranges) if len(resolution) == 1 else resolution
    axes = tuple(
        Axis(names.index(name), low, high, count)
        for name, (low, high), count in zip(request["axes"], ranges, counts, strict=True)
    )
    at = np.array([request["at"].get(name, 0.0) for name in names])
    return axes, tuple(axis.points for axis in reversed(axes)), grid_points(axes, at)
