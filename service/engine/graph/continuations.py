"""Operations near real numbers: their values for complex inputs, and the branches that they take.

The complex step reads a derivative off one value: f(x + ih) = f(x) + ih f'(x) up to h², so that its imaginary part over
h has all digits, for nothing is subtracted (Squire, Trapp 1998). It needs no rule of differentiation, which makes it a
judge of those rules. A function with branches is continued along the branch that its real part takes. A function that a
rational approximation computes is continued by its definition, to first order in h.

Exactly between two branches a continuation follows the conventions of the table: |x|' is 0 at 0, ties share evenly.

A branch is an odd whole number for each element, and an even one exactly between two branches: at a kink or a jump.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.engine.graph.ir import Array, Attributes, Continuation
from service.engine.graph.special import erf as erf_kernel
from service.engine.graph.special import erfc as erfc_kernel
from service.engine.graph.special import normal_cdf as normal_cdf_kernel

Inputs = Sequence[Array]


def constant(function: Callable[..., Any]) -> Continuation:
    """The continuation of what is constant between jumps: the real part decides, and nothing is left of the rest."""

    def continued(inputs: Inputs, _: Attributes) -> Array:
        return np.asarray(function(*[x.real for x in inputs]), np.float64)

    return continued


def sigmoid(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    small = np.exp(np.where(x.real < 0.0, x, -x))  # never overflows
    return np.where(x.real < 0.0, small, 1.0) / (1.0 + small)


def logistic_slope(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return sigmoid((x,), ()) * sigmoid((-x,), ())


def tanh_slope(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return 4.0 * logistic_slope((2.0 * x,), ())


def softplus(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return np.where(x.real < 0.0, 0.0, x) + np.log1p(np.exp(np.where(x.real < 0.0, x, -x)))


def gaussian(inputs: Inputs, _: Attributes) -> Any:
    return np.exp(-(inputs[0] ** 2))


def normal_density(inputs: Inputs, _: Attributes) -> Any:
    return np.exp(-0.5 * inputs[0] ** 2) / math.sqrt(2.0 * math.pi)


def _first_order(kernel: Callable[[Array, Array], object], x: Array, slope: Array) -> Array:
    """f(x) + i y f'(x) for x + iy."""
    real = np.ascontiguousarray(x.real)
    value = np.empty_like(real)
    kernel(real, value)
    return value + 1j * (x.imag * slope)


