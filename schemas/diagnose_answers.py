"""The responses of `/v1/gradients/diagnose`."""

from __future__ import annotations

from marshmallow import fields

from schemas.common import SelectedBlockSchema, about, finite_field, warnings_field
from schemas.strict import StrictSchema
from schemas.tensor import TensorAnswerField
from service.engine.insight.health.diagnosis import VERDICTS


class FindingSchema(StrictSchema):
    """One judgement of a diagnosis, with its number, threshold, meaning and advice."""

    code = fields.String(required=True, metadata=about("its name in `/v1/findings`"))
    severity = fields.String(
        required=True,
        metadata=about("note: worth knowing; warning: learning is slow or fragile; problem: something prevents it"),
    )
    layer = fields.String(metadata=about("the layer of the finding, if it is about one layer"))
    quantity = fields.String(metadata=about("the tensor or number in which it was found"))
    step = fields.Integer(metadata=about("the step of the training at which it happened"))
    text = fields.String(required=True, metadata=about("the fact, with its numbers"))
    meaning = fields.String(required=True, metadata=about("the meaning of the fact"))
    advice = fields.String(required=True, metadata=about("advice"))
    value = fields.Float(allow_none=True, metadata=about("the number that was judged, if there is one"))
    threshold = fields.Float(allow_none=True, metadata=about("the value from which on it has this severity"))
    source = fields.String(required=True, metadata=about("the source of the threshold"))
    networks = fields.Integer(metadata=about("of a sweep: number of networks with it; the rest is about the first one"))


class LayerHealthSchema(StrictSchema):
    """The measurements of a diagnosis in one layer: norms, moments and shares of saturated or dead units."""

    name = fields.String(required=True)
    type = fields.String(required=True)
    activation = fields.String(allow_none=True, required=True)
    mean = fields.Float(required=True, allow_none=True, metadata=about("mean of its outputs"))
    deviation = fields.Float(required=True, allow_none=True, metadata=about("standard deviation of its outputs"))
    delta_norm = fields.Float(required=True, allow_none=True, metadata=about("Euclidean norm of dL/dz"))
    gradient_norm = fields.Float(
        required=True, allow_none=True, metadata=about("gradient norm over its trained parameters; null if it has none")
    )
    weight_norm = fields.Float(required=True, allow_none=True, metadata=about("norm of its largest parameter"))
    ratio = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("norm of its delta over that of the last layer of the chain; null if it is not in the chain"),
    )
    saturated_left = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("share of pre-activations with small slopes; null if no pre-activation can have one"),
    )
    saturated_right = fields.Float(required=True, allow_none=True)
    dead = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("share of units that are off for every sample; null if no unit can be off"),
    )


class LayerChainSchema(StrictSchema):
    """The longest path of layers with weights from the inputs to an output, along which gradients are compared."""

    layers = fields.List(fields.String(), required=True)
    ratio = fields.Float(required=True, allow_none=True, metadata=about("norm of the first delta over the last"))
    factor = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("factor by which each layer multiplies the norm, as a geometric mean"),
    )


class TrainingCurveSchema(StrictSchema):
    """Loss and gradient norm of a training at some of its steps."""

    steps = fields.List(fields.Integer(), required=True)
    loss = TensorAnswerField(required=True)
    gradient_norm = TensorAnswerField(required=True)


class DiagnosedTrainingSchema(StrictSchema):
    """The end of a diagnosed training, and its curve."""

    status = fields.String(metadata=about("its status, as in a response of `/v1/train`"))
    reason = fields.String()
    steps_done = fields.Integer(required=True)
    loss = fields.Float(allow_none=True, metadata=about("after the last step"))
    curve = fields.Nested(TrainingCurveSchema, required=True)


class SweepRowSchema(StrictSchema):
    """A row of a sweep's table: all networks of one depth, activation and initializer, over the seeds."""

    depth = fields.Integer(required=True)
    activation = fields.Nested(SelectedBlockSchema, required=True)
    initializer = fields.Nested(SelectedBlockSchema, required=True)
    networks = fields.Integer(required=True)
    ratio = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("norm of the first layer's delta over that of the last: the median over the seeds"),
    )
    factor = fields.Float(required=True, allow_none=True, metadata=about("for each layer, the median over the seeds"))
    verdicts = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    findings = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("number of networks with each finding, by its code; without notes"),
    )


class ShortFindingSchema(StrictSchema):
    """A finding about one network of a sweep, without sentences."""

    code = fields.String(required=True)
    severity = fields.String(required=True)
    layer = fields.String()
    value = fields.Float(allow_none=True)
    threshold = fields.Float(allow_none=True)


class SweepRunSchema(StrictSchema):
    """The measurements of one network of a sweep; lists have a number for each layer, the output layer last."""

    depth = fields.Integer(required=True)
    activation = fields.Nested(SelectedBlockSchema, required=True)
    initializer = fields.Nested(SelectedBlockSchema, required=True)
    seed = fields.Integer(required=True)
    verdict = fields.String(required=True)
    loss = fields.Float(required=True, allow_none=True)
    ratio = fields.Float(required=True, allow_none=True)
    factor = fields.Float(required=True, allow_none=True)
    gradient_norms = fields.List(fields.Float(allow_none=True), required=True)
    delta_norms = fields.List(fields.Float(allow_none=True), required=True)
    variances = fields.List(fields.Float(allow_none=True), required=True, metadata=about("of the outputs"))
    saturated = fields.List(fields.Float(allow_none=True), required=True, metadata=about("share of saturated units"))
    dead = fields.List(fields.Float(allow_none=True), required=True, metadata=about("share of dead units"))
    findings = fields.List(fields.Nested(ShortFindingSchema), required=True)


class DiagnoseStepSchema(StrictSchema):
    """One line of a streamed diagnosis: a finding, or a network of a sweep."""

    step = fields.Integer(required=True, metadata=about("counted from 1"))
    finding = fields.Nested(FindingSchema)
    run = fields.Nested(SweepRunSchema)


class DiagnoseSummary(StrictSchema):
    """The last line of a streamed diagnosis: the verdict, and the numbers behind it."""

    status = fields.String(required=True, metadata=about("completed; or cancelled, if there was no time for all"))
    reason = fields.String(metadata=about("of a sweep or a training: the reason of its end"))
    verdict = fields.String(required=True, metadata=about(f"{', '.join(VERDICTS)}: the verdict of the gravest finding"))
    text = fields.String(required=True)
    dtype = fields.String()
    loss = fields.Float(allow_none=True)
    gradient_norm = fields.Float(allow_none=True)
    chain = fields.Nested(LayerChainSchema)
    layers = fields.List(fields.Nested(LayerHealthSchema), metadata=about("at the parameters of the request or start"))
    training = fields.Nested(DiagnosedTrainingSchema)
    networks = fields.Integer(metadata=about("of a sweep: the number of diagnosed networks"))
    table = fields.List(fields.Nested(SweepRowSchema))
    finite = finite_field()
    warnings = warnings_field()


class DiagnoseResponse(DiagnoseSummary):
    """A whole diagnosis: verdict, findings with the gravest first, and the numbers behind them."""

    findings = fields.List(fields.Nested(FindingSchema), required=True)
    runs = fields.List(fields.Nested(SweepRunSchema), metadata=about("the networks of a sweep"))
