"""The mistakes with the derivative of an activation: forgotten, taken twice, or taken at a wrong place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import exp, sqrt, square
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, handed, times, unchanged
from service.engine.network.activations import activations
from service.engine.network.layers import LayerOutput

OF_OUTPUT: Mapping[str, Callable[[Node], Node]] = {
    "sigmoid": lambda y: y * (1.0 - y),
    "tanh": lambda y: 1.0 - square(y),
    "exponential": lambda y: y,
    "softplus": lambda y: 1.0 - exp(-y),
    "softsign": lambda y: square(1.0 - sqrt(square(y))),
}
"""Derivatives of activations as people write them: of the output."""
STEPS = ("tanh", "sigmoid")
"""Activations inside a recurrent layer, which are no layers of their own."""


def _activated(network: Network) -> Iterator[tuple[str, LayerOutput]]:
    """Yield the layers with a gradient through their pre-activation."""
    for name, layer in network.layers():
        z, a = layer.pre_activation, layer.output
        if z is not a and layer.activation is not None and z.index in network.moving:
            yield name, layer


def jump(layer: LayerOutput, rule: Callable[[Node], Node]) -> Changes:
    """Return changes in which `rule` makes the delta of a layer from the gradient by the layer's output."""
    return Changes(jumps={layer.output.index: handed((layer.pre_activation, rule))})


def _any_activation(y: Node) -> bool:
    return True


def _is_gate(y: Node) -> bool:
    return y.operation.name == "sigmoid"


def _is_of_state(y: Node) -> bool:
    """Return whether an activation takes a state, such as that of an LSTM cell, and not a sum of products."""
    return y.operation.name == "tanh" and y.inputs[0].operation.name in ("add", "multiply")


def _inside(
    network: Network, name: str, rule: Callable[[Node, Node], Node], chosen: Callable[[Node], bool] = _any_activation
) -> Change | None:
    """Return a change at the activations inside a recurrent layer; None if the layer has no such activations. `rule`
    makes the new cotangent from the activation and its cotangent."""
    if network.types[name] not in ("simple_rnn", "lstm", "gru", "bidirectional", "time_distributed"):
        return None
    nodes = [node for node in network.nodes_of(name, *STEPS) if node.index in network.moving and chosen(node)]
    rules = {(node.index, 0): partial(rule, node) for node in nodes}
    return Change((name,), Changes(rules)) if rules else None


def _slope_of_step(y: Node, at: Node) -> Node:
    name = y.operation.name
    value = y.graph.apply(name, at, attributes=y.attributes)
    return OF_OUTPUT[name](value)


