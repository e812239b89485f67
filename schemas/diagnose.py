"""The request of `/v1/gradients/diagnose`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError, validates_schema

from schemas.common import TO_ONE_NUMBER, ChoicesField, PartSchema, about, language_field
from schemas.components import Components, JSONSchema, list_of
from schemas.declared import ChoiceField
from schemas.evaluation import WITH_A_LOSS, LossField, Tensors, Tree
from schemas.fields import FlagField, IntegerField, WordField
from schemas.messages import Message, hint
from schemas.stored import NetworkOrIdField
from schemas.strict import ObjectField, StrictField, read_each
from schemas.tensor import ParametersField, TensorsField, narrow
from schemas.training import LoadedValidation, SeedsField, TrainingRequest, misfits
from schemas.training_answers import TrainingStepSchema
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.loop import Stop
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.scheduler import Schedule
from service.engine.descent.update import Clip
from service.engine.errors import MOST_ERRORS
from service.engine.network.activations import Activation, activations
from service.engine.network.definition import Definition
from service.engine.network.initializers import Initializer, initializers
from service.engine.network.losses import Loss, losses
from service.engine.network.total_loss import REDUCTIONS
from service.engine.options import LARGEST_EXACT_INTEGER

MOST_TRACED = 100_000
"""The number of steps of a trace, at most."""
MOST_CHOICES = 100
MOST_DEPTH = 1_000
MOST_UNITS = 16_384
MOST_SAMPLES = 65_536

OF_A_NETWORK = (
    *("network", "parameters", "inputs", "targets", "loss", "loss_weights", "sample_weights", "normalize_weights"),
    "training",
)
OF_A_TRAINING = (
    *("steps", "epochs", "batch_size", "shuffle", "batches", "schedule", "clip", "frozen", "validation", "stop"),
)
WITH_A_SWEEP = frozenset(("inputs", "targets", "loss"))
ALWAYS_THERE = frozenset(("seed", "dtype", "reduction", "shuffle", "frozen", "training"))
"""Keys that a loaded request always has."""


class TracedStep(NamedTuple):
    """One step of an earlier training, as a trace gave it."""

    step: int
    epoch: int
    loss: float
    gradient_norm: float | None
    validation_loss: float
    updates: Mapping[str, Mapping[str, Array]] | None
    parameters: Mapping[str, Mapping[str, Array]] | None


class TraceField(StrictField):
    """The `steps` of a response of `/v1/train`, sent back to be diagnosed."""

    known = tuple(TrainingStepSchema().fields)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tree = ParametersField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[TracedStep, ...]:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_TRACED:
            raise self.refuse(f"a list of 1 to {MOST_TRACED} steps, as the answer of /v1/train has them", value)
        steps = tuple(read_each(enumerate(value), self._step).values())
        numbers = [step.step for step in steps]
        for place in range(1, len(numbers)):
            if steps[place].step == 0:
                continue
            if numbers[place] <= numbers[place - 1]:
                detail = f"comes after step {numbers[place - 1]}, and steps come in their order"
                raise ValidationError({place: {"step": [Message(detail)]}})
        return steps

    def _step(self, entry: Any) -> TracedStep:
        if not isinstance(entry, Mapping):
            raise self.refuse('an object, such as {"step": 1, "loss": 0.5, "gradient_norm": 0.1}', entry)
        errors: dict[str, Any] = {}
        for key in list(entry)[:MOST_ERRORS]:
            if key not in self.known:
                errors[str(key)[:128]] = [Message(f"unknown key{hint(key, self.known)}", self.known)]
        step = _whole(entry.get("step"), "step", errors)
        epoch = _whole(entry.get("epoch", step), "epoch", errors)
        if "loss" not in entry:
            errors["loss"] = [Message("is required: a number, or null where it is not finite")]
        loss = _number(entry.get("loss"), "loss", errors)
        norm = _number(entry["gradient_norm"], "gradient_norm", errors) if "gradient_norm" in entry else None
        validation = _number(entry.get("validation_loss"), "validation_loss", errors)
        trees: dict[str, Any] = {}
        for key in ("updates", "parameters"):
            if key in entry:
                try:
                    trees[key] = self.tree.deserialize(entry[key])
                except ValidationError as error:
                    errors[key] = error.messages
        if errors:
            raise ValidationError(errors)
        return TracedStep(step, epoch, loss, norm, validation, trees.get("updates"), trees.get("parameters"))

    def json_schema(self, components: Components) -> JSONSchema:
        number: JSONSchema = {"type": ["number", "null"]}
        count: JSONSchema = {"type": "integer", "minimum": 1, "maximum": LARGEST_EXACT_INTEGER}
        step: JSONSchema = {
            "type": "object",
            "properties": {
                "step": count,
                "epoch": count,
                "loss": number,
                "gradient_norm": number,
                "validation_loss": number,
                "learning_rate": number,
            },
            "required": ["step", "loss"],
        }
        return list_of(step, minItems=1, maxItems=MOST_TRACED)


def _whole(value: Any, key: str, errors: dict[str, Any]) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 < value <= LARGEST_EXACT_INTEGER:
        errors[key] = [Message("is required: an integer from 1 up" if value is None else "takes an integer from 1 up")]
        return 0
    return value


def _number(value: Any, key: str, errors: dict[str, Any]) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        errors[key] = [Message("takes a number, or null where it is not finite")]
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


class DepthsField(StrictField):
    """A list of depths: each a number of hidden layers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = IntegerField(minimum=1, maximum=MOST_DEPTH)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[int, ...]:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list) or not 0 < len(value) <= MOST_CHOICES:
            raise self.refuse(f"a list of 1 to {MOST_CHOICES} depths", value)
        return tuple(read_each(enumerate(value), self.depth.deserialize).values())

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(self.depth.json_schema(components), minItems=1, maxItems=MOST_CHOICES)


