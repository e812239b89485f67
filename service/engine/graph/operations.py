"""The one table of primitive operations, and the functions that build nodes of them.

A row says what an operation is: the shape of its answer, the NumPy calls that compute it, the
pullback of each input *in the same primitives* (so every derivative can be differentiated
again), how it looks over a new batch axis, its LaTeX and how smooth it is. The interpreter, the
plan, `differentiate` and `vectorize` all read this table and know no operation by name.

A pullback receives `(cotangent, output, *inputs)` and reuses the output where that is cheaper.
Conventions at kinks are those of PyTorch: |x|' = 0 at 0, ties of maximum and minimum split
evenly, sqrt' is infinite at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial, reduce
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import continuations
from service.engine.graph.ir import (
    OPERATIONS,
    Attributes,
    Branch,
    Call,
    Continuation,
    Graph,
    GraphTypeError,
    JointRule,
    Node,
    NoGradient,
    Operation,
    Selection,
    Shape,
    Smoothness,
)
from service.engine.graph.special import erfc as erfc_kernel
from service.engine.graph.special import gaussian as gaussian_kernel

# Up to this many addends a BLAS dot with ones is faster than np.add.reduce and as accurate;
# beyond it NumPy's pairwise summation is worth its price.
DOT_SUM_LIMIT = 4096
# Where 1 is taken off a sum of exponentials, or a share off 1, at most two bits are lost from here on.
SAFE_TOTAL = 1.25
SAFE_SHARE = 0.5
# Fewer products with one matrix are differentiated one by one: joining them copies their factors.
FEWEST_JOINED = 3
# Elements of an array so small that its calls cost more than its arithmetic.
TINY = 64
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)


def declare(name: str, **details: Any) -> None:
    """Add a row to the table: the fields of `Operation`."""
    OPERATIONS[name] = Operation(name, **details)


# --- builders -----------------------------------------------------------------------------------


def unary(name: str) -> Callable[[Node], Node]:
    """The builder of a row of the table with one input."""

    def build(x: Node) -> Node:
        return x.graph.apply(name, x)

    build.__name__ = name
    return build


def _binary(name: str) -> Callable[[Node, Node | float], Node]:
    def build(a: Node, b: Node | float) -> Node:
        return a.graph.apply(name, a, b)

    build.__name__ = name
    return build


exp = unary("exp")
expm1 = unary("expm1")
log = unary("log")
log1p = unary("log1p")
sqrt = unary("sqrt")
square = unary("square")
tanh = unary("tanh")
sigmoid = unary("sigmoid")
softplus = unary("softplus")
logistic_slope = unary("logistic_slope")
tanh_slope = unary("tanh_slope")
erfc = unary("erfc")
gaussian = unary("gaussian")
absolute = unary("absolute")
sign = unary("sign")
stop_gradient = unary("stop_gradient")
maximum = _binary("maximum")
minimum = _binary("minimum")
greater = _binary("greater")
greater_equal = _binary("greater_equal")


QUICK = ("quick",)
"""The attribute of a tanh or sigmoid whose slope is made of its value: it has no digits where that is saturated."""


def quick_tanh(x: Node) -> Node:
    """tanh, with the slope 1 - y²."""
    return x.graph.apply("tanh", x, attributes=QUICK)


def quick_sigmoid(x: Node) -> Node:
    """The logistic function, with the slope y (1 - y)."""
    return x.graph.apply("sigmoid", x, attributes=QUICK)


def gate(mask: Node, x: Node) -> Node:
    """x where the mask is not 0, and exactly 0 elsewhere, also of what is infinite or no number."""
    return x.graph.apply("gate", mask, x)


def less(a: Node, b: float) -> Node:
    """1 where a < b, else 0."""
    return a.graph.apply("greater", b, a)


def less_equal(a: Node, b: float) -> Node:
    """1 where a ≤ b, else 0."""
    return a.graph.apply("greater_equal", b, a)


def clip(x: Node, low: float, high: float) -> Node:
    """x limited to [low, high]."""
    return minimum(maximum(x, low), high)


def sum_over(x: Node, axes: Sequence[int] | None = None) -> Node:
    """The sum over the given axes (all by default), which disappear."""
    chosen = range(len(x.shape)) if axes is None else axes
    return x.graph.apply("sum", x, attributes=(tuple(sorted(axis % len(x.shape) for axis in chosen)),))


def mean_over(x: Node, axes: Sequence[int]) -> Node:
    """The mean over the given axes, which disappear."""
    return sum_over(x, axes) / float(math.prod(x.shape[axis] for axis in axes))


def reshape(x: Node, shape: Shape) -> Node:
    return x.graph.apply("reshape", x, attributes=(shape,))


def transpose(x: Node, order: Sequence[int] | None = None) -> Node:
    """Axes permuted; by default the last two exchanged."""
    rank = len(x.shape)
    chosen = (*range(rank - 2), rank - 1, rank - 2) if order is None else tuple(order)
    return x.graph.apply("transpose", x, attributes=(chosen,))


def broadcast(x: Node, shape: Shape) -> Node:
    """x repeated to `shape` by NumPy's rules, without copying."""
    return x.graph.apply("broadcast", x, attributes=(shape,))


def concatenate(parts: Sequence[Node], axis: int) -> Node:
    return parts[0].graph.apply("concatenate", *parts, attributes=(axis % len(parts[0].shape),))


def slice_axis(x: Node, axis: int, start: int, stop: int) -> Node:
    """`x[..., start:stop, ...]` along one axis."""
    return x.graph.apply("slice", x, attributes=(axis, start, stop))


def pad(x: Node, axis: int, before: int, after: int) -> Node:
    """x with zeros before and after it along one axis."""
    if not before and not after:
        return x
    return x.graph.apply("pad", x, attributes=(axis, before, before + x.shape[axis] + after))


def one_hot(indices: Node, depth: int) -> Node:
    """Rows of the identity: integer indices `s` to floats `s + (depth,)`."""
    return indices.graph.apply("one_hot", indices, attributes=(depth,))


def mark(x: Node, name: str) -> Node:
    """x under a name: the same value, but a node of its own wherever the name is another."""
    return x.graph.apply("mark", x, attributes=(name,))


def extreme(name: str, inputs: Sequence[Node]) -> Node:
    """The elementwise `maximum` or `minimum` of inputs of one shape. Those that are equal to it share its gradient."""
    value = reduce(lambda a, b: a.graph.apply(name, a, b), inputs)
    # Two inputs share evenly by the pullback of the operation itself; of more, pairs would share by halves.
    return value if len(inputs) < 3 else value.graph.apply("extreme", value, *inputs, attributes=(name,))


