"""A reference of many digits: the graph's primitive operations once more, in the arithmetic of mpmath.

The engine computes with 53 or 24 bits and numbers of limited size. Here every number has as many digits as `mp.dps`
says, and its exponent has no limit, so no formula overflows, underflows or loses digits that matter. What a graph
should answer is therefore found without writing a second formula for it.

`evaluate` gives values. `expand` gives values with their first and second derivative along a line, by Taylor series of
three terms: each operation knows its own two derivatives, and none of the engine's pullbacks is used. `settled` repeats
such a computation with more digits until two answers agree. `ulps` measures how far a float is from such an answer.

An operation needs one line in `RULES`: a function of its operands and the node; a function of one number is declared
in `series.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

from service.engine.arrays import Array
from service.engine.graph.ir import Node, reachable
from tests import series
from tests.series import FUNCTIONS, ONE, ZERO, Series, constant, number

MOST_DIGITS = 1200
"""`settled` gives up here: enough for x - tanh x of the smallest number, where 650 digits are lost."""


# --- operations ---------------------------------------------------------------------------------


def _elementwise(function: Callable[..., Series]) -> Callable[..., Array]:
    vectorised = np.frompyfunc(function, function.__code__.co_argcount, 1)

    def rule(node: Node, *inputs: Array) -> Array:
        return np.asarray(vectorised(*inputs), object)

    return rule


def _sum(x: Array, axes: Sequence[int]) -> Array:
    for axis in sorted(axes, reverse=True):
        x = _added([x.take(place, axis) for place in range(x.shape[axis])], np.delete(x.shape, axis))
    return x


def _added(parts: Sequence[Array], shape: Sequence[int]) -> Array:
    total = np.full(tuple(shape), constant(ZERO), object)
    for part in parts:
        total = np.asarray(total + part, object)
    return total


def _product(node: Node, a: Array, b: Array) -> Array:
    parts = [a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])]
    return _added(parts, node.shape)


def _padded(node: Node, x: Array) -> Array:
    axis, start, _ = node.attributes
    out = np.full(node.shape, constant(ZERO), object)
    out[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)] = x
    return out


def _windows(node: Node, x: Array) -> Array:
    sliding, fill = node.attributes
    padded = np.full(sliding.padded(x.shape), constant(number(fill)), object)
    sliding.interior(padded)[...] = x
    out = np.empty(node.shape, object)
    for window, source in sliding.pieces(out, padded):
        window[...] = source
    return out


def _overlap_add(node: Node, x: Array) -> Array:
    sliding, shape = node.attributes
    padded = np.full(sliding.padded(shape), constant(ZERO), object)
    for window, target in sliding.pieces(x, padded):
        target[...] = target + window
    return sliding.interior(padded)


def _gather(node: Node, table: Array, indices: Array) -> Array:
    (lead,) = node.attributes
    out = np.empty(node.shape, object)
    for place in np.ndindex(*table.shape[:lead]):
        out[place] = table[place][indices[place]]
    return out


def _scatter(node: Node, values: Array, indices: Array) -> Array:
    _, lead = node.attributes
    out = np.full(node.shape, constant(ZERO), object)
    for place in np.ndindex(*indices.shape):
        row = (*place[:lead], indices[place])
        out[row] = out[row] + values[place]
    return out


def _largest_of(rows: Array) -> Array:
    """Return the place of the first largest number along the last axis."""
    return np.array([max(range(len(row)), key=lambda k, row=row: row[k].value) for row in rows], int)


def _in_rows(x: Array, axes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """Return the numbers that a maximum over some axes compares, as rows, and the shape of all rows."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    ordered = x.transpose(*kept, *axes)
    shape = tuple(x.shape[axis] for axis in kept)
    return ordered.reshape(int(np.prod(shape, dtype=int)), -1), shape


def _largest(x: Array, axes: Sequence[int]) -> Array:
    rows, shape = _in_rows(x, axes)
    out = np.empty(len(rows), object)
    out[:] = [row[k] for row, k in zip(rows, _largest_of(rows), strict=True)]
    return out.reshape(shape)


def _first_largest(node: Node, x: Array) -> Array:
    (axes,) = node.attributes
    rows, shape = _in_rows(x, axes)
    out = np.full(rows.shape, constant(ZERO), object)
    for row, k in zip(out, _largest_of(rows), strict=True):
        row[k] = constant(ONE)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    ordered = out.reshape(*shape, *[x.shape[axis] for axis in axes])
    return ordered.transpose(np.argsort([*kept, *axes]))


def _one_hot(node: Node, indices: Array) -> Array:
    out = np.full(node.shape, constant(ZERO), object)
    for place in np.ndindex(*indices.shape):
        out[(*place, indices[place])] = constant(ONE)
    return out


def _slice(node: Node, x: Array) -> Array:
    axis, start, stop = node.attributes
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _same(node: Node, x: Array) -> Array:
    """Return a view of its first input; what it declares about slopes is not used here."""
    return x


