"""Fields for requests about typed functions: expressions, points, boxes and starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

from schemas.common import ONE_OF_THEM, PartSchema, Trace, about
from schemas.components import Components, JSONSchema, list_of, schema_name
from schemas.fields import IntegerField, IntegersField, NumberField, SeedField, WordsField
from schemas.messages import PREVIEW, Message, plain, shown
from schemas.strict import ObjectField, StrictField, StrictSchema, object_schema, read_each
from schemas.tensor import TYPED, TensorField, decode, is_typed, typed_array
from service.engine.arrays import Array
from service.engine.descent.runs_plan import RECORDED, Bounds, GradientNoise
from service.engine.errors import InvalidRequest
from service.engine.functions.expression import LONGEST_EXPRESSION, LONGEST_NAME, MOST_VARIABLES, Expression, parse
from service.engine.functions.tokens import NAME, TAKEN

MOST_POINTS = 10_000
"""The number of points in a request, at most."""
MOST_DIRECTIONS = 360
MOST_STARTS = 50_000
MOST_SIDE = 1_000
"""The number of points along one edge of a grid, at most."""
MOST_LEVELS = 100
MOST_SEARCH_STARTS = 10_000


class ExpressionField(StrictField):
    """A typed expression, which is parsed; the request's `variables` say which names are variables."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Expression:
        if not isinstance(value, str):
            raise self.refuse('an expression as a string, such as "x^2 + sin(y)"', value)
        names = plain(data.get("variables")) if isinstance(data, Mapping) else None
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            names = None
        try:
            return parse(value, names)
        except InvalidRequest as error:
            details = [fault for fault in error.faults if fault.path[:1] == ("expression",)]
            if details:
                raise ValidationError([Message(fault.detail, fault.allowed) for fault in details]) from None
            return parse("0")  # the field of the variables reports their faults

    def json_schema(self, components: Components) -> JSONSchema:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_EXPRESSION}


