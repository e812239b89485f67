"""The schema of requests that are about either a network with its loss or a typed function at a point."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from marshmallow import ValidationError, validates_schema

from schemas.common import about, language_field
from schemas.evaluation import LossField, LossRequest, Tensors, Tree
from schemas.fields import WordField
from schemas.function_fields import ExpressionField, VariablesField
from schemas.messages import Message
from schemas.requests import R
from schemas.stored import NetworkOrIdField
from schemas.tensor import TensorField, TensorsField
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.functions.expression import LONGEST_EXPRESSION, Expression
from service.engine.network.definition import Definition
from service.engine.network.losses import Loss, losses
from service.engine.network.total_loss import REDUCTIONS

OF_A_NETWORK = (
    *("parameters", "inputs", "targets", "loss", "loss_weights", "reduction", "sample_weights", "normalize_weights"),
    *("training", "dtype"),
)
"""Keys that belong to a network only."""
OF_A_FUNCTION = ("variables", "point")
"""Keys that belong to an expression only."""


class LoadedSubject(TypedDict):
    """A validated request about a network, with the keys of `LoadedNetwork`, or about an expression at a point."""

    network: NotRequired[Definition]
    inputs: NotRequired[Tensors]
    parameters: NotRequired[Tree]
    seed: int
    dtype: str
    training: bool
    targets: NotRequired[Tensors]
    loss: NotRequired[Selection[Loss] | dict[str, Selection[Loss]]]
    loss_weights: NotRequired[dict[str, float]]
    reduction: str
    sample_weights: NotRequired[Array]
    normalize_weights: NotRequired[bool]
    expression: NotRequired[Expression]
    variables: NotRequired[tuple[str, ...]]
    point: NotRequired[Array]
    """(variables,)"""
    language: NotRequired[str]


class SubjectRequest(LossRequest[R]):
    """The schema of what requests about a network or about an expression at a point have in common."""

    fresh = frozenset((*LossRequest.fresh, "point"))
    needs_loss = True
    """Whether a network needs targets and a loss."""

    class Meta(LossRequest.Meta):
        exclude: tuple[str, ...] = ("exclude",)

    network = NetworkOrIdField(metadata=about("the architecture; or send an expression"))
    inputs = TensorsField(metadata=about("a row for each sample; by name if the network names its inputs"))
    targets = TensorsField(metadata=about("shaped like the outputs, or class indices; by name if there are several"))
    loss = LossField(losses, metadata=about("the loss of outputs and targets; one for all outputs, or by output name"))
    reduction = WordField(
        REDUCTIONS, "Reduction", load_default="mean", metadata=about("how the samples' losses are combined")
    )
    expression = ExpressionField(
        metadata=about(f"a function instead of a network, such as `x^2 - y^2`; at most {LONGEST_EXPRESSION} characters")
    )
    variables = VariablesField(
        metadata=about(
            "variables of the expression, in the order of the numbers of the point; by default its names, sorted"
        )
    )
    point = TensorField(metadata=about("beside an expression: a number for each variable"))
    language = language_field()

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check that keys fit together, and convert tensors to the dtype or the point to a vector."""
        given = [key for key in loaded if key in ("network", "expression") or key in self.fresh or key == "loss"]
        errors = self.misfits([key for key in given if key != "seed"])
        if errors:
            raise ValidationError(errors)
        if "expression" in loaded:
            loaded["point"] = self._point(loaded["expression"], loaded["point"])
            return loaded
        return super().finish(loaded)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _fit_together(self, loaded: dict[str, Any], original: Any, **kwargs: Any) -> None:
        """Refuse keys that do not fit together. This also runs if other fields are wrong, so that all is reported."""
        if isinstance(original, Mapping):
            errors = self.misfits(self.without_defaults(original))
            if errors:
                raise ValidationError(errors)

    def misfits(self, given: Collection[str]) -> dict[str, list[str]]:
        """Return the errors, by key, for keys that this subject lacks or has no use for."""
        errors: dict[str, str] = {}
        if "network" in given and "expression" in given:
            errors["expression"] = "has no use beside a network; send one of them"
        elif "expression" in given:
            errors |= {key: "has no use beside an expression" for key in OF_A_NETWORK if key in given}
            if "point" not in given:
                errors["point"] = "is required beside an expression: a number for each variable"
        elif "network" in given:
            errors |= {key: "has no use beside a network" for key in OF_A_FUNCTION if key in given}
            needed = ["inputs"]
            if self.needs_loss or "loss" in given or "targets" in given:
                needed += ["targets", "loss"]
            errors |= {key: "is required" for key in needed if key not in given}
        else:
            errors["network"] = "is required, or an expression with a point"
        return {key: [Message(text)] for key, text in errors.items()}

    def _point(self, expression: Expression, point: Array) -> Array:
        names = expression.variables
        if not names:
            detail = "has no variables; use some, such as x, or list them in 'variables'"
            raise ValidationError({"expression": [Message(detail)]})
        if point.shape != (len(names),) and not (point.shape == () and len(names) == 1):
            one = "one number" if len(names) == 1 else f"{len(names)} numbers"
            detail = f"takes a list of {one}, [{', '.join(names)}]; got a tensor of shape {list(point.shape)}"
            raise ValidationError({"point": [Message(detail)]})
        return np.ascontiguousarray(point, np.float64).reshape(len(names))
