"""At least one example of every operation of the table, for the generic tests.

A new operation is tested by adding a line to `EXAMPLES`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import operations as ops
from service.engine.graph.ir import OPERATIONS, Attributes, Graph, GraphTypeError, Node, Operation, Shape

LEAVES = frozenset({"input", "constant", "vector", "table"})
"""Operations that compute nothing, so there is nothing to differentiate or batch."""
STEPPED = frozenset(
    {
        "sign",
        "greater",
        "greater_equal",
        "floor",
        "ceil",
        "round",
        "row_maximum",
        "one_hot",
        "first_largest",
        "order",
        "floats",
    }
)
"""Constant between jumps: the derivative is zero."""
KINKED = frozenset({"absolute", "maximum", "minimum", "mod", "largest"})
"""Differentiable except at isolated points, where a convention is stated."""
BRANCHING = frozenset(
    {"softplus", "erf", "erfc", "gaussian", "normal_cdf", "normal_density", "tanh_shrink", "atan2", "hypot", "cbrt"}
    | {"row_excess", "balanced", "root_mean_square"}
)
"""Differentiable everywhere, but computed with comparisons or absolute values."""
NOT_ANALYTIC = STEPPED | KINKED | BRANCHING
"""The kernels of these take no complex numbers. The gradients of all others are tested by the complex step."""


def in_balance(g: Node, x: Node) -> Node:
    """Return `balanced` of rows that sum to 0, as the gradient of log_softmax makes them."""
    shares = ops.softmax(x)
    totals = ops.reshape(ops.sum_over(g, [-1]), (*g.shape[:-1], 1))
    return ops.balanced(g - shares * ops.broadcast(totals, g.shape), shares)


@dataclass(frozen=True)
class Example:
    """One application of an operation to inputs of these shapes. The values are a shuffled even grid over all inputs
    together: no two are equal, and by default none is near 0, so kinks and ties are far away."""

    operation: str
    shapes: tuple[Shape, ...]
    attributes: Attributes = ()
    low: float = -1.93
    high: float = 2.11
    indices: int | None = None
    """If given, the last input holds integers below this."""
    build: Callable[..., Node] | None = None
    """The function that builds the node, for operations that are not applied by their name."""

    def inputs(self, graph: Graph) -> list[Node]:
        last = len(self.shapes) - 1 if self.indices is not None else None
        return [
            graph.input(f"x{position}", shape, "int64" if position == last else None)
            for position, shape in enumerate(self.shapes)
        ]

    def apply(self, inputs: Sequence[Node]) -> Node:
        if self.build is not None:
            return self.build(*inputs)
        return inputs[0].graph.apply(self.operation, *inputs, attributes=self.attributes)

    def values(self, seed: int = 0, leading: Shape = ()) -> list[Array]:
        rng = np.random.default_rng(seed)
        shapes = [(*leading, *shape) for shape in self.shapes]
        if self.indices is not None:
            *floats, last = shapes
            return [*map(rng.standard_normal, floats), rng.integers(self.indices, size=last)]
        sizes = [math.prod(shape) for shape in shapes]
        grid = rng.permutation(np.linspace(self.low, self.high, sum(sizes) + 1)[:-1])
        parts = np.split(grid, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def __str__(self) -> str:
        attributes = ", ".join(map(str, self.attributes))
        return f"{self.operation}{list(self.shapes)}({attributes})".replace(" ", "")


PLAIN = {
    1: (
        "negate square exp expm1 tanh sigmoid softplus erfc tanh_slope logistic_slope gaussian normal_cdf "
        "normal_density tanh_shrink absolute sin cos atan sinh cosh asinh erf floor ceil round sign "
        "stop_gradient "
    ),
    2: "add subtract multiply atan2 hypot weighted greater greater_equal maximum minimum",
}
"""By their number of inputs: the operations that take inputs of one shape, none of them near a pole."""

EXAMPLES = (
    *(Example(name, ((3, 2),) * count) for count, names in PLAIN.items() for name in names.split()),
    Example("divide", ((3, 2), (3, 2)), low=0.4),
    Example("log", ((3, 2),), low=0.2, high=4.0),
    Example("log1p", ((3, 2),), low=-0.7, high=4.0),
    Example("sqrt", ((3, 2),), low=0.2, high=4.0),
    Example("tan", ((3, 2),), low=-1.3, high=1.1),
    Example("asin", ((3, 2),), low=-0.9, high=0.8),
    Example("acos", ((3, 2),), low=-0.9, high=0.8),
    Example("mod", ((3, 2), (3, 2)), low=0.23, high=3.1),
    Example("acosh", ((3, 2),), low=1.3, high=4.0),
    Example("atanh", ((3, 2),), low=-0.9, high=0.8),
    Example("log2", ((3, 2),), low=0.2, high=4.0),
    Example("log10", ((3, 2),), low=0.2, high=4.0),
    Example("cbrt", ((3, 2),), low=0.6, high=4.0),
    Example("power", ((3, 2), (3, 2)), low=0.3, high=2.7),
    Example("xlogy", ((3, 2), (3, 2)), low=0.3, high=2.7),
    Example("gate", ((3, 2), (3, 2)), build=lambda a, b: ops.gate(ops.greater(a, 0.0), a * b)),
    Example("softmax", ((4,),), build=ops.softmax),
    Example("softmax", ((2, 2, 3),), build=ops.softmax),
    Example("log_softmax", ((4,),), build=ops.log_softmax),
    Example("log_softmax", ((2, 2, 3),), build=ops.log_softmax),
    Example("logsumexp", ((4,),), build=ops.logsumexp),
    Example("logsumexp", ((2, 2, 3),), build=ops.logsumexp),
    Example("row_maximum", ((4,),)),
    Example("row_maximum", ((2, 2, 3),)),
    Example("logsumexp", ((5, 9),), build=lambda x: ops.logsumexp(8.0 * x)),
    Example("log_softmax", ((5, 3),), build=lambda x: ops.log_softmax(8.0 * x)),
    Example("softmax", ((5, 3),), build=lambda x: ops.softmax(8.0 * x)),
    Example("row_excess", ((5, 3),), build=ops.row_excess),
    Example("row_excess", ((2, 2, 3),), build=lambda x: ops.row_excess(ops.softmax(4.0 * x))),
    Example("balanced", ((5, 3), (5, 3)), build=lambda g, x: in_balance(g, 4.0 * x)),
    Example("balanced", ((2, 2, 3), (2, 2, 3)), build=lambda g, x: in_balance(g, x)),
    Example("sum", ((4,),), ((0,),)),
    Example("sum", ((3, 2),), ((0,),)),
    Example("sum", ((3, 2),), ((1,),)),
    Example("sum", ((3, 2),), ((0, 1),)),
    Example("sum", ((2, 3, 2),), ((0, 2),)),
    Example("sum", ((2, 3, 2),), ((1,),)),
    Example("matmul", ((3, 2), (2, 4))),
    Example("matmul", ((2, 3, 2), (2, 2, 4))),
    Example("matmul", ((2, 3, 1), (2, 1, 4))),
    Example("concatenate", ((3, 2), (3, 1), (3, 2)), (1,)),
    Example("concatenate", ((1, 2), (2, 2)), (0,)),
    Example("pad", ((3, 2),), (0, 1, 5)),
    Example("pad", ((3, 2),), (1, 0, 4)),
    Example("slice", ((4, 3),), (0, 1, 3)),
    Example("slice", ((4, 3),), (1, 2, 3)),
    Example("reshape", ((3, 2),), ((2, 3),)),
    Example("reshape", ((1, 1),), ((),)),
    Example("transpose", ((3, 2),), ((1, 0),)),
    Example("transpose", ((2, 3, 2),), ((2, 0, 1),)),
    Example("broadcast", ((),), ((2, 3),)),
    Example("broadcast", ((3,),), ((2, 3),)),
    Example("broadcast", ((2, 1),), ((4, 2, 3),)),
    Example("one_hot", ((3,),), (4,), indices=4),
    Example("one_hot", ((2, 3),), (3,), indices=3),
    Example("gather_rows", ((4, 3), (2, 5)), (0,), indices=4),
    Example("gather_rows", ((2, 4, 3), (2, 5)), (1,), indices=4),
    Example("scatter_rows", ((2, 5, 3), (2, 5)), (4, 0), indices=4),
    Example("scatter_rows", ((2, 5, 3), (2, 5)), (4, 1), indices=4),
    Example("largest", ((4,),), ((0,),)),
    Example("largest", ((2, 3, 2),), ((0, 2),)),
    Example("largest", ((40, 2),), ((0,),)),
    Example("first_largest", ((4,),), ((0,),)),
    Example("first_largest", ((2, 3, 2),), ((0, 2),)),
    Example("first_largest", ((40, 2),), ((0,),)),
    Example("windows", ((2, 6),), (ops.Sliding(0, (1,), (3,), (2,), (1,), ((0, 0),)), 0.0)),
    Example("windows", ((2, 6),), (ops.Sliding(1, (1,), (2,), (1,), (2,), ((2, 1),)), 0.0)),
    Example("windows", ((2, 4, 3),), (ops.Sliding(0, (1, 2), (2, 3), (1, 2), (1, 1), ((0, 0), (1, 1))), 0.0)),
    Example("windows", ((2, 4, 3),), (ops.Sliding(0, (1, 2), (2, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), 0.0)),
    # Fewer positions than elements of the window, dilated and not, between and before the axes.
    Example("windows", ((2, 6, 5),), (ops.Sliding(1, (1, 2), (3, 3), (1, 1), (2, 2), ((0, 0), (1, 0))), 0.0)),
    Example("windows", ((5, 6, 2),), (ops.Sliding(2, (0, 1), (4, 3), (2, 3), (1, 2), ((1, 0), (0, 0))), 0.0)),
    Example(
        "overlap_add", ((2, 3, 3, 2, 2),), (ops.Sliding(1, (1, 2), (3, 3), (1, 1), (2, 2), ((0, 0), (1, 0))), (2, 6, 5))
    ),
    Example("overlap_add", ((4, 2),), (ops.Sliding(0, (0,), (4,), (4,), (1,), ((0, 0),)), (8,))),
    Example("overlap_add", ((3, 2, 2),), (ops.Sliding(0, (1,), (3,), (2,), (1,), ((0, 0),)), (2, 6))),
    Example("overlap_add", ((2, 2, 7),), (ops.Sliding(1, (1,), (2,), (1,), (2,), ((2, 1),)), (2, 6))),
    Example(
        "overlap_add", ((2, 3, 2, 3, 2),), (ops.Sliding(0, (1, 2), (2, 3), (1, 2), (1, 1), ((0, 0), (1, 1))), (2, 4, 3))
    ),
    Example(
        "overlap_add", ((2, 1, 2, 2, 2),), (ops.Sliding(0, (1, 2), (2, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), (2, 4, 3))
    ),
    Example("where", ((3, 2), (3, 2), (3, 2)), build=lambda c, a, b: ops.where(ops.greater(c, 0.0), a, b)),
    Example("where", ((), (3, 2), ()), build=lambda c, a, b: ops.where(ops.greater(c, 0.0), a, b)),
    Example("cumulative_sum", ((3, 2),), (0, False)),
    Example("cumulative_sum", ((2, 4, 3),), (1, True)),
    Example("order", ((2, 4),), (False,)),
    Example("order", ((2, 4),), (True,)),
    Example("floats", ((2, 3),), indices=4),
    Example("mark", ((3, 2),), ("here",)),
    Example("with_slope", ((3, 2),), build=lambda x: ops.with_slope(x, ops.square(x) * x, 3.0 * ops.square(x))),
    Example("extreme", ((3, 2), (3, 2), (3, 2)), build=lambda *x: ops.extreme("maximum", x)),
    Example("extreme", ((3, 2), (3, 2), (3, 2)), build=lambda *x: ops.extreme("minimum", x)),
    Example("root_mean_square", ((4, 2),), build=lambda x: ops.root_mean_square(x, [1])),
    Example("root_mean_square", ((2, 3, 2),), build=lambda x: ops.root_mean_square(x, [0, 2], 0.25)),
)


def _scalar_mixes(example: Example) -> list[Example]:
    """Return the same binary operation with scalars for one or both operands, if it takes them."""
    if len(example.shapes) != 2 or example.indices is not None:
        return []
    mixes = []
    for scalars in itertools.product((False, True), repeat=2):
        shapes = tuple(() if scalar else shape for scalar, shape in zip(scalars, example.shapes, strict=True))
        mixed = Example(example.operation, shapes, example.attributes, example.low, example.high)
        try:
            mixed.apply(mixed.inputs(Graph("float64")))
        except (GraphTypeError, IndexError):
            continue
        if any(scalars):
            mixes.append(mixed)
    return mixes


ALL_EXAMPLES = [*EXAMPLES, *itertools.chain.from_iterable(map(_scalar_mixes, EXAMPLES))]


OPAQUE = Operation("opaque", lambda inputs, _: (inputs[0].shape, inputs[0].dtype), None, None, None, "?")  # type: ignore[arg-type]
"""An operation without a kernel, pullback or batch rule."""


def missing_examples() -> list[str]:
    return sorted(set(OPERATIONS) - LEAVES - {example.operation for example in EXAMPLES})
