"""The sign of a value, as far as its last operations determine it.

A derivative may be infinite where a value vanishes.
"""

from __future__ import annotations

from collections.abc import Callable

from service.engine.graph.ir import Node

LAST = 5
"""The number of operations before a value that are searched for its sign."""
NOT_NEGATIVE = frozenset(
    ("square", "absolute", "sqrt", "exp", "sigmoid", "softplus", "hypot", "greater", "greater_equal")
)


def not_negative(x: Node, depth: int = LAST) -> bool:
    """Return whether a value cannot be below 0, as far as its last operations tell."""
    name = x.operation.name
    if x.value is not None:
        return x.value >= 0.0
    if name in NOT_NEGATIVE or not depth:
        return name in NOT_NEGATIVE
    if name == "multiply" and x.inputs[0] is x.inputs[1]:
        return True
    known = (not_negative(part, depth - 1) for part in x.operands)
    if name in ("add", "multiply", "divide"):
        return all(known)
    return name in ("sum", "maximum", "broadcast", "reshape", "mark") and any(known)


def positive(x: Node, depth: int = LAST) -> bool:
    """Return whether a value cannot be 0 or below, not even by rounding, as far as its last operations tell."""
    name = x.operation.name
    if x.value is not None:
        return x.value > 0.0
    if not depth:
        return False
    if name == "root_mean_square":
        return bool(x.attributes[-1] > 0.0)  # epsilon
    if name == "add":
        a, b = x.inputs
        return (positive(a, depth - 1) and not_negative(b)) or (positive(b, depth - 1) and not_negative(a))
    return name in ("maximum", "broadcast", "reshape", "sqrt", "mark") and any(
        positive(part, depth - 1) for part in x.operands
    )


def always(node: Node) -> bool:
    """The `singular` of an operation that may be infinitely steep for any inputs."""
    return True


def may_vanish(place: int) -> Callable[[Node], bool]:
    """Return the `singular` of an operation that is infinitely steep only where its input at this place is 0."""

    def singular(node: Node) -> bool:
        x = node.inputs[place]
        return not (positive(x) or (x.value is not None and x.value != 0.0))

    return singular
