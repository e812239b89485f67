"""Values that are computed from nothing: inputs and constants. `Graph` makes their nodes."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.graph.ir import Attributes, Node, Shape
from service.engine.graph.operations.table import bind_nothing, declare


def _infer_input(_: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    _name, shape, dtype = attributes
    return shape, dtype


declare(
    "input",
    infer=_infer_input,
    bind=bind_nothing,
    pullbacks=(),
    batch=None,
    latex="x",
    numpy="inputs[name]",
    attribute_names=("name", "shape", "dtype"),
)
declare(
    "constant",
    infer=lambda inputs, attributes: ((), ""),
    bind=bind_nothing,
    pullbacks=(),
    batch=None,
    latex="c",
    numpy="np.array(value)",
    attribute_names=("value",),
)
declare(
    "vector",
    infer=lambda inputs, attributes: ((len(attributes[0]),), ""),
    bind=bind_nothing,
    pullbacks=(),
    batch=None,
    latex="c",
    numpy="np.array(values)",
    attribute_names=("values",),
)
