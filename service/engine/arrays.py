"""The array type of the engine, and questions that all parts ask about arrays: norms, and what is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.float_warnings import without_float_warnings

Array = npt.NDArray[Any]

FEW_COLUMNS = 8
"""Rows of fewer numbers are added column by column: NumPy takes ten times longer for the sums of such short rows."""


def is_finite(array: Array) -> bool:
    """Return whether every number of an array is finite: neither infinite nor NaN."""
    if not array.ndim:
        return math.isfinite(array)
    # The sum of squares is one BLAS call; each element is looked at only where it overflows. np.dot would warn of that.
    flat = array.reshape(-1)
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


def first_true(mask: Array) -> tuple[int, ...] | None:
    """Return the index of the first true entry in row-major order, or None, without a list of all true entries."""
    flat = mask.reshape(-1)
    position = int(flat.argmax()) if flat.size else 0
    if not flat.size or not flat[position]:
        return None
    return tuple(int(n) for n in np.unravel_index(position, mask.shape))


def norm(values: Array) -> float:
    """Return the Euclidean norm of all numbers, without overflow or underflow on the way."""
    return without_float_warnings(norm_of_flat, values.reshape(-1))


def norm_of_flat(flat: Array) -> float:
    """Return the norm of a vector as `norm` does, for callers that have turned NumPy's warnings off already."""
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


def norm_of_tree(parameters: Mapping[str, Mapping[str, Array]]) -> float:
    """Return the Euclidean norm of all arrays together, given by layer and parameter name."""
    return math.hypot(*[norm(array) for arrays in parameters.values() for array in arrays.values()])


def norms_of(rows: Array) -> Array:
    """Return the Euclidean norm of each row, without overflow or underflow on the way."""
    squares = rows * rows
    if 1 < rows.shape[-1] < FEW_COLUMNS:
        norms: Array = np.sqrt(reduce(np.add, _columns(squares)))
    else:
        norms = np.sqrt(squares.sum(-1))
    if not (norms.min(initial=1.0) > 1e-150 and norms.max(initial=1.0) < 1e150):
        rough: Array = np.logical_not((norms > 1e-150) & (norms < 1e150))
        largest = np.abs(rows[rough]).max(-1, keepdims=True)
        scale = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
        norms[rough] = scale[:, 0] * np.sqrt(np.square(rows[rough] / scale).sum(-1))
    return norms


def every(conditions: Array) -> Array:
    """Return for each row of a matrix (rows, conditions) whether all its conditions hold."""
    found: Array = reduce(np.logical_and, _columns(conditions))
    return found


def _columns(rows: Array) -> Array:
    return rows.T if rows.ndim == 2 else np.moveaxis(rows, -1, 0)
