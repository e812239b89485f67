"""Rows of the table for functions of calculus that few networks need.

Kernels are NumPy's own where it has them. The derivatives of inverse functions are written with
products such as (1 - x)(1 + x), which keep their digits where 1 - x² loses them. Slopes are declared
where the chain rule, applied once more, would subtract nearly equal numbers.
"""

from __future__ import annotations

import math

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import continuations
from service.engine.graph.ir import Node, Smoothness
from service.engine.graph.operations import (
    TWO_OVER_ROOT_PI,
    always,
    declare_elementwise,
    gaussian,
    sqrt,
    square,
    tanh,
    unary,
    with_slope,
    zero,
)
from service.engine.graph.special import erf as erf_kernel
from service.engine.graph.special import normal_cdf as normal_cdf_kernel
from service.engine.graph.special import normal_density as normal_density_kernel
from service.engine.graph.special import tanh_shrink as tanh_shrink_kernel
from service.engine.graph.special import xlogy as xlogy_kernel

LN_2 = math.log(2.0)
LN_10 = math.log(10.0)

sin = unary("sin")
cos = unary("cos")
tan = unary("tan")
asin = unary("asin")
acos = unary("acos")
atan = unary("atan")
sinh = unary("sinh")
cosh = unary("cosh")
asinh = unary("asinh")
acosh = unary("acosh")
atanh = unary("atanh")
log2 = unary("log2")
log10 = unary("log10")
cbrt = unary("cbrt")
erf = unary("erf")
normal_cdf = unary("normal_cdf")
normal_density = unary("normal_density")
tanh_shrink = unary("tanh_shrink")
floor = unary("floor")
ceil = unary("ceil")
rint = unary("round")


def atan2(a: Node, b: Node) -> Node:
    """The angle of the point (b, a)."""
    return a.graph.apply("atan2", a, b)


def hypot(a: Node, b: Node) -> Node:
    """The length of (a, b), without overflow on the way."""
    return a.graph.apply("hypot", a, b)


def mod(a: Node, b: Node) -> Node:
    """The remainder of a divided by b, exact; it has the sign of b."""
    return a.graph.apply("mod", a, b)


def power(a: Node, b: Node) -> Node:
    """a to the b; of a negative a only integer powers are real."""
    return a.graph.apply("power", a, b)


def xlogy(a: Node, b: Node) -> Node:
    """a · ln b, and 0 wherever a is 0."""
    return a.graph.apply("xlogy", a, b)


def _one_minus_square(x: Node) -> Node:
    return with_slope(x, (1.0 - x) * (1.0 + x), -2.0 * x)


def _arc_cosine_slope(g: Node, y: Node, x: Node) -> Node:
    return -(g / sqrt(_one_minus_square(x)))


def _share(a: Node, b: Node, length: Node) -> Node:
    """a / hypot(a, b): the cosine of an angle, and its slope by a or b is that by the angle."""
    return with_slope(atan2(b, a), a / length, -(b / length))


def _mod_slope_by_divisor(g: Node, y: Node, a: Node, b: Node) -> Node:
    # Rounded, for what is a whole number is not always one after the division.
    return -(g * rint((a - y) / b))


def _angle_kernel(a: Array, b: Array, out: Array) -> None:
    # -0, which 0/x is for a negative x, is 0: the angle of (-1, 0) is π.
    np.add(a, 0.0, out)
    np.arctan2(out, b, out)


SMOOTH, KINKED, STEPPED = Smoothness.SMOOTH, Smoothness.KINKED, Smoothness.STEPPED

