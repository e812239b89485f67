"""Trigonometric and hyperbolic functions, their inverses, and lengths in the plane.

The derivatives of inverse functions are written with products such as (1 - x)(1 + x), which keep their digits where
1 - x² loses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.graph.operations.arithmetic import square
from service.engine.graph.operations.declared import with_slope
from service.engine.graph.operations.elementwise import Binary, Unary, binary, unary
from service.engine.graph.operations.powers import sqrt
from service.engine.graph.operations.signs import always

__all__ = ["acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "hypot", "sin", "sinh", "tan"]


def _one_minus_square(x: Node) -> Node:
    return with_slope(x, (1.0 - x) * (1.0 + x), -2.0 * x)


sin = unary("sin", np.sin, lambda g, y, x: g * cos(x), r"\sin x", work=12)
cos: Unary = unary("cos", np.cos, lambda g, y, x: -(g * sin(x)), r"\cos x", work=12)
tan = unary("tan", np.tan, lambda g, y, x: g * (1.0 + square(y)), r"\tan x", work=16)
asin = unary("asin", np.arcsin, lambda g, y, x: g / sqrt(_one_minus_square(x)), r"\arcsin x", singular=always, work=16)
acos = unary(
    "acos", np.arccos, lambda g, y, x: -(g / sqrt(_one_minus_square(x))), r"\arccos x", singular=always, work=16
)
atan = unary("atan", np.arctan, lambda g, y, x: g / (1.0 + square(x)), r"\arctan x", work=16)
sinh = unary("sinh", np.sinh, lambda g, y, x: g * cosh(x), r"\sinh x", singular=always, work=12)
cosh: Unary = unary("cosh", np.cosh, lambda g, y, x: g * sinh(x), r"\cosh x", singular=always, work=12)
asinh = unary("asinh", np.arcsinh, lambda g, y, x: g / sqrt(1.0 + square(x)), r"\operatorname{arsinh} x", work=16)
acosh = unary(
    "acosh",
    np.arccosh,
    lambda g, y, x: g / sqrt((x - 1.0) * (x + 1.0)),
    r"\operatorname{arcosh} x",
    singular=always,
    work=16,
)
atanh = unary(
    "atanh", np.arctanh, lambda g, y, x: g / _one_minus_square(x), r"\operatorname{artanh} x", singular=always, work=16
)


def _atan2_kernel(a: Array, b: Array, out: Array) -> None:
    # Adding 0 makes 0 of -0: the angle of (-1, -0), where -0 came of 0 / -1, is π and not -π.
    np.add(a, 0.0, out)
    np.arctan2(out, b, out)


def _continue_atan2(a: Array, b: Array) -> Any:
    # The logarithm of b + ia has the angle as its imaginary part; a change of the angle is Im(d(b + ia) / (b + ia)).
    change = (b.real * a.imag - a.real * b.imag) / (a.real**2 + b.real**2)
    return np.arctan2(a.real + 0.0, b.real) + 1j * change


atan2 = binary(
    "atan2",
    _atan2_kernel,
    lambda g, y, a, b: g * (b / hypot(a, b) / hypot(a, b)),
    lambda g, y, a, b: -(g * (a / hypot(a, b) / hypot(a, b))),
    r"\operatorname{atan2}(a, b)",
    singular=always,
    in_place=False,
    work=24,
    numpy="np.arctan2(a + 0.0, b)",
    continuation=_continue_atan2,
)
"""The angle of the point (b, a)."""


def _share(a: Node, b: Node, length: Node) -> Node:
    """Return a / hypot(a, b), the cosine of the angle atan2(b, a), with the derivative of the cosine."""
    return with_slope(atan2(b, a), a / length, -(b / length))


def _continue_hypot(a: Array, b: Array) -> Any:
    size = np.maximum(np.maximum(np.abs(a.real), np.abs(b.real)), np.finfo(np.float64).tiny)
    return size * np.sqrt((a / size) ** 2 + (b / size) ** 2 + 0j)


hypot: Binary = binary(
    "hypot",
    np.hypot,
    lambda g, y, a, b: g * _share(a, b, y),
    lambda g, y, a, b: g * _share(b, a, y),
    r"\sqrt{a^2 + b^2}",
    singular=always,
    work=8,
    continuation=_continue_hypot,
)
"""The length of (a, b), without overflow on the way."""
