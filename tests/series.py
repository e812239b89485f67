"""Numbers of many digits that know their first and second derivative along a line, and functions of them.

Each function states its own two derivatives, and none of the engine's pullbacks is used. A function of one number is
declared with `_unary`. See `reference.py`, which applies them to a graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import mp, mpf

ZERO, ONE, HALF = mpf(0), mpf(1), mpf("0.5")
INFINITY, NAN = mpf("inf"), mpf("nan")


# --- numbers with two derivatives ---------------------------------------------------------------


class Series:
    """A value with its first and second derivative along a line; constant along the line unless it `moves`."""

    __slots__ = ("first", "moves", "second", "value")

    def __init__(self, value: mpf, first: mpf = ZERO, second: mpf = ZERO, moves: bool = True) -> None:
        self.value, self.first, self.second, self.moves = value, first, second, moves

    @property
    def parts(self) -> tuple[mpf, mpf, mpf]:
        return self.value, self.first, self.second

    @property
    def vanishes(self) -> bool:
        """Return whether the number is 0 all along the line: a product with infinity then stays 0."""
        return not self.moves and not self.value

    def through(self, value: mpf, slope: mpf, curvature: mpf) -> Series:
        """Return a function of this number, given its value, slope and curvature here."""
        if not mp.isfinite(slope) or not mp.isfinite(curvature):
            return unknown(value)  # three terms do not tell how fast it leaves such a point
        return Series(value, slope * self.first, curvature * self.first * self.first + slope * self.second)

    def __neg__(self) -> Series:
        return Series(-self.value, -self.first, -self.second, self.moves)

    def __add__(self, other: Series) -> Series:
        moves = self.moves or other.moves
        return Series(self.value + other.value, self.first + other.first, self.second + other.second, moves)

    def __sub__(self, other: Series) -> Series:
        return self + -other

    def __mul__(self, other: Series) -> Series:
        value = self.value * other.value
        if self.vanishes or other.vanishes or not (self.moves or other.moves):
            return constant(value)
        first = self.first * other.value + self.value * other.first
        return Series(
            value, first, self.second * other.value + 2 * self.first * other.first + self.value * other.second
        )

    def __truediv__(self, other: Series) -> Series:
        value = _divided(self.value, other.value)
        if not (self.moves or other.moves) or (self.vanishes and other.value):
            return constant(value)
        if not other.value:
            return unknown(value)
        first = (self.first - value * other.first) / other.value
        return Series(value, first, (self.second - 2 * first * other.first - value * other.second) / other.value)

    def goes_above(self, other: Series) -> bool:
        """Return whether it is larger, here or, where the values are equal, a little further along the line."""
        return self.parts > other.parts


def constant(value: mpf) -> Series:
    return Series(value, moves=False)


def unknown(value: mpf) -> Series:
    """Return a value whose derivatives the chain rule does not find."""
    return Series(value, NAN, NAN)


def _divided(a: mpf, b: mpf) -> mpf:
    if b:
        return a / b
    return NAN if not a or mp.isnan(a) else a * INFINITY


def number(x: Any) -> mpf:
    """Return the exact mpf of a float, an integer or a text."""
    return mp.mpf(float(x)) if isinstance(x, (float, np.floating)) else mp.mpf(x)


# --- functions of one number --------------------------------------------------------------------

Function = Callable[[mpf], mpf]
FUNCTIONS: dict[str, tuple[Function, Function, Function]] = {}
"""Value, first and second derivative."""


def _real(function: Function) -> Function:
    """Return a function with NaN in place of complex numbers, and infinity at poles."""

    def evaluated(x: mpf) -> mpf:
        if mp.isnan(x):
            return NAN
        try:
            found = function(x)
        except ZeroDivisionError:
            return INFINITY
        return NAN if isinstance(found, mp.mpc) else found

    return evaluated


def _unary(name: str, value: Function, slope: Function, curvature: Function) -> None:
    FUNCTIONS[name] = (_real(value), _real(slope), _real(curvature))


LOWEST = mpf(-1_000_000)


def _exp(x: mpf) -> mpf:
    """Compute exp(max(x, LOWEST)): far below every float the size does not matter, and mpmath takes long for it."""
    return x if mp.isnan(x) else _power_of_e(max(x, LOWEST), mp.prec)


@functools.lru_cache(4)
def _power_of_e(x: mpf, precision: int) -> mpf:
    """Return exp(x), for which a function and its derivatives ask one after another."""
    return mp.exp(x)


def logistic(x: mpf) -> mpf:
    decay = _exp(-abs(x))
    return (ONE if x >= 0 else decay) / (ONE + decay)


def logistic_slope(x: mpf) -> mpf:
    return logistic(x) * logistic(-x)


def softplus(x: mpf) -> mpf:
    return max(x, ZERO) + mp.log1p(_exp(-abs(x)))


def bell(x: mpf) -> mpf:
    """Return the derivative of erf."""
    return 2 / mp.sqrt(mp.pi) * _exp(-x * x)


def _erfc(x: mpf) -> mpf:
    if abs(x) < 1_000:
        return mp.erfc(x)
    # mpmath is slow here, and fails beyond 1e150; these terms of the asymptotic series give 60 digits.
    tail, term = ONE, ONE
    for k in range(1, 12):
        term *= -(2 * k - 1) / (2 * x * x)
        tail += term
    positive = _exp(-x * x) / (abs(x) * mp.sqrt(mp.pi)) * tail
    return positive if x > 0 else 2 - positive


def density(x: mpf) -> mpf:
    """Compute the density of the normal distribution."""
    return _exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _logarithm(x: mpf) -> mpf:
    return mp.log(x) if x else -INFINITY


def _log1p(x: mpf) -> mpf:
    return mp.log1p(x) if x > -1 else _logarithm(x + 1)


def _tanh(x: mpf) -> mpf:
    return mp.sign(x) if mp.isinf(x) else mp.tanh(x)


def _sech2(x: mpf) -> mpf:
    return 4 * logistic_slope(2 * x)


def _cube_root(x: mpf) -> mpf:
    return mp.sign(x) * mp.cbrt(abs(x))


def _always(value: int) -> Function:
    return lambda x: mp.mpf(value)


def _step(function: Function) -> tuple[Function, Function, Function]:
    return function, _always(0), _always(0)


def _reciprocal(x: mpf) -> mpf:
    return ONE / x


def _minus_reciprocal_square(x: mpf) -> mpf:
    return -ONE / (x * x)


_unary("square", lambda x: x * x, lambda x: 2 * x, _always(2))
_unary("exp", _exp, _exp, _exp)
_unary("expm1", mp.expm1, _exp, _exp)
_unary("log", _logarithm, _reciprocal, _minus_reciprocal_square)
_unary("log1p", _log1p, lambda x: ONE / (1 + x), lambda x: -ONE / (1 + x) ** 2)
_unary("log2", lambda x: _logarithm(x) / mp.ln2, lambda x: ONE / (mp.ln2 * x), lambda x: -ONE / (mp.ln2 * x * x))
_unary("log10", lambda x: _logarithm(x) / mp.ln10, lambda x: ONE / (mp.ln10 * x), lambda x: -ONE / (mp.ln10 * x * x))
_unary("sqrt", mp.sqrt, lambda x: HALF / mp.sqrt(x), lambda x: -HALF / 2 / mp.sqrt(x) / x)
_unary("cbrt", _cube_root, lambda x: ONE / (3 * _cube_root(x) ** 2), lambda x: -ONE * 2 / (9 * _cube_root(x) ** 5))
_unary("tanh", _tanh, _sech2, lambda x: -2 * _tanh(x) * _sech2(x))
_unary("sigmoid", logistic, logistic_slope, lambda x: -logistic_slope(x) * _tanh(x / 2))
_unary("softplus", softplus, logistic, logistic_slope)
_unary("erf", lambda x: mp.sign(x) * (1 - _erfc(abs(x))) if abs(x) > 1 else mp.erf(x), bell, lambda x: -2 * x * bell(x))
_unary("erfc", _erfc, lambda x: -bell(x), lambda x: 2 * x * bell(x))
_unary("tanh_slope", _sech2, lambda x: -2 * _tanh(x) * _sech2(x), lambda x: _sech2(x) * (4 - 6 * _sech2(x)))
_unary(
    "logistic_slope",
    logistic_slope,
    lambda x: -logistic_slope(x) * _tanh(x / 2),
    lambda x: logistic_slope(x) * (1 - 6 * logistic_slope(x)),
)
_unary("tanh_shrink", lambda x: x - _tanh(x), lambda x: _tanh(x) ** 2, lambda x: 2 * _tanh(x) * _sech2(x))
_unary("normal_cdf", lambda x: _erfc(-x / mp.sqrt(2)) / 2, density, lambda x: -x * density(x))
_unary("normal_density", density, lambda x: -x * density(x), lambda x: (x * x - 1) * density(x))
_unary(
    "gaussian",
    lambda x: _exp(-x * x),
    lambda x: -2 * x * _exp(-x * x),
    lambda x: (4 * x * x - 2) * _exp(-x * x),
)
_unary("sin", mp.sin, mp.cos, lambda x: -mp.sin(x))
_unary("cos", mp.cos, lambda x: -mp.sin(x), lambda x: -mp.cos(x))
_unary("tan", mp.tan, lambda x: mp.sec(x) ** 2, lambda x: 2 * mp.tan(x) * mp.sec(x) ** 2)
_unary("asin", mp.asin, lambda x: ONE / mp.sqrt((1 - x) * (1 + x)), lambda x: x / mp.sqrt((1 - x) * (1 + x)) ** 3)
_unary("acos", mp.acos, lambda x: -ONE / mp.sqrt((1 - x) * (1 + x)), lambda x: -x / mp.sqrt((1 - x) * (1 + x)) ** 3)
_unary("atan", mp.atan, lambda x: ONE / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2)
_unary("sinh", mp.sinh, mp.cosh, mp.sinh)
_unary("cosh", mp.cosh, mp.sinh, mp.cosh)
_unary("asinh", mp.asinh, lambda x: ONE / mp.sqrt(1 + x * x), lambda x: -x / mp.sqrt(1 + x * x) ** 3)
_unary("acosh", mp.acosh, lambda x: ONE / mp.sqrt((x - 1) * (x + 1)), lambda x: -x / mp.sqrt((x - 1) * (x + 1)) ** 3)
_unary("atanh", mp.atanh, lambda x: ONE / ((1 - x) * (1 + x)), lambda x: 2 * x / ((1 - x) * (1 + x)) ** 2)
_unary("sign", *_step(mp.sign))
_unary("floor", *_step(mp.floor))
_unary("ceil", *_step(mp.ceil))
_unary("round", *_step(mp.nint))


# --- functions of two numbers -------------------------------------------------------------------


def truth(holds: bool) -> Series:
    return constant(ONE if holds else ZERO)


def function_of(name: str, x: Series) -> Series:
    value, slope, curvature = FUNCTIONS[name]
    if not x.moves:
        return constant(value(x.value))
    return x.through(value(x.value), slope(x.value), curvature(x.value))


def absolute(x: Series) -> Series:
    return x if x.goes_above(-x) else -x


def maximum(a: Series, b: Series) -> Series:
    if mp.isnan(a.value) or mp.isnan(b.value):
        return unknown(NAN)
    return a if a.goes_above(b) else b


def minimum(a: Series, b: Series) -> Series:
    return -maximum(-a, -b)


def length(a: Series, b: Series) -> Series:
    return function_of("sqrt", a * a + b * b)


def angle(a: Series, b: Series) -> Series:
    """Return the angle of (b, a): along a line its derivative is (a' b - b' a) / (a² + b²)."""
    squares = a.value * a.value + b.value * b.value
    value = mp.atan2(a.value, b.value)
    if not (a.moves or b.moves):
        return constant(value)
    if not squares:
        return unknown(value)
    growing = 2 * (a.value * a.first + b.value * b.first)
    first = (a.first * b.value - b.first * a.value) / squares
    return Series(value, first, (a.second * b.value - b.second * a.value - first * growing) / squares)


def remainder(a: Series, b: Series) -> Series:
    return a - b * constant(mp.floor(a.value / b.value)) if b.value else unknown(NAN)


def power(a: Series, b: Series) -> Series:
    exponent = b.value

    def lowered(by: int) -> mpf:
        return _real(lambda x: mp.power(x, exponent - by))(a.value)

    if not (a.moves or b.moves) or (a.vanishes and exponent > 0):
        return constant(lowered(0))
    if b.moves:
        return function_of("exp", b * function_of("log", a)) if a.value > 0 else unknown(lowered(0))
    slope = exponent * lowered(1) if exponent else ZERO
    return a.through(lowered(0), slope, exponent * (exponent - 1) * lowered(2) if exponent not in (0, 1) else ZERO)


def times_logarithm(a: Series, b: Series) -> Series:
    if not a.value and not b.value and a.moves:
        return unknown(ZERO)
    return constant(ZERO) if a.vanishes else a * function_of("log", b)