declare_elementwise("sin", np.sin, (lambda g, y, x: g * cos(x),), r"\sin x", work=12)
declare_elementwise("cos", np.cos, (lambda g, y, x: -(g * sin(x)),), r"\cos x", work=12)
declare_elementwise("tan", np.tan, (lambda g, y, x: g * (1.0 + square(y)),), r"\tan x", work=16)
declare_elementwise(
    "asin", np.arcsin, (lambda g, y, x: g / sqrt(_one_minus_square(x)),), r"\arcsin x", singular=always, work=16
)
declare_elementwise("acos", np.arccos, (_arc_cosine_slope,), r"\arccos x", singular=always, work=16)
declare_elementwise("atan", np.arctan, (lambda g, y, x: g / (1.0 + square(x)),), r"\arctan x", work=16)
declare_elementwise(
    "atan2",
    _angle_kernel,
    (
        lambda g, y, a, b: g * (b / hypot(a, b) / hypot(a, b)),
        lambda g, y, a, b: -(g * (a / hypot(a, b) / hypot(a, b))),
    ),
    r"\operatorname{atan2}(a, b)",
    SMOOTH,
    singular=always,
    in_place=False,
    work=24,
    numpy="np.arctan2(a + 0.0, b)",
    continuation=continuations.atan2,
)
declare_elementwise("sinh", np.sinh, (lambda g, y, x: g * cosh(x),), r"\sinh x", singular=always, work=12)
declare_elementwise("cosh", np.cosh, (lambda g, y, x: g * sinh(x),), r"\cosh x", singular=always, work=12)
declare_elementwise(
    "asinh", np.arcsinh, (lambda g, y, x: g / sqrt(1.0 + square(x)),), r"\operatorname{arsinh} x", work=16
)
declare_elementwise(
    "acosh",
    np.arccosh,
    (lambda g, y, x: g / sqrt((x - 1.0) * (x + 1.0)),),
    r"\operatorname{arcosh} x",
    singular=always,
    work=16,
)
declare_elementwise(
    "atanh",
    np.arctanh,
    (lambda g, y, x: g / _one_minus_square(x),),
    r"\operatorname{artanh} x",
    singular=always,
    work=16,
)
declare_elementwise(
    "hypot",
    np.hypot,
    (lambda g, y, a, b: g * _share(a, b, y), lambda g, y, a, b: g * _share(b, a, y)),
    r"\sqrt{a^2 + b^2}",
    SMOOTH,
    singular=always,
    work=8,
    continuation=continuations.hypot,
)
declare_elementwise(
    "mod",
    np.mod,
    (lambda g, y, a, b: g, _mod_slope_by_divisor),
    r"a \bmod b",
    KINKED,
    singular=always,
    work=24,
    numpy="np.mod(a, b)",
    branch=continuations.quotient,
    continuation=continuations.mod,
)
declare_elementwise("log2", np.log2, (lambda g, y, x: g / (LN_2 * x),), r"\log_2 x", singular=always, work=8)
declare_elementwise("log10", np.log10, (lambda g, y, x: g / (LN_10 * x),), r"\log_{10} x", singular=always, work=8)
declare_elementwise(
    "cbrt",
    np.cbrt,
    (lambda g, y, x: g / (3.0 * square(y)),),
    r"\sqrt[3]{x}",
    SMOOTH,
    singular=always,
    work=16,
    continuation=continuations.cbrt,
)
declare_elementwise(
    "power",
    np.power,
    (lambda g, y, a, b: g * (b * power(a, b - 1.0)), lambda g, y, a, b: g * xlogy(y, a)),
    "a^b",
    singular=always,
    work=40,
    continuation=continuations.power,
)
declare_elementwise(
    "xlogy",
    xlogy_kernel,
    (lambda g, y, a, b: xlogy(g, b), lambda g, y, a, b: g * (a / b)),
    r"a \ln b",
    in_place=False,
    singular=always,
    work=10,
    numpy="np.where(a == 0, 0, a * np.log(b))",
    continuation=continuations.xlogy,
)
declare_elementwise(
    "erf",
    erf_kernel,
    (lambda g, y, x: g * (TWO_OVER_ROOT_PI * gaussian(x)),),
    r"\operatorname{erf} x",
    SMOOTH,
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erf, [float])(a)",
    continuation=continuations.erf,
)
declare_elementwise(
    "normal_cdf",
    normal_cdf_kernel,
    (lambda g, y, x: g * normal_density(x),),
    r"\Phi(x)",
    SMOOTH,
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(-a * 0.5**0.5) / 2",
    continuation=continuations.normal_cdf,
)
declare_elementwise(
    "normal_density",
    normal_density_kernel,
    (lambda g, y, x: g * with_slope(x, -(y * x), y * (x - 1.0) * (x + 1.0)),),
    r"\varphi(x)",
    SMOOTH,
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a) / 2) / (2 * np.pi) ** 0.5",
    continuation=continuations.normal_density,
)
declare_elementwise(
    "tanh_shrink",
    tanh_shrink_kernel,
    (lambda g, y, x: g * square(tanh(x)),),
    r"x - \tanh x",
    SMOOTH,
    in_place=False,
    work=40,
    numpy="a - np.tanh(a)",
    continuation=continuations.tanh_shrink,
)
declare_elementwise(
    "floor",
    np.floor,
    (zero,),
    r"\lfloor x \rfloor",
    STEPPED,
    branch=continuations.whole,
    continuation=continuations.constant(np.floor),
)
declare_elementwise(
    "ceil",
    np.ceil,
    (zero,),
    r"\lceil x \rceil",
    STEPPED,
    branch=continuations.whole,
    continuation=continuations.constant(np.ceil),
)
declare_elementwise(
    "round",
    np.rint,
    (zero,),
    r"\operatorname{round} x",
    STEPPED,
    branch=continuations.half,
    continuation=continuations.constant(np.rint),
)
