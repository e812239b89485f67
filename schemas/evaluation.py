"""The requests and responses of `/v1/forward` and `/v1/gradients`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

from marshmallow import ValidationError, fields

from schemas.common import about, finite_field, warnings_field
from schemas.components import Components, JSONSchema, by_name
from schemas.declared import ChoiceField, missing_type
from schemas.fields import MOST_NAMES, FlagField, IntegerField, NumbersByNameField, SeedField, WordField, WordsField
from schemas.messages import Message, plain
from schemas.parameter_files import PyTorchTree, file_bytes, resolved
from schemas.requests import R, RequestSchema
from schemas.rewriting import is_keras
from schemas.stored import NetworkOrIdField, ParametersOrIdField
from schemas.strict import StrictField, StrictSchema, read_each
from schemas.tensor import (
    ParametersAnswerField,
    TensorAnswerField,
    TensorField,
    TensorsAnswerField,
    TensorsField,
    narrow,
)
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.network.definition import Definition
from service.engine.network.layers import layers
from service.engine.network.losses import Loss, losses
from service.engine.network.total_loss import REDUCTIONS

DTYPES = ("float64", "float32")


OF_GRADIENTS = ("targets", "loss", "loss_weights", "reduction", "sample_weights", "normalize_weights")
"""Keys that `/v1/gradients` takes and `/v1/forward` does not."""
OF_DERIVATIVES = ("kind", "of", "wrt", "vectors")
OF_TRAINING = (
    *("optimizer", "learning_rate", "momentum", "weight_decay", "steps", "epochs", "batch_size", "shuffle", "batches"),
    *("schedule", "clip", "frozen", "validation", "stop", "trace", "checkpoint"),
)
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(OF_TRAINING, "/v1/train")
    | dict.fromkeys(OF_DERIVATIVES, "/v1/derivatives")
    | dict.fromkeys(("along", "trajectory", "spectrum"), "/v1/landscape")
    | dict.fromkeys(("learning_rates", "seeds"), "/v1/train/compare")
    | dict.fromkeys(("claimed", "tolerance"), "/v1/gradients/check")
    | dict.fromkeys(("submissions", "layout"), "/v1/gradients/verify")
    | dict.fromkeys(("expression", "points", "variables"), "/v1/functions/gradient")
    | dict.fromkeys(("starts",), "/v1/functions/descend")
    | {"shards": "/v1/gradients"}
    | dict.fromkeys(("layers", "input_shape"), "network")
    | {option.name: "into a layer of 'network'" for option in (*layers["dense"].options, *layers["dropout"].options)}
)
"""Keys of other endpoints and of other objects, and what takes them."""
WITH_A_LOSS: Mapping[str, str] = MappingProxyType(
    dict(ELSEWHERE) | {option.name: "loss" for declaration in losses for option in declaration.options}
)


LARGEST_SHARD = 10**9


def shards_field() -> IntegerField:
    """Return the field `shards`: a request with it is computed in shards of so many samples."""
    return IntegerField(
        minimum=1,
        maximum=LARGEST_SHARD,
        metadata=about(
            "samples in a shard: sums over samples are made shard by shard, so that only one shard has to fit into "
            "memory, and other processes may compute some; results depend on this number only by rounding (all samples)"
        ),
    )


Tensors = Array | dict[str, Array]
"""One tensor, or tensors by the names of inputs or outputs."""
Tree = dict[str, dict[str, Array]]
"""Tensors by layer and parameter name."""


class LoadedNetwork(TypedDict):
    """A validated request about a network. The endpoint decides whether it has targets and a loss."""

    network: Definition
    inputs: Tensors
    parameters: NotRequired[Tree]
    seed: int
    dtype: str
    training: bool
    targets: NotRequired[Tensors]
    loss: NotRequired[Selection[Loss] | dict[str, Selection[Loss]]]
    loss_weights: NotRequired[dict[str, float]]
    reduction: NotRequired[str]
    sample_weights: NotRequired[Array]
    normalize_weights: NotRequired[bool]
    shards: NotRequired[int]
    recipe: NotRequired[bytes]
    """The request in JSON without tensors and seed, if it has shards."""


class LoadedEvaluation(LoadedNetwork):
    """A validated request of `/v1/forward` or `/v1/gradients`."""

    include: frozenset[str]
    exclude: frozenset[str]


class NetworkRequest(RequestSchema[R]):
    """The schema of what all requests about a network have in common."""

    tensors: tuple[str, ...] = ("inputs", "parameters")
    fresh = frozenset((*tensors, "seed"))

    network = NetworkOrIdField(required=True, metadata=about("the architecture"))
    parameters = ParametersOrIdField(
        metadata=about("by layer and parameter name, or a file of arrays; by default initialised by the seed")
    )
    seed = SeedField(load_default=0, metadata=about("the only source of randomness: equal requests give equal bytes"))
    inputs = TensorsField(
        required=True, metadata=about("a row for each sample; by name if the network names its inputs")
    )
    dtype = WordField(
        DTYPES, "ComputationDtype", load_default="float64", metadata=about("the type of all numbers in the computation")
    )
    training = FlagField(load_default=False, metadata=about("whether dropout and similar layers are active"))
    include = WordsField(("layers",), load_default=frozenset(), metadata=about("more parts of the response"))
    # marshmallow takes fields out of the class, which has an attribute of that name.
    exclude = WordsField(  # type: ignore[assignment]
        ("parameters",), load_default=frozenset(), metadata=about("parts to leave out: parameters initialised here")
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Refuse parts that are both included and excluded, and convert tensors to the dtype."""
        both = loaded.get("include", frozenset()) & loaded.get("exclude", frozenset())
        if both:
            raise ValidationError({"exclude": [Message(f"names {', '.join(sorted(both))}, which include asks for")]})
        given = loaded.get("parameters")
        if given is not None:
            loaded["parameters"] = given = resolved(given, loaded["network"])
        if loaded["dtype"] == "float32":
            for key in self.tensors:
                if key in loaded:
                    loaded[key] = self.narrowed(loaded, key, loaded[key])
            if isinstance(given, PyTorchTree):
                loaded["parameters"] = PyTorchTree(loaded["parameters"], given.modules)
        return loaded

    def file_bytes(self, request: Mapping[str, Any]) -> int:
        return file_bytes(request.get("parameters"))

    def narrowed(self, loaded: dict[str, Any], key: str, value: Any) -> Any:
        """Return the tensors under a key in float32, except for indices: float32 cannot represent every integer."""
        network: Definition = loaded["network"]
        if key == "inputs":
            names, indices = network.inputs, network.index_inputs
        elif key == "targets":
            names, losses = network.output_names, loaded["loss"]
            by_name = losses if isinstance(losses, dict) else dict.fromkeys(names, losses)
            indices = frozenset(name for name, loss in by_name.items() if loss.declaration.indices)
        else:
            return narrow(value, key)
        if not isinstance(value, dict):
            return value if names[0] in indices else narrow(value, key)
        return {name: value[name] for name in value if name in indices} | narrow(
            {name: array for name, array in value.items() if name not in indices}, key
        )


