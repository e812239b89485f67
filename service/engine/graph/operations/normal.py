"""The error functions, and the normal distribution. `service/engine/graph/special.py` has their kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import special
from service.engine.graph.ir import Attributes, Node
from service.engine.graph.operations.declared import with_slope
from service.engine.graph.operations.elementwise import Unary, unary

__all__ = ["erf", "erfc", "gaussian", "normal_cdf", "normal_density"]

TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)


def _first_order(kernel: Callable[[Array, Array], object], x: Array, slope: Array) -> Array:
    """f(x) + i y f'(x) for x + iy."""
    real = np.ascontiguousarray(x.real)
    value = np.empty_like(real)
    kernel(real, value)
    return value + 1j * (x.imag * slope)


def _continue_erf(inputs: Sequence[Array], _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(special.erf, x, TWO_OVER_ROOT_PI * np.exp(-(x.real**2)))


erf = unary(
    "erf",
    special.erf,
    lambda g, y, x: g * (TWO_OVER_ROOT_PI * gaussian(x)),
    r"\operatorname{erf} x",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erf, [float])(a)",
    continuation=_continue_erf,
)


def _continue_erfc(inputs: Sequence[Array], _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(special.erfc, x, -TWO_OVER_ROOT_PI * np.exp(-(x.real**2)))


erfc = unary(
    "erfc",
    special.erfc,
    lambda g, y, x: g * (-TWO_OVER_ROOT_PI * gaussian(x)),
    r"\operatorname{erfc}(x)",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(a)",
    continuation=_continue_erfc,
)


def _pull_gaussian(g: Node, y: Node, x: Node) -> Node:
    # (4x² - 2) y as a product keeps its digits beside its zeros. It begins with y, so that nothing overflows.
    root = math.sqrt(0.5)
    return g * with_slope(x, -2.0 * (y * x), 4.0 * (y * (x - root) * (x + root)))


def _continue_gaussian(inputs: Sequence[Array], _: Attributes) -> Any:
    return np.exp(-(inputs[0] ** 2))


gaussian: Unary = unary(
    "gaussian",
    special.gaussian,
    _pull_gaussian,
    "e^{-x^2}",
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a))",
    continuation=_continue_gaussian,
)


def _continue_normal_cdf(inputs: Sequence[Array], _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(special.normal_cdf, x, np.exp(-0.5 * x.real**2) / math.sqrt(2.0 * math.pi))


normal_cdf = unary(
    "normal_cdf",
    special.normal_cdf,
    lambda g, y, x: g * normal_density(x),
    r"\Phi(x)",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(-a * 0.5**0.5) / 2",
    continuation=_continue_normal_cdf,
)


def _continue_normal_density(inputs: Sequence[Array], _: Attributes) -> Any:
    return np.exp(-0.5 * inputs[0] ** 2) / math.sqrt(2.0 * math.pi)


normal_density: Unary = unary(
    "normal_density",
    special.normal_density,
    lambda g, y, x: g * with_slope(x, -(y * x), y * (x - 1.0) * (x + 1.0)),
    r"\varphi(x)",
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a) / 2) / (2 * np.pi) ** 0.5",
    continuation=_continue_normal_density,
)
