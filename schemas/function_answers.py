"""The responses of `/v1/functions/…`."""

from __future__ import annotations

from typing import Any

from marshmallow import fields

from schemas.common import STATUSES, AnswerWarningSchema, about, finite_field, warnings_field
from schemas.fields import WordField
from schemas.graph import GraphEdgeSchema, GraphNodeSchema
from schemas.strict import StrictSchema
from schemas.tensor import TensorAnswerField
from service.engine.functions.calculus import CLASSES
from service.engine.functions.fit import LATEX

RUN_STATUSES = STATUSES | {"stopped": f"{STATUSES['stopped']}, or there is no slope to follow, at a kink"}
CLASSIFICATION = ", ".join(CLASSES[:-1]) + f"; null: {CLASSES[-1]}, see problems"


def names() -> fields.List[Any]:
    return fields.List(fields.String(), required=True, metadata=about("in the order of the numbers of a point"))


class PointProblemSchema(StrictSchema):
    """The reason why a function has no value, or no certain derivative, at a point."""

    kind = fields.String(
        required=True,
        metadata=about(
            "domain: no real value; pole: an infinite one; vertical: an infinite slope; kink, jump: no slope, "
            "the response follows a convention; not_finite: beyond 64-bit numbers"
        ),
    )
    message = fields.String(required=True)
    column = fields.Integer(metadata=about("place in the expression, counted from 1"))
    text = fields.String(metadata=about("the part of the expression at that place"))


class FunctionPointSchema(StrictSchema):
    """Value, derivatives and classification of a function at one point."""

    point = TensorAnswerField(required=True)
    value = fields.Float(required=True, allow_none=True)
    partials = fields.Dict(
        keys=fields.String(), values=fields.Float(allow_none=True), metadata=about("gradient by variable")
    )
    gradient = TensorAnswerField(required=True)
    norm = fields.Float(required=True, allow_none=True, metadata=about("Euclidean length of the gradient"))
    direction = TensorAnswerField(
        allow_none=True, metadata=about("steepest ascent, of length 1; null if the gradient is 0")
    )
    directional_derivative = TensorAnswerField(metadata=about("derivative along each direction, per unit of length"))
    hessian = TensorAnswerField(metadata=about("second derivatives"))
    eigenvalues = TensorAnswerField(metadata=about("eigenvalues of the Hessian, ascending: the curvatures"))
    eigenvectors = TensorAnswerField(
        metadata=about("a row of length 1 for each eigenvalue, its largest component positive")
    )
    classification = fields.String(allow_none=True, metadata=about(CLASSIFICATION))
    condition_number = fields.Float(metadata=about("at minima and maxima: largest curvature over smallest"))
    largest_stable_step = fields.Float(
        metadata=about("at minima: 2/λmax; gradient descent needs a smaller learning rate")
    )
    problems = fields.List(
        fields.Nested(PointProblemSchema),
        metadata=about("places without a value or slope, and places that follow a convention"),
    )


class DerivativeFormulaSchema(StrictSchema):
    """A derivative as a formula, in LaTeX and as an expression."""

    latex = fields.String(required=True)
    expression = fields.String(required=True, metadata=about("the same formula in the language of expressions"))


class PartialDerivativeSchema(DerivativeFormulaSchema):
    """The derivative with respect to one variable as a formula; null if that is too long to be of use."""

    variable = fields.String(required=True)
    latex = fields.String(required=True, allow_none=True)
    expression = fields.String(required=True, allow_none=True)


class SymbolicFormulasSchema(StrictSchema):
    """The simplified formulas of a function and its derivatives."""

    latex = fields.String(required=True, metadata=about("the expression as the service read it"))
    gradient = fields.List(fields.Nested(PartialDerivativeSchema), required=True)
    hessian = fields.List(
        fields.List(fields.Nested(DerivativeFormulaSchema, allow_none=True)),
        required=True,
        metadata=about("null for a formula that is too long to be of use"),
    )


class ComputationGraphSchema(StrictSchema):
    """The computational graph of an expression at a point, with all values and adjoints."""

    point = TensorAnswerField(required=True)
    output = fields.String(required=True, metadata=about("the node that is the value of the expression"))
    nodes = fields.List(fields.Nested(GraphNodeSchema), required=True, metadata=about("in order of the forward pass"))
    backward = fields.List(
        fields.Nested(GraphEdgeSchema), required=True, metadata=about("in order of the backward pass")
    )


