"""The requests of `/v1/functions/…`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError

from schemas.common import MOST_STEPS, ChoicesField, GradientClipSchema, Trace, about
from schemas.declared import ChoiceField
from schemas.fields import (
    FlagField,
    IntegerField,
    IntegersField,
    NumberField,
    NumbersByNameField,
    WordField,
    WordsField,
)
from schemas.function_fields import (
    MOST_DIRECTIONS,
    MOST_LEVELS,
    MOST_POINTS,
    MOST_SEARCH_STARTS,
    MOST_SIDE,
    MOST_STARTS,
    BoxField,
    DescentStopSchema,
    DescentTraceSchema,
    ExpressionField,
    GradientNoiseSchema,
    PointField,
    PointsField,
    RangeField,
    StartsField,
    VariablesField,
)
from schemas.messages import Message, hint
from schemas.requests import R, RequestSchema
from schemas.strict import ObjectField
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.runs_plan import ARRIVED, Bounds, GradientNoise
from service.engine.descent.scheduler import Schedule
from service.engine.descent.schedules import schedules
from service.engine.descent.update import Clip
from service.engine.errors import InvalidRequest
from service.engine.functions.calculus import STATIONARY
from service.engine.functions.expression import LONGEST_EXPRESSION, Expression, parse
from service.engine.functions.fit import LOSSES
from service.engine.functions.slips import joined

OF_NETWORKS: Mapping[str, str] = dict.fromkeys(("network", "targets", "loss", "parameters"), "/v1/gradients")
"""Keys of requests about a network."""
OF_DESCENTS: Mapping[str, str] = dict.fromkeys(
    ("starts", "optimizer", "optimizers", "learning_rate", "steps", "noise", "stop", "trace"), "/v1/functions/descend"
)
"""Keys of requests that descend."""
LEARNING_RATE_PLACE: Mapping[str, str] = {"learning_rate": "optimizers", "optimizer": "optimizers"}


class LoadedFunction(TypedDict):
    """A validated request about a typed function: the base of the other `Loaded…` types here."""

    expression: Expression
    variables: NotRequired[tuple[str, ...]]


class LoadedFunctionGradient(LoadedFunction):
    """A validated request of `/v1/functions/gradient`."""

    points: Array
    """(points, variables)"""
    directions: NotRequired[Array]
    """(directions, variables)"""
    tolerance: float
    include: Collection[str]


class LoadedStationary(LoadedFunction):
    """A validated request of `/v1/functions/stationary`."""

    box: Array
    """(variables, 2): the lower and the upper end."""
    starts: int


class LoadedRoll(LoadedFunction):
    """The common keys of validated requests that run optimizers on a function."""

    schedule: NotRequired[Selection[Schedule]]
    clip: NotRequired[Clip]
    valley_radius: float
    steps: int


class LoadedDescend(LoadedRoll):
    """A validated request of `/v1/functions/descend`."""

    starts: Array
    """(starts, variables)"""
    optimizers: tuple[Selection[Optimizer], ...]
    noise: NotRequired[GradientNoise]
    stop: Bounds
    trace: Trace


class LoadedSurface(LoadedRoll):
    """A validated request of `/v1/functions/surface`."""

    x: tuple[float, float]
    y: NotRequired[tuple[float, float]]
    resolution: tuple[int, ...]
    axes: tuple[str, ...]
    at: dict[str, float]
    include: frozenset[str]
    levels: int
    basins: bool
    optimizer: NotRequired[Selection[Optimizer]]
    """Present together with basins."""


class LoadedFit(TypedDict):
    """A validated request of `/v1/functions/fit`."""

    points: Array
    """(points, 2)"""
    loss: str
    variables: tuple[str, str]
    start: Array
    """(2,)"""
    optimizers: NotRequired[tuple[Selection[Optimizer], ...]]
    steps: int
    trace: Trace


class FunctionRequest(RequestSchema[R]):
    """The schema of what all requests about a typed function have in common."""

    expression = ExpressionField(
        required=True,
        metadata=about(
            "such as `(1 - x)^2 + 100*(y - x^2)^2`: + - * / ^ or **, products like 2x and 2(x + 1), |x|, pi, e and the "
            f"words of `/v1/functions/vocabulary`; at most {LONGEST_EXPRESSION} characters"
        ),
    )
    variables = VariablesField(metadata=about("in the order of a point's numbers; by default all names, sorted"))

    def rows(self, loaded: dict[str, Any], key: str, most: int) -> Array:
        """Return the points under a key as an array (points, variables). Raise `ValidationError`."""
        names = loaded["expression"].variables
        array: Array = loaded[key]
        if array.ndim == 1 and len(names) == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != len(names):
            one = "one number" if len(names) == 1 else f"{len(names)} numbers"
            each = f"[{', '.join(names)}]" if names else "[]: the expression has no variables; list some in 'variables'"
            came = f"a tensor of shape {list(array.shape)}"
            product = joined(names, array.shape[-1]) if array.ndim else ""
            slip = "".join(f"; {sentence}" for sentence in (*loaded["expression"].slips, product)[:1] if sentence)
            raise ValidationError({key: [Message(f"takes a list of lists of {one} each, {each}; got {came}{slip}")]})
        if len(array) > most:
            raise ValidationError({key: [Message(f"takes at most {most:,} of them; got {len(array):,}")]})
        return np.ascontiguousarray(array, np.float64)

    def ranges(self, loaded: dict[str, Any], box: tuple[tuple[float, float], ...], *path: str) -> Array:
        """Return a box as an array (variables, 2) of lower and upper ends. Raise `ValidationError`.

        One range in the box stands for all variables; `path` is the place of the box in the request.
        """
        names = loaded["expression"].variables
        if len(box) not in (1, len(names)):
            raise nested(path, f"takes one range or {len(names)}, for {', '.join(names)}; got {len(box)}")
        return np.array(box if len(box) == len(names) else box * len(names), np.float64).reshape(-1, 2)

    def need_variables(self, loaded: dict[str, Any]) -> None:
        """Raise `ValidationError` if the expression has no variable."""
        if not loaded["expression"].variables:
            detail = "has no variables; use some, such as x, or list them in 'variables'"
            raise ValidationError({"expression": [Message(detail)]})


def nested(path: tuple[str, ...], detail: str) -> ValidationError:
    """Return an error with this message at the place `path` in the request."""
    message: Any = [Message(detail)]
    for key in reversed(path):
        message = {key: message}
    return ValidationError(message)


class FunctionGradientRequest(FunctionRequest[LoadedFunctionGradient]):
    """A request for values and derivatives of a function at points."""

    elsewhere: Mapping[str, str] = {**OF_NETWORKS, **OF_DESCENTS}
    fresh = frozenset(("points", "directions"))

    points = PointsField(
        most=MOST_POINTS,
        required=True,
        metadata=about(f"lists of numbers in the order of the variables, at most {MOST_POINTS:,}"),
    )
    directions = PointsField(
        most=MOST_DIRECTIONS,
        metadata=about(
            f"vectors of any length but 0; the derivative along each is per unit of length; at most {MOST_DIRECTIONS}"
        ),
    )
    tolerance = NumberField(
        minimum=0.0,
        load_default=STATIONARY,
        metadata=about("gradient norms up to this, or up to the effect of rounding the point, count as 0 (1e-8)"),
    )
    include = WordsField(
        ("hessian", "symbolic", "graph"),
        load_default=("hessian", "symbolic", "graph"),
        metadata=about(
            "parts of the response beside value and gradient, by default all: second derivatives and what "
            "follows from them; formulas; the graph of the first point"
        ),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert points and directions to arrays, and refuse directions of length 0."""
        self.need_variables(loaded)
        loaded["points"] = self.rows(loaded, "points", MOST_POINTS)
        if "directions" in loaded:
            directions = loaded["directions"] = self.rows(loaded, "directions", MOST_DIRECTIONS)
            for place in np.flatnonzero(~directions.any(-1)).tolist():
                raise ValidationError({"directions": {place: [Message("has length 0, so it points nowhere")]}})
        return loaded


