"""Steps at whole numbers: floor, ceil, round and the remainder."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.operations.elementwise import binary, continued_as_constant, unary
from service.engine.graph.operations.rows import zero
from service.engine.graph.operations.signs import always

__all__ = ["ceil", "floor", "mod", "rint"]


def _branch_whole(x: Array) -> Any:
    """Return the branch of each element: the sum of the whole numbers around it, even exactly at a whole number."""
    return np.floor(x) + np.ceil(x)


floor = unary(
    "floor", np.floor, zero, r"\lfloor x \rfloor", branch=_branch_whole, continuation=continued_as_constant(np.floor)
)
ceil = unary(
    "ceil", np.ceil, zero, r"\lceil x \rceil", branch=_branch_whole, continuation=continued_as_constant(np.ceil)
)


rint = unary(
    "round",
    np.rint,
    zero,
    r"\operatorname{round} x",
    branch=lambda x: np.floor(x + 0.5) + np.ceil(x + 0.5),
    continuation=continued_as_constant(np.rint),
)


def _continue_mod(a: Array, b: Array) -> Any:
    remainder = np.mod(a.real, b.real)
    whole = np.rint((a.real - remainder) / b.real)
    return remainder + 1j * (a.imag - b.imag * whole)


mod = binary(
    "mod",
    np.mod,
    lambda g, y, a, b: g,
    lambda g, y, a, b: -(g * rint((a - y) / b)),
    r"a \bmod b",
    singular=always,
    work=24,
    numpy="np.mod(a, b)",
    branch=lambda a, b: np.floor(a / b) + np.ceil(a / b),
    continuation=_continue_mod,
)
"""The remainder of a divided by b, exact; it has the sign of b."""
