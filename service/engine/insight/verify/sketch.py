"""Pictures of tensors: short vectors by which a claim is compared with many wrong gradients at once.

A small tensor is its own picture. The picture of a large one has a few rows, each a sum of its rows with random signs.
Such a sum of a product is the product of the sum: for a gradient `X.T @ delta` nothing large is ever made, and one more
mistake costs little more than its delta.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import reshape

WHOLE = 2048
"""Tensors of up to this many numbers are their own pictures."""
ROWS = 4
"""Rows of the picture of a larger tensor."""


def is_whole(shape: Shape) -> bool:
    """Return whether the picture of a tensor of this shape holds every number of it."""
    return len(shape) < 2 or math.prod(shape) <= WHOLE


@cache
def signs(rows: int) -> Array:
    """Return the random signs for sums of rows, (ROWS, rows): a read-only array, the same for equal calls."""
    made = np.random.default_rng(rows).choice((-1.0, 1.0), (ROWS, rows))
    made.setflags(write=False)
    return made


def name_of(rows: int) -> str:
    """Return the name of the graph input with the signs for this many rows."""
    return f"signs/{rows}"


def sketch(x: Node) -> Node:
    """Return a node with the picture of a node, flat."""
    if is_whole(x.shape):
        return reshape(x, (x.size,))
    rows = x.size // x.shape[-1]
    factor = x.graph.input(name_of(rows), (ROWS, rows))
    drawn = _drawn(factor, reshape(x, (rows, x.shape[-1])))
    return reshape(drawn, (drawn.size,))


def _drawn(factor: Node, x: Node) -> Node:
    name = x.operation.name
    if name == "matmul" and len(x.shape) == 2:
        return (factor @ x.inputs[0]) @ x.inputs[1]
    if name in ("add", "subtract") and all(y.shape == x.shape for y in x.inputs):
        first, second = (_drawn(factor, y) for y in x.inputs)
        return first + second if name == "add" else first - second
    if name in ("multiply", "divide") and x.inputs[1].shape == () and x.inputs[0].shape == x.shape:
        return x.graph.apply(name, _drawn(factor, x.inputs[0]), x.inputs[1])
    if name == "multiply" and x.inputs[0].shape == () and x.inputs[1].shape == x.shape:
        return x.inputs[0] * _drawn(factor, x.inputs[1])
    return factor @ x


def inputs_of(graph: Graph) -> dict[str, Array]:
    """Return the signs for the pictures in a graph, by the names of their inputs."""
    return {
        node.attributes[0]: signs(node.shape[1])
        for node in graph.nodes
        if node.operation.name == "input" and str(node.attributes[0]).startswith("signs/")
    }


def picture(array: Array) -> Array:
    """Return the picture of an array, flat, in float64, as `sketch` computes it in the graph."""
    wide = np.asarray(array, np.float64)
    if is_whole(wide.shape):
        return wide.reshape(-1)
    rows = wide.reshape(-1, wide.shape[-1])
    drawn: Array = signs(len(rows)) @ rows
    return drawn.reshape(-1)
