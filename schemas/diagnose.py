"""What `/v1/gradients/diagnose` takes and gives."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError, fields, validates_schema

from schemas.common import TO_ONE_NUMBER, PartSchema, about, finite_field, language_field, warnings_field
from schemas.components import Components, JSONSchema, list_of
from schemas.declared import ChoiceField
from schemas.evaluation import WITH_A_LOSS, LossField, Tensors, Tree
from schemas.fields import (
    FlagField,
    IntegerField,
    Message,
    ObjectField,
    StrictField,
    StrictSchema,
    WordField,
    hint,
    read_each,
)
from schemas.stored import NetworkOrIdField
from schemas.tensor import Array, ParametersField, TensorAnswerField, TensorsField, narrow
from schemas.training import LoadedValidation, SeedsField, TrainingRequest, TrainingStepSchema, misfits
from service.engine.declarations import Selection
from service.engine.descent.loop import Stop
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.schedules import Schedule
from service.engine.descent.update import Clip
from service.engine.errors import MOST_ERRORS
from service.engine.insight.health.diagnosis import VERDICTS
from service.engine.network.activations import Activation, activations
from service.engine.network.definition import Definition
from service.engine.network.initializers import Initializer, initializers
from service.engine.network.losses import Loss, losses
from service.engine.network.objective import REDUCTIONS

MOST_TRACED = 100_000
"""Steps of a trace."""
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
"""Keys of a loaded request that are there whether they were sent or not."""


class TracedStep(NamedTuple):
    """A step of a trace, loaded."""

    step: int
    epoch: int
    loss: float
    gradient_norm: float | None
    validation_loss: float
    updates: Mapping[str, Mapping[str, Array]] | None
    parameters: Mapping[str, Mapping[str, Array]] | None


class TraceField(StrictField):
    """The `steps` of an answer of `/v1/train`."""

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
                detail = f"comes after step {numbers[place - 1]}, and steps are told in their order"
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
        count: JSONSchema = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
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
    if type(value) is not int or not 0 < value < 2**53:
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


class ChoicesField(ChoiceField):
    """A list of blocks of one kind."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_CHOICES:
            raise self.refuse(f"a list of 1 to {MOST_CHOICES} {self.registry.plural}", value)
        read = super()._deserialize
        return tuple(read_each(enumerate(value), lambda entry: read(entry, attr, data, **kwargs)).values())

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(super().json_schema(components), minItems=1, maxItems=MOST_CHOICES)


class DepthsField(StrictField):
    """A list of numbers of hidden layers."""

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
    """What is swept over, loaded."""

    depths: tuple[int, ...]
    activations: tuple[Selection[Activation], ...]
    initializers: tuple[Selection[Initializer], ...]
    seeds: tuple[int, ...]
    units: int
    features: int | None = None
    samples: int | None = None
    outputs: int | None = None


class DiagnoseSweepSchema(PartSchema):
    """Networks of dense layers, one for each combination of what is listed."""

    made = LoadedSweep

    depths = DepthsField(required=True, metadata=about("numbers of hidden layers"))
    activations = ChoicesField(activations, required=True, metadata=about("of the hidden layers"))
    initializers = ChoicesField(
        initializers,
        load_default=lambda: (initializers.select("glorot_uniform"),),
        metadata=about("of the kernels (glorot_uniform)"),
    )
    seeds = SeedsField(load_default=(0,), metadata=about("each network is started with each of them ([0])"))
    units = IntegerField(minimum=1, maximum=MOST_UNITS, load_default=32, metadata=about("of each hidden layer (32)"))
    features = IntegerField(
        minimum=1, maximum=MOST_UNITS, metadata=about("of the samples that are drawn where no inputs are sent (units)")
    )
    samples = IntegerField(
        minimum=1, maximum=MOST_SAMPLES, metadata=about("that are drawn where no inputs are sent (64)")
    )
    outputs = IntegerField(
        minimum=1,
        maximum=MOST_UNITS,
        metadata=about("of the output layer, where no targets are sent (1, or 2 classes)"),
    )


