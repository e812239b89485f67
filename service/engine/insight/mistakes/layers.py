"""Mistakes inside a layer: masks, statistics, steps, kernels, and values that are used more than once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    Sliding,
    broadcast,
    concatenate,
    overlap_add,
    reshape,
    scatter_rows,
    sign,
    slice_axis,
    transpose,
)
from service.engine.insight.mistakes.activations import is_mask, mask_position
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, nothing, times, unchanged
from service.engine.texts import say

# --- masks --------------------------------------------------------------------------------------


def _masked(network: Network) -> Iterator[tuple[str, list[Node]]]:
    """Every product with a random mask, by layer."""
    for name in network.order:
        found = [
            node
            for node in network.nodes_of(name, "multiply")
            if node.index in network.moving and any(is_mask(network, x) for x in node.inputs)
        ]
        if found:
            yield name, found


@declare(
    "dropout_mask_forgotten",
    "rule",
    say("mistake.dropout_mask_forgotten.what"),
    say("mistake.dropout_mask_forgotten.change"),
    wrong="da = dd",
    right="da = dd * mask",
)
def dropout_mask_forgotten(network: Network) -> Iterator[Change]:
    for name, nodes in _masked(network):
        yield Change((name,), Changes({(node.index, mask_position(network, node)): unchanged for node in nodes}))


@declare(
    "dropout_mask_doubled",
    "rule",
    say("mistake.dropout_mask_doubled.what"),
    say("mistake.dropout_mask_doubled.change"),
    wrong="da = dd * mask * mask",
    right="da = dd * mask",
)
def dropout_mask_doubled(network: Network) -> Iterator[Change]:
    for name, nodes in _masked(network):
        rules = {}
        for node in nodes:
            position = mask_position(network, node)
            mask = node.inputs[1 - position]
            rules[node.index, position] = times(mask, mask)
        yield Change((name,), Changes(rules))


@declare(
    "dropout_scale_forgotten",
    "rule",
    say("mistake.dropout_scale_forgotten.what"),
    say("mistake.dropout_scale_forgotten.change"),
    wrong="da = dd * (mask > 0)",
    right="da = dd * mask  # which is 0 or 1 / (1 - rate)",
)
def dropout_scale_forgotten(network: Network) -> Iterator[Change]:
    for name, nodes in _masked(network):
        rules = {}
        for node in nodes:
            position = mask_position(network, node)
            mask = sign(node.inputs[1 - position])
            rules[node.index, position] = times(mask)
        yield Change((name,), Changes(rules))


# --- normalisation ------------------------------------------------------------------------------


def _statistics(network: Network) -> Iterator[tuple[str, list[tuple[Node, int]], list[tuple[Node, int]]]]:
    """Of each layer that normalises: where means are subtracted, and where it is divided by deviations."""
    for name in network.order:
        if "normalization" not in network.types[name] and network.types[name] not in ("time_distributed",):
            continue
        means: list[tuple[Node, int]] = []
        deviations: list[tuple[Node, int]] = []
        for node in network.nodes_of(name, "subtract", "divide"):
            statistic = node.inputs[1]
            if statistic.index in network.moving and statistic.operation.name == "broadcast":
                (means if node.operation.name == "subtract" else deviations).append((node, 1))
        if means or deviations:
            yield name, means, deviations


def _cut(places: Sequence[tuple[Node, int]]) -> Changes:
    return Changes({(node.index, position): nothing for node, position in places})


@declare(
    "normalization_statistics_constant",
    "rule",
    say("mistake.normalization_statistics_constant.what"),
    say("mistake.normalization_statistics_constant.change"),
    wrong="dx = dy * gamma / std",
    right="dx = gamma / std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))",
)
def normalization_statistics_constant(network: Network) -> Iterator[Change]:
    for name, means, deviations in _statistics(network):
        yield Change((name,), _cut([*means, *deviations]))


@declare(
    "normalization_variance_constant",
    "rule",
    say("mistake.normalization_variance_constant.what"),
    say("mistake.normalization_variance_constant.change"),
    wrong="dx = gamma / std * (dy - dy.mean(0))",
    right="dx = gamma / std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))",
)
def normalization_variance_constant(network: Network) -> Iterator[Change]:
    for name, _, deviations in _statistics(network):
        yield Change((name,), _cut(deviations))


@declare(
    "normalization_mean_constant",
    "rule",
    say("mistake.normalization_mean_constant.what"),
    say("mistake.normalization_mean_constant.change"),
    wrong="dx = gamma / std * (dy - xhat * (dy * xhat).mean(0))",
    right="dx = gamma / std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))",
)
def normalization_mean_constant(network: Network) -> Iterator[Change]:
    for name, means, _ in _statistics(network):
        yield Change((name,), _cut(means))


@declare(
    "normalization_statistics_doubled",
    "rule",
    say("mistake.normalization_statistics_doubled.what"),
    say("mistake.normalization_statistics_doubled.change"),
    wrong="dx = gamma / std * (dy - 2 * dy.mean(0) - 2 * xhat * (dy * xhat).mean(0))",
    right="dx = gamma / std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))",
)
def normalization_statistics_doubled(network: Network) -> Iterator[Change]:
    def doubled(places: Sequence[tuple[Node, int]]) -> Changes:
        def rule(node: Node, position: int, g: Node) -> Node | None:
            found = network.pulled(node, position, g)
            return None if found is None else 2.0 * found

        return Changes({(node.index, position): partial(rule, node, position) for node, position in places})

    for name, means, deviations in _statistics(network):
        yield Change((name,), doubled([*means, *deviations]))
        for places in (means, deviations) if means and deviations else ():
            yield Change((name,), doubled(places))


# --- recurrence ---------------------------------------------------------------------------------


def _between_steps(network: Network, name: str) -> list[tuple[Node, int]]:
    """Where a step of a recurrent layer uses what an earlier step handed on: the node and the position."""
    nodes = network.by_scope.get(name, [])
    sources: dict[int, list[Node]] = {}
    users: dict[int, list[Node]] = {}
    for node in nodes:
        for x in node.inputs:
            users.setdefault(x.index, []).append(node)
        if node.operation.name == "slice" and node.attributes[0] == 0 and node.inputs[0].index in network.of_inputs:
            sources.setdefault(node.inputs[0].index, []).append(node)
    first: dict[int, int] = {}
    for slices in sources.values():
        if len(slices) > 1:
            first |= {node.index: step for step, node in enumerate(sorted(slices, key=lambda node: node.index))}
    steps = _steps_of(nodes, first)
    # A product of a state belongs to the step that adds it to its share of the inputs.
    later = {}
    for node in nodes:
        if node.operation.name == "matmul" and node.index in steps:
            step = _step_of_user(node, users, steps)
            if step is not None and step > steps[node.index]:
                later[node.index] = step
    steps = _steps_of(nodes, first | later)
    return [
        (node, place)
        for node in nodes
        if node.index in steps and node.index not in first and node.operation.name != "concatenate"
        for place, x in enumerate(node.inputs)
        if x.index in steps and steps[x.index] < steps[node.index]
    ]


def _steps_of(nodes: Sequence[Node], known: Mapping[int, int]) -> dict[int, int]:
    """The step of each node: the last one of those whose values it needs."""
    steps = dict(known)
    for node in nodes:
        if node.index not in known:
            found = [steps[x.index] for x in node.inputs if x.index in steps]
            if found:
                steps[node.index] = max(found)
    return steps


def _step_of_user(node: Node, users: Mapping[int, Sequence[Node]], steps: Mapping[int, int]) -> int | None:
    """The step of what a value is first combined with."""
    derived, waiting = {node.index}, [node]
    while waiting:
        for user in users.get(waiting.pop().index, ()):
            others = [steps[x.index] for x in user.inputs if x.index in steps and x.index not in derived]
            if others:
                return max(others)
            derived.add(user.index)
            waiting.append(user)
    return None


def _recurrent(network: Network) -> Iterator[tuple[str, list[tuple[Node, int]]]]:
    for name, _ in network.layers("simple_rnn", "lstm", "gru", "bidirectional"):
        places = _between_steps(network, name)
        if places:
            yield name, places


@declare(
    "recurrence_cut",
    "rule",
    say("mistake.recurrence_cut.what"),
    say("mistake.recurrence_cut.change"),
    wrong="dh = dh_of_output[t]",
    right="dh = dh_of_output[t] + delta[t + 1] @ U.T",
)
def recurrence_cut(network: Network) -> Iterator[Change]:
    for name, places in _recurrent(network):
        yield Change((name,), _cut(places))


@declare(
    "recurrence_path_forgotten",
    "rule",
    say("mistake.recurrence_path_forgotten.what"),
    say("mistake.recurrence_path_forgotten.change"),
    wrong="dc = dh * o * (1 - tanh(c) ** 2)",
    right="dc = dh * o * (1 - tanh(c) ** 2) + dc_next * f_next",
)
def recurrence_path_forgotten(network: Network) -> Iterator[Change]:
    for name, places in _recurrent(network):
        through_kernel = [place for place in places if place[0].operation.name == "matmul"]
        around = [place for place in places if place[0].operation.name != "matmul"]
        if through_kernel and around:
            yield Change((name,), _cut(around), form="around")
            yield Change((name,), _cut(through_kernel), form="through")


# --- kernels ------------------------------------------------------------------------------------


def _flipped(x: Node, axes: Sequence[int]) -> Node:
    for axis in axes:
        x = concatenate([slice_axis(x, axis, k, k + 1) for k in reversed(range(x.shape[axis]))], axis)
    return x


def through_updated(
    network: Network, layers: Collection[str], rate: Node, penalties: Mapping[tuple[str, ...], Node]
) -> Changes:
    """Deltas that are passed on through weights which are updated already, each with the gradient that it just got.

    `penalties` are the gradients of penalties that the updates have too.
    """
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
    """Cotangents that are passed on through other values of parameters than those of the way forward."""
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


@declare(
    "kernel_not_flipped",
    "rule",
    say("mistake.kernel_not_flipped.what"),
    say("mistake.kernel_not_flipped.change"),
    wrong="dx = correlate(pad(delta), K)",
    right="dx = correlate(pad(delta), K[::-1, ::-1])",
)
def kernel_not_flipped(network: Network) -> Iterator[Change]:
    for layer, kernel in _kernels(network, "conv"):
        spatial = len(kernel.shape) - 2
        if spatial < 1 or all(n == 1 for n in kernel.shape[:spatial]):
            continue
        changes = with_other_parameters(network, {kernel: _flipped(kernel, range(spatial))}, layer)
        if changes.rules:
            yield Change((layer,), changes)


@declare(
    "kernel_not_transposed",
    "rule",
    say("mistake.kernel_not_transposed.what"),
    say("mistake.kernel_not_transposed.change"),
    wrong="delta1 = (delta2 @ W2) * df(z1)",
    right="delta1 = (delta2 @ W2.T) * df(z1)",
)
def kernel_not_transposed(network: Network) -> Iterator[Change]:
    for layer, kernel in _kernels(network, "dense", "rnn"):
        if len(kernel.shape) == 2 and kernel.shape[0] == kernel.shape[1] > 1:
            changes = with_other_parameters(network, {kernel: transpose(kernel)}, layer)
            if changes.rules:
                yield Change((layer,), changes)


@declare(
    "padding_gradient_lost",
    "rule",
    say("mistake.padding_gradient_lost.what"),
    say("mistake.padding_gradient_lost.change"),
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
    """The padded gradient without its last rows and columns, and not without those of the padding."""
    sliding: Sliding = node.attributes[0]
    corner = sliding._replace(padding=tuple((0, low + high) for low, high in sliding.padding))
    return overlap_add(g, corner, node.inputs[0].shape)


def _border_is_zero(node: Node, g: Node) -> Node:
    """The gradient of what padding touches is left at 0."""
    sliding: Sliding = node.attributes[0]
    whole = overlap_add(g, sliding, node.inputs[0].shape)
    for axis, (low, high) in zip(sliding.axes, sliding.padding, strict=True):
        length = whole.shape[axis]
        inner = [1.0 if low <= k < length - high else 0.0 for k in range(length)]
        whole = whole * _along(whole, axis, inner)
    return whole


def _whole_windows_only(node: Node, g: Node) -> Node:
    """Windows that reach over the edge pass nothing back."""
    return overlap_add(_without_rim(node, g), node.attributes[0], node.inputs[0].shape)


def _without_rim(node: Node, g: Node) -> Node:
    """Gathered windows with 0 in those that reach over the edge."""
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
    """x with the samples moved on by some places, the last ones to the front."""
    count = x.shape[0]
    by %= count
    return concatenate([slice_axis(x, 0, count - by, count), slice_axis(x, 0, 0, count - by)], 0)


def of_other_samples(network: Network) -> Iterator[Change]:
    """The parameters of a layer meet its deltas with the inputs of the sample before, or of the next one."""
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
    """Gradients of a layer's parameters, made of other values that stand beside them in its products."""
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