class StationaryRequest(FunctionRequest[LoadedStationary]):
    """A request for the stationary points of a function in a box."""

    elsewhere: Mapping[str, str] = {**OF_NETWORKS, **OF_DESCENTS}
    box = BoxField(required=True, metadata=about("[low, high] for each variable, or one for all"))
    starts = IntegerField(
        minimum=1,
        maximum=MOST_SEARCH_STARTS,
        load_default=1024,
        metadata=about("number of starts of the search, roughly (1024)"),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert the box to an array."""
        self.need_variables(loaded)
        return loaded | {"box": self.ranges(loaded, loaded["box"], "box")}


class RollRequest(FunctionRequest[R]):
    """The schema of what requests have in common that run optimizers on a function."""

    schedule = ChoiceField(schedules, metadata=about("how the learning rate changes; by default it does not"))
    clip = ObjectField(GradientClipSchema(), metadata=about("clipping of the gradients"))
    valley_radius = NumberField(
        minimum=0.0,
        load_default=ARRIVED,
        metadata=about(
            "distance from a stationary point at which a run has arrived: in all, times 1 plus the point's "
            "distance from 0, and for each variable, times 1 plus its size (1e-3)"
        ),
    )


class DescendRequest(RollRequest[LoadedDescend]):
    """A request for descents on a function, from given starts with given optimizers."""

    fresh = frozenset(("starts",))
    elsewhere = MappingProxyType(
        {
            **OF_NETWORKS,
            **LEARNING_RATE_PLACE,
            "every": "trace",
            "seed": "noise",
            **dict.fromkeys(DescentStopSchema().load_fields, "stop"),
        }
    )

    starts = StartsField(required=True, metadata=about("points, or a layout"))
    optimizers = ChoicesField(optimizers, required=True, metadata=about("every start runs once with each of them"))
    steps = IntegerField(minimum=1, maximum=MOST_STEPS, load_default=100, metadata=about("steps of each run (100)"))
    noise = ObjectField(GradientNoiseSchema(), metadata=about("random numbers added to gradients; none by default"))
    stop = ObjectField(
        DescentStopSchema(),
        load_default=partial(DescentStopSchema().load, {}),
        metadata=about("conditions that end a run early"),
    )
    trace = ObjectField(
        DescentTraceSchema(),
        load_default=partial(DescentTraceSchema().load, {}),
        metadata=about("the part of the path to record"),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert the starts to an array (starts, variables); a layout is filled here."""
        self.need_variables(loaded)
        starts = loaded["starts"]
        if isinstance(starts, dict):
            loaded["starts"] = self._laid_out(loaded, starts)
        else:
            loaded["starts"] = self.rows(loaded, "starts", MOST_STARTS)
        return loaded

    def _laid_out(self, loaded: dict[str, Any], layout: dict[str, Any]) -> Array:
        ((kind, how),) = layout.items()
        low, high = self.ranges(loaded, how["box"], "starts", kind, "box").T
        if kind == "random":
            generator = np.random.Generator(np.random.PCG64(how["seed"]))
            drawn: Array = low + (high - low) * generator.random((how["count"], len(low)))
            return drawn
        counts = how["resolution"]
        if len(counts) not in (1, len(low)):
            raise nested(("starts", kind, "resolution"), f"takes one integer or {len(low)}; got {len(counts)}")
        counts = counts * len(low) if len(counts) == 1 else counts
        total = 1
        for count in counts:
            total *= count
        if total > MOST_STARTS:
            raise nested(("starts", kind, "resolution"), f"makes {total:,} starts; at most {MOST_STARTS:,} are taken")
        axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, counts, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(low))


