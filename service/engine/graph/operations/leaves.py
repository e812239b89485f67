"""Leaves: inputs and constants. `Graph` makes their nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.engine.graph.ir import Attributes, Node, Shape
from service.engine.graph.operations.table import bind_nothing, declare


def _infer_input(_: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    _name, shape, dtype = attributes
    return shape, dtype


def _declare_leaf(name: str, infer: Any, latex: str, numpy: str, *attribute_names: str) -> None:
    rules = {"infer": infer, "bind": bind_nothing, "pullbacks": (), "batch": None}
    declare(name, **rules, latex=latex, numpy=numpy, attribute_names=attribute_names)


_declare_leaf("input", _infer_input, "x", "inputs[name]", "name", "shape", "dtype")
_declare_leaf("constant", lambda inputs, attributes: ((), ""), "c", "np.array(value)", "value")
_declare_leaf("vector", lambda inputs, attributes: ((len(attributes[0]),), ""), "c", "np.array(values)", "values")