@declare(
    "attention_scale_forgotten",
    "rule",
    say("mistake.attention_scale_forgotten.what"),
    say("mistake.attention_scale_forgotten.change"),
    wrong="dQ = dS @ K",
    right="dQ = dS @ K / sqrt(d)",
)
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
    "rule",
    say("mistake.attention_weights_constant.what"),
    say("mistake.attention_weights_constant.change"),
    wrong="dV = P.T @ dA  # and no dQ, dK",
    right="dV = P.T @ dA; dP = dA @ V.T; dS = P * (dP - (dP * P).sum(-1, keepdims=True))",
)
def attention_weights_constant(network: Network) -> Iterator[Change]:
    for name, _ in network.layers("multi_head_attention"):
        nodes = [node for node in network.nodes_of(name, "softmax") if node.index in network.moving]
        if nodes:
            yield Change((name,), Changes({(node.index, 1): nothing for node in nodes}))


# --- values that are used more than once --------------------------------------------------------


@declare(
    "shared_use_forgotten",
    "rule",
    say("mistake.shared_use_forgotten.what"),
    say("mistake.shared_use_forgotten.change"),
    wrong="dW = first.T @ delta_first",
    right="dW = first.T @ delta_first + second.T @ delta_second",
)
def shared_use_forgotten(network: Network) -> Iterator[Change]:
    for layer in network.definition.layers:
        users = [
            layer.name,
            *(other.name for other in network.definition.layers if _owner(network, other.name) == layer.name),
        ]
        if len(users) < 2:
            continue
        own = {each.node.index for each in network.trained if each.layer == layer.name}
        yield from _uses_of_views(network, users, own)


