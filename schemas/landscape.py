"""The request and the response of `/v1/landscape`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired

from marshmallow import ValidationError, fields, validates_schema

from schemas.common import TO_ONE_NUMBER, PartSchema, about, finite_field, language_field, warnings_field
from schemas.components import Components, JSONSchema, list_of
from schemas.evaluation import WITH_A_LOSS, LoadedNetwork, LossRequest, Tree
from schemas.fields import FlagField, IntegerField, NumbersField, SeedField, WordField, WordsField
from schemas.function_fields import MOST_LEVELS, RangeField
from schemas.messages import Message, plain
from schemas.strict import ObjectField, StrictField, StrictSchema, read_each
from schemas.tensor import ParametersAnswerField, ParametersField, TensorAnswerField, tree_schema
from service.engine.errors import MOST_ERRORS
from service.engine.insight.directions import DIRECTIONS, NORMALIZATIONS, AskedAxis
from service.engine.insight.landscape import MOST_INDEX, MOST_SIDE
from service.engine.insight.selection import LONGEST_SELECTOR
from service.engine.insight.spectrum import AskedSpectrum

LARGEST_PLACE = 1e100
"""The largest number along an axis."""
MOST_TRAJECTORY = 2_000
"""The number of points of a trajectory, at most."""
MOST_PRODUCTS = 1_000
"""The number of products with the Hessian in one search, at most."""
OF_AXES = ("direction", "range", "resolution", "values", "normalize", "index", "axes")
OF_SPECTRA = ("largest", "smallest", "density", "probes")
OPTIONS_OF: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "random": frozenset(("normalize", "seed")),
        "gradient": frozenset(),
        "hessian": frozenset(("index",)),
        "trajectory": frozenset(("index",)),
    }
)
"""The options of a direction beside the places along it."""


class SelectorField(StrictField):
    """The name of one number among the parameters, such as `output.kernel[0][0]`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_SELECTOR:
            raise self.refuse("the name of one parameter, such as 'output.kernel[0][0]'", value)
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_SELECTOR}


class PlacesField(NumbersField):
    """The places along an axis at which to compute the loss: a list of numbers."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[float, ...]:
        places: tuple[float, ...] = super()._deserialize(value, attr, data, **kwargs)
        if len(places) > MOST_SIDE:
            raise self.refuse(f"at most {MOST_SIDE:,} numbers", value)
        wrong = [place for place, number in enumerate(places) if not abs(number) <= LARGEST_PLACE]
        if wrong:
            text = f"takes a number from -{LARGEST_PLACE:g} to {LARGEST_PLACE:g}"
            raise ValidationError({place: [Message(text)] for place in wrong[:MOST_ERRORS]})
        return places

    def json_schema(self, components: Components) -> JSONSchema:
        number = {"type": "number", "minimum": -LARGEST_PLACE, "maximum": LARGEST_PLACE}
        return list_of(number, minItems=1, maxItems=MOST_SIDE)


class LandscapeAxisRequestSchema(PartSchema):
    """One axis of a landscape: one parameter, or a direction through all trained parameters."""

    made = AskedAxis

    parameter = SelectorField(metadata=about("one number, such as `output.kernel[0][0]`; places are its values"))
    direction = WordField(
        tuple(DIRECTIONS),
        metadata=about(
            "; ".join(f"{name}: {text}" for name, text in DIRECTIONS.items())
            + ". Places are multiples of it, 0 at the parameters that are sent"
        ),
    )
    normalize = WordField(
        tuple(NORMALIZATIONS),
        metadata=about(
            "for random directions: " + "; ".join(f"{name}: {text}" for name, text in NORMALIZATIONS.items())
        ),
    )
    seed = SeedField(metadata=about("seed of a random direction; by default that of the request"))
    index = IntegerField(
        minimum=-MOST_INDEX,
        maximum=MOST_INDEX - 1,
        metadata=about(
            "of an eigenvector of the Hessian: 0 is that of the largest eigenvalue, -1 that of the smallest; "
            "of a trajectory: 0 is the direction with the largest variance, 1 the next (0)"
        ),
    )
    range = RangeField(
        metadata=about(
            "[low, high]; by default the present value and about twice its size on either side, or [-1, 1]; "
            "with a trajectory the whole of it"
        )
    )
    resolution = IntegerField(
        minimum=2,
        maximum=MOST_SIDE,
        metadata=about("number of places in the range (101 along one axis, 51 along each of two)"),
    )
    values = PlacesField(metadata=about("the places themselves, in any order, instead of range and resolution"))

    @validates_schema(pass_original=True, skip_on_field_errors=True)
    def _fit(self, loaded: dict[str, Any], original: Any, **kwargs: Any) -> None:
        errors = _misfits_of_axis(loaded)
        if errors:
            raise ValidationError(errors)


def _misfits_of_axis(loaded: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the errors, by key, for keys that an axis lacks or has no use for."""
    if ("parameter" in loaded) == ("direction" in loaded):
        text = "takes one of 'parameter' and 'direction'" + (", not both" if "parameter" in loaded else "")
        return {"_schema": [Message(text, ("parameter", "direction"))]}
    errors: dict[str, list[str]] = {}
    direction = loaded.get("direction")
    known: frozenset[str] = OPTIONS_OF.get(direction, frozenset()) if direction else frozenset()
    for key in ("normalize", "seed", "index"):
        if key in loaded and key not in known:
            takers = [name for name, options in OPTIONS_OF.items() if key in options]
            what = f"direction: {direction}" if direction else "a parameter"
            errors[key] = [Message(f"has no use for {what}; it belongs to direction: {' or '.join(takers)}")]
    if direction == "trajectory" and loaded.get("index", 0) < 0:
        errors["index"] = [Message("takes 0 or more for direction: trajectory: 0 is the largest variance")]
    for key in ("range", "resolution"):
        if key in loaded and "values" in loaded:
            errors[key] = [Message("has no use beside values, which are the places themselves")]
    return errors