@declare("activation_derivative_omitted", wrong="delta1 = delta2 @ W2.T", right="delta1 = (delta2 @ W2.T) * df(z1)")
def activation_derivative_omitted(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        if layer.activation is not None and layer.activation.name != "linear":
            yield Change((name,), jump(layer, unchanged), network.total_for(name))
    for chosen in (_any_activation, _is_gate, _is_of_state):
        for name in network.order:
            inside = _inside(network, name, lambda y, g: g, chosen)
            if inside is not None:
                yield inside
    for name, _ in network.layers("multi_head_attention"):
        shares = [node for node in network.nodes_of(name, "softmax") if node.index in network.moving]
        if shares:
            yield Change((name,), Changes({(node.index, 1): unchanged for node in shares}))


@declare("activation_derivative_doubled", wrong="delta = (a - t) * df(z) * df(z)", right="delta = (a - t) * df(z)")
def activation_derivative_doubled(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        slope = network.slope(layer, layer.pre_activation)
        if slope is not None:
            yield Change((name,), jump(layer, times(slope, slope)), network.total_for(name))


@declare(
    "derivative_at_activation", wrong="delta1 = (delta2 @ W2.T) * df(a1)", right="delta1 = (delta2 @ W2.T) * df(z1)"
)
def derivative_at_activation(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        slope = network.slope(layer, layer.output)
        if slope is not None:
            yield Change((name,), jump(layer, times(slope)), network.total_for(name))
    for name in network.order:
        inside = _inside(network, name, lambda y, g: g * _slope_of_step(y, y))
        if inside is not None:
            yield inside


@declare(
    "derivative_at_pre_activation",
    wrong="delta1 = (delta2 @ W2.T) * z1 * (1 - z1)",
    right="delta1 = (delta2 @ W2.T) * a1 * (1 - a1)",
)
def derivative_at_pre_activation(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        chosen = layer.activation
        if chosen is not None and chosen.name in OF_OUTPUT:
            slope = OF_OUTPUT[chosen.name](layer.pre_activation)
            yield Change((name,), jump(layer, times(slope)), network.total_for(name))
    for name in network.order:
        inside = _inside(network, name, lambda y, g: g * OF_OUTPUT[y.operation.name](y.inputs[0]))
        if inside is not None:
            yield inside


@declare(
    "derivative_of_other_layer", wrong="delta1 = (delta2 @ W2.T) * df(z2)", right="delta1 = (delta2 @ W2.T) * df(z1)"
)
def derivative_of_other_layer(network: Network) -> Iterator[Change]:
    places = {name: place for place, name in enumerate(network.order)}
    for name, layer in _activated(network):
        for side in (-1, 1):
            place = places[name] + side
            if not 0 <= place < len(network.order):
                continue
            theirs = network.model.layers[network.order[place]]
            if theirs.pre_activation.shape != layer.pre_activation.shape:
                continue
            for form, source in (("own", layer), ("their", theirs)):
                slope = network.slope(source, theirs.pre_activation)
                if slope is not None:
                    total = network.total_for(name)
                    yield Change((name,), jump(layer, times(slope)), total, form=f"{form} {side}")


@declare(
    "derivative_of_other_activation",
    wrong="delta1 = (delta2 @ W2.T) * a1 * (1 - a1)  # of a tanh",
    right="delta1 = (delta2 @ W2.T) * (1 - a1 ** 2)",
)
def derivative_of_other_activation(network: Network) -> Iterator[Change]:
    for other in ("sigmoid", "tanh", "relu"):
        chosen = activations.select(other)
        for name, layer in _activated(network):
            own = layer.activation
            if own is None or own.name in (other, "linear") or own.declaration.acts_on != "element":
                continue
            z, a, total = layer.pre_activation, layer.output, network.total_for(name)
            slope = network.slope(replace(layer, activation=chosen), z)
            if slope is not None:
                yield Change((name,), jump(layer, times(slope)), total, form=f"{other} of z")
            if other in OF_OUTPUT:
                yield Change((name,), jump(layer, times(OF_OUTPUT[other](a))), total, form=f"{other} of a")


@declare(
    "delta_before_masking",
    wrong="da1 = delta2 @ W2.T; dW1 = X.T @ da1; delta1 = da1 * df(z1)",
    right="delta1 = (delta2 @ W2.T) * df(z1); dW1 = X.T @ delta1",
)
def delta_before_masking(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        if layer.activation is not None and layer.activation.name != "linear":
            yield Change((name,), total=network.total_for(name), own={name: jump(layer, unchanged)})
    for name, mask in dropout_masks(network):
        (before,) = _sources(network, name)
        if before in network.types and mask.index in network.moving:
            changes = Changes({(mask.index, mask_position(network, mask)): unchanged})
            yield Change((before,), own={before: changes})


@declare(
    "delta_passed_on_before_derivative",
    wrong="dW2 = a1.T @ delta2; delta1 = (da2 @ W2.T) * df(z1)",
    right="dW2 = a1.T @ delta2; delta1 = (delta2 @ W2.T) * df(z1)",
)
def delta_passed_on_before_derivative(network: Network) -> Iterator[Change]:
    for name, layer in _activated(network):
        if layer.activation is not None and layer.activation.name != "linear":
            changes = jump(layer, unchanged)
            yield Change((name,), changes, network.total_for(name), spared={name: changes})


def _sources(network: Network, name: str) -> tuple[str, ...]:
    place = next(place for place, layer in enumerate(network.definition.layers) if layer.name == name)
    return network.definition.inputs_of(place)


def dropout_masks(network: Network) -> Iterator[tuple[str, Node]]:
    """Yield the layers that drop values, each with the product of values and random mask."""
    for name, _ in network.layers("dropout", "spatial_dropout"):
        for node in network.nodes_of(name, "multiply"):
            if any(is_mask(network, x) for x in node.inputs):
                yield name, node


def is_mask(network: Network, node: Node) -> bool:
    """Return whether a node is a random mask, perhaps repeated along some axes."""
    while node.operation.view is not None:
        node = node.inputs[0]
    return any(noise.node is node for noise in network.model.noises)


def mask_position(network: Network, node: Node) -> int:
    """Return the position of the input that is multiplied by a random mask."""
    return 1 if is_mask(network, node.inputs[0]) else 0
