"""The benchmark's gradients as a Tesseract: weights and batch in, the loss out, differentiable in the weights.

The runtime of tesseract-core serves this file, which it finds through the variable TESSERACT_API_PATH. One schema fits
both networks: two layers, and the loss by name. Clients ask for the gradient as Tesseract clients do, by
`vector_jacobian_product` with the cotangent 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel
from tesseract_core.runtime import Array, Differentiable, Float64, ShapeDType

from benchmarks.by_hand import sigmoid_gradients, softmax_gradients


class InputSchema(BaseModel):
    kernel_1: Differentiable[Array[(None, None), Float64]]
    bias_1: Differentiable[Array[(None,), Float64]]
    kernel_2: Differentiable[Array[(None, None), Float64]]
    bias_2: Differentiable[Array[(None,), Float64]]
    inputs: Array[(None, None), Float64]
    targets: Array[(None, None), Float64]
    loss: str


class OutputSchema(BaseModel):
    loss: Differentiable[Float64]


def _compute(inputs: InputSchema) -> tuple[Any, Any, list[Any]]:
    gradients = sigmoid_gradients if inputs.loss == "half_squared_error" else softmax_gradients
    kernels, biases = [inputs.kernel_1, inputs.kernel_2], [inputs.bias_1, inputs.bias_2]
    return gradients(kernels, biases, inputs.inputs, inputs.targets)


def apply(inputs: InputSchema) -> OutputSchema:
    loss, _, _ = _compute(inputs)
    return OutputSchema(loss=loss)


def vector_jacobian_product(
    inputs: InputSchema, vjp_inputs: set[str], vjp_outputs: set[str], cotangent_vector: dict[str, Any]
) -> dict[str, Any]:
    _, _, gradients = _compute(inputs)
    names = ("kernel_1", "bias_1", "kernel_2", "bias_2")
    cotangent = cotangent_vector["loss"]
    return {
        name: np.multiply(gradient, cotangent)
        for name, gradient in zip(names, gradients, strict=True)
        if name in vjp_inputs
    }


def abstract_eval(abstract_inputs: Any) -> dict[str, ShapeDType]:
    return {"loss": ShapeDType(shape=(), dtype="float64")}