class AlongField(StrictField):
    """The axes of a landscape: a list of one or two."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = ObjectField(LandscapeAxisRequestSchema())

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[AskedAxis, ...]:
        axes = plain(value)
        if not isinstance(axes, list) or not 0 < len(axes) <= 2:
            instead = "; put it into a list" if isinstance(axes, Mapping) else ""
            raise self.refuse("a list of one or two axes", axes, instead=instead)
        return tuple(read_each(enumerate(axes), self.axis.deserialize).values())

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(self.axis.json_schema(components), minItems=1, maxItems=2)


class SpectrumRequestSchema(PartSchema):
    """The choice of eigenvalues of the Hessian to compute, and the cost allowed for them."""

    made = AskedSpectrum

    largest = IntegerField(minimum=0, maximum=MOST_INDEX, load_default=5, metadata=about("largest eigenvalues (5)"))
    smallest = IntegerField(minimum=0, maximum=MOST_INDEX, load_default=5, metadata=about("smallest eigenvalues (5)"))
    density = FlagField(load_default=False, metadata=about("compute the distribution of all eigenvalues and their sum"))
    steps = IntegerField(
        minimum=10,
        maximum=MOST_PRODUCTS,
        load_default=200,
        metadata=about("of a large network: products with the Hessian that a search may take (200)"),
    )
    probes = IntegerField(
        minimum=2, maximum=64, load_default=8, metadata=about("of a large network: random vectors (8)")
    )
    probe_steps = IntegerField(
        minimum=2, maximum=200, load_default=50, metadata=about("of a large network: products for each probe (50)")
    )
    points = IntegerField(minimum=2, maximum=MOST_SIDE, load_default=101, metadata=about("values of the density (101)"))


class SentTree(NamedTuple):
    """One point of a trajectory: all parameters at one time of a training."""

    tree: Tree
    in_step: bool
    """Whether the point came inside a step of a training."""


class TrajectoryField(StrictField):
    """A list of points in parameter space: trees of parameters, or steps of a training that hold them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tree = ParametersField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[SentTree]:
        if not isinstance(value, list) or not 2 <= len(value) <= MOST_TRAJECTORY:
            raise self.refuse(f"a list of 2 to {MOST_TRAJECTORY:,} trees of parameters", plain(value))
        return list(read_each(enumerate(value), self._read).values())

    def _read(self, entry: Any) -> SentTree:
        if not isinstance(entry, Mapping) or isinstance(entry.get("step", {}), Mapping):
            return SentTree(self._tree(entry), False)
        if "parameters" not in entry:
            text = "is a step without parameters; ask for them with trace: {include: [parameters]}"
            raise ValidationError({"parameters": [Message(text)]})
        try:
            return SentTree(self._tree(entry["parameters"]), True)
        except ValidationError as error:
            raise ValidationError({"parameters": error.messages}) from None

    def _tree(self, value: Any) -> Tree:
        tree: Tree = self.tree.deserialize(value)
        return tree

    def json_schema(self, components: Components) -> JSONSchema:
        tree = tree_schema(components)

        def step() -> JSONSchema:
            properties = {"step": {"type": "integer"}, "parameters": tree}
            text = "A step of `/v1/train`; its other keys are ignored."
            described = {"description": text, "additionalProperties": True}
            return {"type": "object", "properties": properties, "required": list(properties), **described}

        points = {"anyOf": [tree, components.refer("TrajectoryStep", step)]}
        return list_of(points, minItems=2, maxItems=MOST_TRAJECTORY)


