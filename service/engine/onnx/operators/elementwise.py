"""ONNX operators that act on each element alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import operations
from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    absolute,
    clip,
    exp,
    expm1,
    extreme,
    greater,
    greater_equal,
    log,
    maximum,
    minimum,
    reshape,
    sigmoid,
    sign,
    softplus,
    sqrt,
    square,
    tanh,
    where,
)
from service.engine.network.activations import activations
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import aligned, axis_of, elementwise, full, largest_whole
from service.engine.onnx.registry import BOOL, operator
from service.engine.onnx.tensors import dtype_of, is_float
from service.engine.onnx.values import Value

WRAPPED = {"int8": 8, "int16": 16, "int32": 32, "uint8": 8, "uint16": 16, "uint32": 32}


def wrapped(call: Call, x: Node, dtype: str) -> Node:
    """Return whole floats as the integers of a type: values out of range wrap around."""
    bits = WRAPPED.get(dtype)
    if bits is None:
        return x
    span = 2.0**bits
    low = 0.0 if dtype.startswith("u") else -span / 2
    return operations.mod(x - low, x.graph.constant(span)) + low if low else operations.mod(x, x.graph.constant(span))


def _is_integer(value: Value) -> bool:
    """Return whether the elements of a value are integers."""
    return not value.is_float and value.dtype != "bool"


# --- one input ----------------------------------------------------------------------------------


def _unary(name: str, function: Callable[[Node], Node], fold: Any = None, **details: Any) -> None:
    """Declare an operator that applies a function to one input."""
    operator(name, fold=fold, **details)(lambda call, x: function(call.x(x)))


_unary("Exp", exp)
_unary("Log", log)
_unary("Sqrt", sqrt)
_unary("Sin", operations.sin)
_unary("Cos", operations.cos)
_unary("Tan", operations.tan)
_unary("Asin", operations.asin)
_unary("Acos", operations.acos)
_unary("Atan", operations.atan)
_unary("Sinh", operations.sinh)
_unary("Cosh", operations.cosh)
_unary("Tanh", tanh)
_unary("Asinh", operations.asinh)
_unary("Acosh", operations.acosh)
_unary("Atanh", operations.atanh)
_unary("Erf", operations.erf)
_unary("Sigmoid", sigmoid)
_unary("Softplus", softplus)
_unary("Softsign", lambda x: x / (absolute(x) + 1.0))
_unary("Reciprocal", lambda x: 1.0 / x)
_unary("Floor", operations.floor, np.floor)
_unary("Ceil", operations.ceil, np.ceil)
_unary("Round", operations.rint, np.rint)
_unary("Sign", sign, np.sign, integers=True)
_unary("Abs", absolute, np.abs, integers=True)
_unary("Identity", lambda x: x, integers=True)
_unary("Relu", lambda x: activations.select("relu").declaration.build(x), integers=True)
_unary("Not", lambda x: 1.0 - x, np.logical_not, result=BOOL, integers=True)


@operator("Neg", fold=np.negative, integers=True)
def neg(call: Call, x: Value) -> Node:
    """Build Neg: return -x."""
    return wrapped(call, -call.x(x), x.dtype)


@operator("IsNaN", result=BOOL)
def is_nan(call: Call, x: Value) -> Node:
    """Build IsNaN: return 1 where x is NaN, else 0."""
    node = call.x(x)
    return 1.0 - greater_equal(node, node)


@operator("IsInf", result=BOOL)
def is_inf(call: Call, x: Value) -> Node:
    """Build IsInf: return 1 where x is infinite with a sign that the attributes select, else 0."""
    node = call.x(x)
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    largest = float(np.finfo(node.graph.dtype).max)
    found = greater(node, largest) if positive else full(call.graph, 0.0, node.shape)
    if negative:
        below = greater(-node, largest)
        found = maximum(found, below) if positive else below
    return where(1.0 - greater_equal(node, node), 0.0, found)


def _activation(name: str, target: str, **options: tuple[str, float]) -> None:
    """Declare an operator that is an activation of the catalogue.

    `options` gives, for each option of the catalogue, the attribute of ONNX and its default.
    """

    @operator(name)
    def build(call: Call, x: Value) -> Node:
        """Return the activation of x."""
        given = {own: call.number(attribute, default) for own, (attribute, default) in options.items()}
        made: Node = activations.select(target).declaration.build(
            call.x(x), **(dict(activations.select(target).options) | given)
        )
        return made


_activation("Elu", "elu", alpha=("alpha", 1.0))
_activation("LeakyRelu", "leaky_relu", alpha=("alpha", 0.01))
_activation("HardSwish", "hardswish")
_activation("Mish", "mish")


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Value) -> Node:
    """Build HardSigmoid: return alpha · x + beta, limited to the range from 0 to 1."""
    return clip(call.number("alpha", 0.2) * call.x(x) + call.number("beta", 0.5), 0.0, 1.0)


@operator("Selu")
def selu(call: Call, x: Value) -> Node:
    """Build Selu: return the scaled exponential linear unit of x."""
    alpha, gamma = call.number("alpha", 1.6732632423543772), call.number("gamma", 1.0507009873554805)
    return gamma * _elu(call.x(x), alpha)


@operator("Celu")
def celu(call: Call, x: Value) -> Node:
    """Build Celu: return the continuously differentiable exponential linear unit of x."""
    alpha = call.number("alpha", 1.0)
    node = call.x(x)
    is_positive = greater(node, 0.0)
    return where(is_positive, node, alpha * expm1(where(is_positive, 0.0, node) / alpha))


def _elu(x: Node, alpha: float) -> Node:
    """Return x where positive, else alpha · (exp(x) - 1)."""
    is_positive = greater(x, 0.0)
    return where(is_positive, x, alpha * expm1(where(is_positive, 0.0, x)))


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Value) -> Node:
    """Build ThresholdedRelu: return x where above alpha, else 0."""
    node = call.x(x)
    return where(greater(node, call.number("alpha", 1.0)), node, 0.0)


@operator("Shrink", integers=True)
def shrink(call: Call, x: Value) -> Node:
    """Build Shrink: return x moved towards 0 by `bias` beyond `lambd`, and 0 within."""
    node, bound, bias = call.x(x), call.number("lambd", 0.5), call.number("bias")
    return where(greater(-node, bound), node + bias, where(greater(node, bound), node - bias, 0.0))


@operator("Gelu")
def gelu(call: Call, x: Value) -> Node:
    """Build Gelu: return the Gaussian error linear unit of x."""
    name = "gelu_tanh" if call.word("approximate", "none") == "tanh" else "gelu"
    made: Node = activations.select(name).declaration.build(call.x(x), **activations.select(name).options)
    return made


@operator("Swish")
def swish(call: Call, x: Value) -> Node:
    """Build Swish: return x · sigmoid(alpha · x)."""
    node, alpha = call.x(x), call.number("alpha", 1.0)
    return node * sigmoid(alpha * node)


@operator("PRelu")
def prelu(call: Call, x: Value, slope: Value) -> Node:
    """Build PRelu: return x where positive, else x times a slope."""
    slopes = call.x(slope)
    if call.version < 7 and len(slopes.shape) == 1 and slopes.size > 1:
        slopes = reshape(slopes, (slopes.size, *[1] * (len(x.shape) - 2)))
    return elementwise(lambda a, b: where(greater(a, 0.0), a, a * b), call.x(x), slopes)


@operator("Clip", since=1)
def clip_by_attributes(call: Call, x: Value) -> Node:
    """Build Clip before opset 11: return x limited to the attributes `min` and `max`."""
    node = call.x(x)
    low, high = call.attr("min"), call.attr("max")
    node = node if low is None else maximum(node, float(low))
    return node if high is None else minimum(node, float(high))


@operator("Clip", since=11, integers=True)
def clip_by_inputs(call: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Node:
    """Build Clip since opset 11: return x limited to `low` and `high`."""
    node = call.x(x)
    node = node if low is None else elementwise(maximum, node, call.x(low))
    return node if high is None else elementwise(minimum, node, call.x(high))


def _fold_cast(call: Call, x: Array) -> Array:
    """Compute a Cast of a known array."""
    return _cast_array(x, dtype_of(call.integer("to", 1)))


def _cast_array(x: Array, dtype: str) -> Array:
    """Return a known array in another element type; floats are kept in double precision."""
    return x.astype("float64" if dtype in ("float32", "float64") else dtype)


@operator("Cast", fold=_fold_cast, integers=True)
def cast(call: Call, x: Value) -> Value:
    """Build Cast: return x in the element type of the attribute `to`."""
    return _as_type(call, x, dtype_of(call.integer("to", 1)))


@operator("CastLike", integers=True)
def cast_like(call: Call, x: Value, target: Value) -> Value:
    """Build CastLike: return x in the element type of `target`."""
    if x.array is not None:
        return Value(_cast_array(x.array, target.dtype))
    return _as_type(call, x, target.dtype)


def _as_type(call: Call, x: Value, dtype: str) -> Value:
    """Return a value in another element type, with the rounding and wrapping of a cast."""
    if dtype == x.dtype:
        return Value(None, x.node, dtype)
    node = call.x(x)
    if is_float(dtype):  # casts between types of floats do not round here
        return Value(None, node, dtype)
    if dtype == "bool":
        return Value(None, 1.0 - _equal(node, node.graph.constant(0.0)), dtype)
    if x.is_float:
        node = where(greater_equal(node, 0.0), operations.floor(node), operations.ceil(node))
    return Value(None, wrapped(call, node, dtype), dtype)


# --- two inputs and more ------------------------------------------------------------------------


def _placed(call: Call, a: Value, b: Value) -> Node:
    """Return the second operand, shaped for broadcasting with the first.

    Before opset 7 an attribute names the axis of the first operand at which the axes of the second begin.
    """
    node = call.x(b)
    axis = call.attr("axis") if call.version < 7 and call.integer("broadcast") else None
    if axis is None:
        return node
    behind = len(a.shape) - axis_of(int(axis), len(a.shape)) - len(b.shape)
    return reshape(node, (*b.shape, *[1] * max(0, behind)))


def _binary(name: str, function: Callable[[Node, Node], Node], fold: Any, **details: Any) -> None:
    """Declare an arithmetic operator of two broadcast inputs."""

    @operator(name, fold=fold, integers=True, **details)
    def build(call: Call, a: Value, b: Value) -> Node:
        """Return the function of two broadcast inputs."""
        return wrapped(call, elementwise(function, call.x(a), _placed(call, a, b)), a.dtype)


_binary("Add", lambda a, b: a + b, np.add)
_binary("Sub", lambda a, b: a - b, np.subtract)
_binary("Mul", lambda a, b: a * b, np.multiply)


def truncated(x: Node) -> Node:
    """Return x rounded towards 0."""
    return where(greater_equal(x, 0.0), operations.floor(x), operations.ceil(x))


def _fold_division(call: Call, a: Array, b: Array) -> Array:
    """Compute a Div of known arrays. Integer quotients are rounded towards 0."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if not np.all(b):
        call.refuse("divides integers by 0")
    quotient = np.asarray(np.floor_divide(a, b))
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)), a.dtype)


