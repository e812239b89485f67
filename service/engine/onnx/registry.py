"""The one table of ONNX operators: what each needs to know, what it gives, and how it becomes graph operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.engine.onnx.file import Step

SAME = "same"
"""The result has the element type of the first input."""
FLOAT, INT, BOOL = "float32", "int64", "bool"


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """One operator from one opset version on."""

    name: str
    build: Callable[..., Any]
    """`(call, *inputs)` to a node, a value, or a tuple of these; absent optional inputs are None."""
    domain: str = ""
    since: int = 1
    result: str = SAME
    """The element type of its results, unless they say so themselves."""
    static: tuple[int, ...] | None = ()
    """Positions of inputs whose values must be known before anything runs, as shapes are; None: all."""
    shape_only: bool = False
    """Only the shapes of its inputs count."""
    integers: bool = False
    """It is right for integers that are computed at run time too."""
    sequences: bool = False
    """It takes sequences of tensors."""
    fold: Callable[..., Any] | None = None
    """The NumPy function that computes it from known arrays."""

    def is_static(self, position: int) -> bool:
        return self.static is None or position in self.static


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(*names: str, **details: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function below builds the operators of these names."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            made = Operator(name=name, build=build, **details)
            variants = OPERATORS.setdefault((made.domain, name), [])
            variants.append(made)
            variants.sort(key=lambda each: each.since)
        return build

    return register


def operator_of(step: Step) -> Operator | None:
    """The operator of a node at the version that its file imports; None where there is none."""
    found = None
    for variant in OPERATORS.get((step.domain, step.operation), ()):
        if variant.since <= step.version:
            found = variant
    return found