class FunctionGradientResponse(StrictSchema):
    """Value, gradient and curvature of a function at each point, formulas, and a graph."""

    variables = names()
    tolerance = fields.Float(required=True, metadata=about("gradient norms up to this were taken as 0"))
    points = fields.List(fields.Nested(FunctionPointSchema), required=True)
    symbolic = fields.Nested(SymbolicFormulasSchema)
    graph = fields.Nested(ComputationGraphSchema)
    finite = finite_field()
    warnings = warnings_field()


class StationaryPointSchema(StrictSchema):
    """A point where the gradient of a function is 0."""

    point = TensorAnswerField(required=True)
    value = fields.Float(required=True)
    norm = fields.Float(required=True, metadata=about("Euclidean length of the gradient: 0 up to rounding"))
    classification = fields.String(required=True, metadata=about(CLASSIFICATION))
    hessian = TensorAnswerField(required=True)
    eigenvalues = TensorAnswerField(required=True)
    eigenvectors = TensorAnswerField(required=True)
    condition_number = fields.Float()
    largest_stable_step = fields.Float()


class StationaryResponse(StrictSchema):
    """The stationary points that were found in a box, lowest first."""

    variables = names()
    points = fields.List(fields.Nested(StationaryPointSchema), required=True)
    counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("the number of points in each class"),
    )
    starts = fields.Integer(required=True, metadata=about("the number of starts of the search"))
    warnings = fields.List(
        fields.Nested(AnswerWarningSchema),
        required=True,
        metadata=about(
            "what the search may have missed, by code. kinks: minima without a gradient; not_isolated: more "
            "points of a curve or a plain; more_points: more than the response lists; few_starts: points that "
            "more starts would find; ill_conditioned: points that rounding hides"
        ),
    )


class ValleySchema(StrictSchema):
    """A point where runs ended, or towards which they still move."""

    point = TensorAnswerField(required=True, metadata=about("the stationary point itself, to full precision"))
    value = fields.Float(required=True)
    classification = fields.String(required=True, metadata=about("a run may also come to rest on a saddle"))
    eigenvalues = TensorAnswerField(required=True)
    runs = fields.Integer(required=True, metadata=about("number of runs that arrived there; 0: some are in its basin"))


class DescentRunSummarySchema(StrictSchema):
    """The end of the run of one optimizer from one start."""

    optimizer = fields.Integer(required=True, metadata=about("its index in the request"))
    start = fields.Integer(required=True, metadata=about("its index among the starts"))
    status = WordField(
        list(RUN_STATUSES),
        "ComputationStatus",
        required=True,
        metadata=about("; ".join(f"{name}: {meaning}" for name, meaning in RUN_STATUSES.items())),
    )
    reason = fields.String(required=True, metadata=about("its end and the reason, in words and numbers"))
    steps_done = fields.Integer(required=True)
    point = TensorAnswerField(required=True, metadata=about("its last point"))
    value = fields.Float(required=True, allow_none=True)
    norm = fields.Float(required=True, allow_none=True, metadata=about("length of the gradient at its last point"))
    valley = fields.Integer(required=True, allow_none=True, metadata=about("valley of its arrival; null for none"))
    basin = fields.Integer(
        required=True,
        allow_none=True,
        metadata=about(
            "the minimum among the valleys to which steepest descent leads from its last point, whether it "
            "has arrived or not (for runs that climb, the maximum to which steepest ascent leads); null if "
            "that is not certain"
        ),
    )


class DescentRunSchema(DescentRunSummarySchema):
    """The run of one optimizer from one start: its end, and its path with an entry for each of `steps`."""

    path = TensorAnswerField(required=True)
    values = TensorAnswerField(required=True)
    gradients = TensorAnswerField()
    state = fields.Dict(
        keys=fields.String(),
        values=TensorAnswerField(),
        metadata=about("the state of the optimizer at the recorded steps; searches have none"),
    )


class DescendSummary(StrictSchema):
    """The last line of a streamed descent: how all runs ended."""

    variables = names()
    status = fields.String(required=True, metadata=about("completed; or cancelled, with the runs when time ran out"))
    steps = fields.List(fields.Integer(), required=True, metadata=about("steps of the recorded points; 0 is the start"))
    best = fields.Integer(required=True, allow_none=True, metadata=about("index of the run that ended lowest"))
    valleys = fields.List(fields.Nested(ValleySchema), required=True, metadata=about("lowest first"))
    runs = fields.List(
        fields.Nested(DescentRunSummarySchema), required=True, metadata=about("by optimizer, then by start")
    )
    finite = finite_field()
    warnings = warnings_field()