@operator("Div", fold=_fold_division, integers=True)
def divide(call: Call, a: Value, b: Value) -> Node:
    """Build Div: return a / b, rounded towards 0 for integers."""
    quotient = elementwise(lambda x, y: x / y, call.x(a), _placed(call, a, b))
    return truncated(quotient) if _is_integer(a) else quotient


@operator("Pow", integers=True)
def power(call: Call, a: Value, b: Value) -> Node:
    """Build Pow: return a to the power b."""
    if not a.is_float:
        found = elementwise(operations.power, call.x(a), call.x(b))
        # Above 2⁵³, or 2²⁴ in float32, some integers are not floats.
        is_exact = greater_equal(largest_whole(call.graph) - absolute(found), 0.0)
        return wrapped(call, where(is_exact, truncated(found), math.nan), a.dtype)
    exponent = b.array
    if exponent is not None and exponent.size == 1:
        value = float(exponent.reshape(()))
        x = call.x(a)
        simple = _simple_power(x, value)
        if simple is not None:
            return elementwise(lambda each, _: each, simple, call.x(b)) if len(b.shape) > len(a.shape) else simple
    return elementwise(operations.power, call.x(a), call.x(b))


def _simple_power(x: Node, exponent: float) -> Node | None:
    """Return x to an exponent that needs no power operation, or None for any other exponent."""
    if exponent == 2.0:
        return square(x)
    if exponent == 1.0:
        return x
    if exponent == 0.5:
        return sqrt(x)
    if exponent == -1.0:
        return 1.0 / x
    return x * square(x) if exponent == 3.0 else None


