"""Questions about arrays: how long, how finite."""

from __future__ import annotations

import math

import numpy as np

from service.engine.graph.ir import Array
from service.engine.graph.quiet import quietly


def is_finite(array: Array) -> bool:
    """Whether every number is finite."""
    if not array.ndim:
        return math.isfinite(array)
    # The sum of squares is one BLAS call; only where it overflows is every element looked at.
    flat = array.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def first_true(mask: Array) -> tuple[int, ...] | None:
    """The place of the first true entry in row-major order, without a list of all of them."""
    flat = mask.reshape(-1)
    position = int(flat.argmax()) if flat.size else 0
    if not flat.size or not flat[position]:
        return None
    return tuple(int(n) for n in np.unravel_index(position, mask.shape))


def norm(values: Array) -> float:
    """The Euclidean norm, without overflow or underflow on the way."""
    return quietly(norm_of_flat, values.reshape(-1))


def norm_of_flat(flat: Array) -> float:
    """`norm` of a vector, where floating-point warnings are already off."""
    if not flat.size:
        return 0.0
    simple = math.sqrt(float(flat @ flat))
    if 1e-15 < simple < 1e15:
        return simple
    largest = float(np.abs(flat).max())
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    scaled = flat.astype(np.float64) / largest
    return largest * math.sqrt(float(scaled @ scaled))