class DescendResponse(DescendSummary):
    """All runs with their paths, and the valleys where they ended. A stream sends the paths step by step instead."""

    runs = fields.List(fields.Nested(DescentRunSchema), required=True, metadata=about("by optimizer, then by start"))


class DescentStepSchema(StrictSchema):
    """One line of a streamed descent: the points of all runs after a number of steps."""

    step = fields.Integer(required=True, metadata=about("number of steps so far"))
    points = TensorAnswerField(required=True, metadata=about("the point of each run"))
    values = TensorAnswerField(required=True)
    gradients = TensorAnswerField(metadata=about("present if the trace includes them"))


class BasinMapSchema(StrictSchema):
    """For each point of a grid, the valley at which a run from there arrives."""

    grid = TensorAnswerField(required=True, metadata=about("indices of valleys; -1: no valley, -2: diverged"))
    valleys = fields.List(fields.Nested(ValleySchema), required=True, metadata=about("lowest first"))
    status = fields.String(required=True, metadata=about("completed; or cancelled, if time ran out"))
    arrived = fields.Integer(required=True)
    moving = fields.Integer(required=True, metadata=about("the number of runs that arrived at no valley"))
    diverged = fields.Integer(required=True)


class SurfaceExtremeSchema(StrictSchema):
    """The least or largest value of a function on a grid, and its place."""

    point = TensorAnswerField(required=True)
    value = fields.Float(required=True)


class SurfaceResponse(StrictSchema):
    """The values of a function on a grid, with contour levels."""

    variables = names()
    axes = fields.List(fields.String(), required=True, metadata=about("the variables along the axes"))
    x = TensorAnswerField(required=True)
    y = TensorAnswerField()
    values = TensorAnswerField(required=True, metadata=about("a row for each y, with a number for each x"))
    gradients = TensorAnswerField(metadata=about("of the same shape, with a derivative for each variable"))
    minimum = fields.Nested(SurfaceExtremeSchema, allow_none=True, metadata=about("on the grid; null: none is finite"))
    maximum = fields.Nested(SurfaceExtremeSchema, allow_none=True)
    levels = fields.List(fields.Float(), required=True, metadata=about("values for contours"))
    spacing = fields.String(required=True, metadata=about("spacing of the levels: linear or logarithmic"))
    basins = fields.Nested(BasinMapSchema)
    finite = finite_field()
    warnings = warnings_field()


class FitOptimumSchema(StrictSchema):
    """The best-fitting line, and the curvature of the loss there."""

    slope = fields.Float(required=True)
    intercept = fields.Float(required=True)
    value = fields.Float(required=True, metadata=about("the loss there"))
    residuals = TensorAnswerField(required=True, metadata=about("y minus the line at each point"))
    r_squared = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("share of the variance of y that the line explains; null if y does not vary"),
    )
    hessian = TensorAnswerField(required=True)
    eigenvalues = TensorAnswerField(required=True)
    condition_number = fields.Float(required=True, allow_none=True, metadata=about("large: gradient descent is slow"))
    largest_stable_step = fields.Float(required=True)


class FitClosedFormSchema(StrictSchema):
    """The sums over the points from which the best-fitting line follows."""

    latex = fields.String(required=True, metadata=about(LATEX))
    points = fields.Integer(required=True)
    mean_x = fields.Float(required=True)
    mean_y = fields.Float(required=True)
    spread_x = fields.Float(required=True, metadata=about("sum of (x - mean_x)^2"))
    spread_y = fields.Float(required=True, metadata=about("sum of (y - mean_y)^2"))
    product = fields.Float(required=True, metadata=about("sum of (x - mean_x)(y - mean_y)"))


class FitRunSchema(DescentRunSchema):
    """One descent to the best-fitting line, and its distance from that at its end."""

    distance = fields.Float(required=True, allow_none=True, metadata=about("distance from its end to the optimum"))


class FitResponse(StrictSchema):
    """A line fitted to points: its loss as an expression, the optimum in closed form, and descents to it."""

    variables = names()
    expression = fields.String(
        required=True, metadata=about("the loss of slope and intercept; other endpoints take it")
    )
    latex = fields.String(required=True)
    optimum = fields.Nested(FitOptimumSchema, required=True)
    closed_form = fields.Nested(FitClosedFormSchema, required=True)
    status = fields.String(required=True, metadata=about("of the descents: completed; or cancelled, if time ran out"))
    steps = fields.List(fields.Integer(), required=True)
    runs = fields.List(fields.Nested(FitRunSchema), required=True, metadata=about("a descent for each optimizer"))
    best = fields.Integer(required=True, allow_none=True)
    finite = finite_field()
    warnings = warnings_field()