@operator("Mod", integers=True)
def modulo(call: Call, a: Value, b: Value) -> Node:
    """Build Mod: return the remainder, with the sign of the divisor, or of the dividend with `fmod`."""
    x, y = aligned(call.x(a), call.x(b))
    if call.integer("fmod"):
        # The remainder has the sign of the dividend.
        rest = elementwise(operations.mod, absolute(x), absolute(y))
        return elementwise(lambda r, s: where(greater_equal(s, 0.0), r, -r), rest, x)
    return elementwise(operations.mod, x, y)


def _several(name: str, function: Callable[[list[Node]], Node]) -> None:
    """Declare an operator that combines any number of broadcast inputs."""

    @operator(name, integers=True)
    def build(call: Call, *values: Value) -> Node:
        """Return the function of all inputs after broadcasting."""
        if not values:
            call.refuse("needs at least one input")
        shape_nodes = aligned(*(call.x(each) for each in values))
        return elementwise(lambda *nodes: function(list(nodes)), *shape_nodes)


_several("Max", lambda nodes: extreme("maximum", _of_one_shape(nodes)))
_several("Min", lambda nodes: extreme("minimum", _of_one_shape(nodes)))
_several("Sum", lambda nodes: reduce(lambda a, b: a + b, nodes))
_several("Mean", lambda nodes: reduce(lambda a, b: a + b, nodes) / float(len(nodes)))


