"""The matrix product, with its pullbacks and its batch rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, GraphTypeError, Node, Shape
from service.engine.graph.operations.parts import concatenate
from service.engine.graph.operations.rows import declare, infer_same_dtype
from service.engine.graph.operations.shapes import broadcast, is_transposed, reshape, transpose

FEWEST_JOINED = 3
"""Fewer products with one matrix are differentiated one by one: joining them copies their factors."""
LARGE_PRODUCT = 2**20
"""Bytes of a matrix product from which on np.matmul makes it: ndarray.dot fills it with zeros first, with the
interpreter lock held: half a second for 300 MB that are touched for the first time."""


def _infer_matmul(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or a[-1] != b[-2]:
        raise GraphTypeError(f"cannot multiply matrices {a} and {b}")
    return (*a[:-1], b[-1]), infer_same_dtype(inputs)


def _bind_matmul(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    a, b = inputs
    if a.ndim == 2 and out.nbytes < LARGE_PRODUCT:
        # The bound method is a third of the price of np.matmul on small matrices.
        return (partial(a.dot, b, out),)
    if a.ndim == 2:
        return (partial(np.matmul, a, b, out),)
    if a.shape[-1] == 1:
        return (partial(np.multiply, a, b, out),)  # an outer product: one rounding, no BLAS call per matrix
    return (partial(np.matmul, a, b, out),)


def _pull_left_factor(g: Node, y: Node, a: Node, b: Node) -> Node:
    # A cotangent is made to lie in memory as its value does: the transpose of the view then cancels.
    return transpose(b @ transpose(g)) if is_transposed(a) else g @ transpose(b)


def _pull_right_factor(g: Node, y: Node, a: Node, b: Node) -> Node:
    return transpose(transpose(g) @ a) if is_transposed(b) else transpose(a) @ g


def _pull_shared_right_factor(position: int, cotangents: Sequence[Node], products: Sequence[Node]) -> Node | None:
    """Return the cotangent of a matrix that several products share, as one long product. Recurrent layers multiply
    every step with the same kernel. None where the products are few or no matrices."""
    if position != 1 or len(products) < FEWEST_JOINED or any(len(y.shape) != 2 for y in products):
        return None
    return transpose(concatenate([y.inputs[0] for y in products], 0)) @ concatenate(cotangents, 0)


def _batch_matmul(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    a, b = inputs
    if is_batched[0] and not is_batched[1] and len(b.shape) == 2 and not is_transposed(a):
        # Rows of all samples in one product instead of one product per sample.
        _, rows, inner = a.shape
        return reshape(reshape(a, (size * rows, inner)) @ b, (size, rows, b.shape[1]))
    if not is_batched[0]:
        a = broadcast(a, (size, *a.shape))
    if not is_batched[1]:
        b = broadcast(b, (size, *b.shape))
    return a @ b


declare(
    "matmul",
    infer=_infer_matmul,
    bind=_bind_matmul,
    pullbacks=(_pull_left_factor, _pull_right_factor),
    joint=_pull_shared_right_factor,
    batch=_batch_matmul,
    latex="A B",
    numpy="np.matmul(a, b)",
)