class LoadedDiagnose(TypedDict):
    """A request for a diagnosis, loaded: of a network, of its training where there is an optimizer, of a trace, or of a
    sweep. The first two have the keys of a network or of a training, the others have not."""

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
    """What `/v1/gradients` takes; with an optimizer what `/v1/train` takes; or a trace, or a sweep, alone."""

    fresh = TrainingRequest.fresh | {"trace"}
    elsewhere = MappingProxyType(
        {key: place for key, place in WITH_A_LOSS.items() if key not in (*OF_A_TRAINING, "optimizer", "trace")}
        | {option.name: "optimizer" for declaration in optimizers for option in declaration.options}
        | dict.fromkeys(DiagnoseSweepSchema().load_fields, "sweep")
    )

    class Meta(TrainingRequest.Meta):
        exclude = ("include", "exclude")

    network = NetworkOrIdField(metadata=about("the architecture"))
    inputs = TensorsField(metadata=about("one row per sample; by name where the network names its inputs"))
    targets = TensorsField(
        metadata=about("shaped like the outputs, or class indices; by output name where there are several")
    )
    loss = LossField(losses, metadata=about("compares outputs with targets; one for all outputs, or one by each name"))
    reduction = WordField(REDUCTIONS, load_default="mean", metadata=about("how the samples' losses are combined"))
    training = FlagField(
        metadata=about("whether dropout and its like are active (false, and true where there is an optimizer)")
    )
    optimizer = ChoiceField(
        optimizers, metadata=about("train the network and diagnose the training, by the keys of /v1/train")
    )
    trace = TraceField(
        metadata=about("diagnose a training that was made before: the steps of an answer of /v1/train, in their order")
    )
    sweep = ObjectField(
        DiagnoseSweepSchema(),
        metadata=about("diagnose a network at its start for each combination of depth, activation and initializer"),
    )
    language = language_field()

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Tensors in the precision that is computed in."""
        errors = _misfits([key for key in loaded if key not in ALWAYS_THERE])
        if "optimizer" in loaded and loaded["reduction"] not in TO_ONE_NUMBER:
            errors["reduction"] = [Message("a training needs one number: mean or sum", TO_ONE_NUMBER)]
        if errors:
            raise ValidationError(errors)
        loaded.setdefault("training", "optimizer" in loaded)
        if "trace" in loaded:
            return loaded
        if "network" in loaded:
            # What a training needs beside tensors is looked at above.
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
        """Tell what does not fit together beside what is wrong by itself."""
        if isinstance(original, Mapping):
            errors = _misfits(original)
            if errors:
                raise ValidationError(errors)


def _misfits(given: Collection[str]) -> dict[str, list[Message]]:
    """What is missing or too much among the keys given, by key."""
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


class FindingSchema(StrictSchema):
    """Something that is wrong, or worth knowing, with its number and what to do."""

    code = fields.String(required=True, metadata=about("its name in `/v1/findings`"))
    severity = fields.String(
        required=True,
        metadata=about("note: worth knowing; warning: learning is slow or fragile; problem: something prevents it"),
    )
    layer = fields.String(metadata=about("that it is about, if it is about one"))
    quantity = fields.String(metadata=about("what it was found in"))
    step = fields.Integer(metadata=about("of the training, at which it happened"))
    text = fields.String(required=True, metadata=about("what was found, with its numbers"))
    meaning = fields.String(required=True, metadata=about("what that means"))
    advice = fields.String(required=True, metadata=about("what to try"))
    value = fields.Float(allow_none=True, metadata=about("the number that was judged, if there is one"))
    threshold = fields.Float(allow_none=True, metadata=about("from which on it has this severity"))
    source = fields.String(required=True, metadata=about("where the threshold comes from"))
    networks = fields.Integer(metadata=about("of a sweep: how many have it; the rest is about the first of them"))


class LayerHealthSchema(StrictSchema):
    """The numbers of one layer."""

    name = fields.String(required=True)
    type = fields.String(required=True)
    activation = fields.String(allow_none=True, required=True)
    mean = fields.Float(required=True, allow_none=True, metadata=about("of its outputs"))
    deviation = fields.Float(required=True, allow_none=True, metadata=about("their standard deviation"))
    delta_norm = fields.Float(required=True, allow_none=True, metadata=about("Euclidean norm of dL/dz"))
    gradient_norm = fields.Float(
        required=True, allow_none=True, metadata=about("over its trained parameters; null: it has none")
    )
    weight_norm = fields.Float(required=True, allow_none=True, metadata=about("of its largest matrix of parameters"))
    ratio = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("its delta's norm beside that of the last layer of the chain; null: it is not in the chain"),
    )
    saturated_left = fields.Float(
        required=True, allow_none=True, metadata=about("share of pre-activations with small slopes; null: none can be")
    )
    saturated_right = fields.Float(required=True, allow_none=True)
    dead = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("share of units that are off for every sample; null: none can be"),
    )


class LayerChainSchema(StrictSchema):
    """The way with most layers of weights from the inputs to an output."""

    layers = fields.List(fields.String(), required=True)
    ratio = fields.Float(
        required=True, allow_none=True, metadata=about("norm of the first delta beside that of the last")
    )
    factor = fields.Float(
        required=True, allow_none=True, metadata=about("what each layer multiplies the norm by, in geometric mean")
    )


class TrainingCurveSchema(StrictSchema):
    """A number for each of some steps."""

    steps = fields.List(fields.Integer(), required=True)
    loss = TensorAnswerField(required=True)
    gradient_norm = TensorAnswerField(required=True)


class DiagnosedTrainingSchema(StrictSchema):
    """How a training went."""

    status = fields.String(metadata=about("as of `/v1/train`"))
    reason = fields.String()
    steps_done = fields.Integer(required=True)
    loss = fields.Float(allow_none=True, metadata=about("after the last step"))
    curve = fields.Nested(TrainingCurveSchema, required=True)


class SweepRowSchema(StrictSchema):
    """All seeds of a depth, an activation and an initializer together."""

    depth = fields.Integer(required=True)
    activation = fields.Dict(required=True)
    initializer = fields.Dict(required=True)
    networks = fields.Integer(required=True)
    ratio = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("norm of the first layer's delta beside that of the last, the median over the seeds"),
    )
    factor = fields.Float(required=True, allow_none=True, metadata=about("of each layer, the median over the seeds"))
    verdicts = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    findings = fields.Dict(
        keys=fields.String(), values=fields.Integer(), required=True, metadata=about("networks by code; without notes")
    )


class ShortFindingSchema(StrictSchema):
    """A finding of one network of a sweep, without its words."""

    code = fields.String(required=True)
    severity = fields.String(required=True)
    layer = fields.String()
    value = fields.Float(allow_none=True)
    threshold = fields.Float(allow_none=True)


class SweepRunSchema(StrictSchema):
    """One network of a sweep; lists have a number for each layer, the output layer last."""

    depth = fields.Integer(required=True)
    activation = fields.Dict(required=True)
    initializer = fields.Dict(required=True)
    seed = fields.Integer(required=True)
    verdict = fields.String(required=True)
    loss = fields.Float(required=True, allow_none=True)
    ratio = fields.Float(required=True, allow_none=True)
    factor = fields.Float(required=True, allow_none=True)
    gradient_norms = fields.List(fields.Float(allow_none=True), required=True)
    delta_norms = fields.List(fields.Float(allow_none=True), required=True)
    variances = fields.List(fields.Float(allow_none=True), required=True, metadata=about("of the outputs"))
    saturated = fields.List(fields.Float(allow_none=True), required=True, metadata=about("share, on either side"))
    dead = fields.List(fields.Float(allow_none=True), required=True, metadata=about("share of units"))
    findings = fields.List(fields.Nested(ShortFindingSchema), required=True)


class DiagnoseStepSchema(StrictSchema):
    """A line of a stream: a finding, or a network of a sweep."""

    step = fields.Integer(required=True, metadata=about("counted from 1"))
    finding = fields.Nested(FindingSchema)
    run = fields.Nested(SweepRunSchema)


class DiagnoseSummary(StrictSchema):
    """A verdict, and the numbers it comes from."""

    status = fields.String(required=True, metadata=about("completed, or cancelled where there was no time for all"))
    reason = fields.String(metadata=about("of a sweep or a training: why it ended"))
    verdict = fields.String(required=True, metadata=about(f"{', '.join(VERDICTS)}: by the gravest finding"))
    text = fields.String(required=True)
    dtype = fields.String()
    loss = fields.Float(allow_none=True)
    gradient_norm = fields.Float(allow_none=True)
    chain = fields.Nested(LayerChainSchema)
    layers = fields.List(
        fields.Nested(LayerHealthSchema), metadata=about("at the parameters as they are sent or start")
    )
    training = fields.Nested(DiagnosedTrainingSchema)
    networks = fields.Integer(metadata=about("of a sweep: how many were diagnosed"))
    table = fields.List(fields.Nested(SweepRowSchema))
    finite = finite_field()
    warnings = warnings_field()


class DiagnoseResponse(DiagnoseSummary):
    """Findings, the gravest first, and the numbers they come from. Streams send them one by one, and the rest last."""

    findings = fields.List(fields.Nested(FindingSchema), required=True)
    runs = fields.List(fields.Nested(SweepRunSchema), metadata=about("the networks of a sweep"))
