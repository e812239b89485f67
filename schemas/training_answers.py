"""The responses of trainings and comparisons."""

from __future__ import annotations

from marshmallow import fields

from schemas.common import STATUSES, AnswerWarningSchema, SelectedBlockSchema, about, finite_field, warnings_field
from schemas.components import Components, JSONSchema
from schemas.fields import WordField
from schemas.strict import StrictField, StrictSchema
from schemas.tensor import ParametersAnswerField, TensorAnswerField, tree_answer_schema


class TreeOrNumberField(StrictField):
    """A number, or tensors by layer and parameter name, in a response: an entry of an optimizer's state."""

    def json_schema(self, components: Components) -> JSONSchema:
        return {"anyOf": [{"type": "number"}, tree_answer_schema(components)]}


class CheckpointAnswerSchema(StrictSchema):
    """The state of a training; sent back as `checkpoint`, it continues the training."""

    step = fields.Integer(required=True)
    seed = fields.Integer(required=True)
    parameters = ParametersAnswerField(required=True)
    optimizer = fields.String(required=True)
    state = fields.Dict(keys=fields.String(), values=TreeOrNumberField(), required=True)
    progress = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    schedule = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)


class TrainingStepSchema(StrictSchema):
    """One recorded step: loss and gradients before its update, parameters and state after it."""

    step = fields.Integer(required=True, metadata=about("counted from 1, those before a checkpoint included"))
    epoch = fields.Integer(required=True, metadata=about("counted from 1"))
    loss = fields.Float(required=True, allow_none=True, metadata=about("loss of the batch, with regularisation"))
    learning_rate = fields.Float(required=True, allow_none=True, metadata=about("learning rate after the schedule"))
    gradient_norm = fields.Float(
        required=True, allow_none=True, metadata=about("Euclidean norm over all gradients together, before clipping")
    )
    validation_loss = fields.Float(
        allow_none=True, metadata=about("loss of the validation data, if an epoch has ended since the last record")
    )
    batch = TensorAnswerField(metadata=about("indices of its samples"))
    gradients = ParametersAnswerField(metadata=about("dL/d(parameter), before clipping and weight decay"))
    effective_learning_rate = TreeOrNumberField(
        metadata=about("factor between each number of the gradient, or of its running average, and its update")
    )
    updates = ParametersAnswerField(metadata=about("parameters after the step minus those before"))
    parameters = ParametersAnswerField(metadata=about("after the step"))
    state = fields.Dict(
        keys=fields.String(), values=TreeOrNumberField(), metadata=about("state of the optimizer after the step")
    )
    checkpoint = fields.Nested(
        CheckpointAnswerSchema,
        metadata=about("after the step, as `trace.checkpoint_every` says; absent if numbers are not finite"),
    )


class TrainSummary(StrictSchema):
    """The last line of a streamed training: how it ended."""

    dtype = fields.String(required=True)
    status = WordField(
        list(STATUSES),
        "ComputationStatus",
        required=True,
        metadata=about("; ".join(f"{name}: {meaning}" for name, meaning in STATUSES.items())),
    )
    reason = fields.String(required=True, metadata=about("the reason of the end, in words and numbers"))
    steps_done = fields.Integer(required=True, metadata=about("including those before a checkpoint"))
    epochs_done = fields.Integer(required=True, metadata=about("the last epoch may be unfinished"))
    loss = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("after the last step, over all samples; null if it is not finite, or no time was left"),
    )
    validation_loss = fields.Float(allow_none=True, metadata=about("after the last step"))
    parameters = ParametersAnswerField(required=True, metadata=about("after the last step; {} if excluded"))
    checkpoint = fields.Nested(
        CheckpointAnswerSchema,
        metadata=about("send it as `checkpoint` to continue; absent if numbers are not finite, or if excluded"),
    )
    finite = finite_field()
    warnings = warnings_field()


class TrainResponse(TrainSummary):
    """The recorded steps of a training, and how it ended. A stream sends the steps one by one, and the rest last."""

    steps = fields.List(fields.Nested(TrainingStepSchema), required=True)


class ComparisonCurvesSchema(StrictSchema):
    """The curves of one run, with a number for each of `steps`; null if the run has none for that step."""

    loss = TensorAnswerField(required=True)
    gradient_norm = TensorAnswerField(required=True)
    learning_rate = TensorAnswerField(required=True)
    validation_loss = TensorAnswerField(metadata=about("present with validation data"))


class ComparisonRowSchema(StrictSchema):
    """One run of a comparison: its settings, and how it ended."""

    optimizer = fields.Nested(SelectedBlockSchema, required=True, metadata=about("the optimizer with all its options"))
    seed = fields.Integer(required=True)
    status = fields.String(required=True, metadata=about("its status, as in a response of `/v1/train`"))
    reason = fields.String(required=True)
    steps_done = fields.Integer(required=True)
    loss = fields.Float(required=True, allow_none=True, metadata=about("after the last step, over all samples"))
    best_loss = fields.Float(required=True, allow_none=True, metadata=about("the lowest loss of any step"))
    best_step = fields.Integer(required=True, metadata=about("the step with the lowest loss; 0 if there is none"))
    validation_loss = fields.Float(allow_none=True, metadata=about("after the last step"))


class CompareResponse(StrictSchema):
    """The curves of all runs of a comparison over the same steps, and a table of how they ended."""

    dtype = fields.String(required=True)
    best = fields.Integer(required=True, allow_none=True, metadata=about("index of the run with the lowest loss"))
    table = fields.List(fields.Nested(ComparisonRowSchema), required=True, metadata=about("a row for each run"))
    warnings = fields.List(
        fields.Nested(AnswerWarningSchema),
        required=True,
        metadata=about("about the network and the data, which all runs share"),
    )
    steps = fields.List(fields.Integer(), required=True, metadata=about("the steps of the curves"))
    curves = fields.List(fields.Nested(ComparisonCurvesSchema), required=True, metadata=about("of each run"))