def _of_one_shape(nodes: list[Node]) -> list[Node]:
    """Return nodes broadcast to the shape of the one with most axes."""
    from service.engine.graph.operations import broadcast

    shape = max((x.shape for x in nodes), key=len)
    return [x if x.shape == shape else broadcast(x, shape) for x in nodes]


def _equal(a: Node, b: Node) -> Node:
    """Return 1 where a equals b, else 0."""
    return greater_equal(a, b) * greater_equal(b, a)


def _comparison(name: str, function: Callable[[Node, Node], Node], fold: Any) -> None:
    """Declare an operator that compares two broadcast inputs and gives truth values."""

    @operator(name, fold=fold, result=BOOL, integers=True)
    def build(call: Call, a: Value, b: Value) -> Node:
        """Return 1 where the comparison holds, else 0."""
        return elementwise(function, call.x(a), call.x(b))


_comparison("Equal", _equal, np.equal)
_comparison("Greater", greater, np.greater)
_comparison("GreaterOrEqual", greater_equal, np.greater_equal)
_comparison("Less", lambda a, b: greater(b, a), np.less)
_comparison("LessOrEqual", lambda a, b: greater_equal(b, a), np.less_equal)
_comparison("And", lambda a, b: a * b, np.logical_and)
_comparison("Or", maximum, np.logical_or)
_comparison("Xor", lambda a, b: absolute(a - b), np.logical_xor)


@operator("Where", fold=lambda call, c, a, b: np.where(c, a, b), integers=True)
def choose(call: Call, condition: Value, a: Value, b: Value) -> Value:
    """Build Where: return a where the condition holds, else b."""
    node = elementwise(where, call.x(condition), call.x(a), call.x(b))
    return Value(None, node, a.dtype)
