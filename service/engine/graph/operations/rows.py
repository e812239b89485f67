"""Functions that declare rows of the table of operations, and rules and kernels that several families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import OPERATIONS, Attributes, Call, GraphTypeError, Node, NoGradient, Operation, Shape

# Up to this many addends a BLAS dot with ones is faster than np.add.reduce and as accurate;
# beyond it NumPy's pairwise summation is worth its price.
DOT_SUM_LIMIT = 4096
# Calls on arrays of at most so many elements cost more than their arithmetic.
TINY = 64


def declare(name: str, **details: Any) -> None:
    """Add an operation to the table. `details` are the fields of `Operation`."""
    OPERATIONS[name] = Operation(name, **details)


def declare_view(
    name: str,
    view: Callable[[Array, Attributes, Shape], Array] = lambda value, attributes, shape: value,
    **details: Any,
) -> None:
    """Add an operation that shows its first input in another way and computes nothing. `view` takes the array, the
    attributes and the shape. `details` are other fields of `Operation`."""
    declare(name, view=view, bind=bind_nothing, **{"numpy": "a", **details})


def infer_same_dtype(inputs: Sequence[Node]) -> str:
    """Return the one floating-point dtype of all inputs."""
    dtype = inputs[0].dtype
    for x in inputs:
        if x.dtype != dtype or dtype == "int64":
            raise GraphTypeError(f"needs floats of one dtype, got {[x.dtype for x in inputs]}")
    return dtype


def zero(*_: Any) -> NoGradient:
    """Return 0: the pullback of an operation that is constant between jumps."""
    return NoGradient.ZERO


def disconnected(*_: Any) -> NoGradient:
    """The pullback of an input on which the derivative of the output does not depend."""
    return NoGradient.DISCONNECTED


def batch_rows(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    """Apply an operation that works on the last axes to the batched inputs as they are."""
    return node.graph.apply(node.operation.name, *inputs, attributes=node.attributes)


def bind_nothing(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    """Refuse to run, as the `bind` of leaves and views: the plan makes their arrays itself."""
    raise AssertionError("a view is materialised by the plan, not by its operation")


@lru_cache(maxsize=256)
def ones(count: int, dtype: str) -> Array:
    """Return a read-only vector of ones, the same one for equal calls."""
    found = np.ones(count, dtype)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=64)
def scalar(value: float, dtype: str) -> Array:
    """Return a number as a 0-d array. With the right dtype, it costs a third less per call than a Python number."""
    return np.array(value, dtype)


@lru_cache(maxsize=256)
def _full(value: float, shape: Shape, dtype: str) -> Array:
    full = np.full(shape, value, dtype)
    full.flags.writeable = False
    return full


def operand(value: float, out: Array) -> Array:
    """Return a number as an array for a call that fills `out`."""
    # Beside a tiny array, an array of its shape makes the call 20 ns cheaper than a single number.
    return _full(value, out.shape, out.dtype.str) if out.size <= TINY else scalar(value, out.dtype.str)


def sum_rows(x: Array, out: Array) -> Call:
    """Return the call that writes the sum of each row of `x` to `out`."""
    if x.ndim == 2 and x.shape[1] <= DOT_SUM_LIMIT:
        return partial(x.dot, ones(x.shape[1], x.dtype.str), out)
    return partial(np.add.reduce, x, -1, None, out)
