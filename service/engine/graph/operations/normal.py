"""The error functions, and the normal distribution. `service/engine/graph/special.py` has their kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import special
from service.engine.graph.ir import Node
from service.engine.graph.operations.declared import with_slope
from service.engine.graph.operations.elementwise import Unary, unary

__all__ = ["erf", "erfc", "gaussian", "normal_cdf", "normal_density"]

TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)


def _first_order(kernel: Callable[[Array, Array], object], x: Array, slope: Array) -> Array:
    """Return f(x) + i y f'(x) for complex x + iy: the continuation of a function with a real kernel."""
    real = np.ascontiguousarray(x.real)
    value = np.empty_like(real)
    kernel(real, value)
    return value + 1j * (x.imag * slope)


erf = unary(
    "erf",
    special.erf,
    lambda g, y, x: g * (TWO_OVER_ROOT_PI * gaussian(x)),
    r"\operatorname{erf} x",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erf, [float])(a)",
    continuation=lambda x: _first_order(special.erf, x, TWO_OVER_ROOT_PI * np.exp(-(x.real**2))),
)


erfc = unary(
    "erfc",
    special.erfc,
    lambda g, y, x: g * (-TWO_OVER_ROOT_PI * gaussian(x)),
    r"\operatorname{erfc}(x)",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(a)",
    continuation=lambda x: _first_order(special.erfc, x, -TWO_OVER_ROOT_PI * np.exp(-(x.real**2))),
)


def _pull_gaussian(g: Node, y: Node, x: Node) -> Node:
    # (4x² - 2) y as a product keeps its digits beside its zeros. It begins with y, so that nothing overflows.
    root = math.sqrt(0.5)
    return g * with_slope(x, -2.0 * (y * x), 4.0 * (y * (x - root) * (x + root)))


gaussian: Unary = unary(
    "gaussian",
    special.gaussian,
    _pull_gaussian,
    "e^{-x^2}",
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a))",
    continuation=lambda x: np.exp(-(x**2)),
)


normal_cdf = unary(
    "normal_cdf",
    special.normal_cdf,
    lambda g, y, x: g * normal_density(x),
    r"\Phi(x)",
    in_place=False,
    work=80,
    numpy="np.vectorize(math.erfc, [float])(-a * 0.5**0.5) / 2",
    continuation=lambda x: _first_order(special.normal_cdf, x, np.exp(-0.5 * x.real**2) / math.sqrt(2.0 * math.pi)),
)


normal_density: Unary = unary(
    "normal_density",
    special.normal_density,
    lambda g, y, x: g * with_slope(x, -(y * x), y * (x - 1.0) * (x + 1.0)),
    r"\varphi(x)",
    in_place=False,
    work=30,
    numpy="np.exp(-np.square(a) / 2) / (2 * np.pi) ** 0.5",
    continuation=lambda x: np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi),
)