def with_slope(x: Node, value: Node, slope: Node) -> Node:
    """`value`, whose derivative with respect to `x` is declared to be `slope`.

    For functions of one variable whose derivative the chain rule would get wrong at a kink, or
    right but with lost digits, and for the surrogate gradients of step functions. The slope is a
    function of `x` in the graph, so second derivatives are those of the declared slope. It is
    computed only where a gradient asks for it.
    """
    return x.graph.apply("with_slope", value, x, slope)


def _spread_rows(x: Node, shape: Shape) -> Node:
    """One value per row, repeated along the last axis of `shape`."""
    return broadcast(reshape(x, (*x.shape, 1)), shape)


def _shifted_exponentials(x: Node) -> tuple[Node, Node]:
    """exp(x - m) and m, the largest of each row: nothing overflows."""
    largest = x.graph.apply("row_maximum", x)
    return exp(x - _spread_rows(largest, x.shape)), largest


def softmax(x: Node) -> Node:
    """exp(x) divided by its sum over the last axis. Its exponentials are shared with `logsumexp`."""
    exponentials, _ = _shifted_exponentials(x)
    total = sum_over(exponentials, [-1])
    return x.graph.apply("softmax", exponentials / _spread_rows(total, x.shape), x)


def log_softmax(x: Node) -> Node:
    """The logarithm of softmax. The largest value of a row is taken off first: x - logsumexp(x) rounds at its size."""
    exponentials, largest = _shifted_exponentials(x)
    shifted = x - _spread_rows(largest, x.shape)
    rest = log1p(row_excess(exponentials))
    return x.graph.apply("log_softmax", shifted - _spread_rows(rest, x.shape), x)


def row_excess(x: Node) -> Node:
    """The sum over the last axis minus 1, to the last digits also where the largest entry is 1 and the others tiny."""
    return x.graph.apply("row_excess", sum_over(x, [-1]), x)


def balanced(x: Node, shares: Node) -> Node:
    """Rows that sum to 0 but for rounding, with what is left of their sums taken off again, in the given shares.

    The shares sum to 1. Only where one of them is nearly 1 rounding loses digits, and only then anything is done.
    """
    return x.graph.apply("balanced", x, shares)


def logsumexp(x: Node) -> Node:
    """ln of the sum of exp(x) over the last axis, which disappears."""
    exponentials, largest = _shifted_exponentials(x)
    return x.graph.apply("logsumexp", log1p(row_excess(exponentials)) + largest, x)


# --- shape rules --------------------------------------------------------------------------------


def infer_same_dtype(inputs: Sequence[Node]) -> str:
    """The one floating-point dtype of all inputs."""
    dtype = inputs[0].dtype
    for x in inputs:
        if x.dtype != dtype or dtype == "int64":
            raise GraphTypeError(f"needs floats of one dtype, got {[x.dtype for x in inputs]}")
    return dtype


