"""The request and the response of `/v1/gradients/check`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NotRequired

from marshmallow import ValidationError, fields

from schemas.common import about, finite_field, warnings_field
from schemas.components import Components, JSONSchema
from schemas.derivatives import VectorsField
from schemas.fields import NumberField, NumbersField, WordField
from schemas.messages import Message
from schemas.strict import StrictSchema
from schemas.subject import LoadedSubject, SubjectRequest
from schemas.tensor import ParametersAnswerField
from service.engine.arrays import Array
from service.engine.insight.check import TOLERANCES
from service.engine.insight.check_report import VERDICTS
from service.engine.insight.differences import STEPS

MOST_LENGTHS = 100
SMALLEST_STEP, LARGEST_STEP = 1e-300, 1e100
MEANINGS = {
    "right": "nothing speaks against it",
    "kink": "it lies between the slopes on both sides of a kink",
    "unsure": "rounding hides the slope",
    "wrong": "the slope is another",
    "undefined": "value or gradient are not finite",
}
VERDICT = "; ".join(f"{verdict}: {MEANINGS[verdict]}" for verdict in VERDICTS)


class ClaimedField(VectorsField):
    """A claimed gradient: tensors by layer and parameter name, numbers by variable, or one tensor."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self._decode(value)

    def json_schema(self, components: Components) -> JSONSchema:
        one: JSONSchema = super().json_schema(components)["items"]
        return one


class LoadedCheck(LoadedSubject):
    """A validated request of `/v1/gradients/check`."""

    claimed: NotRequired[Array | dict[str, Any]]
    tolerance: NotRequired[float]
    steps: NotRequired[tuple[float, ...]]


class CheckRequest(SubjectRequest[LoadedCheck]):
    """A request to check a claimed gradient, or else the service's own."""

    called = MappingProxyType(
        dict.fromkeys(("eps", "epsilon", "h", "delta", "perturbation"), "steps") | {"threshold": "tolerance"}
    )
    fresh = frozenset((*SubjectRequest.fresh, "claimed"))

    class Meta(SubjectRequest.Meta):
        exclude = ("exclude", "include")

    claimed = ClaimedField(
        metadata=about(
            "the gradient to check, or a part of it: tensors by layer and parameter name; beside an "
            "expression, numbers by variable or a list; by default the gradient of this service is checked"
        )
    )
    tolerance = NumberField(
        minimum=0.0,
        metadata=about(
            "relative difference of a claimed gradient that is accepted, beside the effect of rounding: by "
            f"default {TOLERANCES['float64']} in float64, {TOLERANCES['float32']} in float32"
        ),
    )
    steps = NumbersField(
        minimum=SMALLEST_STEP,
        metadata=about(
            f"step lengths of differences and remainders, 1 to {MOST_LENGTHS} of them; by default {len(STEPS)} "
            f"for differences, from {STEPS[0]} to {STEPS[-1]}"
        ),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert the numbers, and refuse step lengths that are out of bounds."""
        steps = loaded.get("steps")
        if steps is not None and (not 0 < len(steps) <= MOST_LENGTHS or max(steps) > LARGEST_STEP):
            detail = f"takes 1 to {MOST_LENGTHS} numbers between {SMALLEST_STEP} and {LARGEST_STEP}"
            raise ValidationError({"steps": [Message(detail)]})
        return super().finish(loaded)


class CheckedGradientEntrySchema(StrictSchema):
    """One number of a gradient, beside the slope that it is compared with."""

    label = fields.String(required=True, metadata=about("such as `hidden.kernel[0][1]`"))
    gradient = fields.Float(required=True, allow_none=True, metadata=about("the claimed or computed number"))
    reference = fields.Float(
        required=True, allow_none=True, metadata=about("slope by the complex step, or exact gradient")
    )
    error = fields.Float(required=True, allow_none=True, metadata=about("difference, relative to the larger of them"))


class DifferenceQuotientSchema(StrictSchema):
    """The slope by a central difference with one step length, and its error."""

    step = fields.Float(required=True)
    value = fields.Float(required=True, allow_none=True)
    error = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("relative to the slope that the gradient has along the direction"),
    )
    kink = fields.Boolean(required=True, metadata=about("whether the step reaches a kink"))


class DifferenceCurveSchema(StrictSchema):
    """The error of central differences by step length, along a random direction: a V in logarithmic axes."""

    slope = fields.Float(required=True, allow_none=True, metadata=about("product of gradient and direction"))
    text = fields.String(required=True)
    best = fields.Nested(
        DifferenceQuotientSchema, metadata=about("the smallest error; missing if every step reaches a kink")
    )
    truncation = fields.Float(metadata=about("exponent of the error in the step length, for long steps: about 2"))
    rounding = fields.Float(metadata=about("exponent of the error in the step length, for short steps: about -1"))
    kink = fields.Float(metadata=about("the smallest step that reaches a kink"))
    steps = fields.List(fields.Nested(DifferenceQuotientSchema), required=True)


class TaylorRemainderSchema(StrictSchema):
    """The Taylor remainder |f(x + h v) - f(x) - h g·v| for one step length h."""

    step = fields.Float(required=True)
    value = fields.Float(required=True, allow_none=True)
    kink = fields.Boolean(required=True, metadata=about("whether the step reaches a kink"))


class TaylorRemaindersSchema(StrictSchema):
    """Taylor remainders for several step lengths, along a random direction, and the order in which they vanish."""

    slope = fields.Float(required=True, allow_none=True, metadata=about("product of gradient and direction"))
    order = fields.Float(
        required=True, allow_none=True, metadata=about("2: right, 1: wrong; null: only rounding is left")
    )
    text = fields.String(required=True)
    remainders = fields.List(fields.Nested(TaylorRemainderSchema), required=True)


class TensorCheckSchema(StrictSchema):
    """The result of the check for one parameter or variable."""

    name = fields.String(required=True, metadata=about("`layer.parameter`, or the variable"))
    size = fields.Integer(required=True)
    verdict = WordField(VERDICTS, "CheckVerdict", required=True, metadata=about(VERDICT))
    text = fields.String(required=True)
    compared = fields.String(
        required=True,
        metadata=about(
            "each: every entry by its own complex step; probes: along random directions through all entries; "
            "exact: against the exact gradient, which passed one of these"
        ),
    )
    error = fields.Float(
        required=True, allow_none=True, metadata=about("largest relative error of an entry or direction")
    )
    wrong = fields.Integer(required=True, metadata=about("the number of entries that differ"))
    worst = fields.Nested(CheckedGradientEntrySchema)
    ratio = fields.Float(metadata=about("the factor by which all entries are too large, if it is one number"))
    sides = fields.List(fields.Float(allow_none=True), metadata=about("at a kink: the slopes on both sides of it"))
    curve = fields.Nested(DifferenceCurveSchema)


class CheckResponse(StrictSchema):
    """The verdict on a gradient, and the evidence for it."""

    verdict = WordField(VERDICTS, "CheckVerdict", required=True, metadata=about(VERDICT))
    text = fields.String(required=True)
    dtype = fields.String(required=True)
    value = fields.Float(required=True, allow_none=True, metadata=about("the loss, or the value of the expression"))
    checks = fields.List(fields.Nested(TensorCheckSchema), required=True, metadata=about("by parameter or variable"))
    missing = fields.List(fields.String(), required=True, metadata=about("parameters or variables without a claim"))
    curve = fields.Nested(DifferenceCurveSchema, metadata=about("along a direction through all entries"))
    taylor = fields.List(fields.Nested(TaylorRemaindersSchema), required=True)
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them"))
    finite = finite_field()
    warnings = warnings_field()
