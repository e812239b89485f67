"""The requests of `/v1/train` and `/v1/train/compare`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError

from schemas.common import MOST_STEPS, TO_ONE_NUMBER, ChoicesField, GradientClipSchema, PartSchema, Trace, about
from schemas.components import Components, JSONSchema, by_name, list_of
from schemas.declared import ChoiceField
from schemas.evaluation import WITH_A_LOSS, LoadedNetwork, LossRequest, Tensors, shards_field
from schemas.fields import FlagField, IntegerField, NumberField, NumbersField, SeedField, WordField, WordsField
from schemas.messages import Message, listed, plain
from schemas.requests import R
from schemas.strict import ObjectField, StrictField, StrictSchema, read_each
from schemas.tensor import ParametersField, TensorsField, narrow, tree_schema
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


OF_A_SCHEDULE = {
    option.name: "schedule"
    for declaration in schedules
    for option in declaration.options
    if option.name not in ("alpha", "mode", "unit", "factor", "threshold", "values")
}
"""Options of schedules that callers may look for beside 'schedule'; others have names that may mean anything."""


class BatchesField(StrictField):
    """The batches of a training: a list of sample indices for each step."""

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
    """Return a list with integers as Python integers: in large bodies they come as arrays of floats."""
    if (
        isinstance(value, np.ndarray)
        and bool((value == np.floor(value)).all())
        and np.abs(value).max() <= LARGEST_EXACT_INTEGER
    ):
        return value.astype(np.int64).tolist()
    return plain(value)


class FrozenField(StrictField):
    """The parts that a training leaves unchanged: names of layers, or of parameters as `layer.parameter`."""

    MOST = 10_000

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > self.MOST:
            raise self.refuse("a list of names, such as 'hidden' or 'hidden.kernel'", value, instead=listed(value))
        if not all(isinstance(name, str) for name in value):
            raise self.refuse("a list of names", value)
        return tuple(value)

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of({"type": "string"}, maxItems=self.MOST)


class StateField(StrictField):
    """The state of an optimizer by name: numbers and, with `trees`, tensors by layer and parameter name."""

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
    """The conditions that end a training early; the step that meets one is still made."""

    made = Stop

    loss_below = NumberField(metadata=about("the loss of a step is below this"))
    gradient_norm_below = NumberField(minimum=0.0, metadata=about("its gradient norm is below this"))
    patience = IntegerField(
        minimum=1,
        metadata=about(
            "stop after so many epochs without a better loss: the validation loss if there is such data, else "
            "the mean of the epoch"
        ),
    )
    min_delta = NumberField(
        minimum=0.0, load_default=Stop().min_delta, metadata=about("the least decrease that makes a loss better (0)")
    )


class TrainingTraceSchema(PartSchema):
    """The choice of the steps of a training in the response, and of the quantities of each."""

    made = Trace

    every = IntegerField(
        minimum=1,
        load_default=1,
        metadata=about("record steps 1, 1 + every, 1 + 2 every, … and the last unless it is cancelled (1)"),
    )
    include = WordsField(
        TRACED,
        load_default=frozenset(),
        metadata=about(
            "more to record: gradients before the update; parameters, optimizer state and updates after it; "
            "the factor between each number of the gradient and its update; the samples of the batch"
        ),
    )
    checkpoint_every = IntegerField(
        minimum=1,
        metadata=about(
            "also record steps n, 2 n, 3 n, …, each with a checkpoint: a client that loses the connection "
            "continues from the last one (none)"
        ),
    )


class ValidationDataSchema(StrictSchema):
    """Data on which only the loss is computed, after each epoch, with dropout and similar layers off."""

    inputs = TensorsField(required=True, metadata=about("like those of the request"))
    targets = TensorsField(required=True, metadata=about("like those of the request"))


class TrainingCheckpointSchema(StrictSchema):
    """A state of a training, as a response gave it, from which to continue."""

    step = IntegerField(required=True, minimum=0, maximum=MOST_STEPS, metadata=about("number of steps made"))
    seed = SeedField(required=True, metadata=about("seed of all random numbers"))
    parameters = ParametersField(required=True, metadata=about("tensors by layer and parameter name"))
    optimizer = WordField(
        [declaration.name for declaration in optimizers], required=True, metadata=about("the optimizer of the state")
    )
    state = StateField(required=True, metadata=about("of the optimizer: numbers, and tensors like the parameters"))
    progress = StateField(trees=False, load_default=dict, metadata=about("state of the stop rules"))
    schedule = StateField(trees=False, load_default=dict, metadata=about("values that the schedule remembers"))


class LoadedValidation(TypedDict):
    """Validation data of a training, once validated."""

    inputs: Tensors
    targets: Tensors


class LoadedTraining(LoadedNetwork):
    """The common keys of validated requests that train a network."""

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
    """A validated request of `/v1/train`. Parameters and seed are those of the checkpoint, if there is one."""

    optimizer: Selection[Optimizer]
    exclude: frozenset[str]
    checkpoint: NotRequired[Checkpoint]


class LoadedCompare(LoadedTraining):
    """A validated request of `/v1/train/compare`."""

    optimizers: tuple[Selection[Optimizer], ...]
    learning_rates: NotRequired[tuple[float, ...]]
    seeds: NotRequired[tuple[int, ...]]


class TrainingRequest(LossRequest[R]):
    """The schema of what requests that train a network have in common: all but the optimizer."""

    fresh = frozenset((*LossRequest.tensors, "seed", "batches", "validation"))

    class Meta(LossRequest.Meta):
        exclude: tuple[str, ...] = ("include", "exclude")

    training = FlagField(
        load_default=True,
        metadata=about("whether dropout and similar layers are active while parameters are updated (true)"),
    )
    reduction = WordField(
        TO_ONE_NUMBER, "ReductionToNumber", load_default="mean", metadata=about("how the samples' losses are combined")
    )
    schedule = ChoiceField(schedules, metadata=about("how the learning rate changes; by default it does not"))
    clip = ObjectField(GradientClipSchema(), metadata=about("clipping of the gradients"))
    steps = IntegerField(minimum=1, maximum=MOST_STEPS, metadata=about("number of steps; or send epochs"))
    epochs = IntegerField(minimum=1, maximum=MOST_STEPS, metadata=about("passes through all samples; or send steps"))
    batch_size = IntegerField(minimum=1, metadata=about("number of samples in a step; by default all of them"))
    shuffle = FlagField(load_default=True, metadata=about("whether each epoch draws a new order of the samples (true)"))
    batches = BatchesField(metadata=about("indices of samples, a list for each step, again and again"))
    frozen = FrozenField(
        load_default=(),
        metadata=about("layers or parameters that stay as they are, such as `hidden` or `hidden.kernel`"),
    )
    validation = ObjectField(ValidationDataSchema(), metadata=about("data that is not trained on"))
    stop = ObjectField(TrainingStopSchema(), metadata=about("conditions that end the training early"))
    shards = shards_field()

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check that keys fit together, and convert tensors to the dtype."""
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
    """A request for one training."""

    fresh = TrainingRequest.fresh | {"checkpoint"}
    elsewhere = MappingProxyType(
        {key: place for key, place in WITH_A_LOSS.items() if key != "tolerance"}
        | OF_A_SCHEDULE
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
        metadata=about("parts to leave out at the end: parameters, which are {} then; the checkpoint"),
    )
    trace = ObjectField(
        TrainingTraceSchema(),
        load_default=partial(TrainingTraceSchema().load, {}),
        metadata=about("the part of each step to record"),
    )
    checkpoint = ObjectField(
        TrainingCheckpointSchema(),
        metadata=about(
            "from an earlier response: the training continues as if it had never stopped; parameters and seed "
            "of the checkpoint replace those of the request"
        ),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert tensors to the dtype, and load the checkpoint."""
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
    """Return the errors, by key, for keys that a training lacks or has no use for."""
    errors = {}
    if ("steps" in given) == ("epochs" in given):
        errors["steps"] = [Message("is required, or epochs" if "steps" not in given else "came with epochs; send one")]
    if "batches" in given and "batch_size" in given:
        errors["batch_size"] = [Message("came with batches, which say how many samples each step takes; send one")]
    return errors


class SeedsField(StrictField):
    """A list of seeds of random numbers; each stands for a training of its own."""

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
    """The steps at which a comparison records its curves."""

    made = Trace

    every = IntegerField(minimum=1, load_default=1, metadata=about("record steps 1, 1 + every, … and the last (1)"))


class CompareRequest(TrainingRequest[LoadedCompare]):
    """A request to train a network with several optimizers, learning rates and seeds."""

    elsewhere = MappingProxyType(
        {key: place for key, place in WITH_A_LOSS.items() if key not in ("optimizer", "tolerance")}
        | OF_A_SCHEDULE
        | {option.name: "optimizers" for declaration in optimizers for option in declaration.options}
        | dict.fromkeys(ComparisonTraceSchema().load_fields, "trace")
        | dict.fromkeys(TrainingStopSchema().load_fields, "stop")
        | {"checkpoint": "/v1/train", "include": "/v1/train"}
    )

    optimizers = ChoicesField(optimizers, required=True, metadata=about("optimizers, each of which trains alone"))
    learning_rates = NumbersField(minimum=0.0, metadata=about("learning rates; each optimizer runs with each of them"))
    seeds = SeedsField(metadata=about("seeds; everything runs with each of them instead of `seed`"))
    trace = ObjectField(
        ComparisonTraceSchema(),
        load_default=partial(ComparisonTraceSchema().load, {}),
        metadata=about("the steps at which curves are recorded"),
    )
