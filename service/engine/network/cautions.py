"""What a caller should know of an answer: what cannot learn, what is hardly meant, where numbers stop being finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from service.engine.declarations import Selection
from service.engine.errors import DeadlineExceeded
from service.engine.graph.interpreter import steps
from service.engine.graph.ir import Array, Node
from service.engine.graph.plan import Program, Workspace
from service.engine.network.activations import Activation
from service.engine.network.feed import Feed
from service.engine.network.losses import Loss
from service.engine.network.model import Model
from service.engine.network.parameters import Part
from service.engine.network.quantities import is_finite
from service.engine.network.task import Caution, Task
from service.engine.watch import Watch

# The search for the first non-finite value keeps every intermediate array: not for giants.
EXPLAIN_BYTES = 256 * 2**20


def doubtful(task: Task, model: Model) -> list[Caution]:
    """What can be computed, but is hardly meant."""
    cautions = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        if not loss.options.get("from_logits"):
            continue
        activation = model.layers[name].activation
        if activation is not None and activation.declaration.log is not None:
            message = (
                f"layer {name!r} ends with {activation.name}, so its outputs are probabilities, but the loss takes "
                "them as logits; leave from_logits out: the loss finds the logits by itself"
            )
            cautions.append(Caution("probabilities_as_logits", message, name, "loss"))
    return cautions


def unfit(task: Task, feed: Feed, whole: bool = True) -> list[Caution]:
    """Targets for which a loss is not meant, and weights whose mean other frameworks define in another way.

    `whole`: one mean is taken over all samples, not one over each batch.
    """
    cautions = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        if loss.declaration.targets is not None:
            words, fit = loss.declaration.targets
            if not fit(feed.targets[name]):
                message = f"the targets of layer {name!r} are not all {words}, for which {loss.name} is made"
                cautions.append(Caution("unusual_targets", message, name, "targets"))
        classes = loss.options.get("class_weights")
        hit = None if classes is None else _class_indices(loss, feed.targets[name])
        if hit is not None:
            what, other = f"class_weights of layer {name!r}", "PyTorch's of class indices divides"
            cautions += _other_mean(task, np.array(classes)[hit], whole, what, other, name)
    if feed.sample_weights is not None:
        cautions += _other_mean(task, feed.sample_weights, whole, "sample_weights", "a weighted mean would divide")
    return cautions


def _class_indices(loss: Selection[Loss], targets: Array) -> Array | None:
    """The class of each target; None where targets are distributions, whose weights no framework sums."""
    if loss.declaration.indices:
        return targets.astype(np.int64)
    is_one_hot = bool(((targets == 0.0) | (targets == 1.0)).all() and (targets.sum(-1) == 1.0).all())
    return targets.argmax(-1) if is_one_hot else None


def _other_mean(
    task: Task, weights: Array, whole: bool, what: str, other: str, layer: str | None = None
) -> Iterator[Caution]:
    """Warn where a mean that divides by the sum of the weights is another number than one that divides by how many."""
    if task.reduction != "mean" or task.normalize_weights is not None:
        return
    total, count = float(weights.sum(dtype=np.float64)), weights.size
    if total == 0.0 or (
        math.isclose(total, count, rel_tol=1e-6) and (whole or bool((weights == weights.flat[0]).all()))
    ):
        return
    message = (
        f"the {what} sum to {total:.6g} over {count} targets, and the mean divides by how many there are, as Keras's "
        f"does; {other} by the sum of their weights: set normalize_weights to true for that, or to false to keep this"
    )
    yield Caution("normalize_weights", message, layer, "loss")


def is_plain(task: Task) -> bool:
    """Whether no numbers can be unfit, whatever they are."""
    return not task.weighted and not any(
        loss.declaration.targets or loss.options.get("class_weights") for loss in task.losses or ()
    )


def to_be_read(task: Task, model: Model) -> list[tuple[str, Selection[Loss]]]:
    """Outputs, with their losses, whose numbers decide whether they are what the loss takes them for."""
    found = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        kind = loss.declaration.outputs
        if kind is None or loss.options.get("from_logits") or loss.options.get("log_input"):
            continue
        activation = model.layers[name].activation
        if activation is None or not _gives(activation.declaration, kind):
            found.append((name, loss))
    return found


def misread(watched: Iterable[tuple[str, Selection[Loss]]], outputs: Mapping[str, Array]) -> list[Caution]:
    """Outputs that are not what their loss takes them for: its value, where there is one, means nothing."""
    cautions = []
    for name, loss in watched:
        kind, output = loss.declaration.outputs, outputs[name]
        if kind is None or not is_finite(output):
            continue  # what is not finite is told anyway
        found = _why_misread(kind, output)
        if found is not None:
            code, why = found
            message = f"the outputs of layer {name!r} {why}, so {loss.name} of them means nothing; {_remedy(loss)}"
            cautions.append(Caution(code, message, name, "output"))
    return cautions


def _gives(activation: Activation, kind: str) -> bool:
    """Whether outputs are `probabilities` or `distributions` by construction."""
    return activation.log is not None and (kind == "probabilities" or activation.acts_on == "row")


def _why_misread(kind: str, output: Array) -> tuple[str, str] | None:
    """The code of a warning, and what is wrong, in words; None where nothing is."""
    low, high = float(output.min()), float(output.max())
    if kind == "rates":
        return None if low >= 0.0 else ("no_rates", "are not all 0 or more")
    # What rounding may leave of a sum of 1: each share and each addition is rounded.
    slack = 16.0 * (output.shape[-1] + 1) * float(np.finfo(output.dtype).eps) if kind == "distributions" else 0.0
    if low < 0.0 or high > 1.0 + slack:
        return "no_probabilities", "are not all between 0 and 1"
    if kind == "distributions":
        sums = output.sum(-1, dtype=np.float64).reshape(-1)
        worst = float(sums[np.abs(sums - 1.0).argmax()])
        if abs(worst - 1.0) > slack:
            return "no_probabilities", f"are no distributions over classes (a row sums to {worst:.6g}, not to 1)"
    return None


def _remedy(loss: Selection[Loss]) -> str:
    if loss.declaration.outputs == "rates":
        return "end with softplus or exponential, or set log_input"
    activation = "sigmoid" if loss.declaration.outputs == "probabilities" else "softmax"
    return f"end with {activation}" + (", or set from_logits" if "from_logits" in loss.options else "")


def blocked(nodes: Iterable[Node], model: Model) -> list[Caution]:
    """Of the nodes through which no gradient flows: which layers they belong to."""
    return [_blocked(node, model) for node in {node.index: node for node in nodes}.values()]


def _blocked(node: Node, model: Model) -> Caution:
    layer = model.layers.get(node.scope or "")
    function = layer.activation.name if layer is not None and layer.activation is not None else node.operation.name
    message = (
        f"layer {node.scope!r} blocks the gradient: the derivative of its {function} function is 0 everywhere, so "
        "nothing that feeds it can learn; the step activation has surrogates"
    )
    return Caution("gradient_blocked", message, node.scope, "gradient")


def first_non_finite(
    program: Program, workspace: Workspace, model: Model, parts: Sequence[Part], watch: Watch | None
) -> Caution:
    """Where a value stopped being finite, found by running again with everything kept.

    `parts` say where the model's parameters lie in the workspace's flat vector.
    """
    fallback = Caution("non_finite", "the answer holds values that are not finite; they are null")
    if sum(node.size for node in program.nodes) * 8 > EXPLAIN_BYTES:
        return fallback
    values = {
        node: workspace.inputs[node.attributes[0]]
        for node in program.nodes
        if node.operation.name == "input" and node.attributes[0] in workspace.inputs
    }
    for parameter, part in zip(model.parameters, parts, strict=True):
        values[parameter.node] = workspace.parameters[part.start : part.stop].reshape(part.shape)
    quantities = {output.output: ("output", name) for name, output in model.layers.items()}
    quantities |= {output.pre_activation: ("pre_activation", name) for name, output in model.layers.items()}
    wanted = [*program.outputs.values(), *program.gradients]
    for node, value in steps(wanted, values):
        try:
            if watch is not None:
                watch.look()
        except DeadlineExceeded:
            return fallback
        if np.isfinite(value).all() or (node.operation.name == "windows" and node.attributes[1] == -math.inf):
            continue  # the padding of a maximum is -infinity on purpose
        inside = "loss" if node.scope == "loss" else "intermediate value"
        quantity, layer = quantities.get(node, ("gradient" if node.serves is not None else inside, node.scope))
        place = f"the {quantity} of layer {layer!r}" if layer in model.layers else f"the {quantity}"
        kind = "not a number" if np.isnan(value).any() else "infinite"
        message = f"{place} is the first value that is not finite ({kind}); non-finite values are null in JSON lists"
        return Caution("non_finite", message, layer if layer in model.layers else None, quantity)
    message = "every value is finite, but the norm of some of them is too large for a number; it is null in JSON lists"
    return Caution("non_finite", message, quantity="norm")
