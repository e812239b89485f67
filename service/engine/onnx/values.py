"""Values of an ONNX graph during its construction: known arrays, or nodes."""

from __future__ import annotations

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node, Shape


class Value:
    """A tensor: an array that is already known, or a node that is computed when the graph runs.

    Integers and truth values that are computed when the graph runs are floats with whole values. Integer inputs are the
    exception: they are int64 nodes.
    """

    __slots__ = ("array", "dtype", "node", "shape")

    def __init__(self, array: Array | None, node: Node | None = None, dtype: str = "") -> None:
        self.array = array
        self.node = node
        self.shape: Shape = tuple(array.shape) if array is not None else node.shape if node is not None else ()
        self.dtype: str = dtype or (array.dtype.name if array is not None else "float32")
        """The element type in the file, which may differ from that of the node."""

    @property
    def is_known(self) -> bool:
        """Return whether the value is an array that is already known."""
        return self.array is not None

    @property
    def is_float(self) -> bool:
        """Return whether the element type in the file is a type of floats."""
        return self.dtype.startswith("float")

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1


def known(values: object, dtype: str = "int64") -> Value:
    """Return numbers as a known value."""
    return Value(np.array(values, dtype))


class Sequences(Value):
    """A sequence of tensors, whose items are values."""

    __slots__ = ("items",)

    def __init__(self, items: list[Value]) -> None:
        super().__init__(None, None, items[0].dtype if items else "float32")
        self.items = items
