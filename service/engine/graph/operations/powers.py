"""Exponentials, logarithms, roots and powers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes
from service.engine.graph.operations.arithmetic import square
from service.engine.graph.operations.elementwise import Binary, binary, unary
from service.engine.graph.operations.signs import always, may_vanish
from service.engine.graph.special import xlogy as xlogy_kernel

__all__ = ["cbrt", "exp", "expm1", "log", "log1p", "log2", "log10", "power", "sqrt", "xlogy"]

LN_2 = math.log(2.0)
LN_10 = math.log(10.0)


exp = unary("exp", np.exp, lambda g, y, x: g * y, "e^x", singular=always, work=8)
expm1 = unary("expm1", np.expm1, lambda g, y, x: g * exp(x), "e^x - 1", singular=always, work=8)
log = unary("log", np.log, lambda g, y, x: g / x, r"\ln x", singular=may_vanish(0), work=8)
log1p = unary("log1p", np.log1p, lambda g, y, x: g / (x + 1.0), r"\ln(1 + x)", singular=always, work=8)
log2 = unary("log2", np.log2, lambda g, y, x: g / (LN_2 * x), r"\log_2 x", singular=always, work=8)
log10 = unary("log10", np.log10, lambda g, y, x: g / (LN_10 * x), r"\log_{10} x", singular=always, work=8)
sqrt = unary("sqrt", np.sqrt, lambda g, y, x: g / (2.0 * y), r"\sqrt{x}", singular=may_vanish(0), work=4)


def _continue_cbrt(inputs: Sequence[Array], _: Attributes) -> Any:
    (x,) = inputs
    root = np.cbrt(x.real)
    return root + 1j * (x.imag / (3.0 * root**2))


cbrt = unary(
    "cbrt",
    np.cbrt,
    lambda g, y, x: g / (3.0 * square(y)),
    r"\sqrt[3]{x}",
    singular=always,
    work=16,
    continuation=_continue_cbrt,
)


def _continue_power(inputs: Sequence[Array], _: Attributes) -> Any:
    a, b = inputs
    # Of a negative base only whole powers are real. Its logarithm has the imaginary part π, beside which h is lost.
    turned = (a.real < 0.0) & (b.real == np.rint(b.real))
    sign = np.where(turned & (np.mod(b.real, 2.0) == 1.0), -1.0, 1.0)
    base = np.where(turned, -a, a) + 0j
    return sign * np.where(b == 0.0, 1.0, base**b)


power: Binary = binary(
    "power",
    np.power,
    lambda g, y, a, b: g * (b * power(a, b - 1.0)),
    lambda g, y, a, b: g * xlogy(y, a),
    "a^b",
    singular=always,
    work=40,
    continuation=_continue_power,
)
"""a to the b; of a negative a only integer powers are real."""


def _continue_xlogy(inputs: Sequence[Array], _: Attributes) -> Any:
    a, b = inputs
    return np.where(a == 0.0, 0.0, a * np.log(b + 0j))


xlogy: Binary = binary(
    "xlogy",
    xlogy_kernel,
    lambda g, y, a, b: xlogy(g, b),
    lambda g, y, a, b: g * (a / b),
    r"a \ln b",
    in_place=False,
    singular=always,
    work=10,
    numpy="np.where(a == 0, 0, a * np.log(b))",
    continuation=_continue_xlogy,
)
"""a · ln b, and 0 wherever a is 0."""
