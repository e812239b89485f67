"""The values of a network's leaves: inputs, targets, weights, random masks and parameters, as a request gives them."""

from __future__ import annotations

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import tree_of
from service.engine.network.prepare import Prepared
from service.engine.watch import Watch


class Leaves:
    """The values of all inputs of a network's graph, filled as those of a workspace are. The interpreter computes from
    them."""

    def __init__(self, prepared: Prepared, feeder: Feeder) -> None:
        model = prepared.model
        nodes = [*model.inputs.values(), *prepared.targets.values(), *(noise.node for noise in model.noises)]
        if prepared.weights is not None:
            nodes.append(prepared.weights)
        self.inputs = {node.attributes[0]: np.empty(node.shape, node.dtype) for node in nodes}
        """The inputs by the names of their nodes."""
        self.parameters = np.empty(sum(node.size for node in feeder.parameters.nodes), prepared.task.dtype)
        """The flat vector of all parameters."""
        self._nodes = nodes
        self._feeder = feeder

    def values(self) -> dict[Node, Array]:
        """Return the value of each input node, parameters included."""
        found = {node: self.inputs[node.attributes[0]] for node in self._nodes}
        vector = self._feeder.parameters
        for parameter, part in zip(vector.parameters, vector.pieces, strict=True):
            found[parameter.node] = self.parameters[part.start : part.stop].reshape(part.shape)
        return found

    def tree(self) -> dict[str, dict[str, Array]]:
        """Return the parameters as a tree by layer and name."""
        return tree_of(self._feeder.parameters.pieces, self.parameters)


def leaves_of(prepared: Prepared, feeder: Feeder, feed: Feed, watch: Watch | None) -> Leaves:
    """Return the leaves of a network with the numbers of a request. Raises `InvalidRequest` when the numbers do not
    fit, `DeadlineExceeded` while parameters are initialised."""
    leaves = Leaves(prepared, feeder)
    feeder.fill(leaves, feed, watch)
    return leaves
