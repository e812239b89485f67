"""The plainest way to run a graph: a new array for each node, and all of them kept.

Tests compare the plan with it, and it gives every intermediate value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.ir import Node, reachable


def interpret(outputs: Iterable[Node], inputs: Mapping[Node, Array]) -> dict[Node, Array]:
    """Compute the value of every node that `outputs` need, from the values of the input nodes."""
    return dict(steps(outputs, inputs))


def steps(outputs: Iterable[Node], inputs: Mapping[Node, Array]) -> Iterator[tuple[Node, Array]]:
    """Yield the nodes and their values one by one, computed as they are asked for."""
    values: dict[Node, Array] = {}
    for node in reachable(outputs):
        if node in inputs:
            values[node] = inputs[node]
        else:
            values[node] = without_float_warnings(evaluate, node, [values[x] for x in node.operands])
        yield node, values[node]


def evaluate(node: Node, inputs: list[Array]) -> Array:
    """Compute the value of one node. Complex inputs give a complex value, for the complex step."""
    operation = node.operation
    if node.is_constant:
        return np.array(node.attributes[0], node.dtype)
    if operation.name == "input":
        raise KeyError(f"no value for {node!r}")
    if operation.view is not None:
        return np.ascontiguousarray(operation.view(inputs[0], node.attributes, node.shape)).reshape(node.shape)
    dtype = np.result_type(node.dtype, *inputs) if any(np.iscomplexobj(x) for x in inputs) else np.dtype(node.dtype)
    out = np.empty(node.shape, dtype)
    scratch = [np.empty(shape, dtype) for shape in operation.scratch(node)] if operation.scratch else []
    for call in operation.bind(out, inputs, node.attributes, scratch):
        call()
    return out
