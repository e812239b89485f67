"""The mistakes inside a layer: dropout masks, statistics of normalization, and steps of a recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import sign
from service.engine.insight.mistakes.activations import is_mask, mask_position
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, cut, times, unchanged

# --- masks --------------------------------------------------------------------------------------


def _masked(network: Network) -> Iterator[tuple[str, list[Node]]]:
    """Yield each layer that multiplies values by random masks, with these products."""
    for name in network.order:
        found = [
            node
            for node in network.nodes_of(name, "multiply")
            if node.index in network.moving and any(is_mask(network, x) for x in node.inputs)
        ]
        if found:
            yield name, found


@declare("dropout_mask_forgotten", wrong="da = dd", right="da = dd * mask")
def dropout_mask_forgotten(network: Network) -> Iterator[Change]:
    for name, nodes in _masked(network):
        yield Change((name,), Changes({(node.index, mask_position(network, node)): unchanged for node in nodes}))


@declare("dropout_mask_doubled", wrong="da = dd * mask * mask", right="da = dd * mask")
def dropout_mask_doubled(network: Network) -> Iterator[Change]:
    for name, nodes in _masked(network):
        rules = {}
        for node in nodes:
            position = mask_position(network, node)
            mask = node.inputs[1 - position]
            rules[node.index, position] = times(mask, mask)
        yield Change((name,), Changes(rules))


@declare(
    "dropout_scale_forgotten", wrong="da = dd * (mask > 0)", right="da = dd * mask  # which is 0 or 1 / (1 - rate)"
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


_NORMALIZED = "dx = gamma / std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))"


def _statistics(network: Network) -> Iterator[tuple[str, list[tuple[Node, int]], list[tuple[Node, int]]]]:
    """Yield each normalizing layer with the places where means are subtracted and where deviations divide. A place is a
    node and the position of an input."""
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


@declare("normalization_statistics_constant", wrong="dx = dy * gamma / std", right=_NORMALIZED)
def normalization_statistics_constant(network: Network) -> Iterator[Change]:
    for name, means, deviations in _statistics(network):
        yield Change((name,), cut([*means, *deviations]))


@declare("normalization_variance_constant", wrong="dx = gamma / std * (dy - dy.mean(0))", right=_NORMALIZED)
def normalization_variance_constant(network: Network) -> Iterator[Change]:
    for name, _, deviations in _statistics(network):
        yield Change((name,), cut(deviations))


@declare("normalization_mean_constant", wrong="dx = gamma / std * (dy - xhat * (dy * xhat).mean(0))", right=_NORMALIZED)
def normalization_mean_constant(network: Network) -> Iterator[Change]:
    for name, means, _ in _statistics(network):
        yield Change((name,), cut(means))


@declare(
    "normalization_statistics_doubled",
    wrong="dx = gamma / std * (dy - 2 * dy.mean(0) - 2 * xhat * (dy * xhat).mean(0))",
    right=_NORMALIZED,
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
    """Return the places where a step of a recurrent layer uses values of an earlier step, as nodes and positions."""
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
    """Return the time step of each node: the last step of the values that it needs. `known` are given steps."""
    steps = dict(known)
    for node in nodes:
        if node.index not in known:
            found = [steps[x.index] for x in node.inputs if x.index in steps]
            if found:
                steps[node.index] = max(found)
    return steps


def _step_of_user(node: Node, users: Mapping[int, Sequence[Node]], steps: Mapping[int, int]) -> int | None:
    """Return the time step of the values that a node is first combined with; None if there are none."""
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


@declare("recurrence_cut", wrong="dh = dh_of_output[t]", right="dh = dh_of_output[t] + delta[t + 1] @ U.T")
def recurrencecut(network: Network) -> Iterator[Change]:
    for name, places in _recurrent(network):
        yield Change((name,), cut(places))


@declare(
    "recurrence_path_forgotten",
    wrong="dc = dh * o * (1 - tanh(c) ** 2)",
    right="dc = dh * o * (1 - tanh(c) ** 2) + dc_next * f_next",
)
def recurrence_path_forgotten(network: Network) -> Iterator[Change]:
    for name, places in _recurrent(network):
        through_kernel = [place for place in places if place[0].operation.name == "matmul"]
        around = [place for place in places if place[0].operation.name != "matmul"]
        if through_kernel and around:
            yield Change((name,), cut(around), form="around")
            yield Change((name,), cut(through_kernel), form="through")
