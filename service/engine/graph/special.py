"""Special functions that NumPy lacks, vectorised, to the last few units in the last place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from service.engine.arrays import Array

# (1 + 2x) exp(x²) erfc(x) in Chebyshev polynomials of t = (x - 3.75) / (x + 3.75) for x ≥ 0, the
# expansion of Shepherd and Laframboise, Math. Comp. 36 (1981), 249-253. The coefficients were
# computed here by interpolation at 60 nodes with 60 digits.
_COEFFICIENTS = (
    1.1775789345674017541,
    -0.0045900545806464773309,
    -0.084249133366517915584,
    0.059209939998191890498,
    -0.026658668435305752277,
    0.0090749976707052650939,
    -0.0024131635404176081909,
    0.00049077583652580863229,
    -0.000069169733025012063671,
    4.1390279860730101675e-6,
    7.7403830661984906686e-7,
    -2.1886401049234395661e-7,
    1.0764999465670910377e-8,
    4.5219598112182868979e-9,
    -7.7544002088313511065e-10,
    -6.3180883408866844944e-11,
    2.8687950109306698981e-11,
    1.945586854577734723e-13,
    -9.6546967484334389059e-13,
    3.2525481481487398415e-14,
    3.3478119482868053878e-14,
    -1.8645628804193131015e-15,
    -1.2507950530688647085e-15,
    7.418235256624043463e-17,
    5.0681489047961113168e-17,
)
_CENTRE = 3.75
# erf(x) / x in powers of x², for |x| < 1: 2/√π (-1)^n / (n! (2n + 1)).
_SERIES = tuple(2.0 / math.sqrt(math.pi) * (-1.0) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(19))
# Levels of the continued fraction of tanh, for |x| < 1: the next one changes nothing.
_LEVELS = 9
# Elements worked on at a time, so that the five temporaries of the recurrence stay in the cache.
_BLOCK = 8192


def erfc(x: Array, out: Array) -> Array:
    """Compute the complementary error function of `x`, elementwise into `out` (same shape and dtype)."""
    return _in_blocks(_erfc_block, x, out)


def normal_cdf(x: Array, out: Array) -> Array:
    """Compute the normal distribution function into `out`: erfc(-x/√2)/2, without rounding -x/√2."""
    return _in_blocks(_normal_cdf_block, x, out)


def normal_density(x: Array, out: Array) -> Array:
    """Compute the normal density exp(-x²/2)/√(2π) into `out`."""
    np.multiply(_bell(_limited(x), 0.5), 1.0 / math.sqrt(2.0 * math.pi), out)
    return out


def gaussian(x: Array, out: Array) -> Array:
    """Compute exp(-x²) into `out` with all digits. Rounding x² would cost three digits where x² is 700."""
    out[...] = _bell(_limited(x), 1.0)
    return out


def _in_blocks(function: Callable[[Array], Array], x: Array, out: Array) -> Array:
    if x.ndim == 0 or x.size <= _BLOCK or not (x.flags.c_contiguous and out.flags.c_contiguous):
        out[...] = function(x)
        return out
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        flat_out[start : start + _BLOCK] = function(flat[start : start + _BLOCK])
    return out


def _erfc_block(x: Array) -> Array:
    magnitude = _limited(x)
    positive = _scaled_erfc(magnitude) * _bell(magnitude, 1.0)
    result: Array = np.where(x < 0, 2.0 - positive, np.where(x == 0, np.ones_like(x), positive))
    return result


def _normal_cdf_block(x: Array) -> Array:
    magnitude = _limited(x)
    tail = 0.5 * _scaled_erfc(magnitude * math.sqrt(0.5)) * _bell(magnitude, 0.5)
    result: Array = np.where(x > 0, 1.0 - tail, np.where(x == 0, np.full_like(x, 0.5), tail))
    return result


def _limited(x: Array) -> Array:
    # Beyond 40 both exp(-x²/2) and erfc are 0 in every precision, and infinity would make NaN of a difference.
    return np.minimum(np.abs(x), 40.0)


def _scaled_erfc(magnitude: Array) -> Array:
    """Return exp(x²) erfc(x) for x ≥ 0, which varies so slowly that the rounding of x does not matter."""
    t = (magnitude - _CENTRE) / (magnitude + _CENTRE)
    twice, behind, ahead, following = t + t, np.zeros_like(t), np.zeros_like(t), np.empty_like(t)
    for coefficient in _COEFFICIENTS[:0:-1]:  # Clenshaw's recurrence
        np.multiply(twice, ahead, following)
        np.subtract(following, behind, following)
        np.add(following, coefficient, following)
        behind, ahead, following = ahead, following, behind
    result: Array = (t * ahead - behind + _COEFFICIENTS[0]) / (1.0 + magnitude + magnitude)
    return result


def _bell(magnitude: Array, factor: float) -> Array:
    """Return exp(-factor · x²) for x ≥ 0, from two factors: the square of a multiple of 1/16 is exact."""
    near = np.floor(magnitude * 16.0) / 16.0
    rest = near - magnitude
    rest *= near + magnitude
    rest *= factor
    near *= near
    near *= -factor
    result: Array = np.exp(near) * np.exp(rest)
    return result


def tanh_shrink(x: Array, out: Array) -> Array:
    """Compute x - tanh x into `out`. For small x both are nearly equal, so a continued fraction is used.

    Lambert's fraction: tanh x = x / (1 + f) with f = x² / (3 + x² / (5 + …)), hence x - tanh x = x f / (1 + f), and
    nothing is subtracted.
    """
    np.tanh(x, out)
    np.subtract(x, out, out)
    small = np.abs(x) < 1.0
    inside = x[small]
    squares = inside * inside
    fraction = np.full_like(squares, 2.0 * _LEVELS + 1.0)
    for level in range(_LEVELS - 1, 0, -1):
        fraction = squares / fraction + (2.0 * level + 1.0)
    fraction = squares / fraction
    out[small] = inside * fraction / (1.0 + fraction)
    return out


def erf(x: Array, out: Array) -> Array:
    """Compute the error function of `x`, elementwise into `out`: 1 - erfc(x) would lose the digits of small x."""
    erfc(np.abs(x), out)
    np.subtract(1.0, out, out)
    np.copysign(out, x, out)
    small = np.abs(x) < 1.0
    inside = x[small]
    squares = inside * inside
    series = np.full_like(squares, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series = series * squares + coefficient
    out[small] = inside * series
    return out


def xlogy(x: Array, y: Array, out: Array) -> Array:
    """Compute x · ln y, elementwise into `out`, and 0 wherever x is 0."""
    np.log(y, out)
    np.multiply(x, out, out)
    np.copyto(out, 0.0, where=x == 0.0)
    return out