class LoadedSweep(NamedTuple):
    """A validated sweep: lists of depths, activations, initializers and seeds to combine, and sizes."""

    depths: tuple[int, ...]
    activations: tuple[Selection[Activation], ...]
    initializers: tuple[Selection[Initializer], ...]
    seeds: tuple[int, ...]
    units: int
    features: int | None = None
    samples: int | None = None
    outputs: int | None = None


class DiagnoseSweepSchema(PartSchema):
    """A sweep over networks of dense layers: one network for each combination of the listed values."""

    made = LoadedSweep

    depths = DepthsField(required=True, metadata=about("numbers of hidden layers"))
    activations = ChoicesField(
        activations, MOST_CHOICES, required=True, metadata=about("activations of the hidden layers")
    )
    initializers = ChoicesField(
        initializers,
        MOST_CHOICES,
        load_default=lambda: (initializers.select("glorot_uniform"),),
        metadata={"description": "initializers of the kernels (glorot_uniform)", "default": ["glorot_uniform"]},
    )
    seeds = SeedsField(load_default=(0,), metadata=about("seeds; each network starts with each of them ([0])"))
    units = IntegerField(minimum=1, maximum=MOST_UNITS, load_default=32, metadata=about("units of hidden layers (32)"))
    features = IntegerField(
        minimum=1, maximum=MOST_UNITS, metadata=about("features of the random samples, if no inputs are sent (units)")
    )
    samples = IntegerField(
        minimum=1, maximum=MOST_SAMPLES, metadata=about("random samples, if no inputs are sent (64)")
    )
    outputs = IntegerField(
        minimum=1,
        maximum=MOST_UNITS,
        metadata=about("units of the output layer, if no targets are sent (1, or 2 classes)"),
    )


class LoadedDiagnose(TypedDict):
    """A validated request of `/v1/gradients/diagnose`: of a network, a training, a trace or a sweep."""

    seed: int
    dtype: str
    reduction: str
    training: bool
    shuffle: bool
    frozen: tuple[str, ...]
    network: NotRequired[Definition]
    parameters: NotRequired[Tree]
    inputs: NotRequired[Tensors]
    targets: NotRequired[Tensors]
    loss: NotRequired[Selection[Loss] | dict[str, Selection[Loss]]]
    loss_weights: NotRequired[dict[str, float]]
    sample_weights: NotRequired[Array]
    normalize_weights: NotRequired[bool]
    optimizer: NotRequired[Selection[Optimizer]]
    schedule: NotRequired[Selection[Schedule]]
    clip: NotRequired[Clip]
    steps: NotRequired[int]
    epochs: NotRequired[int]
    batch_size: NotRequired[int]
    batches: NotRequired[tuple[Array, ...]]
    validation: NotRequired[LoadedValidation]
    stop: NotRequired[Stop]
    trace: NotRequired[tuple[TracedStep, ...]]
    sweep: NotRequired[LoadedSweep]
    language: NotRequired[str]


