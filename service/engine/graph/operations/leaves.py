"""Leaves: inputs and constants. `Graph` makes their nodes."""

from __future__ import annotations

from typing import Any

from service.engine.graph.operations.rows import bind_nothing, declare


def _declare_leaf(name: str, infer: Any, latex: str, numpy: str, *attribute_names: str) -> None:
    rules = {"infer": infer, "bind": bind_nothing, "pullbacks": (), "batch": None}
    declare(name, **rules, latex=latex, numpy=numpy, attribute_names=attribute_names)


_declare_leaf("input", lambda inputs, attributes: attributes[1:], "x", "inputs[name]", "name", "shape", "dtype")
_declare_leaf("constant", lambda inputs, attributes: ((), ""), "c", "np.array(value)", "value")
_declare_leaf("vector", lambda inputs, attributes: ((len(attributes[0]),), ""), "c", "np.array(values)", "values")