class LoadedLandscape(LoadedNetwork):
    """A validated request of `/v1/landscape`."""

    along: NotRequired[tuple[AskedAxis, ...]]
    trajectory: NotRequired[list[SentTree]]
    spectrum: NotRequired[AskedSpectrum]
    levels: int
    include: frozenset[str]
    exclude: frozenset[str]
    language: NotRequired[str]


class LandscapeRequest(LossRequest[LoadedLandscape]):
    """A request for the loss along axes through the parameters, and for eigenvalues there."""

    elsewhere = MappingProxyType(
        dict(WITH_A_LOSS) | dict.fromkeys(OF_AXES, "along") | dict.fromkeys(OF_SPECTRA, "spectrum")
    )
    fresh = frozenset((*LossRequest.fresh, "trajectory"))

    along = AlongField(metadata=about("one axis for a curve, two for a surface; optional beside spectrum"))
    trajectory = TrajectoryField(
        metadata=about(
            "parameters in the order of time: trees, or the steps of a training that have parameters. The "
            "trajectory is shown on the axes; without parameters its last point is the centre"
        )
    )
    spectrum = ObjectField(
        SpectrumRequestSchema(), metadata=about("compute eigenvalues of the Hessian at the parameters")
    )
    levels = IntegerField(
        minimum=0, maximum=MOST_LEVELS, load_default=12, metadata=about("contour levels, roughly (12)")
    )
    reduction = WordField(
        TO_ONE_NUMBER, "ReductionToNumber", load_default="mean", metadata=about("how the samples' losses are combined")
    )
    include = WordsField(
        ("directions",), load_default=frozenset(), metadata=about("more of the response: directions as trees")
    )
    exclude = WordsField(
        ("parameters", "slopes"),
        load_default=frozenset(),
        metadata=about("parts to leave out: parameters initialised here, slopes at the points"),
    )
    language = language_field()

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check that keys fit together. Without parameters, take those at the end of the trajectory."""
        errors = misfits(loaded)
        if errors:
            raise ValidationError(errors)
        if "trajectory" in loaded and "parameters" not in loaded:
            loaded = loaded | {"parameters": loaded["trajectory"][-1].tree}
        return super().finish(loaded)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _fit(self, loaded: dict[str, Any], original: Any, **kwargs: Any) -> None:
        """Refuse keys that do not fit together. This also runs if other fields are wrong, so that all is reported."""
        if not ({"along", "spectrum"} & set(original) - set(loaded)):
            errors = misfits(loaded, original)
            if errors:
                raise ValidationError(errors)


def misfits(loaded: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """Return the errors, by key, for missing keys; `given` are keys that are there but may be wrong."""
    present = {*loaded, *given}
    if "along" not in present and "spectrum" not in present:
        return {"along": [Message("is required; or ask for spectrum alone")]}
    if "trajectory" in present:
        if "along" not in present:
            return {"trajectory": [Message("has no use without along")]}
        return {}
    asking = [n for n, axis in enumerate(loaded.get("along", ())) if axis.direction == "trajectory"]
    if asking:
        return {"trajectory": [Message("is required for direction: trajectory, in along")]}
    return {}


# --- answers ------------------------------------------------------------------------------------


def _number(text: str, *, required: bool = True, allow_none: bool = True) -> fields.Float:
    return fields.Float(required=required, allow_none=allow_none, metadata=about(text))


class LandscapeAxisSchema(StrictSchema):
    """One axis, with slope and curvature of the loss along it at the centre."""

    parameter = fields.String(metadata=about("for an axis that is one parameter"))
    direction = fields.String(metadata=about("for an axis that is a direction"))
    centre = _number("the place of the parameters: the present value, or 0 of a direction", allow_none=False)
    values = TensorAnswerField(required=True, metadata=about("places along the axis"))
    norm = _number(
        "length of the direction: how far apart two parameter vectors are that lie 1 apart", allow_none=False
    )
    slope = _number("derivative of the loss along the axis, at the centre")
    curvature = _number("second derivative along the axis, at the centre")
    largest_stable_step = _number(
        "learning rate up to which plain gradient descent along this line alone is stable, 2 divided by the curvature "
        "per unit of length; null: the line does not bend upward"
    )
    eigenvalue = _number("of an eigenvector", required=False, allow_none=False)
    residual = _number("of an eigenvector: length of H v - λ v", required=False, allow_none=False)
    explained = _number("of a principal direction: its share of the variance", required=False, allow_none=False)
    slopes = TensorAnswerField(metadata=about("derivative of the loss along the axis, at each point of losses"))
    vector = ParametersAnswerField(metadata=about("the direction, as a tree of parameters, if the request includes it"))
    texts = fields.List(fields.String(), required=True, metadata=about("the axis and its meaning, in sentences"))


class LandscapeExtremeSchema(StrictSchema):
    """The least or largest loss on the grid, and its place."""

    place = TensorAnswerField(required=True, metadata=about("a number for each axis"))
    loss = fields.Float(required=True)


class LandscapePathSchema(StrictSchema):
    """A trajectory, projected onto the axes."""

    coordinates = TensorAnswerField(
        required=True, metadata=about("for each point: the nearest place on the axes, a number for each axis")
    )
    losses = TensorAnswerField(required=True, metadata=about("at those places, not at the points themselves"))
    distances = TensorAnswerField(required=True, metadata=about("distance of each point from the line or plane"))


class EigenvalueSchema(StrictSchema):
    """One eigenvalue, and its error bound."""

    value = fields.Float(required=True)
    residual = _number("length of H v - λ v of its vector v: an eigenvalue lies within it", allow_none=False)


class EigenvalueSignsSchema(StrictSchema):
    """The numbers of eigenvalues that are positive, zero and negative."""

    positive = fields.Integer(required=True)
    zero = fields.Integer(required=True, metadata=about("up to rounding"))
    negative = fields.Integer(required=True)


class SpectralDensitySchema(StrictSchema):
    """The distribution of the Hessian's eigenvalues, as a smooth curve."""

    values = TensorAnswerField(required=True)
    density = TensorAnswerField(required=True, metadata=about("the share of eigenvalues per unit at each value"))
    width = _number("standard deviation of the Gaussian that stands for each eigenvalue", allow_none=False)
    probes = fields.Integer(required=True, metadata=about("random vectors of the estimate; 0: eigenvalues are known"))


