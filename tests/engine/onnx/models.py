"""Builders of small ONNX files, which use the library that owns the format."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
KINDS = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(bool): BOOL}
OPSET = 21

node = helper.make_node
tensor = numpy_helper.from_array


def value(name: str, shape: Sequence[int | str | None] | None = None, kind: int = FLOAT) -> Any:
    """Return the description of a value of the file: its name, element type and shape."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    weights: Mapping[str, Any] | None = None,
    opset: int = OPSET,
    domains: Mapping[str, int] | None = None,
    **more: Any,
) -> bytes:
    """Return the bytes of a file. `weights` are the arrays of the initializers by name."""
    initializers = [tensor(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    versions = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=versions, ir_version=10, **more).SerializeToString()


def single(operation: str, arrays: Sequence[Any], weights: Sequence[Any] = (), outputs: int = 1, opset: int = OPSET,
           **attributes: Any) -> bytes:  # fmt: skip
    """Return the bytes of a file with one node. Its first inputs are those of the file.

    The other inputs, `weights`, are initializers or absent (None).
    """
    names = [f"x{k}" for k in range(len(arrays))]
    given = {f"w{k}": np.asarray(each) for k, each in enumerate(weights) if each is not None}
    own = [f"w{k}" if each is not None else "" for k, each in enumerate(weights)]
    made = [f"y{k}" for k in range(outputs)]
    inputs = [value(name, np.shape(x), KINDS[np.asarray(x).dtype]) for name, x in zip(names, arrays, strict=True)]
    return model([node(operation, [*names, *own], made, **attributes)], inputs, [value(y) for y in made], given, opset)


def perceptron(**more: Any) -> bytes:
    """Return the bytes of a file with two layers and ReLU between them: `(batch, 4)` to `(batch, 3)`."""
    rng = np.random.default_rng(0)
    weights = {
        "fc1.weight": rng.standard_normal((5, 4)).astype(np.float32),
        "fc1.bias": rng.standard_normal(5).astype(np.float32),
        "fc2.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "fc2.bias": rng.standard_normal(3).astype(np.float32),
    }
    nodes = [
        node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], transB=1, name="first"),
        node("Relu", ["h"], ["r"], name="rectified"),
        node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["y"], transB=1, name="second"),
    ]
    return model(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 3])], weights, **more)