class LossField(ChoiceField):
    """The choice of a loss, or of one loss for each output, by the outputs' names."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        given = plain(value)
        if not isinstance(given, Mapping) or not given or isinstance(given.get("type"), str) or is_keras(given):
            return super()._deserialize(given, attr, data, **kwargs)
        read = super()._deserialize
        each = islice(given.items(), MOST_NAMES)
        try:
            return read_each(each, lambda loss: read(loss, attr, data, **kwargs), MOST_NAMES)
        except ValidationError:
            named = missing_type(given, losses)  # such as {"name": "huber", "delta": 2}
            if named.allowed or all(isinstance(loss, str | Mapping) for loss in given.values()):
                raise
            raise ValidationError({"type": [named]}) from None

    def json_schema(self, components: Components) -> JSONSchema:
        one = super().json_schema(components)
        text = "Losses by the names of outputs."
        return {"anyOf": [one, components.refer("LossesByName", lambda: by_name(one, text, minProperties=1))]}


class ForwardRequest(NetworkRequest[LoadedEvaluation]):
    """A request for the outputs of a network."""

    elsewhere = MappingProxyType(dict(ELSEWHERE) | dict.fromkeys(OF_GRADIENTS, "/v1/gradients"))


class LossRequest(NetworkRequest[R]):
    """The schema of what all requests with targets and a loss have in common."""

    elsewhere = WITH_A_LOSS
    tensors = ("inputs", "targets", "sample_weights", "parameters")
    fresh = frozenset((*tensors, "seed"))

    targets = TensorsField(
        required=True, metadata=about("shaped like the outputs, or class indices; by name if there are several")
    )
    loss = LossField(
        losses, required=True, metadata=about("the loss of outputs and targets; one for all outputs, or by output name")
    )
    loss_weights = NumbersByNameField(
        metadata=about("factors of the losses of several outputs, by output name (all 1)")
    )
    reduction = WordField(
        REDUCTIONS, "Reduction", load_default="mean", metadata=about("how the samples' losses are combined")
    )
    sample_weights = TensorField(metadata=about("one factor for each sample"))
    normalize_weights = FlagField(
        metadata=about(
            "the mean divides by the sum of the weights, not by the number of samples (false, with a warning "
            "if that makes a difference)"
        )
    )
    include = WordsField(
        ("layers", "norms", "input_gradients", "per_sample", "parameters"),
        load_default=frozenset(),
        metadata=about("more parts of the response"),
    )
    exclude = WordsField(
        ("parameters", "gradients"),
        load_default=frozenset(),
        metadata=about("parts to leave out: parameters initialised here; gradients, which are {} then"),
    )


class GradientsRequest(LossRequest[LoadedEvaluation]):
    """A request for the loss and gradients of a network."""

    shards = shards_field()


class NormsField(StrictField):
    """Euclidean norms by name."""

    MEANING = "Euclidean norms by name; null for one that is not finite."

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer("NormsByName", lambda: by_name({"type": ["number", "null"]}, self.MEANING))


class GradientNormsSchema(StrictSchema):
    """Euclidean norms of the gradients by parameter, and of the deltas by layer."""

    gradients = fields.Dict(
        keys=fields.String(),
        values=NormsField(),
        required=True,
        metadata=about("dL/d(parameter), by layer and parameter name"),
    )
    deltas = NormsField(required=True, metadata=about("dL/dz of each layer, by its name"))


class LayerNormsSchema(StrictSchema):
    """Euclidean norms of a layer's pre-activation, output and delta."""

    pre_activation = fields.Float(required=True, allow_none=True)
    output = fields.Float(required=True, allow_none=True)
    delta = fields.Float(allow_none=True)