def _root(squares: Array, epsilon: float) -> Array:
    rooted = np.frompyfunc(lambda x: series.function_of("sqrt", x + constant(number(epsilon))), 1, 1)
    return np.asarray(rooted(squares), object)


def _running(node: Node, x: Array) -> Array:
    axis, reverse = node.attributes
    moved = np.moveaxis(x, axis, 0)[:: -1 if reverse else 1]
    out = np.empty(moved.shape, object)
    for k, row in enumerate(moved):
        out[k] = row if k == 0 else out[k - 1] + row
    return np.moveaxis(out[:: -1 if reverse else 1], 0, axis)


def _order(node: Node, x: Array) -> Array:
    (descending,) = node.attributes
    out = np.empty(x.shape, object)
    for place in np.ndindex(*x.shape[:-1]):
        row = x[place]
        for k, j in enumerate(sorted(range(len(row)), key=lambda j: row[j].value * (-1 if descending else 1))):
            out[(*place, k)] = constant(number(float(j)))
    return out


RULES: dict[str, Callable[..., Array]] = {
    "add": _elementwise(lambda a, b: a + b),
    "subtract": _elementwise(lambda a, b: a - b),
    "multiply": _elementwise(lambda a, b: a * b),
    "divide": _elementwise(lambda a, b: a / b),
    "negate": _elementwise(lambda x: -x),
    "absolute": _elementwise(series.absolute),
    "maximum": _elementwise(series.maximum),
    "minimum": _elementwise(series.minimum),
    "greater": _elementwise(lambda a, b: series.truth(a.value > b.value)),
    "greater_equal": _elementwise(lambda a, b: series.truth(a.value >= b.value)),
    "hypot": _elementwise(series.length),
    "atan2": _elementwise(series.angle),
    "mod": _elementwise(series.remainder),
    "power": _elementwise(series.power),
    "xlogy": _elementwise(series.times_logarithm),
    "sum": lambda node, x: _sum(x, node.attributes[0]),
    "matmul": _product,
    "row_excess": lambda node, total, x: np.asarray(_sum(x, [x.ndim - 1]) - constant(ONE), object),
    "balanced": lambda node, x, shares: x,
    "gate": _elementwise(lambda mask, x: x if mask.value else constant(ZERO)),
    "where": _elementwise(lambda condition, a, b: a if condition.value else b),
    "cumulative_sum": _running,
    "order": _order,
    "floats": lambda node, indices: _lifted(indices.astype(float)),
    "row_maximum": lambda node, x: _largest(x, [x.ndim - 1]),
    "largest": lambda node, x: _largest(x, node.attributes[0]),
    "first_largest": _first_largest,
    "concatenate": lambda node, *parts: np.concatenate(parts, node.attributes[0]),
    "pad": _padded,
    "one_hot": _one_hot,
    "windows": _windows,
    "overlap_add": _overlap_add,
    "gather_rows": _gather,
    "scatter_rows": _scatter,
    "extreme": lambda node, value, *inputs: value,
    "weighted": _elementwise(lambda a, b: constant(ZERO) if a.vanishes else a * b),
    "root_mean_square": lambda node, squares, x: _root(squares, node.attributes[2]),
    "reshape": lambda node, x: x.reshape(node.shape),
    "transpose": lambda node, x: x.transpose(node.attributes[0]),
    "broadcast": lambda node, x: np.broadcast_to(x, node.shape),
    "slice": _slice,
    **dict.fromkeys(("stop_gradient", "mark", "with_slope", "softmax", "log_softmax", "logsumexp"), _same),
}
"""For each operation with operands: from the node and the values of its operands to its value."""


def _unary_rule(name: str) -> Callable[..., Array]:
    return _elementwise(lambda x: series.function_of(name, x))


RULES.update({name: _unary_rule(name) for name in FUNCTIONS})


# --- evaluation ---------------------------------------------------------------------------------


