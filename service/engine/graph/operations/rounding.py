"""Steps at whole numbers: floor, ceil, round and the remainder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Node
from service.engine.graph.operations.elementwise import binary, continued_as_constant, unary
from service.engine.graph.operations.signs import always
from service.engine.graph.operations.table import zero

__all__ = ["ceil", "floor", "mod", "rint"]


def _branch_whole(inputs: Sequence[Array], _: Attributes) -> Any:
    """Return the sum of the whole numbers below and above: even exactly at a whole number."""
    return np.floor(inputs[0]) + np.ceil(inputs[0])


floor = unary(
    "floor",
    np.floor,
    zero,
    r"\lfloor x \rfloor",
    branch=_branch_whole,
    continuation=continued_as_constant(np.floor),
)
ceil = unary(
    "ceil", np.ceil, zero, r"\lceil x \rceil", branch=_branch_whole, continuation=continued_as_constant(np.ceil)
)


def _branch_half(inputs: Sequence[Array], _: Attributes) -> Any:
    """Return the branch as for whole numbers, where the jumps are at halves of odd numbers."""
    return np.floor(inputs[0] + 0.5) + np.ceil(inputs[0] + 0.5)


rint = unary(
    "round",
    np.rint,
    zero,
    r"\operatorname{round} x",
    branch=_branch_half,
    continuation=continued_as_constant(np.rint),
)


def _pull_divisor(g: Node, y: Node, a: Node, b: Node) -> Node:
    # Rounded, for what is a whole number is not always one after the division.
    return -(g * rint((a - y) / b))


def _branch_quotient(inputs: Sequence[Array], _: Attributes) -> Any:
    """Return the branch of the quotient, which jumps at whole numbers."""
    a, b = inputs
    return np.floor(a / b) + np.ceil(a / b)


def _continue_mod(inputs: Sequence[Array], _: Attributes) -> Any:
    a, b = inputs
    remainder = np.mod(a.real, b.real)
    whole = np.rint((a.real - remainder) / b.real)
    return remainder + 1j * (a.imag - b.imag * whole)


mod = binary(
    "mod",
    np.mod,
    lambda g, y, a, b: g,
    _pull_divisor,
    r"a \bmod b",
    singular=always,
    work=24,
    numpy="np.mod(a, b)",
    branch=_branch_quotient,
    continuation=_continue_mod,
)
"""The remainder of a divided by b, exact; it has the sign of b."""
