"""The mistakes at values with several uses: shared layers, branches, and rows of embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import broadcast, reshape, scatter_rows
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, cut


@declare(
    "shared_use_forgotten",
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
    """Yield changes in which the parameters `own` get no gradient from one of the layers that use them. Views of a
    parameter do not count as uses."""
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
            yield Change((user,), cut(places))


@declare("branch_forgotten", wrong="da = through_the_layers", right="da = through_the_layers + dsum")
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
                yield Change((name, use.attributes[0]), cut([(use, 0)]))


@declare("embedding_overwritten", wrong="dE[indices] += delta", right="np.add.at(dE, indices, delta)")
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
