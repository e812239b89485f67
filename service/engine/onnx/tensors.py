"""Conversion of the tensors of an ONNX file to NumPy arrays.

The helpers of the package `onnx` are not used, because they follow references to other files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Shape
from service.engine.onnx.refusal import Refusal

MOST_AXES = 32
MOST_LENGTH = 2**31
"""An axis must be shorter than this."""
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
"""The NumPy names of the element types that are read, by their numbers in the format."""
OTHERS = {
    0: "no type",
    8: "strings",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
}
FIELDS = {"float32": "float_data", "float64": "double_data", "int64": "int64_data", "uint32": "uint64_data"}
"""The field of a `TensorProto` that holds typed data of an element type; `int32_data` holds all other types."""
EXTERNAL = 1


def dtype_of(number: int) -> str:
    """Return the NumPy name of an element type of the format.

    Raise `Refusal` for a type without an exact counterpart.
    """
    name = DTYPES.get(number)
    if name is None:
        raise Refusal(f"elements of type {OTHERS.get(number, number)} are not read")
    return name


def is_float(dtype: str) -> bool:
    """Return whether a NumPy name is that of a type of floats."""
    return dtype.startswith("float")


def array_of(tensor: Any) -> Array:
    """Return the values of a `TensorProto` as an array of its shape.

    Raises `Refusal` where the values lie in another file, where the dimensions do not fit the data, and for element
    types that are not read.
    """
    name = tensor.name[:100]
    if tensor.data_location == EXTERNAL or tensor.external_data:
        raise Refusal(
            f"tensor {name!r} has its values in another file, which is not read; save the model as one file "
            "(external_data=False)"
        )
    if tensor.HasField("segment"):
        raise Refusal(f"tensor {name!r} is a segment of a larger one, which is not read")
    dtype = dtype_of(tensor.data_type)
    shape = tuple(tensor.dims)
    if len(shape) > MOST_AXES or any(not 0 <= n < MOST_LENGTH for n in shape):
        raise Refusal(f"tensor {name!r} has dimensions {list(shape)[:8]}, which no array has")
    count = math.prod(shape)
    item = np.dtype(dtype).newbyteorder("<")
    if tensor.raw_data:
        held = len(tensor.raw_data) / item.itemsize
        if held == count:
            return np.frombuffer(tensor.raw_data, item).astype(dtype).reshape(shape)
    else:
        field = getattr(tensor, FIELDS.get(dtype, "uint64_data" if dtype == "uint64" else "int32_data"))
        held = len(field)
        if held == count:
            return _from_field(field, dtype).reshape(shape)
    raise Refusal(f"tensor {name!r} has dimensions {_shown(shape)}, but data for {held:g} values of {dtype}")


def _from_field(field: Any, dtype: str) -> Array:
    """Return the values of a typed field of a `TensorProto` as a flat array."""
    if dtype == "float16":
        return np.array(field, np.uint16).view(np.float16)
    return np.array(field).astype(dtype) if len(field) else np.zeros(0, dtype)


def _shown(shape: Shape) -> str:
    """Return a shape as text for a message."""
    return str(list(shape[:8])) + (" …" if len(shape) > 8 else "")
