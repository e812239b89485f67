"""The total loss of a network: losses, weights, reductions and penalties, down to one number."""

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
class TotalLoss:
    """The nodes of the total loss and of its parts."""

    per_sample: Node
    """w_n l_n, summed over the outputs of the network: shape `(samples,)`."""
    by_output: Mapping[str, Node]
    """The reduced loss of each output, before its loss weight."""
    data_loss: Node
    """The reduced loss. With reduction `none` it is `per_sample`."""
    regularization_loss: Node
    total: Node
    """The scalar that is differentiated."""
    weights: Mapping[str, Node]
    """The sum of the weights of each output's samples, where a mean divides by it."""


def target_shape(loss: Selection[Loss], output: Node) -> Shape:
    """Return the shape of the targets for an output."""
    return output.shape[:-1] if loss.declaration.indices else output.shape


def check_loss(loss: Selection[Loss], output: Node, name: str) -> None:
    """Raise `InvalidRequest` if the class weights of a loss do not fit the output called `name`."""
    weights = loss.options.get("class_weights")
    if weights is not None and len(weights) != output.shape[-1]:
        detail = f"{len(weights)} class weights came; layer {name!r} has {output.shape[-1]} outputs"
        raise InvalidRequest([Fault(("loss", name, "class_weights"), detail)])


def build_total_loss(
    losses: Mapping[str, Selection[Loss]],
    predictions: Mapping[str, Prediction],
    targets: Mapping[str, Node],
    loss_weights: Mapping[str, float] | None,
    sample_weights: Node | None,
    reduction: str,
    normalize_weights: bool | None,
    penalties: Sequence[Node],
    divisors: Mapping[str, Node] | None = None,
) -> TotalLoss:
    """Build the loss of a network over all outputs and samples. All mappings are by the names of outputs.

    `mean` divides by the number of samples or, with `normalize_weights`, the loss of each output by the sum
    of the sample weights times the class weights of its targets. `divisors` are for samples that are a part of a batch:
    the mean of each output divides by its divisor, and the total is without penalties.
    """
    graph = next(iter(predictions.values())).value.graph
    with graph.scoped("loss"):
        per_sample = total = graph.constant(0.0)
        by_output = {}
        summed: dict[str, Node] = {}
        for name, prediction in predictions.items():
            loss = losses[name]
            factor = 1.0 if loss_weights is None else loss_weights[name]
            values = loss.declaration.build(prediction, targets[name], **loss.options)
            if sample_weights is not None:
                values = values * sample_weights
            per_sample = per_sample + factor * values
            reduced = sum_over(values)
            if divisors is not None:
                reduced = reduced / divisors[name] if reduction == "mean" else reduced
            elif reduction == "mean":
                weights = _weights(loss, prediction, targets[name], sample_weights) if normalize_weights else None
                if weights is not None:
                    summed[name] = sum_over(weights)
                reduced = reduced / (float(values.size) if weights is None else summed[name])
            by_output[name] = reduced
            total = total + factor * reduced
        regularization = graph.constant(0.0)
        for penalty in penalties:
            regularization = regularization + penalty
        data_loss = per_sample if reduction == "none" else total
        if divisors is None:
            total = total + regularization
        return TotalLoss(per_sample, by_output, data_loss, regularization, total, summed)


def _weights(loss: Selection[Loss], prediction: Prediction, target: Node, sample_weights: Node | None) -> Node | None:
    """Return the weight of each sample in a normalised mean: its own weight times that of its class."""
    class_weight = loss.declaration.class_weight
    weights = None if class_weight is None else class_weight(prediction, target, **loss.options)
    if weights is None or sample_weights is None:
        return sample_weights if weights is None else weights
    return weights * sample_weights
