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
    """Return the value of every node that `outputs` need, given the values of the input nodes."""
    return dict(steps(outputs, inputs))


def steps(outputs: Iterable[Node], inputs: Mapping[Node, Array]) -> Iterator[tuple[Node, Array]]:
    """Yield each node that `outputs` need with its value, in an order of computation, computed on demand."""
    values: dict[Node, Array] = {}
    for node in reachable(outputs):
        if node in inputs:
            values[node] = inputs[node]
        else:
            values[node] = without_float_warnings(evaluate, node, [values[x] for x in node.operands])
        yield node, values[node]


def evaluate(node: Node, inputs: list[Array]) -> Array:
    """Return the value of one node, given the values of its inputs. Complex inputs give a complex value."""
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