class VariablesField(StrictField):
    """The names of variables, in the order of a point's numbers. With `count` there must be that many."""

    def __init__(self, *, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fewest, self.most = (count, count) if count else (1, MOST_VARIABLES)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        names = plain(value)
        if not isinstance(names, list) or not names:
            parts = re.split(r"[\s,]+", names.strip()) if isinstance(names, str) and len(names) <= PREVIEW else []
            instead = f"; write {shown(parts)}" if parts and all(parts) else ""
            raise self.refuse(f"a list of 1 to {MOST_VARIABLES} names", names, instead=instead)
        if not all(isinstance(name, str) for name in names):
            raise self.refuse("a list of names", names)
        try:
            return parse("0", names).variables
        except InvalidRequest as error:
            wrong = {fault.path[1]: [Message(fault.detail, fault.allowed)] for fault in error.faults}
            raise ValidationError(wrong) from None

    def json_schema(self, components: Components) -> JSONSchema:
        # A word of expressions cannot be a name, and no name occurs twice, also as the name of a Greek letter.
        one: JSONSchema = {
            "type": "string",
            "maxLength": LONGEST_NAME,
            "pattern": f"^({NAME})$",
            "not": {"enum": TAKEN},
            "description": "The name of a variable, which no word of expressions has.",
        }
        name = components.refer("VariableName", lambda: one)
        return list_of(name, minItems=self.fewest, maxItems=self.most, uniqueItems=True)


def points_schema(components: Components, *, most: int, fewest: int = 1, columns: int | None = None) -> JSONSchema:
    """Return the JSON Schema of `fewest` to `most` points, each a row of `columns` numbers.

    Without `columns`, rows have any length, and a point of one number may be that number.
    """
    number: JSONSchema = {"type": "number"}
    row = list_of(number, minItems=columns or 1, maxItems=columns or MOST_VARIABLES)
    # Two alternative kinds of lists would be stricter, but mypy refuses the Python clients generated for that.
    points = list_of(row if columns else {"anyOf": [number, row]}, minItems=fewest, maxItems=most)
    typed = typed_schema("TypedRows", components, 2) if columns else typed_schema("TypedPoints", components, 1, 2)
    return {"anyOf": [points, typed]}


def typed_schema(name: str, components: Components, *axes: int) -> JSONSchema:
    """Return the JSON Schema, under this name, of a typed array whose number of axes is one of `axes`."""

    def make() -> JSONSchema:
        whole = typed_array(components)
        whole["properties"]["shape"] |= {"minItems": min(axes), "maxItems": max(axes)}
        return whole

    return components.refer(name, make)


def refuse_names(field: StrictField, value: Any) -> None:
    """Raise `ValidationError` for points that are objects, such as {"x": 1}. Advise the order of their names, which is
    that of variables that are not listed."""
    named = value[0] if isinstance(value, list) and value else value
    if isinstance(named, Mapping) and not set(named) & set(TYPED):
        numbers = [named[name] for name in sorted(named)]
        known = numbers and all(type(number) in (int, float) for number in numbers)
        instead = f"; write [{shown(numbers)}], in the order of the variables" if known else ""
        raise field.refuse("a list of lists of numbers", value, instead=instead)


class PointsField(TensorField):
    """A tensor of points, one in each row."""

    def __init__(self, *, most: int, fewest: int = 1, columns: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most, self.fewest, self.columns = most, fewest, columns

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Array:
        refuse_names(self, value)
        return decode(value)

    def json_schema(self, components: Components) -> JSONSchema:
        return points_schema(components, most=self.most, fewest=self.fewest, columns=self.columns)


class PointField(TensorField):
    """A point of `length` numbers, as a tensor."""

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def json_schema(self, components: Components) -> JSONSchema:
        numbers = list_of({"type": "number"}, minItems=self.length, maxItems=self.length)
        return {"anyOf": [numbers, typed_schema("TypedPoint", components, 1)]}


class RangeField(StrictField):
    """A range: two numbers, the lower one first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = NumberField(minimum=-1e100, maximum=1e100)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[float, float]:
        ends = plain(value)
        if not isinstance(ends, list) or len(ends) != 2:
            raise self.refuse("two numbers, [low, high]", ends)
        low, high = read_each(enumerate(ends), self.number.deserialize).values()
        if not low < high:
            raise self.refuse("two numbers of which the second is larger, [low, high]", ends)
        return low, high

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(self.number.json_schema(components), minItems=2, maxItems=2)


class BoxField(StrictField):
    """A range for each variable, or one range for all of them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.range = RangeField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[tuple[float, float], ...]:
        given = plain(value)
        if not isinstance(given, list) or not 0 < len(given) <= MOST_VARIABLES:
            ranges = [given[name] for name in sorted(given)] if isinstance(given, dict) else []
            known = ranges and all(isinstance(each, list) for each in ranges)
            instead = f"; write {shown(ranges)}, in the order of the variables" if known else ""
            raise self.refuse("[low, high], or a list of such ranges, one for each variable", given, instead=instead)
        if not isinstance(given[0], list):
            return (self.range.deserialize(given),)
        return tuple(read_each(enumerate(given), self.range.deserialize).values())

    def json_schema(self, components: Components) -> JSONSchema:
        one = self.range.json_schema(components)
        return {"anyOf": [one, list_of(one, minItems=1, maxItems=MOST_VARIABLES)]}


class GridStartsSchema(StrictSchema):
    """Starts of descents on a regular grid."""

    box = BoxField(required=True, metadata=about("a range for each variable, or one for all"))
    resolution = IntegersField(
        minimum=1,
        longest=MOST_VARIABLES,
        single=True,
        load_default=(5,),
        metadata=about("starts along each edge: one number for all, or one for each variable (5)"),
    )


class RandomStartsSchema(StrictSchema):
    """Starts of descents drawn uniformly from a box."""

    box = BoxField(required=True, metadata=about("a range for each variable, or one for all"))
    count = IntegerField(minimum=1, maximum=MOST_STARTS, load_default=100, metadata=about("number of starts (100)"))
    seed = SeedField(load_default=0, metadata=about("seed of the random numbers (0)"))


class StartsLayoutSchema(StrictSchema):
    """Starts that the server makes: on a grid or at random."""

    bounds = ONE_OF_THEM

    grid = ObjectField(GridStartsSchema(), metadata=about("starts on a regular grid"))
    random = ObjectField(RandomStartsSchema(), metadata=about("random starts"))


class StartsField(StrictField):
    """The starts of descents: points as a tensor, or a layout that the server fills."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = StartsLayoutSchema()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Mapping) or is_typed(value):
            refuse_names(self, value)
            return decode(value)
        if len(value) != 1 and not set(value) - set(self.layout.load_fields):
            raise self.refuse("a list of points, or one of {'grid': …} and {'random': …}", plain(dict(value)))
        layout: dict[str, Any] = self.layout.load(value)
        return layout

    def json_schema(self, components: Components) -> JSONSchema:
        layout = components.refer(schema_name(self.layout), lambda: object_schema(self.layout, components))
        return {"anyOf": [*points_schema(components, most=MOST_STARTS)["anyOf"], layout]}


class GradientNoiseSchema(PartSchema):
    """Normal random numbers that are added to each gradient of a descent."""

    made = GradientNoise

    scale = NumberField(required=True, minimum=0.0, metadata=about("standard deviation of the random numbers"))
    seed = SeedField(load_default=0, metadata=about("seed of the random numbers (0)"))


class DescentStopSchema(PartSchema):
    """The conditions that end a run before its last step."""

    made = Bounds

    value_below = NumberField(metadata=about("the run stops when the value is below this"))
    gradient_norm_below = NumberField(minimum=0.0, metadata=about("the run stops when the gradient norm is below this"))
    value_above = NumberField(
        metadata=about(
            "the run diverged when the value is above this; by default 1e12 times that of the start, or 1e12"
        )
    )


class DescentTraceSchema(PartSchema):
    """The choice of the points of a path in the response, and of the quantities beside them."""

    made = Trace

    every = IntegerField(
        minimum=1,
        load_default=1,
        metadata=about("record the points after 0, every, 2 every, … steps, and the last one (1)"),
    )
    include = WordsField(
        RECORDED,
        load_default=frozenset(),
        metadata=about("more to record: gradients at the points; the state of the optimizer there"),
    )
