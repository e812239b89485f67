"""Warnings of answers: doubtful losses and targets, blocked gradients, and the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution, caution
from service.engine.declarations import Selection
from service.engine.errors import DeadlineExceeded
from service.engine.findings import found
from service.engine.graph.interpreter import steps
from service.engine.graph.ir import Node
from service.engine.graph.plan import Program, Workspace
from service.engine.network.activations import Activation
from service.engine.network.feed import Feed
from service.engine.network.flat import Piece
from service.engine.network.losses import SMALLEST_LOG, Loss
from service.engine.network.model import Model
from service.engine.network.reach import reach
from service.engine.network.task import Task
from service.engine.texts import Sentence, say
from service.engine.watch import Watch

LEAST_PROBABILITY = math.exp(SMALLEST_LOG)
"""Losses take another number for the logarithm of a smaller probability."""
# The search for the first non-finite value keeps every intermediate array: not for giants.
EXPLAIN_BYTES = 256 * 2**20
SLACK = 1e-3
"""The distance beyond a bound that a target may have, relative to the bound or to 1, whichever is larger."""
FEW = 32
"""Numbers up to which a list is searched faster than an array."""
MOST_FOLDED = 3
"""Names that a warning lists."""


def doubtful(task: Task, model: Model) -> list[Caution]:
    """Return cautions about losses that read probabilities as logits: computable, but hardly meant."""
    cautions = []
    folded = task.definition.folded
    if folded:
        cautions.append(caution("folded_parameters", names=", ".join(map(repr, folded[:MOST_FOLDED]))))
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        if not loss.options.get("from_logits"):
            continue
        activation = model.layers[name].activation
        if activation is not None and activation.declaration.log is not None:
            cautions.append(caution("probabilities_as_logits", name, "loss", activation=activation.name))
    return cautions


class Bounded(NamedTuple):
    """An output that is compared with its targets, and the numbers that its activation can give."""

    name: str
    activation: str
    low: float
    high: float
    least: float
    """The least target that is not warned of: a little below `low`."""
    greatest: float


def bounded_outputs(task: Task, model: Model) -> list[Bounded]:
    """Return the outputs that cannot equal all numbers, although their loss wants them to equal the targets."""
    found = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        declared = loss.declaration
        activation = model.layers[name].activation
        if activation is None or declared.targets or declared.outputs or declared.indices or declared.of_directions:
            continue
        if activation.declaration.acts_on == "row" and model.layers[name].output.shape[-1] == 1:
            continue  # it is constant, as another warning says
        low, high = reach(activation)
        if not (math.isinf(low) and math.isinf(high)):
            least, greatest = low - SLACK * max(1.0, abs(low)), high + SLACK * max(1.0, abs(high))
            found.append(Bounded(name, activation.name, low, high, least, greatest))
    return found


def out_of_reach(bounded: Iterable[Bounded], targets: Mapping[str, Array]) -> list[Caution]:
    """Return cautions about targets beyond the numbers that these outputs can have."""
    cautions = []
    for name, activation, low, high, least, greatest in bounded:
        array = targets[name]
        if array.size <= FEW:  # a list is faster here
            numbers = array.reshape(-1).tolist()
            within = least <= min(numbers) and max(numbers) <= greatest
        else:
            within = bool(array.min() >= least and array.max() <= greatest)
        if not within:
            words = {
                "low": None if math.isinf(low) else f"{low + 0.0:.4g}",
                "high": None if math.isinf(high) else f"{high + 0.0:.4g}",
            }
            cautions.append(caution("unreachable_targets", name, "targets", activation=activation, **words))
    return cautions


def unfit(task: Task, feed: Feed, whole: bool = True) -> list[Caution]:
    """Return cautions about targets that a loss is not made for, and about weights with two usual means. `whole`: one
    mean is taken over all samples, not one over each batch."""
    cautions = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        if loss.declaration.targets is not None:
            words, fit = loss.declaration.targets
            if not fit(feed.targets[name]):
                cautions.append(caution("unusual_targets", name, "targets", words=words, loss=loss.name))
        classes = loss.options.get("class_weights")
        hit = None if classes is None else _class_indices(loss, feed.targets[name])
        if hit is not None:
            cautions += _other_mean(task, np.array(classes)[hit], whole, name)
    if feed.sample_weights is not None:
        cautions += _other_mean(task, feed.sample_weights, whole)
    return cautions


def _class_indices(loss: Selection[Loss], targets: Array) -> Array | None:
    """Return the class of each target; None for distributions, for which no framework sums weights."""
    if loss.declaration.indices:
        return targets.astype(np.int64)
    is_one_hot = bool(((targets == 0.0) | (targets == 1.0)).all() and (targets.sum(-1) == 1.0).all())
    return targets.argmax(-1) if is_one_hot else None


def _other_mean(task: Task, weights: Array, whole: bool, layer: str | None = None) -> Iterator[Caution]:
    """Yield a caution if it matters whether a mean divides by the sum of the weights or by their count. The weights are
    those of the samples, or those of the classes of a layer."""
    if task.reduction != "mean" or task.normalize_weights is not None:
        return
    total, count = float(weights.sum(dtype=np.float64)), weights.size
    if total == 0.0 or (
        math.isclose(total, count, rel_tol=1e-6) and (whole or bool((weights == weights.flat[0]).all()))
    ):
        return
    yield caution("normalize_weights", layer, "loss", total=f"{total:.6g}", count=str(count))


def is_plain(task: Task) -> bool:
    """Return whether `unfit` finds nothing for a task, whatever the numbers are."""
    return not task.weighted and not any(
        loss.declaration.targets or loss.options.get("class_weights") for loss in task.losses or ()
    )


def to_be_read(task: Task, model: Model) -> list[tuple[str, Selection[Loss]]]:
    """Return the outputs, with their losses, that the loss reads as probabilities or rates without being sure."""
    found = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        kind = loss.declaration.outputs
        if kind is None or loss.options.get("from_logits") or loss.options.get("log_input"):
            continue
        activation = model.layers[name].activation
        if activation is None or not _gives(activation.declaration, kind):
            found.append((name, loss))
    return found


def misread(
    watched: Iterable[tuple[str, Selection[Loss]]],
    outputs: Mapping[str, Array],
    targets: Mapping[str, Array] = MappingProxyType({}),
) -> list[Caution]:
    """Return cautions about outputs that are no probabilities or rates, although their loss reads them as such, and
    about probabilities of 0 for what the `targets` say."""
    cautions = []
    for name, loss in watched:
        kind, output = loss.declaration.outputs, outputs[name]
        if kind is None or not is_finite(output):
            continue  # another warning says so
        if kind == "rates":
            if float(output.min()) < 0.0:
                cautions.append(caution("no_rates", name, "output", loss=loss.name))
            continue
        wrong, total = _is_misread(kind, output)
        if wrong:
            words = {
                "loss": loss.name,
                "activation": "sigmoid" if kind == "probabilities" else "softmax",
                "from_logits": "from_logits" in loss.options,
                "total": None if total is None else f"{total:.6g}",
            }
            cautions.append(caution("no_probabilities", name, "output", **words))
        elif name in targets and _is_cut_off(loss, output, targets[name]):
            activation = "sigmoid" if kind == "probabilities" else "softmax"
            cautions.append(caution("cut_off_loss", name, "loss", loss=loss.name, activation=activation))
    return cautions


def _is_cut_off(loss: Selection[Loss], output: Array, targets: Array) -> bool:
    """Return whether the loss has the logarithm of a probability so small that it takes another number instead."""
    with_zero = output < LEAST_PROBABILITY
    if loss.declaration.indices:
        return bool(np.take_along_axis(with_zero, targets.astype(np.int64)[..., None], -1).any())
    found = bool((with_zero & (targets > 0.0)).any())
    if loss.declaration.outputs == "probabilities":
        found = found or bool(((output >= 1.0) & (targets < 1.0)).any())
    return found


def _gives(activation: Activation, kind: str) -> bool:
    """Return whether an activation gives `probabilities` or `distributions` by construction."""
    return activation.log is not None and (kind == "probabilities" or activation.acts_on == "row")


def _is_misread(kind: str, output: Array) -> tuple[bool, float | None]:
    """Return whether outputs are no `probabilities` or `distributions`, and the sum of a row if that is wrong."""
    low, high = float(output.min()), float(output.max())
    # The rounding error of a sum of 1: each share and each addition is rounded.
    slack = 16.0 * (output.shape[-1] + 1) * float(np.finfo(output.dtype).eps) if kind == "distributions" else 0.0
    if low < 0.0 or high > 1.0 + slack:
        return True, None
    if kind == "distributions":
        sums = output.sum(-1, dtype=np.float64).reshape(-1)
        worst = float(sums[np.abs(sums - 1.0).argmax()])
        if abs(worst - 1.0) > slack:
            return True, worst
    return False, None


def blocked(nodes: Iterable[Node], model: Model) -> list[Caution]:
    """Return cautions about layers with nodes through which no gradient flows."""
    return [_blocked(node, model) for node in {node.index: node for node in nodes}.values()]


def _blocked(node: Node, model: Model) -> Caution:
    layer = model.layers.get(node.scope or "")
    function = layer.activation.name if layer is not None and layer.activation is not None else node.operation.name
    return caution("gradient_blocked", node.scope or "", "gradient", function=function)


class Lost(NamedTuple):
    """A value that is not finite: the number of its node, what it is, and its layer or scope."""

    number: int
    quantity: str
    scope: str | None
    is_nan: bool

    def told(self, model: Model) -> Caution:
        """Return the caution about this value."""
        owner = self.scope if self.scope in model.layers else None
        place = _place(self.quantity, owner)
        return Caution.of(found("non_finite", layer=owner, quantity=self.quantity, place=place, is_nan=self.is_nan))


def first_non_finite(
    program: Program, workspace: Workspace, model: Model, pieces: Sequence[Piece], watch: Watch | None
) -> Caution:
    """Return the caution about the first value that is not finite, found by a run that keeps every value. `pieces` are
    the places of the model's parameters in the flat vector of the workspace."""
    if sum(node.size for node in program.nodes) * 8 > EXPLAIN_BYTES:
        return caution("non_finite")
    try:
        lost = find_non_finite(program, workspace, model, pieces, watch)
    except DeadlineExceeded:
        return caution("non_finite")
    return norm_lost() if lost is None else lost.told(model)


