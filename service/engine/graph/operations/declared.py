"""Values under another name or with another derivative: mark, stop_gradient and with_slope. They compute nothing."""

from __future__ import annotations

from service.engine.graph.ir import Node
from service.engine.graph.operations.elementwise import batch_elementwise, infer_elementwise
from service.engine.graph.operations.rows import declare_view, disconnected

__all__ = ["mark", "stop_gradient", "with_slope"]


def stop_gradient(x: Node) -> Node:
    """Return x as a constant: no gradient flows through it."""
    return x.graph.apply("stop_gradient", x)


declare_view(
    "stop_gradient",
    infer=infer_elementwise,
    pullbacks=(disconnected,),
    batch=batch_elementwise,
    latex="x",
    keeps_order=True,
    continuation=lambda inputs, attributes: inputs[0].real,
)


def mark(x: Node, name: str) -> Node:
    """Return x under a name: the same value, but a separate node for each name."""
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
    """Return `value`, and declare that its derivative with respect to `x` is `slope`.

    It is for functions of one variable whose derivative by the chain rule is wrong at a kink or loses digits, and for
    the surrogate gradients of step functions. The slope is a function of `x` in the graph, so second derivatives are
    those of the declared slope. It is computed only where a gradient needs it.
    """
    return x.graph.apply("with_slope", value, x, slope)


def _taken(value: Node, x: Node) -> Node | bool:
    """Return the mask of where `value` takes the value of `x`: True everywhere, False nowhere. Selections, such as max,
    tell where."""
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
    """Return whether a slope is 0 wherever a comparison fails."""
    name = slope.operation.name
    if name == "multiply":
        return any(map(_is_switch, slope.inputs))
    return name in ("greater", "greater_equal") or (name == "divide" and _is_switch(slope.inputs[0]))


def _selects_value(position: int, y: Node) -> Node | None:
    """Return the mask of the selection that the value of `y` makes, if its declared slope has one too."""
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
