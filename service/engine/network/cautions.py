"""What a caller should know of an answer: what cannot learn, what is hardly meant, where numbers stop being finite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from service.engine.graph.interpreter import steps
from service.engine.graph.ir import Array, Node
from service.engine.graph.plan import Program, Workspace
from service.engine.network.feed import Feed
from service.engine.network.model import Model
from service.engine.network.parameters import Part
from service.engine.network.task import Caution, Task

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


def unfit(task: Task, feed: Feed, outputs: Mapping[str, Array], finite: bool) -> list[Caution]:
    """Warn of numbers for which the loss is not meant: it is computed, but means nothing."""
    cautions = []
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        if loss.declaration.targets is None:
            continue
        words, fit = loss.declaration.targets
        if not fit(feed.targets[name]):
            message = f"the targets of layer {name!r} are not all {words}, for which {loss.name} is made"
            cautions.append(Caution("unusual_targets", message, name, "targets"))
        if loss.declaration.probabilities and not finite and not loss.options.get("from_logits"):
            output = outputs[name]
            if not (output.min() >= 0.0 and output.max() <= 1.0):
                message = (
                    f"the outputs of layer {name!r} are not all between 0 and 1, so {loss.name} has no value; "
                    "end with sigmoid or softmax, or set from_logits"
                )
                cautions.append(Caution("no_probabilities", message, name, "output"))
    return cautions


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
    program: Program, workspace: Workspace, model: Model, parts: Sequence[Part], deadline: float | None
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
        if deadline is not None and time.monotonic() > deadline:
            return fallback
        if np.isfinite(value).all() or (node.operation.name == "windows" and node.attributes[1] == -math.inf):
            continue  # the padding of a maximum is -infinity on purpose
        inside = "loss" if node.scope == "loss" else "intermediate value"
        quantity, layer = quantities.get(node, ("gradient" if node.serves is not None else inside, node.scope))
        place = f"the {quantity} of layer {layer!r}" if layer in model.layers else f"the {quantity}"
        kind = "not a number" if np.isnan(value).any() else "infinite"
        message = f"{place} is the first value that is not finite ({kind}); non-finite values are null in JSON lists"
        return Caution("non_finite", message, layer if layer in model.layers else None, quantity)
    return fallback
