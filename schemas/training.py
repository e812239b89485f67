"""What `/v1/train` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError, fields

from schemas.common import (
    MOST_STEPS,
    STATUSES,
    TO_ONE_NUMBER,
    AnswerWarningSchema,
    GradientClipSchema,
    OptimizersField,
    PartSchema,
    Trace,
    about,
    finite_field,
    warnings_field,
)
from schemas.components import Components, JSONSchema, by_name, list_of
from schemas.declared import ChoiceField
from schemas.evaluation import WITH_A_LOSS, LoadedNetwork, LossRequest, Tensors
from schemas.fields import (
    FlagField,
    IntegerField,
    Message,
    NumberField,
    NumbersField,
    ObjectField,
    SeedField,
    StrictField,
    StrictSchema,
    WordField,
    WordsField,
    plain,
    read_each,
)
from schemas.requests import R
from schemas.tensor import (
    ParametersAnswerField,
    ParametersField,
    TensorAnswerField,
    TensorsField,
    narrow,
    tree_answer_schema,
    tree_schema,
)
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.checkpoint import Checkpoint
from service.engine.descent.comparison import MOST_TRAININGS
from service.engine.descent.loop import Stop
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.scheduler import Schedule
from service.engine.descent.schedules import schedules
from service.engine.descent.trace import TRACED
from service.engine.descent.update import Clip
from service.engine.options import LARGEST_EXACT_INTEGER

MOST_BATCHES = 100_000


class BatchesField(StrictField):
    """Lists of indices of samples, one for each step."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Array, ...]:
        if not isinstance(value, list | np.ndarray) or not 0 < len(value) <= MOST_BATCHES:
            raise self.refuse(f"a list of 1 to {MOST_BATCHES} lists of sample indices", value)
        return tuple(read_each(enumerate(value), self._batch).values())

    def _batch(self, entry: Any) -> Array:
        batch = whole(entry)
        if not isinstance(batch, list) or not batch:
            raise self.refuse("a list of sample indices", batch)
        if not all(type(index) is int and abs(index) <= LARGEST_EXACT_INTEGER for index in batch):
            raise self.refuse("integers", batch)
        return np.array(batch, np.int64)

    def json_schema(self, components: Components) -> JSONSchema:
        indices = list_of({"type": "integer", "minimum": 0, "maximum": LARGEST_EXACT_INTEGER}, minItems=1)
        return list_of(indices, minItems=1, maxItems=MOST_BATCHES)


def whole(value: Any) -> Any:
    """A list without NumPy arrays; of a large body they come as floats, also where integers were written."""
    if (
        isinstance(value, np.ndarray)
        and bool((value == np.floor(value)).all())
        and np.abs(value).max() <= LARGEST_EXACT_INTEGER
    ):
        return value.astype(np.int64).tolist()
    return plain(value)


class FrozenField(StrictField):
    """Names of layers, or of parameters as `layer.parameter`."""

    MOST = 10_000

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > self.MOST:
            raise self.refuse("a list of names, such as 'hidden' or 'hidden.kernel'", value)
        if not all(isinstance(name, str) for name in value):
            raise self.refuse("a list of names", value)
        return tuple(value)

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of({"type": "string"}, maxItems=self.MOST)


