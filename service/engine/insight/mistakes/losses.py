"""The mistakes where the network meets its loss, and those with penalties."""

from __future__ import annotations

from collections.abc import Iterator

from service.engine.graph.differentiate import Changes, dense, differentiate
from service.engine.graph.ir import Node, NoGradient
from service.engine.graph.operations import one_hot
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Ending, Network, handed, times, unchanged
from service.engine.network.activations import activations
from service.engine.network.losses import Prediction, losses
from service.engine.network.total_loss import build_total_loss


def _jacobian(ending: Ending, g: Node) -> Node:
    """Return the cotangent of the logits, given that of the probabilities."""
    value = ending.value
    if ending.activation in ("softmax", "softmin"):
        contribution = value.operation.pullback(1)(g, value, *value.inputs)
        assert not isinstance(contribution, NoGradient)
        return contribution if ending.activation == "softmax" else -contribution
    return g * (value * (1.0 - value))


@declare(
    "softmax_jacobian_diagonal",
    wrong="delta = dp * p * (1 - p)",
    right="delta = p * (dp - (dp * p).sum(-1, keepdims=True))",
)
def softmax_jacobian_diagonal(network: Network) -> Iterator[Change]:
    endings = {ending.value.index: ending for ending in network.endings if ending.activation == "softmax"}
    found: dict[str, dict[tuple[int, int], Node]] = {}
    for node in [*network.forward, *(ending.value for ending in endings.values() if ending.inside)]:
        if node.operation.name != "softmax":
            continue
        ending = endings.get(node.index)
        layer = ending.layer if ending is not None else node.scope
        if layer in network.types and (ending is not None or node.index in network.moving):
            found.setdefault(layer, {})[node.index, 1] = node
    for layer, nodes in found.items():
        rules = {place: times(p * (1.0 - p)) for place, p in nodes.items()}
        yield Change((layer,), Changes(rules), network.total_for(layer))


@declare("crossentropy_without_softmax", wrong="delta = -t / p / N", right="delta = (p - t) / N")
def crossentropy_without_softmax(network: Network) -> Iterator[Change]:
    for ending in network.endings:
        if not ending.fused:
            continue
        changes = Changes(jumps={ending.value.index: handed((ending.logits, unchanged))})
        yield Change((ending.layer,), changes, network.unfused)
    if all(ending.inside for ending in network.endings) and len(network.endings) == len(network.task.losses or ()):
        yield Change(tuple(ending.layer for ending in network.endings), total=_of_logits(network))


def _of_logits(network: Network) -> Node:
    """Return a loss whose gradient by the logits z is z - t, where that of the cross-entropy is p - t."""
    half, task = losses.select("half_squared_error"), network.task
    names, targets, weights = network.definition.output_names, {}, {}
    given = task.loss_weights or (1.0,) * len(names)
    for name, loss, weight in zip(names, task.losses or (), given, strict=True):
        target, output = network.prepared.targets[name], network.model.layers[name].output
        targets[name] = one_hot(target, output.shape[-1]) if loss.declaration.indices else target
        positions = output.size // output.shape[0] // (1 if loss.name == "binary_crossentropy" else output.shape[-1])
        weights[name] = weight / positions
    made = build_total_loss(
        dict.fromkeys(names, half),
        {name: Prediction(network.model.layers[name].output) for name in names},
        targets,
        weights,
        network.prepared.weights,
        task.reduction,
        task.normalize_weights,
        (),
    )
    return made.total


@declare(
    "crossentropy_with_softmax_twice", wrong="delta = softmax_jacobian(p) @ (p - t) / N", right="delta = (p - t) / N"
)
def crossentropy_with_softmax_twice(network: Network) -> Iterator[Change]:
    for ending in network.endings:
        if not ending.fused:
            continue

        def twice(g: Node, ending: Ending = ending) -> list[tuple[Node, Node]]:
            return [(ending.logits, _jacobian(ending, _jacobian(ending, g)))]

        yield Change((ending.layer,), Changes(jumps={ending.value.index: twice}), network.unfused)
        chosen = activations.select(ending.activation)
        again = chosen.declaration.build(ending.value)
        total = network.loss_of({ending.layer: Prediction(again, ending.value, chosen)})
        if len(network.endings) == 1:
            yield Change((ending.layer,), total=total)