class SurfaceRequest(RollRequest[LoadedSurface]):
    """A request for a function's values on a grid of one or two axes."""

    elsewhere: Mapping[str, str] = {**OF_NETWORKS, "learning_rate": "optimizer", "optimizers": "optimizer"}

    x = RangeField(required=True, metadata=about("[low, high] of the first axis"))
    y = RangeField(metadata=about("[low, high] of the second axis; without it the response is a curve"))
    resolution = IntegersField(
        minimum=2,
        longest=2,
        single=True,
        load_default=(100,),
        metadata=about(f"points along the axes: one number for both, or one for each, at most {MOST_SIDE} (100)"),
    )
    axes = VariablesField(metadata=about("variables of the axes; by default the first ones"))
    at = NumbersByNameField(metadata=about("the numbers of all other variables, by name"))
    include = WordsField(("gradients",), load_default=frozenset(), metadata=about("more parts of the response"))
    levels = IntegerField(
        minimum=0, maximum=MOST_LEVELS, load_default=12, metadata=about("contour levels, roughly (12)")
    )
    basins = FlagField(load_default=False, metadata=about("start a run at each point and find the valley of its end"))
    optimizer = ChoiceField(optimizers, metadata=about("optimizer of those runs; required with basins"))
    steps = IntegerField(minimum=1, maximum=MOST_STEPS, load_default=300, metadata=about("steps of those runs (300)"))

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check axes, resolution and the values of all other variables against the expression."""
        self.need_variables(loaded)
        names = loaded["expression"].variables
        wanted = 2 if "y" in loaded else 1
        axes = loaded.get("axes", names[:wanted])
        if len(axes) != wanted:
            given = "x and y have ranges" if wanted == 2 else "only x has a range"
            detail = f"takes as many names as there are ranges: {given}; got {len(axes)}"
            if "axes" not in loaded:
                detail = f"is a second axis, but the expression has one variable, {names[0]}; leave it out"
            raise ValidationError({"axes" if "axes" in loaded else "y": [Message(detail)]})
        known = dict(zip(axes, axes, strict=True))
        for name in axes:
            if name not in names:
                raise nested(("axes",), f"{name!r} is no variable of the expression{hint(name, names)}")
        at = self._by_variable(loaded)
        wrong: dict[str, Any] = {
            name: [Message(f"is no other variable of the expression{hint(name, names)}", names)]
            for name in at
            if name not in names or name in known
        }
        missing = [name for name in names if name not in known and name not in at]
        if missing:
            raise nested(("at",), f"must give a number for {', '.join(missing)}, which the axes leave open")
        if wrong:
            raise ValidationError({"at": wrong})
        if len(loaded["resolution"]) not in (1, wanted):
            raise nested(("resolution",), f"takes one integer or one for each of {wanted} axes")
        if max(loaded["resolution"]) > MOST_SIDE:
            raise nested(("resolution",), f"takes at most {MOST_SIDE} points along an axis")
        if loaded["basins"] and "optimizer" not in loaded:
            raise ValidationError({"optimizer": [Message("is required with basins")]})
        return loaded | {"axes": axes, "at": at}

    @staticmethod
    def _by_variable(loaded: dict[str, Any]) -> dict[str, float]:
        """Return the numbers in `at` by variable; a Greek letter counts as its Latin name, as in expressions."""
        numbers: dict[str, float] = {}
        for name, number in loaded.get("at", {}).items():
            try:
                (name,) = parse("0", [name]).variables
            except InvalidRequest as error:
                raise nested(("at", name), error.faults[0].detail) from None
            numbers[name] = number
        return numbers


class FitRequest(RequestSchema[LoadedFit]):
    """A request to fit a line to points."""

    fresh = frozenset(("points", "start"))
    elsewhere = MappingProxyType(
        {**LEARNING_RATE_PLACE, "y": "into 'points', a list of pairs such as [[1, 2], [3, 5]]"}
    )

    points = PointsField(
        fewest=2, most=MOST_POINTS, columns=2, required=True, metadata=about(f"lists [x, y], at most {MOST_POINTS:,}")
    )
    loss = WordField(LOSSES, load_default=LOSSES[0], metadata=about("the loss"))
    variables = VariablesField(
        count=2, load_default=("slope", "intercept"), metadata=about("names of slope and intercept in the expression")
    )
    start = PointField(
        2, metadata={"description": "[slope, intercept] at the start of the descents ([0, 0])", "default": [0, 0]}
    )
    optimizers = ChoicesField(
        optimizers,
        metadata=about(
            "optimizers, each of which descends from the start; by default gradient descent at half its "
            "largest stable step"
        ),
    )
    steps = IntegerField(minimum=1, maximum=MOST_STEPS, load_default=100, metadata=about("steps of each descent (100)"))
    trace = ObjectField(
        DescentTraceSchema(),
        load_default=partial(DescentTraceSchema().load, {}),
        metadata=about("the part of the path to record"),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check points and start, and convert them to float64."""
        points = loaded["points"]
        if points.ndim != 2 or points.shape[1] != 2:
            detail = f"takes a list of points [x, y]; got a tensor of shape {list(points.shape)}"
            raise ValidationError({"points": [Message(detail)]})
        if not 2 <= len(points) <= MOST_POINTS:
            raise ValidationError({"points": [Message(f"takes 2 to {MOST_POINTS:,} points; got {len(points):,}")]})
        if len(loaded["variables"]) != 2:
            raise ValidationError({"variables": [Message("takes two names: of the slope and of the intercept")]})
        start = loaded.get("start", np.zeros(2))
        if start.shape != (2,):
            raise ValidationError({"start": [Message("takes two numbers, [slope, intercept]")]})
        return loaded | {"start": start.astype(np.float64), "points": points.astype(np.float64)}