class DiagnoseRequest(TrainingRequest[LoadedDiagnose]):
    """A request to diagnose a network, a training if there is an optimizer, a trace or a sweep."""

    fresh = TrainingRequest.fresh | {"trace"}
    elsewhere = MappingProxyType(
        {key: place for key, place in WITH_A_LOSS.items() if key not in (*OF_A_TRAINING, "optimizer", "trace")}
        | {option.name: "optimizer" for declaration in optimizers for option in declaration.options}
        | dict.fromkeys(DiagnoseSweepSchema().load_fields, "sweep")
    )

    class Meta(TrainingRequest.Meta):
        exclude = ("include", "exclude", "shards")

    network = NetworkOrIdField(metadata=about("the architecture"))
    inputs = TensorsField(metadata=about("a row for each sample; by name if the network names its inputs"))
    targets = TensorsField(metadata=about("shaped like the outputs, or class indices; by name if there are several"))
    loss = LossField(losses, metadata=about("the loss of outputs and targets; one for all outputs, or by output name"))
    reduction = WordField(
        REDUCTIONS, "Reduction", load_default="mean", metadata=about("how the samples' losses are combined")
    )
    training = FlagField(metadata=about("whether dropout and similar layers are active (true with an optimizer)"))
    optimizer = ChoiceField(optimizers, metadata=about("train the network as by /v1/train, and diagnose the training"))
    trace = TraceField(metadata=about("diagnose an earlier training: the steps of a response of /v1/train, in order"))
    sweep = ObjectField(
        DiagnoseSweepSchema(),
        metadata=about("diagnose a network at its start for each combination of depth, activation and initializer"),
    )
    language = language_field()

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check that keys fit together, and convert tensors to the dtype."""
        errors = _misfits([key for key in loaded if key not in ALWAYS_THERE])
        if "optimizer" in loaded and loaded["reduction"] not in TO_ONE_NUMBER:
            errors["reduction"] = [Message("a training needs one number: mean or sum", TO_ONE_NUMBER)]
        if errors:
            raise ValidationError(errors)
        loaded.setdefault("training", "optimizer" in loaded)
        if "trace" in loaded:
            return loaded
        if "network" in loaded:
            # The fields of a training beside tensors are checked above.
            return super(TrainingRequest, self).finish(loaded) | self._validation(loaded)
        for key in ("inputs", "targets"):
            if isinstance(loaded.get(key), dict):
                raise ValidationError(
                    {key: [Message("takes one tensor: the networks of a sweep have one input and output")]}
                )
        if loaded["dtype"] == "float32":
            loaded |= {key: narrow(loaded[key], key) for key in ("inputs", "targets") if key in loaded}
        return loaded

    def _validation(self, loaded: dict[str, Any]) -> dict[str, Any]:
        if loaded["dtype"] == "float32" and "validation" in loaded:
            return {"validation": self._narrowed_validation(loaded, loaded["validation"])}
        return {}

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _fit_together(self, loaded: dict[str, Any], original: Any, **kwargs: Any) -> None:
        """Refuse keys that do not fit together. This also runs if other fields are wrong, so that all is reported."""
        if isinstance(original, Mapping):
            errors = _misfits(self.without_defaults(original))
            if errors:
                raise ValidationError(errors)


def _misfits(given: Collection[str]) -> dict[str, list[Message]]:
    """Return the errors, by key, for keys that this kind of diagnosis lacks or has no use for."""
    chosen = [key for key in ("sweep", "trace", "optimizer") if key in given]
    errors: dict[str, list[Message]] = {}
    for key in chosen[1:]:
        errors[key] = [Message(f"has no use beside a {chosen[0]}; send one of them")]
    kind = chosen[0] if chosen else ""
    if kind in ("sweep", "trace"):
        useless = [key for key in OF_A_NETWORK if key in given and not (kind == "sweep" and key in WITH_A_SWEEP)]
        useless += [key for key in OF_A_TRAINING if key in given]
        errors |= {key: [Message(f"has no use beside a {kind}")] for key in useless}
        if kind == "sweep" and "targets" in given and "inputs" not in given:
            errors["inputs"] = [Message("are required beside targets; without both, samples are drawn")]
        return errors
    for key in ("network", "inputs", "targets", "loss"):
        if key not in given:
            other = "; or send a sweep, or a trace" if key == "network" else ""
            errors[key] = [Message(f"is required{other}")]
    if kind == "optimizer":
        errors |= misfits(dict.fromkeys(given))
    else:
        errors |= {
            key: [Message("has no use without an optimizer, which asks for a training")]
            for key in OF_A_TRAINING
            if key in given
        }
    return errors
