"""The request and the response of `/v1/derivatives`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NotRequired

import numpy as np
from marshmallow import ValidationError, fields, validates_schema

from schemas.common import TO_ONE_NUMBER, about, finite_field, warnings_field
from schemas.components import Components, JSONSchema, any_of, by_name, list_of
from schemas.evaluation import ELSEWHERE, OF_GRADIENTS, LoadedNetwork, LossField, NetworkRequest
from schemas.fields import FlagField, NumbersByNameField, WordField
from schemas.messages import Message
from schemas.strict import StrictField, StrictSchema, read_each
from schemas.tensor import (
    ParametersAnswerField,
    TensorField,
    TensorsAnswerField,
    TensorsField,
    decode,
    decode_each,
    is_typed,
    narrow,
    tensor_answer_schema,
    tensor_schema,
    tensors_by_name,
    tree_schema,
)
from service.engine.errors import MOST_ERRORS
from service.engine.network.derivatives import KINDS, OF, TAKES_VECTORS, WRT
from service.engine.network.losses import losses

OF_THE_LOSS = OF_GRADIENTS
"""Keys with a meaning only if the loss is differentiated."""
MOST_VECTORS = 10_000
"""The number of vectors at most: a short text may make each take many times its memory."""


class VectorsField(StrictField):
    """A list of vectors to multiply with: each a tensor, tensors by name, or tensors by layer and parameter name."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list | np.ndarray) or not 0 < len(value) <= MOST_VECTORS:
            raise self.refuse(f"a list of 1 to {MOST_VECTORS} vectors", value)
        if isinstance(value, np.ndarray):  # numbers in rows, read from a large body
            return [np.asarray(row) for row in decode(value)]
        return list(read_each(enumerate(value), self._decode).values())

    def _decode(self, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or is_typed(entry):
            return decode(entry)
        inner = {name: item for name, item in entry.items() if isinstance(item, Mapping) and not is_typed(item)}
        tensors, errors = decode_each({name: item for name, item in entry.items() if name not in inner})
        trees: dict[str, Any] = {}
        for name, item in inner.items():
            trees[name], wrong = decode_each(item)
            if wrong:
                errors[name] = wrong
                if len(errors) >= MOST_ERRORS:
                    break
        if errors:
            raise ValidationError(errors)
        return tensors | trees

    def json_schema(self, components: Components) -> JSONSchema:
        forms = [tensor_schema(components), tensors_by_name(components), tree_schema(components)]
        one = components.refer(
            "DerivativeVector", lambda: any_of(forms, "A vector with the shapes of what is derived.")
        )
        return list_of(one, minItems=1, maxItems=MOST_VECTORS)


class LoadedDerivatives(LoadedNetwork):
    """A validated request of `/v1/derivatives`."""

    kind: str
    of: str
    wrt: str
    vectors: NotRequired[list[Any]]
    exclude: frozenset[str]


class DerivativesRequest(NetworkRequest[LoadedDerivatives]):
    """A request for derivatives `of` the outputs or the loss, with respect to `wrt`."""

    elsewhere = ELSEWHERE
    called = MappingProxyType({"type": "kind"})
    tensors = ("inputs", "targets", "sample_weights", "parameters")
    fresh = frozenset((*tensors, "seed", "vectors"))

    class Meta(NetworkRequest.Meta):
        exclude = ("include",)

    kind = WordField(KINDS, required=True, metadata=about("the derivative to compute"))
    of = WordField(OF, metadata=about("what to differentiate; by default the loss for hessian and hvp, else outputs"))
    wrt = WordField(
        WRT,
        metadata=about(
            "what to differentiate with respect to: by default the trainable parameters for the loss, else the inputs"
        ),
    )
    vectors = VectorsField(
        metadata=about(
            "for jvp, vjp and hvp, any number of vectors: those of jvp and hvp have the shape of what `wrt` "
            "names, those of vjp the shape of what `of` names; by name if a network has several inputs or "
            "outputs"
        )
    )
    targets = TensorsField(
        metadata=about("if `of` is loss: shaped like the outputs, or class indices; by name if several")
    )
    loss = LossField(losses, metadata=about("if `of` is loss: compares outputs with targets"))
    loss_weights = NumbersByNameField(
        metadata=about("if `of` is loss: a factor for each output's loss, by name (all 1)")
    )
    reduction = WordField(
        TO_ONE_NUMBER,
        "ReductionToNumber",
        metadata=about("if `of` is loss: how the samples' losses are combined (mean)"),
    )
    sample_weights = TensorField(metadata=about("if `of` is loss: one factor for each sample"))
    normalize_weights = FlagField(
        metadata=about("if `of` is loss: the mean divides by the sum of the weights, not by the number of samples")
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Add the defaults that depend on the kind, check that keys fit together, and convert tensors to the dtype."""
        kind = loaded["kind"]
        loaded.setdefault("of", _default_of(kind))
        loaded.setdefault("wrt", "parameters" if loaded["of"] == "loss" else "inputs")
        errors = misfits(kind, loaded["of"], loaded)
        if errors:
            raise ValidationError(errors)
        loaded = super().finish(loaded)
        if loaded["dtype"] == "float32" and "vectors" in loaded:
            loaded["vectors"] = list(narrow(dict(enumerate(loaded["vectors"])), "vectors").values())
        return loaded

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _fit(self, loaded: dict[str, Any], original: Any, **kwargs: Any) -> None:
        """Refuse keys that do not fit together. This also runs if other fields are wrong, so that all is reported."""
        if "kind" in loaded and ("of" in loaded or "of" not in original):
            kind = loaded["kind"]
            errors = misfits(kind, loaded.get("of", _default_of(kind)), original)
            if errors:
                raise ValidationError(errors)


def _default_of(kind: str) -> str:
    return "loss" if kind in ("hessian", "hvp") else "outputs"


def misfits(kind: str, of: str, given: Collection[str]) -> dict[str, list[str]]:
    """Return the errors, by key, for keys that a derivative of this kind lacks or has no use for."""
    errors: dict[str, list[str]] = {}
    if kind in TAKES_VECTORS and "vectors" not in given:
        errors["vectors"] = [f"is required for kind: {kind}"]
    elif kind not in TAKES_VECTORS and "vectors" in given:
        takers = ", ".join(kind for kind in KINDS if kind in TAKES_VECTORS)
        errors["vectors"] = [f"has no use for kind: {kind}, which is the whole matrix; {takers} take vectors"]
    if of == "loss":
        errors |= {key: [f"is required for of: {of}"] for key in ("targets", "loss") if key not in given}
    else:
        for key in OF_THE_LOSS:
            if key in given:
                errors[key] = ["has no use for of: outputs; leave it out, or ask for of: loss"]
    return {key: [Message(message) for message in messages] for key, messages in errors.items()}


class DerivedField(StrictField):
    """A derivative in a response: a tensor, tensors by name, tensors by layer and parameter name, or a list of them."""

    def json_schema(self, components: Components) -> JSONSchema:
        # Without a schema for the items: it would have to refer to itself.
        named = components.refer(
            "DerivativesByName", lambda: by_name({}, "Derivatives by name, or by layer and parameter name.")
        )
        forms = [tensor_answer_schema(components), named, list_of({})]
        text = "A tensor, tensors by name or by layer and parameter name, or a list of these."
        return components.refer("DerivativeResult", lambda: any_of(forms, text))


class DerivativesResponse(StrictSchema):
    """The outputs or the loss, and the derivative that was asked for."""

    dtype = fields.String(required=True)
    values = TensorsAnswerField(required=True, metadata=about("the outputs, by name if there are several, or the loss"))
    result = DerivedField(
        required=True,
        metadata=about(
            "jvp, vjp, hvp: a list with one entry for each vector; jacobian of outputs: "
            "`[sample][output][input]`, or the tree of the parameters with `[sample][output]` before the axes "
            "of each; jacobian of the loss: its gradient; hessian: a matrix, and for outputs one matrix for "
            "each `[sample][output]`"
        ),
    )
    labels = fields.List(
        fields.String(),
        metadata=about("the numbers that belong to the rows and columns of a Hessian, as `hidden.kernel[0][1]`"),
    )
    finite = finite_field()
    warnings = warnings_field()
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them, unless excluded"))
