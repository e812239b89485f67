"""Values under another name or with another derivative: mark, stop_gradient and with_slope. They compute nothing."""

from __future__ import annotations

import numpy as np

from service.engine.graph.ir import Node
from service.engine.graph.operations.elementwise import batch_elementwise, continued_as_constant, infer_elementwise
from service.engine.graph.operations.table import declare_view, disconnected

__all__ = ["mark", "stop_gradient", "with_slope"]


def stop_gradient(x: Node) -> Node:
    """x as a number that does not change: no gradient flows through it."""
    return x.graph.apply("stop_gradient", x)


declare_view(
    "stop_gradient",
    infer=infer_elementwise,
    pullbacks=(disconnected,),
    batch=batch_elementwise,
    latex="x",
    keeps_order=True,
    continuation=continued_as_constant(np.positive),
)


def mark(x: Node, name: str) -> Node:
    """x under a name: the same value, but a node of its own wherever the name is another."""
    return x.graph.apply("mark", x, attributes=(name,))


declare_view(
    "mark",
    infer=infer_elementwise,
    pullbacks=(lambda g, y, x: g,),
    batch=batch_elementwise,
    latex="x",
    keeps_order=True,
    attribute_names=("name",),
)


def with_slope(x: Node, value: Node, slope: Node) -> Node:
    """`value`, whose derivative with respect to `x` is declared to be `slope`.

    For functions of one variable whose derivative the chain rule would get wrong at a kink, or
    right but with lost digits, and for the surrogate gradients of step functions. The slope is a
    function of `x` in the graph, so second derivatives are those of the declared slope. It is
    computed only where a gradient asks for it.
    """
    return x.graph.apply("with_slope", value, x, slope)


def _taken(value: Node, x: Node) -> Node | bool:
    """Where `value` takes part of `x`, as far as selections tell: True everywhere, False nowhere."""
    if value is x:
        return True
    parts = [(position, _taken(part, x)) for position, part in enumerate(value.operands)]
    parts = [(position, taken) for position, taken in parts if taken is not False]
    if len(parts) != 1:
        return bool(parts)
    ((position, taken),) = parts
    mask = None if value.operation.selects is None else value.operation.selects(position, value)
    if mask is None:
        return taken
    return mask if taken is True else mask * taken


def _is_switch(slope: Node) -> bool:
    """Whether a slope is 0 wherever a comparison fails."""
    name = slope.operation.name
    if name == "multiply":
        return any(map(_is_switch, slope.inputs))
    return name in ("greater", "greater_equal") or (name == "divide" and _is_switch(slope.inputs[0]))


def _selects_value(position: int, y: Node) -> Node | None:
    """A declared slope is that of a selection where its value is one, and where it says so itself."""
    value, x, slope = y.inputs
    taken = _taken(value, x) if position == 1 and _is_switch(slope) else None
    return taken if isinstance(taken, Node) else None


declare_view(
    "with_slope",
    infer=infer_elementwise,
    pullbacks=(disconnected, lambda g, y, value, x, slope: g * slope, disconnected),
    batch=batch_elementwise,
    latex="f(x)",
    keeps_order=True,
    selects=_selects_value,
)
