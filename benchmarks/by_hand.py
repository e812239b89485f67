"""Gradients of dense networks in plain NumPy, as a careful user writes them: a peer to compare the engine with.

It uses no framework and keeps no buffers between calls, but wastes nothing: no gradients of the inputs, the loss from
the logits, and softmax with cross-entropy simplified to `p - t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sigmoid_gradients(
    kernels: Sequence[Array], biases: Sequence[Array], inputs: Array, targets: Array
) -> tuple[Array, Array, list[Array]]:
    """Return loss, outputs and gradients (kernel, bias, kernel, …) of sigmoid layers with mean half squared error."""
    outputs = [inputs]
    for kernel, bias in zip(kernels, biases, strict=True):
        outputs.append(1.0 / (1.0 + np.exp(-(outputs[-1] @ kernel + bias))))
    last = outputs[-1]
    error = last - targets
    loss = 0.5 * np.square(error).sum() / len(inputs)
    delta = error * last * (1.0 - last) / len(inputs)
    gradients: list[Array] = []
    for position in reversed(range(len(kernels))):
        before = outputs[position]
        gradients[:0] = (before.T @ delta, delta.sum(0))
        if position:
            delta = (delta @ kernels[position].T) * before * (1.0 - before)
    return loss, last, gradients


def softmax_gradients(
    kernels: Sequence[Array], biases: Sequence[Array], inputs: Array, targets: Array
) -> tuple[Array, Array, list[Array]]:
    """Return loss, outputs and gradients (kernel, bias, kernel, …) of ReLU layers and a softmax, with cross-entropy."""
    outputs = [inputs]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        z = outputs[-1] @ kernel
        z += bias
        outputs.append(np.maximum(z, 0.0, out=z))
    logits = outputs[-1] @ kernels[-1] + biases[-1]
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    sums = probabilities.sum(axis=1, keepdims=True)
    probabilities /= sums
    loss = -(targets * (logits - np.log(sums))).sum() / len(inputs)
    delta = (probabilities - targets) / len(inputs)
    gradients: list[Array] = []
    for position in reversed(range(len(kernels))):
        before = outputs[position]
        gradients[:0] = (before.T @ delta, delta.sum(0))
        if position:
            delta = delta @ kernels[position].T
            delta *= before > 0.0
    return loss, probabilities, gradients
