"""The table of ONNX operators: what each must know in advance, its result type, and the function that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.engine.onnx.file import Step

SAME = "same"
"""The mark of results that have the element type of the first input."""
FLOAT, INT, BOOL = "float32", "int64", "bool"


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """One ONNX operator, from one opset version on."""

    name: str
    build: Callable[..., Any]
    """The function `(call, *inputs)` that returns a node, a value, or a tuple of these. Absent optional inputs are
    None."""
    domain: str = ""
    since: int = 1
    result: str = SAME
    """The element type of its results, unless these have one of their own."""
    static: tuple[int, ...] | None = ()
    """The positions of inputs whose values, such as shapes, must be known before the graph runs. None means all."""
    shape_only: bool = False
    """True if only the shapes of its inputs matter."""
    integers: bool = False
    """True if its results are also right for integers that are computed when the graph runs."""
    sequences: bool = False
    """True if it takes sequences of tensors."""
    fold: Callable[..., Any] | None = None
    """The NumPy function that computes its result from known arrays."""

    def is_static(self, position: int) -> bool:
        """Return whether the input at a position must be known before the graph runs."""
        return self.static is None or position in self.static


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(*names: str, **details: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that registers a function as the builder of the operators of these names."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        """Register a builder under all names and return it."""
        for name in names:
            made = Operator(name=name, build=build, **details)
            variants = OPERATORS.setdefault((made.domain, name), [])
            variants.append(made)
            variants.sort(key=lambda each: each.since)
        return build

    return register


def operator_of(step: Step) -> Operator | None:
    """Return the operator of a node at the version that its file imports, or None if it is not declared."""
    found = None
    for variant in OPERATORS.get((step.domain, step.operation), ()):
        if variant.since <= step.version:
            found = variant
    return found