class LayerValuesSchema(StrictSchema):
    """Pre-activation, output and delta of one layer."""

    name = fields.String(required=True)
    type = fields.String(required=True)
    shape = fields.List(fields.Integer(), required=True, metadata=about("of one sample"))
    pre_activation = TensorAnswerField(required=True)
    output = TensorAnswerField(required=True)
    delta = TensorAnswerField(metadata=about("dL/dz, the gradient with respect to the pre-activation"))
    norms = fields.Nested(LayerNormsSchema, required=True)


class ForwardResponse(StrictSchema):
    """The outputs of a network, and what else was asked for."""

    dtype = fields.String(required=True)
    outputs = TensorsAnswerField(required=True, metadata=about("by output name if there are several"))
    layers = fields.List(fields.Nested(LayerValuesSchema))
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them, unless excluded"))
    state = ParametersAnswerField(
        metadata=about(
            "in training: the new values that layers carry from step to step, such as running means; send "
            "them back among the parameters"
        )
    )
    finite = finite_field()
    warnings = warnings_field()


class PerSampleGradientsSchema(StrictSchema):
    """The loss and the gradients of every single sample."""

    loss = TensorAnswerField(required=True, metadata=about("weight times loss of each sample"))
    gradients = ParametersAnswerField(required=True, metadata=about("the tree, with a leading axis of samples"))


class GradientsResponse(ForwardResponse):
    """Loss, outputs and exact gradients of a network, and what else was asked for."""

    loss = TensorAnswerField(required=True, metadata=about("data loss plus regularisation; a list with reduction none"))
    losses = fields.Dict(
        keys=fields.String(),
        values=fields.Float(allow_none=True),
        metadata=about("data loss of each output before its weight, if there are several"),
    )
    data_loss = TensorAnswerField(required=True)
    regularization_loss = fields.Float(required=True, allow_none=True)
    gradients = ParametersAnswerField(
        required=True, metadata=about("dL/d(parameter), by layer and name; {} if excluded")
    )
    gradient_norm = fields.Float(required=True, allow_none=True, metadata=about("Euclidean norm of all gradients"))
    norms = fields.Nested(GradientNormsSchema)
    input_gradients = TensorsAnswerField(metadata=about("by name if the network names its inputs"))
    per_sample = fields.Nested(PerSampleGradientsSchema)
