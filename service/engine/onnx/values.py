"""Values of an ONNX graph while it is built: known arrays, or nodes."""

from __future__ import annotations

import numpy as np

from service.engine.graph.ir import Array, Node, Shape


class Value:
    """A tensor: an array that is known already, or a node that is computed when the graph runs.

    Integers and truth values that are computed at run time are whole floats in the graph, but for integer inputs,
    which are int64 nodes.
    """

    __slots__ = ("array", "dtype", "node", "shape")

    def __init__(self, array: Array | None, node: Node | None = None, dtype: str = "") -> None:
        self.array = array
        self.node = node
        self.shape: Shape = tuple(array.shape) if array is not None else node.shape if node is not None else ()
        self.dtype: str = dtype or (array.dtype.name if array is not None else "float32")
        """The element type in the file, which need not be that of the node."""

    @property
    def is_known(self) -> bool:
        return self.array is not None

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1


def known(values: object, dtype: str = "int64") -> Value:
    """A value of numbers that are known."""
    return Value(np.array(values, dtype))


class Sequences(Value):
    """A sequence of tensors, each of which is a value."""

    __slots__ = ("items",)

    def __init__(self, items: list[Value]) -> None:
        super().__init__(None, None, items[0].dtype if items else "float32")
        self.items = items
