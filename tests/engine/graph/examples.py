"""At least one example of every operation of the table, for the tests that walk the table.

A new operation is tested by adding a line to `EXAMPLES`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.graph.ir import OPERATIONS, Array, Attributes, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations import (
    balanced,
    broadcast,
    extreme,
    gate,
    greater,
    log_softmax,
    logsumexp,
    reshape,
    row_excess,
    softmax,
    square,
    sum_over,
    with_slope,
)
from service.engine.graph.robust import root_mean_square
from service.engine.graph.selecting import where
from service.engine.graph.windows import Sliding

LEAVES = frozenset({"input", "constant", "vector", "table"})
"""Not computed from anything, so there is nothing to differentiate or batch."""


def in_balance(g: Node, x: Node) -> Node:
    """Rows that sum to 0, as the gradient of a logarithm of softmax does."""
    shares = softmax(x)
    totals = reshape(sum_over(g, [-1]), (*g.shape[:-1], 1))
    return balanced(g - shares * broadcast(totals, g.shape), shares)


@dataclass(frozen=True)
class Example:
    """One application of an operation to inputs of these shapes.

    The values are a shuffled even grid over all inputs together, so that no two are equal and
    none is near 0 by default: elementwise kinks and ties are far away.
    """

    operation: str
    shapes: tuple[Shape, ...]
    attributes: Attributes = ()
    low: float = -1.93
    high: float = 2.11
    indices: int | None = None
    """The last input holds integers below this."""
    build: Callable[..., Node] | None = None
    """How it is made of the inputs, for operations that are not simply applied to them."""

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


def _cube(x: Node) -> Node:
    return with_slope(x, square(x) * x, 3.0 * square(x))


EXAMPLES = (
    Example("add", ((3, 2), (3, 2))),
    Example("subtract", ((3, 2), (3, 2))),
    Example("multiply", ((3, 2), (3, 2))),
    Example("divide", ((3, 2), (3, 2)), low=0.4),
    Example("negate", ((3, 2),)),
    Example("square", ((3, 2),)),
    Example("exp", ((3, 2),)),
    Example("expm1", ((3, 2),)),
    Example("log", ((3, 2),), low=0.2, high=4.0),
    Example("log1p", ((3, 2),), low=-0.7, high=4.0),
    Example("sqrt", ((3, 2),), low=0.2, high=4.0),
    Example("tanh", ((3, 2),)),
    Example("sigmoid", ((3, 2),)),
    Example("softplus", ((3, 2),)),
    Example("erfc", ((3, 2),)),
    Example("tanh_slope", ((3, 2),)),
    Example("logistic_slope", ((3, 2),)),
    Example("gaussian", ((3, 2),)),
    Example("normal_cdf", ((3, 2),)),
    Example("normal_density", ((3, 2),)),
    Example("tanh_shrink", ((3, 2),)),
    Example("absolute", ((3, 2),)),
    Example("sin", ((3, 2),)),
    Example("cos", ((3, 2),)),
    Example("tan", ((3, 2),), low=-1.3, high=1.1),
    Example("asin", ((3, 2),), low=-0.9, high=0.8),
    Example("acos", ((3, 2),), low=-0.9, high=0.8),
    Example("atan", ((3, 2),)),
    Example("atan2", ((3, 2), (3, 2))),
    Example("hypot", ((3, 2), (3, 2))),
    Example("mod", ((3, 2), (3, 2)), low=0.23, high=3.1),
    Example("sinh", ((3, 2),)),
    Example("cosh", ((3, 2),)),
    Example("asinh", ((3, 2),)),
    Example("acosh", ((3, 2),), low=1.3, high=4.0),
    Example("atanh", ((3, 2),), low=-0.9, high=0.8),
    Example("log2", ((3, 2),), low=0.2, high=4.0),
    Example("log10", ((3, 2),), low=0.2, high=4.0),
    Example("cbrt", ((3, 2),), low=0.6, high=4.0),
    Example("power", ((3, 2), (3, 2)), low=0.3, high=2.7),
    Example("xlogy", ((3, 2), (3, 2)), low=0.3, high=2.7),
    Example("weighted", ((3, 2), (3, 2))),
    Example("erf", ((3, 2),)),
    Example("floor", ((3, 2),)),
    Example("ceil", ((3, 2),)),
    Example("round", ((3, 2),)),
    Example("sign", ((3, 2),)),
    Example("greater", ((3, 2), (3, 2))),
    Example("greater_equal", ((3, 2), (3, 2))),
    Example("maximum", ((3, 2), (3, 2))),
    Example("minimum", ((3, 2), (3, 2))),
    Example("gate", ((3, 2), (3, 2)), build=lambda a, b: gate(greater(a, 0.0), a * b)),
    Example("softmax", ((4,),), build=softmax),
    Example("softmax", ((2, 2, 3),), build=softmax),
    Example("log_softmax", ((4,),), build=log_softmax),
    Example("log_softmax", ((2, 2, 3),), build=log_softmax),
    Example("logsumexp", ((4,),), build=logsumexp),
    Example("logsumexp", ((2, 2, 3),), build=logsumexp),
    Example("row_maximum", ((4,),)),
    Example("row_maximum", ((2, 2, 3),)),
    Example("logsumexp", ((5, 9),), build=lambda x: logsumexp(8.0 * x)),
    Example("log_softmax", ((5, 3),), build=lambda x: log_softmax(8.0 * x)),
    Example("softmax", ((5, 3),), build=lambda x: softmax(8.0 * x)),
    Example("row_excess", ((5, 3),), build=row_excess),
    Example("row_excess", ((2, 2, 3),), build=lambda x: row_excess(softmax(4.0 * x))),
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
    Example("windows", ((2, 6),), (Sliding(0, (1,), (3,), (2,), (1,), ((0, 0),)), 0.0)),
    Example("windows", ((2, 6),), (Sliding(1, (1,), (2,), (1,), (2,), ((2, 1),)), 0.0)),
    Example("windows", ((2, 4, 3),), (Sliding(0, (1, 2), (2, 3), (1, 2), (1, 1), ((0, 0), (1, 1))), 0.0)),
    Example("windows", ((2, 4, 3),), (Sliding(0, (1, 2), (2, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), 0.0)),
    # Fewer positions than elements of the window, dilated and not, between and before the axes.
    Example("windows", ((2, 6, 5),), (Sliding(1, (1, 2), (3, 3), (1, 1), (2, 2), ((0, 0), (1, 0))), 0.0)),
    Example("windows", ((5, 6, 2),), (Sliding(2, (0, 1), (4, 3), (2, 3), (1, 2), ((1, 0), (0, 0))), 0.0)),
    Example(
        "overlap_add", ((2, 3, 3, 2, 2),), (Sliding(1, (1, 2), (3, 3), (1, 1), (2, 2), ((0, 0), (1, 0))), (2, 6, 5))
    ),
    Example("overlap_add", ((4, 2),), (Sliding(0, (0,), (4,), (4,), (1,), ((0, 0),)), (8,))),
    Example("overlap_add", ((3, 2, 2),), (Sliding(0, (1,), (3,), (2,), (1,), ((0, 0),)), (2, 6))),
    Example("overlap_add", ((2, 2, 7),), (Sliding(1, (1,), (2,), (1,), (2,), ((2, 1),)), (2, 6))),
    Example(
        "overlap_add",
        ((2, 3, 2, 3, 2),),
        (Sliding(0, (1, 2), (2, 3), (1, 2), (1, 1), ((0, 0), (1, 1))), (2, 4, 3)),
    ),
    Example(
        "overlap_add", ((2, 1, 2, 2, 2),), (Sliding(0, (1, 2), (2, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), (2, 4, 3))
    ),
    Example("where", ((3, 2), (3, 2), (3, 2)), build=lambda c, a, b: where(greater(c, 0.0), a, b)),
    Example("where", ((), (3, 2), ()), build=lambda c, a, b: where(greater(c, 0.0), a, b)),
    Example("cumulative_sum", ((3, 2),), (0, False)),
    Example("cumulative_sum", ((2, 4, 3),), (1, True)),
    Example("order", ((2, 4),), (False,)),
    Example("order", ((2, 4),), (True,)),
    Example("floats", ((2, 3),), indices=4),
    Example("stop_gradient", ((3, 2),)),
    Example("mark", ((3, 2),), ("here",)),
    Example("with_slope", ((3, 2),), build=_cube),
    Example("extreme", ((3, 2), (3, 2), (3, 2)), build=lambda *x: extreme("maximum", x)),
    Example("extreme", ((3, 2), (3, 2), (3, 2)), build=lambda *x: extreme("minimum", x)),
    Example("root_mean_square", ((4, 2),), build=lambda x: root_mean_square(x, [1])),
    Example("root_mean_square", ((2, 3, 2),), build=lambda x: root_mean_square(x, [0, 2], 0.25)),
)


def _scalar_mixes(example: Example) -> list[Example]:
    """The same binary operation with scalars for one or both operands, where it takes them."""
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


def missing_examples() -> list[str]:
    return sorted(set(OPERATIONS) - LEAVES - {example.operation for example in EXAMPLES})
