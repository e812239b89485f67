"""The responses of the catalogue, which lists all blocks that requests may name."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields

from schemas.common import OpenSchema, SelectedBlockSchema
from schemas.tensor import TensorAnswerField


class SampledCurveSchema(Schema):
    """The graph of an activation or a loss: values and derivatives at sampled points."""

    target = fields.Float()
    x = TensorAnswerField(required=True)
    value = TensorAnswerField(required=True)
    derivative = TensorAnswerField(required=True)
    finite = fields.Boolean(required=True, metadata={"description": "false: some values are not finite, and null here"})


class BlockOptionSchema(Schema):
    """An option of a block: its name, type, bounds and default."""

    class Meta:
        unknown = INCLUDE

    name = fields.String(required=True)
    type = fields.String(required=True)
    required = fields.Boolean(required=True)
    description = fields.String(required=True)
    default = fields.Raw(allow_none=True)
    minimum = fields.Float()
    maximum = fields.Float()
    exclusive_minimum = fields.Float()
    exclusive_maximum = fields.Float()
    values = fields.List(fields.Raw(metadata={"type": ["string", "number", "boolean"]}))
    of = fields.String(
        metadata={"description": "the part of the catalogue that this option chooses from: all, or `values`"}
    )


class TranslatedTextSchema(Schema):
    """The same text in English and in Chinese."""

    en = fields.String(required=True)
    zh = fields.String(required=True)


class LayerInputCountSchema(Schema):
    """The smallest and the largest number of inputs that a layer takes."""

    minimum = fields.Integer(required=True)
    maximum = fields.Integer(required=True, allow_none=True, metadata={"description": "null: any number"})


class WordSingularitySchema(Schema):
    """A set of points where a word of expressions has no value, or no certain derivative."""

    kind = fields.String(required=True)
    message = fields.String(required=True)


class PresetMinimumSchema(Schema):
    """A local minimum of a preset function: its place and value."""

    point = fields.List(fields.Float(), required=True)
    value = fields.Float(required=True)


class PresetStationaryPointSchema(Schema):
    """A stationary point of a preset function other than a minimum, such as a saddle."""

    point = fields.List(fields.Float(), required=True)
    classification = fields.String(required=True)


class PresetTrialSchema(Schema):
    """An optimizer with options and a number of steps that shows something on a preset function."""

    optimizer = fields.Nested(SelectedBlockSchema, required=True)
    steps = fields.Integer(required=True)


class OptionDefaultsSchema(OpenSchema):
    """Defaults by the names of options."""


class CatalogueEntrySchema(Schema):
    """One block of the catalogue: its description, formulas, options and what only its kind has."""

    name = fields.String(required=True)
    aliases = fields.List(fields.String(), required=True)
    description = fields.Nested(TranslatedTextSchema, required=True)
    latex = fields.String(required=True, metadata={"description": "LaTeX of the definition"})
    derivative = fields.String(required=True, metadata={"description": "LaTeX of the derivative"})
    options = fields.List(fields.Nested(BlockOptionSchema), required=True)
    sources = fields.List(fields.String(), required=True)
    href = fields.String(required=True)
    parameters = fields.Dict(keys=fields.String(), values=fields.String())
    inputs = fields.Nested(LayerInputCountSchema, metadata={"description": "the number of inputs that a layer takes"})
    conventions = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(OptionDefaultsSchema),
        metadata={"description": "defaults that differ for a value of an optimizer's option `convention`"},
    )
    state = fields.List(
        fields.String(),
        metadata={"description": "the values that an optimizer remembers, with every option set that adds to them"},
    )
    stable_factor = fields.Float(
        allow_none=True,
        metadata={
            "description": "of an optimizer with default options: on a parabola it is stable while the "
            "learning rate is less than this number over the largest curvature; null if no such number is known"
        },
    )
    severities = fields.Dict(
        keys=fields.String(),
        values=fields.Float(allow_none=True),
        metadata={
            "description": "of a finding: the value from which on it has this severity; null if it has no number"
        },
    )
    below = fields.Boolean(metadata={"description": "of a finding: small numbers are the bad ones"})
    advice = fields.Nested(TranslatedTextSchema, metadata={"description": "of a finding: advice"})
    counter_example = fields.Boolean(metadata={"description": "a misprinted optimizer, to see it fail; do not use it"})
    curve = fields.Nested(SampledCurveSchema)
    kind = fields.String(
        metadata={
            "description": "of a mistake: how it changes the numbers: factor, arrangement, rule, data, function; "
            "noise is no mistake"
        }
    )
    change = fields.Nested(TranslatedTextSchema, metadata={"description": "of a mistake: how to change the code"})
    example = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={"description": "of a mistake: a line of code with it, `wrong`, and without it, `right`"},
    )
    arguments = fields.Integer(
        metadata={"description": "number of arguments of a word of an expression; 0: a constant"}
    )
    operator = fields.Boolean(
        metadata={"description": "whether a word is written as an alias and not called by its name"}
    )
    troubles = fields.List(
        fields.Nested(WordSingularitySchema),
        metadata={"description": "points where a word has no value, or no certain derivative"},
    )
    expression = fields.String(metadata={"description": "of a preset: send it to /v1/functions"})
    variables = fields.List(fields.String())
    domain = fields.List(fields.List(fields.Float()), metadata={"description": "lower and upper end for each variable"})
    minima = fields.List(
        fields.Nested(PresetMinimumSchema), metadata={"description": "all in the domain, lowest first"}
    )
    stationary = fields.List(
        fields.Nested(PresetStationaryPointSchema), metadata={"description": "others with gradient 0"}
    )
    teaches = fields.Nested(TranslatedTextSchema, metadata={"description": "advice on what to look at"})
    starts = fields.List(fields.List(fields.Float()), metadata={"description": "good starts for runs"})
    trials = fields.List(fields.Nested(PresetTrialSchema), metadata={"description": "descents that are worth watching"})


class CatalogueListingSchema(Schema):
    """All blocks of one kind."""

    activations = fields.List(fields.Nested(CatalogueEntrySchema))
    losses = fields.List(fields.Nested(CatalogueEntrySchema))
    layers = fields.List(fields.Nested(CatalogueEntrySchema))
    initializers = fields.List(fields.Nested(CatalogueEntrySchema))
    regularizers = fields.List(fields.Nested(CatalogueEntrySchema))
    optimizers = fields.List(fields.Nested(CatalogueEntrySchema))
    schedules = fields.List(fields.Nested(CatalogueEntrySchema))
    presets = fields.List(fields.Nested(CatalogueEntrySchema))
    vocabulary = fields.List(fields.Nested(CatalogueEntrySchema))
    findings = fields.List(fields.Nested(CatalogueEntrySchema))
    mistakes = fields.List(fields.Nested(CatalogueEntrySchema))