def find_non_finite(
    program: Program,
    workspace: Workspace,
    model: Model,
    pieces: Sequence[Piece],
    watch: Watch | None,
    most: int | None = None,
) -> Lost | None:
    """Return the first value that is not finite, with an index up to `most` if this is given; None if there is none.
    Raises what `watch` raises."""
    values = {
        node: workspace.inputs[node.attributes[0]]
        for node in program.nodes
        if node.operation.name == "input" and node.attributes[0] in workspace.inputs
    }
    for parameter, piece in zip(model.parameters, pieces, strict=True):
        values[parameter.node] = workspace.parameters[piece.start : piece.stop].reshape(piece.shape)
    quantities = {output.output: ("output", name) for name, output in model.layers.items()}
    quantities |= {output.pre_activation: ("pre_activation", name) for name, output in model.layers.items()}
    wanted = [*program.outputs.values(), *program.gradients]
    for node, value in steps(wanted, values):
        if most is not None and node.index > most:
            return None
        if watch is not None:
            watch.look()
        if np.isfinite(value).all() or (node.operation.name == "windows" and node.attributes[1] == -math.inf):
            continue  # the padding of a maximum is -infinity on purpose
        inside = "loss" if node.scope == "loss" else "intermediate value"
        quantity, layer = quantities.get(node, ("gradient" if node.serves is not None else inside, node.scope))
        return Lost(node.index, quantity, layer, bool(np.isnan(value).any()))
    return None


def norm_lost() -> Caution:
    """Return the caution that all values are finite, but a norm of them is not."""
    return Caution.of(found("non_finite", quantity="norm", norm=True))


_QUANTITIES = {
    "output": lambda: say("findings.quantity.output"),
    "pre_activation": lambda: say("findings.quantity.pre_activation"),
    "gradient": lambda: say("findings.quantity.gradient"),
    "loss": lambda: say("findings.quantity.loss"),
    "intermediate value": lambda: say("findings.quantity.intermediate"),
}


def _place(quantity: str, layer: str | None) -> Sentence:
    what = _QUANTITIES[quantity]()
    if layer is None:
        return say("findings.place.alone", quantity=what)
    return say("findings.place.of_layer", quantity=what, layer=repr(layer))