def _penalties(network: Network) -> dict[tuple[str, ...], Node]:
    found = differentiate(network.objective.regularization_loss, network.targets).nodes
    nodes = dense(found, network.targets)
    return {
        path: node
        for path, node, one in zip(network.paths, nodes, found, strict=True)
        if not isinstance(one, NoGradient)
    }


def _with_penalties(network: Network, factor: float) -> Iterator[Change]:
    """Yield changes that multiply the gradient of penalties: of all parameters, and of each layer alone."""
    if network.has_penalties:
        yield from _of_each_layer({path: factor * node for path, node in _penalties(network).items()})


def _of_each_layer(changed: dict[tuple[str, ...], Node]) -> Iterator[Change]:
    if changed:
        yield Change(penalties=changed)
    owners = dict.fromkeys(path[0] for path in changed)
    for owner in owners if len(owners) > 1 else ():
        yield Change((owner,), penalties={path: node for path, node in changed.items() if path[0] == owner})


@declare("regularizer_forgotten", wrong="dW = X.T @ delta", right="dW = X.T @ delta + 2 * l2 * W")
def regularizer_forgotten(network: Network) -> Iterator[Change]:
    yield from _with_penalties(network, 0.0)


@declare("regularizer_doubled", wrong="dW = X.T @ delta + 4 * l2 * W", right="dW = X.T @ delta + 2 * l2 * W")
def regularizer_doubled(network: Network) -> Iterator[Change]:
    yield from _with_penalties(network, 2.0)


@declare("regularizer_halved", wrong="dW = X.T @ delta + l2 * W", right="dW = X.T @ delta + 2 * l2 * W")
def regularizer_halved(network: Network) -> Iterator[Change]:
    """Yield changes that halve the gradient of squared weights, where the factor 2 may be forgotten."""
    if not network.has_penalties:
        return
    whole = _penalties(network)
    changed: dict[tuple[str, ...], Node] = {}
    options = {layer.name: layer.layer.options for layer in network.definition.layers}
    for each in network.trained:
        chosen = options[each.layer].get(f"{each.name}_regularizer")
        strength = 0.0 if chosen is None else chosen.options.get("l2", 0.0)
        if strength:
            changed[each.layer, each.name] = whole[each.layer, each.name] - strength * each.node
    yield from _of_each_layer(changed)


@declare("regularizer_averaged", wrong="dW = (X.T @ delta + 2 * l2 * W) / N", right="dW = X.T @ delta / N + 2 * l2 * W")
def regularizer_averaged(network: Network) -> Iterator[Change]:
    if network.task.samples > 1:
        yield from _with_penalties(network, 1.0 / network.task.samples)


@declare("regularizer_sign", wrong="dW = X.T @ delta - 2 * l2 * W", right="dW = X.T @ delta + 2 * l2 * W")
def regularizer_sign(network: Network) -> Iterator[Change]:
    yield from _with_penalties(network, -1.0)


@declare(
    "output_forgotten",
    wrong="gradient = gradient_of(loss_a)",
    right="gradient = gradient_of(loss_a) + gradient_of(loss_b)",
)
def output_forgotten(network: Network) -> Iterator[Change]:
    parts = network.objective.by_output
    if len(parts) < 2 or network.task.reduction == "none":
        return
    weights = network.task.loss_weights or (1.0,) * len(parts)
    for left_out in parts:
        total = network.graph.constant(0.0)
        for (name, node), weight in zip(parts.items(), weights, strict=True):
            if name != left_out:
                total = total + weight * node
        if total.index in network.moving:
            yield Change((left_out,), total=total)


@declare("loss_weights_forgotten", wrong="loss = loss_a + loss_b", right="loss = weight_a * loss_a + weight_b * loss_b")
def loss_weights_forgotten(network: Network) -> Iterator[Change]:
    weights = network.task.loss_weights
    if weights is None or network.task.reduction == "none" or set(weights) == {1.0}:
        return
    total = network.graph.constant(0.0)
    for node in network.objective.by_output.values():
        total = total + node
    yield Change(total=total)
