"""ONNX operators that reduce axes or run along one: sums, means, extremes, softmax and losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    absolute,
    broadcast,
    concatenate,
    cumulative_sum,
    exp,
    first_largest,
    greater_equal,
    largest,
    log,
    log_softmax,
    reshape,
    slice_axis,
    softmax,
    sqrt,
    square,
    stop_gradient,
    sum_over,
    table,
    where,
)
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import along, axes_of, axis_of, flip, full, keep, move, padded, product, unsqueeze
from service.engine.onnx.operators.indexing import picked
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.registry import INT, operator
from service.engine.onnx.values import Value

MOST_FACTORS = 4096
"""The largest number of elements that are multiplied one by one."""


def _reduction(name: str, function: Callable[[Node, Sequence[int]], Node], empty: float, axes_since: int) -> None:
    """Declare a reduction operator.

    `empty` is its value over no elements. From opset `axes_since` on, its axes are an input and no attribute.
    """

    @operator(name, static=(1,), integers=True)
    def build(call: Call, x: Value, axes: Value | None = None) -> Node:
        """Return the reduction of x over the axes of the node."""
        node = call.x(x)
        rank = len(node.shape)
        if call.version >= axes_since:
            given = [] if axes is None else call.ints(axes, "the axes")
            if not given and call.integer("noop_with_empty_axes"):
                return node if function in _ALONE else function(unsqueeze(node, [rank]), [rank])
        else:
            given = call.integers("axes")
        chosen = axes_of(given, rank) if given else tuple(range(rank))
        shape = tuple(n for axis, n in enumerate(node.shape) if axis not in chosen)
        if 0 in [node.shape[axis] for axis in chosen]:
            if not x.is_float and math.isinf(empty):
                call.refuse(f"the extreme of no {x.dtype} at all")
            reduced = full(call.graph, empty, shape)
        else:
            reduced = function(node, chosen) if chosen else function(unsqueeze(node, [rank]), [rank])
        if not x.is_float and x.dtype != "bool" and name == "ReduceMean":
            call.refuse("means of integers are rounded, which is not computed here")
        return keep(reduced, node.shape, chosen) if call.integer("keepdims", 1) else reduced


def _mean(x: Node, axes: Sequence[int]) -> Node:
    """Return the mean of x over axes, without these axes."""
    return sum_over(x, axes) / float(math.prod(x.shape[axis] for axis in axes))


def _min(x: Node, axes: Sequence[int]) -> Node:
    """Return the least element of x over axes, without these axes."""
    return -largest(-x, axes)


def _log_sum_exp(x: Node, axes: Sequence[int]) -> Node:
    """Return the logarithm of the sum of exponentials of x over axes, without these axes."""
    top = largest(x, axes)
    # An infinite maximum is not subtracted, because infinity - infinity is NaN.
    finite = where(_is_finite(top), top, 0.0)
    shift = stop_gradient(finite)
    total = sum_over(exp(x - broadcast(keep(shift, x.shape, axes), x.shape)), axes)
    return log(total) + shift


def _is_finite(x: Node) -> Node:
    """Return 1 where x is finite, else 0."""
    return x.graph.apply("greater_equal", np.finfo(x.graph.dtype).max.item(), absolute(x))


def _product(x: Node, axes: Sequence[int]) -> Node:
    """Return the product of x over axes, without these axes."""
    for axis in sorted(axes, reverse=True):
        if x.shape[axis] > MOST_FACTORS:
            raise Refusal(f"multiplies {x.shape[axis]} elements; at most {MOST_FACTORS} are")
        x = product(along(x, axis))
    return x


def _l2(x: Node, axes: Sequence[int]) -> Node:
    """Return the Euclidean norm of x over axes, without these axes."""
    return sqrt(sum_over(square(x), axes))


_ALONE = (sum_over, _mean, largest, _min, _product)
_reduction("ReduceSum", sum_over, 0.0, 13)
_reduction("ReduceMean", _mean, math.nan, 18)
_reduction("ReduceMax", largest, -math.inf, 18)
_reduction("ReduceMin", _min, math.inf, 18)
_reduction("ReduceProd", _product, 1.0, 18)
_reduction("ReduceL1", lambda x, axes: sum_over(absolute(x), axes), 0.0, 18)
_reduction("ReduceL2", _l2, 0.0, 18)
_reduction("ReduceLogSum", lambda x, axes: log(sum_over(x, axes)), -math.inf, 18)
_reduction("ReduceLogSumExp", _log_sum_exp, -math.inf, 18)
_reduction("ReduceSumSquare", lambda x, axes: sum_over(square(x), axes), 0.0, 18)


@operator("CumSum", static=(1,), integers=True)
def cum_sum(call: Call, x: Value, axis: Value) -> Node:
    """Build CumSum: return the running sums of x along an axis."""
    node = call.x(x)
    place = axis_of(call.ints(axis, "the axis")[0], len(node.shape))
    reverse = bool(call.integer("reverse"))
    total = cumulative_sum(node, place, reverse=reverse)
    return _shifted(total, place, 0.0, reverse=reverse) if call.integer("exclusive") else total


def _shifted(x: Node, axis: int, value: float, *, reverse: bool) -> Node:
    """Return x moved one place along an axis, towards its start with `reverse`. `value` fills the free place."""
    n = x.shape[axis]
    cut = slice_axis(x, axis, 1, n) if reverse else slice_axis(x, axis, 0, n - 1)
    pads = [(0, 0)] * len(x.shape)
    pads[axis] = (0, 1) if reverse else (1, 0)
    return padded(cut, pads, value)


@operator("CumProd", static=(1,), integers=True)
def cum_prod(call: Call, x: Value, axis: Value) -> Node:
    """Build CumProd: return the running products of x along an axis."""
    node = call.x(x)
    place = axis_of(call.ints(axis, "the axis")[0], len(node.shape))
    reverse = bool(call.integer("reverse"))
    if node.shape[place] > MOST_FACTORS:
        call.refuse(f"multiplies {node.shape[place]} elements; at most {MOST_FACTORS} are")
    parts = along(node, place)
    running: list[Node] = []
    for part in reversed(parts) if reverse else parts:
        running.append(part if not running else running[-1] * part)
    whole = concatenate([unsqueeze(each, [place]) for each in (reversed(running) if reverse else running)], place)
    return _shifted(whole, place, 1.0, reverse=reverse) if call.integer("exclusive") else whole


# --- along one axis -----------------------------------------------------------------------------


def over_axis(function: Callable[[Node], Node], x: Node, axis: int) -> Node:
    """Return the result of a function of rows, applied to x along any axis."""
    last = len(x.shape) - 1
    return function(x) if axis == last else move(function(move(x, [axis], [last])), [last], [axis])


LOOKED_BACK = 64
"""The number of nodes before a softmax that are searched for an infinite constant."""


def safe_softmax(x: Node) -> Node:
    """Return the softmax over the last axis. A fully masked row, all -infinity, is NaN and has the gradient 0."""
    if not _may_be_infinite(x):
        return softmax(x)
    last = len(x.shape) - 1
    nothing = x.graph.apply("greater_equal", -math.inf, largest(x, [last]))
    spread = broadcast(keep(nothing, x.shape, [last]), x.shape)
    return where(spread, math.nan, softmax(where(spread, 0.0, x)))


def _may_be_infinite(x: Node) -> bool:
    """Return whether one of the last nodes that lead to a value is an infinite constant."""
    pending, seen = [x], {x.index}
    while pending and len(seen) < LOOKED_BACK:
        node = pending.pop(0)
        if node.value is not None and math.isinf(node.value):
            return True
        if node.operation.name == "table" and node.dtype != "int64" and np.isinf(node.attributes[0].array).any():
            return True
        for before in node.inputs:
            if before.index not in seen:
                seen.add(before.index)
                pending.append(before)
    return False


def _softmax_like(name: str, function: Callable[[Node], Node]) -> None:
    """Declare an operator that applies a function of rows along an axis, in its forms before and since opset 13."""

    @operator(name, since=1)
    def flattened(call: Call, x: Value) -> Node:
        """Return the function of x as a matrix, with the axes from the attribute `axis` on as one row."""
        node = call.x(x)
        axis = axis_of(call.integer("axis", 1), max(1, len(node.shape)))
        rows = reshape(node, (math.prod(node.shape[:axis]), math.prod(node.shape[axis:])))
        return reshape(function(rows), node.shape)

    @operator(name, since=13)
    def build(call: Call, x: Value) -> Node:
        """Return the function of x along the attribute `axis`."""
        node = call.x(x)
        return over_axis(function, node, axis_of(call.integer("axis", -1), len(node.shape)))


_softmax_like("Softmax", safe_softmax)
_softmax_like("LogSoftmax", log_softmax)
_softmax_like("Hardmax", lambda x: first_largest(x, [-1]))


def _place_of(name: str, sign: float) -> None:
    """Declare ArgMax (`sign` 1) or ArgMin (`sign` -1)."""

    @operator(name, result=INT, integers=True)
    def build(call: Call, x: Value) -> Node:
        """Return the place of the largest or least element along an axis."""
        node = sign * call.x(x)
        axis = axis_of(call.integer("axis"), len(node.shape))
        last = bool(call.integer("select_last_index"))
        marks = first_largest(flip(node, axis) if last else node, [axis])
        n = node.shape[axis]
        numbers = np.arange(n)[::-1] if last else np.arange(n)
        spread = table(
            call.graph, numbers.astype(float).reshape([-1 if k == axis else 1 for k in range(len(node.shape))])
        )
        place = sum_over(marks * broadcast(spread, node.shape), [axis])
        return keep(place, node.shape, [axis]) if call.integer("keepdims", 1) else place


_place_of("ArgMax", 1.0)
_place_of("ArgMin", -1.0)


@operator("LpNormalization")
def lp_normalization(call: Call, x: Value) -> Node:
    """Build LpNormalization: return x divided by its norm along an axis."""
    node = call.x(x)
    axis = axis_of(call.integer("axis", -1), len(node.shape))
    p = call.integer("p", 2)
    total = sum_over(absolute(node) if p == 1 else square(node), [axis])
    # A vector of zeros stays a vector of zeros.
    length = where(total, total, 1.0) if p == 1 else sqrt(where(total, total, 1.0))
    return node / broadcast(keep(length, node.shape, [axis]), node.shape)


# --- losses -------------------------------------------------------------------------------------


def _negative_log_likelihood(call: Call, scores: Node, target: Value, weight: Value | None) -> Node:
    """Return the loss of log-probabilities `(n, c, *s)` for classes `(n, *s)`, reduced as the attribute says."""
    ignored = call.attr("ignore_index")
    classes = scores.shape[1]
    moved = move(scores, [1], [len(scores.shape) - 1])
    if target.array is not None:
        places = target.array.astype(np.int64)
        kept = np.ones(places.shape) if ignored is None else (places != int(ignored)).astype(float)
        chosen: Node | np.ndarray = np.where(kept == 1.0, places, 0)
        mask = table(call.graph, kept)
    else:
        node = call.x(target)
        mask = full(call.graph, 1.0, node.shape)
        if ignored is not None:
            value = float(ignored)
            mask = 1.0 - greater_equal(node, value) * (call.graph.apply("greater_equal", value, node))
        chosen = where(mask, node, 0.0)
    loss = -picked(moved, chosen)
    factors = mask
    if weight is not None:
        factors = picked(broadcast(call.x(weight), (*target.shape, classes)), chosen) * mask
    loss = where(mask, loss * factors, 0.0)
    reduction = call.word("reduction", "mean")
    if reduction == "none":
        return loss
    return sum_over(loss) if reduction == "sum" else sum_over(loss) / sum_over(factors)


@operator("NegativeLogLikelihoodLoss", integers=True)
def negative_log_likelihood(call: Call, x: Value, target: Value, weight: Value | None = None) -> Node:
    """Build NegativeLogLikelihoodLoss: return the loss of log-probabilities."""
    return _negative_log_likelihood(call, call.x(x), target, weight)


@operator("SoftmaxCrossEntropyLoss", integers=True)
def softmax_cross_entropy(call: Call, x: Value, target: Value, weight: Value | None = None) -> tuple[Node, Node]:
    """Build SoftmaxCrossEntropyLoss: return the loss of scores, and the log-probabilities."""
    scores = over_axis(log_softmax, call.x(x), 1)
    return _negative_log_likelihood(call, scores, target, weight), scores