class StateField(StrictField):
    """What an optimizer remembers, by name: numbers, and tensors by layer and parameter name if there may be trees."""

    def __init__(self, *, trees: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trees = trees
        self.integer, self.number, self.tree = IntegerField(), NumberField(), ParametersField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse("an object", value)
        return read_each(value.items(), self._entry)

    def _entry(self, item: Any) -> Any:
        if self.trees and isinstance(item, list | np.ndarray):
            raise self.refuse("a number or an object {layer: {parameter: tensor}}", item)
        if self.trees and isinstance(item, Mapping):
            return self.tree.deserialize(item)
        return (self.integer if type(item) is int else self.number).deserialize(item)  # a count stays an integer

    def json_schema(self, components: Components) -> JSONSchema:
        number: JSONSchema = {"type": "number"}
        if not self.trees:
            return by_name(number)
        return by_name({"anyOf": [number, tree_schema(components)]})


class TrainingStopSchema(PartSchema):
    """When to stop early; a step that meets a condition is still done."""

    made = Stop

    loss_below = NumberField(metadata=about("the loss of a step is below this"))
    gradient_norm_below = NumberField(minimum=0.0, metadata=about("its gradient norm is below this"))
    patience = IntegerField(
        minimum=1,
        metadata=about("so many epochs without a better loss: of validation where there is such data, else their mean"),
    )
    min_delta = NumberField(
        minimum=0.0,
        load_default=Stop().min_delta,
        metadata=about("by how much a loss must be lower to be better (0)"),
    )


class TrainingTraceSchema(PartSchema):
    """What is told of the steps."""

    made = Trace

    every = IntegerField(
        minimum=1,
        load_default=1,
        metadata=about("steps 1, 1 + every, 1 + 2 every, … are told, and the last unless it is cancelled (1)"),
    )
    include = WordsField(
        TRACED,
        load_default=frozenset(),
        metadata=about(
            "gradients before the update; parameters, optimizer state and updates after it; the factor each number "
            "of the gradient met; the samples of the batch"
        ),
    )
    checkpoint_every = IntegerField(
        minimum=1,
        metadata=about(
            "steps n, 2 n, 3 n, … are told too, each with a checkpoint: whoever loses the connection goes on from the "
            "last one (none)"
        ),
    )


class ValidationDataSchema(StrictSchema):
    """Data that is not trained on; its loss is told after each epoch, with training off."""

    inputs = TensorsField(required=True, metadata=about("as the request's"))
    targets = TensorsField(required=True, metadata=about("as the request's"))


class TrainingCheckpointSchema(StrictSchema):
    """Where a training stands: as an answer gave it."""

    step = IntegerField(required=True, minimum=0, maximum=MOST_STEPS, metadata=about("steps done"))
    seed = SeedField(required=True, metadata=about("of all random numbers"))
    parameters = ParametersField(required=True, metadata=about("tensors by layer and parameter name"))
    optimizer = WordField(
        [declaration.name for declaration in optimizers], required=True, metadata=about("whose state it is")
    )
    state = StateField(required=True, metadata=about("of the optimizer: numbers, and tensors like the parameters"))
    progress = StateField(
        trees=False, load_default=dict, metadata=about("what the stop rules remember of earlier steps")
    )
    schedule = StateField(trees=False, load_default=dict, metadata=about("what the schedule remembers"))


class LoadedValidation(TypedDict):
    """Data to validate on, loaded."""

    inputs: Tensors
    targets: Tensors


class LoadedTraining(LoadedNetwork):
    """A request that trains a network, loaded."""

    schedule: NotRequired[Selection[Schedule]]
    clip: NotRequired[Clip]
    steps: NotRequired[int]
    epochs: NotRequired[int]
    batch_size: NotRequired[int]
    shuffle: bool
    batches: NotRequired[tuple[Array, ...]]
    frozen: tuple[str, ...]
    validation: NotRequired[LoadedValidation]
    stop: NotRequired[Stop]
    trace: Trace


class LoadedTrain(LoadedTraining):
    """A request for one training, loaded. Parameters and seed of a checkpoint are those of the request."""

    optimizer: Selection[Optimizer]
    exclude: frozenset[str]
    checkpoint: NotRequired[Checkpoint]


class LoadedCompare(LoadedTraining):
    """A request for several trainings, loaded."""

    optimizers: tuple[Selection[Optimizer], ...]
    learning_rates: NotRequired[tuple[float, ...]]
    seeds: NotRequired[tuple[int, ...]]


class TrainingRequest(LossRequest[R]):
    """The common part of requests that train a network: everything but the optimizer."""

    fresh = frozenset((*LossRequest.tensors, "seed", "batches", "validation"))

    class Meta(LossRequest.Meta):
        exclude: tuple[str, ...] = ("include", "exclude")

    training = FlagField(
        load_default=True, metadata=about("whether dropout and its like are active while parameters are updated (true)")
    )
    reduction = WordField(TO_ONE_NUMBER, load_default="mean", metadata=about("how the samples' losses are combined"))
    schedule = ChoiceField(schedules, metadata=about("how the learning rate changes; by default it does not"))
    clip = ObjectField(GradientClipSchema(), metadata=about("how gradients are cut"))
    steps = IntegerField(minimum=1, maximum=MOST_STEPS, metadata=about("how many steps to make; or say epochs"))
    epochs = IntegerField(
        minimum=1, maximum=MOST_STEPS, metadata=about("how often to go through all samples; or say steps")
    )
    batch_size = IntegerField(minimum=1, metadata=about("samples of a step; by default all of them"))
    shuffle = FlagField(load_default=True, metadata=about("whether each epoch draws a new order of the samples (true)"))
    batches = BatchesField(
        metadata=about("indices of samples, a list for each step, from the first again after the last")
    )
    frozen = FrozenField(
        load_default=(), metadata=about("layers or parameters that stay as they are, as `hidden` or `hidden.kernel`")
    )
    validation = ObjectField(ValidationDataSchema(), metadata=about("data that is not trained on"))
    stop = ObjectField(TrainingStopSchema(), metadata=about("when to stop early"))

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """What does not fit together, and tensors in the precision that is computed in."""
        errors = misfits(loaded)
        if errors:
            raise ValidationError(errors)
        loaded = super().finish(loaded)
        if loaded["dtype"] == "float32" and "validation" in loaded:
            loaded["validation"] = self._narrowed_validation(loaded, loaded["validation"])
        return loaded

    def _narrowed_validation(self, loaded: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
        try:
            return {key: self.narrowed(loaded, key, value) for key, value in validation.items()}
        except ValidationError as error:
            raise ValidationError({"validation": error.messages}) from None


class TrainRequest(TrainingRequest[LoadedTrain]):
    """A network, data, a loss, and how to descend on it."""

    fresh = TrainingRequest.fresh | {"checkpoint"}
    elsewhere = MappingProxyType(
        dict(WITH_A_LOSS)
        | {option.name: "optimizer" for declaration in optimizers for option in declaration.options}
        | dict.fromkeys(TrainingTraceSchema().load_fields, "trace")
        | dict.fromkeys(TrainingStopSchema().load_fields, "stop")
    )

    class Meta(TrainingRequest.Meta):
        exclude = ("include",)

    optimizer = ChoiceField(optimizers, required=True, metadata=about("the rule of the updates"))
    exclude = WordsField(  # type: ignore[assignment]
        ("parameters", "checkpoint"),
        load_default=frozenset(),
        metadata=about("what to leave out of the end: parameters, which are {} then, the checkpoint"),
    )
    trace = ObjectField(
        TrainingTraceSchema(),
        load_default=partial(TrainingTraceSchema().load, {}),
        metadata=about("what is told of the steps"),
    )
    checkpoint = ObjectField(
        TrainingCheckpointSchema(),
        metadata=about(
            "of an earlier answer: the training goes on as if it had never stopped; parameters and seed of the "
            "checkpoint stand for those of the request"
        ),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Tensors in the precision that is computed in."""
        loaded = super().finish(loaded)
        if "checkpoint" in loaded:
            given = loaded["checkpoint"]
            checkpoint = Checkpoint(**(_narrowed_checkpoint(given) if loaded["dtype"] == "float32" else given))
            loaded |= {"checkpoint": checkpoint, "parameters": checkpoint.parameters, "seed": checkpoint.seed}
        return loaded


def _narrowed_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = narrow(checkpoint["parameters"], "parameters")
        trees = {name: item for name, item in checkpoint["state"].items() if isinstance(item, dict)}
        return checkpoint | {"parameters": parameters, "state": checkpoint["state"] | narrow(trees, "state")}
    except ValidationError as error:
        raise ValidationError({"checkpoint": error.messages}) from None


def misfits(given: Mapping[str, Any]) -> dict[str, list[Message]]:
    """What is missing or too much among the keys given, by key."""
    errors = {}
    if ("steps" in given) == ("epochs" in given):
        errors["steps"] = [Message("is required, or epochs" if "steps" not in given else "came with epochs; send one")]
    if "batches" in given and "batch_size" in given:
        errors["batch_size"] = [Message("came with batches, which say how many samples each step takes; send one")]
    return errors


class SeedsField(StrictField):
    """A list of seeds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = SeedField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[int, ...]:
        seeds = whole(value)
        if not isinstance(seeds, list) or not 0 < len(seeds) <= MOST_TRAININGS:
            raise self.refuse(f"a list of 1 to {MOST_TRAININGS} seeds", seeds)
        return tuple(read_each(enumerate(seeds), self.seed.deserialize).values())

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(self.seed.json_schema(components), minItems=1, maxItems=MOST_TRAININGS)


class ComparisonTraceSchema(PartSchema):
    """At which steps curves are told."""

    made = Trace

    every = IntegerField(
        minimum=1, load_default=1, metadata=about("steps 1, 1 + every, 1 + 2 every, … and the last are told (1)")
    )


class CompareRequest(TrainingRequest[LoadedCompare]):
    """A network, data, a loss, and several ways to descend on it."""

    elsewhere = MappingProxyType(
        {key: place for key, place in WITH_A_LOSS.items() if key != "optimizer"}
        | {option.name: "optimizers" for declaration in optimizers for option in declaration.options}
        | dict.fromkeys(ComparisonTraceSchema().load_fields, "trace")
        | dict.fromkeys(TrainingStopSchema().load_fields, "stop")
        | {"checkpoint": "/v1/train", "include": "/v1/train"}
    )

    optimizers = OptimizersField(optimizers, required=True, metadata=about("each is run on its own"))
    learning_rates = NumbersField(
        minimum=0.0, metadata=about("each optimizer is run with each of these instead of its own")
    )
    seeds = SeedsField(metadata=about("everything is run with each of these instead of seed"))
    trace = ObjectField(
        ComparisonTraceSchema(),
        load_default=partial(ComparisonTraceSchema().load, {}),
        metadata=about("at which steps curves are told"),
    )


class TreeOrNumberField(StrictField):
    """A number, or tensors by layer and parameter name, in an answer."""

    def json_schema(self, components: Components) -> JSONSchema:
        return {"anyOf": [{"type": "number"}, tree_answer_schema(components)]}


class CheckpointAnswerSchema(StrictSchema):
    """Where the training stands: send it as `checkpoint` to go on."""

    step = fields.Integer(required=True)
    seed = fields.Integer(required=True)
    parameters = ParametersAnswerField(required=True)
    optimizer = fields.String(required=True)
    state = fields.Dict(keys=fields.String(), values=TreeOrNumberField(), required=True)
    progress = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    schedule = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)


class TrainingStepSchema(StrictSchema):
    """One step: loss and gradients before its update, parameters and state after it."""

    step = fields.Integer(required=True, metadata=about("counted from 1, those before a checkpoint included"))
    epoch = fields.Integer(required=True, metadata=about("counted from 1"))
    loss = fields.Float(required=True, allow_none=True, metadata=about("of the batch, with regularisation"))
    learning_rate = fields.Float(required=True, allow_none=True, metadata=about("after the schedule"))
    gradient_norm = fields.Float(
        required=True, allow_none=True, metadata=about("Euclidean norm over all gradients together, before clipping")
    )
    validation_loss = fields.Float(
        allow_none=True, metadata=about("after the last epoch that ended since the step told before")
    )
    batch = TensorAnswerField(metadata=about("indices of its samples"))
    gradients = ParametersAnswerField(metadata=about("dL/d(parameter), before clipping and weight decay"))
    effective_learning_rate = TreeOrNumberField(
        metadata=about(
            "what each number of the gradient, clipped and decayed, or of its running average counted in the update"
        )
    )
    updates = ParametersAnswerField(metadata=about("parameters after the step minus those before"))
    parameters = ParametersAnswerField(metadata=about("after the step"))
    state = fields.Dict(
        keys=fields.String(), values=TreeOrNumberField(), metadata=about("of the optimizer, after the step")
    )
    checkpoint = fields.Nested(
        CheckpointAnswerSchema,
        metadata=about("after the step, as `trace.checkpoint_every` asks; absent where numbers are not finite"),
    )


class TrainSummary(StrictSchema):
    """How a training ended."""

    dtype = fields.String(required=True)
    status = fields.String(
        required=True, metadata=about("; ".join(f"{name}: {meaning}" for name, meaning in STATUSES.items()))
    )
    reason = fields.String(required=True, metadata=about("why it ended, in words and numbers"))
    steps_done = fields.Integer(required=True, metadata=about("those before a checkpoint included"))
    epochs_done = fields.Integer(required=True, metadata=about("the last one may be unfinished"))
    loss = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("after the last step, over all samples, as the next sees it; null: not finite, or no time left"),
    )
    validation_loss = fields.Float(allow_none=True, metadata=about("after the last step"))
    parameters = ParametersAnswerField(required=True, metadata=about("after the last step; {} if excluded"))
    checkpoint = fields.Nested(
        CheckpointAnswerSchema,
        metadata=about("send it as `checkpoint` to go on; absent where numbers are not finite, or if excluded"),
    )
    finite = finite_field()
    warnings = warnings_field()


class TrainResponse(TrainSummary):
    """A trace of a training, and how it ended. Streams send the steps one by one and the rest, without them, last."""

    steps = fields.List(fields.Nested(TrainingStepSchema), required=True)


class ComparisonCurvesSchema(StrictSchema):
    """A number for each entry of `steps`; null where the run made no such step, or had no such number."""

    loss = TensorAnswerField(required=True)
    gradient_norm = TensorAnswerField(required=True)
    learning_rate = TensorAnswerField(required=True)
    validation_loss = TensorAnswerField(metadata=about("where there is data for it"))


class ComparisonRowSchema(StrictSchema):
    """One run: what tells it from the others, and where it ended."""

    optimizer = fields.Dict(required=True, metadata=about("with all its options"))
    seed = fields.Integer(required=True)
    status = fields.String(required=True, metadata=about("as of `/v1/train`"))
    reason = fields.String(required=True)
    steps_done = fields.Integer(required=True)
    loss = fields.Float(required=True, allow_none=True, metadata=about("after the last step, over all samples"))
    best_loss = fields.Float(required=True, allow_none=True, metadata=about("the lowest that any step found"))
    best_step = fields.Integer(required=True, metadata=about("which one; 0: none"))
    validation_loss = fields.Float(allow_none=True, metadata=about("after the last step"))


class CompareResponse(StrictSchema):
    """Curves of several runs over the same steps, and a table of where each ended."""

    dtype = fields.String(required=True)
    best = fields.Integer(required=True, allow_none=True, metadata=about("index of the run with the lowest loss"))
    table = fields.List(fields.Nested(ComparisonRowSchema), required=True, metadata=about("a row for each run"))
    warnings = fields.List(
        fields.Nested(AnswerWarningSchema),
        required=True,
        metadata=about("of the network and the data, which all runs share"),
    )
    steps = fields.List(fields.Integer(), required=True, metadata=about("the steps that curves are told at"))
    curves = fields.List(fields.Nested(ComparisonCurvesSchema), required=True, metadata=about("of each run"))
