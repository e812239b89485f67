"""From predictions and targets to one number: losses, weights, reductions, regularisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.engine.declarations import Selection
from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import sum_over
from service.engine.network.losses import Loss, Prediction

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class Objective:
    """The loss in its parts."""

    per_sample: Node
    """w_n l_n, summed over the outputs of the network: shape `(samples,)`."""
    data_loss: Node
    """The reduced loss; with reduction `none` the same as `per_sample`."""
    regularization_loss: Node
    total: Node
    """The scalar that is differentiated."""


def target_shape(loss: Selection[Loss], output: Node) -> Shape:
    """The shape targets must have for an output."""
    return output.shape[:-1] if loss.declaration.indices else output.shape


def check_loss(loss: Selection[Loss], output: Node, name: str) -> None:
    """Refuse options of the loss that do not fit the output called `name`."""
    weights = loss.options.get("class_weights")
    if weights is not None and len(weights) != output.shape[-1]:
        raise InvalidRequest(
            [
                Fault(
                    ("loss", "class_weights"),
                    f"{len(weights)} class weights came; layer {name!r} has {output.shape[-1]} outputs",
                )
            ]
        )


def build_objective(
    loss: Selection[Loss],
    predictions: Mapping[str, Prediction],
    targets: Mapping[str, Node],
    sample_weights: Node | None,
    reduction: str,
    normalize_weights: bool,
    penalties: Sequence[Node],
) -> Objective:
    """The loss of a network over all its outputs and samples.

    `mean` divides by the number of samples or, with `normalize_weights`, by the sum of the sample
    weights times the class weights of the targets.
    """
    graph = next(iter(predictions.values())).value.graph
    with graph.scoped("loss"):
        per_sample: Node | None = None
        weight_sum: Node | float = 0.0
        for name, prediction in predictions.items():
            values = loss.declaration.build(prediction, targets[name], **loss.options)
            per_sample = values if per_sample is None else per_sample + values
            class_weight = loss.declaration.class_weight
            if normalize_weights and class_weight is not None:
                weight = class_weight(prediction, targets[name], **loss.options)
                if weight is not None:
                    whole = weight if sample_weights is None else weight * sample_weights
                    weight_sum = sum_over(whole) + weight_sum
        assert per_sample is not None
        if sample_weights is not None:
            per_sample = per_sample * sample_weights
        total = sum_over(per_sample)
        if reduction == "mean":
            if not normalize_weights:
                total = total / float(per_sample.size)
            elif isinstance(weight_sum, Node):
                total = total / weight_sum
            elif sample_weights is not None:
                total = total / sum_over(sample_weights)
            else:
                total = total / float(per_sample.size)
        data_loss = per_sample if reduction == "none" else total
        regularization = graph.constant(0.0)
        for penalty in penalties:
            regularization = regularization + penalty
        return Objective(per_sample, data_loss, regularization, total + regularization)
