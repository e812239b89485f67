"""Helpers of several engine tests: settings for random tests, and random graphs."""

import functools
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from service.engine.graph import operations as ops
from service.engine.graph.differentiate import dense
from service.engine.graph.ir import OPERATIONS, Graph, Node
from tests.engine.graph.examples import EXAMPLES, LEAVES, in_balance

T = TypeVar("T")
# The same examples on every run; no files beside the tests.
random_examples = functools.partial(settings, deadline=None, database=None, derandomize=True)

SHAPES = [(), (3,), (1, 3), (2, 3), (3, 3), (2, 1), (2, 2, 3), (2, 3, 3), (1, 1)]


def _sliding(shape: tuple[int, ...], number: Callable[[], int]) -> ops.Sliding:
    """Return a window over the last axis of `shape`, and sometimes over the axis before it as well."""
    rank = len(shape)
    axes = tuple(range(rank))[-2:] if number() % 2 else (rank - 1,)
    low, high, stride = number() % 2, number() % 3, 1 + number() % 2
    sizes = tuple(1 + number() % (shape[axis] + low + high) for axis in axes)
    several = len(axes)
    return ops.Sliding(
        number() % (rank + 1), axes, sizes, (stride,) * several, (1,) * several, ((low, high),) * several
    )


def _apply(graph: Graph, pool: list[Node], name: str, chance: Random) -> Node | None:
    """Apply the operation `name` to values of the pool. Return None if no value fits."""
    number = functools.partial(chance.randrange, 61)
    x = pool[number() % len(pool)]
    rank = len(x.shape)
    if (
        name
        in ("softmax", "log_softmax", "logsumexp", "row_maximum", "row_excess", "balanced", "pad", "slice", "windows")
        and not rank
    ):
        return None
    match name:
        case "softmax":
            return ops.softmax(x)
        case "log_softmax":
            return ops.log_softmax(x)
        case "logsumexp":
            return ops.logsumexp(x)
        case "row_excess":
            return ops.row_excess(x)
        case "balanced":
            return in_balance(x, 4.0 * x)
        case "sum":
            mask = number()
            return ops.sum_over(x, [axis for axis in range(rank) if mask >> axis & 1]) if rank else None
        case "reshape":
            shapes = {(x.size,), (1, x.size), (*x.shape, 1), x.shape[::-1], (*x.shape[1:], *x.shape[:1])}
            return ops.reshape(x, sorted(shapes)[number() % len(shapes)])
        case "transpose":
            return ops.transpose(x, chance.sample(range(rank), rank)) if rank else None
        case "broadcast":
            widened = tuple(3 if n == 1 and number() % 2 else n for n in x.shape)
            return ops.broadcast(x, (2, *widened) if rank < 3 and number() % 2 else widened)
        case "slice":
            axis = number() % rank
            start = number() % x.shape[axis]
            return ops.slice_axis(x, axis, start, start + 1 + number() % (x.shape[axis] - start))
        case "pad":
            axis = number() % rank
            start = number() % 3
            return graph.apply("pad", x, attributes=(axis, start, start + x.shape[axis] + number() % 2))
        case "concatenate":
            if not rank:
                return None
            axis = number() % rank
            rest = x.shape[:axis] + x.shape[axis + 1 :]
            fits = [y for y in pool if len(y.shape) == rank and y.shape[:axis] + y.shape[axis + 1 :] == rest]
            return ops.concatenate([x, *(fits[number() % len(fits)] for _ in range(number() % 3))], axis)
        case "matmul":
            if rank < 2:
                return None
            fits = [y for y in pool if len(y.shape) == rank and y.shape[:-1] == (*x.shape[:-2], x.shape[-1])]
            return x @ fits[number() % len(fits)] if fits else ops.transpose(x) @ x
        case "with_slope":
            return ops.with_slope(x, graph.apply("square", x), graph.apply("tanh", x))
        case "extreme":
            fits = [y for y in pool if y.shape == x.shape]
            return ops.extreme(
                ("maximum", "minimum")[number() % 2], [x, *(fits[number() % len(fits)] for _ in range(2))]
            )
        case "root_mean_square":
            return ops.root_mean_square(x, range(number() % rank, rank), 0.5 * (number() % 2)) if rank else None
        case "where":
            fits = [y for y in pool if y.shape in ((), x.shape)]
            return ops.where(graph.apply("greater", x, 0.0), x, fits[number() % len(fits)])
        case "cumulative_sum":
            return ops.cumulative_sum(x, number() % rank, reverse=bool(number() % 2)) if rank else None
        case "order":
            return graph.apply("order", x, attributes=(bool(number() % 2),)) if rank else None
        case "floats":
            return ops.to_floats(graph.input("indices", (4,), "int64"))
        case "one_hot":
            return ops.one_hot(graph.input("indices", (4,), "int64"), 3)
        case "largest" | "first_largest":
            axes = [axis for axis in range(rank) if number() % 2]
            return graph.apply(name, x, attributes=(tuple(axes),)) if axes else None
        case "windows":
            return ops.windows(x, _sliding(x.shape, number))
        case "overlap_add":
            whole = SHAPES[1 + number() % (len(SHAPES) - 1)]
            sliding = _sliding(whole, number)
            gathered = (
                ops.broadcast(x, sliding.gathered(whole)) if not rank else ops.windows(x, _sliding(x.shape, number))
            )
            fits = gathered.shape == sliding.gathered(whole)
            return ops.overlap_add(gathered, sliding, whole) if fits else None
        case "gather_rows":
            fits = rank == 2 and x.shape[0] >= 3  # all indices are below 3
            return ops.gather_rows(x, graph.input("indices", (4,), "int64")) if fits else None
        case "scatter_rows":
            fits = rank > 1 and x.shape[:-1] == (4,)
            return ops.scatter_rows(x, graph.input("indices", (4,), "int64"), 5) if fits else None
    if next(len(example.shapes) for example in EXAMPLES if example.operation == name) == 1:
        return graph.apply(name, x)
    fits = [y for y in pool if y.shape in ((), x.shape)]  # at least x itself
    return graph.apply(name, x, fits[number() % len(fits)])


generators = st.integers(0, 2**64 - 1).map(Random)
"""Generators of random numbers. Graphs take some fifty choices, of which each costs Hypothesis as much as a node."""


def random_graph(
    chance: Random,
    names: tuple[str, ...] = tuple(sorted(set(OPERATIONS) - LEAVES)),
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> tuple[Graph, list[Node], list[Node]]:
    """Return a random graph, with its float inputs and all values, the inputs first."""
    graph = Graph(chance.choice(dtypes))
    shapes = chance.choices(SHAPES, k=chance.randint(2, 4))
    inputs = [graph.input(f"x{position}", shape) for position, shape in enumerate(shapes)]
    pool = [*inputs, graph.constant(0.5)]
    for _ in range(chance.randint(1, 14)):
        made = _apply(graph, pool, chance.choice(names), chance)
        if made is not None and made.size <= 64:
            pool.append(made)
    return graph, inputs, pool


def some_of(chance: Random, choices: Sequence[T], least: int, most: int) -> list[T]:
    """Return `least` to `most` of the choices, each as often as it comes."""
    return chance.choices(choices, k=chance.randint(least, most))


dense_gradients = dense