def _infer_elementwise(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    shape: Shape = ()
    for x in inputs:
        if x.shape != ():
            if shape not in ((), x.shape):
                raise GraphTypeError(f"needs equal shapes or scalars, got {[y.shape for y in inputs]}")
            shape = x.shape
    return shape, infer_same_dtype(inputs)


def _infer_sum(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axes,) = inputs, attributes
    return tuple(n for axis, n in enumerate(x.shape) if axis not in axes), infer_same_dtype(inputs)


def _infer_row_maximum(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    if not inputs[0].shape:
        raise GraphTypeError("needs at least one axis")
    return inputs[0].shape[:-1], infer_same_dtype(inputs)


def _infer_softmax(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    value, x = inputs
    if value.shape != x.shape:
        raise GraphTypeError(f"needs two of one shape, got {x.shape} and {value.shape}")
    return value.shape, infer_same_dtype(inputs)


def _infer_equal_rows(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    x, shares = inputs
    if not x.shape or shares.shape != x.shape:
        raise GraphTypeError(f"needs two of one shape with an axis at least, got {x.shape} and {shares.shape}")
    return x.shape, infer_same_dtype(inputs)


def _infer_logsumexp(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    value, x = inputs
    if value.shape != x.shape[:-1]:
        raise GraphTypeError(f"needs a value for each row of {x.shape}, got {value.shape}")
    return value.shape, infer_same_dtype(inputs)


def _infer_reshape(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (shape,) = inputs, attributes
    if math.prod(shape) != x.size:
        raise GraphTypeError(f"cannot reshape {x.shape} to {shape}")
    return shape, x.dtype


def _infer_transpose(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (order,) = inputs, attributes
    if sorted(order) != list(range(len(x.shape))):
        raise GraphTypeError(f"{order} is no permutation of the axes of {x.shape}")
    return tuple(x.shape[axis] for axis in order), x.dtype


def _infer_broadcast(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (shape,) = inputs, attributes
    trailing = shape[len(shape) - len(x.shape) :]
    if len(x.shape) > len(shape) or any(n not in (1, m) for n, m in zip(x.shape, trailing, strict=True)):
        raise GraphTypeError(f"cannot broadcast {x.shape} to {shape}")
    return shape, x.dtype


def _infer_concatenate(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (axis,) = attributes
    first = inputs[0].shape
    for x in inputs:
        if len(x.shape) != len(first) or x.shape[:axis] + x.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise GraphTypeError(f"cannot concatenate {[y.shape for y in inputs]} along axis {axis}")
    return (*first[:axis], sum(x.shape[axis] for x in inputs), *first[axis + 1 :]), infer_same_dtype(inputs)


def _infer_slice(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axis, start, stop) = inputs, attributes
    if not 0 <= start <= stop <= x.shape[axis]:
        raise GraphTypeError(f"cannot take {start}:{stop} of axis {axis} of {x.shape}")
    return (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]), x.dtype


def _infer_pad(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axis, start, total) = inputs, attributes
    if start < 0 or start + x.shape[axis] > total:
        raise GraphTypeError(f"cannot place {x.shape} at {start} of {total} along axis {axis}")
    return (*x.shape[:axis], total, *x.shape[axis + 1 :]), x.dtype


def _infer_matmul(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or a[-1] != b[-2]:
        raise GraphTypeError(f"cannot multiply matrices {a} and {b}")
    return (*a[:-1], b[-1]), infer_same_dtype(inputs)


def _infer_one_hot(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    if inputs[0].dtype != "int64":
        raise GraphTypeError(f"one_hot needs int64 indices, got {inputs[0].dtype}")
    return (*inputs[0].shape, attributes[0]), ""


# --- kernels ------------------------------------------------------------------------------------


def _call(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """A kernel that is one call of a NumPy function; `out` by position is the faster way."""

    def bind(out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
        return (partial(ufunc, *map(_narrow, inputs), out),)

    return bind


def _narrow(x: Array) -> Array:
    # One number repeated everywhere, such as the bias of a single unit, costs half as much as a scalar.
    if x.size and 0 in x.strides and all(not step or n == 1 for n, step in zip(x.shape, x.strides, strict=True)):
        return x[(0,) * x.ndim + (...,)]
    return x


def _call_out(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """As `_call`, for np.maximum and np.minimum, which deprecate a positional `out`."""

    def bind(out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
        return (partial(ufunc, *inputs, out=out),)

    return bind


@lru_cache(maxsize=256)
def _ones(count: int, dtype: str) -> Array:
    ones = np.ones(count, dtype)
    ones.flags.writeable = False
    return ones


@lru_cache(maxsize=64)
def _scalar(value: float, dtype: str) -> Array:
    # A 0-d array of the right dtype costs a third less per call than a Python number.
    return np.array(value, dtype)


@lru_cache(maxsize=256)
def _full(value: float, shape: Shape, dtype: str) -> Array:
    full = np.full(shape, value, dtype)
    full.flags.writeable = False
    return full


def _operand(value: float, out: Array) -> Array:
    """A number as the operand of a call that fills `out`."""
    # Beside a tiny array, one of its shape makes the call 20 ns cheaper than a single number.
    return _full(value, out.shape, out.dtype.str) if out.size <= TINY else _scalar(value, out.dtype.str)


def _bind_sigmoid(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # 1 / (1 + exp(-x)) keeps full relative accuracy for x << 0, which the tanh form loses;
    # exp overflows to infinity there, and 1 / infinity is the right answer.
    return (
        partial(np.negative, inputs[0], out),
        partial(np.exp, out, out),
        partial(np.add, out, _operand(1.0, out), out),
        partial(np.reciprocal, out, out),
    )


def _bind_logistic_slope(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # σ(x) σ(-x) = ½ / (1 + cosh x). From σ(x) alone nothing is left of 1 - σ(x) where it is close to 1.
    return (
        partial(np.cosh, inputs[0], out),
        partial(np.add, out, _operand(1.0, out), out),
        partial(np.divide, _operand(0.5, out), out, out),
    )


def _bind_tanh_slope(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # 1 / cosh² x, for the same reason.
    return (partial(np.cosh, inputs[0], out), partial(np.square, out, out), partial(np.reciprocal, out, out))


def _bind_softplus(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    # max(x, 0) + log1p(exp(-|x|)): np.logaddexp is six times slower.
    (x,), (positive,) = inputs, scratch
    return (
        partial(np.absolute, x, out),
        partial(np.negative, out, out),
        partial(np.exp, out, out),
        partial(np.log1p, out, out),
        partial(np.maximum, x, _scalar(0.0, out.dtype.str), out=positive),
        partial(np.add, out, positive, out),
    )


def _gate_kernel(mask: Array, x: Array, out: Array) -> None:
    closed = np.equal(mask, 0.0)
    np.copyto(out, x)
    np.copyto(out, 0.0, where=closed)


def _bind_row_maximum(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    return (partial(np.maximum.reduce, inputs[0], -1, None, out),)


def _bind_sum(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    (x,), (axes,) = inputs, attributes
    dtype = x.dtype.str
    if len(axes) == x.ndim and x.flags.c_contiguous and x.size <= DOT_SUM_LIMIT:
        return (partial(x.reshape(1, -1).dot, _ones(x.size, dtype).reshape(-1, 1), out.reshape(1, 1)),)
    if x.ndim == 2 and axes == (0,) and x.shape[0] <= DOT_SUM_LIMIT:
        return (partial(_ones(x.shape[0], dtype).dot, x, out),)
    if x.ndim == 2 and axes == (1,):
        return (_sum_rows(x, out),)
    return (partial(np.add.reduce, x, axes, None, out),)


def _bind_row_excess(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    (total, x), (parts, count) = inputs, scratch
    one = _scalar(1.0, x.dtype.str)
    count_ones, add_rest = _sum_rows(parts, count), _sum_rows(parts, out)

    def add_up() -> None:
        # Most sums are so large that nothing is lost with the 1. That is found out by one call instead of five.
        if abs(total.item(total.argmin())) >= SAFE_TOTAL:
            np.subtract(total, one, out)
            return
        # Whole numbers are added apart from what is left, which would lose its digits in a sum above 1.
        np.rint(x, parts)
        count_ones()
        np.subtract(x, parts, parts)
        add_rest()
        np.subtract(count, one, count)
        np.add(out, count, out)

    return (add_up,)


def _bind_balanced(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    (x, shares), (product, total) = inputs, scratch
    spread, add_up = total.reshape(*total.shape, 1), _sum_rows(x, total)

    def balance() -> None:
        if abs(shares.item(shares.argmax())) > SAFE_SHARE:
            add_up()
            np.multiply(shares, spread, product)
            np.subtract(x, product, out)
        elif out is not x:
            np.copyto(out, x)

    return (balance,)


def _sum_rows(x: Array, out: Array) -> Call:
    if x.ndim == 2 and x.shape[1] <= DOT_SUM_LIMIT:
        return partial(x.dot, _ones(x.shape[1], x.dtype.str), out)
    return partial(np.add.reduce, x, -1, None, out)


LARGE_PRODUCT = 2**20
"""Bytes of a matrix product from which on np.matmul makes it: ndarray.dot fills it with zeros first, with the
interpreter lock held: half a second for 300 MB that are touched for the first time."""


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


def _bind_concatenate(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (axis,) = attributes
    return (partial(np.concatenate, tuple(inputs), axis, out),)


def _bind_pad(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (x,), (axis, start, _total) = inputs, attributes
    window = out[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)]
    return (partial(out.fill, 0), partial(np.copyto, window, x))


def _bind_one_hot(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (indices,), (depth,) = inputs, attributes
    return (partial(np.equal, indices[..., None], np.arange(depth), out),)


def _broadcast_view(x: Array, shape: Shape) -> Array:
    if not x.flags.c_contiguous:
        return np.broadcast_to(x, shape)
    # What np.broadcast_to does, at a tenth of its price, which is paid for every new definition.
    lead = len(shape) - x.ndim
    strides = [0 if axis < lead or x.shape[axis - lead] == 1 else x.strides[axis - lead] for axis in range(len(shape))]
    return np.ndarray(shape, x.dtype, x, 0, strides)


def _bind_copy(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    raise AssertionError("a view is materialised by the plan, not by its operation")


# --- simplification -----------------------------------------------------------------------------


def _scalar_source(x: Node) -> Node | None:
    """The scalar that `x` repeats, if it does."""
    if x.operation.name == "broadcast" and x.inputs[0].shape == ():
        return x.inputs[0]
    return None


def _through_broadcasts(name: str, graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    """Let a repeated scalar act as a scalar: a ufunc takes it at full speed, and constants fold."""
    for x in inputs:
        if x.operation.name == "broadcast" and x.inputs[0].shape == ():
            break
    else:
        return None
    sources = [_scalar_source(x) for x in inputs]
    scalars = [source or x for source, x in zip(sources, inputs, strict=True)]
    if any(x.shape != () for x in scalars):
        return graph.apply(name, *scalars, attributes=attributes)
    shape = next(x.shape for x, source in zip(inputs, sources, strict=True) if source)
    return broadcast(graph.apply(name, *scalars, attributes=attributes), shape)


Algebra = Callable[[Graph, Node, Node], Node | None]


def _simplify_with(name: str, algebra: Algebra) -> Callable[[Graph, tuple[Node, ...], Attributes], Node | None]:
    def simplify(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
        return algebra(graph, *inputs) or _through_broadcasts(name, graph, inputs, attributes)

    return simplify


def _add_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x + y)
    if x == 0.0:
        return b
    if y == 0.0:
        return a
    if b.operation.name == "negate":
        return a - b.inputs[0]
    return None


def _subtract_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x - y)
    if x == 0.0:
        return -b
    if y == 0.0:
        return a
    if b.operation.name == "negate":
        return a + b.inputs[0]
    return None


def _holds(x: float, y: float) -> bool:
    """Whether the product of two numbers is one: what overflows or vanishes may still meet its opposite."""
    product = x * y
    return math.isfinite(product) and (abs(product) >= SMALLEST_NORMAL or 0.0 in (x, y))


def _multiply_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x * y) if _holds(x, y) else None
    if x is None and y is not None:
        return b * a  # the constant first, so that chains of constants meet
    if x == 1.0:
        return b
    if x == -1.0:
        return -b
    inner = b.inputs[0].value if b.operation.name == "multiply" else None
    if x is not None and inner is not None and _holds(x, inner):
        return (a * b.inputs[0]) * b.inputs[1]
    if x is not None and b.operation.name == "negate":
        return (-a) * b.inputs[0]
    return None


def _divide_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None and y != 0.0:
        return graph.constant(x / y)
    if y == 1.0:
        return a
    return a.inputs[0] / -y if y is not None and a.operation.name == "negate" else None


def _simplify_negate(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,) = inputs
    if x.value is not None:
        return graph.constant(-x.value)
    if x.operation.name == "negate":
        return x.inputs[0]
    if x.operation.name == "subtract":
        return x.inputs[1] - x.inputs[0]
    if x.operation.name == "multiply" and x.inputs[0].value is not None:
        return (-x.inputs[0]) * x.inputs[1]
    return _through_broadcasts("negate", graph, inputs, attributes)


def _gate_algebra(graph: Graph, mask: Node, x: Node) -> Node | None:
    if mask.value is None:
        return None
    return x if mask.value else broadcast(graph.constant(0.0), x.shape)


def _simplify_sum(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (axes,) = inputs, attributes
    if not axes:
        return x
    if all(x.shape[axis] == 1 for axis in axes):
        return reshape(x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))
    source = _scalar_source(x)
    if source is not None and len(axes) == len(x.shape):
        return source * float(x.size)
    return -sum_over(x.inputs[0], axes) if x.operation.name == "negate" else None


def _simplify_reshape(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (shape,) = inputs, attributes
    if x.shape == shape:
        return x
    if x.operation.name == "reshape":
        return reshape(x.inputs[0], shape)
    source = x if x.shape == () else _scalar_source(x)
    return None if source is None else broadcast(source, shape)


def _simplify_transpose(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (order,) = inputs, attributes
    if order == tuple(range(len(order))):
        return x
    if x.operation.name == "transpose":
        (inner,) = x.attributes
        return transpose(x.inputs[0], tuple(inner[axis] for axis in order))
    source = _scalar_source(x)
    return None if source is None else broadcast(source, tuple(x.shape[axis] for axis in order))


def _simplify_broadcast(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (shape,) = inputs, attributes
    if x.shape == shape:
        return x
    if x.operation.name == "broadcast":
        return broadcast(x.inputs[0], shape)
    return None


def _simplify_slice(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (axis, start, stop) = inputs, attributes
    return x if start == 0 and stop == x.shape[axis] else None


def _simplify_concatenate(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    if len(inputs) == 1:
        return inputs[0]
    (axis,) = attributes
    if axis == 0 and all(x.operation.name == "reshape" and x.shape[1:] == x.inputs[0].shape for x in inputs):
        # Single entries stacked: the same numbers as their rows one after the other, under fewer names.
        sources = [x.inputs[0] for x in inputs]
        if sources[0].shape and all(x.shape[0] == 1 for x in inputs):
            return reshape(concatenate(sources, 0), (len(inputs), *sources[0].shape))
    return None


# --- the batch axis -----------------------------------------------------------------------------


def _spread(x: Node, is_batched: bool, shape: Shape, size: int) -> Node:
    """One operand of an elementwise operation, ready to meet others of shape `(size,) + shape`."""
    if not is_batched:
        return x if x.shape == () else broadcast(x, (size, *shape))
    if x.shape == (size,) and shape:
        return broadcast(reshape(x, (size, *[1] * len(shape))), (size, *shape))
    return x


def _batch_elementwise(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    # A batched scalar has shape (size,), as has a batched vector of length 0 axes: told apart by the original rank.
    spread = [
        _spread(x, batched, node.shape, size) if before.shape != node.shape or not batched else x
        for x, batched, before in zip(inputs, is_batched, node.inputs, strict=True)
    ]
    return node.graph.apply(node.operation.name, *spread, attributes=node.attributes)


def _batch_rows(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    return node.graph.apply(node.operation.name, *inputs, attributes=node.attributes)


def _batch_sum(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    return sum_over(inputs[0], [axis + 1 for axis in node.attributes[0]])


def _batch_reshape(node: Node, inputs: Sequence[Node], _: Sequence[bool], size: int) -> Node:
    return reshape(inputs[0], (size, *node.attributes[0]))


def _batch_transpose(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    return transpose(inputs[0], (0, *(axis + 1 for axis in node.attributes[0])))


def _batch_broadcast(node: Node, inputs: Sequence[Node], _: Sequence[bool], size: int) -> Node:
    (shape,) = node.attributes
    before = node.inputs[0].shape
    return broadcast(reshape(inputs[0], (size, *[1] * (len(shape) - len(before)), *before)), (size, *shape))


def _batch_concatenate(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    whole = [x if batched else broadcast(x, (size, *x.shape)) for x, batched in zip(inputs, is_batched, strict=True)]
    return concatenate(whole, node.attributes[0] + 1)


def _batch_axis(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    axis, *rest = node.attributes
    return node.graph.apply(node.operation.name, inputs[0], attributes=(axis + 1, *rest))


def _batch_matmul(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    a, b = inputs
    if is_batched[0] and not is_batched[1] and len(b.shape) == 2 and not _is_transposed(a):
        # Rows of all samples in one product instead of one product per sample.
        _, rows, inner = a.shape
        return reshape(reshape(a, (size * rows, inner)) @ b, (size, rows, b.shape[1]))
    if not is_batched[0]:
        a = broadcast(a, (size, *a.shape))
    if not is_batched[1]:
        b = broadcast(b, (size, *b.shape))
    return a @ b


# --- pullbacks that need more than a line -------------------------------------------------------


def _pull_broadcast(g: Node, y: Node, x: Node) -> Node:
    lead = len(y.shape) - len(x.shape)
    axes = [axis for axis in range(len(y.shape)) if axis < lead or x.shape[axis - lead] != y.shape[axis]]
    return reshape(sum_over(g, axes), x.shape)


def _pull_sum(g: Node, y: Node, x: Node) -> Node:
    if g.shape == ():
        return broadcast(g, x.shape)
    (axes,) = y.attributes
    return broadcast(reshape(g, tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))), x.shape)


def _pull_concatenate(position: int) -> Callable[..., Node]:
    def rule(g: Node, y: Node, *inputs: Node) -> Node:
        (axis,) = y.attributes
        start = sum(x.shape[axis] for x in inputs[:position])
        return slice_axis(g, axis, start, start + inputs[position].shape[axis])

    return rule


def _is_transposed(x: Node) -> bool:
    """Whether x is the transposed view of matrices that lie the other way."""
    rank = len(x.shape)
    return x.operation.name == "transpose" and x.attributes[0] == (*range(rank - 2), rank - 1, rank - 2)


def _pull_left_factor(g: Node, y: Node, a: Node, b: Node) -> Node:
    # A cotangent is made to lie in memory as its value does: the transpose of the view then cancels.
    return transpose(b @ transpose(g)) if _is_transposed(a) else g @ transpose(b)


def _pull_right_factor(g: Node, y: Node, a: Node, b: Node) -> Node:
    return transpose(transpose(g) @ a) if _is_transposed(b) else transpose(a) @ g


def _pull_shared_right_factor(position: int, cotangents: Sequence[Node], products: Sequence[Node]) -> Node | None:
    """A matrix that many rows were multiplied with, one after the other: one long product instead of a sum of short.

    Recurrent layers multiply every step with the same kernel.
    """
    if position != 1 or len(products) < FEWEST_JOINED or any(len(y.shape) != 2 for y in products):
        return None
    return transpose(concatenate([y.inputs[0] for y in products], 0)) @ concatenate(cotangents, 0)


def _pull_slices(position: int, cotangents: Sequence[Node], slices: Sequence[Node]) -> Node | None:
    """A value that was read in slices gets its cotangent in one piece, where padding each slice would be quadratic."""
    (source,) = slices[0].inputs
    axis = slices[0].attributes[0]
    if any(y.attributes[0] != axis for y in slices):
        return None
    pieces = sorted(zip((y.attributes[1:] for y in slices), cotangents, strict=True), key=lambda piece: piece[0])
    parts: list[Node] = []
    end = 0

    def skip_to(start: int) -> None:
        if start > end:
            gap = (*source.shape[:axis], start - end, *source.shape[axis + 1 :])
            parts.append(broadcast(source.graph.constant(0.0), gap))

    for (start, stop), g in pieces:
        if start < end:
            return None
        skip_to(start)
        parts.append(g)
        end = stop
    skip_to(source.shape[axis])
    return concatenate(parts, axis)


def _pull_softmax(g: Node, y: Node, value: Node, x: Node) -> Node:
    # The result sums to 0. What rounding leaves of its sum was lost where a share is nearly 1, as in p (1 - p).
    mean = sum_over(g * y, [-1])
    return balanced(y * (g - _spread_rows(mean, y.shape)), y)


def _pull_log_softmax(g: Node, y: Node, value: Node, x: Node) -> Node:
    # As for softmax: p - 1 has lost digits where p is nearly 1.
    p = softmax(x)
    return balanced(g - p * _spread_rows(sum_over(g, [-1]), x.shape), p)


def _pull_logsumexp(g: Node, y: Node, value: Node, x: Node) -> Node:
    return _spread_rows(g, x.shape) * softmax(x)


def _pull_tanh(g: Node, y: Node, x: Node) -> Node:
    return g * (1.0 - square(y)) if y.attributes == QUICK else g * tanh_slope(x)


def _pull_sigmoid(g: Node, y: Node, x: Node) -> Node:
    return g * (y * (1.0 - y)) if y.attributes == QUICK else g * logistic_slope(x)


def _pull_gaussian(g: Node, y: Node, x: Node) -> Node:
    # (4x² - 2) y as a product keeps its digits beside its zeros. It begins with y, so that nothing overflows.
    root = math.sqrt(0.5)
    return g * with_slope(x, -2.0 * (y * x), 4.0 * (y * (x - root) * (x + root)))


def _tie_share(a: Node, b: Node) -> Node:
    """1 where a > b, ½ where they are equal, 0 elsewhere."""
    return 0.5 * sign(a - b) + 0.5


def _pull_extreme(position: int) -> Callable[..., Node | NoGradient]:
    def rule(g: Node, y: Node, value: Node, *inputs: Node) -> Node | NoGradient:
        if not position:
            return NoGradient.DISCONNECTED
        # No input lies beyond the extreme, so what reaches it is equal to it.
        is_maximum = y.attributes == ("maximum",)
        hits = [greater_equal(x, value) if is_maximum else greater_equal(value, x) for x in inputs]
        return g * (hits[position - 1] / reduce(lambda total, hit: total + hit, hits))

    return rule


# --- selections and infinite slopes -------------------------------------------------------------


def _larger(position: int, y: Node) -> Node:
    a, b = y.inputs
    return greater_equal(a, b) if position == 0 else greater_equal(b, a)


def _smaller(position: int, y: Node) -> Node:
    a, b = y.inputs
    return greater_equal(b, a) if position == 0 else greater_equal(a, b)


def _taken(value: Node, x: Node) -> Node | bool:
    """Where `value` takes part of `x`, as far as selections tell: True everywhere, False nowhere."""
    if value is x:
        return True
    parts = [(position, _taken(part, x)) for position, part in enumerate(value.operands)]
    parts = [(position, taken) for position, taken in parts if taken is not False]
    if len(parts) != 1:
        return bool(parts)
    ((position, taken),) = parts
    mask = None if value.operation.selects is None else value.operation.selects(position, value)
    if mask is None:
        return taken
    return mask if taken is True else mask * taken


def _is_switch(slope: Node) -> bool:
    """Whether a slope is 0 wherever a comparison fails."""
    name = slope.operation.name
    if name == "multiply":
        return any(map(_is_switch, slope.inputs))
    return name in ("greater", "greater_equal") or (name == "divide" and _is_switch(slope.inputs[0]))


def _selected_value(position: int, y: Node) -> Node | None:
    """A declared slope is that of a selection where its value is one, and where it says so itself."""
    value, x, slope = y.inputs
    taken = _taken(value, x) if position == 1 and _is_switch(slope) else None
    return taken if isinstance(taken, Node) else None


LAST = 5
"""How many operations back signs are looked for."""


def not_negative(x: Node, depth: int = LAST) -> bool:
    """Whether a value cannot be below 0, as far as its last operations tell."""
    name = x.operation.name
    if x.value is not None:
        return x.value >= 0.0
    if name in NOT_NEGATIVE or not depth:
        return name in NOT_NEGATIVE
    if name == "multiply" and x.inputs[0] is x.inputs[1]:
        return True
    known = (not_negative(part, depth - 1) for part in x.operands)
    if name in ("add", "multiply", "divide"):
        return all(known)
    return name in ("sum", "maximum", "broadcast", "reshape", "mark") and any(known)


def positive(x: Node, depth: int = LAST) -> bool:
    """Whether a value cannot be 0 or below, not even by rounding, as far as its last operations tell."""
    name = x.operation.name
    if x.value is not None:
        return x.value > 0.0
    if not depth:
        return False
    if name == "root_mean_square":
        return bool(x.attributes[-1] > 0.0)  # epsilon
    if name == "add":
        a, b = x.inputs
        return (positive(a, depth - 1) and not_negative(b)) or (positive(b, depth - 1) and not_negative(a))
    return name in ("maximum", "broadcast", "reshape", "sqrt", "mark") and any(
        positive(part, depth - 1) for part in x.operands
    )


NOT_NEGATIVE = frozenset(
    ("square", "absolute", "sqrt", "exp", "sigmoid", "softplus", "hypot", "greater", "greater_equal")
)


def always(node: Node) -> bool:
    """The `singular` of an operation that may be infinitely steep, whatever its inputs are."""
    return True


def _may_vanish(place: int) -> Callable[[Node], bool]:
    """The `singular` of an operation that is infinitely steep only where its input at this place is 0."""

    def singular(node: Node) -> bool:
        x = node.inputs[place]
        return not (positive(x) or (x.value is not None and x.value != 0.0))

    return singular


def zero(*_: Any) -> NoGradient:
    """The pullback of what is constant between jumps."""
    return NoGradient.ZERO


def disconnected(*_: Any) -> NoGradient:
    """The pullback of an input on which the answer does not depend."""
    return NoGradient.DISCONNECTED


# --- the table ----------------------------------------------------------------------------------


def declare_elementwise(
    name: str,
    ufunc: Callable[..., Any],
    pullbacks: tuple[Callable[..., Node | NoGradient], ...],
    latex: str,
    smoothness: Smoothness = Smoothness.ANALYTIC,
    *,
    algebra: Algebra | None = None,
    simplify: Callable[[Graph, tuple[Node, ...], Attributes], Node | None] | None = None,
    bind: Callable[..., Iterable[Call]] | None = None,
    in_place: bool = True,
    scratch: Callable[[Node], tuple[Shape, ...]] | None = None,
    selects: Selection | None = None,
    singular: Callable[[Node], bool] | None = None,
    linear: tuple[int, ...] = (),
    work: float = 1.0,
    numpy: str = "",
    attribute_names: tuple[str, ...] = (),
    branch: Branch | None = None,
    continuation: Continuation | None = None,
) -> None:
    """A row that computes each element from the elements at its place. `numpy` is the ufunc itself by default."""
    if simplify is None:
        simplify = partial(_through_broadcasts, name) if algebra is None else _simplify_with(name, algebra)
    declare(
        name,
        infer=_infer_elementwise,
        bind=bind or _call(ufunc),
        pullbacks=pullbacks,
        batch=_batch_elementwise,
        latex=latex,
        smoothness=smoothness,
        simplify=simplify,
        elementwise=True,
        in_place=in_place,
        scratch=scratch,
        selects=selects,
        singular=singular,
        linear=linear,
        work=work,
        numpy=numpy or f"np.{ufunc.__name__}({', '.join('ab'[: len(pullbacks)])})",
        attribute_names=attribute_names,
        branch=branch,
        continuation=continuation,
    )


def _view(
    name: str,
    infer: Callable[[Sequence[Node], Attributes], tuple[Shape, str]],
    view: Callable[[Array, Attributes, Shape], Array],
    pullbacks: tuple[Callable[..., Node | NoGradient], ...] | Callable[[int], Callable[..., Node | NoGradient]],
    batch: Callable[..., Node],
    latex: str,
    simplify: Callable[[Graph, tuple[Node, ...], Attributes], Node | None] | None = None,
    *,
    keeps_order: bool = False,
    selects: Selection | None = None,
    joint: JointRule | None = None,
    numpy: str = "a",
    attribute_names: tuple[str, ...] = (),
    continuation: Continuation | None = None,
) -> None:
    declare(
        name,
        infer=infer,
        bind=_bind_copy,
        pullbacks=pullbacks,
        batch=batch,
        latex=latex,
        simplify=simplify,
        view=view,
        keeps_order=keeps_order,
        selects=selects,
        joint=joint,
        numpy=numpy,
        attribute_names=attribute_names,
        continuation=continuation,
    )


def _leaf(
    name: str,
    infer: Callable[[Sequence[Node], Attributes], tuple[Shape, str]],
    latex: str,
    numpy: str,
    attribute_names: tuple[str, ...],
) -> None:
    declare(
        name,
        infer=infer,
        bind=_bind_copy,
        pullbacks=(),
        batch=None,
        latex=latex,
        numpy=numpy,
        attribute_names=attribute_names,
    )


def _infer_input(_: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    _name, shape, dtype = attributes
    return shape, dtype


ANALYTIC, SMOOTH, KINKED, STEPPED = Smoothness.ANALYTIC, Smoothness.SMOOTH, Smoothness.KINKED, Smoothness.STEPPED
TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)

_leaf("input", _infer_input, r"x", "inputs[name]", ("name", "shape", "dtype"))
_leaf("constant", lambda inputs, attributes: ((), ""), "c", "np.array(value)", ("value",))
_leaf("vector", lambda inputs, attributes: ((len(attributes[0]),), ""), "c", "np.array(values)", ("values",))

declare_elementwise("add", np.add, (lambda g, y, a, b: g, lambda g, y, a, b: g), "a + b", algebra=_add_algebra)
declare_elementwise(
    "subtract", np.subtract, (lambda g, y, a, b: g, lambda g, y, a, b: -g), "a - b", algebra=_subtract_algebra
)
declare_elementwise(
    "multiply", np.multiply, (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a), r"a\,b", algebra=_multiply_algebra
)
declare_elementwise(
    "divide",
    np.divide,
    (lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y) / b),
    r"\frac{a}{b}",
    algebra=_divide_algebra,
    singular=_may_vanish(1),
    linear=(0,),
)
declare_elementwise("negate", np.negative, (lambda g, y, x: -g,), "-x", simplify=_simplify_negate)
declare_elementwise("square", np.square, (lambda g, y, x: g * (2.0 * x),), "x^2")
declare_elementwise("exp", np.exp, (lambda g, y, x: g * y,), "e^x", singular=always, work=8)
declare_elementwise("expm1", np.expm1, (lambda g, y, x: g * exp(x),), "e^x - 1", singular=always, work=8)
declare_elementwise("log", np.log, (lambda g, y, x: g / x,), r"\ln x", singular=_may_vanish(0), work=8)
declare_elementwise("log1p", np.log1p, (lambda g, y, x: g / (x + 1.0),), r"\ln(1 + x)", singular=always, work=8)
declare_elementwise("sqrt", np.sqrt, (lambda g, y, x: g / (2.0 * y),), r"\sqrt{x}", singular=_may_vanish(0), work=4)
declare_elementwise("tanh", np.tanh, (_pull_tanh,), r"\tanh x", work=8, attribute_names=("slope",))
declare_elementwise(
    "tanh_slope",
    np.cosh,
    (lambda g, y, x: g * (-2.0 * (tanh(x) * y)),),
    r"1 - \tanh^2 x",
    bind=_bind_tanh_slope,
    work=12,
    numpy="1 / np.square(np.cosh(a))",
    continuation=continuations.tanh_slope,
)
declare_elementwise(
    "sigmoid",
    np.exp,
    (_pull_sigmoid,),
    r"\sigma(x)",
    bind=_bind_sigmoid,
    work=12,
    numpy="1 / (1 + np.exp(-a))",
    attribute_names=("slope",),
    continuation=continuations.sigmoid,
)
declare_elementwise(
    "logistic_slope",
    np.cosh,
    (lambda g, y, x: g * -(tanh(0.5 * x) * y),),
    r"\sigma(x)\,(1 - \sigma(x))",
    bind=_bind_logistic_slope,
    work=12,
    numpy="0.5 / (1 + np.cosh(a))",
    continuation=continuations.logistic_slope,
)
declare_elementwise(
    "softplus",
    np.exp,
    (lambda g, y, x: g * sigmoid(x),),
    r"\ln(1 + e^x)",
    SMOOTH,
    bind=_bind_softplus,
    in_place=False,
    scratch=lambda node: (node.shape,),
    work=24,
    numpy="np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0)",
    continuation=continuations.softplus,
)
declare_elementwise(
    "erfc",
    erfc_kernel,
    (lambda g, y, x: g * (-TWO_OVER_ROOT_PI * gaussian(x)),),
    r"\operatorname{erfc}(x)",
    SMOOTH,
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(a)",
    continuation=continuations.erfc,
)
declare_elementwise(
    "gaussian",
    gaussian_kernel,
    (_pull_gaussian,),
    "e^{-x^2}",
    SMOOTH,
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a))",
    continuation=continuations.gaussian,
)
declare_elementwise(
    "absolute",
    np.absolute,
    (lambda g, y, x: g * sign(x),),
    "|x|",
    KINKED,
    branch=continuations.side,
    continuation=continuations.absolute,
)
declare_elementwise(
    "sign",
    np.sign,
    (zero,),
    r"\operatorname{sgn} x",
    STEPPED,
    branch=continuations.side,
    continuation=continuations.constant(np.sign),
)
declare_elementwise(
    "greater",
    np.greater,
    (zero, zero),
    "[a > b]",
    STEPPED,
    in_place=False,
    branch=continuations.larger,
    continuation=continuations.constant(np.greater),
)
declare_elementwise(
    "greater_equal",
    np.greater_equal,
    (zero, zero),
    r"[a \ge b]",
    STEPPED,
    in_place=False,
    branch=continuations.larger,
    continuation=continuations.constant(np.greater_equal),
)
declare_elementwise(
    "maximum",
    np.maximum,
    (lambda g, y, a, b: g * _tie_share(a, b), lambda g, y, a, b: g * _tie_share(b, a)),
    r"\max(a, b)",
    KINKED,
    bind=_call_out(np.maximum),
    selects=_larger,
    branch=continuations.larger,
    continuation=continuations.maximum,
)
declare_elementwise(
    "minimum",
    np.minimum,
    (lambda g, y, a, b: g * _tie_share(b, a), lambda g, y, a, b: g * _tie_share(a, b)),
    r"\min(a, b)",
    KINKED,
    bind=_call_out(np.minimum),
    selects=_smaller,
    branch=continuations.larger,
    continuation=continuations.minimum,
)

declare_elementwise(
    "gate",
    _gate_kernel,
    (disconnected, lambda g, y, mask, x: gate(mask, g)),
    "x",
    algebra=_gate_algebra,
    selects=lambda position, y: y.inputs[0],
    numpy="np.where(a == 0, 0, b)",
    continuation=continuations.gate,
)

declare(
    "row_maximum",
    infer=_infer_row_maximum,
    bind=_bind_row_maximum,
    pullbacks=(disconnected,),  # it only shifts what softmax and logsumexp do not depend on
    batch=_batch_rows,
    latex=r"\max_i x_i",
    smoothness=STEPPED,
    numpy="np.max(a, axis=-1)",
    continuation=continuations.row_maximum,
)
declare(
    "row_excess",
    infer=_infer_logsumexp,
    bind=_bind_row_excess,
    pullbacks=(disconnected, lambda g, y, total, x: _spread_rows(g, x.shape)),
    batch=_batch_rows,
    latex=r"\sum_i x_i - 1",
    smoothness=SMOOTH,
    scratch=lambda node: (node.inputs[1].shape, node.shape),
    work=4,
    numpy="np.sum(b - np.rint(b), axis=-1) + (np.sum(np.rint(b), axis=-1) - 1)",
    continuation=continuations.row_excess,
)
declare(
    "balanced",
    infer=_infer_equal_rows,
    bind=_bind_balanced,
    pullbacks=(lambda g, y, x, shares: g, disconnected),  # what is taken off is 0 but for rounding
    batch=_batch_elementwise,
    latex="x",
    smoothness=SMOOTH,
    in_place=True,
    scratch=lambda node: (node.shape, node.shape[:-1]),
    work=2,
    numpy="a - b * np.sum(a, axis=-1, keepdims=True)",
    continuation=continuations.balanced,
)
declare(
    "sum",
    infer=_infer_sum,
    bind=_bind_sum,
    pullbacks=(_pull_sum,),
    batch=_batch_sum,
    latex=r"\sum x",
    simplify=_simplify_sum,
    numpy="np.sum(a, axis=axes)",
    attribute_names=("axes",),
)
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
declare(
    "concatenate",
    infer=_infer_concatenate,
    bind=_bind_concatenate,
    pullbacks=_pull_concatenate,
    batch=_batch_concatenate,
    latex="[a, b]",
    simplify=_simplify_concatenate,
    numpy="np.concatenate(parts, axis)",
    attribute_names=("axis",),
)
declare(
    "pad",
    infer=_infer_pad,
    bind=_bind_pad,
    pullbacks=(
        lambda g, y, x: slice_axis(g, y.attributes[0], y.attributes[1], y.attributes[1] + x.shape[y.attributes[0]]),
    ),
    batch=_batch_axis,
    latex=r"\operatorname{pad}(x)",
    numpy="np.pad(a, [(start, total - start - n) if k == axis else (0, 0) for k, n in enumerate(a.shape)])",
    attribute_names=("axis", "start", "total"),
)
declare(
    "one_hot",
    infer=_infer_one_hot,
    bind=_bind_one_hot,
    pullbacks=(disconnected,),
    batch=_batch_rows,
    latex="e_i",
    smoothness=STEPPED,
    numpy="np.equal(a[..., None], np.arange(depth))",
    attribute_names=("depth",),
)

_view(
    "reshape",
    _infer_reshape,
    lambda x, attributes, shape: x.reshape(shape),
    (lambda g, y, x: reshape(g, x.shape),),
    _batch_reshape,
    "x",
    _simplify_reshape,
    keeps_order=True,
    numpy="np.reshape(a, shape)",
    attribute_names=("shape",),
)
_view(
    "transpose",
    _infer_transpose,
    lambda x, attributes, shape: x.transpose(attributes[0]),
    (lambda g, y, x: transpose(g, np.argsort(y.attributes[0]).tolist()),),
    _batch_transpose,
    r"x^\top",
    _simplify_transpose,
    numpy="np.transpose(a, order)",
    attribute_names=("order",),
)
_view(
    "broadcast",
    _infer_broadcast,
    lambda x, attributes, shape: _broadcast_view(x, shape),
    (_pull_broadcast,),
    _batch_broadcast,
    "x",
    _simplify_broadcast,
    numpy="np.broadcast_to(a, shape)",
    attribute_names=("shape",),
)
_view(
    "slice",
    _infer_slice,
    lambda x, attributes, shape: x[(slice(None),) * attributes[0] + (slice(attributes[1], attributes[2]),)],
    (lambda g, y, x: g.graph.apply("pad", g, attributes=(y.attributes[0], y.attributes[1], x.shape[y.attributes[0]])),),
    _batch_axis,
    "x_{a:b}",
    _simplify_slice,
    joint=_pull_slices,
    numpy="np.take(a, range(start, stop), axis)",
    attribute_names=("axis", "start", "stop"),
)
_view(
    "stop_gradient",
    _infer_elementwise,
    lambda x, attributes, shape: x,
    (disconnected,),
    _batch_elementwise,
    "x",
    keeps_order=True,
    continuation=continuations.constant(np.positive),
)
_view(
    "mark",
    _infer_elementwise,
    lambda x, attributes, shape: x,
    (lambda g, y, x: g,),
    _batch_elementwise,
    "x",
    keeps_order=True,
    attribute_names=("name",),
)
_view(
    "with_slope",
    _infer_elementwise,
    lambda value, attributes, shape: value,
    (disconnected, lambda g, y, value, x, slope: g * slope, disconnected),
    _batch_elementwise,
    "f(x)",
    keeps_order=True,
    selects=_selected_value,
)
_view(
    "extreme",
    _infer_elementwise,
    lambda value, attributes, shape: value,
    _pull_extreme,
    _batch_elementwise,
    r"\max_i x_i",
    keeps_order=True,
    attribute_names=("name",),
)
_view(
    "softmax",
    _infer_softmax,
    lambda value, attributes, shape: value,
    (disconnected, _pull_softmax),
    _batch_rows,
    r"\frac{e^{x_i}}{\sum_j e^{x_j}}",
    keeps_order=True,
)
_view(
    "log_softmax",
    _infer_softmax,
    lambda value, attributes, shape: value,
    (disconnected, _pull_log_softmax),
    _batch_rows,
    r"x_i - \ln \sum_j e^{x_j}",
    keeps_order=True,
)
_view(
    "logsumexp",
    _infer_logsumexp,
    lambda value, attributes, shape: value,
    (disconnected, _pull_logsumexp),
    _batch_rows,
    r"\ln \sum_j e^{x_j}",
    keeps_order=True,
)
