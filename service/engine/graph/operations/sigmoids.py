"""Sigmoids: tanh, the logistic function and their relatives. Slopes keep their digits in saturation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Node
from service.engine.graph.operations.arithmetic import square
from service.engine.graph.operations.elementwise import unary
from service.engine.graph.operations.rows import operand, scalar
from service.engine.graph.special import tanh_shrink as tanh_shrink_kernel

__all__ = ["logistic_slope", "quick_sigmoid", "quick_tanh", "sigmoid", "softplus", "tanh", "tanh_shrink", "tanh_slope"]

QUICK = ("quick",)
"""The attribute of a tanh or sigmoid whose slope is computed from its value, without digits in saturation."""


def _pull_tanh(g: Node, y: Node, x: Node) -> Node:
    return g * (1.0 - square(y)) if y.attributes == QUICK else g * tanh_slope(x)


tanh = unary("tanh", np.tanh, _pull_tanh, r"\tanh x", work=8, attribute_names=("slope",))


def quick_tanh(x: Node) -> Node:
    """Return tanh x with the slope 1 - y², as other programs compute it: quick, without digits in saturation."""
    return x.graph.apply("tanh", x, attributes=QUICK)


def _bind_tanh_slope(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # 1 / cosh² x: of 1 - tanh² x nothing is left where tanh x is close to 1.
    return (partial(np.cosh, inputs[0], out), partial(np.square, out, out), partial(np.reciprocal, out, out))


tanh_slope = unary(
    "tanh_slope",
    np.cosh,
    lambda g, y, x: g * (-2.0 * (tanh(x) * y)),
    r"1 - \tanh^2 x",
    bind=_bind_tanh_slope,
    work=12,
    numpy="1 / np.square(np.cosh(a))",
    continuation=lambda x: 4.0 * _continue_logistic_slope(2.0 * x),
)


def _continue_tanh_shrink(x: Array) -> Any:
    real = x.real
    return real - np.tanh(real) + 1j * (x.imag * np.tanh(real) ** 2)


tanh_shrink = unary(
    "tanh_shrink",
    tanh_shrink_kernel,
    lambda g, y, x: g * square(tanh(x)),
    r"x - \tanh x",
    in_place=False,
    work=40,
    numpy="a - np.tanh(a)",
    continuation=_continue_tanh_shrink,
)


def _bind_sigmoid(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # 1 / (1 + exp(-x)) keeps full relative accuracy for x << 0, which the tanh form loses;
    # exp overflows to infinity there, and 1 / infinity is the right answer.
    return (
        partial(np.negative, inputs[0], out),
        partial(np.exp, out, out),
        partial(np.add, out, operand(1.0, out), out),
        partial(np.reciprocal, out, out),
    )


def _pull_sigmoid(g: Node, y: Node, x: Node) -> Node:
    return g * (y * (1.0 - y)) if y.attributes == QUICK else g * logistic_slope(x)


def _continue_sigmoid(x: Array) -> Any:
    small = np.exp(np.where(x.real < 0.0, x, -x))  # never overflows
    return np.where(x.real < 0.0, small, 1.0) / (1.0 + small)


sigmoid = unary(
    "sigmoid",
    np.exp,
    _pull_sigmoid,
    r"\sigma(x)",
    bind=_bind_sigmoid,
    work=12,
    numpy="1 / (1 + np.exp(-a))",
    attribute_names=("slope",),
    continuation=_continue_sigmoid,
)


def quick_sigmoid(x: Node) -> Node:
    """Return the logistic function with the slope y (1 - y): quick, without digits in saturation."""
    return x.graph.apply("sigmoid", x, attributes=QUICK)


def _bind_logistic_slope(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    # σ(x) σ(-x) = ½ / (1 + cosh x). From σ(x) alone nothing is left of 1 - σ(x) where it is close to 1.
    return (
        partial(np.cosh, inputs[0], out),
        partial(np.add, out, operand(1.0, out), out),
        partial(np.divide, operand(0.5, out), out, out),
    )


def _continue_logistic_slope(x: Array) -> Any:
    return _continue_sigmoid(x) * _continue_sigmoid(-x)


logistic_slope = unary(
    "logistic_slope",
    np.cosh,
    lambda g, y, x: g * -(tanh(0.5 * x) * y),
    r"\sigma(x)\,(1 - \sigma(x))",
    bind=_bind_logistic_slope,
    work=12,
    numpy="0.5 / (1 + np.cosh(a))",
    continuation=_continue_logistic_slope,
)


def _bind_softplus(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    # max(x, 0) + log1p(exp(-|x|)): np.logaddexp is six times slower.
    (x,), (positive,) = inputs, scratch
    return (
        partial(np.absolute, x, out),
        partial(np.negative, out, out),
        partial(np.exp, out, out),
        partial(np.log1p, out, out),
        partial(np.maximum, x, scalar(0.0, out.dtype.str), out=positive),
        partial(np.add, out, positive, out),
    )


softplus = unary(
    "softplus",
    np.exp,
    lambda g, y, x: g * sigmoid(x),
    r"\ln(1 + e^x)",
    bind=_bind_softplus,
    in_place=False,
    scratch=lambda node: (node.shape,),
    work=24,
    numpy="np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0)",
    continuation=lambda x: np.where(x.real < 0.0, 0.0, x) + np.log1p(np.exp(np.where(x.real < 0.0, x, -x))),
)