def erf(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(erf_kernel, x, 2.0 / math.sqrt(math.pi) * np.exp(-(x.real**2)))


def erfc(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(erfc_kernel, x, -2.0 / math.sqrt(math.pi) * np.exp(-(x.real**2)))


def normal_cdf(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return _first_order(normal_cdf_kernel, x, np.exp(-0.5 * x.real**2) / math.sqrt(2.0 * math.pi))


def tanh_shrink(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    real = x.real
    return real - np.tanh(real) + 1j * (x.imag * np.tanh(real) ** 2)


def absolute(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return x * np.sign(x.real)


def maximum(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    return np.where(a.real == b.real, 0.5 * (a + b), np.where(a.real > b.real, a, b))


def minimum(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    return np.where(a.real == b.real, 0.5 * (a + b), np.where(a.real < b.real, a, b))


def gate(inputs: Inputs, _: Attributes) -> Any:
    mask, x = inputs
    return np.where(mask.real == 0.0, 0.0, x)


def where(inputs: Inputs, _: Attributes) -> Any:
    condition, a, b = inputs
    return np.where(condition.real == 0.0, b, a)


def weighted(inputs: Inputs, _: Attributes) -> Any:
    weight, x = inputs
    return np.where(weight == 0.0, 0.0, weight * x)


def xlogy(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    return np.where(a == 0.0, 0.0, a * np.log(b + 0j))


def cbrt(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    root = np.cbrt(x.real)
    return root + 1j * (x.imag / (3.0 * root**2))


def hypot(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    size = np.maximum(np.maximum(np.abs(a.real), np.abs(b.real)), np.finfo(np.float64).tiny)
    return size * np.sqrt((a / size) ** 2 + (b / size) ** 2 + 0j)


def atan2(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    # The logarithm of b + ia has the angle as its imaginary part; a change of the angle is Im(d(b + ia) / (b + ia)).
    change = (b.real * a.imag - a.real * b.imag) / (a.real**2 + b.real**2)
    return np.arctan2(a.real + 0.0, b.real) + 1j * change


def power(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    # Of a negative base only whole powers are real. Its logarithm has the imaginary part π, beside which h is lost.
    turned = (a.real < 0.0) & (b.real == np.rint(b.real))
    sign = np.where(turned & (np.mod(b.real, 2.0) == 1.0), -1.0, 1.0)
    base = np.where(turned, -a, a) + 0j
    return sign * np.where(b == 0.0, 1.0, base**b)


def mod(inputs: Inputs, _: Attributes) -> Any:
    a, b = inputs
    remainder = np.mod(a.real, b.real)
    whole = np.rint((a.real - remainder) / b.real)
    return remainder + 1j * (a.imag - b.imag * whole)


def row_maximum(inputs: Inputs, _: Attributes) -> Any:
    (x,) = inputs
    return np.take_along_axis(x, x.real.argmax(-1)[..., None], -1)[..., 0]


def row_excess(inputs: Inputs, _: Attributes) -> Any:
    _total, x = inputs
    whole = np.rint(x.real)
    return (x - whole).sum(-1) + (whole.sum(-1) - 1.0)


def balanced(inputs: Inputs, _: Attributes) -> Any:
    x, shares = inputs
    return x - shares * x.sum(-1, keepdims=True)


def root_mean_square(inputs: Inputs, attributes: Attributes) -> Any:
    (_squares, x), (axes, count, epsilon) = inputs, attributes
    size = np.abs(x.real).max(axes, keepdims=True)
    size = np.where(size > 0.0, size, 1.0)
    squares = ((x / size) ** 2).sum(axes) / count
    size = size.reshape(squares.shape)
    return size * np.sqrt(squares + epsilon / size / size + 0j)


def largest(inputs: Inputs, attributes: Attributes) -> Any:
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    return np.take_along_axis(rows, rows.real.argmax(0)[None], 0)[0]


def first_largest(inputs: Inputs, attributes: Attributes) -> Any:
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    chosen = np.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 1)) == rows.real.argmax(0)
    shape = [x.shape[axis] for axis in axes]
    return np.moveaxis(chosen.reshape(*shape, *rows.shape[1:]), range(len(axes)), axes).astype(np.float64)


def _rows(x: Array, axes: Sequence[int]) -> Array:
    """The elements that are chosen among, along the first axis."""
    moved = np.moveaxis(x, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


# --- branches -----------------------------------------------------------------------------------


def side(inputs: Inputs, _: Attributes) -> Any:
    """On which side of 0."""
    return np.sign(inputs[0])


def chosen(inputs: Inputs, _: Attributes) -> Any:
    """Which of two values a condition chooses: 1 or 0."""
    return (inputs[0].real != 0.0).astype(float)


def places_in_order(inputs: Inputs, attributes: Attributes) -> Any:
    """The place of each element of a row that is put in order."""
    (x,), (descending,) = inputs, attributes
    return np.argsort(-x.real if descending else x.real, axis=-1, kind="stable").astype(float)


def larger(inputs: Inputs, _: Attributes) -> Any:
    """Which of two is larger."""
    a, b = inputs
    return np.greater(a, b) * 1.0 - np.less(a, b)


def zero_length(inputs: Inputs, attributes: Attributes) -> Any:
    """Whether a length is 0, where it has a kink."""
    (squares, _x), (_axes, _count, epsilon) = inputs, attributes
    return np.sign(squares) if epsilon == 0.0 else np.ones_like(squares)


def whole(inputs: Inputs, _: Attributes) -> Any:
    """Between which whole numbers."""
    return np.floor(inputs[0]) + np.ceil(inputs[0])


def half(inputs: Inputs, _: Attributes) -> Any:
    """Between which halves of odd numbers."""
    return np.floor(inputs[0] + 0.5) + np.ceil(inputs[0] + 0.5)


def quotient(inputs: Inputs, _: Attributes) -> Any:
    """Between which whole numbers the quotient is."""
    a, b = inputs
    return np.floor(a / b) + np.ceil(a / b)


def place_of_largest(inputs: Inputs, attributes: Attributes) -> Any:
    """Which element is the largest."""
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    place = rows.argmax(0)
    alone = (rows == rows.max(0)).sum(0) == 1
    found: Array = 2.0 * place + alone
    return found