def _owner(network: Network, name: str) -> str | None:
    by_name = {layer.name: layer for layer in network.definition.layers}
    layer = by_name[name]
    while layer.shares is not None:
        layer = by_name[layer.shares]
    return layer.name if layer.name != name else None


def _uses_of_views(network: Network, users: Sequence[str], own: set[int]) -> Iterator[Change]:
    """Each layer's uses of parameters, cut. Layers may share views of a parameter, so these do not count as uses."""
    views = set(own)
    for node in network.forward:
        if node.operation.view is not None and node.inputs[0].index in views:
            views.add(node.index)
    uses: dict[str, list[tuple[Node, int]]] = {user: [] for user in users}
    for node in network.forward:
        if node.operation.view is None and node.scope in uses:
            uses[node.scope] += [(node, place) for place, x in enumerate(node.inputs) if x.index in views]
    for user, places in uses.items():
        if places and sum(1 for other in uses.values() if other) > 1:
            yield Change((user,), _cut(places))


@declare(
    "branch_forgotten",
    "rule",
    say("mistake.branch_forgotten.what"),
    say("mistake.branch_forgotten.change"),
    wrong="da = through_the_layers",
    right="da = through_the_layers + dsum",
)
def branch_forgotten(network: Network) -> Iterator[Change]:
    marks: dict[str, list[Node]] = {}
    for node in network.forward:
        if node.operation.name == "mark":
            marks.setdefault(node.attributes[0], []).append(node)
    for name, layer in network.layers():
        if layer.output.index not in network.moving:
            continue
        uses = [node for node in chain.from_iterable(marks.values()) if node.inputs[0] is layer.output]
        if len(uses) > 1:
            for use in uses:
                yield Change((name, use.attributes[0]), _cut([(use, 0)]))


@declare(
    "embedding_overwritten",
    "rule",
    say("mistake.embedding_overwritten.what"),
    say("mistake.embedding_overwritten.change"),
    wrong="dE[indices] += delta",
    right="np.add.at(dE, indices, delta)",
)
def embedding_overwritten(network: Network) -> Iterator[Change]:
    for name, _ in network.layers("embedding"):
        for node in network.nodes_of(name, "gather_rows"):
            table, indices = node.inputs
            if indices.size < 2:
                continue
            last = network.graph.input(f"last/{indices.attributes[0]}", indices.shape)
            mask = broadcast(reshape(last, (*indices.shape, 1)), node.shape)
            rows = table.shape[-2]

            def rule(g: Node, mask: Node = mask, indices: Node = indices, rows: int = rows) -> Node:
                return scatter_rows(g * mask, indices, rows)

            yield Change((name,), Changes({(node.index, 0): rule}))
