"""Vectorization: the graph of one sample, rewritten for many samples with a new leading axis.

`vectorize` rewrites the computation of one sample (or one vector) into that of many, by the `batch` rule of each
operation. Per-sample gradients are the gradient of one sample's loss, vectorized. Values that do not depend on the
batched inputs are shared, not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.engine.graph.ir import Node, reachable
from service.engine.graph.operations import broadcast


def vectorize(outputs: Sequence[Node], replacements: Mapping[Node, Node], size: int) -> list[Node]:
    """Return `outputs` for `size` values of some nodes at once, each output with a new leading axis.

    `replacements` maps a node of shape `s` to a node with its values, of shape `(size,) + s`. Raises
    `NotImplementedError` for an operation without a batch rule.
    """
    batched: dict[int, Node] = {}
    for node, replacement in replacements.items():
        if replacement.shape != (size, *node.shape):
            raise ValueError(f"{replacement!r} cannot stand for {size} of {node!r}")
        batched[node.index] = replacement
    graph = outputs[0].graph
    scope, serves = graph.scope, graph.serves
    for node in reachable(outputs, gradients=True):
        if node.index in batched or not any(x.index in batched for x in node.inputs):
            continue
        if node.operation.batch is None:
            raise NotImplementedError(f"{node.operation.name} has no batch rule")
        graph.scope, graph.serves = node.scope, node.serves
        inputs = [batched.get(x.index, x) for x in node.inputs]
        is_batched = [x.index in batched for x in node.inputs]
        batched[node.index] = node.operation.batch(node, inputs, is_batched, size)
    graph.scope, graph.serves = scope, serves
    return [batched.get(node.index) or broadcast(node, (size, *node.shape)) for node in outputs]