def _lifted(values: Any) -> Array:
    """Return numbers of any kind as an array of `Series`; integers, which are indices, stay what they are."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array
    lifted = np.empty(array.shape, object)
    for place in np.ndindex(*array.shape):
        x = array[place]
        lifted[place] = x if isinstance(x, Series) else constant(number(x))
    return lifted


def _fixed(node: Node) -> Array:
    """Return the number of a constant as its graph has it: rounded, if the graph computes with float32."""
    return _lifted(np.array(node.attributes[0], node.dtype).astype(float))


def _run(outputs: Sequence[Node], inputs: Mapping[Node, Any]) -> list[Array]:
    found: dict[Node, Array] = {}
    for node in reachable(outputs):
        if node in inputs:
            found[node] = inputs[node]
        elif node.is_constant:
            found[node] = _fixed(node)
        else:
            rule = RULES.get(node.operation.name)
            if rule is None:
                raise NotImplementedError(f"add a rule for the operation {node.operation.name} to tests/reference.py")
            found[node] = rule(node, *[found[x] for x in node.operands])
        assert found[node].shape == node.shape, node
    return [found[node] for node in outputs]


def _part(name: str, array: Array) -> Array:
    return np.asarray(np.frompyfunc(lambda x: getattr(x, name), 1, 1)(array), object).reshape(array.shape)


def evaluate(outputs: Sequence[Node], inputs: Mapping[Node, Any]) -> list[Array]:
    """Return the values of `outputs` as object arrays of mpf, with `mp.dps` digits, given those of the input nodes.

    `inputs` are arrays of floats, which are taken as they are, of mpf, or of integers, which are indices.
    """
    return [_part("value", array) for array in _run(outputs, {x: _lifted(values) for x, values in inputs.items()})]


def expand(
    outputs: Sequence[Node], inputs: Mapping[Node, Any], direction: Mapping[Node, Any]
) -> list[tuple[Array, Array, Array]]:
    """Compute values, first and second derivatives of `outputs` along the line `inputs + t direction` at t = 0.

    Inputs without a direction stay where they are. The derivatives are those towards positive t: a maximum, minimum or
    absolute value follows the branch that is taken there, so at a kink a direction and its negative give the two
    one-sided derivatives. Steps keep their value and have slope 0. NaN: there is no such derivative, or the chain rule
    does not find it, as that of sqrt(x²) at 0.
    """
    lifted = {x: _lifted(values) for x, values in inputs.items()}
    for x, ways in direction.items():
        ways = np.broadcast_to(np.asarray(ways), x.shape)
        for place in np.ndindex(*x.shape):
            lifted[x][place] = Series(lifted[x][place].value, number(ways[place]))
    found = _run(outputs, lifted)
    return [(_part("value", array), _part("first", array), _part("second", array)) for array in found]


def settled(
    compute: Callable[[], Sequence[mpf]], digits: int = 30, start: int = 60, *, believe_zeros: bool = False
) -> list[mpf]:
    """Compute with more and more digits until twice as many change none of the first `digits`.

    A zero is believed only at `MOST_DIGITS`, unless `believe_zeros`: with fewer it may be a difference of equal
    numbers. Raises `ArithmeticError` where no answer settles.
    """
    before: list[mpf] = []
    precision = start
    while precision <= 2 * MOST_DIGITS:
        with mp.workdps(precision):
            now = list(compute())
            agreed = [_agree(a, b, digits) for a, b in zip(before, now, strict=False)]
        certain = believe_zeros or all(now) or precision >= MOST_DIGITS
        if before and all(agreed) and certain:
            return now
        before, precision = now, 2 * precision if certain else MOST_DIGITS
    raise ArithmeticError(f"no answer settles with {precision} digits")


def _agree(a: mpf, b: mpf, digits: int) -> bool:
    if mp.isnan(a) or mp.isnan(b):
        return bool(mp.isnan(a) and mp.isnan(b))
    if mp.isinf(a) or mp.isinf(b):
        return bool(a == b)
    return bool(abs(a - b) <= abs(b) * mp.mpf(10) ** -digits)


# --- comparison ---------------------------------------------------------------------------------


def ulp(exact: mpf, dtype: str = "float64") -> mpf:
    """Return the distance of neighbouring floats at an exact number: of those numbers that have its exponent."""
    bits, lowest = (53, -1074) if dtype == "float64" else (24, -149)
    if not exact:
        return mp.ldexp(ONE, lowest)
    return mp.ldexp(ONE, max(int(mp.frexp(exact)[1]) - bits, lowest))


def ulps(actual: float, exact: mpf, dtype: str = "float64") -> float:
    """Return the distance of a float from an exact number, in units in the last place of that number as a float; 0 for
    the float that is nearest.

    Infinity stands for what is too large for a float: it has the distance of the first number that is rounded to it.
    """
    if mp.isnan(exact) or np.isnan(actual):
        return 0.0 if mp.isnan(exact) and np.isnan(actual) else float("inf")
    if actual == _nearest(exact, dtype):
        return 0.0
    bits, top = (53, 1024) if dtype == "float64" else (24, 128)
    with mp.workdps(60):
        first = mp.ldexp(ONE, top) - mp.ldexp(ONE, top - bits - 1)
        found = mp.sign(actual) * first if np.isinf(actual) else number(actual)
        wanted = mp.sign(exact) * first if abs(exact) > first else exact
        return float(abs(found - wanted) / ulp(min(abs(wanted), mp.ldexp(ONE, top - 1)), dtype))


def _nearest(exact: mpf, dtype: str) -> float:
    """Return the float nearest to a number; for float32, the one nearest to the nearest float64."""
    with np.errstate(over="ignore"):
        return float(exact) if dtype == "float64" else float(np.float32(float(exact)))
