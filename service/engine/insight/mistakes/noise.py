"""Differences that are no mistakes: the gradient is as right as the way of computing it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node
from service.engine.graph.operations import greater, greater_equal
from service.engine.insight.mistakes.arrangements import anything
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network, times

declare("float32_noise", "noise")(anything)
declare("central_differences", "noise")(anything)
declare("forward_differences", "noise")(anything)


@declare("kink_convention", "noise")
def kink_convention(network: Network) -> Iterator[Change]:
    """Yield changes to another convention for slopes at kinks: the slope of the other side, or the mean."""
    for share in (1.0, 0.5):
        rules: dict[str, dict[tuple[int, int], Callable[[Node], Node | None]]] = {}
        for node in network.forward:
            if node.operation.name != "with_slope" or node.index not in network.moving:
                continue
            other = _other_slope(node.inputs[2])
            if other is not None and node.scope in network.types:
                slope = node.inputs[2] + share * (other - node.inputs[2])
                rules.setdefault(node.scope, {})[node.index, 1] = times(slope)
        for layer, of_layer in rules.items():
            yield Change((layer,), Changes(of_layer))


def _other_slope(slope: Node) -> Node | None:
    """Return a slope that is a comparison with the other result at equality; None for other slopes."""
    name = slope.operation.name
    if name == "greater":
        return greater_equal(*slope.inputs)
    if name == "greater_equal":
        return greater(*slope.inputs)
    return None
