"""The mistakes at kernels, paddings and attention weights, and gradients through other parameters or inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import Sliding, broadcast, concatenate, overlap_add, reshape, slice_axis, transpose
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, nothing, unchanged

# --- kernels ------------------------------------------------------------------------------------


def _flipped(x: Node, axes: Sequence[int]) -> Node:
    for axis in axes:
        x = concatenate([slice_axis(x, axis, k, k + 1) for k in reversed(range(x.shape[axis]))], axis)
    return x


def through_updated(
    network: Network, layers: Collection[str], rate: Node, penalties: Mapping[tuple[str, ...], Node]
) -> Changes:
    """Return changes in which deltas pass through weights that were updated too early. `rate` is the learning rate.
    `penalties` are the gradients of penalties in these updates."""
    replaced = {
        each.node: each.node - rate * penalties[each.layer, each.name]
        for each in network.trained
        if (each.layer, each.name) in penalties
    }
    own = network.descendants(each.node for each in network.trained)
    rules = {}
    for name in layers:
        for node in network.nodes_of(name, "matmul"):
            for position in (0, 1):
                x, factor = node.inputs[position], node.inputs[1 - position]
                is_own = factor.index in own and factor.index not in network.of_inputs
                if is_own and x.index in network.of_inputs and x.index in network.moving:
                    other = network.substituted(factor, replaced) if replaced else factor
                    rules[node.index, position] = partial(_through_updated, network, node, position, other, rate)
    return Changes(rules)


def _through_updated(network: Network, node: Node, position: int, factor: Node, rate: Node, g: Node) -> Node | None:
    step = network.pulled(node, 1 - position, g)
    if step is None:
        return None
    x, updated = node.inputs[position], factor - rate * step
    return network.pulled(node, position, g, *((x, updated) if position == 0 else (updated, x)))


def with_other_parameters(network: Network, replaced: Mapping[Node, Node], layer: str | None = None) -> Changes:
    """Return changes in which cotangents pass through other parameters than in the forward pass. `replaced` maps the
    parameters to the others. With `layer`, only this layer changes."""
    of_parameters = network.descendants(replaced)
    rules = {}
    nodes = network.forward if layer is None else network.by_scope.get(layer, [])
    for node in nodes:
        if node.operation.name not in ("matmul", "multiply"):
            continue
        for position in (0, 1):
            factor = node.inputs[1 - position]
            x = node.inputs[position]
            from_inputs = x.index in network.of_inputs and factor.index not in network.of_inputs
            if from_inputs and factor.index in of_parameters and x.index in network.moving:
                other = network.substituted(factor, replaced)
                inputs = (x, other) if position == 0 else (other, x)
                rules[node.index, position] = partial(_pulled_through, network, node, position, inputs)
    return Changes(rules)


def _pulled_through(network: Network, node: Node, position: int, inputs: tuple[Node, Node], g: Node) -> Node | None:
    return network.pulled(node, position, g, *inputs)


def _kernels(network: Network, *words: str) -> Iterator[tuple[str, Node]]:
    for each in network.model.parameters:
        if any(word in network.types.get(each.layer, "") for word in words) and len(each.node.shape) > 1:
            yield each.layer, each.node


@declare("kernel_not_flipped", wrong="dx = correlate(pad(delta), K)", right="dx = correlate(pad(delta), K[::-1, ::-1])")
def kernel_not_flipped(network: Network) -> Iterator[Change]:
    for layer, kernel in _kernels(network, "conv"):
        spatial = len(kernel.shape) - 2
        if spatial < 1 or all(n == 1 for n in kernel.shape[:spatial]):
            continue
        changes = with_other_parameters(network, {kernel: _flipped(kernel, range(spatial))}, layer)
        if changes.rules:
            yield Change((layer,), changes)


@declare("kernel_not_transposed", wrong="delta1 = (delta2 @ W2) * df(z1)", right="delta1 = (delta2 @ W2.T) * df(z1)")
def kernel_not_transposed(network: Network) -> Iterator[Change]:
    for layer, kernel in _kernels(network, "dense", "rnn"):
        if len(kernel.shape) == 2 and kernel.shape[0] == kernel.shape[1] > 1:
            changes = with_other_parameters(network, {kernel: transpose(kernel)}, layer)
            if changes.rules:
                yield Change((layer,), changes)


@declare(
    "padding_gradient_lost",
    wrong="dx = dx_padded[:, :height, :width]",
    right="dx = dx_padded[:, top : top + height, left : left + width]",
)
def padding_gradient_lost(network: Network) -> Iterator[Change]:
    for name in network.order:
        if "conv" not in network.types[name]:
            continue
        of_layer = [node for node in network.nodes_of(name, "windows") if node.attributes[0].is_padded]
        whole = _with_other_inputs(network, name, {node: _without_rim(node, node) for node in of_layer})
        if whole.rules:
            yield Change((name,), whole)
        padded = [node for node in of_layer if node.inputs[0].index in network.moving]
        if not padded:
            continue
        for rule in (_cropped_at_the_corner, _border_is_zero, _whole_windows_only):
            yield Change((name,), Changes({(node.index, 0): partial(rule, node) for node in padded}))


def _cropped_at_the_corner(node: Node, g: Node) -> Node:
    """Return the gradient of a padded input cropped at its end only, in place of both sides."""
    sliding: Sliding = node.attributes[0]
    corner = sliding._replace(padding=tuple((0, low + high) for low, high in sliding.padding))
    return overlap_add(g, corner, node.inputs[0].shape)


def _border_is_zero(node: Node, g: Node) -> Node:
    """Return the gradient of a padded input with 0 at the border, where padding has an effect."""
    sliding: Sliding = node.attributes[0]
    whole = overlap_add(g, sliding, node.inputs[0].shape)
    for axis, (low, high) in zip(sliding.axes, sliding.padding, strict=True):
        length = whole.shape[axis]
        inner = [1.0 if low <= k < length - high else 0.0 for k in range(length)]
        whole = whole * _along(whole, axis, inner)
    return whole


def _whole_windows_only(node: Node, g: Node) -> Node:
    """Return the gradient of a padded input without windows that reach over the edge."""
    return overlap_add(_without_rim(node, g), node.attributes[0], node.inputs[0].shape)


def _without_rim(node: Node, g: Node) -> Node:
    """Return gathered windows with 0 in those that reach over the edge of the input."""
    sliding: Sliding = node.attributes[0]
    shape = node.inputs[0].shape
    counts = sliding.positions(shape)
    columns = zip(sliding.axes, sliding.sizes, sliding.strides, sliding.dilations, sliding.padding, counts, strict=True)
    for axis, size, stride, dilation, (low, _high), count in columns:
        extent = (size - 1) * dilation + 1
        starts = [k * stride - low for k in range(count)]
        inside = [1.0 if start >= 0 and start + extent <= shape[axis] else 0.0 for start in starts]
        place = axis if axis < sliding.at else axis + len(sliding.axes)
        g = g * _along(g, place, inside)
    return g


def _along(x: Node, axis: int, values: Sequence[float]) -> Node:
    shape = tuple(n if place == axis else 1 for place, n in enumerate(x.shape))
    return broadcast(reshape(x.graph.vector(tuple(values)), shape), x.shape)


# --- attention ----------------------------------------------------------------------------------


def _samples_turned(x: Node, by: int) -> Node:
    """Return x with its samples moved on by some places, the last ones to the front."""
    count = x.shape[0]
    by %= count
    return concatenate([slice_axis(x, 0, count - by, count), slice_axis(x, 0, 0, count - by)], 0)


def of_other_samples(network: Network) -> Iterator[Change]:
    """Yield changes in which the delta of a sample meets the input of the sample before or after."""
    if network.task.samples < 2:
        return
    for by in (1, -1):
        for name, _ in network.layers():
            marks = [
                node
                for node in network.forward
                if node.operation.name == "mark" and node.attributes[0] == name and node.inputs[0].dtype != "int64"
            ]
            replaced = {node: _samples_turned(node, by) for node in marks}
            changes = _with_other_inputs(network, name, replaced)
            if changes.rules:
                yield Change((name,), changes)


def _with_other_inputs(network: Network, layer: str, replaced: Mapping[Node, Node]) -> Changes:
    """Return changes of a layer's parameter gradients, in which products use other inputs."""
    own = {each.node.index for each in network.trained}
    of_parameters = network.descendants(each.node for each in network.trained if each.layer == layer) | own
    depends = network.descendants(replaced) if replaced else set()
    rules = {}
    for node in network.nodes_of(layer, "matmul"):
        for position in (0, 1):
            x, factor = node.inputs[position], node.inputs[1 - position]
            is_own = x.index in of_parameters and x.index not in network.of_inputs
            if is_own and factor.index in depends:
                other = network.substituted(factor, replaced)
                inputs = (x, other) if position == 0 else (other, x)
                rules[node.index, position] = partial(_pulled_through, network, node, position, inputs)
    return Changes(rules)


@declare("attention_scale_forgotten", wrong="dQ = dS @ K", right="dQ = dS @ K / sqrt(d)")
def attention_scale_forgotten(network: Network) -> Iterator[Change]:
    for name, _ in network.layers("multi_head_attention"):
        scaled = [
            (node, position)
            for node in network.nodes_of(name, "multiply")
            for position in (0, 1)
            if node.inputs[1 - position].is_constant and node.inputs[position].index in network.moving
        ]
        if scaled:
            yield Change((name,), Changes({(node.index, position): unchanged for node, position in scaled[:1]}))


@declare(
    "attention_weights_constant",
    wrong="dV = P.T @ dA  # and no dQ, dK",
    right="dV = P.T @ dA; dP = dA @ V.T; dS = P * (dP - (dP * P).sum(-1, keepdims=True))",
)
def attention_weights_constant(network: Network) -> Iterator[Change]:
    for name, _ in network.layers("multi_head_attention"):
        nodes = [node for node in network.nodes_of(name, "softmax") if node.index in network.moving]
        if nodes:
            yield Change((name,), Changes({(node.index, 1): nothing for node in nodes}))