class SpectrumAnswerSchema(StrictSchema):
    """Eigenvalues of the Hessian with respect to the trained parameters."""

    method = fields.String(required=True, metadata=about("dense: the whole Hessian was factorised; or lanczos"))
    size = fields.Integer(required=True, metadata=about("number of eigenvalues"))
    largest = fields.List(fields.Nested(EigenvalueSchema), required=True, metadata=about("the largest first"))
    smallest = fields.List(fields.Nested(EigenvalueSchema), required=True, metadata=about("the smallest last"))
    largest_stable_step = _number("2 divided by the largest eigenvalue; null where that is not positive, or not asked")
    products = fields.Integer(required=True, metadata=about("number of products of the Hessian with vectors"))
    converged = fields.Boolean(required=True, metadata=about("false if some residuals are larger than they should be"))
    eigenvalues = TensorAnswerField(metadata=about("all eigenvalues, the largest first, with method dense"))
    signs = fields.Nested(EigenvalueSignsSchema, metadata=about("with method dense"))
    trace = _number("sum of all eigenvalues; estimated where the method is lanczos", required=False)
    trace_error = _number("standard error of an estimated trace, 0 of an exact one", required=False)
    density = fields.Nested(SpectralDensitySchema)
    texts = fields.List(fields.String(), required=True, metadata=about("the meaning, in sentences"))


class LandscapeResponse(StrictSchema):
    """The loss along the axes, and slopes and curvature at the parameters."""

    dtype = fields.String(required=True)
    loss = _number("at the centre")
    gradient_norm = _number("at the centre")
    axes = fields.List(fields.Nested(LandscapeAxisSchema), required=True)
    losses = TensorAnswerField(metadata=about("a number for each place; with two axes a row for each of the second"))
    tangent = TensorAnswerField(metadata=about("with one axis: the line that touches the curve at the centre"))
    parabola = TensorAnswerField(metadata=about("with one axis: the parabola that fits the curve best at the centre"))
    hessian = TensorAnswerField(metadata=about("second derivatives along the axes, at the centre"))
    cosine = _number("of the angle between two axes", required=False, allow_none=False)
    minimum = fields.Nested(
        LandscapeExtremeSchema, allow_none=True, metadata=about("on the grid; null: none is finite")
    )
    maximum = fields.Nested(LandscapeExtremeSchema, allow_none=True)
    levels = fields.List(fields.Float(), metadata=about("losses for contours"))
    spacing = fields.String(metadata=about("spacing of the levels: linear or logarithmic"))
    trajectory = fields.Nested(LandscapePathSchema)
    spectrum = fields.Nested(SpectrumAnswerSchema, allow_none=True, metadata=about("null if the Hessian is not finite"))
    finite = finite_field()
    warnings = warnings_field()
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them, unless excluded"))
