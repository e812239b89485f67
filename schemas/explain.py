"""The request and the response of `/v1/gradients/explain`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NotRequired

from marshmallow import fields

from schemas.common import about, finite_field, language_field, warnings_field
from schemas.components import Components, JSONSchema
from schemas.evaluation import WITH_A_LOSS, LoadedNetwork, LossRequest
from schemas.fields import IntegerField, NumberField, WordField, WordsField
from schemas.strict import StrictField, StrictSchema
from schemas.tensor import ParametersAnswerField
from service.engine.insight.outline import CONVENTIONS, KINDS

LONGEST_PATH = 256
MOST_DEPTH = 1_000
ADVICE = ("increase", "decrease", "stationary", "unknown")


class LoadedExplain(LoadedNetwork):
    """A validated request of `/v1/gradients/explain`."""

    parameter: NotRequired[str]
    sample: NotRequired[int]
    depth: NotRequired[int]
    learning_rate: float
    convention: str
    language: NotRequired[str]
    exclude: frozenset[str]


class PathField(StrictField):
    """The path of a layer, a parameter or one number of it, such as `hidden.kernel[0][1]`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATH:
            takes = f"a path of at most {LONGEST_PATH} characters, such as hidden, hidden.kernel or hidden.kernel[0][1]"
            raise self.refuse(takes, value)
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        return {"type": "string", "minLength": 1, "maxLength": LONGEST_PATH}


class ExplainRequest(LossRequest[LoadedExplain]):
    """A request to derive gradients: the keys of `/v1/gradients`, and which gradient to derive."""

    elsewhere = MappingProxyType({key: place for key, place in WITH_A_LOSS.items() if key != "learning_rate"})
    called = MappingProxyType({"weight": "parameter"})

    class Meta(LossRequest.Meta):
        exclude = ("include",)

    parameter = PathField(
        metadata=about("the gradients to derive: hidden, hidden.kernel or hidden.kernel[0][1] (all trained parameters)")
    )
    sample = IntegerField(minimum=0, metadata=about("derive the gradient of this sample alone, counted from 0 (all)"))
    depth = IntegerField(
        minimum=1,
        maximum=MOST_DEPTH,
        metadata=about(
            "the number of levels from the gradients backward: 1 derives them alone, from deltas and activations (all)"
        ),
    )
    learning_rate = NumberField(load_default=0.1, metadata=about("learning rate of the parameter's update"))
    convention = WordField(
        CONVENTIONS,
        load_default="standard",
        metadata=about(
            "convention of signs and order: heaton prints deltas and gradients with the other sign, outputs first"
        ),
    )
    language = language_field()
    # marshmallow takes fields out of the class, which has an attribute of that name.
    exclude = WordsField(
        ("parameters",), load_default=frozenset(), metadata=about("parts to leave out: parameters initialised here")
    )


class ExplainStepSchema(StrictSchema):
    """One step of a derivation: a number, its formula, and the steps that it uses."""

    id = fields.String(required=True, metadata=about("its name in this response, for `uses`"))
    kind = fields.String(required=True, metadata={"description": "what it is about", "enum": list(KINDS)})
    quantity = fields.String(
        required=True,
        metadata=about(
            "pre_activation, output, error, sample_loss, loss, penalty, slope, delta, share (of one sample in a "
            "gradient), gradient, update, intermediate, or mean_squared_error, which Heaton prints"
        ),
    )
    layer = fields.String(required=True, allow_none=True)
    unit = fields.List(fields.Integer(), required=True, metadata=about("index, without the sample's"))
    sample = fields.Integer(required=True, allow_none=True, metadata=about("counted from 0; null: no single sample"))
    symbol = fields.String(required=True, metadata=about("LaTeX"))
    latex = fields.String(required=True, metadata=about("the formula, in LaTeX"))
    numbers = fields.String(required=True, metadata=about("the formula with six digits of each number, in LaTeX"))
    expression = fields.String(
        required=True,
        metadata=about("the formula for programs: u0 is the first of `uses`; the guide lists the names of functions"),
    )
    text = fields.String(required=True, metadata=about("one sentence"))
    value = fields.Float(required=True, allow_none=True)
    uses = fields.List(fields.String(), required=True, metadata=about("ids of steps and quantities in the formula"))


class ExplainQuantitySchema(StrictSchema):
    """A number that steps use but that has no step of its own, such as an input."""

    id = fields.String(required=True)
    quantity = fields.String(
        required=True,
        metadata=about(
            "input, target, parameter, sample_weight, noise, learning_rate; with `depth` also results of steps left out"
        ),
    )
    layer = fields.String(required=True, allow_none=True)
    unit = fields.List(fields.Integer(), required=True)
    sample = fields.Integer(required=True, allow_none=True)
    symbol = fields.String(required=True, metadata=about("LaTeX"))
    value = fields.Float(required=True, allow_none=True)


class ExplainReasonSchema(StrictSchema):
    """A reason why a gradient is 0."""

    code = fields.String(
        required=True,
        metadata=about(
            "zero_input, zero_activation, saturated, inactive (a rectifier that is off), dead (off for all "
            "samples), blocked (a step), disconnected, zero_error, zero_target, zero_weight, sample_weight, "
            "dropped, not_selected, underflow, unused, cancels, or far_back, which means that the cause is "
            "not known"
        ),
    )
    layer = fields.String(required=True, allow_none=True)
    samples = fields.List(
        fields.Integer(),
        required=True,
        metadata=about("samples for which it is 0; none: the sum over all samples is 0"),
    )
    text = fields.String(required=True)


class ExplainMeaningSchema(StrictSchema):
    """The meaning of a gradient for its parameter: which way to change it, or why the gradient is 0."""

    parameter = fields.String(required=True, metadata=about("such as hidden.kernel[0][1]"))
    value = fields.Float(required=True, allow_none=True)
    gradient = fields.Float(required=True, allow_none=True, metadata=about("with the sign of the convention"))
    updated = fields.Float(required=True, allow_none=True, metadata=about("the parameter after one step of descent"))
    advice = fields.String(
        required=True,
        metadata={"description": "what lowers the loss; stationary: the gradient is 0", "enum": list(ADVICE)},
    )
    reasons = fields.List(
        fields.Nested(ExplainReasonSchema),
        required=True,
        metadata=about("the reasons of a gradient that is 0; else none"),
    )
    text = fields.String(required=True)
    step = fields.String(required=True, metadata=about("the id of the gradient's step"))


class ExplainResponse(StrictSchema):
    """The derivation of gradients, step by step in reading order."""

    dtype = fields.String(required=True)
    convention = fields.String(required=True)
    language = fields.String(required=True)
    sample = fields.Integer(required=True, allow_none=True)
    loss = fields.Float(required=True, allow_none=True, metadata=about("loss of the chosen sample, or of all"))
    meanings = fields.List(
        fields.Nested(ExplainMeaningSchema), required=True, metadata=about("one for each gradient of the request")
    )
    steps = fields.List(fields.Nested(ExplainStepSchema), required=True)
    quantities = fields.List(fields.Nested(ExplainQuantitySchema), required=True)
    finite = finite_field()
    warnings = warnings_field()
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them, unless excluded"))
